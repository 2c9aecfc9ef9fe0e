//! A run: phases of random use, each with its own faults and its own end, then peace and a look at
//! everything.

use crate::check;
use crate::disk::SimDisk;
use crate::faults::Faults;
use crate::node::{ENOUGH, Machine, Node, Settings};
use crate::oracle::{self, Life};
use crate::panics;
use crate::power::{Edge, Power};
use crate::random::Random;
use crate::trace::Trace;
use crate::user::{self, User};
use crate::world::World;
use layer_format::Metadata;
use layer_format::index_part::{IndexPart, Vanilla};
use pageserver::engine::timeline::import::Layers;
use pageserver::engine::timeline::scrub;
use pageserver::engine::{Error, Levels, State, Tenant, Timeline};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use types::{Key, Lsn, PgMajor, TenantId, TenantShardId, TimelineId};

/// A run that takes longer than this, in virtual time, hangs.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Tries to start a node before a run gives up; the last ones are without faults.
const BOOT_TRIES: u32 = 8;

/// Looks, a second apart, at whether a node in peace is done with what it has to do.
const IDLE_LOOKS: u32 = 120;

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Prints every event.
    pub loud: bool,
}

/// What was wrong, and the last events.
pub type Wrong = (String, Vec<String>);

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Runs summed up here.
    pub runs: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Things done by users.
    pub operations: u64,
    /// WAL records made up.
    pub records: u64,
    /// Operations of disks and buckets.
    pub io: u64,
    /// Power cuts.
    pub crashes: u64,
    /// Power cuts after which the disk was gone.
    pub disks_lost: u64,
    /// Orderly restarts.
    pub restarts: u64,
    /// Second nodes that took over from a running one.
    pub takeovers: u64,
    /// Faults injected.
    pub faults: u64,
}

