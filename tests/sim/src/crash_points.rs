//! A small fixed history, with the power cut at each of its I/O steps in turn.
//!
//! One pass without a cut counts the steps. Then, for every step, the power is cut once before its
//! effect and once after it with the reply lost, and the next node starts on what the crash left of
//! the disk or on an empty one. It must have everything that was reported as durable, repeats what
//! was interrupted, and goes on to the end, where everything is looked at and nothing may be left
//! over.

use crate::node::{Node, Settings};
use crate::oracle::{self, Life};
use crate::panics;
use crate::power::Edge;
use crate::random::Random;
use crate::run::{Found, Run};
use crate::trace::Trace;
use crate::user::User;
use crate::world::World;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::{Branch, Error, ErrorKind, Timeline};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, TenantId, TenantShardId, TimelineId};

const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
const ROOT: TimelineId = TimelineId([1; 16]);
const CHILD: TimelineId = TimelineId([2; 16]);
const GRANDCHILD: TimelineId = TimelineId([3; 16]);

/// Where the power is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Number of the I/O step, from 0 after the import.
    pub step: u64,
    /// Before or after its effect.
    pub edge: Edge,
    /// The disk is gone afterwards.
    pub lose_disk: bool,
}

/// One thing in the history; each can be repeated after an interruption.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// WAL up to at least this many bytes behind the timeline's beginning.
    Write(TimelineId, u64),
    Flush(TimelineId),
    Checkpoint(TimelineId),
    /// Child, parent, bytes behind the parent's beginning.
    Branch(TimelineId, TimelineId, u64),
    Delete(TimelineId),
    /// L0 layers and images, however few changes there are.
    Compact(TimelineId),
    /// Only the newest history is kept.
    Gc(TimelineId),
    /// Seconds for the background work.
    Wait(u64),
}

const HISTORY: &[Action] = &[
    Action::Write(ROOT, 400),
    Action::Flush(ROOT),
    Action::Write(ROOT, 800),
    Action::Checkpoint(ROOT),
    Action::Write(ROOT, 1200),
    Action::Branch(CHILD, ROOT, 600),
    Action::Write(CHILD, 400),
    Action::Flush(CHILD),
    Action::Wait(3),
    Action::Branch(GRANDCHILD, CHILD, 200),
    Action::Write(GRANDCHILD, 400),
    Action::Checkpoint(GRANDCHILD),
    Action::Write(ROOT, 1600),
    Action::Checkpoint(CHILD),
    Action::Delete(GRANDCHILD),
    Action::Write(CHILD, 600),
    Action::Checkpoint(CHILD),
    Action::Flush(ROOT),
    Action::Compact(ROOT),
    Action::Checkpoint(ROOT),
    Action::Write(ROOT, 2000),
    Action::Flush(ROOT),
    Action::Compact(ROOT),
    Action::Compact(CHILD),
    Action::Gc(ROOT),
    Action::Gc(CHILD),
    Action::Checkpoint(ROOT),
    Action::Wait(3),
];

/// Runs the history with a cut, or without. Returns the number of I/O steps of the last node, of the
/// only one behind the import.
///
/// # Errors
/// What was wrong, and the last events.
pub fn run(cut: Option<Cut>) -> Result<u64, (String, Vec<String>)> {
    panics::watch();
    let trace = Trace::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let result = match runtime {
        Err(e) => Err(format!("no runtime: {e}")),
        Ok(runtime) => runtime.block_on(drive(cut, trace.clone())),
    };
    let result = match panics::taken() {
        Some(panic) => Err(format!("panic: {panic}")),
        None => result,
    };
    result.map_err(|why| (why, trace.tail()))
}

async fn drive(cut: Option<Cut>, trace: Trace) -> Result<u64, String> {
    let settings = Settings {
        memory_budget: 64 << 20,
        tenants: Map::new(),
    };
    let seed = cut.map_or(0, |c| c.step);
    let world = Arc::new(World::new(seed, trace, settings));
    let mut run = Run::new(&world, Random::new(seed, "run"));
    let steps = history(&mut run, cut).await;
    world.has_failed();
    match (world.failure(), steps) {
        (Some(why), _) => Err(why),
        (None, None) => Err("given up without a reason".into()),
        (None, Some(steps)) => Ok(steps),
    }
}

