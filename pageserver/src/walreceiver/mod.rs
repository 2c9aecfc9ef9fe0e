//! WAL receivers: one per timeline that follows a running Postgres.
//!
//! A receiver keeps no durable state: it always starts at the timeline's `last_record_lsn`, and the
//! primary keeps WAL until the flush position we report, which is what is durable in the bucket.

mod session;
mod source;
mod store;

pub use session::{Goal, SessionError, run as run_session};
pub use source::Source;
pub use store::TimelineStore;

use crate::engine::{State, Timeline};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use types::{Lsn, TenantShardId, TimelineId};

/// Pause after the first failed connection.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Growth of the pause per failure.
const BACKOFF_FACTOR: f64 = 1.5;
/// Longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Pause when only a person can help, so that the error stays fresh without flooding the primary.
const SLOW_RETRY: Duration = Duration::from_secs(60);

/// All receivers of a daemon.
#[derive(Debug, Default)]
pub struct Receivers {
    tracker: TaskTracker,
    running: Mutex<HashMap<(TenantShardId, TimelineId), CancellationToken>>,
}

impl Receivers {
    /// Starts a receiver; one that runs for the same timeline is stopped first.
    pub fn start(self: &Arc<Self>, timeline: Arc<Timeline>, source: Source) {
        let cancel = timeline.cancel.child_token();
        let key = (timeline.tenant, timeline.id);
        if let Some(old) = self.running.lock().insert(key, cancel.clone()) {
            old.cancel();
        }
        timeline.receiver.lock().connstr = Some(source.conninfo.to_string());
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                // Whoever took the timeline over needs the slot.
                () = timeline.ended() => {}
                () = follow(&timeline, &source) => {}
            }
            info!(tenant = %timeline.tenant, timeline = %timeline.id, "WAL receiver stopped");
        });
    }

    /// Stops the receiver of a timeline, if one runs.
    pub fn stop(&self, tenant: TenantShardId, timeline: TimelineId) {
        if let Some(cancel) = self.running.lock().remove(&(tenant, timeline)) {
            cancel.cancel();
        }
    }

    /// Stops all receivers and waits until they have.
    pub async fn stop_all(&self) {
        for (_, cancel) in self.running.lock().drain() {
            cancel.cancel();
        }
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Follows a source until the timeline stops or the history is lost for good.
async fn follow(timeline: &Arc<Timeline>, source: &Source) {
    let mut backoff = FIRST_BACKOFF;
    let mut stuck_at: Option<Lsn> = None;
    loop {
        let before = timeline.last_record_lsn();
        let failure = match run_session(timeline, source, Goal::Forever).await {
            Ok(()) => continue,
            Err(e) => e,
        };
        let text = format!("{failure}");
        timeline.receiver.lock().text.clone_from(&text);
        let after = timeline.last_record_lsn();
        if after > before {
            backoff = FIRST_BACKOFF;
            stuck_at = None;
        }
        let pause = match failure {
            SessionError::Lost(_) => {
                error!(tenant = %timeline.tenant, timeline = %timeline.id, source = %source.conninfo, "WAL receiver gives up; the timeline stays readable up to {after}: {text}");
                return;
            }
            SessionError::Corrupt(_) if stuck_at == Some(after) => {
                error!(tenant = %timeline.tenant, timeline = %timeline.id, source = %source.conninfo, "WAL receiver gives up: the same record failed twice behind {after}: {text}");
                timeline.receiver.lock().text = format!("stopped at {after}: {text}");
                return;
            }
            SessionError::Corrupt(_) => {
                stuck_at = Some(after);
                FIRST_BACKOFF
            }
            SessionError::Configuration(_) => SLOW_RETRY,
            SessionError::Transient(_) => {
                let pause = backoff;
                backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
                pause
            }
        };
        if matches!(timeline.state(), State::Stopping | State::Broken(_)) {
            return;
        }
        warn!(tenant = %timeline.tenant, timeline = %timeline.id, source = %source.conninfo, at = %after, "WAL receiver disconnected, next try in {pause:?}: {text}");
        tokio::time::sleep(pause).await;
    }
}
