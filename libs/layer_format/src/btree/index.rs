//! A whole index, validated once and then searched in place.

use super::node::{Node, NodeError};
use super::{KeyBytes, MAX_VALUE};
use crate::{BLOCK, BLOCK_SIZE};
use bytes::Bytes;

/// An index region is not a valid tree. Block numbers count from the index's first block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The region is not made of whole blocks, or has none, or too many.
    #[error("index region of {0} bytes is not a number of 8192-byte blocks")]
    Size(usize),
    /// A block is not a node.
    #[error("index block {block}: {source}")]
    Node {
        /// The block.
        block: u32,
        /// What is wrong with it.
        source: NodeError,
    },
    /// A pointer leads outside the index.
    #[error("index block {from}: pointer to block {block}, the index has {blocks}")]
    OutOfRange {
        /// Block of the pointer; the root's own number if the summary points there.
        from: u32,
        /// Where it points.
        block: u32,
        /// Blocks of the index.
        blocks: u32,
    },
    /// An inner node's value is no pointer.
    #[error("index block {block}: entry {entry} is no block pointer")]
    NotAPointer {
        /// The block.
        block: u32,
        /// The entry within it.
        entry: usize,
    },
    /// A child is not one level below its parent.
    #[error("index block {block}: level {found}, {expected} expected")]
    Level {
        /// The block.
        block: u32,
        /// Its level.
        found: u8,
        /// One below its parent's.
        expected: u8,
    },
    /// Two pointers lead to one block: a cycle or a shared child.
    #[error("index block {0} is reached twice")]
    Revisited(u32),
    /// Keys do not ascend strictly over the tree, or contradict the keys of inner nodes.
    #[error("index block {block}: entry {entry} with key {key} is out of order")]
    Order {
        /// The block.
        block: u32,
        /// The entry within it.
        entry: usize,
        /// Its key.
        key: KeyBytes,
    },
    /// A leaf value has its top bit set.
    #[error("index block {block}: entry {entry} has invalid value {value:#x}")]
    Value {
        /// The block.
        block: u32,
        /// The entry within it.
        entry: usize,
        /// The value.
        value: u64,
    },
}

/// One leaf entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: KeyBytes,
    /// The 39-bit value.
    pub value: u64,
}

/// A validated, immutable index. Keeps the raw blocks and the order of the leaves; searching
/// allocates nothing.
#[derive(Clone)]
pub struct Index {
    blocks: Bytes,
    /// Blocks of the leaves in key order: an inner node is only needed while validating.
    leaves: Box<[u32]>,
    key_len: usize,
    entries: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("blocks", &(self.blocks.len() / BLOCK_SIZE))
            .field("leaves", &self.leaves.len())
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// A block still to be visited while validating.
struct Visit {
    from: u32,
    block: u32,
    /// Level it must have; none for the root.
    level: Option<u8>,
    /// Smallest key it may hold.
    bound: Option<KeyBytes>,
}

impl Index {
    /// Validates the tree below `root` in the index region and hands every entry, in order, to
    /// `check`. Blocks that no pointer reaches are not looked at.
    pub fn build<E: From<Error>>(
        blocks: Bytes,
        root: u32,
        key_len: usize,
        mut check: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<Index, E> {
        let size = Error::Size(blocks.len());
        if blocks.is_empty() || !blocks.len().is_multiple_of(BLOCK_SIZE) {
            return Err(size.into());
        }
        let count = u32::try_from(blocks.len() / BLOCK_SIZE).map_err(|_| size)?;
        let mut seen = vec![false; blocks.len() / BLOCK_SIZE];
        let mut leaves = Vec::new();
        let mut entries = 0u64;
        let mut last: Option<KeyBytes> = None;
        let mut todo = vec![Visit {
            from: root,
            block: root,
            level: None,
            bound: None,
        }];
        while let Some(Visit {
            from,
            block,
            level,
            bound,
        }) = todo.pop()
        {
            match seen.get_mut(block as usize) {
                None => {
                    return Err(Error::OutOfRange {
                        from,
                        block,
                        blocks: count,
                    }
                    .into());
                }
                Some(true) => return Err(Error::Revisited(block).into()),
                Some(first) => *first = true,
            }
            let node = Node::parse(block_of(&blocks, block), key_len)
                .map_err(|source| Error::Node { block, source })?;
            if let Some(expected) = level.filter(|l| *l != node.level) {
                return Err(Error::Level {
                    block,
                    found: node.level,
                    expected,
                }
                .into());
            }
            let order = |entry, key| Error::Order { block, entry, key };
            if let Some(bound) = bound {
                // What came before must end below the separator, what follows begin at it.
                if last.is_some_and(|l| l >= bound) || node.key(0) < bound {
                    return Err(order(0, bound).into());
                }
            }
            if node.level == 0 {
                for i in 0..node.count {
                    let entry = Entry {
                        key: node.key(i),
                        value: node.value(i),
                    };
                    if last.is_some_and(|l| l >= entry.key) {
                        return Err(order(i, entry.key).into());
                    }
                    if entry.value > MAX_VALUE {
                        return Err(Error::Value {
                            block,
                            entry: i,
                            value: entry.value,
                        }
                        .into());
                    }
                    check(&entry)?;
                    last = Some(entry.key);
                }
                entries += node.count as u64;
                leaves.push(block);
                continue;
            }
            for i in (0..node.count).rev() {
                let child = node
                    .child(i)
                    .ok_or(Error::NotAPointer { block, entry: i })?;
                todo.push(Visit {
                    from: block,
                    block: child,
                    level: Some(node.level - 1),
                    bound: Some(node.key(i)),
                });
            }
        }
        Ok(Index {
            blocks,
            leaves: leaves.into(),
            key_len,
            entries,
        })
    }

    /// Number of entries.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Memory held, in bytes.
    pub const fn memory(&self) -> usize {
        self.blocks.len() + self.leaves.len() * size_of::<u32>()
    }

    fn leaf(&self, ordinal: usize) -> Option<Node<'_>> {
        let block = *self.leaves.get(ordinal)?;
        Node::parse(block_of(&self.blocks, block), self.key_len).ok()
    }

