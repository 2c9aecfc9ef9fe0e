//! What happens to a node while it runs: reads, WAL, branches, deletions, maintenance, at random.

use crate::node::Node;
use crate::oracle::{self, Life};
use crate::random::Random;
use crate::world::World;
use bytes::Bytes;
use pageserver::engine::env::Clock;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::timeline::scrub;
use pageserver::engine::timeline::{Horizon, Pin};
use pageserver::engine::{Branch, Detach, Error, ErrorKind, Levels, Timeline};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use types::{Key, KeyRange, Lsn, TimelineId};

/// Most timelines that exist at once.
const MAX_TIMELINES: usize = 10;
/// Users do no more than this in one run, so that no seed takes much longer than another.
const MAX_OPERATIONS: u64 = 6000;

/// Share of operations that are dropped if they take long.
const GIVES_UP: f64 = 0.1;
/// And how long that is at most.
const PATIENCE_MS: u64 = 300;

/// One kind of thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Read,
    Size,
    Scan,
    Write,
    Branch,
    Resolve,
    Delete,
    Detach,
    Evict,
    Scrub,
    Freeze,
    Flush,
    Checkpoint,
    Compact,
    Gc,
    Lease,
    Leased,
    Rename,
    ClockJump,
}

/// How often each is done, relative to the others.
const WEIGHTS: &[(Op, u64)] = &[
    (Op::Read, 300),
    (Op::Size, 40),
    (Op::Scan, 40),
    (Op::Write, 200),
    (Op::Branch, 25),
    (Op::Resolve, 15),
    (Op::Delete, 15),
    (Op::Detach, 10),
    (Op::Evict, 15),
    (Op::Scrub, 5),
    (Op::Freeze, 15),
    (Op::Flush, 20),
    (Op::Checkpoint, 20),
    (Op::Compact, 20),
    (Op::Gc, 15),
    (Op::Lease, 10),
    (Op::Leased, 20),
    (Op::Rename, 5),
    (Op::ClockJump, 3),
];

fn draw(random: &mut Random) -> Op {
    let total = WEIGHTS.iter().map(|(_, w)| w).sum();
    let mut n = random.below(total);
    for (op, weight) in WEIGHTS {
        if n < *weight {
            return *op;
        }
        n -= weight;
    }
    Op::Read
}

/// Does random things to a node until it dies or the run fails.
pub async fn run(world: Arc<World>, node: Arc<Node>, mut random: Random) {
    let pace = random.between(5, 300);
    let goes_on = || {
        let closing = node.closing.load(Ordering::Relaxed);
        !closing && !node.power.is_dead() && !world.has_failed()
    };
    while goes_on() && world.operations() < MAX_OPERATIONS {
        tokio::time::sleep(Duration::from_millis(random.between(1, pace))).await;
        let op = draw(&mut random);
        world.count_operation();
        let user = User {
            world: &world,
            node: &node,
        };
        let patience = random
            .chance(GIVES_UP)
            .then(|| Duration::from_millis(random.below(PATIENCE_MS)));
        let doing = async {
            match op {
                Op::Read => user.read(&mut random).await,
                Op::Size => user.size(&mut random).await,
                Op::Scan => user.scan(&mut random).await,
                Op::Write => user.write(&mut random).await,
                Op::Branch => user.branch(&mut random).await,
                Op::Resolve => user.resolve(&mut random).await,
                Op::Delete => user.delete(&mut random).await,
                Op::Detach => user.detach(&mut random).await,
                Op::Evict => user.evict(&mut random).await,
                Op::Scrub => user.scrub(&mut random).await,
                Op::Freeze | Op::Flush | Op::Checkpoint => user.maintain(op, &mut random).await,
                Op::Compact => user.compact(&mut random).await,
                Op::Gc => user.gc(&mut random).await,
                Op::Lease => user.lease(&mut random).await,
                Op::Leased => user.leased(&mut random).await,
                Op::Rename => user.rename(&mut random).await,
                Op::ClockJump => {
                    let ms = random.below(7_200_000) as i64 - 3_600_000;
                    node.clock.jump(ms);
                    Ok(())
                }
            }
        };
        let done = match patience {
            None => doing.await,
            Some(patience) => tokio::select! {
                biased;
                done = doing => done,
                () = tokio::time::sleep(patience) => {
                    world.trace.event(format!("{} gives up {op:?}", node.name));
                    Ok(())
                }
            },
        };
        if let Err(e) = done {
            world.judge(&node, &format!("{op:?}"), &e);
        }
        world.observe(&node);
    }
}

