//! Writes the tree, node by node, in the order and with the compression of the reference, so
//! that files built from the same entries are identical.

use super::{KeyBytes, MAX_VALUE, NODE_HEADER, POINTER, VALUE_SIZE};
use crate::BLOCK_SIZE;

/// An entry cannot be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Keys must ascend strictly.
    #[error("index key {key} does not follow {previous}")]
    NotAscending {
        /// The key.
        key: KeyBytes,
        /// The key before it.
        previous: KeyBytes,
    },
    /// The key has another length than the tree.
    #[error("index key of {found} bytes in a tree of {expected}-byte keys")]
    KeyLength {
        /// Its length.
        found: usize,
        /// The tree's.
        expected: usize,
    },
    /// The value needs more than 39 bits.
    #[error("index value {0:#x} is larger than 39 bits")]
    Value(u64),
    /// A tree needs an entry.
    #[error("an index without entries cannot be written")]
    Empty,
    /// More blocks than a pointer can address.
    #[error("the index has too many blocks")]
    TooManyBlocks,
}

/// A finished tree.
#[derive(Debug, Clone)]
pub struct Built {
    /// All nodes, a multiple of 8192 bytes.
    pub blocks: Vec<u8>,
    /// Block number of the root within `blocks`.
    pub root: u32,
    /// Number of entries.
    pub entries: u64,
}

/// Takes ascending entries; holds the finished nodes and one open node per level.
#[derive(Debug)]
pub struct Builder {
    key_len: usize,
    open: Vec<Open>,
    blocks: Vec<u8>,
    last: Option<KeyBytes>,
    entries: u64,
}

#[derive(Debug)]
struct Open {
    prefix: Vec<u8>,
    suffixes: Vec<u8>,
    values: Vec<u8>,
    count: usize,
    /// Bytes the node takes in its block.
    size: usize,
}

impl Open {
    fn new() -> Open {
        Open {
            prefix: Vec::new(),
            suffixes: Vec::new(),
            values: Vec::new(),
            count: 0,
            size: NODE_HEADER,
        }
    }

    /// Adds the entry if it fits, shortening the suffixes first if that helps.
    fn add(&mut self, key: &[u8], value: [u8; VALUE_SIZE]) -> bool {
        let fits = self.fits(key) || (self.shorten(key.len()) && self.fits(key));
        if !fits {
            return false;
        }
        let Some(suffix) = key.get(self.prefix.len()..) else {
            return false;
        };
        self.suffixes.extend_from_slice(suffix);
        self.values.extend_from_slice(&value);
        self.count += 1;
        self.size += suffix.len() + VALUE_SIZE;
        true
    }

    fn fits(&self, key: &[u8]) -> bool {
        let suffix = key.len().saturating_sub(self.prefix.len());
        key.starts_with(&self.prefix) && self.size + suffix + VALUE_SIZE < BLOCK_SIZE
    }

    /// Moves what all suffixes share to the prefix; false if that is nothing.
    fn shorten(&mut self, key_len: usize) -> bool {
        let len = key_len - self.prefix.len();
        let ends = self
            .suffixes
            .first_chunk_of(len)
            .zip(self.suffixes.last_chunk_of(len));
        let Some((first, last)) = ends else {
            return false;
        };
        let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return false;
        }
        let (moved, _) = first.split_at(shared);
        self.prefix.extend_from_slice(moved);
        let rest = self
            .suffixes
            .chunks_exact(len)
            .flat_map(|s| s.iter().skip(shared).copied());
        self.suffixes = rest.collect();
        self.size = self.size + shared - shared * self.count;
        true
    }

    fn first_key(&self, key_len: usize) -> KeyBytes {
        let suffix = self
            .suffixes
            .first_chunk_of(key_len - self.prefix.len())
            .unwrap_or_default();
        KeyBytes::of(&self.prefix, suffix)
    }
}

/// First and last `n` bytes of a buffer.
trait Ends {
    fn first_chunk_of(&self, n: usize) -> Option<&[u8]>;
    fn last_chunk_of(&self, n: usize) -> Option<&[u8]>;
}
impl Ends for Vec<u8> {
    fn first_chunk_of(&self, n: usize) -> Option<&[u8]> {
        self.get(..n)
    }
    fn last_chunk_of(&self, n: usize) -> Option<&[u8]> {
        self.len().checked_sub(n).and_then(|from| self.get(from..))
    }
}

