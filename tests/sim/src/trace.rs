//! Everything that happens in a run, as a running hash and the last lines in clear.
//!
//! Two runs of one seed must end with the same hash: the self-test of determinism.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines kept for the report of a failure.
const KEPT: usize = 60;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

#[derive(Debug)]
struct Inner {
    hash: u64,
    events: u64,
    last: VecDeque<String>,
    /// Prints every line as it comes.
    loud: bool,
}

/// The events of a run; clones are the same trace.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<Inner>>, Arc<Counters>);

/// What was injected and done, for the figures.
#[derive(Debug, Default)]
pub struct Counters {
    /// Faults of disk and bucket.
    pub faults: AtomicU64,
    /// Operations of disks and buckets.
    pub io: AtomicU64,
}

impl Trace {
    /// An empty trace.
    pub fn new(loud: bool) -> Trace {
        let inner = Inner {
            hash: 0xCBF2_9CE4_8422_2325,
            events: 0,
            last: VecDeque::new(),
            loud,
        };
        Trace(Arc::new(Mutex::new(inner)), Arc::default())
    }

    /// Adds a line.
    pub fn event(&self, line: String) {
        let mut inner = self.0.lock();
        for b in line.bytes().chain(*b"\n") {
            inner.hash = (inner.hash ^ u64::from(b)).wrapping_mul(FNV_PRIME);
        }
        inner.events += 1;
        if inner.loud {
            eprintln!("{line}");
        }
        if inner.last.len() == KEPT {
            inner.last.pop_front();
        }
        inner.last.push_back(line);
    }

    /// Counts an operation of a disk or bucket.
    pub fn io(&self) {
        self.1.io.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an injected fault.
    pub fn fault(&self) {
        self.1.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.1
    }

    /// Hash of all lines so far, and their number.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.hash, inner.events)
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        self.0.lock().last.iter().cloned().collect()
    }
}
