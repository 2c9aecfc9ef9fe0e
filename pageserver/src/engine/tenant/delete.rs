//! Timelines that go.

use super::Tenant;
use crate::engine::error::{Error, Result};
use crate::engine::timeline::Timeline;
use layer_format::path;
use types::TimelineId;

/// The end of a deletion, successful or not.
struct Deletion<'a> {
    tenant: &'a Tenant,
    id: TimelineId,
}

impl Deletion<'_> {
    /// The timeline is gone: a new one may have its id, and branches.
    fn complete(self) {
        self.tenant.changing.lock().deleting.remove(&self.id);
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        let mut changing = self.tenant.changing.lock();
        if let Some(running) = changing.deleting.get_mut(&self.id) {
            *running = false;
        }
    }
}

impl Tenant {
    /// Begins a deletion, unless the timeline has children or is getting some, as it does when it
    /// is detached from its ancestor.
    fn begin_deletion(&self, id: TimelineId) -> Result<Deletion<'_>> {
        let mut changing = self.changing.lock();
        let children = self.all_children(id, &changing);
        if !children.is_empty() {
            return Err(Error::Precondition(format!(
                "Cannot delete timeline which has child timelines: {children:?}"
            )));
        }
        if changing.creating.contains_key(&id) {
            return Err(Error::Busy(
                "creation of timeline with the given ID is in progress".into(),
            ));
        }
        if changing.deleting.get(&id) == Some(&true) {
            return Err(Error::Busy(
                "deletion of the timeline is in progress".into(),
            ));
        }
        if changing.detaching == Some(id) {
            return Err(Error::Busy(
                "the timeline is being detached from its ancestor".into(),
            ));
        }
        changing.deleting.insert(id, true);
        Ok(Deletion { tenant: self, id })
    }

    /// Deletes a timeline without children: first a note in the tenant's record, which only the newest
    /// generation can make and which decides, then a mark in the index that cannot be taken back,
    /// then its objects, then its files.
    ///
    /// Of a timeline that is not loaded, because it could not be or because its creation did not end,
    /// whatever is in the bucket is removed, and what arrives there later is taken for nothing.
    pub async fn delete_timeline(&self, id: TimelineId) -> Result<()> {
        let deletion = self.begin_deletion(id)?;
        let deleted = match self.timeline(id) {
            Ok(timeline) => self.delete_loaded(&timeline).await,
            Err(unknown) => self.delete_unloaded(id, unknown).await,
        };
        if deleted.is_ok() || matches!(deleted, Err(Error::TimelineNotFound { .. })) {
            deletion.complete();
        }
        deleted
    }

    async fn delete_unloaded(&self, id: TimelineId, unknown: Error) -> Result<()> {
        // Only the note keeps away what is still on its way to the bucket.
        if self.shared.lease.is_none() {
            return Err(unknown);
        }
        let unsure = self.changing.lock().unsure.get(&id).copied();
        let known = unsure.is_some() || self.unloaded.lock().contains_key(&id);
        if !known {
            let prefix = path::timeline(&self.id, &id);
            let listing = self.shared.env.bucket.list(&prefix, false).await?;
            if listing.objects.is_empty() {
                return Err(unknown);
            }
        }
        self.update_record(|r| r.bury(id)).await?;
        self.remove_timeline_data(id).await?;
        let absent = self.unloaded.lock().remove(&id).flatten();
        self.changing.lock().unsure.remove(&id);
        let ancestor = unsure.map(|o| o.ancestor).or(absent);
        if let Some(ancestor) = ancestor.and_then(|a| self.timeline(a).ok()) {
            ancestor.retention().remove_branch(id);
        }
        Ok(())
    }

    async fn delete_loaded(&self, timeline: &Timeline) -> Result<()> {
        let id = timeline.id;
        if self.shared.lease.is_some() {
            self.update_record(|r| r.bury(id)).await?;
        }
        timeline.mark_deleted().await?;
        self.shared.collection.set_blocked(id, false);
        timeline.stop().await;
        // As long as anything is left, the deletion can be repeated.
        let ancestor = timeline.ancestor().map(|(a, _)| a.id);
        self.unloaded.lock().insert(id, ancestor);
        self.timelines.write().remove(&id);
        self.settle(timeline);
        self.shared.metrics.timelines.dec();
        self.remove_timeline_data(id).await?;
        self.unloaded.lock().remove(&id);
        if let Some((ancestor, _)) = timeline.ancestor() {
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
}
