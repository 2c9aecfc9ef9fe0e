//! Transaction records (`access/xact.h`) and the state of prepared transactions
//! (`access/transam/twophase.c`).

use super::{Error, U32s, list, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Lsn, Oid, PgMajor};

/// Bits of `xl_info` that name the record type.
pub const OP_MASK: u8 = 0x70;
/// Flag in `xl_info`: the xinfo field is present.
pub const HAS_INFO: u8 = 0x80;
/// First word of a prepared transaction's state.
pub const TWO_PHASE_MAGIC: u32 = 0x57F9_4534;
/// Bytes of CRC behind the state in a file; counted in the state's own length field.
pub const TWO_PHASE_CRC: usize = 4;

const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
const INVALIDATIONS: u8 = 0x60;

const HAS_DBINFO: u32 = 0x001;
const HAS_SUBXACTS: u32 = 0x002;
const HAS_RELS: u32 = 0x004;
const HAS_INVALS: u32 = 0x008;
const HAS_TWOPHASE: u32 = 0x010;
const HAS_ORIGIN: u32 = 0x020;
const HAS_GID: u32 = 0x080;
const HAS_STATS: u32 = 0x100;

/// Relations to delete: (tablespace, database, relation) each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Relations<'a>(&'a [[u8; 12]]);

impl<'a> Relations<'a> {
    /// Number of relations.
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// True without relations.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// (tablespace, database, relation) in record order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (Oid, Oid, Oid)> + 'a {
        self.0.iter().map(|b| {
            let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *b;
            (
                u32::from_le_bytes([a0, a1, a2, a3]),
                u32::from_le_bytes([b0, b1, b2, b3]),
                u32::from_le_bytes([c0, c1, c2, c3]),
            )
        })
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome<'a> {
    /// Committed; otherwise aborted.
    pub committed: bool,
    /// It had been prepared.
    pub prepared: bool,
    /// The transaction: from the payload if prepared, otherwise of the record.
    pub xid: u32,
    /// Microseconds since 2000-01-01.
    pub time: i64,
    /// Its subtransactions.
    pub subxids: U32s<'a>,
    /// Relations that go with it.
    pub relations: Relations<'a>,
    /// Position in the origin's WAL and its time, if it was replicated.
    pub origin: Option<(Lsn, i64)>,
}

/// State of a transaction that was prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepared<'a> {
    /// The transaction.
    pub xid: u32,
    /// The state without its CRC.
    pub state: &'a [u8],
    /// Position in the origin's WAL; invalid without one.
    pub origin_lsn: Lsn,
    /// Its subtransactions.
    pub subxids: U32s<'a>,
}

impl<'a> Prepared<'a> {
    /// Parses a state without its trailing CRC.
    pub fn parse(state: &'a [u8], version: PgMajor) -> Result<Prepared<'a>, Error> {
        const WHAT: &str = "state of a prepared transaction";
        let mut c = Cursor::new(state, WHAT);
        let magic = c.u32()?;
        if magic != TWO_PHASE_MAGIC {
            return Err(Error::Invalid {
                what: WHAT,
                at: 0,
                rule: "wrong magic number",
                value: i64::from(magic),
            });
        }
        let total = c.u32()?;
        if usize::try_from(total).ok() != state.len().checked_add(TWO_PHASE_CRC) {
            return Err(Error::Invalid {
                what: WHAT,
                at: 4,
                rule: "length field does not match the state's length",
                value: i64::from(total),
            });
        }
        let xid = c.u32()?;
        // Database, time of preparation, owner.
        c.skip(4 + 8 + 4)?;
        let at = c.position();
        let subs = c.i32()?;
        let counts = if version >= PgMajor::V15 { 5 } else { 3 };
        c.skip(counts * 4)?;
        // Invalidation flag and padding.
        c.skip(2)?;
        let gid_len = usize::from(c.u16()?);
        let origin_lsn = Lsn(c.u64()?);
        c.skip(8)?;
        c.skip(gid_len)?;
        c.align(8)?;
        let n = usize::try_from(subs).map_err(|_| Error::Invalid {
            what: WHAT,
            at,
            rule: "a count must not be negative",
            value: i64::from(subs),
        })?;
        Ok(Prepared {
            xid,
            state,
            origin_lsn,
            subxids: U32s(super::elements(&mut c, n)?),
        })
    }
}

/// A transaction record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xact<'a> {
    /// A transaction ended.
    End(Outcome<'a>),
    /// A transaction was prepared.
    Prepare(Prepared<'a>),
    /// Subtransaction assignment or cache invalidations: no effect on pages.
    Other,
}

impl<'a> Xact<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Xact<'a>, Error> {
        match rec.header.info & OP_MASK {
            COMMIT => outcome(rec, version, true, false).map(Xact::End),
            ABORT => outcome(rec, version, false, false).map(Xact::End),
            COMMIT_PREPARED => outcome(rec, version, true, true).map(Xact::End),
            ABORT_PREPARED => outcome(rec, version, false, true).map(Xact::End),
            PREPARE => Prepared::parse(rec.main, version).map(Xact::Prepare),
            ASSIGNMENT | INVALIDATIONS => Ok(Xact::Other),
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}

fn outcome<'a>(
    rec: &Record<'a>,
    version: PgMajor,
    committed: bool,
    prepared: bool,
) -> Result<Outcome<'a>, Error> {
    const WHAT: &str = "transaction end";
    let mut c = Cursor::new(rec.main, WHAT);
    let time = c.i64()?;
    let info = if rec.header.info & HAS_INFO != 0 {
        c.u32()?
    } else {
        0
    };
    let mut out = Outcome {
        committed,
        prepared,
        xid: rec.header.xid,
        time,
        subxids: U32s::default(),
        relations: Relations::default(),
        origin: None,
    };
    if info & HAS_DBINFO != 0 {
        c.skip(8)?;
    }
    if info & HAS_SUBXACTS != 0 {
        out.subxids = U32s(list(&mut c, WHAT)?);
    }
    if info & HAS_RELS != 0 {
        out.relations = Relations(list(&mut c, WHAT)?);
    }
    if info & HAS_STATS != 0 && version >= PgMajor::V15 {
        if version >= PgMajor::V18 {
            list::<16>(&mut c, WHAT)?;
        } else {
            list::<12>(&mut c, WHAT)?;
        }
    }
    if committed && info & HAS_INVALS != 0 {
        list::<16>(&mut c, WHAT)?;
    }
    let mut payload_xid = None;
    if info & HAS_TWOPHASE != 0 {
        payload_xid = Some(c.u32()?);
        if info & HAS_GID != 0 {
            let len = c
                .rest()
                .iter()
                .position(|b| *b == 0)
                .ok_or(Error::Invalid {
                    what: WHAT,
                    at: c.position(),
                    rule: "the transaction's name is not terminated",
                    value: 0,
                })?;
            c.skip(len + 1)?;
        }
    }
    if info & HAS_ORIGIN != 0 {
        out.origin = Some((Lsn(c.u64()?), c.i64()?));
    }
    if prepared {
        out.xid = payload_xid.ok_or(Error::Invalid {
            what: WHAT,
            at: 8,
            rule: "the end of a prepared transaction does not name it",
            value: i64::from(info),
        })?;
    }
    Ok(out)
}