    /// A cursor at the first entry.
    pub fn first(&self) -> Cursor<'_> {
        Cursor {
            index: self,
            leaf: 0,
            slot: 0,
            node: self.leaf(0),
        }
    }

    /// A cursor at the first entry whose key is at or above `key`; at the end if there is none.
    pub fn seek(&self, key: &[u8]) -> Cursor<'_> {
        // The last leaf that begins at or below the key.
        let (mut lo, mut hi) = (0, self.leaves.len());
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if self.leaf(mid).is_some_and(|n| n.starts_at_or_below(key)) {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        let leaf = lo.saturating_sub(1);
        let node = self.leaf(leaf);
        let slot = node.map_or(0, |n| n.lower_bound(key));
        let mut cursor = Cursor {
            index: self,
            leaf,
            slot,
            node,
        };
        cursor.settle();
        cursor
    }
}

fn block_of(blocks: &[u8], block: u32) -> &[u8] {
    let from = u64::from(block) * BLOCK;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    blocks
        .get(from..)
        .and_then(|b| b.get(..BLOCK_SIZE))
        .unwrap_or_default()
}

/// A position between entries: [`Cursor::entry`] is the one behind it.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    index: &'a Index,
    leaf: usize,
    slot: usize,
    node: Option<Node<'a>>,
}

impl Cursor<'_> {
    /// The entry behind the position; `None` at the end.
    pub fn entry(&self) -> Option<Entry> {
        let node = self.node.filter(|n| self.slot < n.count)?;
        Some(Entry {
            key: node.key(self.slot),
            value: node.value(self.slot),
        })
    }

    /// Moves over the entry behind the position and returns it.
    pub fn next_entry(&mut self) -> Option<Entry> {
        let entry = self.entry()?;
        self.slot += 1;
        self.settle();
        Some(entry)
    }

    /// Moves back over the entry before the position and returns it; `None` at the beginning.
    pub fn previous_entry(&mut self) -> Option<Entry> {
        if self.slot == 0 {
            let leaf = self.leaf.checked_sub(1)?;
            let node = self.index.leaf(leaf)?;
            (self.leaf, self.slot, self.node) = (leaf, node.count, Some(node));
        }
        self.slot -= 1;
        self.entry()
    }

    /// Behind the last entry of a leaf: go to the next leaf, if there is one.
    fn settle(&mut self) {
        if self.node.is_some_and(|n| self.slot >= n.count)
            && let Some(next) = self.index.leaf(self.leaf + 1)
        {
            (self.leaf, self.slot, self.node) = (self.leaf + 1, 0, Some(next));
        }
    }
}
