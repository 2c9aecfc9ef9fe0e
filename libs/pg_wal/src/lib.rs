//! Postgres write-ahead log, majors 14 to 18: from a byte stream to verified records, and from a
//! record to its parts.
//!
//! Pure functions from bytes to bytes. Malformed input gives an error, never a panic, and no
//! allocation is larger than a limit with a name. Source of the layouts: `docs/format/wal.md`
//! (Postgres headers `access/xlogrecord.h`, `access/xlog_internal.h` and the rmgr headers).

#![forbid(unsafe_code)]

pub mod cursor;
pub mod image;
pub mod record;
pub mod rmgr;
pub mod stream;

pub use record::{Block, Record, View};
