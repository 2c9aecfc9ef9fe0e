//! kill -9 during load, again and again: nothing is lost, no page is wrong.

use super::{Load, Size, follow, primary};
use crate::compare::Report;
use crate::daemon::Daemon;
use anyhow::{Context, Result};
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use types::PgMajor;

/// What a run found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Pages compared at the end.
    pub report: Report,
    /// How often the daemon was killed.
    pub kills: u32,
    /// How often its local data was deleted as well.
    pub losses: u32,
    /// Longest time from a restart until the page service was open, in seconds.
    pub slowest_start: f64,
}

/// Kills and restarts the daemon `kills` times during load; every `lose_every`-th time its local
/// data is deleted too (0 for never).
pub async fn run(
    major: PgMajor,
    size: Size,
    kills: u32,
    lose_every: u32,
    settings: &[&str],
) -> Result<Outcome> {
    let mut daemon = Daemon::start(settings).await?;
    let cluster = Arc::new(primary(major, size, &[]).await?);
    let followed = follow(&daemon, &cluster).await?;
    let load = Load::start(&cluster, size.seconds)?;
    let pause = (size.seconds * 1000) / u64::from(kills.max(1));
    let (mut losses, mut slowest) = (0, 0f64);
    for n in 1..=kills {
        let wait = rand::rng().random_range(pause / 4..=pause.max(4));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        daemon.kill9()?;
        if lose_every > 0 && n % lose_every == 0 {
            daemon.lose_local_data()?;
            losses += 1;
        }
        let started = std::time::Instant::now();
        daemon
            .launch()
            .await
            .with_context(|| format!("restart {n} of {kills}"))?;
        slowest = slowest.max(started.elapsed().as_secs_f64());
    }
    load.finish().await?;
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    let end = super::insert_lsn(&cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, end)
        .await?;
    let report = super::pages::settle(&daemon, followed, &mut cluster).await?;
    Ok(Outcome {
        report,
        kills,
        losses,
        slowest_start: slowest,
    })
}
