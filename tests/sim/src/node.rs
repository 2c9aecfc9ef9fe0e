//! One machine that runs the engine.

use crate::bucket::{SimBucket, Store};
use crate::clock::{SimClock, SimEntropy};
use crate::disk::SimDisk;
use crate::faults::Faults;
use crate::power::Power;
use crate::random::Random;
use crate::trace::Trace;
use pageserver::engine::env::Env;
use pageserver::engine::metrics::Metrics;
use pageserver::engine::{Engine, Error, Timeline, Unfinished};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Lsn, TenantShardId, TimelineId};

/// Positions of a timeline, as last seen: newest record, on disk, in the bucket, cutoff.
pub type Positions = [Lsn; 4];

/// How long tenants take to be loaded at most, where nothing fails for ever.
pub const ENOUGH: Duration = Duration::from_secs(600);

/// Settings of every node of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limit of unflushed data, in bytes.
    pub memory_budget: usize,
    /// Settings of tenants.
    pub tenants: Map<String, Value>,
}

/// A machine with a running engine.
pub struct Node {
    /// Its name in the trace.
    pub name: String,
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its power.
    pub power: Arc<Power>,
    /// Its disk.
    pub disk: SimDisk,
    /// Its way to the bucket.
    pub bucket: SimBucket,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Timelines that somebody feeds at the moment.
    pub fed: Mutex<BTreeSet<TimelineId>>,
    /// Another node attaches the same tenants, or has done so.
    pub has_rival: AtomicBool,
    /// Another node has attached the same tenants: nothing done here counts any more.
    pub superseded: AtomicBool,
    /// Being shut down in order.
    pub stopping: AtomicBool,
    /// Users finish what they do, then leave.
    pub closing: AtomicBool,
    /// Faults may be injected.
    pub faulty: AtomicBool,
    /// Not every timeline could be loaded.
    pub partial: AtomicBool,
    /// Positions as last seen.
    pub seen: Mutex<BTreeMap<TimelineId, Positions>>,
    /// Leases granted: timeline, LSN, when it ends by the monotonic clock.
    pub leases: Mutex<Vec<(TimelineId, Lsn, Duration)>>,
    metrics: Registry,
    work: CancellationToken,
    jobs: Mutex<Option<JoinHandle<()>>>,
}

/// What a node is made of.
pub struct Machine {
    /// Name in the trace.
    pub name: String,
    /// Power.
    pub power: Arc<Power>,
    /// Disk, empty or as an earlier node left it.
    pub disk: SimDisk,
}

impl Node {
    /// Starts the engine; nothing is loaded yet.
    pub fn start(
        machine: Machine,
        store: &Store,
        trace: &Trace,
        settings: &Settings,
        start: Instant,
        seed: u64,
    ) -> Node {
        let Machine { name, power, disk } = machine;
        let random = |what: &str| Random::new(seed, &format!("{name} {what}"));
        let bucket = SimBucket::new(
            &name,
            store.clone(),
            Arc::clone(&power),
            trace.clone(),
            random("bucket"),
        )
        .with_plan(disk.plan());
        let clock = Arc::new(SimClock::new(start));
        let env = Env {
            disk: Arc::new(disk.clone()),
            bucket: Arc::new(bucket.clone()),
            clock: Arc::clone(&clock) as Arc<_>,
            entropy: Arc::new(SimEntropy::new(random("entropy"))),
        };
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::new(&mut registry));
        let (engine, runner) = Engine::new(
            env,
            settings.memory_budget,
            metrics,
            settings.tenants.clone(),
        );
        let work = CancellationToken::new();
        let jobs = tokio::spawn(runner.run(Arc::clone(engine.timers()), work.clone()));
        Node {
            name,
            engine,
            power,
            disk,
            bucket,
            clock,
            fed: Mutex::default(),
            has_rival: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            faulty: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            seen: Mutex::default(),
            leases: Mutex::default(),
            metrics: registry,
            work,
            jobs: Mutex::new(Some(jobs)),
        }
    }

    /// Loads tenants as a daemon does, all at once, those that fail again, for at most `limit`.
    /// Returns what was left unfinished.
    ///
    /// # Errors
    /// Those of listing the bucket.
    pub async fn load(&self, limit: Duration) -> Result<Vec<Unfinished>, Error> {
        let mut arrivals = self.engine.watch_arrivals();
        self.engine.discover().await?;
        let cancel = CancellationToken::new();
        tokio::select! {
            biased;
            () = self.power.died() => {}
            () = self.engine.load_waiting(&cancel) => {}
            () = tokio::time::sleep(limit) => {}
        }
        let arrived = std::iter::from_fn(|| arrivals.try_recv().ok());
        Ok(arrived.flat_map(|a| a.unfinished).collect())
    }

    /// Changes the faults of disk and bucket.
    pub fn set_faults(&self, faults: &Faults) {
        self.faulty
            .store(*faults != Faults::none(), Ordering::Relaxed);
        self.disk.set_faults(faults.clone());
        self.bucket.set_faults(faults.clone());
    }

    /// A loaded timeline.
    pub fn timeline(&self, tenant: TenantShardId, id: TimelineId) -> Option<Arc<Timeline>> {
        self.engine.timeline(tenant, id).ok()
    }

    /// All loaded timelines, by tenant and id.
    pub fn timelines(&self) -> Vec<Arc<Timeline>> {
        self.engine
            .tenants()
            .iter()
            .flat_map(|t| t.timelines())
            .collect()
    }

    /// Value of a counter of the engine; 0 if there is none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.metrics);
        text.lines()
            .filter_map(|l| l.split_once(' '))
            .find(|(n, _)| *n == name)
            .and_then(|(_, v)| v.parse().ok())
            .unwrap_or(0)
    }

    /// Flushes, uploads and stops, as a daemon does when it is asked to.
    pub async fn shut_down(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.engine.shutdown().await;
        self.work.cancel();
    }

    /// Cuts the power: no effect of this node reaches disk or bucket any more, except for what is
    /// on its way through the network.
    pub fn crash(&self) {
        self.power.cut();
        self.engine.cancel().cancel();
        self.work.cancel();
    }

    /// Waits until the background work has ended.
    pub async fn ended(&self) {
        let jobs = self.jobs.lock().take();
        if let Some(jobs) = jobs {
            // A panic is reported by the panic hook of the run.
            let _ = jobs.await;
        }
    }
}

/// The right to feed a timeline on a node; given back when dropped.
pub struct Feeding<'a> {
    node: &'a Node,
    id: TimelineId,
}

impl Node {
    /// The right to feed a timeline, unless somebody has it.
    pub fn feed(&self, id: TimelineId) -> Option<Feeding<'_>> {
        let free = self.fed.lock().insert(id);
        free.then(|| Feeding { node: self, id })
    }
}

impl Drop for Feeding<'_> {
    fn drop(&mut self) {
        self.node.fed.lock().remove(&self.id);
    }
}
