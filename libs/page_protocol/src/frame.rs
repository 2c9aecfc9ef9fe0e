//! The envelope of libpq messages after startup: one type byte, a big-endian u32 length that
//! counts itself, a body.

use bytes::{BufMut, BytesMut};

/// Bytes of type and length.
pub const HEAD_SIZE: usize = 5;
/// Largest length field accepted from a client, in bytes. The largest legal message is a token
/// or a command.
pub const MAX_FRONTEND_LENGTH: usize = 64 << 10;
/// Largest length field accepted from a server, in bytes. The largest legal message is an SLRU
/// segment of 32 pages.
pub const MAX_BACKEND_LENGTH: usize = 1 << 20;

/// A message that is not part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The length does not even count itself.
    #[error("message {tag:#04x} has length {length}, at least 4 expected")]
    Length {
        /// Type byte.
        tag: u8,
        /// Length field.
        length: u32,
    },
    /// The length is beyond the limit.
    #[error("message {tag:#04x} has length {length}, at most {limit} allowed")]
    Oversize {
        /// Type byte.
        tag: u8,
        /// Length field.
        length: u32,
        /// The limit.
        limit: usize,
    },
    /// A type byte that is not served.
    #[error("unsupported message type {0:#04x}")]
    Tag(u8),
    /// The body ends inside a field.
    #[error("message {tag:#04x} ends inside field {field}")]
    Truncated {
        /// Type byte.
        tag: u8,
        /// The field.
        field: &'static str,
    },
    /// A field has a value that is not served.
    #[error("message {tag:#04x}: field {field} has an unsupported value")]
    Field {
        /// Type byte.
        tag: u8,
        /// The field.
        field: &'static str,
    },
}

/// Type and size of the message at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Type byte.
    pub tag: u8,
    /// Size of the whole message in bytes, head included.
    pub total: usize,
}

/// The head of the message at the start of `buf`, or `None` if not all of it is there yet.
/// Fails if its length is below 4 or above `limit`.
pub fn peek(buf: &[u8], limit: usize) -> Result<Option<Head>, Error> {
    let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEAD_SIZE>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(Error::Length { tag, length });
    }
    match usize::try_from(length) {
        Ok(n) if n <= limit => Ok(Some(Head {
            tag,
            total: n.saturating_add(1),
        })),
        _ => Err(Error::Oversize { tag, length, limit }),
    }
}

/// The head and body of the message at the start of `buf`, or `None` if it is not complete.
pub fn split(buf: &[u8], limit: usize) -> Result<Option<(Head, &[u8])>, Error> {
    let Some(head) = peek(buf, limit)? else {
        return Ok(None);
    };
    Ok(buf.get(HEAD_SIZE..head.total).map(|body| (head, body)))
}

/// Appends a message whose body `fill` writes.
pub fn put(buf: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    let at = open(buf, tag);
    fill(buf);
    close(buf, at);
}

/// Appends type and a length still to be set; returns where the message starts.
pub(crate) fn open(buf: &mut BytesMut, tag: u8) -> usize {
    let at = buf.len();
    buf.put_u8(tag);
    buf.put_u32(0);
    at
}

/// Sets the length of the message that starts at `at` and ends where `buf` ends.
pub(crate) fn close(buf: &mut BytesMut, at: usize) {
    let length = u32::try_from(buf.len().saturating_sub(at).saturating_sub(1)).unwrap_or(u32::MAX);
    let field = buf
        .get_mut(at..)
        .and_then(|m| m.first_chunk_mut::<HEAD_SIZE>());
    if let Some([_, field @ ..]) = field {
        *field = length.to_be_bytes();
    }
}

/// Appends `text` and its terminating NUL. NULs inside `text` are left out, since they would
/// end the field early.
pub(crate) fn put_cstr(buf: &mut BytesMut, text: &str) {
    text.bytes().filter(|b| *b != 0).for_each(|b| buf.put_u8(b));
    buf.put_u8(0);
}

/// Reads the fields of one message body.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(tag: u8, rest: &'a [u8]) -> Self {
        Fields { tag, rest }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let cut = self.rest.split_first_chunk::<N>();
        let (first, rest) = cut.ok_or(Error::Truncated {
            tag: self.tag,
            field,
        })?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, Error> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Error> {
        let cut = self.rest.split_at_checked(n);
        let (first, rest) = cut.ok_or(Error::Truncated {
            tag: self.tag,
            field,
        })?;
        self.rest = rest;
        Ok(first)
    }

    /// The bytes before the next NUL.
    pub(crate) fn cstr(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let end = self.rest.iter().position(|b| *b == 0);
        let n = end.ok_or(Error::Truncated {
            tag: self.tag,
            field,
        })?;
        let text = self.take(n, field)?;
        self.take(1, field)?;
        Ok(text)
    }

    /// What is left, without one trailing NUL if there is one.
    pub(crate) fn last_text(self) -> &'a [u8] {
        self.rest.strip_suffix(&[0]).unwrap_or(self.rest)
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_the_body_arrives() {
        assert_eq!(peek(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(
            peek(b"Q\0\0\0\x03", 100),
            Err(Error::Length {
                tag: b'Q',
                length: 3
            })
        );
        assert_eq!(
            peek(b"Q\0\0\0\x64", 100),
            Ok(Some(Head {
                tag: b'Q',
                total: 101
            }))
        );
        let oversize = Error::Oversize {
            tag: b'Q',
            length: 101,
            limit: 100,
        };
        assert_eq!(peek(b"Q\0\0\0\x65", 100), Err(oversize));
        assert_eq!(
            split(b"Q\0\0\0\x06ab", 100),
            Ok(Some((
                Head {
                    tag: b'Q',
                    total: 7
                },
                &b"ab"[..]
            )))
        );
        assert_eq!(split(b"Q\0\0\0\x06a", 100), Ok(None));
    }
}
