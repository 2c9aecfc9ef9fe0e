//! Where a handler writes a backup.

use super::wire;
use crate::backend;
use crate::error::Error;
use crate::frame::{self, HEAD_SIZE};
use bytes::{BufMut, BytesMut};
use std::io;
use tokio::io::AsyncWrite;

/// A copy stream to the client. Bytes are gathered into chunks; each full chunk is written
/// before more are taken, so a slow client slows the handler.
pub struct CopyOut<'a> {
    writer: &'a mut (dyn AsyncWrite + Send + Unpin),
    output: &'a mut BytesMut,
    chunk: usize,
    open: Option<usize>,
    begun: bool,
    bytes: u64,
    broken: Option<io::Error>,
}

/// Smallest chunk, in bytes.
const MIN_CHUNK: usize = 1 << 10;

impl<'a> CopyOut<'a> {
    pub(super) fn new(
        writer: &'a mut (dyn AsyncWrite + Send + Unpin),
        output: &'a mut BytesMut,
        chunk: usize,
    ) -> Self {
        let chunk = chunk.max(MIN_CHUNK);
        CopyOut {
            writer,
            output,
            chunk,
            open: None,
            begun: false,
            bytes: 0,
            broken: None,
        }
    }

    /// Bytes taken so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True once the client was told that a copy follows.
    pub const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Tells the client that a copy follows. The first [`CopyOut::write`] does it, too.
    pub async fn begin(&mut self) -> Result<(), Error> {
        if !self.begun {
            self.begun = true;
            backend::copy_out_response(self.output);
            self.send().await?;
        }
        Ok(())
    }

    /// Appends bytes. Fails with [`Error::Disconnected`] if the connection broke.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.begin().await?;
        let mut rest = data;
        while !rest.is_empty() {
            let at = match self.open {
                Some(at) => at,
                None => *self.open.insert(frame::open(self.output, b'd')),
            };
            let held = self
                .output
                .len()
                .saturating_sub(at)
                .saturating_sub(HEAD_SIZE);
            let room = self.chunk.saturating_sub(held);
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.output.put_slice(now);
            self.bytes = self
                .bytes
                .saturating_add(u64::try_from(now.len()).unwrap_or(0));
            rest = later;
            if now.len() == room {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Sends what was gathered, without waiting for a full chunk.
    pub async fn flush(&mut self) -> Result<(), Error> {
        if let Some(at) = self.open.take() {
            frame::close(self.output, at);
        }
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Error> {
        wire::send(&mut self.writer, self.output)
            .await
            .map_err(|error| {
                let text = error.to_string();
                self.broken = Some(error);
                Error::Disconnected(text)
            })
    }

    /// Ends the copy as complete.
    pub(super) async fn complete(&mut self) -> Result<(), Error> {
        self.begin().await?;
        if let Some(at) = self.open.take() {
            frame::close(self.output, at);
        }
        backend::copy_done(self.output);
        Ok(())
    }

    /// Ends the copy as failed: whole chunks stay, the one being gathered as far as it got.
    /// Returns why the connection broke, if it did.
    pub(super) fn abort(&mut self) -> Option<io::Error> {
        if let Some(at) = self.open.take() {
            frame::close(self.output, at);
        }
        self.broken.take()
    }
}
