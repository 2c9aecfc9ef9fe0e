//! Headers of an archive being written.

use super::{BLOCK, CHECKSUM_AT, checksum};
use crate::le::put;

/// Longest path in bytes.
const MAX_PATH: usize = 100;
/// Largest number eleven octal digits can hold.
const MAX_OCTAL: u64 = (1 << 33) - 1;

/// What a header stands before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// A regular file of this many bytes.
    File(u64),
    /// A directory.
    Directory,
}

/// A header that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwritableEntry {
    /// The path is empty, absolute, leads upwards, or is longer than 100 bytes.
    #[error(
        "{0:?} cannot be a path in an archive: it must be relative and have 1 to {MAX_PATH} bytes"
    )]
    Path(String),
    /// Size or time do not fit eleven octal digits.
    #[error("{path:?}: {what} {value} does not fit a tar header")]
    Number {
        /// Path of the entry.
        path: String,
        /// Size or time.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Octal digits of `n`, zero-padded, then NUL.
fn octal<const N: usize>(mut n: u64) -> [u8; N] {
    let mut out = [b'0'; N];
    for (i, b) in out.iter_mut().rev().enumerate() {
        if i == 0 {
            *b = 0;
        } else {
            *b = b'0' + (n & 7) as u8;
            n >>= 3;
        }
    }
    out
}

/// The header block of one entry; `mtime` in seconds since 1970. Directories go without a
/// trailing slash. A file's bytes follow, then [`padding`].
pub fn header(path: &str, item: Item, mtime: u64) -> Result<[u8; BLOCK], UnwritableEntry> {
    let good = !path.is_empty()
        && path.len() <= MAX_PATH
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains('\0');
    if !good {
        return Err(UnwritableEntry::Path(path.chars().take(200).collect()));
    }
    let (mode, size, kind) = match item {
        Item::File(size) => (0o600, size, 0),
        Item::Directory => (0o755, 0, b'5'),
    };
    for (what, value) in [("size", size), ("time", mtime)] {
        if value > MAX_OCTAL {
            return Err(UnwritableEntry::Number {
                path: path.to_owned(),
                what,
                value,
            });
        }
    }
    let mut b = [0; BLOCK];
    for (to, from) in b.iter_mut().zip(path.bytes()) {
        *to = from;
    }
    put::<100, 8, _>(&mut b, octal(mode));
    put::<124, 12, _>(&mut b, octal(size));
    put::<136, 12, _>(&mut b, octal(mtime));
    put::<156, 1, _>(&mut b, [kind]);
    put::<257, 8, _>(&mut b, *b"ustar  \0");
    let sum = checksum(&b);
    put::<CHECKSUM_AT, 8, _>(&mut b, octal(u64::from(sum)));
    Ok(b)
}

/// Zero bytes that follow a file of `size` bytes.
pub const fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}
