//! Import: from a running, unmodified Postgres to a timeline that follows it.
//!
//! Checks first and changes nothing if something speaks against it. Then a replication slot, a base
//! backup streamed into image layers at its start LSN, WAL up to the point where the backup is
//! consistent, and from there on a WAL receiver. Whatever fails or is cancelled leaves no slot, no
//! tenant and no timeline behind.

mod files;
mod intent;
mod progress;

pub use progress::{Phase, Progress, Snapshot};

use crate::engine::timeline::import::Layers;
use crate::engine::{Engine, Error, Result, Tenant, Timeline};
use crate::walreceiver::{Goal, Receivers, SessionError, Source, run_session};
use intent::Intent;
use layer_format::Metadata;
use layer_format::index_part::{IndexPart, Vanilla, VanillaImport};
use replication::base_backup::{BaseBackup, Event, Options as BackupOptions};
use replication::commands::{SlotOptions, create_slot, drop_slot};
use replication::connection::{Connection, Mode};
use replication::conninfo::Conninfo;
use replication::preflight::{self, Purpose, Severity};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use types::{Flavour, Lsn, PgMajor, TenantId, TenantShardId, TimelineId};

/// Tries to drop a slot whose walsender the server has not noticed to be dead.
const DROP_TRIES: u32 = 20;
/// Pause between them.
const DROP_PAUSE: Duration = Duration::from_millis(250);
/// Connections to the primary that may fail while WAL is fetched, before the import fails.
const WAL_TRIES: u32 = 5;

/// What to import, and as what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The primary.
    pub conninfo: Conninfo,
    /// Tenant to put it in; created if it does not exist.
    pub tenant: TenantId,
    /// Name of a new tenant, for people.
    pub name: Option<String>,
    /// Id of the new timeline.
    pub timeline: TimelineId,
    /// Upper bound of the transfer rate in KiB/s.
    pub max_rate: Option<u32>,
}

/// What a finished import made.
#[derive(Clone, Copy, Debug)]
pub struct Imported {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// First readable LSN.
    pub lsn: Lsn,
}

fn refused(e: &replication::Error, conninfo: &Conninfo) -> Error {
    let explained = preflight::explain(e, &conninfo.user);
    Error::Precondition(match explained {
        Some(finding) => format!("cannot import {conninfo}: {finding}"),
        None => format!("cannot import {conninfo}: {e}"),
    })
}

/// Imports a running Postgres and starts to follow it.
///
/// # Errors
/// [`Error::Precondition`] names what has to be changed on the primary. After any error nothing
/// is left behind, there or here, except what the error says could not be removed.
pub async fn run(
    engine: &Arc<Engine>,
    receivers: &Arc<Receivers>,
    request: Request,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Imported> {
    progress.phase(Phase::Checking);
    let mut control = Connection::connect(&request.conninfo, Mode::Database)
        .await
        .map_err(|e| refused(&e, &request.conninfo))?;
    let report = preflight::check(&mut control, Purpose::Import)
        .await
        .map_err(|e| refused(&e, &request.conninfo))?;
    for finding in report
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Warning)
    {
        warn!(source = %request.conninfo, "{finding}");
        progress.warn(finding.to_string());
    }
    if !report.is_usable() {
        let fatal: Vec<String> = report
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Fatal)
            .map(ToString::to_string)
            .collect();
        return Err(Error::Precondition(format!(
            "cannot import {}: {}",
            request.conninfo,
            fatal.join("; ")
        )));
    }
    let version = report
        .major
        .ok_or_else(|| Error::Precondition(format!("unsupported version {}", report.version)))?;
    let segment_size = u32::try_from(report.wal_segment_size).map_err(|_| {
        Error::Precondition(format!("WAL segments of {} bytes", report.wal_segment_size))
    })?;
    let id = TenantShardId::unsharded(request.tenant);
    let existing = match engine.open(id).await {
        Ok(tenant) => Some(tenant),
        Err(Error::TenantNotFound(_)) => None,
        Err(e) => return Err(e),
    };
    if existing
        .as_ref()
        .is_some_and(|t| t.timeline(request.timeline).is_ok())
    {
        return Err(Error::Conflict(format!(
            "timeline {id}/{} exists already",
            request.timeline
        )));
    }
    let slot = format!("pageserver_{}", request.timeline);
    let intent = Intent::new(&request, existing.is_none(), &slot);
    let disk = &*engine.env().disk;
    intent.save(disk)?;
    let (tenant, created) = find_or_create(engine, &request)
        .await
        .inspect_err(|_| intent.forget(disk))?;
    let undo = Undo {
        engine: Arc::clone(engine),
        tenant: Arc::clone(&tenant),
        created,
        timeline: None,
        slot: None,
    };
    let mut import = Import {
        engine,
        receivers,
        request: &request,
        progress,
        undo,
        version,
        slot,
        system_identifier: report.system_id,
        segment_size,
    };
    let outcome = tokio::select! {
        r = import.fill(&mut control) => r,
        () = cancel.cancelled() => Err(Error::Precondition("the import was cancelled".into())),
    };
    match outcome {
        Ok(done) => {
            intent.forget(disk);
            progress.phase(Phase::Done);
            Ok(done)
        }
        Err(e) => {
            progress.phase(Phase::Undoing);
            match import.undo.run(&request.conninfo).await {
                Ok(()) => {
                    intent.forget(disk);
                    Err(e)
                }
                Err(left) => Err(Error::Internal(format!(
                    "{e}; and cleaning up failed: {left}"
                ))),
            }
        }
    }
}

