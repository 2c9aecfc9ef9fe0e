//! A backup being received.

use super::{Connection, Error};
use crate::backend::Backend;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

/// Chunks of a copy stream. Read it to its end before using the connection again.
#[derive(Debug)]
pub struct CopyStream<'a, S> {
    connection: &'a mut Connection<S>,
    done: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> CopyStream<'a, S> {
    pub(super) const fn new(connection: &'a mut Connection<S>) -> Self {
        CopyStream {
            connection,
            done: false,
        }
    }

    /// The next chunk, or `None` behind the last one of a copy that is complete. Cancel-safe
    /// unless the copy fails.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.done {
            let mut message = self.connection.message().await?;
            match message.decode()? {
                Backend::CopyData(_) => {
                    let at = message.bytes.len().min(super::HEAD_SIZE);
                    return Ok(Some(message.bytes.split_off(at).freeze()));
                }
                Backend::CopyDone | Backend::CommandComplete(_) | Backend::NoticeResponse(_) => {}
                Backend::ReadyForQuery => self.done = true,
                Backend::ErrorResponse(report) => {
                    self.done = true;
                    return Err(self.connection.failed(report).await);
                }
                _ => return Err(Error::Unexpected("copy data")),
            }
        }
        Ok(None)
    }

    /// All that is left, at most `limit` bytes.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > limit.saturating_sub(all.len()) {
                return Err(Error::TooLarge);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}