impl Figures {
    /// Adds another run's figures.
    pub fn add(&mut self, other: &Figures) {
        self.runs += other.runs;
        self.simulated += other.simulated;
        self.operations += other.operations;
        self.records += other.records;
        self.io += other.io;
        self.crashes += other.crashes;
        self.disks_lost += other.disks_lost;
        self.restarts += other.restarts;
        self.takeovers += other.takeovers;
        self.faults += other.faults;
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Hash of all its events.
    pub hash: u64,
    /// Number of its events.
    pub events: u64,
    /// What it did.
    pub figures: Figures,
    /// What was wrong, and the last events.
    pub failure: Option<(String, Vec<String>)>,
}

/// Runs one seed on the calling thread.
pub fn run(seed: u64, options: Options) -> Outcome {
    panics::watch();
    let trace = Trace::new(options.loud);
    let mut outcome = Outcome {
        seed,
        hash: 0,
        events: 0,
        figures: Figures::default(),
        failure: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let failure = match runtime {
        Err(e) => Some(format!("no runtime: {e}")),
        Ok(runtime) => runtime.block_on(drive(seed, trace.clone(), &mut outcome.figures)),
    };
    let failure = failure.or(panics::taken().map(|p| format!("panic: {p}")));
    outcome.failure = failure.map(|why| (why, trace.tail()));
    (outcome.hash, outcome.events) = trace.digest();
    outcome
}

async fn drive(seed: u64, trace: Trace, figures: &mut Figures) -> Option<String> {
    let mut random = Random::new(seed, "run");
    let world = Arc::new(World::new(seed, trace, settings(&mut random)));
    let mut run = Run::new(&world, random);
    let whole = async {
        let mut node = run.set_up().await?;
        for _ in 0..run.random.between(3, 8) {
            node = run.phase(node).await?;
        }
        run.finish(node).await
    };
    let ended = tokio::select! {
        biased;
        () = world.failing() => None,
        ended = tokio::time::timeout(LIMIT, whole) => Some(ended),
    };
    match ended {
        Some(Err(_)) => world.fail(format!("hangs: not done after {LIMIT:?}")),
        Some(Ok(None)) => world.fail("given up without a reason".into()),
        _ => {}
    }
    *figures = run.figures;
    let counters = world.trace.counters();
    figures.runs = 1;
    figures.simulated = world.start.elapsed();
    figures.operations = world.operations();
    figures.records = world.oracle.lock().records() as u64;
    figures.io = counters.io.load(Ordering::Relaxed);
    figures.faults = counters.faults.load(Ordering::Relaxed);
    world.failure()
}

fn settings(random: &mut Random) -> Settings {
    let mut tenants = Map::new();
    let distance = (64 << 10) << random.below(3);
    tenants.insert("checkpoint_distance".into(), Value::from(distance));
    let timeout = format!("{}s", random.between(2, 120));
    tenants.insert("checkpoint_timeout".into(), Value::from(timeout));
    let count = |random: &mut Random, from, to| Value::from(random.between(from, to));
    let seconds = |random: &mut Random, from, to| {
        let n = random.between(from, to);
        Value::from(format!("{n}s"))
    };
    let gc = random.chance(0.5);
    for (key, value) in [
        ("compaction_threshold", count(random, 2, 6)),
        ("compaction_period", seconds(random, 3, 60)),
        (
            "compaction_target_size",
            Value::from((64 << 10) << random.below(5)),
        ),
        ("image_creation_threshold", count(random, 1, 4)),
        ("delta_chain_threshold", count(random, 4, 40)),
        ("gc_horizon", count(random, 500, 8000)),
        (
            "gc_period",
            if gc {
                seconds(random, 2, 60)
            } else {
                Value::from("0s")
            },
        ),
        ("pitr_interval", Value::from("0s")),
        ("lsn_lease_length", seconds(random, 0, 20)),
        (
            "l0_flush_stall_threshold",
            Value::from(random.between(0, 3) * 5),
        ),
    ] {
        tenants.insert(key.into(), value);
    }
    Settings {
        memory_budget: (512 << 10) << random.below(4),
        tenants,
    }
}

/// What a new node finds on its disk.
pub(crate) enum Found {
    Nothing,
    AfterCrash(SimDisk),
    AfterRestart(SimDisk),
}

/// A run under way.
pub struct Run {
    pub(crate) world: Arc<World>,
    random: Random,
    starts: u32,
    figures: Figures,
    /// Layers that were on disk when the power was last cut.
    kept: BTreeSet<String>,
}

impl Run {
    pub(crate) fn new(world: &Arc<World>, random: Random) -> Run {
        Run {
            world: Arc::clone(world),
            random,
            starts: 0,
            figures: Figures::default(),
            kept: BTreeSet::new(),
        }
    }

    pub(crate) fn start(&mut self, found: &Found) -> Arc<Node> {
        self.starts += 1;
        let name = format!("n{}", self.starts);
        let power: Arc<Power> = Arc::default();
        let random = Random::new(self.world.seed, &format!("{name} disk"));
        let trace = self.world.trace.clone();
        let disk = match found {
            Found::Nothing => SimDisk::new(&name, Arc::clone(&power), trace, random),
            Found::AfterCrash(old) => old.after_crash(&name, Arc::clone(&power), random),
            Found::AfterRestart(old) => old.after_restart(&name, Arc::clone(&power), random),
        };
        self.world.trace.event(format!("{name} starts"));
        let w = &self.world;
        let disk = disk.with_plan(Arc::clone(&self.world.plan));
        let machine = Machine { name, power, disk };
        let node = Node::start(machine, &w.store, &w.trace, &w.settings, w.start, w.seed);
        Arc::new(node)
    }

    /// Fails the run if a step that nothing disturbs does not succeed.
    pub(crate) fn expect<T>(&self, what: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                self.world.fail(format!("{what}: {e}"));
                None
            }
        }
    }

    async fn set_up(&mut self) -> Option<Arc<Node>> {
        let node = self.start(&Found::Nothing);
        for _ in 0..self.random.between(1, 3) {
            let id = TenantShardId::unsharded(TenantId(self.random.id()));
            let created = node.engine.create_tenant(id, Map::new(), None).await;
            let tenant = self.expect("creating a tenant", created)?;
            for _ in 0..self.random.between(1, 2) {
                let timeline = TimelineId(self.random.id());
                let imported = import(&tenant, timeline).await;
                self.expect("importing", imported)?;
                self.world.oracle.lock().import(id, timeline);
            }
        }
        Some(node)
    }

    fn users(&mut self, node: &Arc<Node>) -> JoinSet<()> {
        let mut users = JoinSet::new();
        for n in 0..self.random.between(2, 6) {
            let label = format!("{} user {n} {}", node.name, self.random.bits());
            let random = Random::new(self.world.seed, &label);
            users.spawn(user::run(Arc::clone(&self.world), Arc::clone(node), random));
        }
        users
    }

    /// Waits, at most until the node dies.
    async fn pass(&mut self, node: &Node) {
        let ms = match self.random.below(3) {
            0 => self.random.between(100, 1_500),
            1 => self.random.between(1_500, 10_000),
            _ => self.random.between(10_000, 50_000),
        };
        tokio::select! {
            biased;
            () = node.power.died() => {}
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        }
    }

