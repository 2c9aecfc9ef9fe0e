//! One planned fault: the n-th change of a disk fails, or the n-th request to the bucket.

use parking_lot::Mutex;

/// What fails, and how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A change of the disk, for lack of space; of a write a part is done.
    NoSpace,
    /// A change of the disk, without effect.
    DiskError,
    /// Reading from the disk.
    ReadError,
    /// A request to the bucket is lost.
    LostRequest,
    /// A put or delete takes effect, its reply is lost.
    LostReply,
}

/// Every kind of fault.
pub const FAULTS: [Fault; 5] = [
    Fault::NoSpace,
    Fault::DiskError,
    Fault::ReadError,
    Fault::LostRequest,
    Fault::LostReply,
];

#[derive(Debug, Default)]
struct State {
    planned: Option<(Fault, u64)>,
    /// Operations so far that the fault could have hit.
    seen: u64,
    hit: Option<String>,
}

/// At most one fault, on whatever machine it falls.
#[derive(Debug, Default)]
pub struct Plan(Mutex<State>);

impl Plan {
    /// Plans a fault, counted from now and from 0. With `u64::MAX`, operations are counted only.
    pub fn set(&self, fault: Fault, n: u64) {
        *self.0.lock() = State {
            planned: Some((fault, n)),
            ..State::default()
        };
    }

    /// Counts an operation that each of `faults` could hit. The fault to have, if it is the one.
    pub fn step(&self, faults: &[Fault], what: impl FnOnce() -> String) -> Option<Fault> {
        let mut state = self.0.lock();
        let (fault, n) = state.planned.filter(|(f, _)| faults.contains(f))?;
        state.seen += 1;
        if state.seen != n.wrapping_add(1) {
            return None;
        }
        state.hit = Some(what());
        Some(fault)
    }

    /// Operations counted.
    pub fn seen(&self) -> u64 {
        self.0.lock().seen
    }

    /// The operation that was hit.
    pub fn hit(&self) -> Option<String> {
        self.0.lock().hit.clone()
    }
}
