//! The index of a layer: a disk B-tree of fixed-length keys and 40-bit values.
//!
//! One node per 8 KiB block:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | number of children n, BE, at least 1 |
//! | 2 | 1 | level, 0 = leaf |
//! | 3 | 1 | prefix length p |
//! | 4 | 1 | suffix length s, p + s = key length |
//! | 5 | p | prefix shared by all keys |
//! | 5+p | n·s | suffixes, ascending |
//! | 5+p+n·s | n·5 | values in the same order |
//!
//! A leaf value is a 40-bit number with the top bit clear; an inner value is `80` and the child's
//! block number as u32 BE, counted from the index's first block.
//!
//! [`Builder`] writes the same bytes as the reference does. [`Index`] reads any correct tree.

mod builder;
mod index;
mod node;

pub use builder::{BuildError, Builder, Built};
pub use index::{Cursor, Entry, Error, Index};
pub use node::NodeError;

use std::fmt;

/// Longest index key in bytes: key and LSN.
pub const MAX_KEY: usize = 26;
/// Size of a value in bytes.
pub const VALUE_SIZE: usize = 5;
/// Largest leaf value: 39 bits.
pub const MAX_VALUE: u64 = 0x7F_FFFF_FFFF;
/// Highest level of a node that is accepted; a tree of 4 levels holds billions of entries.
pub const MAX_LEVEL: u8 = 16;
/// Size of a node's fixed header in bytes.
const NODE_HEADER: usize = 5;
/// First byte of an inner node's value.
const POINTER: u8 = 0x80;

/// An index key by value: 18 bytes in an image layer, 26 in a delta layer.
#[derive(Clone, Copy)]
pub struct KeyBytes {
    bytes: [u8; MAX_KEY],
    len: u8,
}

impl KeyBytes {
    /// A key of two parts, such as prefix and suffix, or key and LSN. Cut at [`MAX_KEY`] bytes.
    pub fn of(first: &[u8], second: &[u8]) -> KeyBytes {
        let mut bytes = [0; MAX_KEY];
        let mut len = 0u8;
        for (to, from) in bytes.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
            len += 1;
        }
        KeyBytes { bytes, len }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

impl PartialEq for KeyBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}
impl Eq for KeyBytes {}
impl PartialOrd for KeyBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for KeyBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}
impl fmt::Display for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice()
            .iter()
            .try_for_each(|b| write!(f, "{b:02X}"))
    }
}
impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
