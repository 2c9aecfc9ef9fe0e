//! The two halves of a connection with their buffers.

use super::{Config, Failure};
use crate::frame::{self, HEAD_SIZE, Head};
use crate::frontend::{self, Frontend};
use bytes::{Buf, BytesMut};
use std::future::Future;
use std::io;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

/// Room made for each read, in bytes.
const READ_SIZE: usize = 4 << 10;
/// Largest buffer an idle connection keeps, in bytes.
const RETAINED: usize = 16 << 10;

/// The receiving half.
pub(super) struct Input<S> {
    half: ReadHalf<S>,
    pub(super) buf: BytesMut,
    pub(super) eof: bool,
}

/// A connection.
pub(super) struct Wire<S> {
    pub(super) input: Input<S>,
    pub(super) writer: WriteHalf<S>,
    pub(super) output: BytesMut,
}

/// A whole message, taken off the input.
pub(super) struct Message {
    pub(super) tag: u8,
    bytes: BytesMut,
}

/// Why work for a peer was given up.
pub(super) enum Interrupt {
    /// The server stops.
    Stopping,
    /// The connection broke.
    Broken(io::Error),
    /// The peer closed its sending side and the grace is over.
    Abandoned,
}

impl Message {
    pub(super) fn decode(&self) -> Result<Frontend<'_>, frame::Error> {
        Frontend::decode(self.tag, self.bytes.get(HEAD_SIZE..).unwrap_or_default())
    }
}

impl<S: AsyncRead> Input<S> {
    /// Reads at least one byte, unless the peer is done.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        self.buf.reserve(READ_SIZE);
        if self.half.read_buf(&mut self.buf).await? == 0 {
            self.eof = true;
        }
        Ok(())
    }

    /// Head of the next message, if it is one that is served. Its body may still be on its way.
    pub(super) fn peek(&self, limit: usize) -> Result<Option<Head>, frame::Error> {
        if let Some(tag) = self.buf.first()
            && frontend::name(*tag).is_none()
        {
            return Err(frame::Error::Tag(*tag));
        }
        frame::peek(&self.buf, limit)
    }

    /// Head and body of the next message, if it is complete.
    pub(super) fn split(&self, limit: usize) -> Result<Option<(Head, &[u8])>, frame::Error> {
        let head = self.peek(limit)?;
        Ok(head.and_then(|head| self.buf.get(HEAD_SIZE..head.total).map(|body| (head, body))))
    }

    /// Takes the next message off the buffer, if it is complete.
    pub(super) fn take(&mut self, limit: usize) -> Result<Option<Message>, frame::Error> {
        let complete = self
            .peek(limit)?
            .filter(|head| head.total <= self.buf.len());
        Ok(complete.map(|head| Message {
            tag: head.tag,
            bytes: self.buf.split_to(head.total),
        }))
    }

    /// Drops `n` bytes of the buffer.
    pub(super) fn consume(&mut self, n: usize) {
        self.buf.advance(n.min(self.buf.len()));
    }

    /// Does `work`, reading ahead and watching the peer and the server meanwhile.
    pub(super) async fn attend<F: Future>(
        &mut self,
        work: F,
        config: &Config,
        stop: &CancellationToken,
    ) -> Result<F::Output, Interrupt> {
        let mut work = pin!(work);
        let mut stopping = pin!(stop.cancelled());
        let mut grace = pin!(tokio::time::sleep(config.half_close_grace));
        let mut closed = self.eof;
        loop {
            let room = !closed && self.buf.len() < config.read_ahead;
            tokio::select! {
                biased;
                output = &mut work => return Ok(output),
                () = &mut stopping => return Err(Interrupt::Stopping),
                () = &mut grace, if closed => return Err(Interrupt::Abandoned),
                read = self.fill(), if room => {
                    read.map_err(Interrupt::Broken)?;
                    if self.eof {
                        closed = true;
                        grace.as_mut().reset(
                            tokio::time::Instant::now() + config.half_close_grace,
                        );
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(super) fn new(io: S, buf: BytesMut) -> Self {
        let (half, writer) = tokio::io::split(io);
        Wire {
            input: Input {
                half,
                buf,
                eof: false,
            },
            writer,
            output: BytesMut::new(),
        }
    }

    /// Writes all output.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        send(&mut self.writer, &mut self.output).await
    }

    /// The next message, or `None` if the peer is done.
    pub(super) async fn message(&mut self, limit: usize) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.input.take(limit)? {
                return Ok(Some(message));
            }
            if self.input.eof {
                return Ok(None);
            }
            self.input.fill().await?;
        }
    }

    /// Gives large buffers back before a wait for the peer.
    pub(super) fn slim(&mut self) {
        slim(&mut self.output);
        slim(&mut self.input.buf);
    }
}

/// Frees an empty buffer that is large.
pub(super) fn slim(buf: &mut BytesMut) {
    if buf.is_empty() && buf.capacity() > RETAINED {
        *buf = BytesMut::new();
    }
}

/// Writes all of `output`. If dropped, `output` keeps what was not written.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    output: &mut BytesMut,
) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    writer.write_all_buf(output).await?;
    writer.flush().await
}
