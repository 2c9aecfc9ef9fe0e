//! Upload: layers first, then the index that names them, then deletions.
//!
//! An index is only put after every layer it names is in the bucket, and one upload of a timeline
//! runs at a time, so that whoever reads the newest index finds all of it.

use super::{Position, State, Timeline};
use crate::engine::error::{Error, Result};
use crate::engine::jobs::Kind as Work;
use crate::engine::layer::Layer;
use crate::engine::layer_map::LayerMap;
use bucket::{Body, ETag, Kind as BucketKind, PutMode};
use bytes::Bytes;
use layer_format::index_part::IndexPart;
use layer_format::{Timestamp, path};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Tries to replace an index that changes meanwhile.
const INDEX_TRIES: usize = 4;
/// After an upload that failed or was given up, when no job tries again before.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of the timeline's state in the bucket.
#[derive(Debug)]
pub struct Remote {
    index: IndexPart,
    uploaded: HashSet<String>,
    /// Version of this generation's index object, if known.
    etag: Option<ETag>,
}

impl Remote {
    /// True if a layer is in the bucket.
    pub fn holds(&self, name: &str) -> bool {
        self.uploaded.contains(name)
    }

    /// The index as it stands in the bucket.
    pub fn index(&self) -> &IndexPart {
        &self.index
    }

    /// Notes that layers are in the bucket.
    pub fn note_uploaded(&mut self, names: impl Iterator<Item = String>) {
        self.uploaded.extend(names);
    }

    /// Starts from an index; the layers it names are in the bucket.
    pub fn new(index: IndexPart) -> Self {
        let uploaded = index
            .layer_metadata
            .keys()
            .map(ToString::to_string)
            .collect();
        Remote {
            index,
            uploaded,
            etag: None,
        }
    }
}

/// An upload under way: one that fails, or that nobody waits for any more, is wanted again.
struct Unfinished<'a>(Option<&'a Timeline>);

impl Unfinished<'_> {
    fn complete(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(timeline) = self.0 {
            // A job that failed comes back by itself, with growing pauses.
            timeline.index_dirty.store(true, Ordering::Release);
            let now = timeline.shared.env.clock.monotonic();
            timeline.look_by(now + RETRY);
        }
    }
}

impl Timeline {
    pub(super) fn request_upload(&self) {
        self.request(Work::Upload);
    }

    /// Brings the bucket up to date with local disk. Raises `remote_consistent_lsn`.
    pub async fn upload(&self) -> Result<()> {
        let mut remote = self.remote.lock().await;
        self.upload_now(&mut remote).await
    }

    pub(super) async fn upload_now(&self, remote: &mut Remote) -> Result<()> {
        self.queued.clear(Work::Upload);
        self.index_dirty.store(false, Ordering::Release);
        let unfinished = Unfinished(Some(self));
        self.upload_locked(remote).await?;
        unfinished.complete();
        Ok(())
    }

    async fn upload_locked(&self, remote: &mut Remote) -> Result<()> {
        match self.state() {
            State::Stopping => return Err(Error::Shutdown),
            State::Broken(why) => return Err(Error::Conflict(why)),
            State::Active | State::Importing => {}
        }
        let retired = self.retired();
        self.upload_map(remote).await?;
        self.condemn(retired);
        self.sweep().await
    }

    async fn upload_map(&self, remote: &mut Remote) -> Result<()> {
        // Of the map as it is now: whatever was retired before is not in it.
        let map = self.layers();
        let disk = map.disk();
        for layer in map.files() {
            if !remote.uploaded.contains(&layer.name().to_string()) {
                self.upload_layer(layer).await?;
                remote.uploaded.insert(layer.name().to_string());
            }
        }
        let index = self.next_index(&remote.index, disk, map.files());
        let body = index
            .to_json()
            .map_err(|e| Error::layer("index_part.json", e))?;
        let key = path::index_part(&self.tenant, &self.id, self.generation);
        let size = body.len();
        self.put_index(remote, &key, Bytes::from(body)).await?;
        self.shared.metrics.uploaded(size as u64);
        if let Some(lease) = &self.shared.lease {
            lease.validate(&self.shared.env).await.inspect_err(|e| {
                if matches!(e, Error::Conflict(_)) {
                    self.set_state(State::Broken(e.to_string()));
                }
            })?;
        }
        remote.index = index;
        self.remote_consistent.send_if_modified(|l| {
            let grows = disk.last > *l;
            *l = (*l).max(disk.last);
            grows
        });
        let named = |name: &String| map.has_file(name);
        remote.uploaded.retain(named);
        Ok(())
    }

