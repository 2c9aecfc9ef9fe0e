//! Garbage collection: history that nobody can ask for any more leaves the layer map, then the
//! bucket.
//!
//! A layer goes when, for every LSN that stays readable at or above its start, newer images hold
//! all of its keys. The cutoff is raised first, in memory, where it waits for readers; the index
//! that leaves the layers out carries it; objects are deleted behind that index.

use super::{Held, LsnForTimestamp, Timeline};
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use crate::engine::layer_map::LayerMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::info;
use types::Lsn;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// In bytes of WAL; counts if `pitr` is zero.
    pub bytes: u64,
    /// As a span of time.
    pub pitr: Duration,
}

/// What a garbage collection found and did, in layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers there were.
    pub total: usize,
    /// Kept because they are newer than the cutoff.
    pub by_cutoff: usize,
    /// Kept for branches.
    pub by_branches: usize,
    /// Kept for leases and readers under way.
    pub by_leases: usize,
    /// Kept because no newer image holds their keys.
    pub not_updated: usize,
    /// Removed.
    pub removed: usize,
    /// Bytes of those.
    pub removed_bytes: u64,
    /// Reads below are refused from now on.
    pub cutoff: Lsn,
}

/// Layers being deleted. What is left of them when a deletion fails, or nobody waits for its end any
/// more, is deleted later.
struct Condemned<'a> {
    timeline: &'a Timeline,
    layers: Vec<Arc<Layer>>,
}

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        self.timeline.condemned.lock().append(&mut self.layers);
    }
}

enum Verdict {
    Cutoff,
    Branch,
    Lease,
    NotUpdated,
    Remove,
}

impl Timeline {
    /// The LSN below which history may go, as of now. Never below the present cutoff.
    ///
    /// # Errors
    /// Those of reading commit times.
    pub async fn planned_cutoff(&self, horizon: Horizon) -> Result<Lsn> {
        let planned = if horizon.pitr.is_zero() {
            self.last_record_lsn().saturating_sub(horizon.bytes)
        } else {
            self.cutoff_by_time(horizon.pitr).await?
        };
        // Only what is in files can go, and only what an image could hold.
        Ok(Lsn(planned.0 & !7)
            .min(self.disk_consistent_lsn())
            .max(self.gc_cutoff()))
    }

    /// Where the span of time begins for which the tenant keeps history; the newest LSN if it keeps
    /// none by time. Never below the present cutoff.
    ///
    /// # Errors
    /// Those of reading commit times.
    pub async fn time_cutoff(&self) -> Result<Lsn> {
        let pitr = self.shared.conf.load().pitr_interval;
        let planned = if pitr.is_zero() {
            self.last_record_lsn()
        } else {
            self.cutoff_by_time(pitr).await?
        };
        Ok(Lsn(planned.0 & !7).max(self.gc_cutoff()))
    }

    /// The newest LSN whose commits are all older than `span`; the present cutoff if none is known.
    async fn cutoff_by_time(&self, span: Duration) -> Result<Lsn> {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let time = self.shared.env.postgres_now().saturating_sub(span);
        Ok(match self.lsn_for_timestamp(time).await? {
            LsnForTimestamp::Present(lsn) | LsnForTimestamp::Future(lsn) => lsn,
            LsnForTimestamp::Past(_) | LsnForTimestamp::NoData(_) => self.gc_cutoff(),
        })
    }

    /// Collects garbage: raises the cutoff and removes layers that nobody can need. Does nothing while
    /// a timeline of the tenant blocks collection.
    pub async fn gc(&self, horizon: Horizon) -> Result<Collected> {
        let _one_at_a_time = self.compacting.lock().await;
        self.check_active()?;
        let Some(_allowed) = self.shared.collection.begin().await else {
            return Ok(Collected::default());
        };
        let planned = self.planned_cutoff(horizon).await?;
        let target = Lsn(self.retention.spare_standbys(planned).0 & !7);
        let metrics = &self.shared.metrics;
        metrics.set_standby_horizon(self.tenant, self.id, None);
        let before = self.gc_cutoff();
        let (cutoff, held) = self
            .retention
            .advance(target, self.shared.env.clock.monotonic());
        if cutoff > before {
            self.look_for_waste.store(true, Ordering::Release);
            self.unsettle();
        }
        let map = self.layers();
        let mut result = Collected {
            total: map.file_count(),
            cutoff,
            ..Collected::default()
        };
        let mut remove: Vec<Arc<Layer>> = Vec::new();
        for layer in map.files() {
            match verdict(&map, layer, cutoff, &held) {
                Verdict::Cutoff => result.by_cutoff += 1,
                Verdict::Branch => result.by_branches += 1,
                Verdict::Lease => result.by_leases += 1,
                Verdict::NotUpdated => result.not_updated += 1,
                Verdict::Remove => {
                    result.removed += 1;
                    result.removed_bytes += layer.size();
                    remove.push(Arc::clone(layer));
                }
            }
        }
        if !remove.is_empty() {
            self.replace(&remove, Vec::new());
            self.request_upload();
            info!(tenant = %self.tenant, timeline = %self.id, %cutoff, removed = result.removed, bytes = result.removed_bytes, "garbage collected");
            self.shared.metrics.collected(&result);
        }
        Ok(result)
    }

