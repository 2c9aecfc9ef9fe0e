//! Half-open ranges of keys.

use crate::key::{Key, REL_DIR_V2_PREFIX};
use crate::rel::{RelTag, SlruKind};

/// Keys from `start` up to but excluding `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyRange {
    /// First key.
    pub start: Key,
    /// First key behind the range.
    pub end: Key,
}

impl KeyRange {
    /// Every key there can be: the key range of an L0 layer.
    pub const FULL: KeyRange = KeyRange {
        start: Key::MIN,
        end: Key::MAX,
    };

    /// A range of exactly one key.
    pub const fn single(key: Key) -> KeyRange {
        KeyRange {
            start: key,
            end: key.next(),
        }
    }

    /// All blocks of a relation fork, without its size key.
    pub const fn rel_blocks(rel: RelTag) -> KeyRange {
        KeyRange {
            start: Key::rel_block(rel, 0),
            end: Key::rel_size(rel),
        }
    }

    /// All keys of a database in a tablespace: map, directory, blocks, sizes.
    pub const fn database(spc: u32, db: u32) -> KeyRange {
        KeyRange {
            start: Key {
                field1: 0,
                field2: spc,
                field3: db,
                field4: 0,
                field5: 0,
                field6: 0,
            },
            end: Key {
                field1: 0,
                field2: spc,
                field3: db,
                field4: u32::MAX,
                field5: 0xFF,
                field6: u32::MAX,
            },
        }
    }

    /// Sparse relation directory entries of a database in a tablespace.
    pub const fn rel_dir_entries(spc: u32, db: u32) -> KeyRange {
        let f1 = REL_DIR_V2_PREFIX;
        KeyRange {
            start: Key {
                field1: f1,
                field2: spc,
                field3: db,
                field4: 0,
                field5: 0,
                field6: 0,
            },
            end: Key {
                field1: f1,
                field2: spc,
                field3: db,
                field4: u32::MAX,
                field5: 0xFF,
                field6: u32::MAX,
            },
        }
    }

    /// All blocks of one SLRU segment, without its size key.
    pub const fn slru_segment(kind: SlruKind, segment: u32) -> KeyRange {
        KeyRange {
            start: Key::slru_block(kind, segment, 0),
            end: Key::slru_segment_size(kind, segment),
        }
    }

    /// True if the range holds no key.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// True if `key` lies in the range.
    pub fn contains(&self, key: &Key) -> bool {
        self.start <= *key && *key < self.end
    }

    /// True if the ranges share a key.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        self.start < other.end && other.start < self.end
    }
}