async fn find_or_create(engine: &Engine, request: &Request) -> Result<(Arc<Tenant>, bool)> {
    let id = TenantShardId::unsharded(request.tenant);
    match engine.open(id).await {
        Ok(tenant) => Ok((tenant, false)),
        Err(Error::TenantNotFound(_)) => Ok((
            engine
                .create_tenant(id, serde_json::Map::new(), request.name.clone())
                .await?,
            true,
        )),
        Err(e) => Err(e),
    }
}

struct Import<'a> {
    engine: &'a Arc<Engine>,
    receivers: &'a Arc<Receivers>,
    request: &'a Request,
    progress: &'a Progress,
    undo: Undo,
    version: PgMajor,
    slot: String,
    system_identifier: u64,
    segment_size: u32,
}

fn server(e: &replication::Error) -> Error {
    Error::Internal(format!("the primary: {e}"))
}

impl Import<'_> {
    async fn fill(&mut self, control: &mut Connection) -> Result<Imported> {
        let conninfo = &self.request.conninfo;
        let options = SlotOptions {
            temporary: false,
            reserve_wal: true,
        };
        let made = create_slot(control, &self.slot, options).await;
        // Ours unless the server refused, also if its answer was lost.
        if !matches!(&made, Err(e) if e.server().is_some()) {
            self.undo.slot = Some(self.slot.clone());
        }
        made.map_err(|e| server(&e))?;
        self.progress.phase(Phase::Backup);
        let connection = Connection::connect(conninfo, Mode::Physical)
            .await
            .map_err(|e| server(&e))?;
        let options = BackupOptions {
            max_rate: self.request.max_rate,
            ..BackupOptions::default()
        };
        let backup = BaseBackup::start(connection, &options)
            .await
            .map_err(|e| server(&e))?;
        let start = backup.start_position();
        let mut index = IndexPart::new(Metadata {
            disk_consistent_lsn: Lsn::INVALID,
            prev_record_lsn: None,
            ancestor_timeline: None,
            ancestor_lsn: Lsn::INVALID,
            latest_gc_cutoff_lsn: start.lsn,
            initdb_lsn: start.lsn,
            pg_version: self.version,
        });
        index.vanilla = Some(Vanilla {
            flavour: Flavour::Vanilla,
            system_identifier: self.system_identifier,
            timeline_id: start.timeline,
            wal_segment_size: self.segment_size,
            source: Some(conninfo.to_string()),
            slot: Some(self.slot.clone()),
            import: Some(VanillaImport {
                start_lsn: start.lsn,
                end_lsn: None,
                done: false,
            }),
            history: Vec::new(),
        });
        let timeline = self
            .undo
            .tenant
            .create_for_import(self.request.timeline, self.version, index)
            .await?;
        self.undo.timeline = Some(timeline.id);
        let source = Source {
            conninfo: conninfo.clone(),
            slot: self.slot.clone(),
        };
        source.save(&*self.engine.env().disk, &timeline)?;
        let end = self.copy(&timeline, backup, start.lsn).await?;
        self.progress.phase(Phase::Wal);
        self.catch_up(&timeline, &source, start.lsn, end).await?;
        self.progress.phase(Phase::Upload);
        let lsn = timeline.finish_import().await?;
        info!(tenant = %timeline.tenant, timeline = %timeline.id, %lsn, "import complete");
        self.receivers.start(Arc::clone(&timeline), source);
        Ok(Imported {
            tenant: self.request.tenant,
            timeline: timeline.id,
            lsn,
        })
    }

    /// Streams the backup into image layers. Returns its end position.
    async fn copy(
        &self,
        timeline: &Arc<Timeline>,
        mut backup: BaseBackup,
        start: Lsn,
    ) -> Result<Lsn> {
        self.progress.total(backup.estimated_bytes());
        let mut files = files::Files::new(self.version, Layers::new(timeline, start));
        let end = loop {
            match backup.next().await.map_err(|e| server(&e))? {
                Event::Archive(space) => files.begin_archive(&space)?,
                Event::Data(bytes) => files.feed(&bytes).await?,
                Event::ArchiveEnd => files.end_archive()?,
                Event::End(position) => break position.lsn,
            }
            self.progress.done(backup.received_bytes());
        };
        self.progress.done(backup.received_bytes());
        let layers = files.finish()?;
        timeline.adopt_import(layers, start).await?;
        Ok(end)
    }

    /// Fetches the WAL that makes the backup consistent.
    async fn catch_up(
        &self,
        timeline: &Arc<Timeline>,
        source: &Source,
        start: Lsn,
        end: Lsn,
    ) -> Result<()> {
        let mut tries = 0;
        loop {
            match run_session(timeline, source, Goal::Import { start, end }).await {
                Ok(()) => return Ok(()),
                Err(SessionError::Transient(text)) if tries < WAL_TRIES => {
                    tries += 1;
                    warn!(timeline = %timeline.id, "WAL of the import: {text}, trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(e) => return Err(Error::Internal(format!("WAL of the import: {e}"))),
            }
        }
    }
}

/// What an import has made so far.
struct Undo {
    engine: Arc<Engine>,
    tenant: Arc<Tenant>,
    created: bool,
    timeline: Option<TimelineId>,
    slot: Option<String>,
}

impl Undo {
    async fn run(&self, conninfo: &Conninfo) -> Result<()> {
        if let Some(id) = self.timeline {
            self.tenant.delete_timeline(id).await?;
        }
        if self.created {
            self.engine.delete_tenant(self.tenant.id).await?;
        }
        match &self.slot {
            None => Ok(()),
            Some(slot) => remove_slot(conninfo, slot).await,
        }
    }
}

/// Drops a slot; one that does not exist is fine.
pub async fn remove_slot(conninfo: &Conninfo, slot: &str) -> Result<()> {
    let mut last = String::new();
    for _ in 0..DROP_TRIES {
        let attempt = async {
            let mut c = Connection::connect(conninfo, Mode::Physical).await?;
            drop_slot(&mut c, slot, false).await
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(e) if e.is_slot_missing() => return Ok(()),
            Err(e) => last = e.to_string(),
        }
        tokio::time::sleep(DROP_PAUSE).await;
    }
    Err(Error::Internal(format!(
        "slot {slot} on {conninfo} could not be dropped and keeps WAL there: {last}. Drop it with SELECT pg_drop_replication_slot('{slot}')"
    )))
}

/// Undoes the imports that a crash of the daemon interrupted. Returns which; one that cannot be
/// undone now is tried again at the next start.
pub async fn undo_interrupted(engine: &Arc<Engine>) -> HashSet<(TenantId, TimelineId)> {
    let disk = &*engine.env().disk;
    let intents = Intent::load_all(disk).unwrap_or_else(|e| {
        warn!("interrupted imports cannot be looked for: {e}");
        Vec::new()
    });
    let mut handled = HashSet::new();
    for intent in intents {
        let (tenant, timeline) = (intent.tenant, intent.timeline);
        let opened = engine.open(TenantShardId::unsharded(tenant)).await;
        if opened.is_ok_and(|t| t.timeline(timeline).is_ok()) {
            // The crash came behind the last step.
            intent.forget(disk);
            continue;
        }
        info!(%tenant, %timeline, "removing an import that was interrupted");
        handled.insert((tenant, timeline));
        match undo(engine, &intent).await {
            Ok(()) => intent.forget(disk),
            Err(e) => {
                warn!(%tenant, %timeline, "cannot be removed now, will be tried at the next start: {e}")
            }
        }
    }
    handled
}

async fn undo(engine: &Arc<Engine>, intent: &Intent) -> Result<()> {
    let id = TenantShardId::unsharded(intent.tenant);
    if let Ok(tenant) = engine.open(id).await {
        tenant.remove_timeline_data(intent.timeline).await?;
        if intent.creates_tenant && tenant.timelines().is_empty() {
            engine.delete_tenant(id).await?;
        }
    }
    let conninfo: Conninfo = intent
        .connstr
        .parse()
        .map_err(|e| Error::Internal(format!("connstr: {e}")))?;
    remove_slot(&conninfo, &intent.slot).await
}

/// Removes an interrupted import of which only the bucket still knows.
pub async fn clean_up(tenant: &Arc<Tenant>, timeline: TimelineId, index: &IndexPart) {
    let source = index
        .vanilla
        .as_ref()
        .and_then(|v| Some((v.source.clone()?, v.slot.clone()?)));
    info!(tenant = %tenant.id, timeline = %timeline, "removing an import that was interrupted");
    if let Some((connstr, slot)) = source {
        let dropped = match connstr.parse::<Conninfo>() {
            Ok(conninfo) => remove_slot(&conninfo, &slot).await,
            Err(e) => Err(Error::Internal(e.to_string())),
        };
        if let Err(e) = dropped {
            warn!(tenant = %tenant.id, timeline = %timeline, "{e}");
        }
    }
    if let Err(e) = tenant.remove_timeline_data(timeline).await {
        warn!(tenant = %tenant.id, timeline = %timeline, "cannot be removed now, will be tried at the next start: {e}");
    }
}
