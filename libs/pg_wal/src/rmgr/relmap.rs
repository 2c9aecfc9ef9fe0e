//! Relation map records (`utils/relmapper.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Oid, PgMajor};

/// Length of `pg_filenode.map` in bytes.
pub const fn map_size(version: PgMajor) -> usize {
    match version {
        PgMajor::V14 | PgMajor::V15 => 512,
        PgMajor::V16 | PgMajor::V17 | PgMajor::V18 => 524,
    }
}

/// A new relation map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update<'a> {
    /// Database; 0 for the shared map.
    pub db: Oid,
    /// Tablespace.
    pub spc: Oid,
    /// Contents of the file.
    pub map: &'a [u8],
}

impl<'a> Update<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Update<'a>, Error> {
        if rec.op() != 0 {
            return Err(opcode::unknown(&rec.header, version));
        }
        let mut c = Cursor::new(rec.main, "relation map update");
        let (db, spc) = (c.u32()?, c.u32()?);
        let len = c.i32()?;
        if usize::try_from(len) != Ok(map_size(version)) {
            return Err(Error::Invalid {
                what: "relation map update",
                at: 8,
                rule: "wrong length of the map",
                value: i64::from(len),
            });
        }
        Ok(Update {
            db,
            spc,
            map: c.take(map_size(version))?,
        })
    }
}
