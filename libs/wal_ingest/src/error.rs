//! Why ingest stopped.

use crate::store::StoreError;
use pg_wal::record::rmgr_name;
use std::fmt;
use types::{BlockNumber, Key, Lsn, Oid, RelTag, be};

/// The record that was being ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Start of the record.
    pub start: Lsn,
    /// Resource manager.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let At { start, rmid, info } = self;
        write!(
            f,
            "WAL record at {start} ({} {info:#04x})",
            rmgr_name(*rmid)
        )
    }
}

/// Ingest cannot go on.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// The record, unless the failure has nothing to do with one.
    pub at: Option<At>,
    /// The reason.
    #[source]
    pub cause: Cause,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.cause),
            None => fmt::Display::fmt(&self.cause, f),
        }
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        Error { at: None, cause }
    }
}

/// The reason.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The store failed.
    #[error("the timeline's storage failed: {0}")]
    Store(#[from] StoreError),
    /// The record's envelope is malformed.
    #[error(transparent)]
    Envelope(#[from] pg_wal::record::Error),
    /// The record's main data is malformed, or its type is unknown.
    #[error(transparent)]
    Main(#[from] pg_wal::rmgr::Error),
    /// A full-page image cannot be restored.
    #[error("image of {rel} block {block}: {source}")]
    Image {
        /// Relation fork.
        rel: RelTag,
        /// Block.
        block: BlockNumber,
        /// The reason.
        source: pg_wal::image::Error,
    },
    /// A record that consists of images lacks one.
    #[error("{rel} block {block}: a full-page image record without the image")]
    NoImage {
        /// Relation fork.
        rel: RelTag,
        /// Block.
        block: BlockNumber,
    },
    /// A stored value cannot be decoded.
    #[error("stored value of key {key}: {source}")]
    Value {
        /// The key.
        key: Key,
        /// The reason.
        source: be::Error,
    },
    /// A stored checkpoint cannot be decoded.
    #[error("stored checkpoint: {0}")]
    Checkpoint(#[from] pg_format::checkpoint::WrongSize),
    /// The stored control file cannot be decoded.
    #[error("stored control file: {0}")]
    Control(#[from] pg_format::control::Error),
    /// A value that must exist does not.
    #[error("key {key} must exist but does not")]
    Missing {
        /// The key.
        key: Key,
    },
    /// A record would give one key two values.
    #[error("the record changes key {key} twice")]
    Duplicate {
        /// The key.
        key: Key,
    },
    /// A block reference names what cannot exist.
    #[error("{rel} block {block}: not a valid block reference")]
    Reference {
        /// Relation fork.
        rel: RelTag,
        /// Block.
        block: BlockNumber,
    },
    /// A tablespace other than the two built-in ones.
    #[error(
        "tablespace {spc} is not supported: only pg_default (1663) and pg_global (1664) are; \
             move its contents to pg_default and drop it on the primary, then import again"
    )]
    Tablespace {
        /// The tablespace.
        spc: Oid,
    },
    /// A reference far behind the end of a relation.
    #[error("{rel} block {block} lies more than {limit} pages behind the end at {size}")]
    Gap {
        /// Relation fork.
        rel: RelTag,
        /// Block.
        block: BlockNumber,
        /// Size of the fork in pages.
        size: u32,
        /// The limit in pages.
        limit: u32,
    },
    /// A record end that no record can have.
    #[error("record end {end} is not a multiple of 8 behind the start {start}")]
    Position {
        /// Start.
        start: Lsn,
        /// End.
        end: Lsn,
    },
    /// A transaction was prepared that is prepared already.
    #[error("transaction {xid} is prepared twice")]
    PreparedTwice {
        /// The transaction.
        xid: u64,
    },
    /// A transaction id from before the first epoch.
    #[error("transaction {xid} lies before the first one")]
    Xid {
        /// The id.
        xid: u32,
    },
    /// An earlier record failed; nothing can follow it.
    #[error("ingest stopped at an earlier record and must be loaded again")]
    Stopped,
}
