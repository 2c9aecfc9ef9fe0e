//! Truncation of relations and their maps.

use crate::feed::{Feed, T, VM, page};
use types::{Fork, PAGE_SIZE, PgMajor, Value, WalRecord};

fn truncate(f: &mut Feed, blocks: u32, flags: u32) -> types::Lsn {
    let rec = f.rec(2, 0x20).main_u32([blocks, T.spc, T.db, T.rel, flags]);
    f.push(rec)
}

#[test]
fn the_heap_shrinks_but_never_grows() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 10);
    truncate(&mut f, 20, 1);
    assert_eq!(f.size(T), Some(10));
    truncate(&mut f, 4, 1);
    assert_eq!((f.size(T), f.store.logical_size()), (Some(4), 4 * 8192));
}

#[test]
fn truncating_an_unknown_relation_creates_it_empty() {
    let mut f = Feed::new(PgMajor::V16);
    truncate(&mut f, 4, 7);
    assert_eq!((f.size(T), f.size(VM)), (Some(0), None));
}

#[test]
fn the_partly_cut_map_page_stays_with_its_tail_cleared() {
    for (heap, keep, part) in [
        (0u32, 0u32, None),
        (1, 1, Some((0u64, 2u64))),
        (4, 1, Some((1, 0))),
        (32671, 1, Some((8167, 6))),
        (32672, 1, None),
        (32673, 2, Some((0, 2))),
        (2 * 32672 + 9, 3, Some((2, 2))),
    ] {
        let mut f = Feed::new(PgMajor::V16);
        f.make(VM, 3);
        let lsn = truncate(&mut f, heap, 2);
        assert_eq!(f.size(VM), Some(keep), "{heap}");
        let mut partial = Vec::new();
        for b in 0..4 {
            match f.block_at(VM, b, lsn) {
                Some(Value::WalRecord(WalRecord::TruncateVisibilityMap {
                    trunc_byte,
                    trunc_offs,
                })) => {
                    partial.push((b, (trunc_byte, trunc_offs)));
                }
                // Removed pages must not come back with their bits.
                Some(Value::Image(i)) => assert!(b >= keep && b < 3 && i[..] == [0; PAGE_SIZE][..]),
                None => assert!(b < keep || b >= 3, "page {b} of {heap} left as it was"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            partial,
            part.map(|p| (keep - 1, p)).into_iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_map_that_is_shorter_already_is_left_alone() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(VM, 1);
    let lsn = truncate(&mut f, 40_000, 6);
    assert_eq!(f.size(VM), Some(1));
    assert_eq!(f.store.keys_at(lsn), []);
}

#[test]
fn the_free_space_map_is_cut_at_the_page_of_the_tree() {
    let fsm = T.with_fork(Fork::Fsm);
    // Heap blocks, pages kept, page zeroed.
    for (heap, keep, zeroed) in [
        (0, 2, None),
        (1, 3, Some(2)),
        (4068, 3, Some(2)),
        (4069, 3, None),
        (4070, 4, Some(3)),
    ] {
        let mut f = Feed::new(PgMajor::V16);
        f.make(fsm, 6);
        let lsn = truncate(&mut f, heap, 4);
        assert_eq!(f.size(fsm), Some(keep), "{heap}");
        let found = (0..6).find(|b| f.block_at(fsm, *b, lsn).is_some());
        assert_eq!(found, zeroed, "{heap}");
    }
}

#[test]
fn pages_behind_the_cut_come_back_empty_or_with_an_image() {
    let mut f = Feed::new(PgMajor::V16);
    f.make(T, 5);
    truncate(&mut f, 1, 1);
    let rec = f.rec(0, 0xB0).block(0, T, 3).image(&page(8), None, true);
    let lsn = f.push(rec);
    for b in [1, 2] {
        assert_eq!(
            f.block_at(T, b, lsn),
            Some(Value::Image(vec![0; PAGE_SIZE].into()))
        );
    }
    assert_eq!(f.size(T), Some(4));
}
