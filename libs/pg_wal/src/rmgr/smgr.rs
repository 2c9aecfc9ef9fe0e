//! Storage manager records (`catalog/storage_xlog.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{BlockNumber, Fork, PgMajor, RelTag};

/// Truncate flag: the heap itself.
pub const TRUNCATE_HEAP: i32 = 1;
/// Truncate flag: the visibility map.
pub const TRUNCATE_VM: i32 = 2;
/// Truncate flag: the free-space map.
pub const TRUNCATE_FSM: i32 = 4;

/// A storage manager record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Smgr {
    /// A fork comes into being, empty.
    Create(RelTag),
    /// A relation is cut.
    Truncate {
        /// Its main fork.
        rel: RelTag,
        /// Heap blocks that remain.
        blocks: BlockNumber,
        /// Which forks are cut, `TRUNCATE_*`.
        flags: i32,
    },
}

impl Smgr {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'_>, version: PgMajor) -> Result<Smgr, Error> {
        let mut c = Cursor::new(rec.main, "storage manager record");
        match rec.op() {
            0x10 => {
                let (spc, db, rel) = (c.u32()?, c.u32()?, c.u32()?);
                let at = c.position();
                let n = c.i32()?;
                let fork = u8::try_from(n)
                    .ok()
                    .and_then(Fork::from_u8)
                    .ok_or(Error::Invalid {
                        what: "relation creation",
                        at,
                        rule: "unknown fork",
                        value: i64::from(n),
                    })?;
                Ok(Smgr::Create(RelTag { spc, db, rel, fork }))
            }
            0x20 => {
                let blocks = c.u32()?;
                let rel = RelTag {
                    spc: c.u32()?,
                    db: c.u32()?,
                    rel: c.u32()?,
                    fork: Fork::Main,
                };
                Ok(Smgr::Truncate {
                    rel,
                    blocks,
                    flags: c.i32()?,
                })
            }
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
