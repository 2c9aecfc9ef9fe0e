//! The WAL receiver goes on where it was after restarts of either side, loses and repeats nothing,
//! and refuses another cluster at the same address.

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tests::accept::{Followed, follow, insert_lsn, pages};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options, Shutdown};
use types::{Lsn, PgMajor};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

async fn start(major: PgMajor) -> Result<(Daemon, Cluster, Followed)> {
    let daemon = Daemon::start(&[]).await?;
    let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    cluster
        .psql("CREATE TABLE t (round int, a int PRIMARY KEY, b text)")
        .await?;
    Ok((daemon, cluster, followed))
}

/// Adds rows and waits until they were ingested.
async fn write(daemon: &Daemon, cluster: &Cluster, followed: Followed, round: u32) -> Result<Lsn> {
    cluster
        .psql(&format!(
            "INSERT INTO t SELECT {round}, {round} * 1000 + g, md5(g::text) FROM generate_series(1, 1000) g;
             UPDATE t SET b = 'changed' WHERE a % 7 = {round}"
        ))
        .await?;
    let end = insert_lsn(cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, end)
        .await?;
    Ok(end)
}

#[tokio::test]
async fn restarts_of_either_side_lose_and_repeat_nothing() -> Result<()> {
    let (mut daemon, mut cluster, followed) = start(PgMajor::V17).await?;
    write(&daemon, &cluster, followed, 0).await?;
    daemon.stop().await?;
    daemon.launch().await?;
    write(&daemon, &cluster, followed, 1).await?;
    // WAL that came while nobody listened.
    daemon.kill9()?;
    cluster
        .psql("INSERT INTO t VALUES (9, -1, 'alone')")
        .await?;
    daemon.launch().await?;
    write(&daemon, &cluster, followed, 2).await?;
    cluster.stop(Shutdown::Fast)?;
    cluster.start()?;
    write(&daemon, &cluster, followed, 3).await?;
    cluster.stop(Shutdown::Immediate)?;
    cluster.start()?;
    write(&daemon, &cluster, followed, 4).await?;
    cluster.kill9()?;
    cluster.start()?;
    write(&daemon, &cluster, followed, 5).await?;
    pages::settle(&daemon, followed, &mut cluster)
        .await?
        .check()
}

#[tokio::test]
async fn the_slot_follows_what_is_durable() -> Result<()> {
    let (daemon, cluster, followed) = start(PgMajor::V14).await?;
    let (tenant, timeline) = (followed.shard(), followed.timeline);
    let durable = daemon
        .timeline(tenant, timeline)
        .await?
        .remote_consistent_lsn;
    let end = write(&daemon, &cluster, followed, 0).await?;
    let slot = "SELECT restart_lsn FROM pg_replication_slots";
    let kept: Lsn = cluster.value(slot).await?.parse()?;
    ensure!(
        kept <= durable,
        "the slot is at {kept}, the bucket at {durable}"
    );

    let before = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
    daemon.client().checkpoint(tenant, timeline).await?;
    let info = daemon.timeline(tenant, timeline).await?;
    ensure!(info.remote_consistent_lsn >= end, "{info:?}");
    let started = Instant::now();
    loop {
        let kept: Lsn = cluster.value(slot).await?.parse()?;
        if kept >= end {
            break;
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "the slot stays at {kept}, {end} is durable"
        );
        tokio::time::sleep(LOOK).await;
    }

    let connstr = info.wal_source_connstr.unwrap_or_default();
    ensure!(
        connstr.contains(&format!("127.0.0.1:{}", cluster.port())),
        "{connstr}"
    );
    ensure!(
        info.walreceiver_status == "streaming",
        "{}",
        info.walreceiver_status
    );
    ensure!(info.last_received_msg_lsn.is_some_and(|l| l >= end));
    let then = Duration::from_micros(info.last_received_msg_ts.unwrap_or_default());
    ensure!(
        then + PATIENCE > before && then < before + PATIENCE,
        "{then:?} and {before:?}"
    );
    Ok(())
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_refused() -> Result<()> {
    let (daemon, mut cluster, followed) = start(PgMajor::V18).await?;
    let end = write(&daemon, &cluster, followed, 0).await?;
    cluster.stop(Shutdown::Fast)?;
    let mut other = Cluster::init(&Install::find(PgMajor::V18)?, &Options::default())?;
    other.take_port(&cluster)?;
    other.start()?;
    daemon.wait_log("WAL receiver gives up").await?;
    let info = daemon.timeline(followed.shard(), followed.timeline).await?;
    ensure!(
        info.walreceiver_status.contains("another cluster")
            && info.walreceiver_status.contains("system identifier"),
        "{}",
        info.walreceiver_status
    );
    ensure!(info.last_record_lsn >= end);
    let slots = other.psql("SELECT * FROM pg_replication_slots").await?;
    ensure!(slots.is_empty(), "{slots:?}");
    pages::again(&daemon, followed, &cluster).await?.check()
}
