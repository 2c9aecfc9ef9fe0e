//! A branch of the past is made independent of its ancestor over the management API, takes an earlier
//! branch along, and lives on when the ancestor is deleted.

use anyhow::{Result, ensure};
use api_client::model::{TimelineCreate, TimelineInfo};
use tests::accept::{Followed, exports, follow, insert_lsn};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use types::{Lsn, PgMajor, TimelineId};

fn id(n: u8) -> TimelineId {
    TimelineId([n; 16])
}

struct Setup {
    daemon: Daemon,
    cluster: Cluster,
    followed: Followed,
}

impl Setup {
    async fn branch(&self, from: TimelineId, at: Lsn, new: TimelineId) -> Result<TimelineInfo> {
        let request = TimelineCreate {
            new_timeline_id: Some(new),
            ancestor_timeline_id: Some(from),
            ancestor_start_lsn: Some(at),
            ..TimelineCreate::default()
        };
        let client = self.daemon.client();
        Ok(client
            .create_timeline(self.followed.shard(), &request)
            .await?)
    }

    async fn detach(&self, timeline: TimelineId, query: &str) -> Result<(u16, String)> {
        let tenant = self.followed.shard();
        let path = format!("/v1/tenant/{tenant}/timeline/{timeline}/detach_ancestor{query}");
        self.daemon.http("PUT", &path, "").await
    }

    async fn rows(&self, timeline: TimelineId, lsn: Lsn) -> Result<String> {
        let followed = Followed {
            timeline,
            ..self.followed
        };
        let server = exports::open(&self.daemon, followed, lsn, &self.cluster).await?;
        server.value("SELECT count(*) FROM t").await
    }
}

#[tokio::test]
async fn branches_are_detached() -> Result<()> {
    let daemon = Daemon::start(&["tenant_config.checkpoint_distance=1048576"]).await?;
    let mut cluster = Cluster::init(&Install::find(PgMajor::V17)?, &Options::default())?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    let mut lsns = Vec::new();
    for n in 0..3 {
        let sql = match n {
            0 => "CREATE TABLE t AS SELECT generate_series(1, 10000) AS a",
            1 => "INSERT INTO t SELECT generate_series(1, 10000)",
            _ => "DELETE FROM t",
        };
        cluster.psql(sql).await?;
        let lsn = insert_lsn(&cluster).await?;
        daemon
            .wait_lsn(followed.shard(), followed.timeline, lsn)
            .await?;
        lsns.push(lsn.align());
    }
    let (main, tenant) = (followed.timeline, followed.shard());
    let mut s = Setup {
        daemon,
        cluster,
        followed,
    };
    s.branch(main, lsns[0], id(1)).await?;
    s.branch(main, lsns[1], id(2)).await?;
    s.branch(id(2), lsns[1], id(3)).await?;

    let (status, why) = s.detach(main, "").await?;
    ensure!(
        status == 409 && why.contains("no ancestors"),
        "{status} {why}"
    );
    let (status, why) = s.detach(id(3), "").await?;
    ensure!(
        status == 400 && why.contains("too many ancestors"),
        "{status} {why}"
    );
    for wrong in [
        "?detach_behavior=v3",
        "?copy_concurrency=0",
        "?rewrite_concurrency=x",
    ] {
        ensure!(s.detach(id(2), wrong).await?.0 == 400, "{wrong}");
    }
    ensure!(s.detach(id(9), "").await?.0 == 404);

    let moved = format!("{{\"reparented_timelines\":[\"{}\"]}}", id(1));
    for _ in 0..2 {
        ensure!(s.detach(id(2), "?copy_concurrency=3").await? == (200, moved.clone()));
    }
    let info = s.daemon.timeline(tenant, id(2)).await?;
    ensure!(
        info.ancestor_timeline_id.is_none() && info.min_readable_lsn < lsns[0],
        "{info:?}"
    );
    let info = s.daemon.timeline(tenant, id(1)).await?;
    ensure!(info.ancestor_timeline_id == Some(id(2)) && info.ancestor_lsn == Some(lsns[0]));
    ensure!(
        s.daemon
            .client()
            .tenant(tenant)
            .await?
            .gc_blocking
            .is_none()
    );

    // The ancestor goes; what was its history stays, in the bucket alone.
    s.daemon.client().delete_timeline(tenant, main).await?;
    s.daemon.stop().await?;
    s.daemon.lose_local_data()?;
    s.daemon.launch().await?;
    ensure!(s.rows(id(1), lsns[0]).await? == "10000");
    ensure!(s.rows(id(2), lsns[1]).await? == "20000");
    ensure!(s.rows(id(2), lsns[0]).await? == "10000");
    ensure!(s.rows(id(3), lsns[1]).await? == "20000");
    ensure!(s.detach(id(2), "").await? == (200, moved));
    Ok(())
}
