//! Timeline metadata, the member `metadata_bytes` of an index document: an object since index
//! version 7, before that 512 bytes written as an array of numbers (`docs/format/index_part.md`).

use serde::de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use types::be::{self, Reader};
use types::{Lsn, PgMajor, TimelineId, pg};

/// Length of the binary form in bytes.
pub const BINARY_SIZE: usize = 512;
/// Header of the binary form: CRC, length, version.
const BINARY_HEADER: usize = 8;

/// Where a timeline stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// All layers up to here are in the index; WAL behind it must be ingested again.
    pub disk_consistent_lsn: Lsn,
    /// Start of the last record; only known if everything was flushed.
    pub prev_record_lsn: Option<Lsn>,
    /// Parent of a branch.
    pub ancestor_timeline: Option<TimelineId>,
    /// Where the branch left its parent; 0/0 without one.
    pub ancestor_lsn: Lsn,
    /// History below may be gone.
    pub latest_gc_cutoff_lsn: Lsn,
    /// LSN of the data the first timeline was bootstrapped with.
    pub initdb_lsn: Lsn,
    /// Postgres major version.
    pub pg_version: PgMajor,
}

/// The binary form is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is cut off or invalid.
    #[error("timeline metadata: {0}")]
    Encoding(#[from] be::Error),
    /// Its checksum does not match.
    #[error("timeline metadata: CRC-32C {found:08x}, {expected:08x} expected")]
    Checksum {
        /// Of what was read.
        found: u32,
        /// In the header.
        expected: u32,
    },
    /// A length that cannot be.
    #[error("timeline metadata: length {0} is impossible")]
    Length(usize),
    /// A version this program does not know.
    #[error("timeline metadata: version {0}, 3 and 4 are supported")]
    Version(u16),
    /// A Postgres this program does not know.
    #[error("timeline metadata: {0}")]
    Postgres(#[from] pg::Unsupported),
}

impl Metadata {
    /// Decodes the binary form of versions 3 (Postgres 14 implied) and 4.
    pub fn from_binary(bytes: &[u8]) -> Result<Metadata, Error> {
        let mut r = Reader::new(bytes);
        let expected = r.u32()?;
        let length = usize::from(r.u16()?);
        let version = r.u16()?;
        if version != 3 && version != 4 {
            return Err(Error::Version(version));
        }
        let body = bytes
            .get(BINARY_HEADER..length)
            .ok_or(Error::Length(length))?;
        let found = types::crc32c::of(body);
        if found != expected {
            return Err(Error::Checksum { found, expected });
        }
        let mut r = Reader::new(body);
        let disk_consistent_lsn = Lsn(r.u64()?);
        let prev_record_lsn = match r.bool("presence of prev_record_lsn")? {
            true => Some(Lsn(r.u64()?)),
            false => None,
        };
        let ancestor_timeline = match r.bool("presence of ancestor_timeline")? {
            true => Some(TimelineId(r.array()?)),
            false => None,
        };
        let (ancestor_lsn, latest_gc_cutoff_lsn, initdb_lsn) =
            (Lsn(r.u64()?), Lsn(r.u64()?), Lsn(r.u64()?));
        let pg_version = if version == 3 {
            PgMajor::V14
        } else {
            PgMajor::try_from(r.u32()?)?
        };
        Ok(Metadata {
            disk_consistent_lsn,
            prev_record_lsn,
            ancestor_timeline,
            ancestor_lsn,
            latest_gc_cutoff_lsn,
            initdb_lsn,
            pg_version,
        })
    }
}

/// The object form, for deriving its reader.
#[derive(Deserialize)]
struct Object {
    disk_consistent_lsn: Lsn,
    #[serde(default)]
    prev_record_lsn: Option<Lsn>,
    #[serde(default)]
    ancestor_timeline: Option<TimelineId>,
    ancestor_lsn: Lsn,
    latest_gc_cutoff_lsn: Lsn,
    initdb_lsn: Lsn,
    pg_version: PgMajor,
}

impl From<Object> for Metadata {
    fn from(o: Object) -> Metadata {
        Metadata {
            disk_consistent_lsn: o.disk_consistent_lsn,
            prev_record_lsn: o.prev_record_lsn,
            ancestor_timeline: o.ancestor_timeline,
            ancestor_lsn: o.ancestor_lsn,
            latest_gc_cutoff_lsn: o.latest_gc_cutoff_lsn,
            initdb_lsn: o.initdb_lsn,
            pg_version: o.pg_version,
        }
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("timeline metadata as an object or an array of 512 bytes")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Metadata, A::Error> {
                Object::deserialize(MapAccessDeserializer::new(map)).map(Metadata::from)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Metadata, A::Error> {
                let mut bytes = Vec::with_capacity(BINARY_SIZE);
                while let Some(b) = seq.next_element::<u8>()? {
                    if bytes.len() == BINARY_SIZE {
                        return Err(serde::de::Error::invalid_length(BINARY_SIZE + 1, &self));
                    }
                    bytes.push(b);
                }
                Metadata::from_binary(&bytes).map_err(serde::de::Error::custom)
            }
        }
        d.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The published example: 70 bytes and zeros up to 512.
    pub(crate) fn example() -> Vec<u8> {
        let text = "4a689e6900460004000000000000020001000000000000010001112233445566778811223344\
                    556677880000000000000000000000000000000000000000000000000000001 0"
            .replace(char::is_whitespace, "");
        let mut b = hex::decode(text).unwrap();
        assert_eq!(b.len(), 70);
        b.resize(BINARY_SIZE, 0);
        b
    }

    fn decoded() -> Metadata {
        Metadata {
            disk_consistent_lsn: Lsn(0x200),
            prev_record_lsn: Some(Lsn(0x100)),
            ancestor_timeline: Some("11223344556677881122334455667788".parse().unwrap()),
            ancestor_lsn: Lsn(0),
            latest_gc_cutoff_lsn: Lsn(0),
            initdb_lsn: Lsn(0),
            pg_version: PgMajor::V16,
        }
    }

    #[test]
    fn published_binary_example() {
        assert_eq!(Metadata::from_binary(&example()), Ok(decoded()));
        let array = serde_json::to_string(&example()).unwrap();
        assert_eq!(serde_json::from_str::<Metadata>(&array).unwrap(), decoded());
        let object = serde_json::to_string(&decoded()).unwrap();
        assert_eq!(
            serde_json::from_str::<Metadata>(&object).unwrap(),
            decoded()
        );
        assert!(
            serde_json::from_str::<Metadata>(&serde_json::to_string(&vec![0; 513]).unwrap())
                .is_err()
        );
    }

    #[test]
    fn version_3_implies_postgres_14() {
        let mut b = example();
        b[7] = 3;
        b[5] = 66;
        let crc = types::crc32c::of(&b[8..66]);
        b[..4].copy_from_slice(&crc.to_be_bytes());
        let got = Metadata::from_binary(&b).unwrap();
        assert_eq!(
            got,
            Metadata {
                pg_version: PgMajor::V14,
                ..decoded()
            }
        );
    }

    #[test]
    fn damage_is_detected() {
        let good = example();
        for at in 0..70 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Metadata::from_binary(&bad).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Metadata::from_binary(&b);
        }
    }
}
