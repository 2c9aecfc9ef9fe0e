//! A branch at a noted time holds what was there then, and branches come and go by the rules of the
//! management API.

use anyhow::{Context, Result, ensure};
use api_client::model::{TimelineCreate, TimelineInfo};
use serde_json::Value;
use tests::accept::{Followed, exports, follow, insert_lsn};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use types::{Lsn, PgMajor, TenantShardId, TimelineId};

const NOW: &str =
    "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

struct Setup {
    daemon: Daemon,
    cluster: Cluster,
    followed: Followed,
    /// When all rows were there.
    noted: String,
    /// An LSN between the deletions of the first and of the second half.
    half: Lsn,
}

/// A table of 1000 rows, of which first one half was deleted and then the other.
async fn setup(major: PgMajor) -> Result<Setup> {
    let daemon = Daemon::start(&[]).await?;
    let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    cluster
        .psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
        .await?;
    cluster.psql("CREATE TABLE before (x int)").await?;
    let noted = cluster.value(NOW).await?;
    cluster.psql("DELETE FROM t WHERE a <= 500").await?;
    let half = insert_lsn(&cluster).await?;
    cluster.psql("DELETE FROM t").await?;
    cluster.psql("VACUUM t").await?;
    let end = insert_lsn(&cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, end)
        .await?;
    Ok(Setup {
        daemon,
        cluster,
        followed,
        noted,
        half,
    })
}

impl Setup {
    fn tenant(&self) -> TenantShardId {
        self.followed.shard()
    }

    async fn branch(
        &self,
        from: TimelineId,
        at: Option<Lsn>,
        id: TimelineId,
    ) -> Result<TimelineInfo, api_client::Error> {
        let request = TimelineCreate {
            new_timeline_id: Some(id),
            ancestor_timeline_id: Some(from),
            ancestor_start_lsn: at,
            ..TimelineCreate::default()
        };
        self.daemon
            .client()
            .create_timeline(self.tenant(), &request)
            .await
    }

    /// Rows of the table on a server that is opened on a timeline.
    async fn rows(&self, timeline: TimelineId, lsn: Lsn) -> Result<String> {
        let followed = Followed {
            timeline,
            ..self.followed
        };
        let server = exports::open(&self.daemon, followed, lsn, &self.cluster).await?;
        server.value("SELECT count(*) FROM t").await
    }

    async fn at_time(&self, time: &str, version: &str) -> Result<Value> {
        let (tenant, timeline) = (self.tenant(), self.followed.timeline);
        let path = format!(
            "/v1/tenant/{tenant}/timeline/{timeline}/get_lsn_by_timestamp?timestamp={time}{version}"
        );
        let (status, body) = self.daemon.http("GET", &path, "").await?;
        ensure!(status == 200, "{status} {body}");
        serde_json::from_str(&body).with_context(|| body)
    }
}

fn id(n: u8) -> TimelineId {
    TimelineId([n; 16])
}

#[tokio::test]
async fn deleted_rows_are_on_branches_of_before() -> Result<()> {
    let s = setup(PgMajor::V17).await?;
    let found = s.at_time(&s.noted, "&version=2").await?;
    ensure!(found["kind"] == "present", "{found}");
    let old = s.at_time(&s.noted, "&version=1").await?;
    ensure!(old == found["lsn"] && old.is_string(), "{old} and {found}");
    let leased = s.at_time(&s.noted, "&with_lease=true").await?;
    ensure!(
        leased["lsn"] == found["lsn"] && leased["valid_until"].is_string(),
        "{leased}"
    );
    let newest = s.at_time(&s.noted, "").await?;
    ensure!(newest == found, "{newest} and {found}");
    let lsn: Lsn = old.as_str().context("no LSN")?.parse()?;

    let branch = s.branch(s.followed.timeline, Some(lsn), id(1)).await?;
    ensure!(branch.ancestor_lsn == Some(lsn) && branch.last_record_lsn == lsn);
    ensure!(s.rows(id(1), lsn).await? == "1000");
    let half = s.half.align();
    s.branch(s.followed.timeline, Some(half), id(2)).await?;
    ensure!(s.rows(id(2), half).await? == "500");
    // A branch of a branch, at its newest LSN, after a restart with nothing local.
    let grandchild = s.branch(id(1), None, id(3)).await?;
    ensure!(grandchild.ancestor_timeline_id == Some(id(1)));
    let mut s = s;
    s.daemon.stop().await?;
    s.daemon.lose_local_data()?;
    s.daemon.launch().await?;
    ensure!(s.rows(id(3), lsn).await? == "1000");
    ensure!(s.cluster.value("SELECT count(*) FROM t").await? == "0");
    Ok(())
}

