//! A bounds-checked little-endian cursor over parts of a WAL record.

/// A structure of a record ends before a field of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {wanted} bytes wanted at offset {at}, {left} left")]
pub struct Short {
    /// The structure that was being read.
    pub what: &'static str,
    /// Offset of the field in it.
    pub at: usize,
    /// Size of the field in bytes.
    pub wanted: usize,
    /// Bytes left.
    pub left: usize,
}

/// A little-endian cursor that knows what it reads.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Length of the whole buffer.
    len: usize,
    what: &'static str,
}

macro_rules! int {
    ($name:ident, $t:ty) => {
        #[doc = concat!("The next little-endian ", stringify!($t), ".")]
        #[inline]
        pub fn $name(&mut self) -> Result<$t, Short> {
            Ok(<$t>::from_le_bytes(self.array()?))
        }
    };
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `buf`; `what` names the structure in errors.
    #[inline]
    pub const fn new(buf: &'a [u8], what: &'static str) -> Self {
        Cursor {
            rest: buf,
            len: buf.len(),
            what,
        }
    }

    /// Offset of the next byte.
    #[inline]
    pub const fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Bytes not read yet.
    #[inline]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The bytes not read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        match self.rest.split_at_checked(n) {
            Some((s, rest)) => {
                self.rest = rest;
                Ok(s)
            }
            None => Err(self.short(n)),
        }
    }

    #[cold]
    const fn short(&self, wanted: usize) -> Short {
        Short {
            what: self.what,
            at: self.position(),
            wanted,
            left: self.left(),
        }
    }

    /// Skips `n` bytes.
    #[inline]
    pub fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.take(n).map(drop)
    }

    /// Skips to the next multiple of `n` (a power of two), counted from the start of the buffer.
    #[inline]
    pub fn align(&mut self, n: usize) -> Result<(), Short> {
        self.skip(self.position().wrapping_neg() & (n - 1))
    }

    /// The next `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        match self.rest.split_first_chunk::<N>() {
            Some((a, rest)) => {
                self.rest = rest;
                Ok(*a)
            }
            None => Err(self.short(N)),
        }
    }

    int!(u8, u8);
    int!(u16, u16);
    int!(u32, u32);
    int!(u64, u64);
    int!(i32, i32);
    int!(i64, i64);
}
