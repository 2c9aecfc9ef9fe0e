//! Commit log and multixacts: pages, segments, wraparound, truncation.

use crate::feed::{Feed, fresh_checkpoint};
use pg_format::{CheckPoint, FullXid};
use types::directory::{SlruDirectory, decode_size};
use types::{Key, Lsn, PgMajor, SlruKind, Value, WalRecord};
use wal_ingest::Config;
use wal_ingest::testing::{MemoryStore, RecordBuilder};

const LAST: Lsn = Lsn(0x2000);

fn with_segments(version: PgMajor, kind: SlruKind, segments: &[u32], cp: &CheckPoint) -> Feed {
    let store = MemoryStore::fresh(version, LAST, cp);
    let dir = SlruDirectory {
        segments: segments.iter().copied().collect(),
    };
    store.set(Key::slru_dir(kind), LAST, &dir.encode());
    for s in segments {
        store.set(Key::slru_segment_size(kind, *s), LAST, &32u32.to_le_bytes());
    }
    Feed::over(store, Config::new(version))
}

fn segments(f: &Feed, kind: SlruKind) -> Vec<u32> {
    let dir = SlruDirectory::decode(&f.store.image(Key::slru_dir(kind)).unwrap()).unwrap();
    dir.segments.into_iter().collect()
}

fn page(f: &Feed, rec: RecordBuilder, n: u32) -> RecordBuilder {
    if f.version >= PgMajor::V17 {
        rec.main(i64::from(n).to_le_bytes())
    } else {
        rec.main_u32([n])
    }
}

#[test]
fn a_zeroed_page_creates_its_segment_and_the_pages_before_it() {
    for version in PgMajor::ALL {
        for (rmid, info, kind) in [
            (3, 0x00, SlruKind::Clog),
            (6, 0x00, SlruKind::MultiXactOffsets),
            (6, 0x10, SlruKind::MultiXactMembers),
        ] {
            let mut f = Feed::new(version);
            let rec = page(&f, f.rec(rmid, info), 32 * 7 + 2);
            let lsn = f.push(rec);
            assert_eq!(segments(&f, kind), [7]);
            let size = f.store.image(Key::slru_segment_size(kind, 7)).unwrap();
            assert_eq!(decode_size(&size).unwrap(), 3);
            for b in 0..3 {
                assert!(matches!(
                    f.store.at(Key::slru_block(kind, 7, b), lsn),
                    Some(Value::Image(_))
                ));
            }
        }
    }
}

#[test]
fn truncation_of_the_clog_removes_segments_wholly_before_the_cutoff() {
    for version in PgMajor::ALL {
        // Next transaction, segments, cutoff page, what stays.
        for (next, before, cutoff, after) in [
            (
                FullXid::new(0, 5 << 20),
                vec![0, 1, 2, 3, 4],
                64,
                vec![2, 3, 4],
            ),
            (
                FullXid::new(0, 5 << 20),
                vec![0, 1, 2, 3, 4],
                63,
                vec![1, 2, 3, 4],
            ),
            // The circle has been closed: the last segments are the oldest.
            (
                FullXid::new(1, 2 << 20),
                vec![0, 1, 4094, 4095],
                4095 * 32,
                vec![0, 1, 4095],
            ),
            (
                FullXid::new(1, 2 << 20),
                vec![0, 1, 4094, 4095],
                32,
                vec![1],
            ),
            // A cutoff ahead of the next transaction keeps all.
            (FullXid::new(0, 1 << 20), vec![0, 1], 3200, vec![0, 1]),
        ] {
            let cp = CheckPoint {
                next_xid: next,
                ..fresh_checkpoint()
            };
            let mut f = with_segments(version, SlruKind::Clog, &before, &cp);
            let rec = page(&f, f.rec(3, 0x10), cutoff).main_u32([cutoff * 32768, 5]);
            f.push(rec);
            assert_eq!(
                segments(&f, SlruKind::Clog),
                after,
                "{version} cutoff {cutoff}"
            );
            let cp = f.store.checkpoint(version).unwrap();
            assert_eq!((cp.oldest_xid, cp.oldest_xid_db), (cutoff * 32768, 5));
        }
    }
}

#[test]
fn a_segment_truncated_away_can_come_back() {
    let cp = CheckPoint {
        next_xid: FullXid::new(0, 5 << 20),
        ..fresh_checkpoint()
    };
    let mut f = with_segments(PgMajor::V16, SlruKind::Clog, &[0, 1, 4], &cp);
    let rec = f.rec(3, 0x10).main_u32([128, 128 * 32768, 5]);
    f.push(rec);
    let rec = f.rec(3, 0x00).main_u32([0]);
    f.push(rec);
    assert_eq!(segments(&f, SlruKind::Clog), [0, 4]);
    let size = f
        .store
        .image(Key::slru_segment_size(SlruKind::Clog, 0))
        .unwrap();
    assert_eq!(decode_size(&size).unwrap(), 1);
}

