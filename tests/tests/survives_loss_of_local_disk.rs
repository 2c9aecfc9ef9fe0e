//! kill -9 and loss of everything local under load: the bucket and the primary's slot have it all.
//!
//! The source's password is local only; this primary asks for none, so that what the bucket knows
//! is enough to go on following it.

use anyhow::{Result, ensure};
use tests::accept::{Size, kills};
use types::PgMajor;

#[tokio::test]
async fn everything_comes_back_from_the_bucket() -> Result<()> {
    let size = Size {
        scale: 1,
        seconds: 4,
    };
    let settings = ["tenant_config.checkpoint_distance=1048576"];
    let outcome = kills::run(PgMajor::V15, size, 1, 1, &settings).await?;
    ensure!(outcome.kills == 1 && outcome.losses == 1, "{outcome:?}");
    outcome.report.check()
}
