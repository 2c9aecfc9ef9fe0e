//! Counters, settings and timelines.

use crate::feed::{Feed, fresh_checkpoint};
use crate::transactions::prepared_state;
use pg_format::{CheckPoint, FullXid};
use types::{Lsn, PgMajor};
use wal_ingest::Event;

fn payload(version: PgMajor) -> CheckPoint {
    CheckPoint {
        redo: Lsn(0x77),
        this_tli: 1,
        prev_tli: 1,
        full_page_writes: true,
        wal_level: (version >= PgMajor::V17).then_some(2),
        next_xid: FullXid::new(1, 3000),
        next_oid: 30_000,
        next_multi: 50,
        next_multi_offset: 500,
        oldest_xid: 800,
        oldest_xid_db: 4,
        oldest_multi: 20,
        oldest_multi_db: 4,
        time: 1_700_000_000,
        oldest_commit_ts_xid: 801,
        newest_commit_ts_xid: 2999,
        oldest_active_xid: 2900,
    }
}

#[test]
fn checkpoints_of_ordinary_servers_are_taken_over() {
    for version in PgMajor::ALL {
        for (info, shutdown) in [(0x10, false), (0x00, true)] {
            let mut f = Feed::new(version);
            let p = payload(version);
            let rec = f.rec(0, info).main(p.encode());
            let (lsn, event) = f.try_push(rec).unwrap();
            f.commit();
            assert_eq!(event, Event::Checkpoint { shutdown });
            let want = CheckPoint {
                redo: if shutdown { lsn } else { Lsn::INVALID },
                // An online checkpoint says nothing new about object ids.
                next_oid: if shutdown { 30_000 } else { 0 },
                oldest_active_xid: if shutdown { 3000 } else { 2900 },
                ..p
            };
            assert_eq!(
                f.store.checkpoint(version).unwrap(),
                want,
                "{version} {info:#x}"
            );
        }
    }
}

#[test]
fn counters_never_fall_behind() {
    let mut f = Feed::new(PgMajor::V16);
    let old = CheckPoint {
        next_xid: FullXid::new(0, 500),
        oldest_xid: 0xFFFF_0000,
        next_multi: u32::MAX - 5,
        ..payload(PgMajor::V16)
    };
    let rec = f.rec(0, 0x10).main(old.encode());
    f.push(rec);
    let cp = f.store.checkpoint(PgMajor::V16).unwrap();
    assert_eq!(
        (cp.next_xid, cp.oldest_xid, cp.next_multi),
        (FullXid::new(1, 1024), 3, 1)
    );
}

#[test]
fn a_shutdown_with_prepared_transactions_remembers_the_oldest() {
    for version in [PgMajor::V15, PgMajor::V17] {
        let mut f = Feed::new(version);
        for xid in [950, 940, 960] {
            let rec = f
                .rec(1, 0x10)
                .xid(xid)
                .main(prepared_state(version, xid, 0));
            f.push(rec);
        }
        let rec = f.rec(0, 0x00).main(
            CheckPoint {
                oldest_active_xid: 0,
                ..payload(version)
            }
            .encode(),
        );
        f.push(rec);
        assert_eq!(f.store.checkpoint(version).unwrap().oldest_active_xid, 940);
    }
}

#[test]
fn any_record_with_a_transaction_moves_the_next_one() {
    let mut f = Feed::new(PgMajor::V16);
    let rec = f.rec(0, 0x20).xid(1023);
    let lsn = f.push(rec);
    assert_eq!(f.store.keys_at(lsn), [], "covered by the rounding");
    let rec = f.rec(0, 0x20).xid(1024);
    f.push(rec);
    assert_eq!(
        f.store.checkpoint(PgMajor::V16).unwrap().next_xid,
        FullXid::new(1, 2048)
    );
}

