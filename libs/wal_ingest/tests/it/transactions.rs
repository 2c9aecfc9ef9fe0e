//! Ends of transactions, dropped relations, prepared transactions, origins.

#![expect(
    clippy::disallowed_methods,
    reason = "a test of how long something takes"
)]

use crate::feed::{Feed, T, fresh_checkpoint};
use types::directory::{RelDirectory, TwoPhaseDirectory};
use types::{Fork, Key, Lsn, PgMajor, RelTag, SlruKind, Value, WalRecord};
use wal_ingest::testing::{MemoryStore, RecordBuilder};
use wal_ingest::{Cause, Config, Event, Limits};

fn clog(segment: u32, block: u32) -> Key {
    Key::slru_block(SlruKind::Clog, segment, block)
}

fn zero_clog(f: &mut Feed, page: u32) {
    let rec = f.rec(3, 0x00);
    let rec = if f.version >= PgMajor::V17 {
        rec.main(i64::from(page).to_le_bytes())
    } else {
        rec.main_u32([page])
    };
    f.push(rec);
}

#[test]
fn subtransactions_are_marked_on_each_of_their_pages() {
    for version in PgMajor::ALL {
        let mut f = Feed::new(version);
        for page in 31..=33 {
            zero_clog(&mut f, page);
        }
        let first = 32768 * 32 - 1;
        let rec = f
            .rec(1, 0x80)
            .xid(first)
            .main(77i64.to_le_bytes())
            .main_u32([2, 3, first + 1, first + 2, first + 32769]);
        let (lsn, event) = f.try_push(rec).unwrap();
        f.commit();
        assert_eq!(event, Event::Commit { time: 77 });
        for (segment, block, xids) in [
            (0, 31, vec![first]),
            (1, 0, vec![first + 1, first + 2]),
            (1, 1, vec![first + 32769]),
        ] {
            let want = Value::WalRecord(WalRecord::ClogSetCommitted {
                xids,
                timestamp: 77,
            });
            assert_eq!(f.store.at(clog(segment, block), lsn), Some(want));
        }
        // The newest of them moves the next transaction.
        let next = f.store.checkpoint(version).unwrap().next_xid;
        assert_eq!(next.xid(), 32768 * 33 + 1024);
    }
}

#[test]
fn an_abort_of_a_subtransaction_marks_only_it() {
    let mut f = Feed::new(PgMajor::V16);
    zero_clog(&mut f, 0);
    let rec = f.rec(1, 0x20).xid(900).main(1i64.to_le_bytes());
    let lsn = f.push(rec);
    let want = Value::WalRecord(WalRecord::ClogSetAborted { xids: vec![900] });
    assert_eq!(f.store.at(clog(0, 0), lsn), Some(want));
}

#[test]
fn a_clog_page_that_nothing_created_counts_as_zeros() {
    let mut f = Feed::new(PgMajor::V16);
    let rec = f.rec(1, 0x00).xid(32768 + 2).main((-5i64).to_le_bytes());
    let lsn = f.push(rec);
    let Some(Value::Image(page)) = f.store.at(clog(0, 1), lsn) else {
        panic!("no image")
    };
    assert_eq!((page.len(), page[0]), (8200, 1 << 4));
    assert_eq!(page[8192..], (-5i64).to_be_bytes());
    assert_eq!(
        f.store.at(clog(0, 0), lsn),
        Some(Value::Image(vec![0; 8192].into()))
    );
    assert_eq!(f.ingest.counters().slru_pages_made_up, 1);
}

/// A commit or abort that drops relations.
fn drops(f: &Feed, info: u8, rels: &[(u32, u32, u32)]) -> RecordBuilder {
    rels.iter().fold(
        f.rec(1, info | 0x80)
            .xid(800)
            .main(1i64.to_le_bytes())
            .main_u32([4, rels.len() as u32]),
        |b, (s, d, r)| b.main_u32([*s, *d, *r]),
    )
}

