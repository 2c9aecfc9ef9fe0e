//! A tenant shard: what it holds, and its end. How timelines come and go is in [`load`],
//! [`create`], [`archive`], [`detach`] and [`delete`]; what the tenant costs in [`size`].

mod archive;
mod create;
mod delete;
mod detach;
mod load;
mod size;

pub use create::Branch;
pub use detach::{Detach, Levels};
pub use size::SizeInputs;

use super::error::{Error, Result};
use super::generation::Record;
use super::shared::Shared;
use super::timeline::{State, Timeline};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tracing::warn;
use types::{Generation, Lsn, TenantShardId, TimelineId};

impl Changing {
    /// Timelines that are becoming children of `id`.
    fn coming(&self, id: TimelineId) -> impl Iterator<Item = TimelineId> {
        let created = self.creating.iter().filter(move |(_, a)| **a == Some(id));
        let moved = self.moving.iter().filter(move |(_, a)| *a == id);
        created.map(|(c, _)| *c).chain(moved.map(|(c, _)| *c))
    }
}

/// A tenant shard that is attached here.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantShardId,
    /// Generation of this attachment.
    pub generation: Generation,
    /// What its timelines share.
    pub shared: Arc<Shared>,
    timelines: RwLock<BTreeMap<TimelineId, Arc<Timeline>>>,
    /// Timelines that exist but could not be loaded, with their ancestors.
    unloaded: Mutex<BTreeMap<TimelineId, Option<TimelineId>>>,
    changing: Mutex<Changing>,
    record: RwLock<Record>,
    /// Held while the record is changed, so that what is known of it here is the newest.
    recording: tokio::sync::Mutex<()>,
    logical_sizes: tokio::sync::Mutex<size::LogicalSizes>,
}

/// What is being created and deleted. A timeline whose deletion was begun gets no branches any more,
/// and one that is being branched is not deleted.
#[derive(Debug, Default)]
struct Changing {
    /// Timelines in creation, with their ancestors.
    creating: BTreeMap<TimelineId, Option<TimelineId>>,
    /// Timelines whose deletion was begun; true while it is under way. One that failed may have
    /// left its mark, which counts at the next start, and may still be on its way to the bucket:
    /// until it is repeated and succeeds the id is not used again.
    deleting: BTreeMap<TimelineId, bool>,
    /// Timelines that are being archived or unarchived.
    archiving: BTreeSet<TimelineId>,
    /// The timeline that is being detached from its ancestor.
    detaching: Option<TimelineId>,
    /// Timelines that are getting another ancestor, which is given. More than one if attempts failed:
    /// the bucket may have any of them.
    moving: BTreeSet<(TimelineId, TimelineId)>,
    /// Branches whose index was sent and never answered for: the bucket may have it, or get it yet.
    unsure: BTreeMap<TimelineId, Origin>,
}

/// Where a branch leaves its ancestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    ancestor: TimelineId,
    at: Lsn,
}

impl Tenant {
    /// A tenant whose timelines are not loaded yet.
    pub fn assemble(
        id: TenantShardId,
        generation: Generation,
        record: Record,
        shared: Arc<Shared>,
    ) -> Arc<Tenant> {
        Arc::new(Tenant {
            id,
            generation,
            shared,
            timelines: RwLock::default(),
            unloaded: Mutex::default(),
            changing: Mutex::default(),
            record: RwLock::new(record),
            recording: tokio::sync::Mutex::default(),
            logical_sizes: tokio::sync::Mutex::default(),
        })
    }

    fn insert(&self, timeline: Arc<Timeline>) {
        let now = self.shared.env.clock.monotonic();
        self.shared.timers.add(&timeline, now);
        self.shared.metrics.timelines.inc();
        self.timelines.write().insert(timeline.id, timeline);
    }

    /// A timeline by id.
    pub fn timeline(&self, id: TimelineId) -> Result<Arc<Timeline>> {
        self.timelines
            .read()
            .get(&id)
            .cloned()
            .ok_or(Error::TimelineNotFound {
                tenant: self.id,
                timeline: id,
            })
    }

    /// All timelines, by id.
    pub fn timelines(&self) -> Vec<Arc<Timeline>> {
        let mut all: Vec<_> = self.timelines.read().values().cloned().collect();
        all.sort_by_key(|t| t.id);
        all
    }

    /// Settings, name and timeline names as stored in the bucket.
    pub fn record(&self) -> Record {
        self.record.read().clone()
    }

    /// Changes the stored record, in the bucket first.
    pub async fn update_record(&self, change: impl Fn(&mut Record)) -> Result<()> {
        let lease = self.shared.lease.as_ref().ok_or_else(|| {
            Error::Precondition("this tenant's settings belong to a control plane".into())
        })?;
        let _one_at_a_time = self.recording.lock().await;
        let record = lease.update(&self.shared.env, change).await?;
        *self.record.write() = record;
        Ok(())
    }

    /// Children of a timeline, those included that could not be loaded, are being created, or may have
    /// been created.
    pub fn children(&self, id: TimelineId) -> BTreeSet<TimelineId> {
        let changing = self.changing.lock();
        self.all_children(id, &changing)
    }

    fn all_children(&self, id: TimelineId, changing: &Changing) -> BTreeSet<TimelineId> {
        let coming = changing.coming(id);
        let unsure = changing.unsure.iter().filter(|(_, o)| o.ancestor == id);
        let has = |t: &Timeline| t.ancestor().is_some_and(|(a, _)| a.id == id);
        let unloaded = self.unloaded.lock();
        let absent = unloaded.iter().filter(|(_, a)| **a == Some(id));
        self.timelines
            .read()
            .values()
            .filter(|t| has(t))
            .map(|t| t.id)
            .chain(absent.map(|(id, _)| *id))
            .chain(coming)
            .chain(unsure.map(|(id, _)| *id))
            .collect()
    }

    /// Stops all timelines. With `flush`, everything in memory is made durable first.
    pub async fn stop(&self, flush: bool) {
        for timeline in self.timelines() {
            if flush
                && timeline.state() == State::Active
                && let Err(e) = timeline.checkpoint().await
            {
                warn!(tenant = %self.id, timeline = %timeline.id, "not flushed at shutdown, WAL will be fetched again: {e}");
            }
            timeline.stop().await;
        }
        self.shared.cancel.cancel();
    }
}
