//! Keys: 18 bytes that name one versioned value (`docs/format/keys.md`).

use crate::be;
use crate::id::{ParseError, parse_error, text_serde};
use crate::rel::{BlockNumber, Fork, Oid, RelTag, SlruKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Serialized length of a key in bytes.
pub const KEY_SIZE: usize = 18;
/// Value of the sixth field of relation and SLRU segment size keys.
pub const SIZE_BLOCK: u32 = 0xFFFF_FFFF;
/// First prefix byte of the sparse metadata key space.
pub const METADATA_BEGIN: u8 = 0x60;
/// End (exclusive) of the sparse metadata key space.
pub const METADATA_END: u8 = 0x7F;
/// Prefix of aux files.
pub const AUX_FILE_PREFIX: u8 = 0x62;
/// Prefix of replication origins.
pub const REPL_ORIGIN_PREFIX: u8 = 0x63;
/// Prefix of sparse relation directory entries.
pub const REL_DIR_V2_PREFIX: u8 = 0x65;

/// Six fields, ordered lexicographically; equal to the byte order of the serialized form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// Kind, key space prefix.
    pub field1: u8,
    /// Tablespace or SLRU kind.
    pub field2: u32,
    /// Database, or selector for SLRUs.
    pub field3: u32,
    /// Relation file number or SLRU segment.
    pub field4: u32,
    /// Fork.
    pub field5: u8,
    /// Block, or [`SIZE_BLOCK`].
    pub field6: u32,
}

/// What a key names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Directory of databases.
    DbDir,
    /// `pg_filenode.map` of a database.
    RelMap {
        /// Tablespace.
        spc: Oid,
        /// Database.
        db: Oid,
    },
    /// Directory of relations of a database.
    RelDir {
        /// Tablespace.
        spc: Oid,
        /// Database.
        db: Oid,
    },
    /// Page of a relation fork.
    RelBlock {
        /// Relation fork.
        rel: RelTag,
        /// Block.
        block: BlockNumber,
    },
    /// Size of a relation fork in pages.
    RelSize {
        /// Relation fork.
        rel: RelTag,
    },
    /// Directory of SLRU segments.
    SlruDir {
        /// Which SLRU.
        kind: SlruKind,
    },
    /// Page of an SLRU segment.
    SlruBlock {
        /// Which SLRU.
        kind: SlruKind,
        /// Segment number.
        segment: u32,
        /// Page in the segment, 0 to 31.
        block: BlockNumber,
    },
    /// Size of an SLRU segment in pages.
    SlruSegmentSize {
        /// Which SLRU.
        kind: SlruKind,
        /// Segment number.
        segment: u32,
    },
    /// Directory of prepared transactions.
    TwoPhaseDir,
    /// State of one prepared transaction.
    TwoPhaseFile {
        /// Full transaction id.
        xid: u64,
    },
    /// `pg_control`.
    ControlFile,
    /// The `CheckPoint` structure.
    Checkpoint,
    /// Legacy map of aux files.
    AuxFilesV1,
    /// Aux file, found by hash.
    AuxFile,
    /// Replication origin.
    ReplOrigin {
        /// Origin id.
        id: u16,
    },
    /// Sparse relation directory entry.
    RelDirEntry {
        /// The relation fork that exists.
        rel: RelTag,
    },
    /// Nothing known.
    Unknown,
}

const fn key(field1: u8, field2: u32, field3: u32, field4: u32, field5: u8, field6: u32) -> Key {
    Key {
        field1,
        field2,
        field3,
        field4,
        field5,
        field6,
    }
}

impl Key {
    /// Smallest key.
    pub const MIN: Key = key(0, 0, 0, 0, 0, 0);
    /// Largest key; only an exclusive bound.
    pub const MAX: Key = key(0xFF, u32::MAX, u32::MAX, u32::MAX, 0xFF, u32::MAX);

