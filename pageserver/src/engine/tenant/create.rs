//! Timelines that come: branches, and what an import fills.

use super::Tenant;
use crate::engine::error::{Error, Result};
use crate::engine::timeline::{Parts, State, Timeline};
use layer_format::Metadata;
use layer_format::index_part::{IndexPart, Vanilla};
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, PgMajor, TimelineId};

/// How long a branch waits for its ancestor to reach the branch point.
const BRANCH_WAIT: Duration = Duration::from_secs(30);

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

/// The id of a timeline in creation, taken until this is dropped.
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
        timeline.inherit_cluster();
        timeline.upload().await?;
        self.insert(Arc::clone(&timeline));
        Ok(timeline)
    }
}
