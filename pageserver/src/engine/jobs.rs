//! Background work of all timelines in one place: a lane for each kind of work, with a bounded
//! number of workers, and one timer. No task belongs to a tenant, and tenants take turns.

use super::env::Clock;
use super::shared::Budget;
use super::timeline::{State, Timeline};
use super::timers::Timers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Pause after the first failure of a job; doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause between tries.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How often the timer and the memory budget are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Of so many compactions one is given to whoever waits longest, urgent or not.
const ONE_IN: u64 = 4;

/// Kinds of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Write frozen layers to files.
    Flush,
    /// Upload new layers and the index.
    Upload,
    /// Compact layers and collect garbage.
    Compact,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Flush, Kind::Upload, Kind::Compact];

    const fn name(self) -> &'static str {
        match self {
            Kind::Flush => "flush",
            Kind::Upload => "upload",
            Kind::Compact => "compaction",
        }
    }
}

/// A piece of background work. Of each kind at most one is queued per timeline.
#[derive(Debug)]
pub struct Job {
    kind: Kind,
    timeline: Arc<Timeline>,
    /// Failures before this try.
    failures: u32,
}

/// How much runs at once, of each kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Flushes.
    pub flush: usize,
    /// Uploads.
    pub upload: usize,
    /// Compactions.
    pub compaction: usize,
}

impl Default for Workers {
    fn default() -> Self {
        Workers::for_cores(2)
    }
}

impl Workers {
    /// What suits a number of cores: compaction takes at most half of them.
    pub fn for_cores(cores: usize) -> Self {
        Workers {
            flush: cores.clamp(2, 8),
            upload: 8,
            compaction: (cores / 2).clamp(1, 8),
        }
    }
}

/// Handle to the queue.
#[derive(Debug, Clone)]
pub struct Jobs {
    queue: mpsc::UnboundedSender<Job>,
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Runner {
    jobs: Jobs,
    queue: mpsc::UnboundedReceiver<Job>,
    workers: Workers,
    clock: Arc<dyn Clock>,
    budget: Arc<Budget>,
}

/// What is queued for a timeline.
#[derive(Debug, Default)]
pub struct Queued([AtomicBool; Kind::ALL.len()]);

impl Queued {
    /// Notes that work is queued. False if it was already.
    pub fn set(&self, kind: Kind) -> bool {
        let flag = self.0.get(kind as usize);
        flag.is_some_and(|f| !f.swap(true, Ordering::AcqRel))
    }

    /// Notes that queued work begins: what is asked for from now on is more work.
    pub fn clear(&self, kind: Kind) {
        if let Some(flag) = self.0.get(kind as usize) {
            flag.store(false, Ordering::Release);
        }
    }
}

/// The turn of each lane that a tenant last had.
#[derive(Debug, Default)]
pub struct Turns([AtomicU64; Kind::ALL.len()]);

impl Turns {
    fn of(&self, kind: Kind) -> Option<&AtomicU64> {
        self.0.get(kind as usize)
    }
}

impl Jobs {
    /// A queue and its runner. The queue holds at most three jobs per timeline.
    pub fn new(clock: Arc<dyn Clock>, budget: Arc<Budget>) -> (Jobs, Runner) {
        let (tx, queue) = mpsc::unbounded_channel();
        let jobs = Jobs { queue: tx };
        let runner = Runner {
            jobs: jobs.clone(),
            queue,
            workers: Workers::default(),
            clock,
            budget,
        };
        (jobs, runner)
    }

    /// Queues a job; dropped when the runner has stopped.
    pub fn push(&self, kind: Kind, timeline: Arc<Timeline>) {
        self.send(Job {
            kind,
            timeline,
            failures: 0,
        });
    }