    /// Directory of databases.
    pub const DB_DIR: Key = Key::MIN;
    /// Directory of prepared transactions.
    pub const TWO_PHASE_DIR: Key = key(2, 0, 0, 0, 0, 0);
    /// `pg_control` as imported.
    pub const CONTROL_FILE: Key = key(3, 0, 0, 0, 0, 0);
    /// The `CheckPoint` structure.
    pub const CHECKPOINT: Key = key(3, 0, 0, 0, 0, 1);
    /// Legacy aux file map, never inherited by branches.
    pub const AUX_FILES_V1: Key = key(3, 0, 0, 0, 0, 2);

    /// `pg_filenode.map` of database `db` in tablespace `spc`.
    pub const fn rel_map(spc: Oid, db: Oid) -> Key {
        key(0, spc, db, 0, 0, 0)
    }
    /// Directory of relations of a database.
    pub const fn rel_dir(spc: Oid, db: Oid) -> Key {
        key(0, spc, db, 0, 0, 1)
    }
    /// A page of a relation fork.
    pub const fn rel_block(rel: RelTag, block: BlockNumber) -> Key {
        key(0, rel.spc, rel.db, rel.rel, rel.fork as u8, block)
    }
    /// Size of a relation fork.
    pub const fn rel_size(rel: RelTag) -> Key {
        key(0, rel.spc, rel.db, rel.rel, rel.fork as u8, SIZE_BLOCK)
    }
    /// Directory of segments of an SLRU.
    pub const fn slru_dir(kind: SlruKind) -> Key {
        key(1, kind as u32, 0, 0, 0, 0)
    }
    /// A page of an SLRU segment.
    pub const fn slru_block(kind: SlruKind, segment: u32, block: BlockNumber) -> Key {
        key(1, kind as u32, 1, segment, 0, block)
    }
    /// Size of an SLRU segment.
    pub const fn slru_segment_size(kind: SlruKind, segment: u32) -> Key {
        key(1, kind as u32, 1, segment, 0, SIZE_BLOCK)
    }
    /// State of a prepared transaction, by full 64-bit xid.
    pub const fn two_phase_file(xid: u64) -> Key {
        key(
            2,
            0,
            0,
            (xid >> 40) as u32 & 0xFF_FFFF,
            (xid >> 32) as u8,
            xid as u32,
        )
    }
    /// Replication origin.
    pub const fn repl_origin(id: u16) -> Key {
        key(REPL_ORIGIN_PREFIX, 0, 0, 0, 0, id as u32)
    }
    /// Sparse relation directory entry.
    pub const fn rel_dir_entry(rel: RelTag) -> Key {
        key(
            REL_DIR_V2_PREFIX,
            rel.spc,
            rel.db,
            rel.rel,
            rel.fork as u8,
            1,
        )
    }

    /// What this key names.
    pub const fn kind(&self) -> Kind {
        let Key {
            field1,
            field2,
            field3,
            field4,
            field5,
            field6,
        } = *self;
        match field1 {
            0 => match (field4, field5, field6) {
                (0, 0, 0) if field2 == 0 && field3 == 0 => Kind::DbDir,
                (0, 0, 0) => Kind::RelMap {
                    spc: field2,
                    db: field3,
                },
                (0, 0, 1) => Kind::RelDir {
                    spc: field2,
                    db: field3,
                },
                (0, _, _) => Kind::Unknown,
                (_, _, _) => match Fork::from_u8(field5) {
                    None => Kind::Unknown,
                    Some(fork) => {
                        let rel = RelTag {
                            spc: field2,
                            db: field3,
                            rel: field4,
                            fork,
                        };
                        if field6 == SIZE_BLOCK {
                            Kind::RelSize { rel }
                        } else {
                            Kind::RelBlock { rel, block: field6 }
                        }
                    }
                },
            },
            1 => match SlruKind::from_u32(field2) {
                None => Kind::Unknown,
                Some(kind) => match (field3, field6) {
                    (0, _) => Kind::SlruDir { kind },
                    (1, SIZE_BLOCK) => Kind::SlruSegmentSize {
                        kind,
                        segment: field4,
                    },
                    (1, block) => Kind::SlruBlock {
                        kind,
                        segment: field4,
                        block,
                    },
                    _ => Kind::Unknown,
                },
            },
            2 if field4 == 0 && field5 == 0 && field6 == 0 => Kind::TwoPhaseDir,
            2 => Kind::TwoPhaseFile {
                xid: (field4 as u64) << 40 | (field5 as u64) << 32 | field6 as u64,
            },
            3 => match field6 {
                0 => Kind::ControlFile,
                1 => Kind::Checkpoint,
                2 => Kind::AuxFilesV1,
                _ => Kind::Unknown,
            },
            AUX_FILE_PREFIX => Kind::AuxFile,
            REPL_ORIGIN_PREFIX => Kind::ReplOrigin { id: field6 as u16 },
            REL_DIR_V2_PREFIX => match Fork::from_u8(field5) {
                None => Kind::Unknown,
                Some(fork) => Kind::RelDirEntry {
                    rel: RelTag {
                        spc: field2,
                        db: field3,
                        rel: field4,
                        fork,
                    },
                },
            },
            _ => Kind::Unknown,
        }
    }

