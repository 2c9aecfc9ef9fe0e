//! Redo makes the pages Postgres's own recovery makes from the same WAL, byte for byte. One seed for each
//! version; `cargo xtask oracle --recovery` runs as many as wanted on every major version.

use anyhow::{Result, ensure};
use tests::recovery::{Settings, run};
use types::PgMajor;

/// Of 77 record types that change pages; the rare ones need longer runs.
const MOST_UNSEEN: usize = 40;

async fn redo_equals_recovery(major: PgMajor) -> Result<()> {
    let seed = u64::from(major.number());
    let outcome = run(major, Settings { seed, steps: 100 }).await?;
    ensure!(
        outcome.differences.is_empty(),
        "{} differences:\n{}",
        outcome.differences.len(),
        outcome.differences.join("\n")
    );
    ensure!(
        outcome.records > 10_000 && outcome.rebuilt > 200 && outcome.slru_pages > 0,
        "too little happened: {outcome:?}"
    );
    let unseen = outcome.unseen().count();
    ensure!(
        unseen <= MOST_UNSEEN,
        "{unseen} record types were not met: {outcome:?}"
    );
    Ok(())
}

#[tokio::test]
async fn of_postgres_14() -> Result<()> {
    redo_equals_recovery(PgMajor::V14).await
}

#[tokio::test]
async fn of_postgres_15() -> Result<()> {
    redo_equals_recovery(PgMajor::V15).await
}

#[tokio::test]
async fn of_postgres_16() -> Result<()> {
    redo_equals_recovery(PgMajor::V16).await
}

#[tokio::test]
async fn of_postgres_17() -> Result<()> {
    redo_equals_recovery(PgMajor::V17).await
}

#[tokio::test]
async fn of_postgres_18() -> Result<()> {
    redo_equals_recovery(PgMajor::V18).await
}
