//! What keeps history readable: the cutoff, readers under way, leases and branch points.
//!
//! The cutoff and everything that holds it back are decided under one lock: whoever was told that
//! an LSN is readable keeps it readable until they let go of it. Leases end by the clock that nobody
//! sets: one does not end early because the time of day was put forward.

use super::{Timeline, Watermark};
use crate::engine::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use types::{Lsn, TimelineId};

/// Most leases of one timeline, against memory without a limit.
pub const MAX_LEASES: usize = 100_000;
/// A read replica that is this many bytes behind the cutoff, or more, does not hold it back.
pub const MAX_STANDBY_LAG: u64 = 10 << 30;

#[derive(Debug, Default)]
struct Holders {
    /// Readers under way, by LSN.
    pins: BTreeMap<Lsn, usize>,
    /// When the lease of an LSN ends, by the monotonic clock.
    leases: BTreeMap<Lsn, Duration>,
    /// Branch points of children.
    branches: BTreeMap<TimelineId, Lsn>,
    /// Lowest LSN that a read replica reported since the last collection.
    standby: Option<Lsn>,
}

/// The cutoff of a timeline and what holds it back.
#[derive(Debug)]
pub struct Retention {
    cutoff: Watermark,
    holders: Mutex<Holders>,
}

/// A reader's hold on an LSN; dropped, it ends.
#[derive(Debug)]
pub struct Pin {
    retention: Arc<Retention>,
    lsn: Lsn,
}

impl Pin {
    /// The LSN that stays readable.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut holders = self.retention.holders.lock();
        if let Some(n) = holders.pins.get_mut(&self.lsn) {
            *n -= 1;
            if *n == 0 {
                holders.pins.remove(&self.lsn);
            }
        }
    }
}

/// LSNs below the cutoff that must stay readable, ascending, by what holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Branch points of children.
    pub branches: Vec<Lsn>,
    /// Leases that have not ended.
    pub leases: Vec<Lsn>,
}

