//! A server opened on a moment of the past holds what Postgres's own recovery to that moment gives.

use anyhow::{Result, ensure};
use tests::accept::{Size, exports};
use tests::daemon::Daemon;
use types::PgMajor;

async fn run(major: PgMajor) -> Result<()> {
    let daemon = Daemon::start(&[]).await?;
    let size = Size {
        scale: 1,
        seconds: 6,
    };
    let outcome = exports::run(major, size, 3, &daemon).await?;
    ensure!(
        outcome.differences.is_empty(),
        "{}",
        outcome.differences.join("\n")
    );
    ensure!(
        outcome.moments == 3 && outcome.tables > 500 && outcome.checked > 500,
        "{outcome:?}"
    );
    Ok(())
}

#[tokio::test]
async fn postgres_14() -> Result<()> {
    run(PgMajor::V14).await
}

#[tokio::test]
async fn postgres_18() -> Result<()> {
    run(PgMajor::V18).await
}
