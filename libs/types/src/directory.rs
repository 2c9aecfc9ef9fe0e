//! Directory values: which databases, relations, SLRU segments and prepared transactions exist
//! (`docs/format/values.md`). Encoded order carries no meaning; we write ascending order.

use crate::be::{Error, Reader};
use crate::rel::{Fork, Oid};
use bytes::{BufMut, Bytes};
use std::collections::{BTreeMap, BTreeSet};

/// Databases: (tablespace, database) to "has relation map and version file".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DbDirectory {
    /// The entries.
    pub dbs: BTreeMap<(Oid, Oid), bool>,
}

impl DbDirectory {
    /// The serialized form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.dbs.len() * 9);
        out.put_u64(self.dbs.len() as u64);
        for ((spc, db), flag) in &self.dbs {
            out.put_u32(*spc);
            out.put_u32(*db);
            out.put_u8(u8::from(*flag));
        }
        out.into()
    }

    /// Decodes a complete serialized form.
    pub fn decode(buf: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(buf);
        let n = r.count(9)?;
        let dbs = (0..n)
            .map(|_| Ok(((r.u32()?, r.u32()?), r.bool("has relation map")?)))
            .collect::<Result<_, Error>>()?;
        r.finish()?;
        Ok(DbDirectory { dbs })
    }
}

/// Relation forks of one database in one tablespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelDirectory {
    /// (relation file number, fork).
    pub rels: BTreeSet<(Oid, Fork)>,
}

impl RelDirectory {
    /// The serialized form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.rels.len() * 5);
        out.put_u64(self.rels.len() as u64);
        for (rel, fork) in &self.rels {
            out.put_u32(*rel);
            out.put_u8(*fork as u8);
        }
        out.into()
    }

    /// Decodes a complete serialized form.
    pub fn decode(buf: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(buf);
        let n = r.count(5)?;
        let rels = (0..n)
            .map(|_| {
                let rel = r.u32()?;
                let at = r.position();
                let f = r.u8()?;
                let fork = Fork::from_u8(f).ok_or(Error::Invalid {
                    at,
                    what: "fork",
                    value: u64::from(f),
                })?;
                Ok((rel, fork))
            })
            .collect::<Result<_, Error>>()?;
        r.finish()?;
        Ok(RelDirectory { rels })
    }
}

/// Segments of one SLRU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlruDirectory {
    /// Segment numbers.
    pub segments: BTreeSet<u32>,
}

impl SlruDirectory {
    /// The serialized form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.segments.len() * 4);
        out.put_u64(self.segments.len() as u64);
        self.segments.iter().for_each(|s| out.put_u32(*s));
        out.into()
    }

    /// Decodes a complete serialized form.
    pub fn decode(buf: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(buf);
        let n = r.count(4)?;
        let segments = (0..n).map(|_| r.u32()).collect::<Result<_, Error>>()?;
        r.finish()?;
        Ok(SlruDirectory { segments })
    }
}

/// Prepared transactions. Stored as u32 up to Postgres 16 and as u64 from 17 on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TwoPhaseDirectory {
    /// Transaction ids; 32-bit values up to Postgres 16.
    pub xids: BTreeSet<u64>,
}

impl TwoPhaseDirectory {
    /// The serialized form; `wide` from Postgres 17 on.
    pub fn encode(&self, wide: bool) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.xids.len() * 8);
        out.put_u64(self.xids.len() as u64);
        for x in &self.xids {
            if wide {
                out.put_u64(*x);
            } else {
                out.put_u32(*x as u32);
            }
        }
        out.into()
    }

    /// Decodes a complete serialized form; `wide` from Postgres 17 on.
    pub fn decode(buf: &[u8], wide: bool) -> Result<Self, Error> {
        let mut r = Reader::new(buf);
        let n = r.count(if wide { 8 } else { 4 })?;
        let xids = (0..n)
            .map(|_| {
                if wide {
                    r.u64()
                } else {
                    r.u32().map(u64::from)
                }
            })
            .collect::<Result<_, Error>>()?;
        r.finish()?;
        Ok(TwoPhaseDirectory { xids })
    }
}

/// Encodes a relation or SLRU segment size (u32, little-endian pages).
pub fn encode_size(blocks: u32) -> Bytes {
    Bytes::copy_from_slice(&blocks.to_le_bytes())
}

/// Decodes a relation or SLRU segment size.
pub fn decode_size(buf: &[u8]) -> Result<u32, Error> {
    let mut r = Reader::new(buf);
    let n = u32::from_le_bytes(r.array()?);
    r.finish()?;
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        let d = DbDirectory {
            dbs: [((1663, 5), true)].into(),
        };
        assert_eq!(
            hex::encode(d.encode()),
            "00000000000000010000067f0000000501"
        );
        assert_eq!(DbDirectory::decode(&d.encode()).unwrap(), d);
        let r = RelDirectory {
            rels: [(16384, Fork::Main)].into(),
        };
        assert_eq!(hex::encode(r.encode()), "00000000000000010000400000");
        assert_eq!(RelDirectory::decode(&r.encode()).unwrap(), r);
    }

    #[test]
    fn a_hostile_count_is_refused_before_any_allocation() {
        assert!(matches!(
            SlruDirectory::decode(&[0xFF; 12]),
            Err(Error::Count { .. })
        ));
    }

    #[test]
    fn two_phase_width_follows_the_version() {
        let d = TwoPhaseDirectory {
            xids: [7, 0x1_0000_0007].into(),
        };
        assert_eq!(TwoPhaseDirectory::decode(&d.encode(true), true).unwrap(), d);
        assert_eq!(
            TwoPhaseDirectory::decode(&d.encode(true), false).unwrap_err(),
            Error::Trailing(8)
        );
    }
}
