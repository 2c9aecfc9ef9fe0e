//! The vocabulary of the project: positions in WAL, identifiers, keys, values and the
//! small encodings they share.
//!
//! Pure: no clock, no I/O, no async runtime. Everything that reaches a disk or a bucket is
//! described in `docs/format/`.

#![forbid(unsafe_code)]

pub mod batch;
pub mod be;
pub mod crc32c;
pub mod directory;
pub mod generation;
pub mod id;
pub mod key;
pub mod keyspace;
pub mod lsn;
pub mod pg;
pub mod rel;
pub mod shard;
pub mod value;

pub use batch::Batch;
pub use generation::Generation;
pub use id::{TenantId, TenantShardId, TimelineId};
pub use key::Key;
pub use keyspace::KeyRange;
pub use lsn::Lsn;
pub use pg::{Flavour, PgMajor};
pub use rel::{BlockNumber, Fork, Oid, RelTag, SlruKind};
pub use value::{Value, WalRecord};

/// Size of a database page and of a layer-file block, in bytes.
pub const PAGE_SIZE: usize = 8192;