    /// Lets users loose on a node until something happens to it. Returns the node that goes on.
    async fn phase(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        let faults = Faults::draw(&mut self.random);
        self.world.trace.event(format!("phase with {faults:?}"));
        node.set_faults(&faults);
        let ending = self.random.below(100);
        if (45..75).contains(&ending) {
            let step = node.power.steps() + self.random.between(20, 1500);
            let edge = match self.random.chance(0.5) {
                true => Edge::Before,
                false => Edge::After,
            };
            node.power.plan(step, edge);
        }
        let mut users = self.users(&node);
        self.pass(&node).await;
        let abruptly = self.random.chance(0.5);
        match ending {
            0..10 => {
                stop(&node, &mut users, abruptly).await;
                Some(node)
            }
            10..30 => self.restart(node, users).await,
            30..80 => {
                self.world.observe(&node);
                node.power.cut();
                stop(&node, &mut users, true).await;
                let found = self.crash(&node).await;
                self.boot(found).await
            }
            _ => self.take_over(node, users).await,
        }
    }

    async fn restart(&mut self, node: Arc<Node>, mut users: JoinSet<()>) -> Option<Arc<Node>> {
        self.figures.restarts += 1;
        self.world.trace.event(format!("{} stops", node.name));
        let early = self.random.chance(0.5);
        let abruptly = self.random.chance(0.5);
        if early {
            stop(&node, &mut users, abruptly).await;
        }
        if self.random.chance(0.7) {
            node.set_faults(&Faults::none());
        }
        node.shut_down().await;
        stop(&node, &mut users, abruptly).await;
        self.world.observe(&node);
        node.ended().await;
        check::intact(&self.world, &node);
        self.boot(Found::AfterRestart(node.disk.clone())).await
    }

    pub(crate) async fn lose_power(&mut self, node: &Node) {
        self.figures.crashes += 1;
        self.world.trace.event(format!("{} loses power", node.name));
        self.kept = check::resident(node);
        node.crash();
        node.ended().await;
        check::intact(&self.world, node);
    }

    /// What a node must find on its disk right after it was loaded.
    fn found(&self, node: &Node, found: &Found) {
        if matches!(found, Found::AfterCrash(_)) {
            check::cache_survived(&self.world, node, &self.kept);
        }
    }

    async fn crash(&mut self, node: &Node) -> Found {
        self.lose_power(node).await;
        if self.random.chance(0.3) {
            self.figures.disks_lost += 1;
            Found::Nothing
        } else {
            Found::AfterCrash(node.disk.clone())
        }
    }

    /// A second node attaches while the first still runs.
    async fn take_over(&mut self, old: Arc<Node>, mut users: JoinSet<()>) -> Option<Arc<Node>> {
        self.figures.takeovers += 1;
        old.has_rival.store(true, Ordering::Relaxed);
        let new = self.boot(Found::Nothing).await?;
        // A tenant that the new node could not attach still belongs to the old one.
        let all = !new.partial.load(Ordering::Relaxed);
        old.superseded.store(all, Ordering::Relaxed);
        self.world
            .trace
            .event(format!("{} took over from {}", new.name, old.name));
        let mut new_users = self.users(&new);
        self.pass(&old).await;
        if self.random.chance(0.5) {
            old.shut_down().await;
        }
        old.crash();
        stop(&old, &mut users, true).await;
        old.ended().await;
        if self.random.chance(0.5) {
            self.pass(&new).await;
        }
        let abruptly = self.random.chance(0.5);
        stop(&new, &mut new_users, abruptly).await;
        Some(new)
    }

    /// Starts nodes until one is up.
    async fn boot(&mut self, mut found: Found) -> Option<Arc<Node>> {
        for attempt in 0..BOOT_TRIES {
            let node = self.start(&found);
            let peaceful = attempt + 2 >= BOOT_TRIES || self.random.chance(0.5);
            if !peaceful {
                node.set_faults(&Faults::draw(&mut self.random));
                if self.random.chance(0.2) {
                    node.power.plan(self.random.below(60), Edge::Before);
                }
            }
            let limit = match peaceful {
                true => ENOUGH,
                false => Duration::from_millis(self.random.between(50, 20_000)),
            };
            let loaded = self.load(&node, limit).await;
            self.found(&node, &found);
            let complete = loaded && check::loaded(&self.world, &node, peaceful);
            let goes_on = complete || loaded && self.random.chance(0.3);
            if goes_on && !node.power.is_dead() {
                node.power.keep_on();
                node.partial.store(!complete, Ordering::Relaxed);
                node.set_faults(&Faults::none());
                if complete {
                    check::acknowledged(&self.world, &node, &mut self.random).await;
                }
                return Some(node);
            }
            if peaceful {
                self.world
                    .fail(format!("{} does not load everything", node.name));
                return None;
            }
            found = self.crash(&node).await;
        }
        None
    }

