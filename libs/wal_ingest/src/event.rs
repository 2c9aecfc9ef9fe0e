//! What a caller may want to know about a record.

use types::Lsn;

/// Something a record says beyond changing values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing.
    None,
    /// The record ends at or below the last one ingested; it was ignored.
    AlreadyIngested,
    /// A base backup that began at `start` ended: an import that began there is consistent.
    BackupEnd {
        /// Redo position the backup began at.
        start: Lsn,
    },
    /// The Postgres timeline changed.
    TimelineSwitch {
        /// Timeline before.
        previous: u32,
        /// Timeline from here on.
        timeline: u32,
        /// End of the last record of the old timeline.
        at: Lsn,
    },
    /// Settings changed that a standby must match; the stored control file follows.
    ParameterChange,
    /// A checkpoint.
    Checkpoint {
        /// Written by a shutdown.
        shutdown: bool,
    },
    /// A transaction committed.
    Commit {
        /// Commit time, microseconds since 2000-01-01.
        time: i64,
    },
}

/// What was ingested since the start. Only ever grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Records.
    pub records: u64,
    /// Pages stored as images taken from records.
    pub images: u64,
    /// Pages stored as records.
    pub deltas: u64,
    /// Empty pages stored for gaps.
    pub gap_pages: u64,
    /// Relation forks and databases that were to be created but existed.
    pub created_twice: u64,
    /// Relations, databases and prepared transactions that were to be removed but did not exist.
    /// Normal for relations; for the others only below the end of an import.
    pub missing: u64,
    /// SLRU pages that a record changed but no record had created; treated as zeros.
    pub slru_pages_made_up: u64,
}
