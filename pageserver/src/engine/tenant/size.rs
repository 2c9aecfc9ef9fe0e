//! The synthetic size of a tenant: its timelines as inputs of the model, and logical sizes.

use super::Tenant;
use crate::engine::error::Result;
use crate::engine::synthetic_size::{
    Segment, SegmentMeta, Sizes, TimelineInput, calculate, segments,
};
use crate::engine::timeline::{Pin, State, Timeline};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::{Lsn, TimelineId};

/// Logical sizes that the last calculation used; they never change.
pub type LogicalSizes = BTreeMap<(TimelineId, Lsn), u64>;

/// What the size of a tenant is calculated from.
#[derive(Clone, Debug)]
pub struct SizeInputs {
    /// Segments of its history, with their logical sizes.
    pub segments: Vec<SegmentMeta>,
    /// What they were made from.
    pub timelines: Vec<TimelineInput>,
    /// True if the tenant has no timeline at all, not even one that does not count.
    pub empty: bool,
}

impl SizeInputs {
    /// The calculation. The size of a tenant that has timelines, none of which counts, is 1, so that
    /// it is not taken for one that was never asked for.
    pub fn calculate(&self) -> Sizes {
        let plain: Vec<Segment> = self.segments.iter().map(|m| m.segment).collect();
        let mut sizes = calculate(&plain);
        sizes.total = sizes.total.max(u64::from(!self.empty));
        sizes
    }
}

impl Tenant {
    /// Gathers what the size of the tenant depends on. Reads sizes of relations at all LSNs that
    /// matter and that the last call did not read; at most one call of a tenant does so at a time.
    ///
    /// # Errors
    /// Those of reading.
    pub async fn size_inputs(&self, max_retention: Option<u64>) -> Result<SizeInputs> {
        let mut known = self.logical_sizes.lock().await;
        let all = self.timelines();
        let counted: Vec<&Arc<Timeline>> = all.iter().filter(|t| counts(t)).collect();
        let mut timelines = Vec::with_capacity(counted.len());
        // The cutoffs stay readable until the sizes there are known.
        let mut pins = Vec::new();
        for timeline in &counted {
            let (input, pin) = input(timeline).await?;
            pins.push(pin);
            timelines.push(input);
        }
        let mut segments = segments(&timelines, max_retention);
        let mut used = BTreeSet::new();
        for meta in segments.iter_mut().filter(|m| m.wants_size()) {
            let lsn = Lsn(meta.segment.lsn);
            let place = (meta.timeline, lsn);
            let Some(timeline) = counted.iter().find(|t| t.id == meta.timeline) else {
                continue;
            };
            let size = match known.get(&place) {
                Some(size) => *size,
                None => timeline.exact_logical_size(lsn).await?,
            };
            known.insert(place, size);
            used.insert(place);
            meta.segment.size = Some(size);
        }
        known.retain(|place, _| used.contains(place));
        Ok(SizeInputs {
            segments,
            timelines,
            empty: all.is_empty(),
        })
    }
}

/// Whether a timeline counts at all.
fn counts(timeline: &Timeline) -> bool {
    timeline.state() == State::Active && !timeline.is_archived()
}

async fn input(timeline: &Timeline) -> Result<(TimelineInput, Pin)> {
    let planned = timeline.time_cutoff().await?;
    // Collection may have gone further meanwhile.
    let pin = timeline
        .pin(planned)
        .or_else(|_| timeline.pin(timeline.gc_cutoff()))?;
    let now = timeline.shared().env.clock.monotonic();
    let retention = timeline.retention();
    let input = TimelineInput {
        timeline: timeline.id,
        ancestor: timeline.ancestor().map(|(a, _)| a.id),
        ancestor_lsn: timeline.ancestor_lsn(),
        initdb_lsn: timeline.initdb_lsn(),
        last_record: timeline.last_record_lsn(),
        latest_gc_cutoff: timeline.gc_cutoff(),
        next_pitr_cutoff: pin.lsn(),
        branch_points: retention.branches().into_iter().map(|(_, at)| at).collect(),
        lease_points: retention
            .leases(now)
            .into_iter()
            .map(|(at, _)| at)
            .collect(),
        invisible: timeline.marks().invisible_at.is_some(),
    };
    Ok((input, pin))
}