fn create(f: &Feed, mid: u32, moff: u32, members: &[(u32, u32)]) -> RecordBuilder {
    members.iter().fold(
        f.rec(6, 0x20).main_u32([mid, moff, members.len() as u32]),
        |b, (x, s)| b.main_u32([*x, *s]),
    )
}

#[test]
fn members_are_split_at_page_ends_and_wrap_with_their_offsets() {
    let mut f = with_segments(
        PgMajor::V16,
        SlruKind::MultiXactMembers,
        &[0, 82040],
        &fresh_checkpoint(),
    );
    let rec = page(&f, f.rec(6, 0x00), 0);
    f.push(rec);
    let m = |n: u32| (2000 + n, n % 4);
    // Offsets just before the wrap, and a page boundary in the middle.
    for (moff, parts) in [
        (
            1634u32,
            vec![(0u32, 0u32, 1634u32, 0..2u32), (0, 1, 1636, 2..5)],
        ),
        (
            u32::MAX - 1,
            vec![(82040, 0, u32::MAX - 1, 0..2), (0, 0, 0, 2..5)],
        ),
    ] {
        let members: Vec<_> = (0..5).map(m).collect();
        let rec = create(&f, 9, moff, &members);
        let lsn = f.push(rec);
        for (segment, _, start, range) in parts {
            let block = (start / 1636) % 32;
            let want = WalRecord::MultixactMembersCreate {
                moff: start,
                members: range.map(m).collect(),
            };
            let got = f.store.at(
                Key::slru_block(SlruKind::MultiXactMembers, segment, block),
                lsn,
            );
            assert_eq!(got, Some(Value::WalRecord(want)), "{moff}");
        }
        let offset = f
            .store
            .at(Key::slru_block(SlruKind::MultiXactOffsets, 0, 0), lsn);
        assert_eq!(
            offset,
            Some(Value::WalRecord(WalRecord::MultixactOffsetCreate {
                mid: 9,
                moff
            }))
        );
    }
}

#[test]
fn creation_moves_the_counters() {
    let mut f = Feed::new(PgMajor::V18);
    let rec = create(&f, 41, 100, &[(5000, 1), (4000, 1)]);
    f.push(rec);
    let cp = f.store.checkpoint(PgMajor::V18).unwrap();
    assert_eq!(
        (cp.next_multi, cp.next_multi_offset, cp.next_xid.xid()),
        (42, 102, 5120)
    );
}

#[test]
fn truncation_removes_member_and_offset_segments_across_the_wrap() {
    let per_segment = 1636 * 32;
    for (members, start, end, left) in [
        (vec![0, 1, 2, 3], 0, 2 * per_segment + 5, vec![2, 3]),
        (
            vec![82039, 82040, 0, 1],
            82039 * per_segment,
            per_segment,
            vec![1],
        ),
        (vec![4, 5], 4 * per_segment, 4 * per_segment + 7, vec![4, 5]),
    ] {
        let mut f = with_segments(
            PgMajor::V17,
            SlruKind::MultiXactMembers,
            &members,
            &fresh_checkpoint(),
        );
        let rec = f.rec(6, 0x30).main_u32([5, 1, 2, start, end]);
        f.push(rec);
        assert_eq!(segments(&f, SlruKind::MultiXactMembers), left);
    }
    for (next, offsets, end, left) in [
        (300_000, vec![0, 1, 2, 3, 4], 2 * 65536 + 1, vec![2, 3, 4]),
        (300_000, vec![0, 1, 2, 3, 4], 2 * 65536, vec![1, 2, 3, 4]),
        (70_000, vec![0, 1, 65535], 1, vec![0, 1, 65535]),
        (70_000, vec![0, 1, 65535], 65536 + 9, vec![1]),
    ] {
        let cp = CheckPoint {
            next_multi: next,
            ..fresh_checkpoint()
        };
        let mut f = with_segments(PgMajor::V17, SlruKind::MultiXactOffsets, &offsets, &cp);
        let rec = f.rec(6, 0x30).main_u32([5, 1, end, 0, 0]);
        f.push(rec);
        assert_eq!(segments(&f, SlruKind::MultiXactOffsets), left, "{end}");
        let cp = f.store.checkpoint(PgMajor::V17).unwrap();
        assert_eq!((cp.oldest_multi, cp.oldest_multi_db), (end, 5));
    }
}