    /// Layers that no index in the bucket names any more and nobody reads are deleted, from the
    /// bucket and from disk. The generation was validated behind that index.
    pub(super) async fn sweep(&self) -> Result<()> {
        let free: Vec<Arc<Layer>> = {
            let mut condemned = self.condemned.lock();
            let all = std::mem::take(&mut *condemned);
            let (free, held) = all.into_iter().partition(|l| Arc::strong_count(l) == 1);
            *condemned = held;
            free
        };
        let mut free = Condemned {
            timeline: self,
            layers: free,
        };
        if free.layers.is_empty() {
            return Ok(());
        }
        let ours = free.layers.iter();
        let ours = ours.filter(|l| l.entry().shard == self.tenant.shard);
        let keys: Vec<String> = ours
            .map(|l| l.object_key(&self.tenant.tenant, &self.id))
            .collect();
        self.shared.env.bucket.delete(&keys).await?;
        let mut failed = None;
        free.layers.retain(
            |layer| match self.shared.env.disk.remove(&layer.local_path()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    failed = Some(e);
                    true
                }
                _ => false,
            },
        );
        failed.map_or(Ok(()), |e| Err(e.into()))
    }

    /// The layers that an index made from now on leaves out.
    pub(super) fn retired(&self) -> Vec<Arc<Layer>> {
        self.retired.lock().clone()
    }

    /// That index is in the bucket.
    pub(super) fn condemn(&self, layers: Vec<Arc<Layer>>) {
        self.retired
            .lock()
            .retain(|r| !layers.iter().any(|l| Arc::ptr_eq(l, r)));
        if !layers.is_empty() {
            self.condemned.lock().extend(layers);
            self.look_soon();
        }
    }

    /// Layers on their way out of the bucket.
    pub fn layers_to_delete(&self) -> usize {
        self.retired.lock().len() + self.condemned.lock().len()
    }

    /// False in the first lease length after loading, within which those who hold a lease that an
    /// earlier process granted renew it.
    pub fn may_collect(&self) -> bool {
        let now = self.shared.env.clock.monotonic();
        now.saturating_sub(self.loaded) >= self.shared.conf.load().lsn_lease_length
    }

    /// True if it is time to collect garbage.
    pub(super) fn gc_is_due(&self, now: Duration) -> bool {
        let period = self.shared.conf.load().gc_period;
        let last = Duration::from_micros(self.last_gc_us.load(Ordering::Acquire));
        !period.is_zero() && now.saturating_sub(last) >= period && self.may_collect()
    }

    /// Collects garbage if it is time to.
    pub(in crate::engine) async fn gc_if_due(&self) -> Result<()> {
        let conf = self.shared.conf.load_full();
        let now = self.shared.env.clock.monotonic();
        if !self.gc_is_due(now) {
            return Ok(());
        }
        let us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.last_gc_us.store(us, Ordering::Release);
        let horizon = Horizon {
            bytes: conf.gc_horizon,
            pitr: conf.pitr_interval,
        };
        match self.gc(horizon).await {
            Ok(_) | Err(Error::Precondition(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Why a layer stays, or that it goes.
fn verdict(map: &LayerMap, layer: &Layer, cutoff: Lsn, held: &Held) -> Verdict {
    // The lowest LSN at which an image holds all that the layer does.
    let from = if layer.is_delta() {
        Lsn(layer.lsns().end.0.saturating_sub(1))
    } else {
        layer.lsns().end
    };
    if from > cutoff {
        return Verdict::Cutoff;
    }
    let start = layer.lsns().start;
    let lowest = |points: &[Lsn]| points.get(points.partition_point(|p| *p < start)).copied();
    for (points, verdict) in [
        (&held.branches, Verdict::Branch),
        (&held.leases, Verdict::Lease),
    ] {
        if let Some(point) = lowest(points)
            && !map.image_exists(layer.keys(), from, point)
        {
            return verdict;
        }
    }
    if map.image_exists(layer.keys(), from, cutoff) {
        Verdict::Remove
    } else {
        Verdict::NotUpdated
    }
}
