//! Archived branches are kept and out of use, by the rules of the management API, also after restarts.

use anyhow::{Result, ensure};
use api_client::model::{Archival, TimelineCreate, TimelineInfo};
use page_protocol::client::{Connection, Form, Options};
use serde_json::Value;
use tests::accept::{Followed, follow};
use tests::daemon::Daemon;
use tests::postgres::{self, Cluster, Install, Shutdown};
use types::{PgMajor, TimelineId};

fn id(n: u8) -> TimelineId {
    TimelineId([n; 16])
}

struct Setup {
    daemon: Daemon,
    followed: Followed,
}

/// A timeline that follows nobody any more.
async fn setup() -> Result<Setup> {
    let daemon = Daemon::start(&["tenant_config.lsn_lease_length=0s"]).await?;
    let options = postgres::Options::default();
    let mut cluster = Cluster::init(&Install::find(PgMajor::V16)?, &options)?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    cluster.stop(Shutdown::Fast)?;
    Ok(Setup { daemon, followed })
}

impl Setup {
    async fn branch(&self, from: TimelineId, new: TimelineId) -> Result<(), api_client::Error> {
        let request = TimelineCreate {
            new_timeline_id: Some(new),
            ancestor_timeline_id: Some(from),
            ..TimelineCreate::default()
        };
        let client = self.daemon.client();
        client
            .create_timeline(self.followed.shard(), &request)
            .await?;
        Ok(())
    }

    async fn set(&self, timeline: TimelineId, to: Archival) -> Result<(), api_client::Error> {
        let client = self.daemon.client();
        client
            .set_archived(self.followed.shard(), timeline, to)
            .await
    }

    async fn info(&self, timeline: TimelineId) -> Result<TimelineInfo> {
        self.daemon.timeline(self.followed.shard(), timeline).await
    }

    async fn put(&self, timeline: TimelineId, what: &str, body: &str) -> Result<(u16, String)> {
        let method = if what.ends_with("block_gc") {
            "POST"
        } else {
            "PUT"
        };
        self.daemon
            .http(method, &self.path(timeline, what), body)
            .await
    }

    fn path(&self, timeline: TimelineId, what: &str) -> String {
        let tenant = self.followed.shard();
        format!("/v1/tenant/{tenant}/timeline/{timeline}/{what}")
    }

    /// The error of a base backup, if it is refused.
    async fn backup(&self, timeline: TimelineId) -> Result<Option<String>> {
        let mut pages = Connection::connect(self.daemon.pages(), &Options::default()).await?;
        let command = format!("basebackup {} {timeline}", self.followed.tenant);
        let result = match pages.copy_out(&command, Form::Simple).await {
            Ok(mut stream) => stream.read_to_end(1 << 30).await.map(|_| ()),
            Err(e) => Err(e),
        };
        Ok(result.err().map(|e| e.to_string()))
    }
}

fn refusal(result: Result<(), api_client::Error>) -> Option<(u16, String)> {
    let error = result.err()?;
    Some((error.status()?, error.to_string()))
}

