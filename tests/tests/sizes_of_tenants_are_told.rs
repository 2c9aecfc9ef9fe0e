//! The synthetic size of a tenant over the management API: from real timelines, by the rules of the
//! model, in all forms that the route has.

use anyhow::{Context, Result, ensure};
use api_client::model::{TenantCreate, TimelineCreate};
use api_client::size::{Kind, Method};
use serde_json::Value;
use tests::accept::{follow, insert_lsn};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options, Shutdown};
use types::{PgMajor, TenantShardId, TimelineId};

#[tokio::test]
async fn sizes_of_tenants_are_told() -> Result<()> {
    let daemon = Daemon::start(&[]).await?;
    let client = daemon.client();
    let mut cluster = Cluster::init(&Install::find(PgMajor::V17)?, &Options::default())?;
    cluster.start()?;
    let followed = follow(&daemon, &cluster).await?;
    let (tenant, main) = (followed.shard(), followed.timeline);
    cluster
        .psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a")
        .await?;
    let end = insert_lsn(&cluster).await?;
    daemon.wait_lsn(tenant, main, end).await?;
    cluster.stop(Shutdown::Fast)?;

    // All history is younger than the seven days that are kept: data at the import, and all WAL.
    let size = client.tenant_size(tenant, None).await?;
    let kinds: Vec<Kind> = size.inputs.segments.iter().map(|m| m.kind).collect();
    ensure!(kinds == [Kind::BranchStart, Kind::BranchEnd], "{kinds:?}");
    let [start, last] = [0, 1].map(|i| size.inputs.segments[i].segment);
    let imported = start.size.context("no size at the import")?;
    ensure!(imported > 7 << 20, "{imported}");
    ensure!(
        size.size == Some(imported + last.lsn - start.lsn),
        "{size:?}"
    );
    let methods = size.segment_sizes.iter().flatten().map(|s| s.method);
    ensure!(methods.eq([Method::SnapshotHere, Method::Wal]), "{size:?}");

    // Without history: the data as it is now.
    let now = client.tenant_size(tenant, Some(0)).await?;
    let timeline = client.timeline(tenant, main).await?;
    ensure!(
        now.size == Some(timeline.current_logical_size),
        "{now:?}\n{timeline:?}"
    );
    let input = &now.inputs.timeline_inputs[0];
    ensure!(
        input.retention_param_cutoff == Some(timeline.last_record_lsn),
        "{input:?}"
    );

    // A branch without changes is free, wherever it is.
    let request = TimelineCreate {
        new_timeline_id: Some(TimelineId([1; 16])),
        ancestor_timeline_id: Some(main),
        ..TimelineCreate::default()
    };
    client.create_timeline(tenant, &request).await?;
    let branched = client.tenant_size(tenant, None).await?;
    ensure!(branched.size == size.size, "{branched:?}");
    ensure!(branched.inputs.segments.len() == 5, "{branched:?}");

    let path = |query: &str| format!("/v1/tenant/{tenant}/size{query}");
    let (status, body) = daemon.http("GET", &path("?inputs_only=true"), "").await?;
    let inputs: Value = serde_json::from_str(&body)?;
    ensure!(status == 200 && inputs["size"].is_null() && inputs["segment_sizes"].is_null());
    let mut segments = inputs["inputs"]["segments"]
        .as_array()
        .into_iter()
        .flatten();
    ensure!(segments.any(|s| s["segment"]["lsn"] == start.lsn), "{body}");
    for query in [
        "?inputs_only=perhaps",
        "?retention_period=-1",
        "?retention_period=1d",
    ] {
        let (status, body) = daemon.http("GET", &path(query), "").await?;
        ensure!(status == 400, "{query}: {status} {body}");
    }
    let drawn = async |query: &str| {
        let accept = "Accept: text/html\r\n";
        daemon.http_with("GET", &path(query), accept, "").await
    };
    let (status, page) = drawn("").await?;
    ensure!(status == 200 && page.contains("<svg"), "{status} {page}");
    ensure!(drawn("?inputs_only=true").await?.0 == 400);

    let empty = client.create_tenant(&TenantCreate::default()).await?;
    let empty = client
        .tenant_size(TenantShardId::unsharded(empty), None)
        .await?;
    ensure!(empty.size == Some(0) && empty.inputs.segments.is_empty());
    let nobody = daemon
        .http(
            "GET",
            "/v1/tenant/00000000000000000000000000000001/size",
            "",
        )
        .await?;
    ensure!(nobody.0 == 404, "{nobody:?}");
    Ok(())
}
