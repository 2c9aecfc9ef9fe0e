//! Properties of the timeline and limits.

use types::shard::ShardIdentity;
use types::{Flavour, Lsn, PgMajor};

/// Limits of one [`crate::Ingest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Records per batch.
    pub batch_records: usize,
    /// Bytes of values per batch; a batch exceeds it by at most one record's values.
    pub batch_bytes: usize,
    /// Relation sizes kept in memory.
    pub cached_sizes: usize,
    /// Decoded relation directories kept in memory.
    pub cached_directories: usize,
    /// Empty pages that one block reference may leave behind the end of a relation.
    pub gap_blocks: u32,
}

impl Limits {
    /// Records per batch.
    pub const BATCH_RECORDS: usize = 1000;
    /// Bytes of values per batch.
    pub const BATCH_BYTES: usize = 8 << 20;
    /// Relation sizes kept in memory (about 2 MiB).
    pub const CACHED_SIZES: usize = 32_768;
    /// Relation directories kept in memory.
    pub const CACHED_DIRECTORIES: usize = 64;
    /// 32 GiB: the largest split of a hash index allocates its new buckets by writing the last one.
    pub const GAP_BLOCKS: u32 = 4 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_records: Self::BATCH_RECORDS,
            batch_bytes: Self::BATCH_BYTES,
            cached_sizes: Self::CACHED_SIZES,
            cached_directories: Self::CACHED_DIRECTORIES,
            gap_blocks: Self::GAP_BLOCKS,
        }
    }
}

/// Properties of the timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Version of the WAL.
    pub version: PgMajor,
    /// Who writes the WAL.
    pub flavour: Flavour,
    /// Which keys are kept.
    pub shard: ShardIdentity,
    /// End of an online import: at or below it the imported files may be newer than the WAL, so a
    /// transaction may be prepared twice.
    pub import_end: Option<Lsn>,
    /// Limits.
    pub limits: Limits,
}

impl Config {
    /// An unsharded timeline fed by an unmodified Postgres, default limits.
    pub fn new(version: PgMajor) -> Self {
        Config {
            version,
            flavour: Flavour::Vanilla,
            shard: ShardIdentity::UNSHARDED,
            import_end: None,
            limits: Limits::default(),
        }
    }
}
