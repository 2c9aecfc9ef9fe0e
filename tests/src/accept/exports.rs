//! Servers opened on moments of the past equal servers that recovered to the same moments.
//!
//! The yardstick is Postgres itself: a cold copy of the primary and its archived WAL, recovered to
//! the same LSN.

use super::content::{self, Content};
use super::{Followed, Load, Size, follow, primary};
use crate::daemon::Daemon;
use crate::postgres::{Cluster, Shutdown};
use anyhow::{Context, Result, ensure};
use page_protocol::client::{self, Connection};
use page_protocol::command::FullBackup;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, PgMajor};

/// Nothing may change what is compared.
const QUIET: (&str, &str) = ("autovacuum", "off");

/// What a run found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Moments compared.
    pub moments: usize,
    /// Tables compared, over all moments.
    pub tables: usize,
    /// Relations that amcheck found clean, over all moments.
    pub checked: u64,
    /// What differs.
    pub differences: Vec<String>,
}

/// Takes `moments` (at least three of them under load), exports each and compares.
pub async fn run(major: PgMajor, size: Size, moments: usize, daemon: &Daemon) -> Result<Outcome> {
    let archive = tempfile::Builder::new()
        .prefix("pageserver-archive-")
        .tempdir()?;
    let command = format!("cp %p {}/%f", archive.path().display());
    let settings = [
        ("archive_mode", "on"),
        ("archive_command", command.as_str()),
    ];
    let mut cluster = primary(major, size, &settings).await?;
    cluster.account().own(archive.path())?;
    cluster.stop(Shutdown::Fast)?;
    let cold = Cluster::empty(cluster.install())?;
    copy_tree(&cluster.data(), &cold.data())?;
    cluster.start()?;
    let cluster = Arc::new(cluster);
    let followed = follow(daemon, &cluster).await?;
    let mut lsns = vec![super::insert_lsn(&cluster).await?];
    let load = Load::start(&cluster, size.seconds)?;
    for _ in 0..moments.saturating_sub(2) {
        tokio::time::sleep(Duration::from_secs(size.seconds) / u32::try_from(moments)?).await;
        lsns.push(super::insert_lsn(&cluster).await?);
    }
    load.finish().await?;
    lsns.push(super::insert_lsn(&cluster).await?);
    cluster.psql("SELECT pg_switch_wal()").await?;
    let last = super::insert_lsn(&cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, last)
        .await?;
    wait_archived(&cluster).await?;
    let mut outcome = Outcome {
        moments: 0,
        tables: 0,
        checked: 0,
        differences: Vec::new(),
    };
    for lsn in lsns {
        let ours = open(daemon, followed, lsn, &cluster)
            .await
            .with_context(|| format!("export at {lsn}"))?;
        let content = content::of(&ours).await?;
        let theirs = recover(&cold, archive.path(), lsn, &cluster)
            .await
            .with_context(|| format!("recovery to {lsn}"))?;
        compare(&mut outcome, lsn, &content, &content::of(&theirs).await?);
        outcome.checked += content::amcheck(&ours)
            .await
            .with_context(|| format!("export at {lsn}"))?;
    }
    Ok(outcome)
}

fn compare(outcome: &mut Outcome, lsn: Lsn, ours: &Content, theirs: &Content) {
    outcome.moments += 1;
    outcome.tables += ours.len();
    let differences = content::differences(ours, theirs);
    outcome
        .differences
        .extend(differences.into_iter().map(|d| format!("at {lsn}: {d}")));
}

/// A server on a full backup of the timeline at `lsn`.
pub async fn open(
    daemon: &Daemon,
    followed: Followed,
    lsn: Lsn,
    like: &Cluster,
) -> Result<Cluster> {
    let mut cluster = Cluster::empty(like.install())?;
    let data = cluster.data();
    std::fs::create_dir_all(&data)?;
    let tar = data.with_extension("tar");
    download(daemon, followed, lsn, &tar).await?;
    let mut archive = tar::Archive::new(std::fs::File::open(&tar)?);
    archive.unpack(&data)?;
    std::fs::remove_file(&tar)?;
    cluster.adopt()?;
    cluster.configure(&[QUIET])?;
    cluster.start()?;
    Ok(cluster)
}

async fn download(daemon: &Daemon, followed: Followed, lsn: Lsn, to: &Path) -> Result<()> {
    use std::io::Write;
    let mut connection = Connection::connect(daemon.pages(), &client::Options::default()).await?;
    let command = FullBackup {
        tenant: followed.tenant,
        timeline: followed.timeline,
        lsn: Some(lsn),
        prev_lsn: None,
    };
    let mut stream = connection
        .full_backup(&command, client::Form::Simple)
        .await?;
    let mut file = std::fs::File::create(to)?;
    while let Some(chunk) = stream.chunk().await? {
        file.write_all(&chunk)?;
    }
    Ok(())
}

/// A server recovered from the cold copy to the last record that ends at or before `lsn`.
async fn recover(cold: &Cluster, archive: &Path, lsn: Lsn, like: &Cluster) -> Result<Cluster> {
    let mut cluster = Cluster::empty(like.install())?;
    copy_tree(&cold.data(), &cluster.data())?;
    let restore = format!("cp {}/%f %p", archive.display());
    let target = lsn.to_string();
    let settings = [
        ("restore_command", restore.as_str()),
        ("recovery_target_lsn", target.as_str()),
        ("recovery_target_inclusive", "off"),
        ("recovery_target_action", "promote"),
        ("archive_mode", "off"),
        QUIET,
    ];
    cluster.configure(&settings)?;
    cluster.write("recovery.signal", "")?;
    cluster.adopt()?;
    cluster.start()?;
    for _ in 0..1200 {
        if cluster.value("SELECT pg_is_in_recovery()").await? == "f" {
            return Ok(cluster);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("recovery does not end:\n{}", cluster.log())
}

async fn wait_archived(cluster: &Cluster) -> Result<()> {
    let wanted = cluster
        .value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .await?;
    cluster.psql("SELECT pg_switch_wal()").await?;
    for _ in 0..1200 {
        cluster.psql("SELECT pg_switch_wal()").await?;
        let done = cluster
            .psql("SELECT last_archived_wal FROM pg_stat_archiver")
            .await?;
        if done.into_iter().flatten().flatten().any(|w| w >= wanted) {
            return Ok(());
        }
        cluster
            .psql("CREATE TABLE IF NOT EXISTS nudge (x int); INSERT INTO nudge VALUES (1)")
            .await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{wanted} is not archived:\n{}", cluster.log())
}

fn copy_tree(from: &Path, to: &PathBuf) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "copying {} failed", from.display());
    // A copy of a server that ran has no server.
    let _ = std::fs::remove_file(to.join("postmaster.pid"));
    Ok(())
}
