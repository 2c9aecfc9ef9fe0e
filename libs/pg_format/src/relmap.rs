//! Relation maps (`pg_filenode.map`): file numbers of the few catalogs that cannot be looked up
//! in a catalog.
//!
//! Layout: magic u32, count u32, a fixed array of (relation oid, file number), CRC-32C of all
//! before, and in 14 and 15 four bytes of padding (`utils/cache/relmapper.c`).

use crate::le::u32_at;
use types::{Oid, PgMajor};

/// First word of the file.
pub const MAGIC: u32 = 0x0059_2717;

/// What a relation map can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the size this major uses.
    #[error("relation map of {found} bytes, Postgres {major} uses {expected}")]
    Size {
        /// Size in bytes.
        found: usize,
        /// The right one.
        expected: usize,
        /// Major it was read for.
        major: PgMajor,
    },
    /// The first word is another one.
    #[error("relation map starts with {0:08X}, expected {MAGIC:08X}")]
    Magic(u32),
    /// More entries than there is room for.
    #[error("relation map claims {count} entries, at most {max} fit")]
    Count {
        /// Stored count.
        count: u32,
        /// Room.
        max: u32,
    },
    /// CRC-32C mismatch.
    #[error("relation map CRC at offset {at} is {found:08X}, computed {computed:08X}")]
    Crc {
        /// Offset of the CRC.
        at: usize,
        /// The stored one.
        found: u32,
        /// The right one.
        computed: u32,
    },
}

/// Size of the file in bytes.
pub const fn file_size(major: PgMajor) -> usize {
    match major {
        PgMajor::V14 | PgMajor::V15 => 512,
        PgMajor::V16 | PgMajor::V17 | PgMajor::V18 => 524,
    }
}

/// Entries the file has room for.
pub const fn capacity(major: PgMajor) -> u32 {
    match major {
        PgMajor::V14 | PgMajor::V15 => 62,
        PgMajor::V16 | PgMajor::V17 | PgMajor::V18 => 64,
    }
}

/// A verified relation map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelMap<'a> {
    entries: &'a [[u8; 8]],
}

impl<'a> RelMap<'a> {
    /// Verifies size, magic, count and CRC.
    pub fn parse(bytes: &'a [u8], major: PgMajor) -> Result<RelMap<'a>, Error> {
        let (found, expected) = (bytes.len(), file_size(major));
        let size = Error::Size {
            found,
            expected,
            major,
        };
        if found != expected {
            return Err(size);
        }
        let max = capacity(major);
        let at = 8 + 8 * max as usize;
        let (body, tail) = bytes.split_at_checked(at).ok_or(size)?;
        let magic = u32_at(body, 0).ok_or(size)?;
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        let stored = u32_at(tail, 0).ok_or(size)?;
        let computed = types::crc32c::of(body);
        if stored != computed {
            return Err(Error::Crc {
                at,
                found: stored,
                computed,
            });
        }
        let count = u32_at(body, 4).ok_or(size)?;
        let all = body.get(8..).unwrap_or_default().as_chunks::<8>().0;
        let entries = all
            .get(..count as usize)
            .ok_or(Error::Count { count, max })?;
        Ok(RelMap { entries })
    }

    /// Pairs (relation oid, file number) in file order.
    pub fn iter(&self) -> impl Iterator<Item = (Oid, Oid)> + 'a {
        self.entries.iter().map(|[a, b, c, d, e, f, g, h]| {
            (
                u32::from_le_bytes([*a, *b, *c, *d]),
                u32::from_le_bytes([*e, *f, *g, *h]),
            )
        })
    }

    /// File number of a mapped relation.
    pub fn file_number(&self, relation: Oid) -> Option<Oid> {
        self.iter()
            .find(|(oid, _)| *oid == relation)
            .map(|(_, file)| file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(major: PgMajor, count: u32) -> Vec<u8> {
        let mut b = vec![0; file_size(major)];
        let at = 8 + 8 * capacity(major) as usize;
        b[..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[4..8].copy_from_slice(&count.to_le_bytes());
        b[8..16].copy_from_slice(&[0xEB, 4, 0, 0, 1, 64, 0, 0]);
        let crc = types::crc32c::of(&b[..at]);
        b[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The shared maps that initdb of 15 and 18 wrote.
    #[test]
    fn maps_of_real_clusters_are_understood() {
        for (major, bytes) in [
            (
                PgMajor::V15,
                &include_bytes!("../tests/data/pg_filenode_15.map")[..],
            ),
            (
                PgMajor::V18,
                &include_bytes!("../tests/data/pg_filenode_18.map")[..],
            ),
        ] {
            let map = RelMap::parse(bytes, major).unwrap();
            assert_eq!(map.file_number(1262), Some(1262), "pg_database");
            assert_eq!(map.file_number(1259), None, "pg_class is not shared");
            assert!(map.iter().count() > 20);
        }
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        for major in PgMajor::ALL {
            let good = build(major, 1);
            let map = RelMap::parse(&good, major).unwrap();
            assert_eq!(map.iter().collect::<Vec<_>>(), [(1259, 16385)]);
            assert!(matches!(
                RelMap::parse(&good[1..], major),
                Err(Error::Size { .. })
            ));
            let many = build(major, capacity(major) + 1);
            assert!(matches!(
                RelMap::parse(&many, major),
                Err(Error::Count { .. })
            ));
            let mut bad = good.clone();
            bad[9] ^= 1;
            assert!(matches!(RelMap::parse(&bad, major), Err(Error::Crc { .. })));
            bad[0] = 0;
            assert!(matches!(RelMap::parse(&bad, major), Err(Error::Magic(_))));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 500..530)) {
            for major in PgMajor::ALL {
                prop_assert!(RelMap::parse(&b, major).is_err());
            }
        }
    }
}
