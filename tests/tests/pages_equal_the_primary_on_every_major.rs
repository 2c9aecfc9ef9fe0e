//! After a load of pgbench and SQL of every kind, every page equals the primary's file.

use anyhow::{Result, ensure};
use tests::accept::{Size, pages};
use tests::daemon::Daemon;
use types::PgMajor;

async fn run(major: PgMajor) -> Result<()> {
    let daemon = Daemon::start(&[]).await?;
    let size = Size {
        scale: 1,
        seconds: 4,
    };
    let outcome = pages::run(major, size, &daemon).await?;
    ensure!(outcome.turns > 0 && outcome.wal > 1 << 20, "{outcome:?}");
    ensure!(outcome.report.slru_pages > 0, "{outcome:?}");
    outcome.report.check()
}

#[tokio::test]
async fn postgres_14() -> Result<()> {
    run(PgMajor::V14).await
}

#[tokio::test]
async fn postgres_15() -> Result<()> {
    run(PgMajor::V15).await
}

#[tokio::test]
async fn postgres_16() -> Result<()> {
    run(PgMajor::V16).await
}

#[tokio::test]
async fn postgres_17() -> Result<()> {
    run(PgMajor::V17).await
}

#[tokio::test]
async fn postgres_18() -> Result<()> {
    run(PgMajor::V18).await
}
