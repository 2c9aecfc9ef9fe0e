//! What can go wrong while a page is rebuilt.

use crate::name;
use crate::page;
use pg_wal::cursor::Short;
use pg_wal::record::{self, rmgr_name};
use types::{Key, Lsn};

/// Why one action on one page failed; [`Error`] adds which record and which page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The page contradicts itself or the record.
    #[error(transparent)]
    Page(#[from] page::Error),
    /// A structure in the record ends too early.
    #[error(transparent)]
    Short(#[from] Short),
    /// The record breaks a rule of its kind.
    #[error("{0}")]
    Rule(&'static str),
    /// Nothing here replays this record on this page.
    #[error("no redo action")]
    Unsupported,
}

/// A page that could not be rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The envelope of a record is malformed.
    #[error("WAL record ending at {lsn}, page {key}: {source}")]
    Record {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// What is malformed.
        source: record::Error,
    },
    /// The image in a record cannot be restored.
    #[error("{} ending at {lsn}, page {key}: full-page image: {source}", label(*rmid, *info))]
    Image {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// Resource manager.
        rmid: u8,
        /// The record's info byte.
        info: u8,
        /// What is wrong with it.
        source: pg_wal::image::Error,
    },
    /// A record cannot be applied to the page.
    #[error("{} ending at {lsn}, page {key}, block reference {block}: {fault}", label(*rmid, *info))]
    Action {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// Resource manager.
        rmid: u8,
        /// The record's info byte.
        info: u8,
        /// Id of the block reference.
        block: u8,
        /// The reason.
        fault: Fault,
    },
    /// No code here replays the record.
    #[error("{} ending at {lsn}, page {key}: this record type cannot be replayed", label(*rmid, *info))]
    Unsupported {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// Resource manager.
        rmid: u8,
        /// The record's info byte.
        info: u8,
    },
    /// The record does not touch the page.
    #[error("{} ending at {lsn} does not refer to page {key}", label(*rmid, *info))]
    NotReferenced {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// Resource manager.
        rmid: u8,
        /// The record's info byte.
        info: u8,
    },
    /// A change, but no page it could be applied to.
    #[error("page {key}: the record ending at {lsn} needs a base page and there is none")]
    MissingBase {
        /// End of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
    },
    /// The base handed in is not a page.
    #[error("page {key}: base of {len} bytes; 8192 expected, or 8200 for the commit log")]
    BaseSize {
        /// The page.
        key: Key,
        /// Its length in bytes.
        len: usize,
    },
    /// An internal record does not fit the key it is stored under.
    #[error("page {key}: {record} record at {lsn}: {rule}")]
    Internal {
        /// LSN of the record.
        lsn: Lsn,
        /// The page.
        key: Key,
        /// Kind of the record.
        record: &'static str,
        /// The rule broken.
        rule: &'static str,
    },
    /// The key does not name a page.
    #[error("{key} is not the key of a page")]
    NotAPage {
        /// The key.
        key: Key,
    },
}

fn label(rmid: u8, info: u8) -> String {
    format!(
        "{} {} (info {info:#04X}) record",
        rmgr_name(rmid),
        name::record(rmid, info)
    )
}
