//! Loading the timelines of a tenant from the bucket.

use super::Tenant;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use crate::engine::timeline::{Parts, State, Timeline};
use bucket::Kind as BucketKind;
use layer_format::index_part::IndexPart;
use layer_format::path;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tracing::{info, warn};
use types::{Lsn, TimelineId};

/// Longest ancestry accepted when loading, against loops.
const MAX_DEPTH: usize = 1000;

/// An import that never became readable.
fn is_unfinished(index: &IndexPart) -> bool {
    index
        .vanilla
        .as_ref()
        .and_then(|v| v.import.as_ref())
        .is_some_and(|i| !i.done)
}

/// Branches that nobody was told to exist, with their branch points: a request that created one was
/// given up, and arrived when its ancestor's history was not held for it any more.
fn unheld(indexes: &BTreeMap<TimelineId, IndexPart>) -> Vec<(TimelineId, Lsn)> {
    let held = |id: &TimelineId, index: &IndexPart| {
        let meta = &index.metadata;
        let ancestor = meta.ancestor_timeline.and_then(|a| indexes.get(&a));
        ancestor.is_none_or(|a| a.holds(id, meta.ancestor_lsn))
    };
    let unheld = indexes.iter().filter(|(id, index)| !held(id, index));
    unheld
        .map(|(id, index)| (*id, index.metadata.ancestor_lsn))
        .collect()
}

impl Tenant {
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
        for (id, at) in unheld(&indexes) {
            warn!(tenant = %self.id, timeline = %id, %at, "left over from a creation that never ended, its ancestor's history at the branch point may be gone: ignored, can be deleted or created anew");
            indexes.remove(&id);
        }
        let branches: Vec<(TimelineId, Lsn, TimelineId)> = indexes
            .iter()
            .filter_map(|(id, i)| {
                let ancestor = i.metadata.ancestor_timeline?;
                Some((*id, i.metadata.ancestor_lsn, ancestor))
            })
            .collect();
        // Ancestors first; what has no loadable ancestor is left over. From here on nothing fails as a
        // whole and nothing is waited for: a load that is given up leaves no timeline at work.
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
                if let Err(e) = self.load_timeline(id, index, &branches) {
                    warn!(tenant = %self.id, timeline = %id, "cannot be loaded: {e}");
                    self.unloaded.lock().insert(id, ancestor);
                }
            }
        }
        for (id, index) in indexes {
            let ancestor = index.metadata.ancestor_timeline;
            self.unloaded.lock().insert(id, ancestor);
            warn!(tenant = %self.id, timeline = %id, ancestor = ?index.metadata.ancestor_timeline, "cannot be loaded: its ancestor is missing");
        }
        self.remove_strangers();
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

    fn load_timeline(
        self: &Arc<Self>,
        id: TimelineId,
        index: IndexPart,
        branches: &[(TimelineId, Lsn, TimelineId)],
    ) -> Result<()> {
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
        // Before any background work sees the timeline, and whether the branch can be loaded or not:
        // its history is not to be collected, and the next index says so.
        for (child, at, _) in branches.iter().filter(|(_, _, ancestor)| *ancestor == id) {
            timeline.retention().restore_branch(*child, *at);
        }
        info!(tenant = %self.id, timeline = %id, layers = count, last_record_lsn = %timeline.last_record_lsn(), "timeline loaded");
        self.insert(timeline);
        Ok(())
    }

    /// Local directories of timelines that the bucket does not know are left over from a crash. Those
    /// of timelines that cannot be loaded now stay: with them would go the password of their source.
    fn remove_strangers(&self) {
        let disk = &self.shared.env.disk;
        let dir = format!("tenants/{}/timelines", self.id);
        let entries = disk.list(&dir).unwrap_or_else(|e| {
            warn!(tenant = %self.id, path = %dir, "left-over files cannot be looked for now: {e}");
            Vec::new()
        });
        for entry in entries {
            let path = format!("{dir}/{}", entry.name);
            let Ok(id) = entry.name.parse::<TimelineId>() else {
                warn!(tenant = %self.id, %path, "not of this program, left alone");
                continue;
            };
            if self.timelines.read().contains_key(&id) || self.unloaded.lock().contains_key(&id) {
                continue;
            }
            match disk.remove_dir_all(&path) {
                Ok(()) => {
                    info!(tenant = %self.id, %path, "left over from an unfinished creation, removed")
                }
                Err(e) => {
                    warn!(tenant = %self.id, %path, "left over from an unfinished creation, cannot be removed now: {e}")
                }
            }
        }
    }
}
