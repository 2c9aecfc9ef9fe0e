//! Virtual time and seeded randomness for one machine.

use crate::random::Random;
use pageserver::engine::env::{Clock, Entropy};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// 2026-01-01, where every run starts.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// The runtime's paused clock; the time of day can be made to jump.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    jumped_ms: AtomicI64,
}

impl SimClock {
    /// A clock that runs from `start`, the beginning of the run.
    pub fn new(start: Instant) -> SimClock {
        SimClock {
            start,
            jumped_ms: AtomicI64::new(0),
        }
    }

    /// Moves the time of day.
    pub fn jump(&self, ms: i64) {
        self.jumped_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> Duration {
        let now = EPOCH + self.start.elapsed();
        let jumped = self.jumped_ms.load(Ordering::Relaxed);
        let by = Duration::from_millis(jumped.unsigned_abs());
        if jumped < 0 {
            now.saturating_sub(by)
        } else {
            now + by
        }
    }
}

/// Randomness from the run's seed.
#[derive(Debug)]
pub struct SimEntropy(Mutex<Random>);

impl SimEntropy {
    /// Takes over a sequence.
    pub fn new(random: Random) -> SimEntropy {
        SimEntropy(Mutex::new(random))
    }
}

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().bits()
    }
}