impl Builder {
    /// A tree of keys of `key_len` bytes: 18 in an image layer, 26 in a delta layer.
    pub fn new(key_len: usize) -> Builder {
        Builder {
            key_len,
            open: Vec::new(),
            blocks: Vec::new(),
            last: None,
            entries: 0,
        }
    }

    /// Bytes of the nodes written so far and of those still open, when finished.
    pub fn size(&self) -> u64 {
        (self.blocks.len() + self.open.len() * BLOCK_SIZE) as u64
    }

    /// Number of entries.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Key of the last entry.
    pub const fn last(&self) -> Option<&KeyBytes> {
        self.last.as_ref()
    }

    /// Appends an entry; keys ascend strictly.
    pub fn append(&mut self, key: KeyBytes, value: u64) -> Result<(), BuildError> {
        let found = key.as_slice().len();
        if found != self.key_len {
            return Err(BuildError::KeyLength {
                found,
                expected: self.key_len,
            });
        }
        if value > MAX_VALUE {
            return Err(BuildError::Value(value));
        }
        if let Some(previous) = self.last.filter(|p| *p >= key) {
            return Err(BuildError::NotAscending { key, previous });
        }
        let [_, _, _, a, b, c, d, e] = value.to_be_bytes();
        self.add(0, key, [a, b, c, d, e])?;
        self.last = Some(key);
        self.entries += 1;
        Ok(())
    }

    /// Adds an entry at a level, writing full nodes and linking them one level up.
    fn add(
        &mut self,
        level: usize,
        key: KeyBytes,
        value: [u8; VALUE_SIZE],
    ) -> Result<(), BuildError> {
        let (mut level, mut key, mut value) = (level, key, value);
        loop {
            if level == self.open.len() {
                self.open.push(Open::new());
            }
            let Some(node) = self.open.get_mut(level) else {
                return Ok(());
            };
            if node.add(key.as_slice(), value) {
                return Ok(());
            }
            let mut fresh = Open::new();
            fresh.add(key.as_slice(), value);
            let full = std::mem::replace(node, fresh);
            (key, value) = self.write(&full, level)?;
            level += 1;
        }
    }

    /// Writes a node; returns its entry for the level above.
    fn write(
        &mut self,
        node: &Open,
        level: usize,
    ) -> Result<(KeyBytes, [u8; VALUE_SIZE]), BuildError> {
        let block =
            u32::try_from(self.blocks.len() / BLOCK_SIZE).map_err(|_| BuildError::TooManyBlocks)?;
        let narrow = |n: usize| u8::try_from(n).map_err(|_| BuildError::TooManyBlocks);
        let count = u16::try_from(node.count).map_err(|_| BuildError::TooManyBlocks)?;
        let prefix = node.prefix.len();
        self.blocks.extend_from_slice(&count.to_be_bytes());
        self.blocks.extend_from_slice(&[
            narrow(level)?,
            narrow(prefix)?,
            narrow(self.key_len - prefix)?,
        ]);
        self.blocks.extend_from_slice(&node.prefix);
        self.blocks.extend_from_slice(&node.suffixes);
        self.blocks.extend_from_slice(&node.values);
        self.blocks
            .resize(self.blocks.len().next_multiple_of(BLOCK_SIZE), 0);
        let [a, b, c, d] = block.to_be_bytes();
        Ok((node.first_key(self.key_len), [POINTER, a, b, c, d]))
    }

    /// Writes the open nodes bottom up; the last one is the root.
    pub fn finish(mut self) -> Result<Built, BuildError> {
        if self.entries == 0 {
            return Err(BuildError::Empty);
        }
        let mut level = 0;
        while let Some(slot) = self.open.get_mut(level) {
            let node = std::mem::replace(slot, Open::new());
            let (key, pointer) = self.write(&node, level)?;
            if level + 1 == self.open.len() {
                break;
            }
            level += 1;
            self.add(level, key, pointer)?;
        }
        let root = u32::try_from(self.blocks.len() / BLOCK_SIZE - 1)
            .map_err(|_| BuildError::TooManyBlocks)?;
        Ok(Built {
            blocks: self.blocks,
            root,
            entries: self.entries,
        })
    }
}
