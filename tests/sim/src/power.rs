//! The power of a simulated machine: every effect on disk or bucket asks here first.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Which side of an operation's effect a cut falls on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// The operation has no effect.
    Before,
    /// The operation has its effect; whoever asked never hears of it.
    After,
}

/// What an operation may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Go on.
    Go,
    /// Have the effect, then call [`Power::cut`].
    Last,
    /// Nothing: the machine is dead.
    Dead,
}

/// A machine's power and its count of I/O steps.
#[derive(Debug, Default)]
pub struct Power {
    dead: AtomicBool,
    steps: AtomicU64,
    plan: Mutex<Option<(u64, Edge)>>,
    died: Notify,
}

impl Power {
    /// Cuts the power at the given I/O step, counted from 0 over the machine's life.
    pub fn plan(&self, step: u64, edge: Edge) {
        *self.plan.lock() = Some((step, edge));
    }

    /// Takes a planned cut back.
    pub fn keep_on(&self) {
        *self.plan.lock() = None;
    }

    /// I/O steps so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Counts one I/O step with an effect and says what it may do.
    pub fn step(&self) -> Step {
        if self.is_dead() {
            return Step::Dead;
        }
        let n = self.steps.fetch_add(1, Ordering::Relaxed);
        match *self.plan.lock() {
            Some((at, Edge::Before)) if n >= at => {}
            Some((at, Edge::After)) if n >= at => return Step::Last,
            _ => return Step::Go,
        }
        self.cut();
        Step::Dead
    }

    /// Cuts the power.
    pub fn cut(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_waiters();
    }

    /// True once the power is cut.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Returns when the power is cut.
    pub async fn died(&self) {
        loop {
            let mut notified = std::pin::pin!(self.died.notified());
            notified.as_mut().enable();
            if self.is_dead() {
                return;
            }
            notified.await;
        }
    }
}
