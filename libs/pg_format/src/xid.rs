//! Transaction ids: 32-bit circular numbers and their 64-bit form with an epoch.

use std::fmt;

/// A 32-bit transaction or multixact id, compared on a circle.
pub type Xid = u32;

/// The first id an ordinary transaction can have; 0 to 2 are reserved.
pub const FIRST_NORMAL_XID: Xid = 3;

/// True if `a` is older than `b`, both as transaction ids. Reserved ids (below
/// [`FIRST_NORMAL_XID`]) are older than every ordinary one and compare as plain numbers.
pub const fn xid_precedes(a: Xid, b: Xid) -> bool {
    if a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID {
        a < b
    } else {
        circular_precedes(a, b)
    }
}

/// True if `a` lies in the half circle before `b`; the order of multixact ids and member offsets.
pub const fn circular_precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A transaction id that does not wrap: epoch in the high half, [`Xid`] in the low half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FullXid(pub u64);

impl FullXid {
    /// Puts the halves together.
    pub const fn new(epoch: u32, xid: Xid) -> FullXid {
        FullXid(((epoch as u64) << 32) | xid as u64)
    }

    /// The low half.
    pub const fn xid(self) -> Xid {
        self.0 as u32
    }

    /// The high half: how often the low half has wrapped.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The full form of `xid`, given that it was assigned before `self`, the next id to be
    /// assigned: an id numerically above the low half of `self` belongs to the previous epoch.
    /// Reserved ids have epoch 0. `None` if the id would belong to an epoch before the first.
    pub const fn widen(self, xid: Xid) -> Option<FullXid> {
        if xid < FIRST_NORMAL_XID {
            return Some(FullXid(xid as u64));
        }
        if xid <= self.xid() {
            return Some(FullXid::new(self.epoch(), xid));
        }
        match self.epoch().checked_sub(1) {
            Some(epoch) => Some(FullXid::new(epoch, xid)),
            None => None,
        }
    }

    /// `self` moved forward to low half `xid` if that is ahead on the circle, counting a wrap
    /// into the epoch; otherwise `self`. Low halves below [`FIRST_NORMAL_XID`] become it.
    pub const fn advanced_to(self, xid: Xid) -> FullXid {
        let xid = if xid < FIRST_NORMAL_XID {
            FIRST_NORMAL_XID
        } else {
            xid
        };
        if !circular_precedes(self.xid(), xid) {
            return self;
        }
        let epoch = if xid < self.xid() {
            self.epoch().wrapping_add(1)
        } else {
            self.epoch()
        };
        FullXid::new(epoch, xid)
    }
}

impl fmt::Display for FullXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch(), self.xid())
    }
}

impl fmt::Debug for FullXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_is_circular_except_for_reserved_ids() {
        assert!(xid_precedes(100, 200));
        assert!(xid_precedes(0xFFFF_FFF0, 10));
        assert!(!xid_precedes(10, 0xFFFF_FFF0));
        assert!(xid_precedes(2, 0xFFFF_FFF0));
        assert!(!xid_precedes(0xFFFF_FFF0, 2));
        assert!(!xid_precedes(5, 5));
        assert!(circular_precedes(0xFFFF_FFFF, 0));
    }

    #[test]
    fn ids_above_the_next_one_belong_to_the_epoch_before() {
        let next = FullXid::new(7, 1000);
        assert_eq!(next.widen(999), Some(FullXid::new(7, 999)));
        assert_eq!(next.widen(0xFFFF_FF00), Some(FullXid::new(6, 0xFFFF_FF00)));
        assert_eq!(next.widen(2), Some(FullXid(2)));
        assert_eq!(FullXid::new(0, 1000).widen(1001), None);
    }

    #[test]
    fn advancing_counts_wraps_and_skips_reserved_ids() {
        let old = FullXid::new(3, 0xFFFF_FE00);
        assert_eq!(old.advanced_to(0), FullXid::new(4, 3));
        assert_eq!(old.advanced_to(0xFFFF_FF00), FullXid::new(3, 0xFFFF_FF00));
        assert_eq!(old.advanced_to(0xFFFF_FD00), old);
    }

    proptest! {
        #[test]
        fn recent_ids_widen_to_themselves(next in 1u64 << 33..1 << 60, back in 0u64..1 << 31) {
            let id = FullXid(next - back);
            prop_assume!(id.xid() >= FIRST_NORMAL_XID);
            prop_assert_eq!(FullXid(next).widen(id.xid()), Some(id));
        }

        #[test]
        fn advancing_is_monotonic_and_reaches_the_target(
            from in 3u64..1 << 40, step in 1u64..1 << 31,
        ) {
            let target = FullXid(from + step);
            prop_assume!(target.xid() >= FIRST_NORMAL_XID);
            prop_assert_eq!(FullXid(from).advanced_to(target.xid()), target);
            prop_assert_eq!(target.advanced_to(from as u32), target);
        }
    }
}
