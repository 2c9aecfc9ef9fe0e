//! Native redo of Postgres WAL: one page, its records, the page Postgres itself would have made.
//!
//! A request is a key, an optional base image and the records that touch the key, oldest first;
//! the answer is the page as Postgres's own recovery leaves it, apart from bits Postgres treats
//! as not logged ([`mask`]). No redo action reads another block's contents, so a page can be
//! rebuilt alone.
//!
//! * Input is never trusted: a malformed record or page gives an [`Error`] that names the
//!   resource manager, the record type, the LSN and the page. Nothing panics and nothing is
//!   allocated per record; the page is built in the caller's [`PageBuf`].
//! * Records of Postgres 14 to 18 and all their minor releases are accepted; where a minor
//!   changed a record, the contents of the record decide.
//! * [`oracle`] replays a WAL stream written with `wal_consistency_checking` and compares every
//!   page with the one Postgres had.
//!
//! What it does not do: free-space-map updates (a hint, Postgres logs none), the visibility-map
//! bits that heap records clear without naming the map page (ingest makes records of its own for
//! them), page checksums, and resource managers of extensions.
//! Layouts: `docs/format/redo.md`.

#![forbid(unsafe_code)]

mod buf;
mod error;
pub mod mask;
pub mod name;
pub mod oracle;
pub mod page;

pub(crate) mod action;
mod brin;
pub(crate) mod btree;
mod generic;
mod gin;
mod gist;
mod hash;
pub(crate) mod heap;
mod index;
mod redo;
mod sequence;
mod slru;
mod spgist;
mod vm;

pub use buf::{MAX_LEN, PageBuf};
pub use error::{Error, Fault};
pub use redo::{Dialect, Outcome, Stats, apply, apply_postgres, reconstruct};