    /// What a daemon does at its start. True if the engine is up.
    pub(crate) async fn load(&self, node: &Node, limit: Duration) -> bool {
        let unfinished = match node.load(limit).await {
            Ok(unfinished) => unfinished,
            Err(e) => {
                self.world.judge(node, "load", &e);
                return false;
            }
        };
        for left in unfinished {
            if left.index.deleted_at.is_none() {
                self.world
                    .fail(format!("{} is not what it was", left.timeline));
                continue;
            }
            let id = left.timeline;
            self.world
                .trace
                .event(format!("{} finishes the deletion of {id}", node.name));
            check::may_be_deleted(&self.world, id);
            if let Err(e) = left.tenant.remove_timeline_data(id).await {
                self.world.judge(node, "finishing a deletion", &e);
            }
        }
        true
    }

    /// Peace, then everything is looked at, also after the loss of the disk and after a restart.
    pub(crate) async fn finish(&mut self, mut node: Arc<Node>) -> Option<()> {
        node.set_faults(&Faults::none());
        if node.partial.load(Ordering::Relaxed) {
            node = self.clean_restart(node).await?;
        }
        // Longer than any request is under way and any job pauses.
        tokio::time::sleep(Duration::from_secs(120)).await;
        self.up_to_date(&node);
        self.settle(&node).await?;
        check::everything(&self.world, &node, 12, &mut self.random).await;
        self.lose_power(&node).await;
        let node = self.boot_in_peace(Found::Nothing).await?;
        check::everything(&self.world, &node, 6, &mut self.random).await;
        let node = self.clean_restart(node).await?;
        self.tidy(&node).await;
        self.idle(&node).await;
        check::no_leaks(&self.world, &node);
        node.shut_down().await;
        node.ended().await;
        Some(())
    }

    /// A scrub of everything, which finds nothing but what was left behind.
    async fn tidy(&self, node: &Node) {
        let options = scrub::Options {
            local: true,
            bucket: true,
            rate: u64::MAX,
        };
        for t in node.timelines() {
            match t.scrub(options).await {
                Ok(report) => {
                    let sound = scrub::Report {
                        layers: report.layers,
                        bytes: report.bytes,
                        leftovers: report.leftovers,
                        ..scrub::Report::default()
                    };
                    if report != sound {
                        self.world.fail(format!("timeline {}: {report:?}", t.id));
                    }
                }
                Err(e) => self.world.judge(node, "scrub", &e),
            }
        }
    }

    /// In peace, whatever is on disk reaches the bucket, though nobody asks for it.
    fn up_to_date(&self, node: &Node) {
        for t in node.timelines() {
            let (disk, remote) = (t.disk_consistent_lsn(), t.remote_consistent_lsn());
            if disk != remote {
                self.world.fail(format!(
                    "timeline {}: on disk up to {disk}, uploaded up to {remote} only, and nothing happens",
                    t.id
                ));
            }
        }
    }

    /// Waits until what compaction replaced is deleted.
    pub(crate) async fn idle(&self, node: &Node) {
        let busy = || node.timelines().iter().any(|t| t.layers_to_delete() > 0);
        for _ in 0..IDLE_LOOKS {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !busy() {
                return;
            }
        }
        self.world
            .fail(format!("{} never deletes what it replaced", node.name));
    }

    async fn clean_restart(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        self.figures.restarts += 1;
        node.shut_down().await;
        node.ended().await;
        check::intact(&self.world, &node);
        self.boot_in_peace(Found::AfterRestart(node.disk.clone()))
            .await
    }

    pub(crate) async fn boot_in_peace(&mut self, found: Found) -> Option<Arc<Node>> {
        let node = self.start(&found);
        let loaded = self.load(&node, ENOUGH).await;
        self.found(&node, &found);
        if !loaded || !check::loaded(&self.world, &node, true) {
            self.world
                .fail(format!("{} does not load everything", node.name));
            return None;
        }
        check::acknowledged(&self.world, &node, &mut self.random).await;
        Some(node)
    }

