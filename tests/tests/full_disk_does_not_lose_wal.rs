//! While nothing can be written locally, flushes fail with a clear line in the log, reads go on,
//! and nothing is acknowledged; when there is space again, all of it is flushed.
//!
//! The full disk is a small file system in memory where this process may mount one, else a limit on
//! the size of the daemon's files.

use anyhow::{Context, Result, ensure};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::accept::{Load, Size, follow, insert_lsn, pages, primary};
use tests::daemon::Daemon;
use types::{Lsn, PgMajor};

const SIZE: &str = "size=768m";
const PATIENCE: Duration = Duration::from_secs(120);

/// A small file system; unmounted on drop, busy or not.
struct Mount(PathBuf);

impl Mount {
    /// `None` where mounting is not allowed.
    fn new(at: &Path) -> Result<Option<Mount>> {
        std::fs::create_dir_all(at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|o| o.status.success());
        Ok(mounted.then(|| Mount(at.to_owned())))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
        let zeros = vec![0u8; 64 << 10];
        while file.write_all(&zeros).is_ok() {}
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing to be done about a failure here.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn everything_is_flushed_when_there_is_space_again() -> Result<()> {
    let settings = ["tenant_config.checkpoint_distance=1048576"];
    let mut daemon = Daemon::start(&settings).await?;
    daemon.stop().await?;
    let mount = Mount::new(&daemon.path().join("tenants"))?;
    daemon.launch().await?;
    let size = Size {
        scale: 1,
        seconds: 2,
    };
    let cluster = Arc::new(primary(PgMajor::V16, size, &[]).await?);
    let followed = follow(&daemon, &cluster).await?;
    let (tenant, timeline) = (followed.shard(), followed.timeline);
    daemon.client().checkpoint(tenant, timeline).await?;
    match &mount {
        Some(mount) => mount.fill()?,
        None => daemon.limit_file_size(Some(64 << 10))?,
    }
    let durable = daemon
        .timeline(tenant, timeline)
        .await?
        .remote_consistent_lsn;

    Load::start(&cluster, size.seconds)?.finish().await?;
    let end = insert_lsn(&cluster).await?;
    daemon.wait_lsn(tenant, timeline, end).await?;
    daemon.wait_log("flush failed").await?;
    let log = daemon.log();
    let line = log.lines().find(|l| l.contains("flush failed"));
    let line = line.context("no line")?;
    let reason = if mount.is_some() {
        "No space left"
    } else {
        "File too large"
    };
    ensure!(
        line.contains(reason) && line.contains(&timeline.to_string()),
        "{line}"
    );
    ensure!(daemon.metric("pageserver_job_failures_total").await? > 0.0);
    ensure!(daemon.is_running()?);
    let info = daemon.timeline(tenant, timeline).await?;
    ensure!(
        info.remote_consistent_lsn <= info.disk_consistent_lsn
            && info.disk_consistent_lsn < end
            && info.remote_consistent_lsn >= durable,
        "{info:?}"
    );
    // What was not flushed is still at the primary.
    let kept: Lsn = cluster
        .value("SELECT restart_lsn FROM pg_replication_slots")
        .await?
        .parse()?;
    ensure!(kept <= info.remote_consistent_lsn, "the slot is at {kept}");
    let asked = daemon.client().checkpoint(tenant, timeline).await;
    let text = asked.err().context("a flush onto a full disk")?.to_string();
    ensure!(text.contains(reason), "{text}");

    match &mount {
        Some(mount) => std::fs::remove_file(mount.ballast())?,
        None => daemon.limit_file_size(None)?,
    }
    // By itself, without being asked.
    let started = Instant::now();
    while daemon
        .timeline(tenant, timeline)
        .await?
        .remote_consistent_lsn
        <= info.remote_consistent_lsn
    {
        ensure!(started.elapsed() < PATIENCE, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    daemon.client().checkpoint(tenant, timeline).await?;
    ensure!(
        daemon
            .timeline(tenant, timeline)
            .await?
            .remote_consistent_lsn
            >= end
    );
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    pages::settle(&daemon, followed, &mut cluster)
        .await?
        .check()
}
