//! What is stored for a block reference; sizes, gaps, implicit creation.

use crate::feed::{Feed, START, T, page};
use types::directory::{DbDirectory, RelDirectory};
use types::shard::{ShardIdentity, ShardIndex};
use types::{Fork, Key, PAGE_SIZE, PgMajor, RelTag, Value, WalRecord};
use wal_ingest::{Cause, Config, Limits};

fn init_of(v: Option<Value>) -> Option<bool> {
    match v? {
        Value::WalRecord(WalRecord::Postgres { will_init, .. }) => Some(will_init),
        _ => None,
    }
}

fn image_of(v: Option<Value>) -> Option<Vec<u8>> {
    match v? {
        Value::Image(b) => Some(b.to_vec()),
        _ => None,
    }
}

#[test]
fn an_image_is_stored_as_the_page_replay_would_leave() {
    for version in PgMajor::ALL {
        let mut f = Feed::new(version);
        let mut full = page(7);
        full[100..300].fill(0);
        let rec =
            f.rec(10, 0x00)
                .main([0, 0, 0])
                .block(0, T, 0)
                .image(&full, Some((100, 200)), true);
        let lsn = f.push(rec);
        let got = image_of(f.block_at(T, 0, lsn)).unwrap();
        assert_eq!(got[..4], ((lsn.0 >> 32) as u32).to_le_bytes());
        assert_eq!(got[4..8], (lsn.0 as u32).to_le_bytes());
        assert_eq!(got[8..], full[8..], "{version}");
    }
}

#[test]
fn a_new_page_in_an_image_gets_no_lsn() {
    let mut f = Feed::new(PgMajor::V17);
    let mut new = page(9);
    new[14..16].fill(0);
    let rec = f.rec(0, 0xB0).block(0, T, 0).image(&new, None, true);
    let lsn = f.push(rec);
    assert_eq!(image_of(f.block_at(T, 0, lsn)).unwrap(), new);
}

#[test]
fn an_image_for_consistency_checks_is_not_the_page() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 1);
    let rec = f
        .rec(11, 0x02)
        .block(0, T, 0)
        .data([1])
        .image(&page(7), None, false);
    let lsn = f.push(rec);
    assert_eq!(init_of(f.block_at(T, 0, lsn)), Some(false));
}

#[test]
fn records_are_kept_whole_once_per_block() {
    let mut f = Feed::new(PgMajor::V15);
    f.make(T, 2);
    let build = |f: &Feed| {
        f.rec(11, 0x30)
            .block(0, T, 0)
            .data([1, 2])
            .block(1, T, 1)
            .init()
            .main([9])
    };
    let raw = build(&f).build();
    let rec = build(&f);
    let lsn = f.push(rec);
    for (block, init) in [(0, false), (1, true)] {
        let Some(Value::WalRecord(WalRecord::Postgres { will_init, rec })) =
            f.block_at(T, block, lsn)
        else {
            panic!("not a record");
        };
        assert_eq!((will_init, &rec[..]), (init, &raw[..]));
    }
}

#[test]
fn images_that_replay_changes_afterwards_stay_records() {
    // (rmgr, info, block id, is an image)
    for (rmid, info, id, image) in [
        (14, 0x00, 0, true),
        (14, 0x00, 1, false),
        (14, 0x30, 0, false),
        (14, 0x30, 1, true),
        (12, 0x40, 0, false),
        (12, 0x40, 1, true),
        (12, 0x60, 0, false),
        (12, 0x60, 1, false),
        (12, 0x20, 1, true),
        (11, 0x10, 1, true),
        (200, 0x10, 0, false),
    ] {
        let mut f = Feed::new(PgMajor::V16);
        let rec = f
            .rec(rmid, info)
            .block(id, T, 0)
            .image(&page(5), None, true);
        let lsn = f.push(rec);
        let v = f.block_at(T, 0, lsn);
        assert_eq!(
            image_of(v.clone()).is_some(),
            image,
            "{rmid} {info:#x} {id}"
        );
        assert_eq!(init_of(v), (!image).then_some(true));
    }
}

#[test]
fn thirty_two_images_in_one_record() {
    let mut f = Feed::new(PgMajor::V18);
    let mut rec = f.rec(0, 0xB0);
    for i in 0..32 {
        rec = rec
            .block(i, T, u32::from(i))
            .image(&page(i + 1), None, true);
    }
    let lsn = f.push(rec);
    for i in 0..32u8 {
        assert_eq!(
            image_of(f.block_at(T, u32::from(i), lsn)).unwrap()[8..],
            page(i + 1)[8..]
        );
    }
    assert_eq!(f.size(T), Some(32));
    assert_eq!(f.ingest.counters().gap_pages, 0);
}

#[test]
fn a_hint_record_without_its_image_changes_nothing_but_a_plain_one_is_refused() {
    let mut f = Feed::new(PgMajor::V16);
    let rec = f.rec(0, 0xA0).block(0, T, 3);
    let lsn = f.push(rec);
    assert_eq!(f.store.keys_at(lsn), []);
    assert_eq!(f.store.last(), lsn);
    let rec = f.rec(0, 0xB0).block(0, T, 3);
    assert!(matches!(f.refused(rec), Cause::NoImage { block: 3, .. }));
}

#[test]
fn a_reference_creates_database_relation_and_the_pages_before_it() {
    let mut f = Feed::new(PgMajor::V16);
    let lsn = f.make(T, 4);
    let dbs = DbDirectory::decode(&f.store.image(Key::DB_DIR).unwrap()).unwrap();
    assert_eq!(dbs.dbs, [((1663, 5), false)].into());
    let rels = RelDirectory::decode(&f.store.image(Key::rel_dir(1663, 5)).unwrap()).unwrap();
    assert_eq!(rels.rels, [(16384, Fork::Main)].into());
    assert_eq!(f.size(T), Some(4));
    for g in 0..3 {
        assert_eq!(image_of(f.block_at(T, g, lsn)).unwrap(), vec![0; PAGE_SIZE]);
    }
    assert_eq!(f.store.logical_size(), 4 * 8192);
}

