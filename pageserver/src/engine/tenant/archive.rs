//! Archived timelines: kept and readable, but out of use. No compute starts on one, nobody branches
//! from it, and it does not count in the tenant's size; its ancestor goes on holding its branch point.

use super::Tenant;
use crate::engine::error::{Error, Result};
use crate::engine::timeline::Timeline;
use std::sync::Arc;
use std::time::Duration;
use types::TimelineId;

/// How long a caller waits for the index in the bucket.
const STORE_LIMIT: Duration = Duration::from_secs(10);

/// The end of a change of state, successful or not.
struct Archival<'a> {
    tenant: &'a Tenant,
    timeline: Arc<Timeline>,
}

impl Drop for Archival<'_> {
    fn drop(&mut self) {
        let mut changing = self.tenant.changing.lock();
        changing.archiving.remove(&self.timeline.id);
    }
}

impl Tenant {
    /// Archives a timeline whose children are all archived. Returns once that is in the bucket.
    ///
    /// # Errors
    /// [`Error::Precondition`] for a child in use; [`Error::Conflict`] while the same timeline is
    /// being archived or unarchived; [`Error::Timeout`] if the bucket does not take it soon.
    pub async fn archive(&self, id: TimelineId) -> Result<()> {
        self.set_archived(id, true).await
    }

    /// The opposite. The ancestor must be in use.
    ///
    /// # Errors
    /// As [`Tenant::archive`]; [`Error::Precondition`] for an archived ancestor.
    pub async fn unarchive(&self, id: TimelineId) -> Result<()> {
        self.set_archived(id, false).await
    }

    async fn set_archived(&self, id: TimelineId, archived: bool) -> Result<()> {
        let archival = self.begin_archival(id, archived)?;
        archival.timeline.store_marks_within(STORE_LIMIT).await
    }

    /// Checks the rules and makes the mark, of which branches know from here on.
    fn begin_archival(&self, id: TimelineId, archived: bool) -> Result<Archival<'_>> {
        let timeline = self.timeline(id)?;
        timeline.check_active()?;
        let mut changing = self.changing.lock();
        if archived {
            let in_use = |child: &TimelineId| !self.timeline(*child).is_ok_and(|t| t.is_archived());
            let mut children = self.all_children(id, &changing);
            children.retain(in_use);
            if !children.is_empty() {
                return Err(Error::Precondition(format!(
                    "Cannot archive timeline which has non-archived child timelines: {children:?}"
                )));
            }
        } else if let Some((ancestor, _)) = timeline.ancestor()
            && ancestor.is_archived()
        {
            return Err(Error::Precondition(format!(
                "ancestor is archived: {}",
                ancestor.id
            )));
        }
        if !changing.archiving.insert(id) {
            return Err(Error::Conflict(
                "Timeline archival is already in progress".into(),
            ));
        }
        let now = timeline.timestamp();
        timeline.mark(|m| m.archived_at = m.archived_at.or(now).filter(|_| archived));
        drop(changing);
        Ok(Archival {
            tenant: self,
            timeline,
        })
    }
}