    fn send(&self, job: Job) {
        // Only fails during shutdown, when nobody waits for it.
        let _ = self.queue.send(job);
    }
}

/// Work of one kind that waits for a worker, in the order in which it came.
#[derive(Debug)]
struct Lane {
    kind: Kind,
    workers: usize,
    waiting: Vec<Job>,
    running: usize,
    turn: u64,
}

impl Lane {
    fn new(kind: Kind, workers: Workers) -> Self {
        let workers = match kind {
            Kind::Flush => workers.flush,
            Kind::Upload => workers.upload,
            Kind::Compact => workers.compaction,
        };
        Lane {
            kind,
            workers: workers.max(1),
            waiting: Vec::new(),
            running: 0,
            turn: 0,
        }
    }

    fn next(&mut self) -> Option<Job> {
        if self.running >= self.workers {
            return None;
        }
        let candidates = self.waiting.iter().map(|job| {
            let turns = job.timeline.shared().turns.of(self.kind);
            Candidate {
                urgent: self.kind == Kind::Compact && job.timeline.wants_l0_compaction(),
                last_turn: turns.map_or(0, |t| t.load(Ordering::Relaxed)),
            }
        });
        let job = self.waiting.remove(choose(candidates, self.turn + 1)?);
        self.turn += 1;
        self.running += 1;
        if let Some(turns) = job.timeline.shared().turns.of(self.kind) {
            turns.store(self.turn, Ordering::Relaxed);
        }
        Some(job)
    }
}

/// What the choice among waiting jobs looks at.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    urgent: bool,
    /// The newest turn its tenant had; 0 if it had none.
    last_turn: u64,
}

/// Which of the jobs that wait, in the order of their coming, has a turn: of the tenant whose last
/// one is longest ago the oldest, urgent ones first. One turn in [`ONE_IN`] goes to the oldest of all.
fn choose(mut candidates: impl Iterator<Item = Candidate>, turn: u64) -> Option<usize> {
    if turn.is_multiple_of(ONE_IN) {
        return candidates.next().map(|_| 0);
    }
    // Of several that are equal this is the first.
    let (at, _) = candidates
        .enumerate()
        .min_by_key(|(_, c)| (!c.urgent, c.last_turn))?;
    Some(at)
}

impl Runner {
    /// As many at once as `workers` says.
    pub fn with_workers(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// Runs jobs until cancelled, then waits for those under way.
    pub async fn run(mut self, timers: Arc<Timers>, cancel: CancellationToken) {
        let tracker = TaskTracker::new();
        let mut lanes = Kind::ALL.map(|kind| Lane::new(kind, self.workers));
        let (finished, mut done) = mpsc::unbounded_channel::<Kind>();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut changed = None;
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(kind) = done.recv() => {
                    changed = Some((kind, None));
                }
                _ = tick.tick() => self.look_around(&timers).await,
                job = self.queue.recv() => match job {
                    None => break,
                    Some(job) => changed = Some((job.kind, Some(job))),
                }
            }
            let Some((kind, job)) = changed else { continue };
            let Some(lane) = lanes.get_mut(kind as usize) else {
                continue;
            };
            match job {
                Some(job) => lane.waiting.push(job),
                None => lane.running -= 1,
            }
            while let Some(job) = lane.next() {
                let (finished, cancel) = (finished.clone(), cancel.clone());
                let (jobs, retries) = (self.jobs.clone(), tracker.clone());
                tracker.spawn(async move {
                    let kind = job.kind;
                    let again = tokio::select! {
                        biased;
                        () = cancel.cancelled() => None,
                        again = attempt(job) => again,
                    };
                    // Nobody listens any more during shutdown.
                    let _ = finished.send(kind);
                    if let Some((job, pause)) = again {
                        retries.spawn(retry(jobs, job, pause, cancel));
                    }
                });
            }
        }
        tracker.close();
        tracker.wait().await;
        info!("background work stopped");
    }

    async fn look_around(&self, timers: &Timers) {
        for timeline in timers.due(self.clock.monotonic()) {
            timeline.housekeeping().await;
        }
        if self.budget.is_tight()
            && let Some(largest) = timers.live().iter().max_by_key(|t| t.open_size())
        {
            largest.freeze().await;
        }
    }
}

