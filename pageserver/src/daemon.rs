//! Start and stop of the daemon.

#![expect(
    clippy::disallowed_methods,
    reason = "the outermost layer: it starts the tasks everything else runs in"
)]

use crate::config::Config;
use crate::engine::disk::HostDisk;
use crate::engine::env::{HostClock, HostEntropy};
use crate::engine::jobs::Workers;
use crate::engine::metrics::Metrics;
use crate::engine::{Engine, Env};
use crate::page_service::{self, Service};
use crate::redo_process::Programs;
use crate::walreceiver::{Receivers, Source};
use crate::{http, import};
use anyhow::Context;
use prometheus_client::registry::Registry;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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
    let unfinished = engine.load_all().await.context("cannot load the tenants")?;
    let undone = import::undo_interrupted(&engine).await;
    for left in unfinished {
        if left.index.deleted_at.is_some() {
            info!(tenant = %left.tenant.id, timeline = %left.timeline, "finishing a deletion that was interrupted");
            if let Err(e) = left.tenant.remove_timeline_data(left.timeline).await {
                warn!(tenant = %left.tenant.id, timeline = %left.timeline, "cannot be removed now: {e}");
            }
        } else if !undone.contains(&(left.tenant.id.tenant, left.timeline)) {
            import::clean_up(&left.tenant, left.timeline, &left.index).await;
        }
    }
    start_receivers(&engine, &receivers);
    state.set_loaded();
    let service = Arc::new(Service::new(Arc::clone(&engine), config.wait_lsn_timeout));
    let pages = tokio::spawn(page_service::listen(pg_listener, service, front.clone()));
    info!(http = %http_addr, page_service = %pg_addr, tenants = engine.tenants().len(), "ready");

    stop.cancelled().await;
    info!("stopping: flushing and uploading");
    state.imports.cancel_all().await;
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

fn start_receivers(engine: &Arc<Engine>, receivers: &Arc<Receivers>) {
    for tenant in engine.tenants() {
        for timeline in tenant.timelines() {
            match Source::load(&*engine.env().disk, &timeline) {
                Ok(Some(source)) => receivers.start(timeline, source),
                Ok(None) => {}
                Err(e) => {
                    warn!(tenant = %timeline.tenant, timeline = %timeline.id, "no WAL is received: {e}")
                }
            }
        }
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
