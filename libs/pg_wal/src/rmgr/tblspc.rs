//! Tablespace records (`commands/tablespace.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Oid, PgMajor};

/// A tablespace record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tblspc<'a> {
    /// A tablespace is created.
    Create {
        /// Its id.
        spc: Oid,
        /// Its location on the primary, without the NUL.
        path: &'a [u8],
    },
    /// A tablespace is removed.
    Drop {
        /// Its id.
        spc: Oid,
    },
}

impl<'a> Tblspc<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Tblspc<'a>, Error> {
        let mut c = Cursor::new(rec.main, "tablespace record");
        match rec.op() {
            0x00 => {
                let spc = c.u32()?;
                let rest = c.rest();
                let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
                Ok(Tblspc::Create {
                    spc,
                    path: rest.get(..end).unwrap_or_default(),
                })
            }
            0x10 => Ok(Tblspc::Drop { spc: c.u32()? }),
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