#[tokio::test]
async fn archived_branches_are_out_of_use_until_they_are_unarchived() -> Result<()> {
    let mut s = setup().await?;
    let main = s.followed.timeline;
    s.branch(main, id(1)).await?;
    s.branch(id(1), id(2)).await?;
    let counted = |size: &api_client::size::TenantSize| size.inputs.timeline_inputs.len();
    let tenant = s.followed.shard();
    ensure!(counted(&s.daemon.client().tenant_size(tenant, None).await?) == 3);

    // Leaves first.
    let (status, why) = refusal(s.set(id(1), Archival::Archived).await).unwrap_or_default();
    ensure!(
        status == 412
            && why.contains("non-archived child timelines")
            && why.contains(&id(2).to_string()),
        "{status} {why}"
    );
    for leaf in [id(2), id(1)] {
        s.set(leaf, Archival::Archived).await?;
        s.set(leaf, Archival::Archived).await?;
        ensure!(s.info(leaf).await?.is_archived == Some(true));
    }
    ensure!(s.info(main).await?.is_archived == Some(false));

    // The same after a restart from the bucket alone, and nothing was lost.
    s.daemon.stop().await?;
    s.daemon.lose_local_data()?;
    s.daemon.launch().await?;
    ensure!(s.info(id(2)).await?.is_archived == Some(true));
    let (status, why) = refusal(s.branch(id(1), id(3)).await).unwrap_or_default();
    ensure!(status == 406 && why.contains("archived"), "{status} {why}");
    let refused = s.backup(id(1)).await?.unwrap_or_default();
    ensure!(refused.contains("not found"), "{refused:?}");
    ensure!(s.backup(main).await?.is_none());
    let size = s.daemon.client().tenant_size(tenant, None).await?;
    ensure!(counted(&size) == 1, "{size:?}");
    let points = size.inputs.segments.iter();
    ensure!(
        points
            .filter(|m| m.kind == api_client::size::Kind::BranchPoint)
            .count()
            == 1
    );

    // Roots first.
    let (status, why) = refusal(s.set(id(2), Archival::Unarchived).await).unwrap_or_default();
    ensure!(
        status == 412 && why.contains(&format!("ancestor is archived: {}", id(1))),
        "{status} {why}"
    );
    s.set(id(1), Archival::Unarchived).await?;
    s.set(id(2), Archival::Unarchived).await?;
    s.set(id(2), Archival::Unarchived).await?;
    s.daemon.stop().await?;
    s.daemon.launch().await?;
    ensure!(s.info(id(2)).await?.is_archived == Some(false));
    ensure!(s.backup(id(1)).await?.is_none());
    s.branch(id(1), id(3)).await?;

    let unknown = refusal(s.set(id(9), Archival::Archived).await);
    ensure!(unknown.is_some_and(|(status, _)| status == 404));
    let archival = |body| s.put(main, "archival_config", body);
    ensure!(archival("").await?.0 == 400);
    ensure!(archival("{\"state\":\"Frozen\"}").await?.0 == 400);
    Ok(())
}

#[tokio::test]
async fn hidden_branches_do_not_count_and_blocked_tenants_are_not_collected() -> Result<()> {
    let mut s = setup().await?;
    let (main, tenant) = (s.followed.timeline, s.followed.shard());
    s.branch(main, id(1)).await?;
    ensure!(s.put(id(1), "mark_invisible", "").await? == (200, "null".into()));
    ensure!(s.info(id(1)).await?.is_invisible == Some(true));
    ensure!(
        s.put(id(1), "mark_invisible", "{\"is_visible\":true}")
            .await?
            .0
            == 200
    );
    ensure!(s.info(id(1)).await?.is_invisible == Some(false));

    let collected = async |s: &Setup| -> Result<u64> {
        let (status, body) = s.put(main, "do_gc", "null").await?;
        ensure!(status == 200, "{status} {body}");
        let result: Value = serde_json::from_str(&body)?;
        Ok(result["layers_total"].as_u64().unwrap_or(0))
    };
    ensure!(collected(&s).await? > 0);
    // One branch stops it for all, also after a restart.
    for _ in 0..2 {
        ensure!(s.put(id(1), "block_gc", "").await? == (200, "null".into()));
    }
    ensure!(collected(&s).await? == 0);
    s.daemon.stop().await?;
    s.daemon.launch().await?;
    ensure!(collected(&s).await? == 0);
    let info = s.daemon.client().tenant(tenant).await?;
    ensure!(info.gc_blocking.is_some_and(|w| w.contains("Manual")));
    ensure!(s.put(id(1), "unblock_gc", "null").await?.0 == 200);
    ensure!(collected(&s).await? > 0);
    ensure!(
        s.daemon
            .client()
            .tenant(tenant)
            .await?
            .gc_blocking
            .is_none()
    );
    Ok(())
}
