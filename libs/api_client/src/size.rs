//! What a tenant costs: the answer of `GET /v1/tenant/{t}/synthetic_size`.

use serde::{Deserialize, Serialize};
use types::{Lsn, TenantId, TimelineId};

/// How a segment of history is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Method {
    /// As a copy of all data at its end.
    SnapshotHere,
    /// As WAL.
    Wal,
    /// Not at all.
    Skipped,
}

/// What stands at the end of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Beginning of a timeline.
    BranchStart,
    /// Where a child leaves.
    BranchPoint,
    /// History is kept from here on.
    GcCutOff,
    /// Newest LSN of a timeline.
    BranchEnd,
    /// A lease.
    LeasePoint,
    /// Beginning of the branch that a lease counts as.
    LeaseStart,
    /// Its end.
    LeaseEnd,
}

/// The size of a tenant, and how it came about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TenantSize {
    /// The tenant.
    pub id: TenantId,
    /// Bytes of data and WAL; absent if only the inputs were asked for.
    pub size: Option<u64>,
    /// What each segment costs; absent if only the inputs were asked for.
    pub segment_sizes: Option<Vec<SegmentSize>>,
    /// What it was calculated from.
    pub inputs: Inputs,
}

/// What one segment costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentSize {
    /// How it is kept.
    pub method: Method,
    /// Bytes of it and all behind it.
    pub accum_size: u64,
}

/// What a size is calculated from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// Segments of history.
    pub segments: Vec<SegmentMeta>,
    /// The timelines they belong to.
    pub timeline_inputs: Vec<TimelineInput>,
}

/// A segment and where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// The segment.
    pub segment: Segment,
    /// Whose history it is.
    pub timeline_id: TimelineId,
    /// What stands at its end.
    pub kind: Kind,
}

/// A stretch of history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Position of the segment before it.
    pub parent: Option<usize>,
    /// Where it ends, as a number.
    pub lsn: u64,
    /// Logical size there in bytes, where it matters.
    pub size: Option<u64>,
    /// It must stay readable.
    pub needed: bool,
}

/// A timeline as the size depends on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineInput {
    /// The timeline.
    pub timeline_id: TimelineId,
    /// Where it comes from.
    pub ancestor_id: Option<TimelineId>,
    /// Branch point.
    pub ancestor_lsn: Lsn,
    /// Newest LSN.
    pub last_record: Lsn,
    /// Reads below are refused.
    pub latest_gc_cutoff: Lsn,
    /// Where the span of time begins for which history is kept.
    pub next_pitr_cutoff: Lsn,
    /// The cutoff by the retention that was asked for.
    pub retention_param_cutoff: Option<Lsn>,
    /// Leases that have not ended.
    pub lease_points: Vec<Lsn>,
}
