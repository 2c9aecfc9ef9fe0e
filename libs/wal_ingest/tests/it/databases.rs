//! Databases: creation by copy and by log, removal, relation maps; messages.

use crate::feed::{Feed, T, VM};
use types::directory::{DbDirectory, RelDirectory};
use types::{Fork, Key, PAGE_SIZE, PgMajor, RelTag, Value};
use wal_ingest::testing::RecordBuilder;
use wal_ingest::{Config, Limits, aux_file};

fn drop_info(version: PgMajor) -> u8 {
    if version == PgMajor::V14 { 0x10 } else { 0x20 }
}

fn relmap(f: &Feed, db: u32, spc: u32) -> RecordBuilder {
    let len = if f.version >= PgMajor::V16 { 524 } else { 512 };
    f.rec(7, 0)
        .main_u32([db, spc, len as u32])
        .main(vec![db as u8; len])
}

fn dbs(f: &Feed) -> Vec<((u32, u32), bool)> {
    let dir = DbDirectory::decode(&f.store.image(Key::DB_DIR).unwrap()).unwrap();
    dir.dbs.into_iter().collect()
}

#[test]
fn a_file_copy_copies_every_page_and_appears_at_once() {
    for version in PgMajor::ALL {
        let limits = Limits {
            batch_bytes: 50_000,
            ..Limits::default()
        };
        let mut f = Feed::with(Config {
            limits,
            ..Config::new(version)
        });
        let rec = relmap(&f, 5, 1663);
        f.push(rec);
        f.make(T, 40);
        // The last change is still pending when the copy comes.
        let rec = f
            .rec(0, 0xB0)
            .block(0, VM, 1)
            .image(&[3; PAGE_SIZE], None, true);
        let (pending, _) = f.try_push(rec).unwrap();
        let rec = f.rec(4, 0).main_u32([6, 1663, 5, 1663]);
        let lsn = f.push(rec);
        assert_eq!(dbs(&f), [((1663, 5), true), ((1663, 6), true)]);
        let copy = |fork| RelTag { db: 6, fork, ..T };
        assert_eq!(
            (f.size(copy(Fork::Main)), f.size(copy(Fork::Vm))),
            (Some(40), Some(2))
        );
        for b in 0..40 {
            let from = f.store.image(Key::rel_block(T, b)).unwrap();
            assert_eq!(
                f.block_at(copy(Fork::Main), b, lsn),
                Some(Value::Image(from))
            );
        }
        let Some(Value::Image(vm)) = f.block_at(copy(Fork::Vm), 1, lsn) else {
            panic!("no image")
        };
        assert_eq!(vm[4..8], (pending.0 as u32).to_le_bytes(), "page LSNs stay");
        let maps =
            [Key::rel_map(1663, 5), Key::rel_map(1663, 6)].map(|k| f.store.image(k).unwrap());
        assert_eq!(maps[0], maps[1]);
        assert_eq!(f.store.logical_size(), 84 * 8192);
        assert!(f.store.largest_batch() < 70_000 && f.store.batches() > 6);
        assert_eq!(f.store.prev(), pending);
    }
}

#[test]
fn a_copy_replaces_the_target_and_needs_neither_source_nor_map() {
    let mut f = Feed::new(PgMajor::V16);
    let target = RelTag { db: 6, rel: 7, ..T };
    f.make(target, 9);
    let rec = f.rec(4, 0).main_u32([6, 1663, 404, 1663]);
    f.push(rec);
    assert_eq!(
        (dbs(&f), f.store.logical_size()),
        (vec![((1663, 6), false)], 0)
    );
    let dir = RelDirectory::decode(&f.store.image(Key::rel_dir(1663, 6)).unwrap()).unwrap();
    assert!(dir.rels.is_empty());
    f.make(T, 1);
    let rec = f.rec(4, 0).main_u32([6, 1663, 5, 1663]);
    f.push(rec);
    assert_eq!(dbs(&f), [((1663, 5), false), ((1663, 6), false)]);
    assert_eq!(f.size(RelTag { db: 6, ..T }), Some(1));
}

