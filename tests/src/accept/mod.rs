//! Acceptance campaigns: minutes of real load against real servers, with figures. `cargo xtask
//! accept` runs them; the test suite runs short versions of the same code.

pub mod content;
pub mod exports;
pub mod kills;
pub mod pages;
pub mod soak;

use crate::daemon::Daemon;
use crate::postgres::{Cluster, Install, Options};
use anyhow::{Context, Result};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;
use types::{Lsn, PgMajor, TenantId, TenantShardId, TimelineId};

/// Load of one campaign.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// pgbench scale.
    pub scale: u32,
    /// Seconds of load.
    pub seconds: u64,
}

/// A primary, prepared with pgbench tables and [`crate::workload::prepare`].
pub async fn primary(major: PgMajor, size: Size, more: &[(&str, &str)]) -> Result<Cluster> {
    let install = Install::find(major)?;
    let mut options = Options::default()
        .set("max_prepared_transactions", "20")
        .set("max_wal_size", "1GB")
        .set("checkpoint_timeout", "30s")
        .set("shared_buffers", "128MB")
        .set("fsync", "off");
    for (name, value) in more {
        options = options.set(name, value);
    }
    let mut cluster = Cluster::init(&install, &options)?;
    cluster.start()?;
    cluster.pgbench(&["-i", "-q", "-s", &size.scale.to_string()])?;
    crate::workload::prepare(&cluster).await?;
    Ok(cluster)
}

/// A timeline that follows a primary.
#[derive(Debug, Clone, Copy)]
pub struct Followed {
    /// Tenant.
    pub tenant: TenantId,
    /// Timeline.
    pub timeline: TimelineId,
}

impl Followed {
    /// The tenant as the API addresses it.
    pub fn shard(&self) -> TenantShardId {
        TenantShardId::unsharded(self.tenant)
    }
}

/// Imports a primary.
pub async fn follow(daemon: &Daemon, cluster: &Cluster) -> Result<Followed> {
    let import = daemon.import(&cluster.connstr()).await?;
    Ok(Followed {
        tenant: import.tenant_id,
        timeline: import.timeline_id,
    })
}

/// pgbench TPC-B and [`crate::workload::churn`] side by side.
pub struct Load {
    pgbench: Child,
    churn: JoinHandle<Result<u32>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts the load; it ends by itself after `seconds`, or at [`Load::finish`].
    pub fn start(cluster: &Arc<Cluster>, seconds: u64) -> Result<Load> {
        Load::start_at(cluster, seconds, None, 0)
    }

    /// As [`Load::start`], with at most `rate` transactions of pgbench a second, on a server that has
    /// seen `turns` of the SQL workload before.
    pub fn start_at(
        cluster: &Arc<Cluster>,
        seconds: u64,
        rate: Option<u32>,
        turns: u32,
    ) -> Result<Load> {
        let mut pgbench = cluster.tool("pgbench")?;
        if let Some(rate) = rate {
            pgbench.args(["-R", &rate.to_string()]);
        }
        let pgbench = pgbench
            .args(["-n", "-c", "4", "-j", "1", "-T", &seconds.to_string()])
            // A deadlock with the SQL beside it is no reason to end.
            .arg("--max-tries=100")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting pgbench")?;
        let stop = Arc::new(AtomicBool::new(false));
        let churn = tokio::spawn(crate::workload::churn(
            Arc::clone(cluster),
            turns,
            Arc::clone(&stop),
        ));
        Ok(Load {
            pgbench,
            churn,
            stop,
        })
    }

    /// Waits for pgbench, stops the rest; returns the turns of churn the server has seen.
    pub async fn finish(mut self) -> Result<u32> {
        let status = loop {
            if let Some(status) = self.pgbench.try_wait()? {
                break status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        self.stop.store(true, Ordering::Release);
        let turns = self.churn.await??;
        anyhow::ensure!(status.success(), "pgbench ended with {status}");
        Ok(turns)
    }
}

/// The primary's newest WAL position.
pub async fn insert_lsn(cluster: &Cluster) -> Result<Lsn> {
    Ok(cluster
        .value("SELECT pg_current_wal_insert_lsn()")
        .await?
        .parse()?)
}
