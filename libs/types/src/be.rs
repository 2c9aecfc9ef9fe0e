//! The schema-less "BE-fixed" encoding of values, directories and layer summaries:
//! fixed-width big-endian integers, u64 counts (`docs/format/encoding.md`).

use bytes::{BufMut, Bytes};

/// Input that is not a valid encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ends inside a field.
    #[error("truncated at byte {at}: {wanted} bytes wanted, {left} left")]
    Truncated {
        /// Offset of the field.
        at: usize,
        /// Its size.
        wanted: usize,
        /// Bytes left.
        left: usize,
    },
    /// Bytes are left over behind a complete value.
    #[error("{0} bytes left over behind a complete value")]
    Trailing(usize),
    /// A tag or flag byte has no meaning.
    #[error("byte {at}: {what} has invalid value {value}")]
    Invalid {
        /// Offset of the field.
        at: usize,
        /// The field's name.
        what: &'static str,
        /// What was read.
        value: u64,
    },
    /// A count promises more elements than the input can hold.
    #[error("byte {at}: count {count} exceeds what {left} bytes can hold")]
    Count {
        /// Offset of the count.
        at: usize,
        /// The count.
        count: u64,
        /// Bytes left.
        left: usize,
    },
}

/// A cursor over an encoded value that knows its position for error messages.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `buf`.
    pub const fn new(buf: &'a [u8]) -> Self {
        Reader { buf, pos: 0 }
    }

    /// Offset of the next byte.
    pub const fn position(&self) -> usize {
        self.pos
    }

    /// Bytes not read yet.
    pub const fn left(&self) -> usize {
        self.buf.len() - self.pos
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let end = self.pos.checked_add(n).filter(|e| *e <= self.buf.len());
        let slice = end.and_then(|e| self.buf.get(self.pos..e));
        match (slice, end) {
            (Some(s), Some(e)) => {
                self.pos = e;
                Ok(s)
            }
            _ => Err(Error::Truncated {
                at: self.pos,
                wanted: n,
                left: self.left(),
            }),
        }
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A u8.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    /// A big-endian u16.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    /// A big-endian u32.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    /// A big-endian u64.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    /// A big-endian i64.
    pub fn i64(&mut self) -> Result<i64, Error> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A bool: one byte, 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, Error> {
        let at = self.pos;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            v => Err(Error::Invalid {
                at,
                what,
                value: u64::from(v),
            }),
        }
    }

    /// An optional u32: a presence byte and the number.
    pub fn opt_u32(&mut self, what: &'static str) -> Result<Option<u32>, Error> {
        if self.bool(what)? {
            self.u32().map(Some)
        } else {
            Ok(None)
        }
    }

    /// A u64 count of elements of at least `min_size` bytes each, checked against the bytes left
    /// so that a hostile count cannot cause an allocation.
    pub fn count(&mut self, min_size: usize) -> Result<usize, Error> {
        let at = self.pos;
        let count = self.u64()?;
        let left = self.left();
        usize::try_from(count)
            .ok()
            .filter(|c| c.checked_mul(min_size.max(1)).is_some_and(|n| n <= left))
            .ok_or(Error::Count { at, count, left })
    }

    /// A byte string: u64 length and the bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let n = self.count(1)?;
        self.take(n)
    }

    /// Fails unless the whole input was read.
    pub const fn finish(self) -> Result<(), Error> {
        match self.left() {
            0 => Ok(()),
            n => Err(Error::Trailing(n)),
        }
    }
}

/// Appends a byte string: u64 length and the bytes.
pub fn put_bytes(out: &mut impl BufMut, b: &[u8]) {
    out.put_u64(b.len() as u64);
    out.put_slice(b);
}

/// Appends an optional u32.
pub fn put_opt_u32(out: &mut impl BufMut, v: Option<u32>) {
    match v {
        None => out.put_u8(0),
        Some(v) => {
            out.put_u8(1);
            out.put_u32(v);
        }
    }
}

/// Freezes a scratch vector.
pub fn freeze(v: Vec<u8>) -> Bytes {
    Bytes::from(v)
}
