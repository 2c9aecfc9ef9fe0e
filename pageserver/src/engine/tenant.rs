//! A tenant shard: its timelines, loaded from the bucket, created, branched and deleted.

use super::error::{Error, Result};
use super::generation::Record;
use super::layer::Layer;
use super::shared::Shared;
use super::timeline::{Parts, State, Timeline};
use bucket::Kind as BucketKind;
use layer_format::Metadata;
use layer_format::index_part::{IndexPart, Vanilla};
use layer_format::path;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};
use types::{Generation, Lsn, PgMajor, TenantShardId, TimelineId};

/// How long a branch waits for its ancestor to reach the branch point.
const BRANCH_WAIT: Duration = Duration::from_secs(30);
/// Longest ancestry accepted when loading, against loops.
const MAX_DEPTH: usize = 1000;

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
}

/// What is being created and deleted. A timeline whose deletion was begun gets no branches any more,
/// and one that is being branched is not deleted.
#[derive(Debug, Default)]
struct Changing {
    /// Timelines in creation, with their ancestors.
    creating: BTreeMap<TimelineId, Option<TimelineId>>,
    /// Timelines whose deletion was begun; true while it is under way. One that failed may have
    /// left its mark, which counts at the next start.
    deleting: BTreeMap<TimelineId, bool>,
}

/// What a new branch starts from.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// Id of the new timeline.
    pub id: TimelineId,
    /// Its ancestor.
    pub ancestor: TimelineId,
    /// Branch point; the ancestor's newest LSN if absent.
    pub at: Option<Lsn>,
}

/// An import that never became readable.
fn is_unfinished(index: &IndexPart) -> bool {
    index
        .vanilla
        .as_ref()
        .and_then(|v| v.import.as_ref())
        .is_some_and(|i| !i.done)
}

/// The end of a deletion, successful or not.
struct Deletion<'a> {
    tenant: &'a Tenant,
    id: TimelineId,
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        let mut changing = self.tenant.changing.lock();
        if let Some(running) = changing.deleting.get_mut(&self.id) {
            *running = false;
        }
    }
}

