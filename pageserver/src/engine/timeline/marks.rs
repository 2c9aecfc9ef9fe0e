//! What an operator says about a timeline, kept in its index: archived, hidden from the size of the
//! tenant, not to be collected; and where it came from.
//!
//! A mark counts from the moment it is made. Whoever makes it waits until the index with it is in the
//! bucket before telling anybody.

use super::Timeline;
use crate::engine::error::{Error, Result};
use layer_format::Timestamp;
use layer_format::index_part::{GcBlocking, GcBlockingReason, IndexPart, Lineage};
use std::time::Duration;
use tracing::warn;
use types::{Lsn, TimelineId};

/// Pause between tries to store a mark.
const PAUSE: Duration = Duration::from_millis(200);

/// Marks of a timeline, as its next index has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Archived since.
    pub archived_at: Option<Timestamp>,
    /// Hidden from the size of the tenant since.
    pub invisible_at: Option<Timestamp>,
    /// Why no timeline of the tenant is collected.
    pub gc_blocking: Option<GcBlocking>,
    /// Where the timeline came from.
    pub lineage: Lineage,
    /// Ancestor and branch point.
    pub ancestor: Option<(TimelineId, Lsn)>,
}

impl Marks {
    /// Those of an index.
    pub fn of(index: &IndexPart) -> Self {
        Marks {
            archived_at: index.archived_at,
            invisible_at: index.marked_invisible_at,
            gc_blocking: index.gc_blocking.clone(),
            lineage: index.lineage.clone(),
            ancestor: index
                .metadata
                .ancestor_timeline
                .map(|a| (a, index.metadata.ancestor_lsn)),
        }
    }

    /// Writes them into an index.
    pub fn put(&self, index: &mut IndexPart) {
        index.archived_at = self.archived_at;
        index.marked_invisible_at = self.invisible_at;
        index.gc_blocking = self.gc_blocking.clone();
        index.lineage = self.lineage.clone();
        index.metadata.ancestor_timeline = self.ancestor.map(|(a, _)| a);
        index.metadata.ancestor_lsn = self.ancestor.map_or(Lsn::INVALID, |(_, at)| at);
    }

    fn block(&mut self, reason: GcBlockingReason, now: Option<Timestamp>) {
        match (&mut self.gc_blocking, now) {
            (Some(blocking), _) if blocking.reasons.contains(&reason) => {}
            (Some(blocking), _) => blocking.reasons.push(reason),
            (None, None) => {}
            (None, Some(started_at)) => {
                self.gc_blocking = Some(GcBlocking {
                    started_at,
                    reasons: vec![reason],
                });
            }
        }
    }

    fn unblock(&mut self, reason: &GcBlockingReason) {
        if let Some(blocking) = &mut self.gc_blocking {
            blocking.reasons.retain(|r| r != reason);
        }
        self.gc_blocking = self.gc_blocking.take().filter(|b| !b.reasons.is_empty());
    }
}

impl Timeline {
    /// The marks as they are.
    pub fn marks(&self) -> Marks {
        self.marks.lock().clone()
    }

    /// True if the timeline is archived: no compute starts on it and nobody branches from it.
    pub fn is_archived(&self) -> bool {
        self.marks.lock().archived_at.is_some()
    }

    /// True if the timeline blocks garbage collection for this reason.
    pub(in crate::engine) fn blocks_gc(&self, reason: &GcBlockingReason) -> bool {
        let marks = self.marks.lock();
        let blocking = marks.gc_blocking.as_ref();
        blocking.is_some_and(|b| b.reasons.contains(reason))
    }

    /// Now, for a mark.
    pub(in crate::engine) fn timestamp(&self) -> Option<Timestamp> {
        let now = self.shared.env.clock.wall();
        Timestamp::from_unix(i64::try_from(now.as_secs()).ok()?, now.subsec_nanos())
    }

    /// Changes the marks; the change reaches the bucket with the next index.
    pub(in crate::engine) fn mark(&self, change: impl FnOnce(&mut Marks)) {
        let mut marks = self.marks.lock();
        change(&mut marks);
        let blocks = marks.gc_blocking.is_some();
        self.shared.collection.set_blocked(self.id, blocks);
        self.mark_index();
    }

    /// Hides the timeline from the size of the tenant, or shows it again.
    pub fn set_invisible(&self, invisible: bool) {
        let now = self.timestamp();
        self.mark(|m| m.invisible_at = m.invisible_at.or(now).filter(|_| invisible));
    }

    /// Stops garbage collection of the whole tenant for a reason that outlives this process. Waits
    /// for collections under way.
    pub async fn block_gc(&self, reason: GcBlockingReason) -> Result<()> {
        let now = self.timestamp();
        self.mark(|m| m.block(reason, now));
        self.shared.collection.quiesce().await;
        self.store_marks().await
    }

    /// Takes the reason back.
    pub async fn unblock_gc(&self, reason: GcBlockingReason) -> Result<()> {
        self.mark(|m| m.unblock(&reason));
        self.store_marks().await
    }

    /// Returns once the index in the bucket has the marks as they were at the call, or later ones.
    pub(in crate::engine) async fn store_marks(&self) -> Result<()> {
        let mut remote = self.remote.lock().await;
        if Marks::of(remote.index()) == self.marks() {
            return Ok(());
        }
        self.upload_now(&mut remote).await
    }

    /// As [`Timeline::store_marks`], trying again for at most `limit` while the bucket fails. What
    /// takes longer goes on in the background.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub(in crate::engine) async fn store_marks_within(&self, limit: Duration) -> Result<()> {
        let tries = async {
            loop {
                match self.store_marks().await {
                    Err(Error::Bucket(e)) => {
                        warn!(tenant = %self.tenant, timeline = %self.id, "index not stored, tried again: {e}");
                        tokio::time::sleep(PAUSE).await;
                    }
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(limit, tries).await {
            Ok(result) => result,
            Err(_) => {
                self.mark_index();
                Err(Error::Timeout {
                    what: "hit pageserver internal timeout: upload of the index".into(),
                    limit,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GcBlockingReason::{DetachAncestor, Manual};

    #[test]
    fn reasons_are_kept_apart() {
        let now = Timestamp::from_unix(1, 0);
        let mut marks = Marks::default();
        marks.block(Manual, now);
        marks.block(Manual, now);
        marks.block(DetachAncestor, now);
        let reasons = |m: &Marks| m.gc_blocking.as_ref().map(|b| b.reasons.clone());
        assert_eq!(reasons(&marks), Some(vec![Manual, DetachAncestor]));
        marks.unblock(&Manual);
        assert_eq!(reasons(&marks), Some(vec![DetachAncestor]));
        marks.unblock(&Manual);
        marks.unblock(&DetachAncestor);
        assert_eq!(marks, Marks::default());
    }
}
