//! The background scrub: all layers of all tenants, on disk and in the bucket, are read over and over
//! at a bounded rate. What it finds is repaired, counted and logged as [`Timeline::scrub`] does.
//!
//! [`Timeline::scrub`]: super::Timeline::scrub

use super::Engine;
use super::timeline::scrub::{Options, Pace, Report};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use types::{TenantShardId, TimelineId};

/// Time after the start before the first pass.
const FIRST: Duration = Duration::from_secs(600);

/// How often, how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From the beginning of one pass to the beginning of the next; zero switches it off.
    pub period: Duration,
    /// Most bytes read a second.
    pub rate: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            period: Duration::from_secs(7 * 24 * 3600),
            rate: 10 << 20,
        }
    }
}

impl Engine {
    /// Scrubs all tenants in turn until cancelled.
    pub async fn scrub_forever(&self, schedule: Schedule, cancel: &CancellationToken) {
        if schedule.period.is_zero() {
            return;
        }
        let mut pause = FIRST.min(schedule.period);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let started = self.env.clock.monotonic();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = self.scrub_all(schedule.rate) => {}
            }
            let took = self.env.clock.monotonic().saturating_sub(started);
            pause = schedule.period.saturating_sub(took);
        }
    }

    /// One pass over all loaded tenants, beginning anywhere, so that passes which a restart cuts
    /// short reach all of them in the end.
    pub async fn scrub_all(&self, rate: u64) -> Report {
        let mut all: Vec<(TenantShardId, TimelineId)> = Vec::new();
        for tenant in self.tenants() {
            all.extend(tenant.timelines().iter().map(|t| (t.tenant, t.id)));
        }
        let count = all.len() as u64;
        if count > 0 {
            let first = self.env.entropy.next_u64() % count;
            all.rotate_left(usize::try_from(first).unwrap_or_default());
        }
        let options = Options {
            local: true,
            bucket: true,
            rate,
        };
        let mut pace = Pace::new(rate);
        let mut total = Report::default();
        for (tenant, id) in all {
            // Deleted since.
            let Ok(timeline) = self.timeline(tenant, id) else {
                continue;
            };
            match timeline.scrub_at(options, &mut pace).await {
                Ok(report) => total.add(report),
                Err(e) => info!(%tenant, timeline = %id, "not scrubbed: {e}"),
            }
        }
        let repaired = total.local_repaired.len() + total.bucket_repaired.len();
        if !total.lost.is_empty() {
            error!(layers = total.layers, lost = ?total.lost, "scrub: layers without a good copy");
        }
        if !total.unchecked.is_empty() {
            warn!(unchecked = total.unchecked.len(), first = ?total.unchecked.first(), "scrub: copies that could not be read");
        }
        info!(
            timelines = count,
            layers = total.layers,
            bytes = total.bytes,
            repaired,
            lost = total.lost.len(),
            leftovers = total.leftovers,
            "scrubbed"
        );
        total
    }
}
