//! Replication origin records (`replication/origin.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Lsn, PgMajor};

/// A replication origin record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Replay of an origin reached a position.
    Set {
        /// The origin.
        id: u16,
        /// Position in the origin's WAL.
        lsn: Lsn,
    },
    /// An origin is removed.
    Drop {
        /// The origin.
        id: u16,
    },
}

impl Origin {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'_>, version: PgMajor) -> Result<Origin, Error> {
        let mut c = Cursor::new(rec.main, "replication origin record");
        match rec.op() {
            0x00 => {
                let lsn = Lsn(c.u64()?);
                Ok(Origin::Set { id: c.u16()?, lsn })
            }
            0x10 => Ok(Origin::Drop { id: c.u16()? }),
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
