//! kill -9 of the daemon under load, again and again: no page is lost or wrong.

use anyhow::{Result, ensure};
use tests::accept::{Size, kills};
use types::PgMajor;

#[tokio::test]
async fn no_page_is_lost_or_wrong_after_six_kills() -> Result<()> {
    let size = Size {
        scale: 1,
        seconds: 8,
    };
    // Small layers, so that kills hit flushes and uploads too.
    let settings = ["tenant_config.checkpoint_distance=1048576"];
    let outcome = kills::run(PgMajor::V17, size, 6, 0, &settings).await?;
    ensure!(outcome.kills == 6 && outcome.losses == 0, "{outcome:?}");
    outcome.report.check()
}