/// One operation on one node.
pub struct User<'a> {
    /// The run.
    pub world: &'a World,
    /// The node.
    pub node: &'a Node,
}

/// True below the cutoff of the timeline that holds the history at `lsn`.
fn may_be_gone(timeline: &Timeline, lsn: Lsn) -> bool {
    let inherited = timeline.ancestor();
    lsn < timeline.gc_cutoff() || inherited.is_some_and(|(a, at)| lsn < at && may_be_gone(&a, lsn))
}

type Done = Result<(), Error>;

impl User<'_> {
    fn pick(&self, life: &[Life], random: &mut Random) -> Option<Arc<Timeline>> {
        let oracle = self.world.oracle.lock();
        let id = *random.pick(&oracle.ids(life))?;
        let tenant = oracle.branches.get(&id)?.tenant;
        drop(oracle);
        self.node.timeline(tenant, id)
    }

    fn event(&self, text: String) {
        self.world.trace.event(format!("{} {text}", self.node.name));
    }

    /// A readable LSN: the newest, a recent one, one near a branch point, or any.
    fn readable(&self, timeline: &Timeline, random: &mut Random) -> Lsn {
        let oldest = self.oldest(timeline);
        let last = timeline.last_record_lsn();
        let span = last.0.saturating_sub(oldest.0);
        let lsn = match random.below(4) {
            0 => last,
            1 => last.saturating_sub(random.below(200)),
            2 => {
                let points = self.world.oracle.lock().branch_points(timeline.id);
                let near = random.pick(&points).copied().unwrap_or(last);
                Lsn((near.0 + random.below(17)).saturating_sub(8))
            }
            _ => Lsn(oldest.0 + random.below(span + 1)),
        };
        lsn.max(oldest).min(last)
    }

    fn oldest(&self, timeline: &Timeline) -> Lsn {
        timeline.gc_cutoff().max(oracle::START)
    }

    async fn read(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live, Life::Doomed], random) else {
            return Ok(());
        };
        let lsn = self.readable(&timeline, random);
        let keys = oracle::keys();
        let Some(key) = random.pick(&keys).copied() else {
            return Ok(());
        };
        self.check(&timeline, key, lsn).await
    }

    /// Reads one value and compares it with the oracle's. What garbage collection may have taken is
    /// refused, nothing else.
    pub async fn check(&self, timeline: &Timeline, key: Key, lsn: Lsn) -> Done {
        let Some(_pin) = self.pin(timeline, lsn)? else {
            return Ok(());
        };
        let got = timeline.get_opt(key, lsn).await?;
        let oracle = self.world.oracle.lock();
        let want = oracle.get(timeline.id, key, lsn).map(|c| c.bytes());
        drop(oracle);
        let sum = got.as_ref().map(|b| types::crc32c::of(b));
        self.event(format!("read {} {key} at {lsn}: {sum:x?}", timeline.id));
        // A sparse key that was removed is as good as one that never was.
        let there = |value: &Option<Bytes>| value.as_ref().is_some_and(|v| !v.is_empty());
        if got != want && (there(&got) || there(&want)) {
            let why = format!(
                "{} timeline {} key {key} at {lsn}: read {}, expected {}; newest {}, cutoff {}",
                self.node.name,
                timeline.id,
                self.world.describe(timeline.id, key, got.as_deref()),
                self.world.describe(timeline.id, key, want.as_deref()),
                timeline.last_record_lsn(),
                timeline.gc_cutoff(),
            );
            self.world.fail(why);
        }
        Ok(())
    }

    /// A hold on an LSN; `None` if it is below the cutoff.
    fn pin(&self, timeline: &Timeline, lsn: Lsn) -> Result<Option<Pin>, Error> {
        match timeline.pin(lsn) {
            Ok(pin) => Ok(Some(pin)),
            Err(Error::BelowCutoff { .. }) if may_be_gone(timeline, lsn) => {
                self.event(format!("{} at {lsn} is gone", timeline.id));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn compact(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let force = Force {
            l0: random.chance(0.5),
            images: random.chance(0.3),
        };
        let outcome = timeline.compact(force).await?;
        self.event(format!("compacted {}: {outcome:?}", timeline.id));
        Ok(())
    }

    async fn gc(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let horizon = Horizon {
            bytes: random.below(4000),
            pitr: Duration::ZERO,
        };
        let collected = timeline.gc(horizon).await?;
        self.event(format!("collected {}: {collected:?}", timeline.id));
        Ok(())
    }

    async fn lease(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let lsn = self.readable(&timeline, random);
        let length = Duration::from_secs(random.between(1, 120));
        let end = self.node.clock.monotonic() + length;
        match timeline.lease(lsn, length) {
            Ok(_) => {
                self.event(format!("leased {} at {lsn}", timeline.id));
                self.node.leases.lock().push((timeline.id, lsn, end));
                Ok(())
            }
            Err(Error::BelowCutoff { .. }) if may_be_gone(&timeline, lsn) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Reads at a leased LSN, which nothing may take away.
    async fn leased(&self, random: &mut Random) -> Done {
        let now = self.node.clock.monotonic();
        let lease = {
            let mut leases = self.node.leases.lock();
            leases.retain(|(_, _, end)| *end > now);
            random.pick(&leases).copied()
        };
        let Some((id, lsn, _)) = lease else {
            return Ok(());
        };
        let branch = self.world.oracle.lock().branches.get(&id).cloned();
        let Some(branch) = branch.filter(|b| b.life == Life::Live) else {
            return Ok(());
        };
        let Some(timeline) = self.node.timeline(branch.tenant, id) else {
            return Ok(());
        };
        let keys = oracle::keys();
        let Some(key) = random.pick(&keys).copied() else {
            return Ok(());
        };
        match timeline.pin(lsn) {
            Err(e) => {
                self.world.fail(format!(
                    "{} timeline {id} at {lsn}, which is leased: {e}",
                    self.node.name
                ));
                Ok(())
            }
            Ok(_pin) => self.check(&timeline, key, lsn).await,
        }
    }

    async fn size(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live, Life::Doomed], random) else {
            return Ok(());
        };
        let lsn = self.readable(&timeline, random);
        let rel = oracle::sized(random.below(u64::from(oracle::SIZED)) as u32);
        let Some(_pin) = self.pin(&timeline, lsn)? else {
            return Ok(());
        };
        let got = timeline.relation_size(rel, lsn).await?;
        let want = {
            let oracle = self.world.oracle.lock();
            oracle.size(timeline.id, rel, lsn)
        };
        self.event(format!("size {} {rel:?} at {lsn}: {got}", timeline.id));
        if want != Some(got) {
            self.world.fail(format!(
                "{} timeline {} size of {rel:?} at {lsn}: {got}, expected {want:?}",
                self.node.name, timeline.id
            ));
        }
        if got > 0 {
            let block = random.below(u64::from(got)) as u32;
            return self.check(&timeline, Key::rel_block(rel, block), lsn).await;
        }
        Ok(())
    }

    async fn scan(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let lsn = self.readable(&timeline, random);
        let range = KeyRange {
            start: oracle::sparse(0),
            end: oracle::sparse(oracle::SPARSE),
        };
        let Some(_pin) = self.pin(&timeline, lsn)? else {
            return Ok(());
        };
        let got = timeline.scan(range, lsn).await?;
        let want = self.world.oracle.lock().sparse(timeline.id, lsn);
        self.event(format!("scan {} at {lsn}: {}", timeline.id, got.len()));
        if got != want {
            self.world.fail(format!(
                "{} timeline {} scan at {lsn}: {got:?}, expected {want:?}",
                self.node.name, timeline.id
            ));
        }
        Ok(())
    }

    async fn write(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        for _ in 0..random.between(1, 4) {
            let most = random.between(1, 4);
            self.feed(&timeline, most, true, random).await?;
        }
        Ok(())
    }

    /// Feeds the next records to a timeline. False if there are none.
    pub async fn feed(
        &self,
        timeline: &Timeline,
        most: u64,
        grow: bool,
        random: &mut Random,
    ) -> Result<bool, Error> {
        let Some(_feeding) = self.node.feed(timeline.id) else {
            return Ok(false);
        };
        let after = timeline.last_record_lsn();
        let batch = {
            let mut oracle = self.world.oracle.lock();
            oracle.batch(timeline.id, after, most, grow, random)
        };
        let Some(batch) = batch else {
            return Ok(false);
        };
        let end = batch.last_lsn;
        timeline.write(batch).await?;
        self.event(format!("wrote {} up to {end}", timeline.id));
        let reached = timeline.last_record_lsn();
        if reached != end {
            self.world.fail(format!(
                "{} timeline {}: written up to {end}, newest record at {reached}",
                self.node.name, timeline.id
            ));
        }
        Ok(true)
    }

    async fn branch(&self, random: &mut Random) -> Done {
        if self.world.oracle.lock().ids(&[Life::Live]).len() >= MAX_TIMELINES {
            return Ok(());
        }
        let Some(parent) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let Ok(tenant) = self.node.engine.tenant(parent.tenant) else {
            return Ok(());
        };
        let at = random.chance(0.7).then(|| self.readable(&parent, random));
        let id = TimelineId(random.id());
        let was_superseded = self.node.superseded.load(Ordering::Relaxed);
        {
            // Unknown LSN until it is there; nothing depends on it before.
            let mut oracle = self.world.oracle.lock();
            oracle.branch(id, parent.id, Lsn::INVALID, Life::Perhaps);
            if let Some(branch) = oracle.branches.get_mut(&id) {
                branch.asked = at;
            }
        }
        let request = Branch {
            id,
            ancestor: parent.id,
            at,
        };
        self.event(format!("branch {id} from {} at {at:?}", parent.id));
        let Some(_deciding) = self.world.decide(id) else {
            return Ok(());
        };
        let tries = random.between(1, 3);
        let mut tried = 0;
        let result = loop {
            let result = tenant.branch(request).await;
            tried += 1;
            if result.is_ok() || tried == tries {
                break result;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        match result {
            Ok(branch) => {
                self.branched(&branch, at, was_superseded);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotAcceptable => {
                // Below what is kept: refused before anything was done, at least by this try.
                if tried == 1 {
                    self.world.oracle.lock().forget(id);
                }
                let oldest = parent.gc_cutoff().max(parent.ancestor_lsn());
                if at.is_none_or(|at| at.align() >= oldest) {
                    self.world
                        .fail(format!("branch {id} of {} at {at:?}: {e}", parent.id));
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn branched(&self, branch: &Timeline, at: Option<Lsn>, was_superseded: bool) {
        let (id, point) = (branch.id, branch.ancestor_lsn());
        self.event(format!("branched {id} at {point}"));
        if at.is_some_and(|at| at.align() != point) {
            self.world
                .fail(format!("branch {id} asked for at {at:?} is at {point}"));
        }
        if was_superseded {
            self.world.fail(format!(
                "{} created branch {id} after another node had attached the tenant",
                self.node.name
            ));
        }
        self.world.born(id, point);
    }

    /// Repeats a request to create a branch that failed, here or elsewhere, or deletes what may have
    /// come of it.
    async fn resolve(&self, random: &mut Random) -> Done {
        let undecided = self.world.oracle.lock().ids(&[Life::Perhaps]);
        let Some(id) = random.pick(&undecided).copied() else {
            return Ok(());
        };
        let Some(_deciding) = self.world.decide(id) else {
            return Ok(());
        };
        let branch = self.world.oracle.lock().branches.get(&id).cloned();
        let Some(branch) = branch.filter(|b| b.life == Life::Perhaps) else {
            return Ok(());
        };
        let (Ok(tenant), Some((ancestor, _))) =
            (self.node.engine.tenant(branch.tenant), branch.parent)
        else {
            return Ok(());
        };
        let was_superseded = self.node.superseded.load(Ordering::Relaxed);
        if random.chance(0.5) {
            let at = branch.asked;
            self.event(format!("branch {id} once more from {ancestor} at {at:?}"));
            let request = Branch { id, ancestor, at };
            return match tenant.branch(request).await {
                Ok(branch) => {
                    self.branched(&branch, at, was_superseded);
                    Ok(())
                }
                // The second: a deletion that was begun has to be repeated first.
                Err(e) if matches!(e.kind(), ErrorKind::NotAcceptable | ErrorKind::Conflict) => {
                    Ok(())
                }
                Err(e) => Err(e),
            };
        }
        self.event(format!("delete {id}, which may exist"));
        match tenant.delete_timeline(id).await {
            Ok(()) if was_superseded => {
                self.world.fail(format!(
                    "{} deleted timeline {id} after another node had attached the tenant",
                    self.node.name
                ));
                Ok(())
            }
            Ok(()) => {
                self.world.set_life(id, Life::Deleted);
                Ok(())
            }
            // Nothing is there yet.
            Err(Error::TimelineNotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn delete(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live, Life::Doomed], random) else {
            return Ok(());
        };
        // Roots stay, so that a run never runs dry; the attempt is refused while they have children.
        let has_children = self.world.oracle.lock().has_children(timeline.id);
        if timeline.ancestor().is_none() && !has_children {
            return Ok(());
        }
        let Ok(tenant) = self.node.engine.tenant(timeline.tenant) else {
            return Ok(());
        };
        let was_superseded = self.node.superseded.load(Ordering::Relaxed);
        let id = timeline.id;
        self.event(format!("delete {id}"));
        let before = self.world.doom(id);
        let result = tenant.delete_timeline(id).await;
        match result {
            Ok(()) => {
                self.event(format!("deleted {id}"));
                if self.world.oracle.lock().has_children(id) {
                    self.world.fail(format!(
                        "{} deleted timeline {id}, which has children",
                        self.node.name
                    ));
                } else if was_superseded {
                    self.world.fail(format!(
                        "{} deleted timeline {id} after another node had attached the tenant",
                        self.node.name
                    ));
                }
                self.world.set_life(id, Life::Deleted);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::Precondition => {
                // Refused for its children, before anything was done.
                if let Some(life) = before {
                    self.world.undoom(id, life);
                }
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn detach(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let levels = match random.chance(0.8) {
            true => Levels::OneAndReparent,
            false => Levels::Several,
        };
        self.detach_from(&timeline, levels).await
    }

    /// Detaches a timeline, if the rules allow it.
    pub async fn detach_from(&self, timeline: &Timeline, levels: Levels) -> Done {
        let Ok(tenant) = self.node.engine.tenant(timeline.tenant) else {
            return Ok(());
        };
        let was_superseded = self.node.superseded.load(Ordering::Relaxed);
        let ancestor = timeline.ancestor();
        if let Some((ancestor, _)) = &ancestor {
            let mut oracle = self.world.oracle.lock();
            oracle.move_from(timeline.id, ancestor.id);
        }
        let id = timeline.id;
        self.event(format!("detach {id} from {ancestor:?}"));
        let how = Detach {
            levels,
            ..Detach::default()
        };
        match tenant.detach_ancestor(id, how).await {
            Ok(moved) => {
                self.event(format!("detached {id}, with {moved:?}"));
                if timeline.ancestor().is_some() {
                    self.world.fail(format!("{id} still has an ancestor"));
                }
                if was_superseded && ancestor.is_some() {
                    self.world.fail(format!(
                        "{} detached {id} after another node had attached the tenant",
                        self.node.name
                    ));
                }
                Ok(())
            }
            // By the rules, or because of another attempt.
            Err(Error::BadRequest(_) | Error::Unavailable(_)) => Ok(()),
            Err(Error::Conflict(_)) if ancestor.is_none() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes what is in the bucket from local disk, one layer or all.
    async fn evict(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let layers: Vec<_> = timeline.layers().files().cloned().collect();
        if layers.is_empty() || random.chance(0.3) {
            let (count, _) = timeline.evict_all().await?;
            self.event(format!("evicted {count} of {}", timeline.id));
            return Ok(());
        }
        let n = random.below(layers.len() as u64) as usize;
        match timeline.evict(&layers[n]).await {
            Ok(evicted) => {
                self.event(format!("evicted {}: {evicted}", layers[n].name()));
                Ok(())
            }
            // Not in the bucket yet.
            Err(Error::Precondition(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Reads all layers, slowly or at once. Nothing is ever found damaged or gone.
    async fn scrub(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let options = scrub::Options {
            local: true,
            bucket: true,
            rate: 1 << random.between(18, 32),
        };
        let faults = || self.world.trace.counters().faults.load(Ordering::Relaxed);
        let before = faults();
        let report = timeline.scrub(options).await?;
        self.event(format!("scrubbed {}: {report:?}", timeline.id));
        let excused = faults() > before
            || self.node.has_rival.load(Ordering::Relaxed)
            || self.node.power.is_dead();
        let sound = report.lost.is_empty()
            && report.local_repaired.is_empty()
            && report.bucket_repaired.is_empty();
        if !sound && !excused {
            self.world.fail(format!(
                "{} timeline {}: {report:?}",
                self.node.name, timeline.id
            ));
        }
        Ok(())
    }

    async fn maintain(&self, op: Op, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let last = timeline.last_record_lsn();
        match op {
            Op::Freeze => timeline.freeze().await,
            Op::Flush => {
                timeline.freeze_and_flush().await?;
                self.reached(&timeline, "flushed", last, timeline.disk_consistent_lsn());
            }
            _ => {
                timeline.checkpoint().await?;
                self.reached(
                    &timeline,
                    "uploaded",
                    last,
                    timeline.remote_consistent_lsn(),
                );
            }
        }
        Ok(())
    }

    fn reached(&self, timeline: &Timeline, what: &str, wanted: Lsn, reached: Lsn) {
        self.event(format!("{what} {} up to {reached}", timeline.id));
        if reached < wanted {
            self.world.fail(format!(
                "{} timeline {}: {what} up to {reached} only, not {wanted}",
                self.node.name, timeline.id
            ));
        }
    }

    async fn rename(&self, random: &mut Random) -> Done {
        let Some(timeline) = self.pick(&[Life::Live], random) else {
            return Ok(());
        };
        let Ok(tenant) = self.node.engine.tenant(timeline.tenant) else {
            return Ok(());
        };
        let was_superseded = self.node.superseded.load(Ordering::Relaxed);
        let name = format!("name {}", random.below(1000));
        tenant
            .update_record(|r| r.name = Some(name.clone()))
            .await?;
        self.event(format!("tenant {} is called {name:?}", tenant.id));
        if was_superseded {
            self.world.fail(format!(
                "{} changed the record of tenant {} after another node had attached it",
                self.node.name, tenant.id
            ));
        }
        Ok(())
    }
}
