//! Visibility-map bits cleared with and without block references.

use crate::feed::{Feed, T, VM, page};
use types::{Key, Lsn, PgMajor, Value, WalRecord};

const PER: u32 = 32672;

fn clear(f: &Feed, block: u32, lsn: Lsn) -> Option<(Option<u32>, Option<u32>, u8)> {
    match f.block_at(VM, block, lsn)? {
        Value::WalRecord(WalRecord::ClearVisibilityMapFlags {
            new_heap_block,
            old_heap_block,
            flags,
        }) => Some((new_heap_block, old_heap_block, flags)),
        other => panic!("{other:?}"),
    }
}

/// A heap of three map pages; the heap itself is never read here.
fn heap(version: PgMajor, maps: u32) -> Feed {
    let mut f = Feed::new(version);
    f.make(VM, maps);
    let lsn = f.store.last();
    f.store.set(Key::rel_size(T), lsn, &(3 * PER).to_le_bytes());
    let dir = types::directory::RelDirectory {
        rels: [(T.rel, T.fork), (VM.rel, VM.fork)].into(),
    };
    f.store.set(Key::rel_dir(T.spc, T.db), lsn, &dir.encode());
    let Feed { store, ingest, .. } = f;
    Feed::over(store, *ingest.config())
}

fn update(f: &mut Feed, flags: u8, new: u32, old: Option<u32>, refs: &[u32]) -> Lsn {
    let mut main = [0; 14];
    main[7] = flags;
    let mut rec = f.rec(10, 0x20).main(main).block(0, T, new).data([1]);
    if let Some(old) = old {
        rec = rec.block(1, T, old);
    }
    for (i, v) in refs.iter().enumerate() {
        rec = rec.block(2 + i as u8, VM, *v);
    }
    f.push(rec)
}

#[test]
fn updates_clear_what_their_flags_say() {
    let (a, b) = (5, PER + 9);
    // flags, new, old, expected on map page 0, on map page 1
    for (flags, new, old, zero, one) in [
        (0u8, a, Some(a + 1), None, None),
        (1, a, None, Some((None, Some(a), 3)), None),
        (2, a, None, Some((Some(a), None, 3)), None),
        (3, a, None, Some((Some(a), None, 3)), None),
        (3, a, Some(a + 1), Some((Some(a), Some(a + 1), 3)), None),
        (1, a, Some(a + 1), Some((None, Some(a + 1), 3)), None),
        (
            3,
            a,
            Some(b),
            Some((Some(a), None, 3)),
            Some((None, Some(b), 3)),
        ),
        (
            3,
            b,
            Some(a),
            Some((None, Some(a), 3)),
            Some((Some(b), None, 3)),
        ),
        (1, a, Some(b), None, Some((None, Some(b), 3))),
        (2, a, Some(b), Some((Some(a), None, 3)), None),
    ] {
        for version in PgMajor::ALL {
            let mut f = heap(version, 3);
            let lsn = update(&mut f, flags, new, old, &[]);
            let got = (clear(&f, 0, lsn), clear(&f, 1, lsn));
            assert_eq!(
                got,
                (zero, one),
                "{version} flags {flags} new {new} old {old:?}"
            );
        }
    }
}

#[test]
fn an_update_that_names_map_pages_names_all_it_changed() {
    for (refs, old) in [
        (vec![0], 6),
        (vec![0], PER + 9),
        (vec![1], PER + 9),
        (vec![0, 1], PER + 9),
    ] {
        let mut f = heap(PgMajor::V18, 3);
        let lsn = update(&mut f, 3, 5, Some(old), &refs);
        for page in 0..3 {
            let stored = f.block_at(VM, page, lsn);
            if refs.contains(&page) {
                assert!(
                    matches!(
                        &stored,
                        Some(Value::WalRecord(WalRecord::Postgres {
                            will_init: false,
                            ..
                        }))
                    ),
                    "{refs:?} {page}: {stored:?}"
                );
            } else {
                assert_eq!(stored, None, "{refs:?} {page}");
            }
        }
    }
}

#[test]
fn a_named_map_page_with_an_image_is_stored_as_the_image() {
    let mut f = heap(PgMajor::V17, 3);
    let rec = f
        .rec(10, 0x00)
        .main([0, 0, 1])
        .block(0, T, 5)
        .data([1])
        .block(1, VM, 0)
        .image(&page(4), None, true);
    let lsn = f.push(rec);
    assert!(matches!(f.block_at(VM, 0, lsn), Some(Value::Image(_))));
}

#[test]
fn locks_clear_only_the_frozen_bit() {
    for (rmid, info) in [(10, 0x60), (9, 0x60)] {
        let mut f = heap(PgMajor::V15, 3);
        let rec = f
            .rec(rmid, info)
            .main([0, 0, 0, 0, 0, 0, 0, 1])
            .block(0, T, PER + 1);
        let lsn = f.push(rec);
        assert_eq!(clear(&f, 1, lsn), Some((None, Some(PER + 1), 2)));
    }
}

#[test]
fn inserts_and_deletes_clear_both_bits() {
    for (rmid, info, main) in [
        (10, 0x00, &[0u8, 0, 1][..]),
        (9, 0x50, &[1, 0, 0, 0]),
        (10, 0x10, &[0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let mut f = heap(PgMajor::V14, 3);
        let rec = f.rec(rmid, info).main(main).block(0, T, 7).data([1]);
        let lsn = f.push(rec);
        assert_eq!(clear(&f, 0, lsn), Some((Some(7), None, 3)));
    }
}

#[test]
fn a_map_that_is_absent_or_too_short_is_clear_already() {
    let mut f = heap(PgMajor::V16, 1);
    let lsn = update(&mut f, 3, PER + 1, Some(2 * PER), &[]);
    assert_eq!((f.block_at(VM, 1, lsn), f.size(VM)), (None, Some(1)));
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 1);
    let rec = f.rec(10, 0x00).main([0, 0, 1]).block(0, T, 0).data([1]);
    f.push(rec);
    assert_eq!(f.size(VM), None);
}

#[test]
fn neon_dialects_are_read_by_their_own_layout() {
    let mut f = Feed::neon(PgMajor::V15);
    f.make(T, 3);
    f.make(VM, 1);
    let mut main = [0; 14];
    main[13] = 1;
    let rec = f.rec(10, 0x10).main(main).block(0, T, 2);
    let lsn = f.push(rec);
    assert_eq!(clear(&f, 0, lsn), Some((Some(2), None, 3)));

    let mut f = Feed::neon(PgMajor::V17);
    f.make(T, 3);
    f.make(VM, 1);
    let mut main = [0; 12];
    main[11] = 1;
    let rec = f.rec(134, 0x40).main(main).block(0, T, 2);
    let lsn = f.push(rec);
    assert_eq!(clear(&f, 0, lsn), Some((None, Some(2), 2)));
    let rec = f.rec(134, 0x60).main(main).block(0, T, 2);
    assert!(matches!(f.refused(rec), wal_ingest::Cause::Main(_)));
}
