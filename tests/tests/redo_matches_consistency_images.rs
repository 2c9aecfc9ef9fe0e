//! Redo makes the pages Postgres made, for every resource manager and every major version. A tenth
//! of the workload of `cargo xtask oracle`, which also shows the rare record types.

use anyhow::{Result, ensure};
use pg_wal::record::{rmgr_name, rmid};
use tests::oracle::{Settings, campaign};
use types::PgMajor;

/// Managers whose records carry check images.
const CHECKED: [u8; 10] = [
    rmid::HEAP2,
    rmid::HEAP,
    rmid::BTREE,
    rmid::HASH,
    rmid::GIN,
    rmid::GIST,
    rmid::SEQ,
    rmid::SPGIST,
    rmid::BRIN,
    rmid::GENERIC,
];
/// Of 77 record types that change pages; the workload shows about 70 at this size.
const MOST_UNSEEN: usize = 15;

async fn redo_agrees(major: PgMajor, checksums: bool, full_page_writes: bool) -> Result<()> {
    let settings = Settings {
        percent: 10,
        checksums,
        full_page_writes,
    };
    let report = campaign(major, settings).await?.report;
    let total = report.total();
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    ensure!(
        total.mismatched + total.strict + total.errors == 0,
        "redo differs from Postgres:\n{report}"
    );
    for manager in CHECKED {
        ensure!(
            report.manager(manager).compared > 0,
            "no page of {} was compared:\n{report}",
            rmgr_name(manager)
        );
    }
    let unseen = report.unseen().count();
    ensure!(
        unseen <= MOST_UNSEEN,
        "{unseen} record types were not seen:\n{report}"
    );
    Ok(())
}

#[tokio::test]
async fn of_postgres_14() -> Result<()> {
    redo_agrees(PgMajor::V14, false, true).await
}

#[tokio::test]
async fn of_postgres_15_without_full_page_writes() -> Result<()> {
    redo_agrees(PgMajor::V15, false, false).await
}

#[tokio::test]
async fn of_postgres_16_with_checksums() -> Result<()> {
    redo_agrees(PgMajor::V16, true, true).await
}

#[tokio::test]
async fn of_postgres_17_without_full_page_writes() -> Result<()> {
    redo_agrees(PgMajor::V17, false, false).await
}

#[tokio::test]
async fn of_postgres_18_with_checksums() -> Result<()> {
    redo_agrees(PgMajor::V18, true, true).await
}