#[test]
fn a_logged_creation_makes_an_empty_database() {
    for version in [PgMajor::V15, PgMajor::V16, PgMajor::V17, PgMajor::V18] {
        let mut f = Feed::new(version);
        for _ in 0..2 {
            let rec = f.rec(4, 0x10).main_u32([6, 1663]);
            f.push(rec);
            assert_eq!(dbs(&f), [((1663, 6), false)]);
        }
        assert_eq!(f.ingest.counters().created_twice, 1);
        let rec = relmap(&f, 6, 1663);
        f.push(rec);
        assert_eq!(dbs(&f), [((1663, 6), true)]);
    }
}

#[test]
fn a_dropped_database_takes_its_size_along_and_can_be_made_again() {
    for version in PgMajor::ALL {
        let mut f = Feed::new(version);
        f.make(T, 7);
        f.make(VM, 1);
        let gone = |f: &Feed| f.rec(4, drop_info(version)).main_u32([5, 1, 1663]);
        let rec = gone(&f);
        f.push(rec);
        assert_eq!((dbs(&f), f.store.logical_size()), (vec![], 0));
        let rec = gone(&f);
        f.push(rec);
        assert_eq!(f.ingest.counters().missing, 1);
        let rec = f.rec(2, 0x10).main_u32([1663, 5, 1, 0]);
        f.push(rec);
        let dir = RelDirectory::decode(&f.store.image(Key::rel_dir(1663, 5)).unwrap()).unwrap();
        assert_eq!(dir.rels, [(1, Fork::Main)].into());
    }
}

#[test]
fn drops_are_seen_by_records_of_the_same_batch() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 7);
    let rec = f.rec(4, 0x20).main_u32([5, 1, 1663]);
    f.try_push(rec).unwrap();
    let rec = f.rec(11, 0x10).block(0, T, 2).init();
    let (lsn, _) = f.try_push(rec).unwrap();
    f.commit();
    assert_eq!((f.size(T), f.store.logical_size()), (Some(3), 3 * 8192));
    assert!(f.block_at(T, 0, lsn).is_some());
}

#[test]
fn the_shared_map_belongs_to_the_global_tablespace() {
    let mut f = Feed::new(PgMajor::V18);
    let rec = relmap(&f, 0, 1664);
    f.push(rec);
    assert_eq!(dbs(&f), [((1664, 0), true)]);
    assert_eq!(f.store.image(Key::rel_map(1664, 0)).unwrap().len(), 524);
}

#[test]
fn a_relation_created_twice_is_kept() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 3);
    let rec = f.rec(2, 0x10).main_u32([1663, 5, 16384, 0]);
    f.push(rec);
    assert_eq!((f.size(T), f.ingest.counters().created_twice), (Some(3), 1));
}

fn message(f: &Feed, path: &str, content: &[u8]) -> RecordBuilder {
    let prefix = format!("neon-file:{path}\0");
    f.rec(21, 0)
        .main_u32([5, 0])
        .main((prefix.len() as u64).to_le_bytes())
        .main((content.len() as u64).to_le_bytes())
        .main(prefix)
        .main(content)
}

#[test]
fn files_in_messages_count_only_from_computes() {
    let path = "pg_logical/mappings/x";
    let mut f = Feed::new(PgMajor::V16);
    let rec = message(&f, path, b"evil");
    f.push(rec);
    assert_eq!(f.store.newest(aux_file::key(path)), None);

    let mut f = Feed::neon(PgMajor::V16);
    for content in [&b"one"[..], b"two"] {
        let rec = message(&f, path, content);
        f.push(rec);
        let files = aux_file::decode(&f.store.image(aux_file::key(path)).unwrap()).unwrap();
        assert_eq!(files, [(path.to_owned(), content.to_vec().into())]);
    }
    let rec = message(&f, path, b"");
    f.push(rec);
    assert!(f.store.image(aux_file::key(path)).unwrap().is_empty());
}
