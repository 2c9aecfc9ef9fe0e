//! Database records (`commands/dbcommands_xlog.h`).

use super::{Error, U32s, list, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Oid, PgMajor};

/// A database record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dbase<'a> {
    /// All files of a database's directory are copied.
    CopyFiles {
        /// Database created.
        db: Oid,
        /// In this tablespace.
        spc: Oid,
        /// Database copied.
        src_db: Oid,
        /// From this tablespace.
        src_spc: Oid,
    },
    /// A directory is created; its contents follow in their own records (15 and later).
    CreateEmpty {
        /// Database created.
        db: Oid,
        /// In this tablespace.
        spc: Oid,
    },
    /// A database's directories are removed.
    Drop {
        /// The database.
        db: Oid,
        /// The tablespaces it is removed from.
        tablespaces: U32s<'a>,
    },
}

impl<'a> Dbase<'a> {
    /// Parses a record of this manager. The numbering changed in 15.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<Dbase<'a>, Error> {
        let mut c = Cursor::new(rec.main, "database record");
        match (rec.op(), version) {
            (0x00, _) => Ok(Dbase::CopyFiles {
                db: c.u32()?,
                spc: c.u32()?,
                src_db: c.u32()?,
                src_spc: c.u32()?,
            }),
            (0x10, PgMajor::V15 | PgMajor::V16 | PgMajor::V17 | PgMajor::V18) => {
                Ok(Dbase::CreateEmpty {
                    db: c.u32()?,
                    spc: c.u32()?,
                })
            }
            (0x10, PgMajor::V14)
            | (0x20, PgMajor::V15 | PgMajor::V16 | PgMajor::V17 | PgMajor::V18) => {
                Ok(Dbase::Drop {
                    db: c.u32()?,
                    tablespaces: U32s(list(&mut c, "database removal")?),
                })
            }
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
