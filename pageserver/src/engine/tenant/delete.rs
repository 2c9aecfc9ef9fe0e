//! Timelines that go.

use super::Tenant;
use crate::engine::error::{Error, Result};
use layer_format::path;
use types::TimelineId;

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

impl Tenant {
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
}
