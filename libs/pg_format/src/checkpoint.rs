//! The `CheckPoint` structure: counters a server starts from.
//!
//! 88 bytes in all supported majors (`catalog/pg_control.h`, `docs/format/pgdata.md`). It is the
//! payload of both checkpoint records, a part of `pg_control`, and the value kept under the
//! checkpoint key. Padding is written as zeros.

use crate::le::{get, put};
use crate::xid::{FIRST_NORMAL_XID, FullXid, Xid, circular_precedes, xid_precedes};
use types::{Lsn, Oid, PgMajor};

/// Size of the encoded structure in bytes.
pub const CHECKPOINT_SIZE: usize = 88;
/// Step by which [`CheckPoint::note_xid`] moves `next_xid`. Divides the ids of a clog page.
pub const XID_STEP: u32 = 1024;

/// The bytes are not a `CheckPoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CheckPoint of {0} bytes, expected {CHECKPOINT_SIZE}")]
pub struct WrongSize(pub usize);

/// Counters of a cluster at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckPoint {
    /// Where replay starts. In a stored value: end of a shutdown checkpoint record, or 0.
    pub redo: Lsn,
    /// Postgres timeline id.
    pub this_tli: u32,
    /// Timeline id before the last switch; equal to `this_tli` if there was none.
    pub prev_tli: u32,
    /// `full_page_writes` setting.
    pub full_page_writes: bool,
    /// `wal_level` setting; present from 17 on.
    pub wal_level: Option<i32>,
    /// Next transaction id to assign.
    pub next_xid: FullXid,
    /// Next object id to assign.
    pub next_oid: Oid,
    /// Next multixact id to assign; may be 0 after a wrap.
    pub next_multi: u32,
    /// Next multixact member offset to assign.
    pub next_multi_offset: u32,
    /// Oldest id that may still appear unfrozen.
    pub oldest_xid: Xid,
    /// Database that holds `oldest_xid`.
    pub oldest_xid_db: Oid,
    /// Oldest multixact that may still appear.
    pub oldest_multi: u32,
    /// Database that holds `oldest_multi`.
    pub oldest_multi_db: Oid,
    /// Time of the checkpoint, seconds since 1970.
    pub time: i64,
    /// Oldest id with a commit timestamp, or 0.
    pub oldest_commit_ts_xid: Xid,
    /// Newest id with a commit timestamp, or 0.
    pub newest_commit_ts_xid: Xid,
    /// Oldest running transaction, or 0.
    pub oldest_active_xid: Xid,
}

impl CheckPoint {
    /// Reads the structure as `major` lays it out. Fails unless there are exactly 88 bytes.
    pub fn parse(bytes: &[u8], major: PgMajor) -> Result<CheckPoint, WrongSize> {
        let b: &[u8; CHECKPOINT_SIZE] = bytes.try_into().map_err(|_| WrongSize(bytes.len()))?;
        Ok(CheckPoint {
            redo: Lsn(u64::from_le_bytes(get::<0, 8, _>(b))),
            this_tli: u32::from_le_bytes(get::<8, 4, _>(b)),
            prev_tli: u32::from_le_bytes(get::<12, 4, _>(b)),
            full_page_writes: get::<16, 1, _>(b) != [0],
            wal_level: (major >= PgMajor::V17).then(|| i32::from_le_bytes(get::<20, 4, _>(b))),
            next_xid: FullXid(u64::from_le_bytes(get::<24, 8, _>(b))),
            next_oid: u32::from_le_bytes(get::<32, 4, _>(b)),
            next_multi: u32::from_le_bytes(get::<36, 4, _>(b)),
            next_multi_offset: u32::from_le_bytes(get::<40, 4, _>(b)),
            oldest_xid: u32::from_le_bytes(get::<44, 4, _>(b)),
            oldest_xid_db: u32::from_le_bytes(get::<48, 4, _>(b)),
            oldest_multi: u32::from_le_bytes(get::<52, 4, _>(b)),
            oldest_multi_db: u32::from_le_bytes(get::<56, 4, _>(b)),
            time: i64::from_le_bytes(get::<64, 8, _>(b)),
            oldest_commit_ts_xid: u32::from_le_bytes(get::<72, 4, _>(b)),
            newest_commit_ts_xid: u32::from_le_bytes(get::<76, 4, _>(b)),
            oldest_active_xid: u32::from_le_bytes(get::<80, 4, _>(b)),
        })
    }