#[test]
fn single_counters_follow_their_records() {
    let mut f = Feed::new(PgMajor::V17);
    let rec = f.rec(0, 0x30).main_u32([24_576]);
    f.push(rec);
    let rec = f.rec(0, 0x80).main([1]);
    f.push(rec);
    let rec = f.rec(8, 0x10).main_u32([1, 0, 0, 5001, 4321, 5000, 4321]);
    f.push(rec);
    let cp = f.store.checkpoint(PgMajor::V17).unwrap();
    assert_eq!(
        (cp.next_oid, cp.full_page_writes, cp.oldest_active_xid),
        (24_576, true, 4321)
    );
    assert_eq!(cp.next_xid, FullXid::new(1, 5120));
}

#[test]
fn the_end_of_recovery_switches_the_timeline() {
    for version in PgMajor::ALL {
        let mut f = Feed::new(version);
        let rec = f.rec(0, 0x20);
        let at = f.push(rec);
        let rec = f.rec(0, 0x90).main(5i64.to_le_bytes()).main_u32([2, 1]);
        let rec = if version >= PgMajor::V17 {
            rec.main_u32([1, 0])
        } else {
            rec
        };
        let (_, event) = f.try_push(rec).unwrap();
        f.commit();
        assert_eq!(
            event,
            Event::TimelineSwitch {
                previous: 1,
                timeline: 2,
                at
            }
        );
        let cp = f.store.checkpoint(version).unwrap();
        assert_eq!((cp.this_tli, cp.prev_tli), (2, 1));
        assert_eq!(cp.wal_level, (version >= PgMajor::V17).then_some(1));

        let p = CheckPoint {
            this_tli: 3,
            prev_tli: 2,
            ..payload(version)
        };
        let at = f.store.last();
        let rec = f.rec(0, 0x00).main(p.encode());
        let (_, event) = f.try_push(rec).unwrap();
        assert_eq!(
            event,
            Event::TimelineSwitch {
                previous: 2,
                timeline: 3,
                at
            }
        );
    }
}

#[test]
fn computes_keep_their_timeline_and_counters() {
    let mut f = Feed::neon(PgMajor::V16);
    let p = CheckPoint {
        this_tli: 9,
        ..payload(PgMajor::V16)
    };
    let rec = f.rec(0, 0x10).main(p.encode());
    let (_, event) = f.try_push(rec).unwrap();
    f.commit();
    assert_eq!(event, Event::Checkpoint { shutdown: false });
    let cp = f.store.checkpoint(PgMajor::V16).unwrap();
    let old = fresh_checkpoint();
    assert_eq!(
        (cp.this_tli, cp.next_xid, cp.next_multi),
        (1, old.next_xid, old.next_multi)
    );
    assert_eq!((cp.oldest_xid, cp.oldest_active_xid), (800, 2900));
}

#[test]
fn the_end_of_a_backup_names_its_start() {
    let mut f = Feed::new(PgMajor::V15);
    let rec = f.rec(0, 0x50).main(0x4400u64.to_le_bytes());
    let (_, event) = f.try_push(rec).unwrap();
    assert_eq!(event, Event::BackupEnd { start: Lsn(0x4400) });
}

#[test]
fn unknown_record_types_stop_ingest() {
    for (rmid, info, version) in [
        (30, 0, PgMajor::V18),
        (1, 0x70, PgMajor::V18),
        (4, 0x20, PgMajor::V14),
        (0, 0xC0, PgMajor::V16),
        (200, 0, PgMajor::V14),
    ] {
        let mut f = Feed::new(version);
        let rec = f.rec(0, 0x20);
        let (good, _) = f.try_push(rec).unwrap();
        let rec = f.rec(rmid, info);
        let error = f.try_push(rec).unwrap_err();
        assert!(error.to_string().contains("unknown record type"), "{error}");
        assert_eq!(error.at.unwrap().start, good);
        // What came before is not lost.
        f.commit();
        assert_eq!(f.store.last(), good);
    }
}
