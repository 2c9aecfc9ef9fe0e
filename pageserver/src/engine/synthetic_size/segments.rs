//! From what is known of a tenant's timelines to the segments of its history.

use super::model::Segment;
use std::collections::BTreeMap;
use types::{Lsn, TimelineId};

/// What stands at the end of a segment. The order is that of segments that end at one LSN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Beginning of a timeline.
    BranchStart,
    /// Where a child leaves.
    BranchPoint,
    /// History of the timeline is kept from here on.
    GcCutOff,
    /// Newest LSN of a timeline.
    BranchEnd,
    /// A lease, on the main line of its timeline.
    LeasePoint,
    /// The same as the beginning of a branch without length.
    LeaseStart,
    /// The end of that branch.
    LeaseEnd,
}

/// A segment and where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentMeta {
    /// The segment.
    pub segment: Segment,
    /// Whose history it is.
    pub timeline: TimelineId,
    /// What stands at its end.
    pub kind: Kind,
}

impl SegmentMeta {
    /// True if the calculation takes the logical size at the segment's end into account.
    pub fn wants_size(&self) -> bool {
        match self.kind {
            Kind::BranchPoint | Kind::GcCutOff | Kind::LeasePoint => true,
            Kind::BranchStart => self.segment.needed && self.segment.parent.is_none(),
            Kind::BranchEnd | Kind::LeaseStart | Kind::LeaseEnd => false,
        }
    }
}

/// What the size of a tenant depends on, of one timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineInput {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it comes from.
    pub ancestor: Option<TimelineId>,
    /// Branch point; invalid for a root.
    pub ancestor_lsn: Lsn,
    /// Beginning of the history.
    pub initdb_lsn: Lsn,
    /// Newest LSN.
    pub last_record: Lsn,
    /// Reads below are refused.
    pub latest_gc_cutoff: Lsn,
    /// Where the span of time begins for which history is kept.
    pub next_pitr_cutoff: Lsn,
    /// Branch points of loaded children.
    pub branch_points: Vec<Lsn>,
    /// Leases that have not ended.
    pub lease_points: Vec<Lsn>,
    /// Hidden from the size: only what its children need counts.
    pub invisible: bool,
}

impl TimelineInput {
    fn start(&self) -> Lsn {
        self.ancestor_lsn.max(self.initdb_lsn)
    }

    /// The cutoff if at most `bytes` of WAL count as history.
    pub fn retention_cutoff(&self, bytes: u64) -> Lsn {
        self.last_record.saturating_sub(bytes)
    }

    fn cutoff(&self, max_retention: Option<u64>) -> Lsn {
        let shortened = max_retention.map(|bytes| self.retention_cutoff(bytes));
        shortened.map_or(self.next_pitr_cutoff, |l| l.max(self.next_pitr_cutoff))
    }

    /// What stands on the main line behind its beginning, ascending.
    fn points(&self, cutoff: Lsn) -> Vec<(Lsn, Kind)> {
        let own = |l: &&Lsn| **l > self.ancestor_lsn;
        let children = self.branch_points.iter().filter(own);
        let mut points: Vec<(Lsn, Kind)> = children.map(|l| (*l, Kind::BranchPoint)).collect();
        if !self.invisible {
            let leases = self.lease_points.iter().filter(own);
            points.extend(leases.map(|l| (*l, Kind::LeasePoint)));
            if cutoff > self.start() {
                points.push((cutoff, Kind::GcCutOff));
            }
        }
        points.sort_unstable();
        points.dedup();
        points
    }
}

/// The segments under construction.
#[derive(Default)]
struct Builder {
    segments: Vec<SegmentMeta>,
    /// Where each timeline begins, and where its children leave.
    starts: BTreeMap<TimelineId, usize>,
    branch_points: BTreeMap<(TimelineId, Lsn), usize>,
}

impl Builder {
    fn push(
        &mut self,
        timeline: TimelineId,
        kind: Kind,
        parent: Option<usize>,
        lsn: Lsn,
        needed: bool,
    ) -> usize {
        self.segments.push(SegmentMeta {
            segment: Segment {
                parent,
                lsn: lsn.0,
                size: None,
                needed,
            },
            timeline,
            kind,
        });
        self.segments.len() - 1
    }

    /// All segments of one timeline; the first is not linked to its ancestor yet.
    fn timeline(&mut self, input: &TimelineInput, max_retention: Option<u64>) {
        let (id, cutoff, start) = (input.timeline, input.cutoff(max_retention), input.start());
        let mut last = self.push(id, Kind::BranchStart, None, start, cutoff <= start);
        self.starts.insert(id, last);
        let mut end = start;
        for (lsn, kind) in input.points(cutoff) {
            let needed = lsn > cutoff;
            last = self.push(id, kind, Some(last), lsn, needed);
            end = lsn;
            if kind == Kind::BranchPoint {
                self.branch_points.insert((id, lsn), last);
            }
            if kind == Kind::LeasePoint {
                let branch = self.push(id, Kind::LeaseStart, Some(last), lsn, needed);
                self.push(id, Kind::LeaseEnd, Some(branch), lsn, true);
            }
        }
        if !input.invisible {
            end = input.last_record;
        }
        self.push(id, Kind::BranchEnd, Some(last), end, true);
    }

    /// Where on its ancestor a timeline begins. A child that left where the ancestor itself begins
    /// has no branch point of its own.
    fn origin(&self, input: &TimelineInput) -> Option<usize> {
        let ancestor = input.ancestor?;
        let point = self.branch_points.get(&(ancestor, input.ancestor_lsn));
        point.or_else(|| self.starts.get(&ancestor)).copied()
    }
}

/// The segments of all timelines, without sizes. At most `max_retention` bytes of WAL of each count
/// as history, if given. A timeline whose ancestor is not among them counts as a root.
pub fn segments(timelines: &[TimelineInput], max_retention: Option<u64>) -> Vec<SegmentMeta> {
    let mut builder = Builder::default();
    for input in timelines {
        builder.timeline(input, max_retention);
    }
    for input in timelines {
        let origin = builder.origin(input);
        let start = builder.starts.get(&input.timeline);
        if let Some(meta) = start.and_then(|at| builder.segments.get_mut(*at)) {
            meta.segment.parent = origin;
        }
    }
    builder.segments
}