#[test]
fn commits_and_aborts_drop_every_fork_that_exists() {
    for info in [0x00, 0x20] {
        let mut f = Feed::new(PgMajor::V15);
        zero_clog(&mut f, 0);
        for fork in [Fork::Main, Fork::Fsm, Fork::Vm] {
            f.make(T.with_fork(fork), 3);
        }
        let other = RelTag {
            db: 6,
            rel: 99,
            ..T
        };
        f.make(other, 2);
        assert_eq!(f.store.logical_size(), 11 * 8192);
        let rec = drops(
            &f,
            info,
            &[
                (1663, 5, 16384),
                (1663, 5, 4242),
                (1663, 6, 99),
                (1663, 5, 16384),
                (1663, 77, 1),
            ],
        );
        f.push(rec);
        for db in [5, 6] {
            let dir =
                RelDirectory::decode(&f.store.image(Key::rel_dir(1663, db)).unwrap()).unwrap();
            assert!(dir.rels.is_empty(), "{db}");
        }
        assert_eq!(f.store.logical_size(), 0);
        // The number may be used again.
        f.make(T, 1);
        assert_eq!(f.size(T), Some(1));
        assert_eq!(f.store.logical_size(), 8192);
    }
}

#[test]
fn a_hundred_thousand_drops_are_one_change_of_the_directory() {
    let store = MemoryStore::fresh(PgMajor::V16, Lsn(0x1000), &fresh_checkpoint());
    let rels: Vec<u32> = (20_000..120_000).collect();
    let dir = RelDirectory {
        rels: rels.iter().map(|r| (*r, Fork::Main)).collect(),
    };
    let dbs = types::directory::DbDirectory {
        dbs: [((1663, 5), true)].into(),
    };
    store.set(Key::DB_DIR, Lsn(0x1000), &dbs.encode());
    store.set(Key::rel_dir(1663, 5), Lsn(0x1000), &dir.encode());
    for rel in &rels {
        store.set(
            Key::rel_size(RelTag { rel: *rel, ..T }),
            Lsn(0x1000),
            &2u32.to_le_bytes(),
        );
    }
    let mut f = Feed::over(store, Config::new(PgMajor::V16));
    zero_clog(&mut f, 0);
    let all: Vec<_> = rels.iter().map(|r| (1663, 5, *r)).collect();
    let rec = drops(&f, 0x00, &all);
    let begun = std::time::Instant::now();
    let lsn = f.push(rec);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(
        f.store.keys_at(lsn).len(),
        2,
        "the directory and the clog page"
    );
    assert_eq!(f.store.logical_size(), -200_000 * 8192);
}

/// The state of a prepared transaction, as in a PREPARE record.
pub fn prepared_state(version: PgMajor, xid: u32, origin: u64) -> Vec<u8> {
    let mut s = Vec::new();
    let words = |s: &mut Vec<u8>, w: &[u32]| w.iter().for_each(|n| s.extend(n.to_le_bytes()));
    words(&mut s, &[0x57F9_4534, 0, xid, 5]);
    s.extend(1i64.to_le_bytes());
    words(&mut s, &[10, 0]);
    words(
        &mut s,
        if version >= PgMajor::V15 {
            &[0; 5]
        } else {
            &[0; 3]
        },
    );
    s.extend([0, 0, 3, 0]);
    s.extend(origin.to_le_bytes());
    s.extend(0i64.to_le_bytes());
    // Names are bytes in the database's encoding.
    s.extend([b'g', 0xE9, 0]);
    s.resize(s.len().next_multiple_of(8), 0);
    let total = s.len() as u32 + 4;
    s[4..8].copy_from_slice(&total.to_le_bytes());
    s
}

fn prepared(f: &Feed) -> Vec<u64> {
    let bytes = f.store.image(Key::TWO_PHASE_DIR).unwrap();
    let dir = TwoPhaseDirectory::decode(&bytes, f.version >= PgMajor::V17).unwrap();
    dir.xids.into_iter().collect()
}

