//! Start and stop of the daemon.

#![expect(
    clippy::disallowed_methods,
    reason = "the outermost layer: it starts the tasks everything else runs in"
)]

use crate::config::Config;
use crate::engine::arrivals::Arrived;
use crate::engine::disk::HostDisk;
use crate::engine::env::{HostClock, HostEntropy};
use crate::engine::jobs::Workers;
use crate::engine::metrics::Metrics;
use crate::engine::{Engine, Env, Unfinished};
use crate::page_service::{self, Service};
use crate::redo_process::Programs;
use crate::walreceiver::{Receivers, Source};
use crate::{http, import};
use anyhow::Context;
use prometheus_client::registry::Registry;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use types::{TenantId, TimelineId};

/// Runs the daemon in a working directory until `stop` is cancelled, then flushes, uploads and
/// returns. `ready` is called once both listeners are open.
pub async fn run(
    dir: &Path,
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(std::net::SocketAddr, std::net::SocketAddr),
) -> anyhow::Result<()> {
    let _lock = lock(dir)?;
    let http_listener = TcpListener::bind(config.listen_http_addr)
        .await
        .with_context(|| {
            format!(
                "cannot listen on {} (listen_http_addr)",
                config.listen_http_addr
            )
        })?;
    let pg_listener = TcpListener::bind(config.listen_pg_addr)
        .await
        .with_context(|| {
            format!(
                "cannot listen on {} (listen_pg_addr)",
                config.listen_pg_addr
            )
        })?;
    let env = Env {
        disk: Arc::new(HostDisk::new(dir)),
        bucket: config
            .remote_storage
            .open(None)
            .await
            .context("remote_storage")?,
        clock: Arc::new(HostClock),
        entropy: Arc::new(HostEntropy),
    };
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let (engine, runner) = Engine::new(
        env,
        config.memory_budget,
        metrics,
        config.tenant_config.clone(),
    );
    engine.open_layers().limit_files(file_descriptors() / 2);
    if let Some(path) = &config.wal_redo_program {
        engine.redo().configure(Arc::new(Programs::new(path)));
    }
    let receivers = Arc::new(Receivers::default());
    let state = http::State::new(
        Arc::clone(&engine),
        Arc::clone(&receivers),
        config.id,
        registry,
        config.wait_lsn_timeout,
    );
    let front = stop.child_token();
    let (http_addr, pg_addr) = (http_listener.local_addr()?, pg_listener.local_addr()?);
    let http_task = tokio::spawn(http::listen(http_listener, state.clone(), front.clone()));
    ready(http_addr, pg_addr);

    let work = CancellationToken::new();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runner = runner.with_workers(Workers::for_cores(cores));
    let jobs = tokio::spawn(runner.run(Arc::clone(engine.timers()), work.clone()));
    let arrived = engine.watch_arrivals();
    let tenants = engine.discover().await.context("cannot list the tenants")?;
    let undone = import::undo_interrupted(&engine).await;
    let arriving = stop.child_token();
    let welcome = tokio::spawn(welcome(
        Arc::clone(&engine),
        Arc::clone(&receivers),
        arrived,
        undone,
        arriving.clone(),
    ));
    state.set_loaded();
    let service = Arc::new(Service::new(Arc::clone(&engine), config.wait_lsn_timeout));
    let pages = tokio::spawn(page_service::listen(pg_listener, service, front.clone()));
    info!(http = %http_addr, page_service = %pg_addr, tenants, "ready");
    let loader = Arc::clone(&engine);
    let scrubber = (Arc::clone(&engine), config.scrub, arriving.clone());
    let loading = tokio::spawn(async move { loader.load_waiting(&arriving).await });
    let scrubbing = tokio::spawn(async move {
        let (engine, schedule, cancel) = scrubber;
        engine.scrub_forever(schedule, &cancel).await;
    });

    stop.cancelled().await;
    info!("stopping: flushing and uploading");
    state.imports.cancel_all().await;
    // Behind these two, nobody starts a receiver any more.
    let _ = loading.await;
    let _ = scrubbing.await;
    let _ = welcome.await;
    receivers.stop_all().await;
    engine.shutdown().await;
    work.cancel();
    let _ = jobs.await;
    front.cancel();
    let _ = pages.await;
    let _ = http_task.await;
    info!("stopped");
    Ok(())
}

/// What is to be done for each tenant once it is loaded: deletions and imports that a crash
/// interrupted are brought to an end, and sources are followed.
async fn welcome(
    engine: Arc<Engine>,
    receivers: Arc<Receivers>,
    mut arrived: UnboundedReceiver<Arrived>,
    undone: HashSet<(TenantId, TimelineId)>,
    cancel: CancellationToken,
) {
    loop {
        let Arrived { tenant, unfinished } = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            next = arrived.recv() => match next {
                Some(next) => next,
                None => return,
            },
        };
        for timeline in tenant.timelines() {
            match Source::load(&*engine.env().disk, &timeline) {
                Ok(Some(source)) => receivers.start(timeline, source),
                Ok(None) => {}
                Err(e) => {
                    warn!(tenant = %timeline.tenant, timeline = %timeline.id, "no WAL is received: {e}")
                }
            }
        }
        let undone = undone.clone();
        // May take long, if it asks a server that is away.
        tokio::spawn(async move {
            for left in unfinished {
                finish(left, &undone).await;
            }
        });
    }
}

async fn finish(left: Unfinished, undone: &HashSet<(TenantId, TimelineId)>) {
    let (tenant, timeline) = (left.tenant, left.timeline);
    if left.index.deleted_at.is_some() {
        info!(tenant = %tenant.id, %timeline, "finishing a deletion that was interrupted");
        if let Err(e) = tenant.remove_timeline_data(timeline).await {
            warn!(tenant = %tenant.id, %timeline, "cannot be removed now, will be tried at the next start: {e}");
        }
    } else if !undone.contains(&(tenant.id.tenant, timeline)) {
        import::clean_up(&tenant, timeline, &left.index).await;
    }
}

/// One daemon per working directory.
fn lock(dir: &Path) -> anyhow::Result<std::fs::File> {
    use std::io::Write;
    let path = dir.join("pageserver.pid");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            anyhow::bail!(
                "another pageserver runs in {}: {} is locked",
                dir.display(),
                path.display()
            )
        }
        Err(std::fs::TryLockError::Error(e)) => {
            return Err(e).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Raises the limit of open files as far as this process may. Returns it, at most 8192.
fn file_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 8192;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let current = limit.current.unwrap_or(ENOUGH);
    if current >= most {
        return usize::try_from(current.min(ENOUGH)).unwrap_or(usize::MAX);
    }
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => usize::try_from(most).unwrap_or(usize::MAX),
        Err(e) => {
            warn!("the limit of open files stays at {current}: {e}");
            usize::try_from(current).unwrap_or(usize::MAX)
        }
    }
}