#[test]
fn a_gap_never_hides_another_block_of_the_same_record() {
    let mut f = Feed::new(PgMajor::V16);
    let rec = f
        .rec(0, 0xB0)
        .block(0, T, 3)
        .image(&page(3), None, true)
        .block(1, T, 1)
        .image(&page(1), None, true);
    let lsn = f.push(rec);
    assert_eq!(image_of(f.block_at(T, 1, lsn)).unwrap()[8..], page(1)[8..]);
    assert_eq!(image_of(f.block_at(T, 2, lsn)).unwrap(), vec![0; PAGE_SIZE]);
}

#[test]
fn one_block_named_twice_is_refused() {
    let mut f = Feed::new(PgMajor::V16);
    let rec = f.rec(11, 0x10).block(0, T, 0).init().block(1, T, 0).init();
    assert!(matches!(f.refused(rec), Cause::Duplicate { .. }));
}

#[test]
fn a_long_gap_is_written_in_bounded_batches_and_appears_at_once() {
    let limits = Limits {
        batch_bytes: 100_000,
        gap_blocks: 500,
        ..Limits::default()
    };
    let mut f = Feed::with(Config {
        limits,
        ..Config::new(PgMajor::V16)
    });
    f.make(T, 1);
    let batches = f.store.batches();
    let rec = f.rec(0, 0xB0).block(0, T, 300).image(&page(1), None, true);
    let lsn = f.push(rec);
    assert!(f.store.batches() > batches + 20);
    assert!(f.store.largest_batch() < 120_000);
    assert_eq!(f.store.last(), lsn);
    assert_eq!((f.size(T), f.store.logical_size()), (Some(301), 301 * 8192));
    assert_eq!(
        (1..300)
            .filter(|g| f.block_at(T, *g, lsn).is_some())
            .count(),
        299
    );
    let rec = f.rec(0, 0xB0).block(0, T, 900).image(&page(1), None, true);
    assert!(matches!(
        f.refused(rec),
        Cause::Gap {
            size: 301,
            limit: 500,
            ..
        }
    ));
}

#[test]
fn maps_that_grow_by_a_plain_record_start_from_zeros() {
    let mut f = Feed::new(PgMajor::V16);
    let vm = T.with_fork(Fork::Vm);
    let visible = |f: &Feed| {
        f.rec(9, 0x40)
            .main([0, 0, 0, 0, 3])
            .block(0, vm, 0)
            .block(1, T, 0)
    };
    f.make(T, 1);
    let rec = visible(&f);
    let first = f.push(rec);
    let rec = visible(&f);
    let second = f.push(rec);
    assert_eq!(init_of(f.block_at(vm, 0, first)), Some(true));
    assert_eq!(init_of(f.block_at(vm, 0, second)), Some(false));
    // A heap page does not: without an older version it is an error to read it.
    let rec = f.rec(10, 0x00).main([0, 0, 0]).block(0, T, 1).data([1]);
    let lsn = f.push(rec);
    assert_eq!(init_of(f.block_at(T, 1, lsn)), Some(false));
}

#[test]
fn user_tablespaces_and_impossible_references_are_refused() {
    for (rel, block) in [
        (RelTag { spc: 16400, ..T }, 0),
        (RelTag { rel: 0, ..T }, 0),
        (T, u32::MAX),
    ] {
        let mut f = Feed::new(PgMajor::V16);
        let rec = f.rec(11, 0x10).block(0, rel, block).init();
        assert!(matches!(
            f.refused(rec),
            Cause::Tablespace { .. } | Cause::Reference { .. }
        ));
        assert!(matches!(f.refused_again(), Cause::Stopped));
    }
    let mut f = Feed::new(PgMajor::V16);
    let rec = f.rec(5, 0x00).main_u32([16400]).main(*b"/mnt\0");
    let error = f.try_push(rec).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tablespace 16400 is not supported"),
        "{error}"
    );
    assert!(error.to_string().contains(&START.to_string()), "{error}");
}

impl Feed {
    fn refused_again(&mut self) -> Cause {
        let rec = self.rec(0, 0x20);
        self.refused(rec)
    }
}

#[test]
fn shards_together_hold_each_page_once_and_agree_on_sizes() {
    let shards: Vec<Feed> = (0..4)
        .map(|number| {
            let index = ShardIndex { number, count: 4 };
            let shard = ShardIdentity {
                index,
                stripe_size: 4,
            };
            let mut f = Feed::with(Config {
                shard,
                ..Config::new(PgMajor::V17)
            });
            f.make(T, 64);
            let rec = f.rec(1, 0).xid(2000).main(5i64.to_le_bytes());
            f.push(rec);
            f
        })
        .collect();
    let lsn = shards[0].make_end();
    for block in 0..64 {
        let holders = shards
            .iter()
            .filter(|f| f.block_at(T, block, lsn).is_some())
            .count();
        assert_eq!(holders, 1, "block {block}");
    }
    for (n, f) in shards.iter().enumerate() {
        assert_eq!(
            (f.size(T), f.store.last()),
            (Some(64), shards[0].store.last())
        );
        let clog = Key::slru_block(types::SlruKind::Clog, 0, 0);
        assert_eq!(f.store.newest(clog).is_some(), n == 0);
    }
}

impl Feed {
    fn make_end(&self) -> types::Lsn {
        self.store.prev()
    }
}