async fn history(run: &mut Run, cut: Option<Cut>) -> Option<u64> {
    let mut node = run.start(&Found::Nothing);
    let tenant = node.engine.create_tenant(TENANT, Map::new(), None).await;
    let tenant = run.expect("creating the tenant", tenant)?;
    let imported = crate::run::import(&tenant, ROOT).await;
    run.expect("importing", imported)?;
    run.world.oracle.lock().import(TENANT, ROOT);
    let first = node.power.steps();
    if let Some(cut) = cut {
        node.power.plan(first + cut.step, cut.edge);
    }
    // The WAL is the same whatever happens to it.
    let mut wal = Random::new(1, "wal");
    let mut actions = HISTORY.iter();
    let mut action = actions.next();
    while let Some(now) = action {
        let done = act(&run.world, &node, *now, &mut wal).await;
        run.world.observe(&node);
        if node.power.is_dead() {
            let lose = cut.is_some_and(|c| c.lose_disk);
            run.lose_power(&node).await;
            let found = match lose {
                true => Found::Nothing,
                false => Found::AfterCrash(node.disk.clone()),
            };
            node = run.boot_in_peace(found).await?;
            continue;
        }
        if let Err(e) = done {
            run.world.fail(format!("{now:?}: {e}"));
            return None;
        }
        action = actions.next();
    }
    let steps = node.power.steps().saturating_sub(first);
    run.finish(node).await?;
    Some(steps)
}

async fn act(world: &World, node: &Node, action: Action, wal: &mut Random) -> Result<(), Error> {
    let user = User { world, node };
    let tenant = node.engine.tenant(TENANT)?;
    match action {
        Action::Write(id, bytes) => {
            let timeline = tenant.timeline(id)?;
            let target = beginning(&timeline).saturating_add(bytes);
            while timeline.last_record_lsn() < target {
                user.feed(&timeline, 3, true, wal).await?;
            }
            Ok(())
        }
        Action::Flush(id) => tenant.timeline(id)?.freeze_and_flush().await,
        Action::Checkpoint(id) => tenant.timeline(id)?.checkpoint().await,
        Action::Branch(id, parent, bytes) => {
            let ancestor = tenant.timeline(parent)?;
            let at = beginning(&ancestor).saturating_add(bytes);
            refeed(&user, &ancestor, at, wal).await?;
            if !world.oracle.lock().branches.contains_key(&id) {
                let mut oracle = world.oracle.lock();
                oracle.branch(id, parent, Lsn::INVALID, Life::Perhaps);
            }
            let request = Branch {
                id,
                ancestor: parent,
                at: Some(at),
            };
            let branch = tenant.branch(request).await?;
            world.born(id, branch.ancestor_lsn());
            Ok(())
        }
        Action::Delete(id) => {
            world.doom(id);
            match tenant.delete_timeline(id).await {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => {
                    world.set_life(id, Life::Deleted);
                    Ok(())
                }
            }
        }
        Action::Compact(id) => {
            let force = Force {
                l0: true,
                images: true,
            };
            tenant.timeline(id)?.compact(force).await.map(|_| ())
        }
        Action::Gc(id) => {
            let horizon = Horizon {
                bytes: 100,
                pitr: Duration::ZERO,
            };
            tenant.timeline(id)?.gc(horizon).await.map(|_| ())
        }
        Action::Wait(seconds) => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        }
    }
}

/// A crash took the timeline back: its source sends WAL again.
async fn refeed(
    user: &User<'_>,
    timeline: &Timeline,
    to: Lsn,
    wal: &mut Random,
) -> Result<(), Error> {
    while timeline.last_record_lsn() < to {
        user.feed(timeline, 3, true, wal).await?;
    }
    Ok(())
}

fn beginning(timeline: &Timeline) -> Lsn {
    match timeline.ancestor {
        Some(_) => timeline.ancestor_lsn(),
        None => oracle::START,
    }
}