    /// Feeds every timeline to its end, finishes deletions, and makes everything durable.
    async fn settle(&mut self, node: &Arc<Node>) -> Option<()> {
        let world = Arc::clone(&self.world);
        let user = User {
            world: &world,
            node,
        };
        let doomed: Vec<_> = {
            let oracle = world.oracle.lock();
            let ids = oracle.ids(&[Life::Doomed]).into_iter();
            ids.filter_map(|id| Some((id, oracle.branches.get(&id)?.tenant)))
                .collect()
        };
        let undecided: Vec<_> = {
            let oracle = world.oracle.lock();
            let ids = oracle.ids(&[Life::Perhaps]).into_iter();
            ids.filter_map(|id| Some((id, oracle.branches.get(&id)?.tenant)))
                .collect()
        };
        for (id, tenant) in undecided.into_iter().chain(doomed) {
            let tenant = self.expect("settling", node.engine.tenant(tenant))?;
            let has_children = {
                let oracle = world.oracle.lock();
                oracle.has_children(id) || !tenant.children(id).is_empty()
            };
            if has_children && tenant.timeline(id).is_ok() {
                world.set_life(id, Life::Live);
                continue;
            }
            // Also what could not be loaded, or may have been created.
            match tenant.delete_timeline(id).await {
                Err(Error::TimelineNotFound { .. }) => {}
                deleted => self.expect("deleting at the end", deleted)?,
            }
            world.set_life(id, Life::Deleted);
        }
        let timelines: Vec<_> = {
            let oracle = world.oracle.lock();
            let live = oracle.ids(&[Life::Live]).into_iter();
            live.filter_map(|id| node.timeline(oracle.branches.get(&id)?.tenant, id))
                .collect()
        };
        for t in &timelines {
            loop {
                let fed = user.feed(t, 50, false, &mut self.random).await;
                if !self.expect("feeding at the end", fed)? {
                    break;
                }
            }
        }
        for t in &timelines {
            // What was begun is finished, unless the rules are against it. A branch point of which the
            // ancestor lost the WAL has come back by now.
            if t.marks().gc_blocking.is_some() {
                let levels = Levels::OneAndReparent;
                self.expect("detaching at the end", user.detach_from(t, levels).await)?;
            }
            self.expect("the last checkpoint", t.checkpoint().await)?;
            if t.remote_consistent_lsn() < t.last_record_lsn() {
                world.fail(format!(
                    "timeline {} is not durable after a checkpoint",
                    t.id
                ));
            }
        }
        world.observe(node);
        tokio::time::sleep(Duration::from_secs(5)).await;
        if node.engine.unflushed() != 0 {
            let bytes = node.engine.unflushed();
            world.fail(format!(
                "{bytes} bytes count as unflushed after everything was flushed"
            ));
        }
        Some(())
    }
}

/// Lets users finish what they do, or ends them in the middle of it.
async fn stop(node: &Node, users: &mut JoinSet<()>, abruptly: bool) {
    if abruptly || node.power.is_dead() {
        users.abort_all();
    }
    node.closing.store(true, Ordering::Relaxed);
    while users.join_next().await.is_some() {}
    node.closing.store(false, Ordering::Relaxed);
}

/// Imports a new timeline.
pub async fn import(tenant: &Arc<Tenant>, id: TimelineId) -> Result<(), Error> {
    let timeline = begin_import(tenant, id, None).await?;
    timeline.finish_import().await?;
    match timeline.state() {
        State::Active => Ok(()),
        other => Err(Error::Internal(format!("imported, but {other:?}"))),
    }
}

/// Fills a new timeline as an import does.
pub async fn begin_import(
    tenant: &Arc<Tenant>,
    id: TimelineId,
    vanilla: Option<Vanilla>,
) -> Result<Arc<Timeline>, Error> {
    let mut index = IndexPart::new(Metadata {
        disk_consistent_lsn: Lsn::INVALID,
        prev_record_lsn: None,
        ancestor_timeline: None,
        ancestor_lsn: Lsn::INVALID,
        latest_gc_cutoff_lsn: oracle::START,
        initdb_lsn: oracle::START,
        pg_version: PgMajor::V17,
    });
    index.vanilla = vanilla;
    let timeline = tenant.create_for_import(id, PgMajor::V17, index).await?;
    let mut layers = Layers::new(&timeline, oracle::START);
    for (key, content) in oracle::initial() {
        layers.put(key, content.bytes())?;
    }
    for (key, value) in oracle::catalog() {
        layers.put(key, value)?;
    }
    let mut control =
        include_bytes!("../../../libs/pg_format/tests/data/pg_control_17.bin").to_vec();
    control.resize(types::PAGE_SIZE, 0);
    layers.put(Key::CONTROL_FILE, control.into())?;
    timeline
        .adopt_import(layers.finish()?, oracle::START)
        .await?;
    Ok(timeline)
}
