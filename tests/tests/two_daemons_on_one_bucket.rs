//! A second daemon on a bucket takes over: the first notices when it next uploads, acknowledges
//! nothing more and lets go of the primary, and the second follows it.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tests::accept::{follow, insert_lsn, pages};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use types::{Lsn, PgMajor};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_first_gives_way_to_the_second() -> Result<()> {
    let first = Daemon::start(&[]).await?;
    let mut cluster = Cluster::init(&Install::find(PgMajor::V16)?, &Options::default())?;
    cluster.start()?;
    let followed = follow(&first, &cluster).await?;
    let (tenant, timeline) = (followed.shard(), followed.timeline);
    let insert = "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g";
    cluster
        .psql(&format!("CREATE TABLE t (a int, b text); {insert}"))
        .await?;
    first.client().checkpoint(tenant, timeline).await?;

    let bucket = first.path().join("bucket");
    let storage = format!("remote_storage.local_path={}", bucket.display());
    let second = Daemon::start(&[&storage]).await?;
    cluster.psql(insert).await?;
    let end = insert_lsn(&cluster).await?;
    first.wait_lsn(tenant, timeline, end).await?;
    let durable = first
        .timeline(tenant, timeline)
        .await?
        .remote_consistent_lsn;
    ensure!(durable < end);

    let refused = first.client().checkpoint(tenant, timeline).await;
    let refused = refused.err().context("the first still uploads")?;
    ensure!(
        refused.status() == Some(409) && refused.to_string().contains("attached elsewhere"),
        "{refused}"
    );
    let info = first.timeline(tenant, timeline).await?;
    let state = format!("{:?}", info.state);
    ensure!(
        state.contains("Broken") && state.contains("attached elsewhere"),
        "{state}"
    );
    ensure!(info.remote_consistent_lsn == durable, "{info:?}");
    let kept: Lsn = cluster
        .value("SELECT restart_lsn FROM pg_replication_slots")
        .await?
        .parse()?;
    ensure!(
        kept <= durable,
        "the slot is at {kept}, {durable} is durable"
    );

    // The slot is free for the second, which gets to the end and makes it durable.
    let started = Instant::now();
    second.wait_lsn(tenant, timeline, end).await?;
    ensure!(started.elapsed() < PATIENCE, "took {:?}", started.elapsed());
    second.client().checkpoint(tenant, timeline).await?;
    cluster.psql(insert).await?;
    pages::settle(&second, followed, &mut cluster)
        .await?
        .check()?;
    let info = first.timeline(tenant, timeline).await?;
    ensure!(info.remote_consistent_lsn == durable, "{info:?}");
    Ok(())
}
