//! Timelines that come: branches, and what an import fills.

use super::{Changing, Origin, Tenant};
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

/// The ancestor's history, held for a branch in creation. Dropped, the hold ends, unless the branch
/// exists or may come to.
struct Hold<'a> {
    tenant: &'a Tenant,
    ancestor: &'a Timeline,
    id: TimelineId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let unsure = self.tenant.changing.lock().unsure.contains_key(&self.id);
        if !unsure && self.tenant.timeline(self.id).is_err() {
            self.ancestor.retention().remove_branch(self.id);
        }
    }
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
        self.check_not_deleting(id, &changing)?;
        let archived = |a: &TimelineId| self.timeline(*a).is_ok_and(|t| t.is_archived());
        if let Some(ancestor) = ancestor.filter(archived) {
            return Err(Error::NotAcceptable(format!(
                "cannot branch timeline {}/{ancestor}: it is archived",
                self.id
            )));
        }
        if changing.creating.contains_key(&id) {
            return Err(Error::Busy(
                "creation of timeline with the given ID is in progress".into(),
            ));
        }
        changing.creating.insert(id, ancestor);
        Ok(Reservation { tenant: self, id })
    }

    /// An id whose deletion was begun stands for nothing until that has succeeded.
    fn check_not_deleting(&self, id: TimelineId, changing: &Changing) -> Result<()> {
        match changing.deleting.get(&id) {
            None => Ok(()),
            Some(true) => Err(Error::Busy(
                "deletion of the timeline is in progress".into(),
            )),
            Some(false) => Err(Error::Conflict(format!(
                "deletion of timeline {}/{id} was begun and did not succeed: delete it again before the id is used",
                self.id
            ))),
        }
    }

    /// Creates a branch: one index object and nothing else. The same request again returns the
    /// same timeline.
    ///
    /// If it fails with its index under way, the branch may exist or come to exist: its ancestor's
    /// history stays held and the ancestor is not deleted, until the same request succeeds or the
    /// branch is deleted. A daemon that loads the tenant in between takes a branch that it finds, and
    /// one that turns up later only if the history is still there.
    pub async fn branch(self: &Arc<Self>, request: Branch) -> Result<Arc<Timeline>> {
        let ancestor = self.timeline(request.ancestor)?;
        ancestor.check_active()?;
        if let Ok(existing) = self.timeline(request.id) {
            self.check_not_deleting(request.id, &self.changing.lock())?;
            let same = existing.ancestor().is_some_and(|(a, lsn)| {
                a.id == request.ancestor && request.at.is_none_or(|at| at.align() == lsn)
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
        let at = match self.tried_before(&request)? {
            Some(at) => at,
            None => self.hold(&ancestor, &request)?,
        };
        let _hold = Hold {
            tenant: self,
            ancestor: &ancestor,
            id: request.id,
        };
        ancestor.wait_lsn(at, BRANCH_WAIT).await?;
        if at < ancestor.gc_cutoff() {
            // Possible through a lease. Whoever loads the branch must find that its history is held,
            // and the index in the bucket may say that nobody holds it.
            ancestor.upload().await?;
        }
        self.make_branch(&ancestor, request.id, at).await
    }

    /// The branch point of an earlier try whose outcome is unknown; it is still held.
    fn tried_before(&self, request: &Branch) -> Result<Option<Lsn>> {
        let Some(tried) = self.changing.lock().unsure.get(&request.id).copied() else {
            return Ok(None);
        };
        let at = request.at.map_or(tried.at, Lsn::align);
        if at == tried.at && request.ancestor == tried.ancestor {
            return Ok(Some(at));
        }
        Err(Error::Conflict(format!(
            "timeline {}/{} may have been created as a branch of {} at LSN {}, with an unknown outcome: repeat that request, or delete the timeline",
            self.id, request.id, tried.ancestor, tried.at
        )))
    }

    /// The branch point of a request; from here on garbage collection knows of it.
    fn hold(&self, ancestor: &Timeline, request: &Branch) -> Result<Lsn> {
        let at = request
            .at
            .map_or_else(|| ancestor.last_record_lsn(), Lsn::align);
        let now = self.shared.env.clock.monotonic();
        let oldest = ancestor.gc_cutoff().max(ancestor.ancestor_lsn());
        let retained = at >= ancestor.ancestor_lsn()
            && ancestor.retention().add_branch(request.id, at, now).is_ok();
        match retained {
            true => Ok(at),
            false => Err(Error::NotAcceptable(format!(
                "cannot branch timeline {}/{} at LSN {at}: history is kept from {oldest} on",
                self.id, ancestor.id
            ))),
        }
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
            latest_gc_cutoff_lsn: ancestor.gc_cutoff().min(at),
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
        (index.rel_size_migration, index.rel_size_migrated_at) = ancestor.relation_directory();
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
        let origin = ancestor.as_ref().map(|(a, at)| Origin {
            ancestor: a.id,
            at: *at,
        });
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
        if let Some(origin) = origin {
            self.changing.lock().unsure.insert(id, origin);
        }
        timeline.upload().await?;
        self.insert(Arc::clone(&timeline));
        let mut changing = self.changing.lock();
        changing.unsure.remove(&id);
        drop(changing);
        Ok(timeline)
    }
}
