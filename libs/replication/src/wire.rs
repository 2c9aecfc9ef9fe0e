//! Messages over a byte stream, both ways at once.
//!
//! [`Wire::next`] writes what is queued while it waits for input, so neither side can block the
//! other, and keeps all state in `self`, so dropping its future loses nothing.

use crate::error::{Error, ServerError};
use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Longest message accepted from a server, in bytes. WAL arrives in messages of 128 KiB, base
/// backups in 32 KiB.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Room made for each read from the socket, in bytes.
const READ_CHUNK: usize = 128 << 10;

/// CopyBothResponse, which the message decoder does not know.
const COPY_BOTH_TAG: u8 = b'W';

/// A socket, plain or encrypted.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What the server sent.
pub(crate) enum Incoming {
    /// Any message of the ordinary protocol.
    Message(Message),
    /// The stream is open in both directions.
    CopyBoth,
}

/// A connection that speaks in messages.
pub(crate) struct Wire {
    io: Box<dyn Transport>,
    inbox: BytesMut,
    outbox: BytesMut,
    unflushed: bool,
}

impl Wire {
    pub(crate) fn new(io: Box<dyn Transport>) -> Wire {
        Wire {
            io,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            unflushed: false,
        }
    }

    /// Where to append messages for the server; they go out with the next `next` or `flush`.
    pub(crate) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// True while something waits to be written.
    pub(crate) fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// True if a whole message is here already.
    pub(crate) fn has_message(&self) -> bool {
        matches!(self.frame_length(), Ok(Some(n)) if self.inbox.len() >= n)
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Incoming, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Writes everything queued. Cancel safe.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.outbox.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbox))?;
            if n == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
            self.outbox.advance(n.min(self.outbox.len()));
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Error>> {
        // A failed write is reported only when nothing is left to read: a server that gives up
        // says why before it closes.
        let sent = match self.poll_send(cx) {
            Poll::Ready(r) => r,
            Poll::Pending => Ok(()),
        };
        loop {
            if let Some(m) = self.take()? {
                return Poll::Ready(Ok(m));
            }
            self.inbox.reserve(READ_CHUNK);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.inbox) {
                Poll::Pending => {
                    sent?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                Poll::Ready(Ok(0)) => {
                    sent?;
                    return Poll::Ready(Err(Error::Closed));
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Length of the frame at the head of the inbox, tag included.
    fn frame_length(&self) -> Result<Option<usize>, Error> {
        let Some(header) = Header::parse(&self.inbox).map_err(violation)? else {
            return Ok(None);
        };
        let length = usize::try_from(header.len())
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        if length > MAX_MESSAGE {
            return Err(Error::MessageTooLarge {
                size: length as u64,
                limit: MAX_MESSAGE as u64,
            });
        }
        Ok(Some(length))
    }

    fn take(&mut self) -> Result<Option<Incoming>, Error> {
        let Some(length) = self.frame_length()? else {
            return Ok(None);
        };
        if self.inbox.len() < length {
            return Ok(None);
        }
        if self.inbox.first() == Some(&COPY_BOTH_TAG) {
            self.inbox.advance(length);
            return Ok(Some(Incoming::CopyBoth));
        }
        match Message::parse(&mut self.inbox).map_err(violation)? {
            Some(m) => Ok(Some(Incoming::Message(m))),
            None => Err(Error::Protocol("incomplete frame".into())),
        }
    }
}

/// A malformed message.
pub(crate) fn violation(e: std::io::Error) -> Error {
    Error::Protocol(e.to_string())
}

/// Splits the tag byte off the data of a CopyData message.
pub(crate) fn split_tag(mut data: Bytes) -> Result<(u8, Bytes), Error> {
    data.try_get_u8()
        .map(|tag| (tag, data))
        .map_err(|_| Error::Protocol("empty CopyData".into()))
}

/// The fields of an ErrorResponse or NoticeResponse. Unknown fields are skipped.
pub(crate) fn server_error(mut fields: ErrorFields<'_>) -> Result<ServerError, Error> {
    let mut e = ServerError::default();
    let mut localized = String::new();
    while let Some(f) = fields.next().map_err(violation)? {
        let text = String::from_utf8_lossy(f.value_bytes()).into_owned();
        match f.type_() {
            b'S' => localized = text,
            b'V' => e.severity = text,
            b'C' => e.sqlstate = text,
            b'M' => e.message = text,
            b'D' => e.detail = Some(text),
            b'H' => e.hint = Some(text),
            b'R' => e.routine = text,
            _ => {}
        }
    }
    if e.severity.is_empty() {
        e.severity = localized;
    }
    Ok(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_dropped_next_loses_nothing() {
        runtime().block_on(async {
            let (ours, mut theirs) = duplex(64);
            let mut wire = Wire::new(Box::new(ours));
            let frame = b"d\x00\x00\x00\x07abc";
            for (i, byte) in frame.iter().enumerate() {
                theirs.write_all(&[*byte]).await.unwrap();
                if i + 1 < frame.len() {
                    let cut =
                        tokio::time::timeout(std::time::Duration::from_millis(1), wire.next())
                            .await;
                    assert!(cut.is_err(), "frame complete after {} bytes", i + 1);
                }
            }
            let Ok(Incoming::Message(Message::CopyData(b))) = wire.next().await else {
                panic!("CopyData expected")
            };
            assert_eq!(b.data(), b"abc");
        });
    }

    #[test]
    fn reading_goes_on_while_the_peer_does_not_read() {
        runtime().block_on(async {
            let (ours, mut theirs) = duplex(16);
            let mut wire = Wire::new(Box::new(ours));
            wire.outbox().extend_from_slice(&[7; 1000]);
            theirs.write_all(b"c\x00\x00\x00\x04").await.unwrap();
            assert!(matches!(
                wire.next().await,
                Ok(Incoming::Message(Message::CopyDone))
            ));
            assert!(wire.is_sending());
            let (sent, got) = tokio::join!(wire.flush(), async {
                let mut all = vec![0; 1000];
                theirs.read_exact(&mut all).await.unwrap();
                all
            });
            sent.unwrap();
            assert_eq!(got, vec![7; 1000]);
        });
    }

    #[test]
    fn an_oversized_or_negative_length_is_refused_before_allocation() {
        for (length, too_large) in [(0x7FFF_FFFFu32, true), (0xFFFF_FFFF, false), (3, false)] {
            runtime().block_on(async {
                let (ours, mut theirs) = duplex(64);
                let mut wire = Wire::new(Box::new(ours));
                theirs.write_all(b"d").await.unwrap();
                theirs.write_all(&length.to_be_bytes()).await.unwrap();
                match wire.next().await {
                    Err(Error::MessageTooLarge { .. }) => assert!(too_large),
                    Err(Error::Protocol(_)) => assert!(!too_large),
                    _ => panic!("length {length} accepted"),
                }
            });
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_end_in_an_error_not_a_panic(bytes: Vec<u8>) {
            runtime().block_on(async {
                let (ours, mut theirs) = duplex(1 << 16);
                let mut wire = Wire::new(Box::new(ours));
                theirs.write_all(&bytes).await.unwrap();
                drop(theirs);
                for _ in 0..=bytes.len() {
                    match wire.next().await {
                        Err(_) => return,
                        Ok(Incoming::Message(Message::ErrorResponse(b))) => drop(server_error(b.fields())),
                        Ok(_) => {}
                    }
                }
                panic!("more messages than bytes");
            });
        }
    }
}