    /// The structure's bytes, padding zero. `wal_level` is written if it is set.
    pub fn encode(&self) -> [u8; CHECKPOINT_SIZE] {
        let mut b = [0; CHECKPOINT_SIZE];
        put::<0, 8, _>(&mut b, self.redo.0.to_le_bytes());
        put::<8, 4, _>(&mut b, self.this_tli.to_le_bytes());
        put::<12, 4, _>(&mut b, self.prev_tli.to_le_bytes());
        put::<16, 1, _>(&mut b, [u8::from(self.full_page_writes)]);
        put::<20, 4, _>(&mut b, self.wal_level.unwrap_or(0).to_le_bytes());
        put::<24, 8, _>(&mut b, self.next_xid.0.to_le_bytes());
        put::<32, 4, _>(&mut b, self.next_oid.to_le_bytes());
        put::<36, 4, _>(&mut b, self.next_multi.to_le_bytes());
        put::<40, 4, _>(&mut b, self.next_multi_offset.to_le_bytes());
        put::<44, 4, _>(&mut b, self.oldest_xid.to_le_bytes());
        put::<48, 4, _>(&mut b, self.oldest_xid_db.to_le_bytes());
        put::<52, 4, _>(&mut b, self.oldest_multi.to_le_bytes());
        put::<56, 4, _>(&mut b, self.oldest_multi_db.to_le_bytes());
        put::<64, 8, _>(&mut b, self.time.to_le_bytes());
        put::<72, 4, _>(&mut b, self.oldest_commit_ts_xid.to_le_bytes());
        put::<76, 4, _>(&mut b, self.newest_commit_ts_xid.to_le_bytes());
        put::<80, 4, _>(&mut b, self.oldest_active_xid.to_le_bytes());
        b
    }

    /// Records that `xid` has been assigned: moves `next_xid` past it, rounded up to a multiple
    /// of [`XID_STEP`] so that the structure changes at most once per that many transactions.
    /// True if anything changed.
    pub fn note_xid(&mut self, xid: Xid) -> bool {
        let next = xid.wrapping_add(1).max(FIRST_NORMAL_XID);
        let rounded = next.wrapping_add(XID_STEP - 1) & !(XID_STEP - 1);
        self.advance_next_xid(self.next_xid.advanced_to(rounded))
    }

    /// Raises `next_xid` to `next`. True if it was behind.
    pub fn advance_next_xid(&mut self, next: FullXid) -> bool {
        let behind = self.next_xid < next;
        if behind {
            self.next_xid = next;
        }
        behind
    }

    /// Records that multixact `multi` was created with `members` members from `offset` on.
    /// True if anything changed.
    pub fn note_multixact(&mut self, multi: u32, offset: u32, members: u32) -> bool {
        self.advance_multi(multi.wrapping_add(1), offset.wrapping_add(members))
    }

    /// Moves both multixact counters forward, each only if it is behind on its circle.
    /// True if anything changed.
    pub fn advance_multi(&mut self, next_multi: u32, next_offset: u32) -> bool {
        let mut changed = false;
        for (mine, theirs) in [
            (&mut self.next_multi, next_multi),
            (&mut self.next_multi_offset, next_offset),
        ] {
            if circular_precedes(*mine, theirs) {
                *mine = theirs;
                changed = true;
            }
        }
        changed
    }

    /// Moves `oldest_xid` and its database forward. True if `xid` is newer.
    pub fn advance_oldest_xid(&mut self, xid: Xid, db: Oid) -> bool {
        let newer = xid_precedes(self.oldest_xid, xid);
        if newer {
            self.oldest_xid = xid;
            self.oldest_xid_db = db;
        }
        newer
    }

    /// Moves `oldest_multi` and its database forward. True if `multi` is newer.
    pub fn advance_oldest_multi(&mut self, multi: u32, db: Oid) -> bool {
        let newer = circular_precedes(self.oldest_multi, multi);
        if newer {
            self.oldest_multi = multi;
            self.oldest_multi_db = db;
        }
        newer
    }

