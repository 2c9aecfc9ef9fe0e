//! Commit log records (`access/clog.h`).

use super::{Error, opcode, slru_page};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Oid, PgMajor};

/// Transactions per commit log page.
pub const XIDS_PER_PAGE: u32 = 32768;
/// Pages the commit log can have.
pub const PAGES: u32 = (1 << 31) / (XIDS_PER_PAGE / 2);

/// A commit log record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clog {
    /// A page comes into being, all zero.
    ZeroPage(u32),
    /// Pages before this one go away.
    Truncate {
        /// First page that stays.
        page: u32,
        /// Oldest transaction whose status is kept.
        oldest_xid: u32,
        /// Database that needs it.
        oldest_xid_db: Oid,
    },
}

impl Clog {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'_>, version: PgMajor) -> Result<Clog, Error> {
        let mut c = Cursor::new(rec.main, "commit log record");
        match rec.op() {
            0x00 => Ok(Clog::ZeroPage(slru_page(
                &mut c,
                "commit log",
                version,
                PAGES,
            )?)),
            0x10 => Ok(Clog::Truncate {
                page: slru_page(&mut c, "commit log", version, PAGES)?,
                oldest_xid: c.u32()?,
                oldest_xid_db: c.u32()?,
            }),
            _ => Err(opcode::unknown(&rec.header, version)),
        }
    }
}
