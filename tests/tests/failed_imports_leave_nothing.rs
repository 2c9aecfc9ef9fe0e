//! An import that is refused, cancelled or interrupted by a crash leaves no slot, no tenant, no
//! timeline and no object behind, and its error names what to do.

use anyhow::{Context, Result, bail, ensure};
use api_client::model::{ImportCreate, ImportStarted, ImportStatus, TenantCreate};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use types::{PgMajor, TenantId};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

fn request(connstr: &str, max_rate: Option<u32>) -> ImportCreate {
    ImportCreate {
        connstr: connstr.to_owned(),
        tenant_id: None,
        timeline_id: None,
        name: Some("imported".into()),
        max_rate,
    }
}

/// Waits until an import is where `wanted` says.
async fn wait(
    daemon: &Daemon,
    import: &ImportStarted,
    wanted: impl Fn(&ImportStatus) -> bool,
) -> Result<ImportStatus> {
    let started = Instant::now();
    loop {
        let status = daemon.client().import_status(import).await?;
        if wanted(&status) {
            return Ok(status);
        }
        let over = matches!(status.phase.as_str(), "done" | "failed");
        ensure!(!over && started.elapsed() < PATIENCE, "{status:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The error of an import that must fail.
async fn failure(daemon: &Daemon, connstr: &str) -> Result<String> {
    let import = daemon.client().import(&request(connstr, None)).await?;
    let failed = wait(daemon, &import, |s| s.phase == "failed").await?;
    failed.error.context("no error")
}

/// Files below a directory.
fn files(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if directory.is_dir() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(files(&path)?);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}

async fn nothing_is_left(daemon: &Daemon, cluster: &Cluster) -> Result<()> {
    let slots = cluster
        .psql("SELECT slot_name FROM pg_replication_slots")
        .await?;
    ensure!(slots.is_empty(), "{slots:?}");
    let tenants = daemon.client().tenants().await?;
    ensure!(tenants.is_empty(), "{tenants:?}");
    for place in ["bucket/tenants", "tenants", "imports"] {
        let left = files(&daemon.path().join(place))?;
        ensure!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

fn server(options: &Options) -> Result<Cluster> {
    let mut cluster = Cluster::init(&Install::find(PgMajor::V16)?, options)?;
    cluster.start()?;
    Ok(cluster)
}

/// A server big enough that an import at the lowest rates can be caught on its way, with a role
/// that needs a password.
async fn large_server() -> Result<(Cluster, String)> {
    let cluster = server(
        &Options::default()
            .hba("host all importer 127.0.0.1/32 scram-sha-256")
            .hba("host replication importer 127.0.0.1/32 scram-sha-256"),
    )?;
    cluster
        .psql("CREATE ROLE importer LOGIN REPLICATION PASSWORD 'open sesame'")
        .await?;
    let connstr = format!(
        "postgres://importer:open%20sesame@127.0.0.1:{}/postgres",
        cluster.port()
    );
    Ok((cluster, connstr))
}

#[tokio::test]
async fn unsuitable_servers_are_refused_with_a_remedy() -> Result<()> {
    let daemon = Daemon::start(&[]).await?;

    let minimal = Options::default()
        .set("wal_level", "minimal")
        .set("max_wal_senders", "0");
    let cluster = server(&minimal)?;
    let text = failure(&daemon, &cluster.connstr()).await?;
    ensure!(
        text.contains("Set wal_level = replica") && text.contains("max_wal_senders"),
        "{text}"
    );
    nothing_is_left(&daemon, &cluster).await?;
    drop(cluster);

    let primary = server(&Options::default())?;
    primary.psql("CREATE ROLE plain LOGIN").await?;
    let plain = format!("postgres://plain@127.0.0.1:{}/postgres", primary.port());
    let text = failure(&daemon, &plain).await?;
    ensure!(text.contains("ALTER ROLE \"plain\" REPLICATION"), "{text}");
    nothing_is_left(&daemon, &primary).await?;

    let nobody = format!("postgres://nosuch@127.0.0.1:{}/postgres", primary.port());
    let text = failure(&daemon, &nobody).await?;
    ensure!(text.contains("CREATE ROLE nosuch"), "{text}");

    let mut standby = primary.standby().await?;
    standby.start()?;
    let text = failure(&daemon, &standby.connstr()).await?;
    ensure!(text.contains("Import from the primary"), "{text}");
    nothing_is_left(&daemon, &standby).await?;
    drop(standby);

    let space = primary.scratch("space")?;
    primary
        .psql(&format!(
            "CREATE TABLESPACE elsewhere LOCATION '{}'",
            space.display()
        ))
        .await?;
    let text = failure(&daemon, &primary.connstr()).await?;
    ensure!(
        text.contains("elsewhere") && text.contains("SET TABLESPACE pg_default"),
        "{text}"
    );
    nothing_is_left(&daemon, &primary).await?;

    let port = primary.port();
    drop(primary);
    let text = failure(
        &daemon,
        &format!("postgres://postgres@127.0.0.1:{port}/postgres"),
    )
    .await?;
    ensure!(text.contains(&port.to_string()), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_import_is_undone() -> Result<()> {
    let daemon = Daemon::start(&[]).await?;
    let (cluster, connstr) = large_server().await?;
    let import = daemon
        .client()
        .import(&request(&connstr, Some(1024)))
        .await?;
    wait(&daemon, &import, |s| s.bytes_done > 0).await?;
    let slots = cluster
        .psql("SELECT slot_name FROM pg_replication_slots")
        .await?;
    ensure!(slots.len() == 1, "{slots:?}");
    daemon.client().cancel_import(&import).await?;
    let failed = wait(&daemon, &import, |s| s.phase == "failed").await?;
    let text = failed.error.unwrap_or_default();
    ensure!(text.contains("cancelled"), "{text}");
    nothing_is_left(&daemon, &cluster).await
}

#[tokio::test]
async fn a_tenant_that_was_there_before_stays() -> Result<()> {
    let daemon = Daemon::start(&[]).await?;
    let (cluster, connstr) = large_server().await?;
    let tenant: TenantId = daemon
        .client()
        .create_tenant(&TenantCreate::default())
        .await?;
    let into = ImportCreate {
        tenant_id: Some(tenant),
        ..request(&connstr, Some(1024))
    };
    let import = daemon.client().import(&into).await?;
    wait(&daemon, &import, |s| s.bytes_done > 0).await?;
    daemon.client().cancel_import(&import).await?;
    wait(&daemon, &import, |s| s.phase == "failed").await?;
    let tenants = daemon.client().tenants().await?;
    ensure!(tenants.len() == 1, "{tenants:?}");
    let [only] = tenants.as_slice() else {
        bail!("{tenants:?}")
    };
    ensure!(only.id.tenant == tenant);
    ensure!(daemon.client().timelines(only.id).await?.is_empty());
    let slots = cluster
        .psql("SELECT slot_name FROM pg_replication_slots")
        .await?;
    ensure!(slots.is_empty(), "{slots:?}");
    Ok(())
}

#[tokio::test]
async fn an_import_that_a_crash_interrupts_is_undone_at_the_next_start() -> Result<()> {
    let mut daemon = Daemon::start(&[]).await?;
    let (cluster, connstr) = large_server().await?;
    let import = daemon
        .client()
        .import(&request(&connstr, Some(1024)))
        .await?;
    wait(&daemon, &import, |s| s.bytes_done > 0).await?;
    daemon.kill9()?;
    daemon.launch().await?;
    nothing_is_left(&daemon, &cluster).await?;

    // Killed as soon as the slot exists, before the first byte of the backup.
    daemon
        .client()
        .import(&request(&connstr, Some(1024)))
        .await?;
    let started = Instant::now();
    while cluster
        .psql("SELECT slot_name FROM pg_replication_slots")
        .await?
        .is_empty()
    {
        ensure!(started.elapsed() < PATIENCE, "{}", daemon.log());
    }
    daemon.kill9()?;
    daemon.launch().await?;
    nothing_is_left(&daemon, &cluster).await?;

    // And then it works.
    daemon.import(&connstr).await?;
    Ok(())
}
