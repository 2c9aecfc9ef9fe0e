//! What all parts of a run share: the bucket's content, the oracle, the verdict.

use crate::bucket::Store;
use crate::node::{Node, Positions, Settings};
use crate::oracle::{Life, Oracle};
use crate::plan::Plan;
use crate::trace::Trace;
use pageserver::engine::{Error, ErrorKind, State};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::time::Instant;
use types::{Key, Lsn, TimelineId};

/// One run.
pub struct World {
    /// The seed.
    pub seed: u64,
    /// What happened.
    pub trace: Trace,
    /// The bucket's content.
    pub store: Store,
    /// What is right.
    pub oracle: Mutex<Oracle>,
    /// Settings of every node.
    pub settings: Settings,
    /// When the run began.
    pub start: Instant,
    /// A planned fault.
    pub plan: Arc<Plan>,
    /// Timelines whose creation somebody asks for, or decides, at the moment.
    pub undecided: Mutex<BTreeSet<TimelineId>>,
    operations: AtomicU64,
    failure: Mutex<Option<String>>,
    failed: Notify,
}

impl World {
    /// A new world.
    pub fn new(seed: u64, trace: Trace, settings: Settings) -> World {
        World {
            seed,
            trace,
            store: Store::default(),
            oracle: Mutex::default(),
            settings,
            start: Instant::now(),
            plan: Arc::default(),
            undecided: Mutex::default(),
            operations: AtomicU64::new(0),
            failure: Mutex::new(None),
            failed: Notify::new(),
        }
    }

