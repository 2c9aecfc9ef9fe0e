//! What the page service does for a client: finds the timeline, opens streams, writes backups.

use super::stream::Stream;
use crate::backup;
use crate::engine::timeline::Pin;
use crate::engine::{Engine, Error as EngineError, ErrorKind, Timeline};
use page_protocol::Error;
use page_protocol::command::{BaseBackup, FullBackup, LeaseLsn, PageStream};
use page_protocol::server::{Authentication, CopyOut, Handler};
use page_protocol::startup::Startup;
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, TenantId, TenantShardId, TimelineId};

/// The page service of one daemon.
#[derive(Debug)]
pub struct Service {
    engine: Arc<Engine>,
    wait_limit: Duration,
}

impl Service {
    /// A service over an engine; readers wait for WAL for at most `wait_limit`.
    pub fn new(engine: Arc<Engine>, wait_limit: Duration) -> Self {
        Service { engine, wait_limit }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    async fn timeline(&self, tenant: TenantId, id: TimelineId) -> Result<Arc<Timeline>, Error> {
        let tenant = TenantShardId::unsharded(tenant);
        find(&self.engine, tenant, id, self.wait_limit).await
    }

    /// A timeline that computes may start on.
    async fn in_use(&self, tenant: TenantId, timeline: TimelineId) -> Result<Arc<Timeline>, Error> {
        let timeline = self.timeline(tenant, timeline).await?;
        if timeline.is_archived() {
            return Err(Error::NotFound(format!(
                "timeline {}/{} is archived",
                timeline.tenant, timeline.id
            )));
        }
        Ok(timeline)
    }

    /// The LSN a backup is taken at, once it was ingested; readable as long as the pin is held.
    async fn backup_lsn(&self, timeline: &Timeline, lsn: Option<Lsn>) -> Result<Pin, Error> {
        let Some(lsn) = lsn else {
            return timeline.pin(timeline.last_record_lsn()).map_err(failure);
        };
        timeline
            .wait_lsn(lsn, self.wait_limit)
            .await
            .map_err(failure)?;
        timeline.pin(lsn).map_err(|e| match e {
            EngineError::BelowCutoff { requested, cutoff } => Error::internal(format!(
                "invalid basebackup lsn: LSN {requested} is earlier than latest GC cutoff {cutoff}"
            )),
            other => failure(other),
        })
    }
}

/// An active timeline. Its tenant is loaded first if it is not yet.
pub(super) async fn find(
    engine: &Engine,
    tenant: TenantShardId,
    timeline: TimelineId,
    limit: Duration,
) -> Result<Arc<Timeline>, Error> {
    let opened = match tokio::time::timeout(limit, engine.open(tenant)).await {
        Ok(opened) => opened.and_then(|t| t.timeline(timeline)),
        Err(_) => {
            let text = format!("tenant {tenant} is not loaded yet, after {limit:?}");
            return Err(Error::internal(text));
        }
    };
    let found = opened.map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::NotFound(e.to_string()),
        _ => failure(e),
    })?;
    found.check_active().map_err(failure)?;
    Ok(found)
}

/// A failed engine operation as the client sees it.
pub(super) fn failure(e: EngineError) -> Error {
    match e.kind() {
        ErrorKind::Shutdown => Error::Shutdown,
        ErrorKind::NotFound => Error::NotFound(e.to_string()),
        _ => Error::chain(&e),
    }
}

impl Handler for Service {
    type Session = ();
    type Stream = Stream;

    fn authentication(&self) -> Authentication {
        Authentication::Trust
    }

    async fn authenticate(&self, _startup: &Startup, _token: Option<&str>) -> Result<(), Error> {
        Ok(())
    }

    fn authorize(&self, _session: &(), _tenant: TenantId) -> Result<(), Error> {
        Ok(())
    }

    async fn open_stream(&self, _session: &(), command: &PageStream) -> Result<Stream, Error> {
        let engine = Arc::clone(&self.engine);
        Ok(Stream::new(
            engine,
            command.tenant,
            command.timeline,
            self.wait_limit,
        ))
    }

    async fn base_backup(
        &self,
        _: &(),
        command: &BaseBackup,
        out: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        let timeline = self.in_use(command.tenant, command.timeline).await?;
        let pin = self.backup_lsn(&timeline, command.lsn).await?;
        out.begin().await?;
        let options = backup::Options {
            contents: backup::Contents::Compute {
                replica: command.replica,
            },
            gzip: command.gzip,
            prev_lsn: None,
        };
        backup::write(&timeline, pin.lsn(), &options, out).await
    }

    async fn full_backup(
        &self,
        _: &(),
        command: &FullBackup,
        out: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        let timeline = self.in_use(command.tenant, command.timeline).await?;
        let pin = self.backup_lsn(&timeline, command.lsn).await?;
        out.begin().await?;
        let options = backup::Options {
            contents: backup::Contents::Full,
            gzip: false,
            prev_lsn: command.prev_lsn,
        };
        backup::write(&timeline, pin.lsn(), &options, out).await
    }

    async fn lease_lsn(&self, _: &(), command: &LeaseLsn) -> Result<Option<u64>, Error> {
        let timeline = find(
            &self.engine,
            command.tenant,
            command.timeline,
            self.wait_limit,
        )
        .await?;
        let length = timeline.shared().conf.load().lsn_lease_length;
        match timeline.lease(command.lsn, length) {
            Ok(until) => Ok(u64::try_from(until.as_millis()).ok()),
            Err(EngineError::BelowCutoff { .. } | EngineError::BadRequest(_)) => Ok(None),
            Err(e) => Err(failure(e)),
        }
    }
}