    /// True for keys of the sparse space, whose absence means "nothing".
    pub const fn is_sparse(&self) -> bool {
        self.field1 >= METADATA_BEGIN && self.field1 < METADATA_END
    }

    /// True if a branch reads this key from its ancestor.
    pub const fn is_inherited(&self) -> bool {
        !(self.field1 == AUX_FILE_PREFIX
            || self.field1 == REPL_ORIGIN_PREFIX
            || matches!(self.kind(), Kind::AuxFilesV1))
    }

    /// True if the key survives the 128-bit compact form and may be written.
    pub const fn is_writable(&self) -> bool {
        self.field1 <= 0x7F
            && (self.field2 <= 0xFFFF || self.field2 == 0xFFFF_FFFF || self.field2 == 0x2222_2222)
    }

    /// The 128-bit compact form.
    pub const fn compact(&self) -> i128 {
        ((self.field1 & 0x7F) as i128) << 120
            | ((self.field2 & 0xFFFF) as i128) << 104
            | (self.field3 as i128) << 72
            | (self.field4 as i128) << 40
            | (self.field5 as i128) << 32
            | self.field6 as i128
    }

    /// The key with this compact form.
    pub const fn from_compact(c: i128) -> Key {
        let f2 = (c >> 104) as u32 & 0xFFFF;
        key(
            (c >> 120) as u8 & 0x7F,
            f2,
            (c >> 72) as u32,
            (c >> 40) as u32,
            (c >> 32) as u8,
            c as u32,
        )
    }

    /// The metadata key addressed by 16 raw bytes.
    pub const fn from_metadata(bytes: [u8; 16]) -> Key {
        Key::from_compact(i128::from_be_bytes(bytes))
    }

    /// The serialized form.
    pub const fn to_bytes(&self) -> [u8; KEY_SIZE] {
        let [a0, a1, a2, a3] = self.field2.to_be_bytes();
        let [b0, b1, b2, b3] = self.field3.to_be_bytes();
        let [c0, c1, c2, c3] = self.field4.to_be_bytes();
        let [d0, d1, d2, d3] = self.field6.to_be_bytes();
        [
            self.field1,
            a0,
            a1,
            a2,
            a3,
            b0,
            b1,
            b2,
            b3,
            c0,
            c1,
            c2,
            c3,
            self.field5,
            d0,
            d1,
            d2,
            d3,
        ]
    }

    /// The key with this serialized form.
    pub const fn from_bytes(b: &[u8; KEY_SIZE]) -> Key {
        let [
            f1,
            a0,
            a1,
            a2,
            a3,
            b0,
            b1,
            b2,
            b3,
            c0,
            c1,
            c2,
            c3,
            f5,
            d0,
            d1,
            d2,
            d3,
        ] = *b;
        key(
            f1,
            u32::from_be_bytes([a0, a1, a2, a3]),
            u32::from_be_bytes([b0, b1, b2, b3]),
            u32::from_be_bytes([c0, c1, c2, c3]),
            f5,
            u32::from_be_bytes([d0, d1, d2, d3]),
        )
    }

    /// Reads a serialized key.
    pub fn read(r: &mut be::Reader<'_>) -> Result<Key, be::Error> {
        Ok(Key::from_bytes(&r.array()?))
    }