    /// Ends the run: something is wrong. The first reason stands.
    pub fn fail(&self, why: String) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            self.trace.event(format!("FAILED: {why}"));
            *failure = Some(why);
            self.failed.notify_waiters();
        }
    }

    /// The reason why the run failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// True once the run has failed.
    pub fn has_failed(&self) -> bool {
        if let Some(why) = self.store.violation() {
            self.fail(why);
        }
        let failure = self.failure.lock();
        failure.is_some()
    }

    /// Returns when the run fails.
    pub async fn failing(&self) {
        loop {
            let mut notified = std::pin::pin!(self.failed.notified());
            notified.as_mut().enable();
            if self.has_failed() {
                return;
            }
            notified.await;
        }
    }

    /// Counts something that a user did.
    pub fn count_operation(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Things done by users so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Looks at the positions of all timelines of a node: they only grow, and what is reported as
    /// durable must never be lost from now on.
    pub fn observe(&self, node: &Node) {
        for t in node.timelines() {
            let now: Positions = [
                t.last_record_lsn(),
                t.disk_consistent_lsn(),
                t.remote_consistent_lsn(),
                t.gc_cutoff(),
            ];
            let durable = t.durable_lsn();
            let before = node.seen.lock().insert(t.id, now);
            let before = before.unwrap_or_default();
            let [last, disk, remote, cutoff] = now;
            // A timeline that takes over its ancestor's history is readable below its branch point.
            let former = t.marks().lineage.original_ancestor;
            let reopened = former.is_some_and(|(_, at, _)| at == before[3]);
            let positions = if reopened { 3 } else { 4 };
            let mut pairs = now.iter().zip(before).take(positions);
            if pairs.any(|(n, b)| *n < b) {
                self.fail(format!(
                    "{} timeline {}: positions went back from {before:?} to {now:?}",
                    node.name, t.id
                ));
            }
            if disk > last || remote > disk || cutoff > last {
                self.fail(format!(
                    "{} timeline {}: newest record {last}, on disk {disk}, in the bucket {remote}, cutoff {cutoff}",
                    node.name, t.id
                ));
            }
            let explained =
                node.has_rival.load(Ordering::Relaxed) || node.partial.load(Ordering::Relaxed);
            if let State::Broken(why) = t.state()
                && !explained
            {
                self.fail(format!("{} timeline {}: {why}", node.name, t.id));
            }
            let change = {
                let oracle = self.oracle.lock();
                let branch = oracle.branches.get(&t.id);
                branch.and_then(|b| b.last_change(disk))
            };
            // Looked at whenever the position moves: no later failure may be needed to see it.
            if let Some(lsn) = change.filter(|_| disk != before[1])
                && !t.layers().files().any(|l| l.lsns().end > lsn)
            {
                self.fail(format!(
                    "{} timeline {}: on disk up to {disk}, but no layer has the change at {lsn}",
                    node.name, t.id
                ));
            }
            let mut oracle = self.oracle.lock();
            let tip = oracle.branches.get(&t.id).map(|b| b.tip());
            if let Some(b) = oracle
                .branches
                .get_mut(&t.id)
                .filter(|b| b.life == Life::Live)
            {
                b.acknowledged = b.acknowledged.max(durable);
                b.cutoff = b.cutoff.max(t.gc_cutoff());
                if tip.is_some_and(|tip| last > tip) {
                    drop(oracle);
                    self.fail(format!(
                        "{} timeline {}: newest record {last} was never written",
                        node.name, t.id
                    ));
                }
            }
        }
    }

    /// Decides whether an error is what the faults of the moment explain.
    pub fn judge(&self, node: &Node, what: &str, e: &Error) {
        self.trace
            .event(format!("{} {what} failed: {e}", node.name));
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let excused = on(&node.faulty) || on(&node.stopping) || node.power.is_dead();
        let rival = on(&node.has_rival);
        let fine = match e {
            Error::Disk(_) => excused,
            Error::Bucket(b) => excused || rival && b.is_not_found(),
            // Operations on what is being deleted or shut down.
            Error::Shutdown | Error::TimelineNotFound { .. } => true,
            // A branch may wait for an ancestor that nobody feeds at the moment.
            Error::LsnTimeout { .. } => true,
            Error::Busy(_) => true,
            Error::Conflict(_) | Error::Internal(_) | Error::TenantNotFound(_) => {
                rival || on(&node.partial)
            }
            e if e.kind() == ErrorKind::Corrupt => node.power.is_dead(),
            _ => false,
        };
        if !fine {
            self.fail(format!("{} {what}: {e}", node.name));
        }
    }

    /// The right to create a timeline or to decide whether it exists, unless somebody has it.
    pub fn decide(&self, id: TimelineId) -> Option<Deciding<'_>> {
        let free = self.undecided.lock().insert(id);
        free.then(|| Deciding { world: self, id })
    }

    /// A timeline exists for certain from now on.
    pub fn born(&self, id: TimelineId, at: Lsn) {
        let mut oracle = self.oracle.lock();
        let Some(b) = oracle.branches.get_mut(&id) else {
            return;
        };
        b.parent = b.parent.map(|(p, _)| (p, at));
        if b.life == Life::Perhaps {
            b.life = Life::Live;
        }
        let parent = b.parent.and_then(|(p, _)| oracle.branches.get(&p));
        if parent.is_some_and(|p| p.life == Life::Deleted) {
            drop(oracle);
            self.fail(format!("branch {id} was created from a deleted timeline"));
        }
    }

    /// Changes what is known of a timeline's existence.
    pub fn set_life(&self, id: TimelineId, life: Life) {
        if let Some(b) = self.oracle.lock().branches.get_mut(&id) {
            b.life = life;
        }
    }

    /// A deletion begins. Returns what was known before.
    pub fn doom(&self, id: TimelineId) -> Option<Life> {
        let mut oracle = self.oracle.lock();
        let b = oracle.branches.get_mut(&id)?;
        let before = b.life;
        if before == Life::Live {
            b.life = Life::Doomed;
        }
        Some(before)
    }

    /// A deletion was refused before anything was done.
    pub fn undoom(&self, id: TimelineId, life: Life) {
        let mut oracle = self.oracle.lock();
        if let Some(b) = oracle.branches.get_mut(&id)
            && b.life == Life::Doomed
        {
            b.life = life;
        }
    }

    /// For the report: what a value is, and where in the key's history it stands.
    pub fn describe(&self, id: TimelineId, key: Key, value: Option<&[u8]>) -> String {
        let Some(value) = value else {
            return "nothing".into();
        };
        let sum = types::crc32c::of(value);
        let mut at: BTreeMap<Lsn, TimelineId> = BTreeMap::new();
        let oracle = self.oracle.lock();
        for (lsn, timeline) in oracle.versions(id, key, value) {
            at.insert(lsn, timeline);
        }
        match at.is_empty() {
            true => format!("{} bytes {sum:08x}, which it never was", value.len()),
            false => format!("{} bytes {sum:08x}, its value since {at:?}", value.len()),
        }
    }
}

/// The right to decide a timeline's existence; given back when dropped.
pub struct Deciding<'a> {
    world: &'a World,
    id: TimelineId,
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.world.undecided.lock().remove(&self.id);
    }
}
