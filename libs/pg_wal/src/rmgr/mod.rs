//! Main-data structures of the records that ingest interprets, one file per resource manager.
//!
//! Parsers borrow from the record and allocate nothing; a list stays a slice of the record's
//! bytes, so its length is bounded by the record's. Layouts: `docs/format/wal.md` and the
//! `*xlog.h`/`*desc.c` headers of Postgres 14 to 18. Block references are not looked at here.

pub mod clog;
pub mod dbase;
pub mod heap;
pub mod logicalmsg;
pub mod multixact;
pub mod opcode;
pub mod origin;
pub mod relmap;
pub mod smgr;
pub mod standby;
pub mod tblspc;
pub mod xact;
pub mod xlog;

use crate::cursor::{Cursor, Short};
use types::PgMajor;

/// A record whose main data does not follow its resource manager's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The main data ends early.
    #[error(transparent)]
    Short(#[from] Short),
    /// The record type does not exist in this version.
    #[error(
        "unknown record type {info:#04x} of resource manager {rmid} ({name}) in Postgres {version} WAL"
    )]
    Opcode {
        /// Resource manager id.
        rmid: u8,
        /// Its name.
        name: &'static str,
        /// `xl_info`.
        info: u8,
        /// Version of the WAL.
        version: PgMajor,
    },
    /// A field holds a value it cannot have.
    #[error("{what}: offset {at}: {rule} (found {value})")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// Offset in the main data.
        at: usize,
        /// The rule that is broken.
        rule: &'static str,
        /// What was found.
        value: i64,
    },
    /// A block reference the record type must have is missing.
    #[error("{what}: block reference {id} is missing")]
    MissingBlock {
        /// The record type.
        what: &'static str,
        /// Block id.
        id: u8,
    },
    /// The main data has another length than the dialect of the timeline prescribes: the WAL was
    /// written by the other kind of server.
    #[error(
        "{what}: {actual} bytes of main data where {dialect} WAL has {expected}: \
             the timeline is configured for the wrong kind of Postgres"
    )]
    Dialect {
        /// The record type.
        what: &'static str,
        /// Bytes found.
        actual: usize,
        /// Bytes expected.
        expected: usize,
        /// The configured dialect.
        dialect: &'static str,
    },
}

/// Reads a count (i32) of elements of `N` bytes and borrows the elements.
fn list<'a, const N: usize>(
    c: &mut Cursor<'a>,
    what: &'static str,
) -> Result<&'a [[u8; N]], Error> {
    let at = c.position();
    let n = c.i32()?;
    let count = usize::try_from(n).map_err(|_| Error::Invalid {
        what,
        at,
        rule: "a count must not be negative",
        value: i64::from(n),
    })?;
    elements(c, count)
}

/// Borrows `count` elements of `N` bytes.
fn elements<'a, const N: usize>(c: &mut Cursor<'a>, count: usize) -> Result<&'a [[u8; N]], Error> {
    Ok(c.take(count.saturating_mul(N))?.as_chunks::<N>().0)
}

/// A list of little-endian u32 inside a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct U32s<'a>(pub &'a [[u8; 4]]);

impl<'a> U32s<'a> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// True without elements.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The elements in record order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|b| u32::from_le_bytes(*b))
    }
}

/// Reads an SLRU page number: i32 up to 16, i64 from 17 on. `pages` is the number of pages the
/// SLRU can have.
fn slru_page(
    c: &mut Cursor<'_>,
    what: &'static str,
    version: PgMajor,
    pages: u32,
) -> Result<u32, Error> {
    let at = c.position();
    let page = if version >= PgMajor::V17 {
        c.i64()?
    } else {
        i64::from(c.i32()?)
    };
    u32::try_from(page)
        .ok()
        .filter(|p| *p < pages)
        .ok_or(Error::Invalid {
            what,
            at,
            rule: "page number out of range",
            value: page,
        })
}

#[cfg(test)]
mod tests;
