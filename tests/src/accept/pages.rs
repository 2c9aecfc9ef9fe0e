//! Every page after a load equals the primary's file.

use super::{Followed, Load, Size, follow, primary};
use crate::compare::{self, Report};
use crate::daemon::Daemon;
use crate::postgres::{Cluster, Shutdown};
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use types::{Lsn, PgMajor};

/// What a run found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Pages compared and what differs.
    pub report: Report,
    /// Turns of the SQL workload.
    pub turns: u32,
    /// WAL ingested, in bytes.
    pub wal: u64,
    /// Seconds from the end of the load until everything was ingested.
    pub lag: f64,
}

/// Imports a fresh primary of this version, loads it, stops it and compares.
pub async fn run(major: PgMajor, size: Size, daemon: &Daemon) -> Result<Outcome> {
    let cluster = Arc::new(primary(major, size, &[]).await?);
    let followed = follow(daemon, &cluster).await?;
    let start = super::insert_lsn(&cluster).await?;
    let load = Load::start(&cluster, size.seconds)?;
    let turns = load.finish().await?;
    let ended = Instant::now();
    let end = super::insert_lsn(&cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, end)
        .await?;
    let lag = ended.elapsed().as_secs_f64();
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    let report = settle(daemon, followed, &mut cluster).await?;
    Ok(Outcome {
        report,
        turns,
        wal: end.bytes_since(start),
        lag,
    })
}

/// Stops a primary cleanly, waits until all of its WAL was ingested, and compares.
pub async fn settle(daemon: &Daemon, followed: Followed, cluster: &mut Cluster) -> Result<Report> {
    let last = stop(cluster)?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, last)
        .await?;
    again(daemon, followed, cluster).await
}

/// Compares with a primary that was stopped cleanly and followed to its end.
pub async fn again(daemon: &Daemon, followed: Followed, cluster: &Cluster) -> Result<Report> {
    let last = checkpoint_end(&cluster.data())?;
    let (tenant, timeline) = (followed.tenant, followed.timeline);
    let major = cluster.install().major;
    compare::with_files(daemon, tenant, timeline, last, &cluster.data(), major).await
}

/// Stops a primary cleanly and returns the end of its last record, a shutdown checkpoint.
pub fn stop(cluster: &mut Cluster) -> Result<Lsn> {
    cluster.stop(Shutdown::Fast)?;
    checkpoint_end(&cluster.data())
}

fn checkpoint_end(pgdata: &Path) -> Result<Lsn> {
    let raw = std::fs::read(pgdata.join("global/pg_control"))?;
    let control = pg_format::ControlFile::parse(&raw)?;
    let record = pg_format::start::CHECKPOINT_RECORD_SIZE as u64;
    Ok(control.checkpoint_lsn().saturating_add(record).align())
}
