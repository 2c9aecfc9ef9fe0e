//! Background work of all timelines in one place: a queue with a bounded number of workers and one
//! timer. No task belongs to a tenant.

use super::timeline::{State, Timeline};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use types::{TenantShardId, TimelineId};

/// Flushes that run at once.
const FLUSH_WORKERS: usize = 2;
/// Compactions that run at once.
const COMPACTION_WORKERS: usize = 1;
/// Uploads that run at once.
const UPLOAD_WORKERS: usize = 8;
/// Pause after the first failure of a job; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause between tries.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How often ages and the memory budget are looked at.
const TICK: Duration = Duration::from_secs(1);

/// A piece of background work. At most one of each kind is queued per timeline.
#[derive(Debug)]
pub enum Job {
    /// Write frozen layers to files.
    Flush(Arc<Timeline>),
    /// Upload new layers and the index.
    Upload(Arc<Timeline>),
    /// Compact layers and collect garbage.
    Compact(Arc<Timeline>),
}

/// Handle to the queue.
#[derive(Debug, Clone)]
pub struct Jobs {
    queue: mpsc::UnboundedSender<Job>,
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Runner {
    queue: mpsc::UnboundedReceiver<Job>,
}

/// Timelines that the timer looks at.
#[derive(Debug, Default)]
pub struct Registry {
    timelines: parking_lot::Mutex<BTreeMap<(TenantShardId, TimelineId), Weak<Timeline>>>,
}

impl Registry {
    /// Adds a loaded timeline.
    pub fn add(&self, timeline: &Arc<Timeline>) {
        self.timelines
            .lock()
            .insert((timeline.tenant, timeline.id), Arc::downgrade(timeline));
    }

    /// The loaded timelines; entries of dropped ones are forgotten.
    pub fn live(&self) -> Vec<Arc<Timeline>> {
        let mut map = self.timelines.lock();
        map.retain(|_, t| t.strong_count() > 0);
        map.values().filter_map(Weak::upgrade).collect()
    }
}

impl Jobs {
    /// A queue and its runner. The queue holds at most three jobs per timeline.
    pub fn new() -> (Jobs, Runner) {
        let (tx, queue) = mpsc::unbounded_channel();
        (Jobs { queue: tx }, Runner { queue })
    }

    /// Queues a job; dropped when the runner has stopped.
    pub fn push(&self, job: Job) {
        // Only fails during shutdown, when nobody waits for it.
        let _ = self.queue.send(job);
    }
}

/// Compactions that wait for a worker.
#[derive(Debug, Default)]
struct Compactions {
    waiting: VecDeque<Arc<Timeline>>,
    running: usize,
}

impl Compactions {
    /// The next one: most L0 layers first, as each slows down every read; else who waits longest.
    fn next(&mut self) -> Option<Arc<Timeline>> {
        if self.running >= COMPACTION_WORKERS {
            return None;
        }
        let debt = |t: &Arc<Timeline>| {
            if t.wants_l0_compaction() {
                t.l0_count()
            } else {
                0
            }
        };
        let (at, _) = self
            .waiting
            .iter()
            .enumerate()
            .max_by_key(|(at, t)| (debt(t), Reverse(*at)))?;
        let timeline = self.waiting.remove(at)?;
        self.running += 1;
        Some(timeline)
    }
}

impl Runner {
    /// Runs jobs until cancelled, then waits for those under way.
    pub async fn run(mut self, registry: Arc<Registry>, cancel: CancellationToken) {
        let tracker = TaskTracker::new();
        let flushes = Arc::new(Semaphore::new(FLUSH_WORKERS));
        let uploads = Arc::new(Semaphore::new(UPLOAD_WORKERS));
        let mut compactions = Compactions::default();
        let (compacted, mut done) = mpsc::unbounded_channel();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let job = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(()) = done.recv() => {
                    compactions.running -= 1;
                    None
                }
                _ = tick.tick() => {
                    look_around(&registry).await;
                    None
                }
                job = self.queue.recv() => match job {
                    None => break,
                    some => some,
                }
            };
            let workers = match &job {
                Some(Job::Flush(_)) => Some(&flushes),
                Some(Job::Upload(_)) => Some(&uploads),
                Some(Job::Compact(_)) | None => None,
            };
            match (job, workers) {
                (Some(Job::Compact(timeline)), _) => compactions.waiting.push_back(timeline),
                (Some(job), Some(workers)) => {
                    let workers = Arc::clone(workers);
                    let cancel = cancel.clone();
                    tracker.spawn(async move {
                        if let Ok(_permit) = workers.acquire().await {
                            tokio::select! {
                                biased;
                                () = cancel.cancelled() => {}
                                () = run_to_success(job) => {}
                            }
                        }
                    });
                }
                _ => {}
            }
            while let Some(timeline) = compactions.next() {
                let (compacted, cancel) = (compacted.clone(), cancel.clone());
                tracker.spawn(async move {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => {}
                        () = compact(&timeline) => {}
                    }
                    // Nobody listens any more during shutdown.
                    let _ = compacted.send(());
                });
            }
        }
        tracker.close();
        tracker.wait().await;
        info!("background work stopped");
    }
}

/// One round. A failure is reported and tried again after a while, other timelines going first.
async fn compact(timeline: &Arc<Timeline>) {
    let Err(e) = timeline.maintain().await else {
        return;
    };
    if timeline.cancel.is_cancelled() {
        return;
    }
    timeline.shared().metrics.job_failed("compaction");
    warn!(tenant = %timeline.tenant, timeline = %timeline.id, "compaction failed, next try within the compaction period: {e}");
    tokio::time::sleep(FIRST_BACKOFF).await;
}

async fn run_to_success(job: Job) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let (timeline, what, result) = match &job {
            Job::Flush(t) => (t, "flush", t.flush_when_compacted().await),
            Job::Upload(t) => (t, "upload", t.upload().await),
            Job::Compact(t) => (t, "compaction", t.maintain().await),
        };
        match result {
            Ok(()) => return,
            Err(e) if timeline.cancel.is_cancelled() => {
                info!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} given up at shutdown: {e}");
                return;
            }
            Err(e) if matches!(timeline.state(), State::Broken(_)) => {
                warn!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} given up: {e}");
                return;
            }
            Err(e) => {
                timeline.shared().metrics.job_failed(what);
                warn!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} failed, next try in {backoff:?}: {e}");
            }
        }
        tokio::select! {
            biased;
            () = timeline.cancel.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

async fn look_around(registry: &Registry) {
    let timelines = registry.live();
    for t in &timelines {
        t.housekeeping().await;
    }
    let tight = timelines
        .first()
        .is_some_and(|t| t.shared().budget.is_tight());
    if tight && let Some(largest) = timelines.iter().max_by_key(|t| t.open_size()) {
        largest.freeze().await;
    }
}