struct Reservation<'a> {
    tenant: &'a Tenant,
    id: TimelineId,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.tenant.changing.lock().creating.remove(&self.id);
    }
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
        })
    }

    /// Loads all timelines that the bucket knows. Timelines whose deletion or import was
    /// interrupted are returned for their owner to finish: (id, index).
    pub async fn load(self: &Arc<Self>) -> Result<Vec<(TimelineId, IndexPart)>> {
        let mut indexes = BTreeMap::new();
        let mut unfinished = Vec::new();
        let buried = self.record.read().deleted_timelines.clone();
        for id in self.list_timelines().await? {
            if buried.contains(&id) {
                info!(tenant = %self.id, timeline = %id, "removing what is left of a deleted timeline");
                if let Err(e) = self.remove_timeline_data(id).await {
                    warn!(tenant = %self.id, timeline = %id, "cannot be removed now, will be tried at the next start: {e}");
                }
                continue;
            }
            match self.newest_index(id).await? {
                None => {
                    warn!(tenant = %self.id, timeline = %id, "no index in the bucket, not a timeline")
                }
                Some(index) if index.deleted_at.is_some() || is_unfinished(&index) => {
                    unfinished.push((id, index));
                }
                Some(index) => {
                    indexes.insert(id, index);
                }
            }
        }
        let branches: Vec<(TimelineId, Lsn, TimelineId)> = indexes
            .iter()
            .filter_map(|(id, i)| {
                let ancestor = i.metadata.ancestor_timeline?;
                Some((*id, i.metadata.ancestor_lsn, ancestor))
            })
            .collect();
        // Ancestors first; what has no loadable ancestor is left over.
        for _ in 0..MAX_DEPTH {
            let ready: Vec<TimelineId> = indexes
                .iter()
                .filter(|(_, i)| {
                    i.metadata
                        .ancestor_timeline
                        .is_none_or(|a| self.timelines.read().contains_key(&a))
                })
                .map(|(id, _)| *id)
                .collect();
            if ready.is_empty() {
                break;
            }
            for id in ready {
                let Some(index) = indexes.remove(&id) else {
                    continue;
                };
                let ancestor = index.metadata.ancestor_timeline;
                if let Err(e) = self.load_timeline(id, index).await {
                    warn!(tenant = %self.id, timeline = %id, "cannot be loaded: {e}");
                    self.unloaded.lock().insert(id, ancestor);
                }
            }
        }
        for (id, at, ancestor) in branches {
            // Whether it could be loaded or not: its history is not to be collected.
            if let Ok(ancestor) = self.timeline(ancestor) {
                ancestor.retention().restore_branch(id, at);
            }
        }
        for (id, index) in indexes {
            let ancestor = index.metadata.ancestor_timeline;
            self.unloaded.lock().insert(id, ancestor);
            warn!(tenant = %self.id, timeline = %id, ancestor = ?index.metadata.ancestor_timeline, "cannot be loaded: its ancestor is missing");
        }
        self.remove_strangers()?;
        Ok(unfinished)
    }

    async fn list_timelines(&self) -> Result<Vec<TimelineId>> {
        let prefix = path::timelines(&self.id);
        let listing = self.shared.env.bucket.list(&prefix, true).await?;
        let mut ids = Vec::new();
        for p in listing.prefixes {
            let name = p
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or_default();
            match name.parse() {
                Ok(id) => ids.push(id),
                Err(_) => warn!(tenant = %self.id, "{p} in the bucket is not a timeline"),
            }
        }
        Ok(ids)
    }

    /// The newest index at or below our generation.
    async fn newest_index(&self, id: TimelineId) -> Result<Option<IndexPart>> {
        let env = &self.shared.env;
        let mut tries = vec![self.generation];
        tries.extend(self.generation.previous());
        for generation in tries {
            let key = path::index_part(&self.id, &id, generation);
            match env.bucket.get(&key).await {
                Ok(o) => {
                    return IndexPart::from_json(&o.body)
                        .map(Some)
                        .map_err(|e| Error::layer(key, e));
                }
                Err(e) if e.kind() == BucketKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        let listing = env
            .bucket
            .list(&path::index_part_prefix(&self.id, &id), false)
            .await?;
        let newest = listing
            .objects
            .iter()
            .filter_map(|o| path::index_part_generation(&o.key).map(|g| (g, &o.key)))
            .filter(|(g, _)| *g <= self.generation)
            .max();
        let Some((_, key)) = newest else {
            return Ok(None);
        };
        let object = env.bucket.get(key).await?;
        IndexPart::from_json(&object.body)
            .map(Some)
            .map_err(|e| Error::layer(key.clone(), e))
    }

    async fn load_timeline(self: &Arc<Self>, id: TimelineId, index: IndexPart) -> Result<()> {
        let meta = &index.metadata;
        let version = meta.pg_version;
        let ancestor = match meta.ancestor_timeline {
            None => None,
            Some(a) => Some((self.timeline(a)?, meta.ancestor_lsn)),
        };
        let dir = format!("tenants/{}/timelines/{id}", self.id);
        let disk = &self.shared.env.disk;
        disk.create_dir_all(&dir)?;
        let local: BTreeMap<String, u64> = disk
            .list(&dir)?
            .into_iter()
            .filter(|e| !e.is_dir)
            .map(|e| (e.name, e.len))
            .collect();
        let mut layers = Vec::new();
        let mut known = HashSet::new();
        for (name, entry) in &index.layer_metadata {
            if name.is_future(meta.disk_consistent_lsn) {
                // WAL above the index is ingested again, under this generation's names.
                warn!(tenant = %self.id, timeline = %id, layer = %name, end = %meta.disk_consistent_lsn, "newer than the index that names it, left out");
                continue;
            }
            let layer = Layer::known(
                &self.shared.open_layers,
                self.id,
                id,
                &dir,
                name.clone(),
                *entry,
            );
            let file = layer.local_name();
            layer.set_resident(local.get(&file) == Some(&entry.file_size));
            known.insert(file);
            layers.push(Arc::new(layer));
        }
        for name in local
            .keys()
            .filter(|n| !known.contains(*n) && !n.ends_with(".json"))
        {
            info!(tenant = %self.id, timeline = %id, file = %name, "local file that the index does not name, removed");
            disk.remove(&format!("{dir}/{name}"))?;
        }
        let count = layers.len();
        let timeline = Timeline::new(
            Arc::clone(&self.shared),
            Parts {
                tenant: self.id,
                id,
                version,
                ancestor,
                generation: self.generation,
                index,
                layers,
                state: State::Active,
            },
        );
        info!(tenant = %self.id, timeline = %id, layers = count, last_record_lsn = %timeline.last_record_lsn(), "timeline loaded");
        if timeline.ancestor.is_some() {
            timeline.inherit_dialect();
        } else if let Err(e) = timeline.learn_dialect(timeline.last_record_lsn()).await {
            timeline.set_state(State::Broken(format!("control file unreadable: {e}")));
        }
        self.insert(timeline);
        Ok(())
    }

    fn insert(&self, timeline: Arc<Timeline>) {
        self.shared.registry.add(&timeline);
        self.shared.metrics.timelines.inc();
        self.timelines.write().insert(timeline.id, timeline);
    }

    /// Local directories of timelines that the bucket does not know are left over from a crash.
    fn remove_strangers(&self) -> Result<()> {
        let disk = &self.shared.env.disk;
        let dir = format!("tenants/{}/timelines", self.id);
        for entry in disk.list(&dir)? {
            let known = entry
                .name
                .parse()
                .is_ok_and(|id: TimelineId| self.timelines.read().contains_key(&id));
            if !known {
                info!(tenant = %self.id, name = %entry.name, "left over from an unfinished creation, removed");
                disk.remove_dir_all(&format!("{dir}/{}", entry.name))?;
            }
        }
        Ok(())
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
        let record = lease.update(&self.shared.env, change).await?;
        *self.record.write() = record;
        Ok(())
    }

    fn reserve(&self, id: TimelineId, ancestor: Option<TimelineId>) -> Result<Reservation<'_>> {
        let mut changing = self.changing.lock();
        if self.timelines.read().contains_key(&id) || self.unloaded.lock().contains_key(&id) {
            return Err(Error::Conflict(format!(
                "timeline {}/{id} exists already",
                self.id
            )));
        }
        if let Some(timeline) = ancestor.filter(|a| changing.deleting.contains_key(a)) {
            return Err(Error::TimelineNotFound {
                tenant: self.id,
                timeline,
            });
        }
        if changing.creating.contains_key(&id) {
            return Err(Error::Busy(
                "creation of timeline with the given ID is in progress".into(),
            ));
        }
        changing.creating.insert(id, ancestor);
        Ok(Reservation { tenant: self, id })
    }

    /// Creates a branch: one index object and nothing else. The same request again returns the
    /// same timeline.
    pub async fn branch(self: &Arc<Self>, request: Branch) -> Result<Arc<Timeline>> {
        let ancestor = self.timeline(request.ancestor)?;
        ancestor.check_active()?;
        if let Ok(existing) = self.timeline(request.id) {
            let same = existing.ancestor.as_ref().is_some_and(|(a, lsn)| {
                a.id == request.ancestor && request.at.is_none_or(|at| at.align() == *lsn)
            });
            return if same {
                Ok(existing)
            } else {
                Err(Error::Conflict(
                    "timeline already exists with different parameters".into(),
                ))
            };
        }
        let _reserved = self.reserve(request.id, Some(request.ancestor))?;
        let at = request
            .at
            .map_or_else(|| ancestor.last_record_lsn(), Lsn::align);
        let now = self.shared.env.clock.wall();
        let oldest = ancestor.gc_cutoff().max(ancestor.ancestor_lsn());
        // From here on garbage collection knows of the branch.
        let retained = at >= ancestor.ancestor_lsn()
            && ancestor.retention().add_branch(request.id, at, now).is_ok();
        if !retained {
            return Err(Error::NotAcceptable(format!(
                "cannot branch timeline {}/{} at LSN {at}: history is kept from {oldest} on",
                self.id, ancestor.id
            )));
        }
        if let Err(e) = ancestor.wait_lsn(at, BRANCH_WAIT).await {
            ancestor.retention().remove_branch(request.id);
            return Err(e);
        }
        // If this fails, the bucket may know of the branch all the same: its history stays held
        // until the next load tells.
        self.make_branch(&ancestor, request.id, at).await
    }

    async fn make_branch(
        self: &Arc<Self>,
        ancestor: &Arc<Timeline>,
        id: TimelineId,
        at: Lsn,
    ) -> Result<Arc<Timeline>> {
        let position = ancestor.position();
        let mut index = IndexPart::new(Metadata {
            disk_consistent_lsn: at,
            prev_record_lsn: (position.last == at && position.prev.is_valid())
                .then_some(position.prev),
            ancestor_timeline: Some(ancestor.id),
            ancestor_lsn: at,
            latest_gc_cutoff_lsn: ancestor.gc_cutoff(),
            initdb_lsn: ancestor.initdb_lsn(),
            pg_version: ancestor.version,
        });
        // A branch follows nobody, but its WAL so far has the ancestor's identity.
        index.vanilla = ancestor.vanilla().map(|v| Vanilla {
            source: None,
            slot: None,
            import: None,
            ..v
        });
        let version = ancestor.version;
        let origin = Some((Arc::clone(ancestor), at));
        let branch = self
            .start(id, version, origin, index, State::Active)
            .await?;
        // The branch is as durable as the ancestor is up to the branch point: see to that soon.
        if ancestor.remote_consistent_lsn() < at {
            ancestor.freeze().await;
        }
        Ok(branch)
    }

    /// Creates a timeline that an import will fill.
    pub async fn create_for_import(
        self: &Arc<Self>,
        id: TimelineId,
        version: PgMajor,
        index: IndexPart,
    ) -> Result<Arc<Timeline>> {
        let _reserved = self.reserve(id, None)?;
        self.start(id, version, None, index, State::Importing).await
    }

    /// An id that is used again after a deletion stands for the new timeline.
    async fn exhume(&self, id: TimelineId) -> Result<()> {
        if !self.record.read().deleted_timelines.contains(&id) {
            return Ok(());
        }
        self.update_record(|r| r.deleted_timelines.retain(|t| *t != id))
            .await
    }

    async fn start(
        self: &Arc<Self>,
        id: TimelineId,
        version: PgMajor,
        ancestor: Option<(Arc<Timeline>, Lsn)>,
        index: IndexPart,
        state: State,
    ) -> Result<Arc<Timeline>> {
        self.exhume(id).await?;
        self.shared
            .env
            .disk
            .create_dir_all(&format!("tenants/{}/timelines/{id}", self.id))?;
        let timeline = Timeline::new(
            Arc::clone(&self.shared),
            Parts {
                tenant: self.id,
                id,
                version,
                ancestor,
                generation: self.generation,
                index,
                layers: Vec::new(),
                state,
            },
        );
        timeline.inherit_dialect();
        timeline.upload().await?;
        self.insert(Arc::clone(&timeline));
        Ok(timeline)
    }

    /// Children of a timeline, those that could not be loaded included.
    pub fn children(&self, id: TimelineId) -> Vec<TimelineId> {
        let has = |t: &Timeline| t.ancestor.as_ref().is_some_and(|(a, _)| a.id == id);
        let unloaded = self.unloaded.lock();
        let absent = unloaded.iter().filter(|(_, a)| **a == Some(id));
        self.timelines
            .read()
            .values()
            .filter(|t| has(t))
            .map(|t| t.id)
            .chain(absent.map(|(id, _)| *id))
            .collect()
    }

    /// Begins a deletion, unless the timeline has children or is getting some.
    fn begin_deletion(&self, id: TimelineId) -> Result<Deletion<'_>> {
        let mut changing = self.changing.lock();
        let coming = changing.creating.iter().filter(|(_, a)| **a == Some(id));
        let coming = coming.map(|(child, _)| *child);
        let children: Vec<_> = self.children(id).into_iter().chain(coming).collect();
        if !children.is_empty() {
            return Err(Error::Precondition(format!(
                "Cannot delete timeline which has child timelines: {children:?}"
            )));
        }
        if changing.deleting.get(&id) == Some(&true) {
            return Err(Error::Busy(
                "deletion of the timeline is in progress".into(),
            ));
        }
        changing.deleting.insert(id, true);
        Ok(Deletion { tenant: self, id })
    }

    /// Deletes a timeline without children: first a note in the tenant's record, which only the newest
    /// generation can make and which decides, then a mark in the index that cannot be taken back,
    /// then its objects, then its files.
    pub async fn delete_timeline(&self, id: TimelineId) -> Result<()> {
        let timeline = self.timeline(id)?;
        let _deletion = self.begin_deletion(id)?;
        if self.shared.lease.is_some() {
            self.update_record(|r| r.bury(id)).await?;
        }
        timeline.mark_deleted().await?;
        timeline.stop().await;
        self.timelines.write().remove(&id);
        self.shared.metrics.timelines.dec();
        self.remove_timeline_data(id).await?;
        if let Some((ancestor, _)) = &timeline.ancestor {
            ancestor.retention().remove_branch(id);
        }
        Ok(())
    }

    /// Removes what is left of a timeline in the bucket and on disk.
    pub async fn remove_timeline_data(&self, id: TimelineId) -> Result<()> {
        let env = &self.shared.env;
        let listing = env
            .bucket
            .list(&path::timeline(&self.id, &id), false)
            .await?;
        // The index goes last: as long as it is there, the deletion can be resumed.
        let is_index = |key: &str| path::index_part_generation(key).is_some();
        let (indexes, layers): (Vec<String>, Vec<String>) = listing
            .objects
            .into_iter()
            .map(|o| o.key)
            .partition(|k| is_index(k));
        env.bucket.delete(&layers).await?;
        env.bucket.delete(&indexes).await?;
        env.disk
            .remove_dir_all(&format!("tenants/{}/timelines/{id}", self.id))?;
        Ok(())
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
