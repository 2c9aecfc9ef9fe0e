//! A small fixed history: everything that the engine does with disk and bucket, once.

use crate::node::{Node, Settings};
use crate::oracle::{self, Life};
use crate::panics;
use crate::random::Random;
use crate::run::{Found, Run, Wrong};
use crate::trace::Trace;
use crate::user::User;
use crate::world::World;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::{Branch, Error, ErrorKind, Levels, Timeline};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, TenantId, TenantShardId, TimelineId};

/// The only tenant.
pub const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
/// The imported timeline.
pub const ROOT: TimelineId = TimelineId([1; 16]);
/// Its branch.
pub const CHILD: TimelineId = TimelineId([2; 16]);
/// A branch of that, which is deleted.
pub const GRANDCHILD: TimelineId = TimelineId([3; 16]);

/// A branch that moves along when [`TWIN`] is detached.
pub const SIBLING: TimelineId = TimelineId([4; 16]);
/// A branch that is detached.
pub const TWIN: TimelineId = TimelineId([5; 16]);

/// One thing in the history; each can be repeated after an interruption.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// WAL up to at least this many bytes behind the timeline's beginning.
    Write(TimelineId, u64),
    /// To disk.
    Flush(TimelineId),
    /// To the bucket.
    Checkpoint(TimelineId),
    /// Child, parent, bytes behind the parent's beginning.
    Branch(TimelineId, TimelineId, u64),
    /// A timeline without children.
    Delete(TimelineId),
    /// From its ancestor, which has at least this many bytes of WAL.
    Detach(TimelineId, u64),
    /// L0 layers and images, however few changes there are.
    Compact(TimelineId),
    /// Only the newest history is kept.
    Gc(TimelineId),
    /// Seconds for the background work.
    Wait(u64),
    /// What is in the bucket leaves local disk.
    Evict(TimelineId),
    /// Every key at both ends of the readable history.
    Look(TimelineId),
}

/// The history.
pub const HISTORY: &[Action] = &[
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
    Action::Branch(SIBLING, ROOT, 1704),
    Action::Branch(TWIN, ROOT, 1904),
    Action::Gc(ROOT),
    Action::Gc(CHILD),
    Action::Write(SIBLING, 100),
    Action::Write(TWIN, 100),
    Action::Write(ROOT, 2100),
    Action::Detach(TWIN, 1904),
    Action::Write(SIBLING, 200),
    Action::Compact(TWIN),
    Action::Gc(TWIN),
    Action::Gc(ROOT),
    Action::Checkpoint(TWIN),
    Action::Checkpoint(ROOT),
    Action::Evict(ROOT),
    Action::Look(ROOT),
    Action::Wait(3),
];

/// Runs a history on the calling thread, in a world where nothing goes wrong by itself.
///
/// # Errors
/// What was wrong, and the last events.
pub fn simulate<T>(
    seed: u64,
    history: impl AsyncFnOnce(&mut Run) -> Option<T>,
) -> Result<T, Wrong> {
    panics::watch();
    let trace = Trace::new(false);
    let settings = Settings {
        memory_budget: 64 << 20,
        tenants: Map::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let result = match runtime {
        Err(e) => Err(format!("no runtime: {e}")),
        Ok(runtime) => runtime.block_on(async {
            let world = Arc::new(World::new(seed, trace.clone(), settings));
            let mut run = Run::new(&world, Random::new(seed, "run"));
            let ended = history(&mut run).await;
            world.has_failed();
            match (world.failure(), ended) {
                (Some(why), _) => Err(why),
                (None, None) => Err("given up without a reason".into()),
                (None, Some(ended)) => Ok(ended),
            }
        }),
    };
    let result = match panics::taken() {
        Some(panic) => Err(format!("panic: {panic}")),
        None => result,
    };
    result.map_err(|why| (why, trace.tail()))
}

/// The first node, with the imported timeline.
pub(crate) async fn begin(run: &mut Run) -> Option<Arc<Node>> {
    let node = run.start(&Found::Nothing);
    let tenant = node.engine.create_tenant(TENANT, Map::new(), None).await;
    let tenant = run.expect("creating the tenant", tenant)?;
    let imported = crate::run::import(&tenant, ROOT).await;
    run.expect("importing", imported)?;
    run.world.oracle.lock().import(TENANT, ROOT);
    Some(node)
}

/// Does one thing.
///
/// # Errors
/// Those of the engine; it can be done again.
pub async fn act(
    world: &World,
    node: &Node,
    action: Action,
    wal: &mut Random,
) -> Result<(), Error> {
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
            let known = world.oracle.lock().branches.get(&id).map(|b| b.life);
            if known.is_none_or(|life| life == Life::Deleted) {
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
        Action::Detach(id, bytes) => {
            let branch = tenant.timeline(id)?;
            let root = tenant.timeline(ROOT)?;
            refeed(&user, &root, oracle::START.saturating_add(bytes), wal).await?;
            user.detach_from(&branch, Levels::OneAndReparent).await
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
        Action::Evict(id) => tenant.timeline(id)?.evict_all().await.map(|_| ()),
        Action::Look(id) => {
            let timeline = tenant.timeline(id)?;
            let oldest = timeline.gc_cutoff().max(oracle::START);
            for lsn in [oldest, timeline.last_record_lsn()] {
                for key in oracle::keys() {
                    user.check(&timeline, key, lsn).await?;
                }
            }
            Ok(())
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
    timeline.left_ancestor_at().unwrap_or(oracle::START)
}