    /// Stores an index in the place of the one that is known to be there. An upload that was given up
    /// while its index was on its way, or whose answer was lost, may still take effect, and must not
    /// do so behind a newer one: the bucket refuses it, or this one, which then looks again.
    async fn put_index(&self, remote: &mut Remote, key: &str, body: Bytes) -> Result<()> {
        let bucket = &self.shared.env.bucket;
        for _ in 0..INDEX_TRIES {
            // Not known any more until there is an answer.
            let mode = match remote.etag.take() {
                Some(etag) => PutMode::IfMatch(etag),
                None => PutMode::IfAbsent,
            };
            match bucket.put(key, Body::Bytes(body.clone()), mode).await {
                Ok(etag) => {
                    remote.etag = Some(etag);
                    return Ok(());
                }
                Err(e) if e.kind() == BucketKind::Precondition => {
                    remote.etag = match bucket.get(key).await {
                        Ok(object) => Some(object.etag),
                        Err(e) if e.kind() == BucketKind::NotFound => None,
                        Err(e) => return Err(e.into()),
                    };
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::Internal(format!(
            "timeline {}/{}: {key} changes faster than it can be replaced",
            self.tenant, self.id
        )))
    }

    /// Marks the timeline as deleted in the bucket; this cannot be taken back.
    pub async fn mark_deleted(&self) -> Result<()> {
        let mut remote = self.remote.lock().await;
        if remote.index.deleted_at.is_none() {
            let now = self.shared.env.clock.wall();
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            remote.index.deleted_at = Timestamp::from_unix(seconds, now.subsec_nanos());
        }
        self.upload_locked(&mut remote).await
    }

    /// Stops the timeline: nothing is ingested, flushed or uploaded any more. A write or flush that
    /// is under way ends first.
    pub async fn stop(&self) {
        self.set_state(State::Stopping);
        self.cancel.cancel();
        self.stopped.store(true, Ordering::Release);
        let _flushing = self.flushing.lock().await;
        let _writer = self.writer.lock().await;
        let map = self.layers();
        let held: usize = map
            .open()
            .into_iter()
            .chain(map.frozen())
            .map(|m| m.size())
            .sum();
        self.update_map(|m| LayerMap::new(m.files().cloned(), m.disk()));
        self.shared.budget.shrink(held);
    }

    pub(super) async fn upload_layer(&self, layer: &Layer) -> Result<()> {
        let key = layer.object_key(&self.tenant.tenant, &self.id);
        self.put_layer(layer, &key).await
    }

    /// Stores the file of a layer as an object.
    pub(super) async fn put_layer(&self, layer: &Layer, key: &str) -> Result<()> {
        let env = &self.shared.env;
        let path = layer.local_path();
        let body = match env.disk.host_path(&path) {
            Some(path) => Body::File {
                path,
                len: layer.size(),
                crc32c: layer.entry().crc32c,
            },
            None => Body::Bytes(Bytes::from(env.disk.read(&path)?)),
        };
        env.bucket.put(key, body, PutMode::Overwrite).await?;
        self.shared.metrics.uploaded(layer.size());
        Ok(())
    }

    fn next_index<'a>(
        &self,
        previous: &IndexPart,
        disk: Position,
        layers: impl Iterator<Item = &'a Arc<Layer>>,
    ) -> IndexPart {
        let mut index = previous.clone();
        index.layer_metadata = layers.map(|l| (l.name().clone(), *l.entry())).collect();
        index.metadata.disk_consistent_lsn = disk.last;
        index.metadata.prev_record_lsn = Some(disk.prev).filter(|p| p.is_valid());
        // Together: whoever loads the index tells by them which branches' history is there.
        let (cutoff, held) = self.retention.below_cutoff(disk.last);
        index.metadata.latest_gc_cutoff_lsn = cutoff;
        index.held_branches = Some(held);
        index.nonce = Some(format!("{:016x}", self.shared.env.entropy.next_u64()));
        index.metadata.initdb_lsn = self.initdb_lsn();
        index.vanilla = self.vanilla();
        // Its pages are consistent from the end of the import on; these layers may end before.
        let import = index.vanilla.as_mut().and_then(|v| v.import.as_mut());
        if let Some(import) = import {
            import.done &= import.end_lsn.is_none_or(|end| disk.last >= end);
        }
        self.marks.lock().put(&mut index);
        index
    }
}
