//! A small fixed history, with the power cut at each of its I/O steps in turn.
//!
//! One pass without a cut counts the steps. Then, for every step, the power is cut once before its
//! effect and once after it with the reply lost, and the next node starts on what the crash left of
//! the disk or on an empty one. It must have everything that was reported as durable, repeats what
//! was interrupted, and goes on to the end, where everything is looked at and nothing may be left
//! over.

use crate::history::{self, HISTORY, act, simulate};
use crate::power::Edge;
use crate::random::Random;
use crate::run::{Found, Run, Wrong};

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

/// Every cut of a history with so many I/O steps.
pub fn cuts(steps: u64) -> Vec<Cut> {
    let cut = |step, edge| Cut {
        step,
        edge,
        // Every other disk is lost: each edge meets both within two steps.
        lose_disk: step % 2 == u64::from(edge == Edge::After),
    };
    let both = |step| [cut(step, Edge::Before), cut(step, Edge::After)];
    (0..steps).flat_map(both).collect()
}

/// Runs the history with a cut, or without. Returns the number of I/O steps of the last node, of the
/// only one behind the import.
///
/// # Errors
/// What was wrong, and the last events.
pub fn run(cut: Option<Cut>) -> Result<u64, Wrong> {
    let seed = cut.map_or(0, |c| c.step);
    simulate(seed, async |run| history(run, cut).await)
}

async fn history(run: &mut Run, cut: Option<Cut>) -> Option<u64> {
    let mut node = history::begin(run).await?;
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