#[tokio::test]
async fn times_outside_the_history_are_told_apart() -> Result<()> {
    let s = setup(PgMajor::V14).await?;
    let future = s.at_time("2100-01-01T00:00:00Z", "&version=2").await?;
    ensure!(future["kind"] == "future", "{future}");
    ensure!(s.at_time("2100-01-01T00:00:00Z", "&version=1").await? == "future");
    let past = s.at_time("2001-01-01T00:00:00Z", "&version=2").await?;
    ensure!(past["kind"] == "past", "{past}");
    ensure!(s.at_time("2001-01-01T00:00:00Z", "&version=1").await? == "past");
    Ok(())
}

#[tokio::test]
async fn branches_are_created_and_deleted_by_the_rules() -> Result<()> {
    let s = setup(PgMajor::V18).await?;
    let (main, tenant) = (s.followed.timeline, s.tenant());
    let status = |r: Result<TimelineInfo, api_client::Error>| r.err().and_then(|e| e.status());
    let info = s.daemon.timeline(tenant, main).await?;

    // Below what is kept: never possible.
    let early = Lsn(info.min_readable_lsn.0 - 8);
    ensure!(status(s.branch(main, Some(early), id(1)).await) == Some(406));
    // The oldest LSN is still in.
    s.branch(main, Some(info.min_readable_lsn), id(1)).await?;
    let below = s.branch(id(1), Some(early), id(2)).await;
    ensure!(status(below) == Some(406));

    // The same request twice gives the same timeline, both times as created.
    let body = format!(
        "{{\"new_timeline_id\": \"{}\", \"ancestor_timeline_id\": \"{main}\", \"ancestor_start_lsn\": \"{}\"}}",
        id(3),
        s.half
    );
    let path = format!("/v1/tenant/{tenant}/timeline");
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (status, text) = s.daemon.http("POST", &path, &body).await?;
        ensure!(status == 201, "{status} {text}");
        let mut answer: serde_json::Value = serde_json::from_str(&text)?;
        // The ancestor may become durable up to the branch point in between.
        for moving in ["remote_consistent_lsn", "remote_consistent_lsn_visible"] {
            answer.as_object_mut().and_then(|o| o.remove(moving));
        }
        answers.push(answer);
    }
    let named = answers.first().and_then(|a| a.get("timeline_id"));
    ensure!(named == Some(&serde_json::json!(id(3))), "{answers:?}");
    ensure!(answers.first() == answers.last(), "{answers:?}");
    // The same id with another branch point is a conflict.
    let other = s.branch(main, Some(info.min_readable_lsn), id(3)).await;
    ensure!(status(other) == Some(409));
    // An ancestor that does not exist.
    let orphan = s.branch(id(9), None, id(4)).await;
    ensure!(status(orphan) == Some(404));

    // Deletion goes leaves first.
    s.branch(id(3), None, id(4)).await?;
    let path = |timeline| format!("/v1/tenant/{tenant}/timeline/{timeline}");
    for parent in [main, id(3)] {
        let (status, body) = s.daemon.http("DELETE", &path(parent), "").await?;
        ensure!(status == 412 && body.contains("child"), "{status} {body}");
    }
    for leaf in [id(4), id(3)] {
        let deleted = s.daemon.http("DELETE", &path(leaf), "").await?;
        ensure!(deleted.0 == 202, "{deleted:?}");
        let gone = s.daemon.http("GET", &path(leaf), "").await?;
        ensure!(gone.0 == 404, "{gone:?}");
        let again = s.daemon.http("DELETE", &path(leaf), "").await?;
        ensure!(again.0 == 404, "{again:?}");
    }
    // What was deleted is gone from the bucket, and the rest goes on.
    let bucket = s
        .daemon
        .path()
        .join(format!("bucket/tenants/{tenant}/timelines"));
    let mut left = Vec::new();
    for entry in std::fs::read_dir(bucket)? {
        left.push(entry?.file_name().to_string_lossy().into_owned());
    }
    left.sort();
    let mut expected = vec![main.to_string(), id(1).to_string()];
    expected.sort();
    ensure!(left == expected, "{left:?}");
    ensure!(s.rows(main, s.half.align()).await? == "500");
    Ok(())
}