/// One try. A job that failed and is worth another try comes back with the pause before it.
async fn attempt(job: Job) -> Option<(Job, Duration)> {
    let Job {
        kind,
        timeline,
        failures,
    } = job;
    let result = match kind {
        Kind::Flush => timeline.flush_when_compacted().await,
        Kind::Upload => timeline.upload().await,
        Kind::Compact => timeline.maintain().await,
    };
    let e = result.err()?;
    let what = kind.name();
    if timeline.cancel.is_cancelled() {
        info!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} given up at shutdown: {e}");
        return None;
    }
    if matches!(timeline.state(), State::Broken(_)) {
        warn!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} given up: {e}");
        return None;
    }
    timeline.shared().metrics.job_failed(what);
    let pause = FIRST_BACKOFF
        .saturating_mul(1 << failures.min(16))
        .min(MAX_BACKOFF);
    warn!(tenant = %timeline.tenant, timeline = %timeline.id, "{what} failed, next try in {pause:?}: {e}");
    let failures = failures + 1;
    Some((
        Job {
            kind,
            timeline,
            failures,
        },
        pause,
    ))
}

/// Queues a job again after a pause, in which it takes no worker. If the same was queued meanwhile,
/// that will do.
async fn retry(jobs: Jobs, job: Job, pause: Duration, cancel: CancellationToken) {
    tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        () = job.timeline.cancel.cancelled() => return,
        () = tokio::time::sleep(pause) => {}
    }
    if job.timeline.queued.set(job.kind) {
        jobs.send(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Turns until each of the jobs, named by tenant and urgency, was chosen, when every tenant in
    /// `greedy` has another urgent job as soon as one was chosen.
    fn waits(jobs: &[(u8, bool)], greedy: &[u8]) -> Vec<u64> {
        let mut waiting: Vec<(u8, bool, Option<usize>)> = Vec::new();
        waiting.extend(greedy.iter().map(|t| (*t, true, None)));
        waiting.extend(jobs.iter().enumerate().map(|(n, (t, u))| (*t, *u, Some(n))));
        let mut last = std::collections::BTreeMap::new();
        let mut waits = vec![0; jobs.len()];
        for turn in 1.. {
            if !waiting.iter().any(|w| w.2.is_some()) {
                return waits;
            }
            let candidates = waiting.iter().map(|(tenant, urgent, _)| Candidate {
                urgent: *urgent,
                last_turn: last.get(tenant).copied().unwrap_or(0),
            });
            let (tenant, urgent, job) = waiting.remove(choose(candidates, turn).unwrap());
            last.insert(tenant, turn);
            match job {
                Some(n) => waits[n] = turn,
                None => waiting.push((tenant, urgent, None)),
            }
        }
        waits
    }

    #[test]
    fn urgent_work_goes_first_but_not_always() {
        assert_eq!(
            waits(&[(1, false), (2, true), (3, true), (4, true)], &[]),
            [4, 1, 2, 3]
        );
    }

    #[test]
    fn a_tenant_with_many_jobs_does_not_hold_up_another() {
        let mut jobs = vec![(1, true); 100];
        jobs.push((2, true));
        assert_eq!(waits(&jobs, &[]).last(), Some(&2));
    }

    proptest! {
        /// Whatever others do, a job waits no longer than it takes to serve all in front of it by
        /// one turn in four.
        #[test]
        fn no_tenant_starves(
            jobs in proptest::collection::vec((0u8..6, any::<bool>()), 1..20),
            greedy in proptest::collection::btree_set(0u8..6, 0..6),
        ) {
            let greedy: Vec<u8> = greedy.into_iter().collect();
            for (n, wait) in (1u64..).zip(waits(&jobs, &greedy)) {
                let in_front = n + greedy.len() as u64;
                prop_assert!(wait <= ONE_IN * in_front, "job {n} waited {wait} turns");
            }
        }
    }
}
