//! Log sequence numbers: byte positions in a write-ahead log.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Size of a WAL page in bytes (`XLOG_BLCKSZ`).
pub const WAL_PAGE_SIZE: u64 = 8192;
/// Size of a short WAL page header in bytes.
pub const SHORT_PAGE_HEADER: u64 = 24;
/// Size of the long header that opens each WAL segment, in bytes.
pub const LONG_PAGE_HEADER: u64 = 40;

/// A byte position in WAL. Zero means "not set".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The "not set" position.
    pub const INVALID: Lsn = Lsn(0);
    /// The largest position; used only as a bound.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// True unless this is [`Lsn::INVALID`].
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Rounds up to the 8-byte alignment of WAL records. Saturates at the largest aligned value.
    pub const fn align(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// True if the position is a multiple of 8.
    pub const fn is_aligned(self) -> bool {
        self.0 & 7 == 0
    }

    /// `self + bytes`, or `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(v) => Some(Lsn(v)),
            None => None,
        }
    }

    /// `self + bytes`, clamped to [`Lsn::MAX`].
    pub const fn saturating_add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// `self - bytes`, clamped to zero.
    pub const fn saturating_sub(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_sub(bytes))
    }

    /// Bytes from `earlier` to `self`; zero if `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Number of the segment of `segment_size` bytes (a power of two) that holds this byte.
    pub const fn segment_number(self, segment_size: u64) -> u64 {
        self.0 / segment_size
    }

    /// Offset in the segment of `segment_size` bytes.
    pub const fn segment_offset(self, segment_size: u64) -> u64 {
        self.0 % segment_size
    }

    /// Offset in the WAL page, in bytes.
    pub const fn page_offset(self) -> u64 {
        self.0 % WAL_PAGE_SIZE
    }

    /// If the position is on a page boundary, the first byte behind that page's header;
    /// otherwise the position itself, rounded up to 8.
    pub const fn skip_page_header(self, segment_size: u64) -> Lsn {
        if self.0.is_multiple_of(segment_size) {
            Lsn(self.0.saturating_add(LONG_PAGE_HEADER))
        } else if self.0.is_multiple_of(WAL_PAGE_SIZE) {
            Lsn(self.0.saturating_add(SHORT_PAGE_HEADER))
        } else {
            self.align()
        }
    }

    /// Sixteen upper-case hex digits, the form used in layer names.
    pub fn hex16(self) -> String {
        format!("{:016X}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not an LSN of the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid LSN {0:?}: expected two hexadecimal numbers of at most 8 digits joined by '/', such as 0/16B9188"
)]
pub struct ParseError(String);

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let err = || ParseError(s.chars().take(64).collect());
        let (hi, lo) = s.split_once('/').ok_or_else(err)?;
        let part = |t: &str| {
            if t.is_empty() || t.len() > 8 || !t.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(err());
            }
            u32::from_str_radix(t, 16).map_err(|_| err())
        };
        Ok(Lsn((u64::from(part(hi)?) << 32) | u64::from(part(lo)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_nonsense() {
        assert_eq!(Lsn(0x16B9188).to_string(), "0/16B9188");
        assert_eq!("16/b374d848".parse::<Lsn>().unwrap(), Lsn(0x16_B374_D848));
        for bad in ["", "/", "0", "1/", "/1", "123456789/0", "0/+1", "0/1 "] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn page_header_is_skipped_only_on_a_boundary() {
        let seg = 16 << 20;
        assert_eq!(Lsn(seg).skip_page_header(seg), Lsn(seg + 40));
        assert_eq!(Lsn(seg + 8192).skip_page_header(seg), Lsn(seg + 8192 + 24));
        assert_eq!(Lsn(seg + 8193).skip_page_header(seg), Lsn(seg + 8200));
    }
}
