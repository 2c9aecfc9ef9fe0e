//! Turns a Postgres write-ahead log into versioned key/value pairs.
//!
//! [`Ingest`] takes verified records one by one, in LSN order, and hands [`types::Batch`]es to a
//! [`Store`]. It promises:
//!
//! * every effect of a record carries the record's end LSN, and at most one value exists per
//!   (key, LSN);
//! * the LSN that readers may use moves only when everything at or below it was written;
//! * the page a value chain leads to is the page of a physical standby that replayed up to the
//!   same LSN, except for hint bits, checksums, the free-space map and unlogged relations;
//! * an unknown built-in record type, a malformed record and an inconsistent state are errors that
//!   name the record; afterwards the records before it can still be committed, and nothing else
//!   can be done with the [`Ingest`].
//!
//! Memory is bounded by the batch limits, the caches' limits, one record, and the directory of
//! relations of the databases in use. Large copies and long runs of empty pages are written in
//! several batches that become visible together.
//!
//! Records of extension resource managers are accepted: their block references are stored and
//! pages they carry images of stay readable; replaying them is the reader's problem.
//!
//! [`import`] maps the files of a data directory to keys. What it does not do: find WAL, decode
//! the stream, replay pages, choose where values are kept. Commit timestamps are not kept, user
//! tablespaces are refused, the relation directory is written in its first form only
//! (`docs/format/values.md`). Multixact offsets are kept one entry per record; whoever hands out
//! an offsets page to a server fills each zero entry below the next multixact with the value of the
//! following non-zero one, at the end with the next member offset.

#![forbid(unsafe_code)]

pub mod aux_file;
mod blocks;
mod cache;
mod config;
mod database;
mod error;
mod event;
pub mod import;
mod ingest;
mod multixact;
mod pending;
mod relation;
mod slru;
mod smgr;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod visibility;
mod xact;
mod xlog;

pub use config::{Config, Limits};
pub use error::{At, Cause, Error};
pub use event::{Counters, Event};
pub use ingest::Ingest;
pub use store::{Store, StoreError};
