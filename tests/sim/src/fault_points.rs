//! The fixed history, with each of its operations on disk and bucket failing in turn.
//!
//! One pass for each kind of fault counts the operations it could hit. Then, for every one of them,
//! the history runs with this one failing. What was being done is done again, and succeeds; the end
//! finds everything that was ever reported as durable, no wrong value, and nothing left over, on disk
//! not even before a restart, unless it was the removal of a file that failed.

use crate::check;
use crate::history::{self, Action, CHILD, GRANDCHILD, HISTORY, ROOT, act, simulate};
use crate::node::{ENOUGH, Node};
use crate::plan::{FAULTS, Fault};
use crate::random::Random;
use crate::run::{Found, Run, Wrong};
use pageserver::engine::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Tries of one thing, the first included.
const TRIES: u32 = 3;

/// After the fixed history: what a node finds and fetches that has lost its disk.
const RESTARTED: &[Action] = &[
    Action::Look(ROOT),
    Action::Look(CHILD),
    Action::Branch(GRANDCHILD, CHILD, 600),
    Action::Write(ROOT, 2400),
    Action::Checkpoint(ROOT),
    Action::Compact(ROOT),
    Action::Gc(ROOT),
    Action::Delete(GRANDCHILD),
    Action::Checkpoint(ROOT),
    Action::Wait(3),
];

/// Operations that each kind of fault could hit.
///
/// # Errors
/// What was wrong without any fault.
pub fn count() -> Result<Vec<(Fault, u64)>, Wrong> {
    let counted = FAULTS.iter().map(|fault| {
        let (seen, _) = run(*fault, u64::MAX)?;
        Ok((*fault, seen))
    });
    counted.collect()
}

/// Runs the history with the `n`-th operation failing. Returns the number of operations that could
/// have, and the one that did.
///
/// # Errors
/// What was wrong, and the last events.
pub fn run(fault: Fault, n: u64) -> Result<(u64, Option<String>), Wrong> {
    simulate(n, async |run| history(run, fault, n).await)
}

async fn history(run: &mut Run, fault: Fault, n: u64) -> Option<(u64, Option<String>)> {
    let node = history::begin(run).await?;
    node.faulty.store(true, Ordering::Relaxed);
    let plan = Arc::clone(&run.world.plan);
    plan.set(fault, n);
    let mut wal = Random::new(1, "wal");
    all(run, &node, HISTORY, &mut wal).await?;
    let node = restart(run, &node, true).await?;
    all(run, &node, RESTARTED, &mut wal).await?;
    let node = restart(run, &node, false).await?;
    let rest = [ROOT, CHILD].map(Action::Look);
    all(run, &node, &rest, &mut wal).await?;
    let result = (plan.seen(), plan.hit());
    node.faulty.store(false, Ordering::Relaxed);

    let rest = [ROOT, CHILD].map(Action::Checkpoint);
    all(run, &node, &rest, &mut wal).await?;
    run.idle(&node).await;
    let removal = result.1.as_ref().is_some_and(|op| op.starts_with("remove"));
    if !removal {
        check::no_strange_files(&run.world, &node);
    }
    run.finish(node).await?;
    Some(result)
}

/// Does one thing after the other, each until it succeeds.
async fn all(run: &mut Run, node: &Node, actions: &[Action], wal: &mut Random) -> Option<()> {
    for action in actions {
        let mut tried = 0;
        loop {
            let done = act(&run.world, node, *action, wal).await;
            run.world.observe(node);
            if run.world.has_failed() {
                return None;
            }
            let Err(e) = done else { break };
            tried += 1;
            if !explained(run, &e) || tried == TRIES {
                run.world.fail(format!("{action:?}, try {tried}: {e}"));
                return None;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Some(())
}

/// True for what an operation that failed may look like.
fn explained(run: &Run, e: &Error) -> bool {
    let io = matches!(e, Error::Disk(_) | Error::Bucket(_));
    run.world.plan.hit().is_some() && (io || e.kind() == ErrorKind::Full)
}

/// An orderly restart, perhaps on another machine, until everything is loaded.
async fn restart(run: &mut Run, old: &Node, lose_disk: bool) -> Option<Arc<Node>> {
    old.shut_down().await;
    old.ended().await;
    run.world.observe(old);
    let mut found = match lose_disk {
        true => Found::Nothing,
        false => Found::AfterRestart(old.disk.clone()),
    };
    for _ in 0..TRIES {
        let node = run.start(&found);
        node.faulty.store(true, Ordering::Relaxed);
        if run.load(&node, ENOUGH).await && check::loaded(&run.world, &node, false) {
            return Some(node);
        }
        run.lose_power(&node).await;
        found = Found::AfterCrash(node.disk.clone());
    }
    run.world
        .fail("not loaded although the fault is over".into());
    None
}
