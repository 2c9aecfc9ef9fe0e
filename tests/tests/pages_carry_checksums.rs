//! Pages of a cluster with data checksums arrive with the right ones, on a branch as well; pages
//! of a cluster without them are handed out as they are.

use anyhow::{Result, ensure};
use api_client::model::TimelineCreate;
use tests::accept::{Followed, follow, pages};
use tests::compare::{self, Report};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use types::{PgMajor, TimelineId};

/// Reports of the followed timeline and of a branch at its end.
async fn compared(options: &Options) -> Result<[Report; 2]> {
    let daemon = Daemon::start(&[]).await?;
    let mut cluster = Cluster::init(&Install::find(PgMajor::V18)?, options)?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    cluster
        .psql(
            "CREATE TABLE t (a int PRIMARY KEY, b text);
             INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g;
             UPDATE t SET b = 'x' WHERE a % 7 = 0;
             DELETE FROM t WHERE a % 5 = 0",
        )
        .await?;
    cluster.psql("VACUUM t").await?;
    let last = pages::stop(&mut cluster)?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, last)
        .await?;
    let request = TimelineCreate {
        new_timeline_id: Some(TimelineId([9; 16])),
        ancestor_timeline_id: Some(followed.timeline),
        ancestor_start_lsn: Some(last),
        ..TimelineCreate::default()
    };
    let branch = daemon
        .client()
        .create_timeline(followed.shard(), &request)
        .await?;
    let Followed { tenant, timeline } = followed;
    let (data, major) = (cluster.data(), cluster.install().major);
    Ok([
        compare::with_files(&daemon, tenant, timeline, last, &data, major).await?,
        compare::with_files(&daemon, tenant, branch.timeline_id, last, &data, major).await?,
    ])
}

#[tokio::test]
async fn of_a_cluster_that_has_them() -> Result<()> {
    for report in compared(&Options::default()).await? {
        report.check()?;
        ensure!(report.checksums == report.blocks, "{report:?}");
    }
    Ok(())
}

#[tokio::test]
async fn but_not_of_one_that_has_none() -> Result<()> {
    for report in compared(&Options::default().initdb("--no-data-checksums")).await? {
        report.check()?;
        ensure!(report.checksums == 0, "{report:?}");
    }
    Ok(())
}
