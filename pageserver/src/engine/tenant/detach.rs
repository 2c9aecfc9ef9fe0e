//! Branches made independent of their ancestor, which then can go its own way or be deleted.
//!
//! The branch gets copies of the ancestor's layers up to the branch point, made by the bucket itself;
//! those that reach beyond it are cut. One index puts them in the place of the ancestor. Then the
//! ancestor's other children that left it earlier are given to the branch, one index each. Until the
//! last one has moved, garbage collection is blocked in the branch's index, so that a crash at any
//! step loses nothing; the same request again goes on from there.

use super::Tenant;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use crate::engine::timeline::Timeline;
use crate::engine::timeline::compaction::NOT_INHERITED;
use layer_format::index_part::GcBlockingReason::DetachAncestor;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{info, warn};
use types::{Key, KeyRange, Lsn, TimelineId};

/// How long the ancestor may take to reach the branch point, after a restart.
const ANCESTOR_WAIT: Duration = Duration::from_secs(30);

/// From what a branch may be detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Levels {
    /// A root. Its children that left it before the branch did become the branch's.
    #[default]
    OneAndReparent,
    /// A chain of ancestors that all left each other at the branch point. Other branches stay.
    Several,
}

/// How a branch is detached.
#[derive(Clone, Copy, Debug)]
pub struct Detach {
    /// From what.
    pub levels: Levels,
    /// Layers that are cut at once.
    pub rewrites: usize,
    /// Layers that are copied at once.
    pub copies: usize,
}

impl Default for Detach {
    fn default() -> Self {
        Detach {
            levels: Levels::default(),
            rewrites: 2,
            copies: 100,
        }
    }
}

/// The end of an attempt, successful or not.
struct Attempt<'a>(&'a Tenant);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.changing.lock().detaching = None;
    }
}

/// What one layer of the ancestor is made into.
struct Maker {
    branch: Arc<Timeline>,
    ancestor: Arc<Timeline>,
    at: Lsn,
    copies: Semaphore,
    rewrites: Semaphore,
}

impl Maker {
    /// A layer of the branch with everything in `layer` up to the branch point, in the bucket.
    async fn make(&self, layer: &Arc<Layer>) -> Result<Option<Arc<Layer>>> {
        let closed = |_| Error::Shutdown;
        if self.is_whole(layer).await? {
            let _turn = self.copies.acquire().await.map_err(closed)?;
            let copied = self.branch.copy_layer(&self.ancestor, layer).await?;
            return Ok(Some(copied));
        }
        let _turn = self.rewrites.acquire().await.map_err(closed)?;
        let made = match layer.is_delta() {
            true => self.branch.cut_delta(layer, self.at).await?,
            false => self.branch.strip_image(layer).await?,
        };
        match made {
            None => Ok(None),
            Some(made) => self.branch.upload_made(made).await.map(Some),
        }
    }