    /// The key right behind this one; [`Key::MAX`] has no successor and stays.
    pub const fn next(&self) -> Key {
        self.add(1)
    }

    /// Adds `n` to the last field, carrying into the fields before it. Clamps at [`Key::MAX`].
    pub const fn add(&self, n: u32) -> Key {
        let mut k = *self;
        let (f6, carry) = k.field6.overflowing_add(n);
        k.field6 = f6;
        if !carry {
            return k;
        }
        let (f5, carry) = k.field5.overflowing_add(1);
        k.field5 = f5;
        if !carry {
            return k;
        }
        let (f4, carry) = k.field4.overflowing_add(1);
        k.field4 = f4;
        if !carry {
            return k;
        }
        let (f3, carry) = k.field3.overflowing_add(1);
        k.field3 = f3;
        if !carry {
            return k;
        }
        let (f2, carry) = k.field2.overflowing_add(1);
        k.field2 = f2;
        if !carry {
            return k;
        }
        let (f1, carry) = k.field1.overflowing_add(1);
        k.field1 = f1;
        if carry { Key::MAX } else { k }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|b| write!(f, "{b:02X}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Key {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut b = [0u8; KEY_SIZE];
        hex::decode_to_slice(s, &mut b)
            .map_err(|_| parse_error("key", s, "36 hexadecimal digits"))?;
        Ok(Key::from_bytes(&b))
    }
}

text_serde!(Key);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        (
            any::<u8>(),
            any::<u32>(),
            any::<u32>(),
            any::<u32>(),
            any::<u8>(),
            any::<u32>(),
        )
            .prop_map(|(a, b, c, d, e, f)| key(a, b, c, d, e, f))
    }

    proptest! {
        #[test]
        fn serialized_form_round_trips_and_keeps_order(a in any_key(), b in any_key()) {
            prop_assert_eq!(Key::from_bytes(&a.to_bytes()), a);
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(a.to_string().parse::<Key>().unwrap(), a);
        }

        #[test]
        fn writable_keys_survive_the_compact_form(mut a in any_key()) {
            a.field1 &= 0x7F;
            a.field2 &= 0xFFFF;
            prop_assert!(a.is_writable());
            prop_assert_eq!(Key::from_compact(a.compact()), a);
        }

        #[test]
        fn next_is_the_immediate_successor(a in any_key()) {
            prop_assume!(a != Key::MAX);
            let as_int = |k: Key| k.to_bytes().iter().fold(num(0), |n, b| n.times256_plus(*b));
            prop_assert_eq!(as_int(a).plus1(), as_int(a.next()));
        }
    }

    /// 144-bit counter, enough to check the carry.
    #[derive(PartialEq, Debug, Clone)]
    struct Num(Vec<u8>);
    fn num(_: u8) -> Num {
        Num(Vec::new())
    }
    impl Num {
        fn times256_plus(mut self, b: u8) -> Num {
            self.0.push(b);
            self
        }
        fn plus1(mut self) -> Num {
            for b in self.0.iter_mut().rev() {
                let (v, carry) = b.overflowing_add(1);
                *b = v;
                if !carry {
                    break;
                }
            }
            self
        }
    }

    #[test]
    fn kinds_are_recognised() {
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 16384,
            fork: Fork::Vm,
        };
        assert_eq!(
            Key::rel_block(rel, 3).kind(),
            Kind::RelBlock { rel, block: 3 }
        );
        assert_eq!(Key::rel_size(rel).kind(), Kind::RelSize { rel });
        assert_eq!(
            Key::rel_map(1664, 0).kind(),
            Kind::RelMap { spc: 1664, db: 0 }
        );
        assert_eq!(Key::DB_DIR.kind(), Kind::DbDir);
        let xid = 0x12_3456_789A_BCDE;
        assert_eq!(Key::two_phase_file(xid).kind(), Kind::TwoPhaseFile { xid });
        assert!(!Key::AUX_FILES_V1.is_inherited());
        assert!(Key::rel_dir_entry(rel).is_inherited());
    }
}