    /// The same counters for a server that starts at `redo` with no history of its own: no
    /// running transactions, no commit timestamps.
    pub fn for_fresh_start(&self, redo: Lsn, tli: u32) -> CheckPoint {
        CheckPoint {
            redo,
            this_tli: tli,
            prev_tli: tli,
            oldest_commit_ts_xid: 0,
            newest_commit_ts_xid: 0,
            oldest_active_xid: 0,
            ..self.clone()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_checkpoint(major: PgMajor) -> impl Strategy<Value = CheckPoint> {
        proptest::array::uniform32(any::<u8>()).prop_flat_map(move |a| {
            proptest::collection::vec(any::<u8>(), 56)
                .prop_map(move |b| CheckPoint::parse(&[&a[..], &b[..]].concat(), major).unwrap())
        })
    }

    proptest! {
        #[test]
        fn structure_round_trips(cp in any_checkpoint(PgMajor::V18), old in any_checkpoint(PgMajor::V14)) {
            prop_assert_eq!(CheckPoint::parse(&cp.encode(), PgMajor::V18).unwrap(), cp);
            prop_assert_eq!(old.wal_level, None);
            prop_assert_eq!(CheckPoint::parse(&old.encode(), PgMajor::V14).unwrap(), old);
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(CheckPoint::parse(&b, PgMajor::V17).is_ok(), b.len() == CHECKPOINT_SIZE);
        }

        #[test]
        fn noted_ids_end_up_behind_the_next_one(start in 3u64..1 << 40, ahead in 0u64..1 << 30) {
            let mut cp = CheckPoint { next_xid: FullXid(start), ..CheckPoint::default() };
            let xid = FullXid(start + ahead);
            prop_assume!(xid.xid() >= FIRST_NORMAL_XID);
            cp.note_xid(xid.xid());
            prop_assert!(cp.next_xid > xid);
            prop_assert!(cp.next_xid.0 <= xid.0 + u64::from(XID_STEP) + 3);
            prop_assert!(cp.next_xid.xid() >= FIRST_NORMAL_XID);
        }
    }

    #[test]
    fn fields_sit_where_the_header_puts_them() {
        let cp = CheckPoint {
            redo: Lsn(0x0102_0304_0506_0708),
            full_page_writes: true,
            wal_level: Some(2),
            next_xid: FullXid::new(9, 0x1234),
            time: 1_700_000_000,
            oldest_active_xid: 0xAABB_CCDD,
            ..CheckPoint::default()
        };
        let b = cp.encode();
        assert_eq!(b[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!((b[16], b[20]), (1, 2));
        assert_eq!(b[24..32], [0x34, 0x12, 0, 0, 9, 0, 0, 0]);
        assert_eq!(b[64..72], 1_700_000_000u64.to_le_bytes());
        assert_eq!(b[80..], [0xDD, 0xCC, 0xBB, 0xAA, 0, 0, 0, 0]);
    }

    #[test]
    fn ids_are_noted_in_steps_across_a_wrap() {
        let mut cp = CheckPoint {
            next_xid: FullXid(1000),
            ..CheckPoint::default()
        };
        assert!(cp.note_xid(1000));
        assert_eq!(cp.next_xid, FullXid(1024));
        assert!(!cp.note_xid(1023));
        assert!(cp.note_xid(1024));
        assert_eq!(cp.next_xid, FullXid(2048));
        cp.next_xid = FullXid::new(0, 0xFFFF_FC00);
        assert!(cp.note_xid(0xFFFF_FFFF));
        assert_eq!(cp.next_xid, FullXid::new(1, XID_STEP));
        cp.next_xid = FullXid::new(0, 0xFFFF_FC00);
        assert!(cp.note_xid(0xFFFF_FFF0));
        assert_eq!(cp.next_xid, FullXid::new(1, FIRST_NORMAL_XID));
    }

    #[test]
    fn multixact_counters_move_forward_only() {
        let mut cp = CheckPoint {
            next_multi: 10,
            next_multi_offset: u32::MAX,
            ..CheckPoint::default()
        };
        assert!(cp.note_multixact(10, u32::MAX, 3));
        assert_eq!((cp.next_multi, cp.next_multi_offset), (11, 2));
        assert!(!cp.note_multixact(5, 0, 1));
        assert!(cp.advance_oldest_multi(4, 16384));
        assert!(!cp.advance_oldest_multi(3, 1));
        assert_eq!(cp.oldest_multi_db, 16384);
    }
}