    /// True if the branch can use the layer as it is. An image at the branch point would bring keys
    /// back that the branch did not inherit.
    async fn is_whole(&self, layer: &Layer) -> Result<bool> {
        if layer.is_delta() {
            return Ok(layer.lsns().end <= self.at.saturating_add(1));
        }
        if layer.lsns().start < self.at {
            return Ok(true);
        }
        let shared = self.ancestor.shared();
        for range in [NOT_INHERITED, KeyRange::single(Key::AUX_FILES_V1)] {
            if !layer.keys_in(shared, &range, 1).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Tenant {
    /// Makes a branch independent of its ancestor. Returns the branches that moved along with it.
    /// After an error the same call goes on where this one ended; after success it changes nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a timeline that never had an ancestor; [`Error::BadRequest`] if
    /// ancestors or archived branches do not allow it; [`Error::TimelineNotFound`] also for one that
    /// is being deleted; [`Error::Unavailable`] to try again later.
    pub async fn detach_ancestor(&self, id: TimelineId, how: Detach) -> Result<Vec<TimelineId>> {
        let branch = self.timeline(id)?;
        branch.check_active()?;
        let _attempt = self.begin_detach(id)?;
        let former = match (branch.ancestor(), branch.marks().lineage.original_ancestor) {
            (None, None) => return Err(Error::Conflict("no ancestors".into())),
            (None, Some((former, at, _))) => (former, at),
            (Some((ancestor, at)), _) => {
                self.detach(&branch, &ancestor, at, how).await?;
                (ancestor.id, at)
            }
        };
        if how.levels == Levels::OneAndReparent && branch.blocks_gc(&DetachAncestor) {
            self.move_siblings(&branch, former).await?;
        }
        branch.unblock_gc(DetachAncestor).await?;
        let mut moved = self.loaded_children(id);
        moved.retain(|(c, at)| {
            let history = c.marks().lineage.reparenting_history;
            *at <= former.1 && history.contains(&former.0)
        });
        Ok(moved.into_iter().map(|(c, _)| c.id).collect())
    }

    fn begin_detach(&self, id: TimelineId) -> Result<Attempt<'_>> {
        let mut changing = self.changing.lock();
        if let Some(other) = changing.detaching {
            return Err(Error::Unavailable(format!(
                "ancestor is already being detached by: {other}"
            )));
        }
        // It must not get other children any more.
        if changing.deleting.contains_key(&id) {
            return Err(Error::TimelineNotFound {
                tenant: self.id,
                timeline: id,
            });
        }
        changing.detaching = Some(id);
        Ok(Attempt(self))
    }

    fn loaded_children(&self, id: TimelineId) -> Vec<(Arc<Timeline>, Lsn)> {
        let of = |t: Arc<Timeline>| {
            let (ancestor, at) = t.ancestor()?;
            (ancestor.id == id).then_some((t, at))
        };
        self.timelines().into_iter().filter_map(of).collect()
    }

    /// Checks the rules; returns the root whose history the branch needs.
    fn root_of(&self, branch: &Timeline, at: Lsn, levels: Levels) -> Result<Arc<Timeline>> {
        let refuse = |why: String| Err(Error::BadRequest(why));
        if branch.is_archived() {
            return refuse(format!("archived: {}", branch.id));
        }
        let Some((mut root, _)) = branch.ancestor() else {
            return Err(Error::Conflict("no ancestors".into()));
        };
        while let Some((next, point)) = root.ancestor() {
            if levels == Levels::OneAndReparent {
                return refuse("too many ancestors".into());
            }
            if point != at {
                return refuse("ancestor is not empty".into());
            }
            root = next;
        }
        if levels == Levels::OneAndReparent {
            let earlier = self.loaded_children(root.id).into_iter();
            let mut earlier = earlier.filter(|(c, point)| *point <= at && c.id != branch.id);
            if let Some((child, _)) = earlier.find(|(c, _)| c.is_archived()) {
                return refuse(format!("archived: {}", child.id));
            }
        }
        Ok(root)
    }

    async fn detach(
        &self,
        branch: &Arc<Timeline>,
        ancestor: &Arc<Timeline>,
        at: Lsn,
        how: Detach,
    ) -> Result<()> {
        if branch.marks().ancestor.is_none() {
            return self.complete(branch, ancestor).await;
        }
        // What is copied must not take the name of a layer that is there. The reference makes images at
        // the branch point itself; they are as good as those that are copied.
        let below = |l: &Arc<Layer>| l.lsns().start < at || l.is_delta() && l.lsns().start == at;
        if branch.layers().files().any(below) {
            return Err(Error::Internal(format!(
                "timeline {}/{} has layers of its own below its branch point {at}",
                self.id, branch.id
            )));
        }
        let root = self.root_of(branch, at, how.levels)?;
        branch.block_gc(DetachAncestor).await?;
        let layers = match copy_history(branch, &root, at, how).await {
            Ok(layers) => layers,
            Err(e) => {
                // Nothing has changed yet, so nothing has to be kept for it.
                if let Err(e) = branch.unblock_gc(DetachAncestor).await {
                    warn!(tenant = %self.id, timeline = %branch.id, "collection stays blocked until the next attempt: {e}");
                }
                return Err(e);
            }
        };
        info!(tenant = %self.id, timeline = %branch.id, ancestor = %ancestor.id, %at, layers = layers.len(), "history of the ancestor copied");
        branch
            .become_root(layers, ancestor, root.gc_cutoff())
            .await?;
        self.settle(branch);
        branch.forget_made();
        Ok(())
    }

    /// Ends what an earlier attempt began: the branch has the layers of its history, and its index in
    /// the bucket may or may not say so.
    async fn complete(&self, branch: &Timeline, ancestor: &Timeline) -> Result<()> {
        branch.store_marks().await?;
        branch.leave(ancestor)?;
        self.settle(branch);
        branch.forget_made();
        Ok(())
    }

    /// The bucket knows which ancestor a timeline has, or that it has none: those that it was about to
    /// get before no longer hold anything for it.
    pub(super) fn settle(&self, timeline: &Timeline) {
        let mut others = Vec::new();
        let ancestor = timeline.ancestor().map(|(a, _)| a.id);
        self.changing.lock().moving.retain(|(child, to)| {
            if *child == timeline.id && Some(*to) != ancestor {
                others.push(*to);
            }
            *child != timeline.id
        });
        for other in others {
            if let Ok(other) = self.timeline(other) {
                other.retention().remove_branch(timeline.id);
            }
        }
    }

    /// Gives the branch the children that left its former ancestor before it did.
    async fn move_siblings(&self, branch: &Arc<Timeline>, former: (TimelineId, Lsn)) -> Result<()> {
        let (id, at) = former;
        let Ok(ancestor) = self.timeline(id) else {
            // Deleted since: it had no children any more.
            return Ok(());
        };
        let children = self.loaded_children(id).into_iter();
        let (siblings, left): (Vec<_>, Vec<_>) = children
            .filter(|(child, point)| *point <= at && child.id != branch.id)
            .partition(|(child, _)| child.marks().ancestor.is_some());
        for (child, _) in left {
            self.complete(&child, &ancestor).await?;
        }
        for (child, point) in &siblings {
            // Until it has moved it counts as a child of both.
            self.changing.lock().moving.insert((child.id, branch.id));
            branch.retention().restore_branch(child.id, *point);
        }
        let cutoff = branch.gc_cutoff();
        if siblings.iter().any(|(_, point)| *point < cutoff) {
            // Its index has to say that it holds their history before theirs say that it is there.
            branch.upload().await?;
        }
        for (child, _) in siblings {
            let moved = child.reparent(&ancestor, branch).await;
            let gone = self.timeline(child.id).is_err();
            if gone {
                branch.retention().remove_branch(child.id);
            }
            if gone || moved.is_ok() {
                self.settle(&child);
            }
            match moved {
                Ok(()) => {
                    info!(tenant = %self.id, timeline = %child.id, from = %id, to = %branch.id, "moved");
                }
                Err(e) => warn!(tenant = %self.id, timeline = %child.id, "not moved: {e}"),
            }
        }
        // Those that could not be loaded must move as well, after a restart that loads them.
        let unloaded = self.unloaded.lock().clone();
        let absent = |child: &TimelineId| unloaded.get(child) == Some(&Some(id));
        let points = ancestor.retention().branches().into_iter();
        let absent = points.filter(|(child, _)| absent(child));
        let loaded = self.loaded_children(id).into_iter();
        let loaded = loaded.map(|(child, point)| (child.id, point));
        if absent.chain(loaded).any(|(_, point)| point <= at) {
            return Err(Error::Unavailable(
                "failed to reparent all candidate timelines, please retry".into(),
            ));
        }
        Ok(())
    }
}

/// Layers of the branch that hold what it inherits, all of them in the bucket.
async fn copy_history(
    branch: &Arc<Timeline>,
    root: &Arc<Timeline>,
    at: Lsn,
    how: Detach,
) -> Result<Vec<Arc<Layer>>> {
    root.wait_lsn(at, ANCESTOR_WAIT).await?;
    if root.disk_consistent_lsn() < at {
        root.freeze_and_flush().await?;
    }
    if root.disk_consistent_lsn() < at {
        return Err(Error::Unavailable(
            "the ancestor is being written to, please retry".into(),
        ));
    }
    let maker = Arc::new(Maker {
        branch: Arc::clone(branch),
        ancestor: Arc::clone(root),
        at,
        copies: Semaphore::new(how.copies.max(1)),
        rewrites: Semaphore::new(how.rewrites.max(1)),
    });
    let map = root.layers();
    let mut tasks = JoinSet::new();
    for layer in map.files().filter(|l| l.lsns().start <= at) {
        let (maker, layer) = (Arc::clone(&maker), Arc::clone(layer));
        tasks.spawn(async move { maker.make(&layer).await });
    }
    let mut layers = Vec::new();
    while let Some(made) = tasks.join_next().await {
        let made = made.map_err(|e| Error::Internal(format!("copying a layer: {e}")))?;
        layers.extend(made?);
    }
    for tombstone in branch.tombstones(root, at).await? {
        layers.push(branch.upload_made(tombstone).await?);
    }
    Ok(layers)
}
