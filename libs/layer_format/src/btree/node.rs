//! One node, read in place.

use super::{KeyBytes, MAX_LEVEL, NODE_HEADER, POINTER, VALUE_SIZE};
use std::cmp::Ordering;

/// A block is not a valid index node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The block is shorter than the node says it is.
    #[error("node with {count} children of {suffix} + 5 bytes does not fit its block")]
    Overflow {
        /// Number of children.
        count: u16,
        /// Suffix length in bytes.
        suffix: u8,
    },
    /// A node without children.
    #[error("node has no children")]
    Empty,
    /// Prefix and suffix do not add up to the key length.
    #[error("prefix {prefix} and suffix {suffix} do not make a key of {expected} bytes")]
    KeyLength {
        /// Prefix length in bytes.
        prefix: u8,
        /// Suffix length in bytes.
        suffix: u8,
        /// Key length of the tree.
        expected: usize,
    },
    /// A level above [`MAX_LEVEL`].
    #[error("node level {0} is too high")]
    Level(u8),
}

/// A view of a node whose header was checked: every accessor below `count` succeeds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub count: usize,
    pub level: u8,
    prefix: &'a [u8],
    suffixes: &'a [u8],
    suffix_len: usize,
    values: &'a [u8],
}

impl<'a> Node<'a> {
    pub fn parse(block: &'a [u8], key_len: usize) -> Result<Node<'a>, NodeError> {
        let (header, rest) =
            block
                .split_first_chunk::<NODE_HEADER>()
                .ok_or(NodeError::Overflow {
                    count: 0,
                    suffix: 0,
                })?;
        let [n0, n1, level, prefix, suffix] = *header;
        let count = u16::from_be_bytes([n0, n1]);
        if count == 0 {
            return Err(NodeError::Empty);
        }
        if level > MAX_LEVEL {
            return Err(NodeError::Level(level));
        }
        if usize::from(prefix) + usize::from(suffix) != key_len {
            return Err(NodeError::KeyLength {
                prefix,
                suffix,
                expected: key_len,
            });
        }
        let overflow = NodeError::Overflow { count, suffix };
        let (n, suffix_len) = (usize::from(count), usize::from(suffix));
        let (prefix, rest) = rest.split_at_checked(usize::from(prefix)).ok_or(overflow)?;
        let (suffixes, rest) = rest.split_at_checked(n * suffix_len).ok_or(overflow)?;
        let values = rest.get(..n * VALUE_SIZE).ok_or(overflow)?;
        Ok(Node {
            count: n,
            level,
            prefix,
            suffixes,
            suffix_len,
            values,
        })
    }

    fn suffix(&self, i: usize) -> &'a [u8] {
        let from = i * self.suffix_len;
        self.suffixes
            .get(from..from + self.suffix_len)
            .unwrap_or_default()
    }

    pub fn key(&self, i: usize) -> KeyBytes {
        KeyBytes::of(self.prefix, self.suffix(i))
    }

    fn raw(&self, i: usize) -> [u8; VALUE_SIZE] {
        let at = self
            .values
            .get(i * VALUE_SIZE..)
            .and_then(|v| v.first_chunk());
        at.copied().unwrap_or_default()
    }

    /// The value as a 40-bit number.
    pub fn value(&self, i: usize) -> u64 {
        let [a, b, c, d, e] = self.raw(i);
        u64::from_be_bytes([0, 0, 0, a, b, c, d, e])
    }

    /// The value as a child's block number.
    pub fn child(&self, i: usize) -> Option<u32> {
        match self.raw(i) {
            [POINTER, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        }
    }

    fn compare(&self, i: usize, key: &[u8]) -> Ordering {
        let (head, tail) = key
            .split_at_checked(self.prefix.len())
            .unwrap_or((key, &[]));
        self.prefix.cmp(head).then_with(|| self.suffix(i).cmp(tail))
    }

    /// Number of keys below `key`.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        let (mut lo, mut hi) = (0, self.count);
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if self.compare(mid, key) == Ordering::Less {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        lo
    }

    /// True if the first key is at or below `key`.
    pub fn starts_at_or_below(&self, key: &[u8]) -> bool {
        self.compare(0, key) != Ordering::Greater
    }
}