#[test]
fn prepared_transactions_are_kept_until_they_end() {
    for version in PgMajor::ALL {
        for (op, committed) in [(0x30, true), (0x40, false)] {
            let mut f = Feed::new(version);
            zero_clog(&mut f, 0);
            let state = prepared_state(version, 901, 0x77);
            let rec = f.rec(1, 0x10).xid(901).origin(3).main(&state);
            f.push(rec);
            // Epoch 1 in the counters of the tests.
            let full = if version >= PgMajor::V17 {
                1 << 32 | 901
            } else {
                901
            };
            assert_eq!(prepared(&f), [full]);
            assert_eq!(f.store.image(Key::two_phase_file(full)).unwrap(), state);
            assert_eq!(
                f.store.image(Key::repl_origin(3)).unwrap(),
                &0x77u64.to_be_bytes()[..]
            );

            let rec = f
                .rec(1, op | 0x80)
                .main(9i64.to_le_bytes())
                .main_u32([0x10 | 0x80 | 0x20, 901])
                .main(*b"gid\0")
                .main(0x99u64.to_le_bytes())
                .main(0i64.to_le_bytes())
                .origin(3);
            let lsn = f.push(rec);
            assert_eq!(prepared(&f), []);
            assert_eq!(
                f.store.image(Key::repl_origin(3)).unwrap(),
                &0x99u64.to_be_bytes()[..]
            );
            let Some(Value::WalRecord(change)) = f.store.at(clog(0, 0), lsn) else {
                panic!("no status")
            };
            let xids = vec![901];
            assert_eq!(
                change,
                if committed {
                    WalRecord::ClogSetCommitted { xids, timestamp: 9 }
                } else {
                    WalRecord::ClogSetAborted { xids }
                }
            );
        }
    }
}

#[test]
fn preparing_twice_is_an_error_except_while_catching_up_with_an_import() {
    for (import_end, ok) in [(None, false), (Some(Lsn(u64::MAX)), true)] {
        let mut f = Feed::with(Config {
            import_end,
            ..Config::new(PgMajor::V16)
        });
        let state = prepared_state(PgMajor::V16, 901, 0);
        let rec = f.rec(1, 0x10).xid(901).main(&state);
        f.push(rec);
        let rec = f.rec(1, 0x10).xid(901).main(&state);
        match f.try_push(rec) {
            Ok(_) => assert!(ok),
            Err(e) => assert!(!ok && matches!(e.cause, Cause::PreparedTwice { xid: 901 })),
        }
    }
}

#[test]
fn origins_are_set_and_dropped() {
    let mut f = Feed::new(PgMajor::V14);
    let rec = f.rec(19, 0x00).main(0x123u64.to_le_bytes()).main([7, 0, 1]);
    f.push(rec);
    assert_eq!(
        f.store.image(Key::repl_origin(7)).unwrap(),
        &0x123u64.to_be_bytes()[..]
    );
    let rec = f.rec(19, 0x10).main([7, 0]);
    f.push(rec);
    assert_eq!(f.store.image(Key::repl_origin(7)).unwrap(), &[0; 8][..]);
}

#[test]
fn sizes_survive_a_cache_of_one_entry() {
    let limits = Limits {
        cached_sizes: 1,
        cached_directories: 1,
        ..Limits::default()
    };
    let mut f = Feed::with(Config {
        limits,
        ..Config::new(PgMajor::V16)
    });
    for round in 1..4 {
        for db in 5..9 {
            for rel in 1..4 {
                let rec = f
                    .rec(11, 0x10)
                    .block(0, RelTag { db, rel, ..T }, round - 1)
                    .init();
                f.try_push(rec).unwrap();
            }
        }
    }
    f.commit();
    assert_eq!(f.ingest.counters().gap_pages, 0);
    assert_eq!(f.store.logical_size(), 36 * 8192);
}
