//! Standby records (`storage/standbydefs.h`).

use super::{Error, opcode};
use crate::cursor::Cursor;
use crate::record::Record;
use types::PgMajor;

/// A standby record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standby {
    /// A snapshot of running transactions.
    RunningXacts {
        /// Next transaction id.
        next_xid: u32,
        /// Oldest one still running.
        oldest_running_xid: u32,
        /// Newest one that ended.
        latest_completed_xid: u32,
    },
    /// Locks or cache invalidations: no effect on pages.
    Other,
}

impl Standby {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'_>, version: PgMajor) -> Result<Standby, Error> {
        let mut c = Cursor::new(rec.main, "running transactions");
        match rec.op() {
            0x10 => {
                // Counts of transactions and subtransactions, overflow flag.
                c.skip(12)?;
                Ok(Standby::RunningXacts {
                    next_xid: c.u32()?,
                    oldest_running_xid: c.u32()?,
                    latest_completed_xid: c.u32()?,
                })
            }
            0x00 | 0x20 => Ok(Standby::Other),
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
