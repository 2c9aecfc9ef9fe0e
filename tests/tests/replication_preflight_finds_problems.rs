//! A server with default settings is accepted, and each bad setting is found and explained.

use anyhow::{Context as _, Result, ensure};
use replication::preflight::{self, Check, Purpose, Report, Severity};
use replication::{BaseBackup, Connection, Conninfo, Mode, base_backup};
use tests::postgres::{Cluster, Install, Options, for_each_major};
use types::PgMajor;

fn severity(report: &Report, check: Check) -> Option<Severity> {
    report
        .findings
        .iter()
        .find(|f| f.check == check)
        .map(|f| f.severity)
}

#[tokio::test]
async fn a_default_server_is_accepted() -> Result<()> {
    for_each_major(async |major| {
        let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        for mode in [Mode::Database, Mode::Physical, Mode::Sql] {
            let mut c = Connection::connect(&conninfo, mode).await?;
            let report = preflight::check(&mut c, Purpose::Import).await?;
            ensure!(
                report.findings.is_empty() && report.is_usable(),
                "{mode:?}: {report:?}"
            );
            ensure!(report.major == Some(major) && report.wal_segment_size == 16 << 20);
            ensure!(report.wal_sender_timeout == Some(std::time::Duration::from_secs(60)));
            ensure!(
                report.data_checksums == (major == PgMajor::V18),
                "{report:?}"
            );
            ensure!(report.unchecked.is_empty() == (mode != Mode::Physical));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_bad_setting_is_named() -> Result<()> {
    for_each_major(async |major| {
        let options = Options::default()
            .set("full_page_writes", "off")
            .set("fsync", "off")
            .set("wal_consistency_checking", "heap")
            .set("max_slot_wal_keep_size", "1GB")
            .set("max_wal_senders", "2")
            .set("max_replication_slots", "1");
        let options = if major == PgMajor::V18 {
            options.set("idle_replication_slot_timeout", "1h")
        } else {
            options
        };
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        let space = cluster.scratch("space")?;
        cluster
            .psql(&format!(
                "CREATE TABLESPACE elsewhere LOCATION '{}'",
                space.display()
            ))
            .await?;
        cluster
            .psql("SELECT pg_create_physical_replication_slot('taken')")
            .await?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let mut c = Connection::connect(&conninfo, Mode::Database).await?;
        let report = preflight::check(&mut c, Purpose::Import).await?;
        ensure!(!report.is_usable());
        let expected = [
            (Check::FullPageWrites, Severity::Warning),
            (Check::Fsync, Severity::Warning),
            (Check::ConsistencyChecking, Severity::Warning),
            (Check::SlotWalKeepSize, Severity::Warning),
            (Check::WalSenders, Severity::Fatal),
            (Check::ReplicationSlots, Severity::Fatal),
            (Check::Tablespaces, Severity::Fatal),
        ];
        for (check, bad) in expected {
            ensure!(
                severity(&report, check) == Some(bad),
                "{check:?} in {report:?}"
            );
        }
        let idle = severity(&report, Check::IdleSlotTimeout);
        ensure!(idle.is_some() == (major == PgMajor::V18), "{report:?}");
        let count = expected.len() + usize::from(idle.is_some());
        ensure!(report.findings.len() == count, "{report:?}");
        ensure!(
            report
                .findings
                .iter()
                .all(|f| !f.problem.is_empty() && !f.remedy.is_empty())
        );
        ensure!(
            report
                .findings
                .is_sorted_by(|a, b| a.severity >= b.severity)
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_server_with_minimal_wal_is_refused() -> Result<()> {
    for_each_major(async |major| {
        let options = Options::default()
            .set("wal_level", "minimal")
            .set("max_wal_senders", "0");
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let mut c = Connection::connect(&conninfo, Mode::Sql).await?;
        let report = preflight::check(&mut c, Purpose::Import).await?;
        ensure!(
            severity(&report, Check::WalLevel) == Some(Severity::Fatal),
            "{report:?}"
        );
        ensure!(
            severity(&report, Check::WalSenders) == Some(Severity::Fatal),
            "{report:?}"
        );
        let error = Connection::connect(&conninfo, Mode::Physical)
            .await
            .err()
            .context("a walsender was free")?;
        ensure!(preflight::explain(&error, "postgres").is_some(), "{error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_role_without_replication_and_a_standby_are_found() -> Result<()> {
    let install = Install::find(PgMajor::V16)?;
    let mut primary = Cluster::init(&install, &Options::default())?;
    primary.start()?;
    primary.psql("CREATE ROLE \"o'x\" LOGIN").await?;
    let conninfo: Conninfo =
        format!("postgres://o'x@127.0.0.1:{}/postgres", primary.port()).parse()?;
    let mut c = Connection::connect(&conninfo, Mode::Sql).await?;
    let report = preflight::check(&mut c, Purpose::Stream).await?;
    ensure!(
        severity(&report, Check::RolePrivilege) == Some(Severity::Fatal),
        "{report:?}"
    );

    let mut standby = primary.standby().await?;
    standby.start()?;
    let conninfo: Conninfo = standby.connstr().parse()?;
    for (purpose, bad) in [
        (Purpose::Import, Severity::Fatal),
        (Purpose::Stream, Severity::Warning),
    ] {
        let mut c = Connection::connect(&conninfo, Mode::Database).await?;
        let report = preflight::check(&mut c, purpose).await?;
        ensure!(
            report.in_recovery && severity(&report, Check::InRecovery) == Some(bad),
            "{report:?}"
        );
    }
    let sql_only = Connection::connect(&conninfo, Mode::Sql).await?;
    ensure!(
        BaseBackup::start(sql_only, &base_backup::Options::default())
            .await
            .is_err()
    );
    Ok(())
}