impl Held {
    /// The lowest held LSN at or above `lsn`.
    pub fn lowest_from(&self, lsn: Lsn) -> Option<Lsn> {
        let first = |points: &[Lsn]| points.get(points.partition_point(|p| *p < lsn)).copied();
        match (first(&self.branches), first(&self.leases)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl Retention {
    /// Nothing held; readable from `cutoff` on.
    pub fn new(cutoff: Lsn) -> Self {
        Retention {
            cutoff: Watermark::new(cutoff),
            holders: Mutex::default(),
        }
    }

    /// Reads below are refused, unless leased.
    pub fn cutoff(&self) -> Lsn {
        self.cutoff.get()
    }

    /// Keeps `lsn` readable until the pin is dropped; `now` is by the monotonic clock, here and below.
    ///
    /// # Errors
    /// [`Error::BelowCutoff`] if it is not readable any more.
    pub fn pin(self: &Arc<Self>, lsn: Lsn, now: Duration) -> Result<Pin> {
        let mut holders = self.holders.lock();
        let cutoff = self.cutoff.get();
        if lsn < cutoff && holders.leases.get(&lsn).is_none_or(|until| *until < now) {
            return Err(Error::BelowCutoff {
                requested: lsn,
                cutoff,
            });
        }
        *holders.pins.entry(lsn).or_default() += 1;
        Ok(Pin {
            retention: Arc::clone(self),
            lsn,
        })
    }

    /// Keeps `lsn` readable until `until`, or as long as an earlier lease of it said, whichever is
    /// later. Returns when the lease ends.
    ///
    /// # Errors
    /// [`Error::BelowCutoff`]; [`Error::Busy`] if there are too many leases.
    pub fn lease(&self, lsn: Lsn, now: Duration, until: Duration) -> Result<Duration> {
        let mut holders = self.holders.lock();
        holders.leases.retain(|_, end| *end >= now);
        let cutoff = self.cutoff.get();
        if !holders.leases.contains_key(&lsn) {
            if lsn < cutoff {
                return Err(Error::BelowCutoff {
                    requested: lsn,
                    cutoff,
                });
            }
            if holders.leases.len() >= MAX_LEASES {
                return Err(Error::Busy(format!(
                    "the timeline has {MAX_LEASES} leases already"
                )));
            }
        }
        let end = holders.leases.entry(lsn).or_insert(until);
        *end = (*end).max(until);
        Ok(*end)
    }

    /// Registers a child at its branch point, before anybody relies on it.
    ///
    /// # Errors
    /// [`Error::BelowCutoff`] if the history there is not kept.
    pub fn add_branch(&self, child: TimelineId, at: Lsn, now: Duration) -> Result<()> {
        let mut holders = self.holders.lock();
        let cutoff = self.cutoff.get();
        if at < cutoff && holders.leases.get(&at).is_none_or(|until| *until < now) {
            return Err(Error::BelowCutoff {
                requested: at,
                cutoff,
            });
        }
        holders.branches.insert(child, at);
        Ok(())
    }

    /// Registers a child that the bucket knows, whatever the cutoff is.
    pub fn restore_branch(&self, child: TimelineId, at: Lsn) {
        self.holders.lock().branches.insert(child, at);
    }

    /// Forgets a child that is deleted or was never made.
    pub fn remove_branch(&self, child: TimelineId) {
        self.holders.lock().branches.remove(&child);
    }

    /// Notes where a read replica is. It holds back the next collection only: one that is still there
    /// reports again.
    pub fn note_standby(&self, lsn: Lsn) {
        let mut holders = self.holders.lock();
        holders.standby = Some(holders.standby.map_or(lsn, |other| other.min(lsn)));
    }

    /// Lowest LSN that a read replica reported since the last collection.
    pub fn standby(&self) -> Option<Lsn> {
        self.holders.lock().standby
    }

    /// A cutoff for a collection that begins now, held back for read replicas that are not too far
    /// behind. What they reported is forgotten.
    pub fn spare_standbys(&self, target: Lsn) -> Lsn {
        let standby = self.holders.lock().standby.take();
        let near = |lsn: &Lsn| target.0.saturating_sub(lsn.0) < MAX_STANDBY_LAG;
        standby.filter(near).map_or(target, |lsn| target.min(lsn))
    }

    /// Raises the cutoff towards `target`, not beyond any reader under way. Returns the cutoff
    /// that holds from now on, and what is held below it.
    pub fn advance(&self, target: Lsn, now: Duration) -> (Lsn, Held) {
        let mut holders = self.holders.lock();
        holders.leases.retain(|_, end| *end >= now);
        let oldest = holders.pins.first_key_value().map(|(lsn, _)| *lsn);
        self.cutoff
            .raise(oldest.map_or(target, |lsn| target.min(lsn)));
        let cutoff = self.cutoff.get();
        let mut held = Held {
            branches: holders.branches.values().copied().collect(),
            // A lease that a reader holds on to counts as long as the reader does.
            leases: holders
                .leases
                .keys()
                .chain(holders.pins.keys())
                .copied()
                .filter(|l| *l < cutoff)
                .collect(),
        };
        held.branches.retain(|l| *l < cutoff);
        held.branches.sort_unstable();
        held.leases.sort_unstable();
        (cutoff, held)
    }

    /// A timeline that has taken over its ancestor's history up to the branch point `at` is readable
    /// from `from` on, unless it has collected beyond `at` itself.
    pub fn reopen(&self, at: Lsn, from: Lsn) {
        let _holders = self.holders.lock();
        if self.cutoff.get() <= at {
            self.cutoff.reset(from.min(at));
        }
    }

    /// Leases that have not ended: (LSN, when it does).
    pub fn leases(&self, now: Duration) -> Vec<(Lsn, Duration)> {
        let holders = self.holders.lock();
        let valid = holders.leases.iter().filter(|(_, end)| **end >= now);
        valid.map(|(lsn, end)| (*lsn, *end)).collect()
    }

    /// The cutoff, and the children whose branch points lie below it, at one moment: what an index
    /// says whose layers end at `end`. If the cutoff lies beyond that, the layers are of before it was
    /// raised and hold what is readable at their end, which is then all that a successor has.
    pub fn below_cutoff(&self, end: Lsn) -> (Lsn, BTreeMap<TimelineId, Lsn>) {
        let holders = self.holders.lock();
        let cutoff = self.cutoff.get().min(end);
        let branches = holders.branches.iter().filter(|(_, at)| **at < cutoff);
        (cutoff, branches.map(|(id, at)| (*id, *at)).collect())
    }

    /// Branch points of children, by child.
    pub fn branches(&self) -> Vec<(TimelineId, Lsn)> {
        let holders = self.holders.lock();
        holders.branches.iter().map(|(id, at)| (*id, *at)).collect()
    }
}

impl Timeline {
    /// Reads below are refused, unless leased.
    pub fn gc_cutoff(&self) -> Lsn {
        self.retention.cutoff()
    }

    /// What keeps this timeline's history readable.
    pub fn retention(&self) -> &Arc<Retention> {
        &self.retention
    }

    /// Keeps `lsn` readable until the pin is dropped.
    ///
    /// # Errors
    /// [`Error::BelowCutoff`].
    pub fn pin(&self, lsn: Lsn) -> Result<Pin> {
        self.retention.pin(lsn, self.shared.env.clock.monotonic())
    }

    /// As [`Timeline::pin`], for an LSN that was ingested already.
    ///
    /// # Errors
    /// [`Error::BelowCutoff`]; [`Error::BadRequest`] for an LSN in the future.
    pub fn pin_readable(&self, lsn: Lsn) -> Result<Pin> {
        let last = self.last_record_lsn();
        if lsn > last {
            return Err(Error::BadRequest(format!(
                "LSN {lsn} is in the future: timeline {}/{} ends at {last}",
                self.tenant, self.id
            )));
        }
        self.pin(lsn)
    }

    /// A read replica of this timeline has replayed up to `lsn`: the next collection spares it.
    pub fn note_standby(&self, lsn: Lsn) {
        if lsn.is_valid() {
            self.retention.note_standby(lsn);
            let lowest = self.retention.standby().unwrap_or(lsn);
            let metrics = &self.shared.metrics;
            metrics.set_standby_horizon(self.tenant, self.id, Some(lowest));
        }
    }

    /// Keeps `lsn` readable for `length` from now. Returns the time of day of the lease's end.
    ///
    /// # Errors
    /// As [`Timeline::pin_readable`]; [`Error::Busy`] if there are too many leases.
    pub fn lease(&self, lsn: Lsn, length: Duration) -> Result<Duration> {
        let _readable = self.pin_readable(lsn)?;
        let clock = &self.shared.env.clock;
        let now = clock.monotonic();
        let end = self.retention.lease(lsn, now, now.saturating_add(length))?;
        Ok(clock.wall().saturating_add(end.saturating_sub(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn retention() -> Arc<Retention> {
        Arc::new(Retention::new(Lsn(80)))
    }

    #[test]
    fn a_reader_under_way_holds_the_cutoff_back() {
        let r = retention();
        let pin = r.pin(Lsn(88), NOW).unwrap();
        assert_eq!(r.advance(Lsn(160), NOW).0, Lsn(88));
        drop(pin);
        assert_eq!(r.advance(Lsn(160), NOW).0, Lsn(160));
        assert!(matches!(
            r.pin(Lsn(152), NOW),
            Err(Error::BelowCutoff { cutoff, .. }) if cutoff == Lsn(160)
        ));
    }

    #[test]
    fn a_leased_lsn_is_readable_below_the_cutoff_until_the_lease_ends() {
        let r = retention();
        let until = NOW + Duration::from_secs(10);
        assert_eq!(r.lease(Lsn(88), NOW, until).unwrap(), until);
        // A shorter renewal takes nothing away.
        assert_eq!(r.lease(Lsn(88), NOW, NOW).unwrap(), until);
        let (cutoff, held) = r.advance(Lsn(160), NOW);
        assert_eq!((cutoff, held.leases.as_slice()), (Lsn(160), &[Lsn(88)][..]));
        let pin = r.pin(Lsn(88), NOW).unwrap();
        assert!(r.pin(Lsn(96), NOW).is_err());
        let later = until + Duration::from_secs(1);
        // The lease is over, but its reader is not.
        assert_eq!(r.advance(Lsn(160), later).1.leases, [Lsn(88)]);
        drop(pin);
        assert!(r.advance(Lsn(160), later).1.leases.is_empty());
        assert!(r.pin(Lsn(88), later).is_err());
        assert!(r.lease(Lsn(88), later, later).is_err());
    }

    #[test]
    fn a_read_replica_holds_one_collection_back_unless_it_is_far_behind() {
        let r = retention();
        let far = Lsn(MAX_STANDBY_LAG + 800);
        assert_eq!(r.spare_standbys(far), far);
        r.note_standby(far.saturating_sub(80));
        r.note_standby(far.saturating_sub(160));
        r.note_standby(far);
        assert_eq!(r.standby(), Some(far.saturating_sub(160)));
        assert_eq!(r.spare_standbys(far), far.saturating_sub(160));
        assert_eq!((r.standby(), r.spare_standbys(far)), (None, far));
        for (standby, cutoff) in [
            // Ahead of the cutoff.
            (far.saturating_add(8), far),
            // Just near enough, and just not.
            (Lsn(801), Lsn(801)),
            (Lsn(800), far),
        ] {
            r.note_standby(standby);
            assert_eq!(r.spare_standbys(far), cutoff, "{standby}");
        }
    }

    #[test]
    fn branch_points_are_held_until_the_child_is_gone() {
        let r = retention();
        let (a, b) = (TimelineId([1; 16]), TimelineId([2; 16]));
        assert!(r.add_branch(a, Lsn(72), NOW).is_err());
        r.add_branch(a, Lsn(88), NOW).unwrap();
        r.restore_branch(b, Lsn(72));
        let (_, held) = r.advance(Lsn(160), NOW);
        assert_eq!(held.branches, [Lsn(72), Lsn(88)]);
        assert_eq!(held.lowest_from(Lsn(80)), Some(Lsn(88)));
        assert_eq!(held.lowest_from(Lsn(89)), None);
        let below = [(a, Lsn(88)), (b, Lsn(72))].into();
        assert_eq!(r.below_cutoff(Lsn(200)), (Lsn(160), below));
        let below = [(b, Lsn(72))].into();
        assert_eq!(r.below_cutoff(Lsn(80)), (Lsn(80), below));
        r.remove_branch(a);
        assert_eq!(r.advance(Lsn(160), NOW).1.branches, [Lsn(72)]);
    }
}
