use super::posting::IS_POSTING;
use super::*;
use crate::index::testing::{Rec, any_page, any_record, items, le, page, survives, tuple};
use crate::index::{set_tuple_tid, tid, tuple_tid};
use proptest::prelude::*;
use types::PAGE_SIZE;

fn special_of(prev: u32, next: u32, level: u32, flags: u16, cycle: u16) -> Vec<u8> {
    le![prev, next, level, flags, cycle]
}

fn read_special(buf: &[u8; PAGE_SIZE]) -> (u32, u32, u32, u16, u16) {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    let at = special(&p).unwrap();
    (
        p.u32_at(at).unwrap(),
        p.u32_at(at + 4).unwrap(),
        p.u32_at(at + 8).unwrap(),
        p.u16_at(at + 12).unwrap(),
        p.u16_at(at + 14).unwrap(),
    )
}

/// A posting list tuple with a 16-byte key part and heap tids (block, 1).
fn posting(blocks: &[u32]) -> Vec<u8> {
    let len = align8(16 + 6 * blocks.len());
    let mut t = tuple(0, 0, ALT_TID, 16);
    for b in blocks {
        t.extend_from_slice(&tid(*b, 1));
    }
    t.resize(len, 0);
    t[6..8].copy_from_slice(&(len as u16 | ALT_TID).to_le_bytes());
    set_tuple_tid(&mut t, 16, blocks.len() as u16 | IS_POSTING).unwrap();
    t
}

fn plain(block: u32) -> Vec<u8> {
    tuple(block, 1, 0, 16)
}

/// A plain tuple with the key part of [`posting`].
fn plain_same_key(block: u32) -> Vec<u8> {
    let mut t = tuple(0, 0, 0, 16);
    set_tuple_tid(&mut t, block, 1).unwrap();
    t
}

fn leaf(items: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    page(&special_of(0, 0, 0, LEAF | HAS_GARBAGE, 9), items)
}

#[test]
fn insert_shifts_later_items() {
    let mut p = leaf(&[plain(1), plain(3)]);
    let rec = Rec::new(INSERT_LEAF, &le![2u16]).block(0, 5, &plain(2));
    assert_eq!(rec.apply(redo, 0, &mut p), Ok(Effect::Changed));
    assert_eq!(items(&p), [plain(1), plain(2), plain(3)]);
}

#[test]
fn insert_upper_finishes_the_split_of_the_child() {
    let mut p = page(&special_of(1, 2, 0, LEAF | INCOMPLETE_SPLIT, 0), &[]);
    let rec = Rec::new(INSERT_UPPER, &le![1u16])
        .block(0, 3, &plain(2))
        .block(1, 4, &[]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(read_special(&p), (1, 2, 0, LEAF, 0));
}

#[test]
fn insert_beyond_the_end_is_refused() {
    let mut p = leaf(&[plain(1)]);
    let rec = Rec::new(INSERT_LEAF, &le![3u16]).block(0, 5, &plain(2));
    assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Page(_))));
}

#[test]
fn posting_insert_moves_the_last_tid_to_the_new_item() {
    let mut p = leaf(&[posting(&[10, 20, 30])]);
    let data = [le![1u16], plain_same_key(15)].concat();
    let rec = Rec::new(INSERT_POST, &le![2u16]).block(0, 5, &data);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [posting(&[10, 15, 20]), plain_same_key(30)]);
}

#[test]
fn posting_insert_outside_the_list_is_refused() {
    for k in [0u16, 3] {
        let mut p = leaf(&[posting(&[10, 20, 30])]);
        let data = [le![k], plain_same_key(15)].concat();
        let rec = Rec::new(INSERT_POST, &le![2u16]).block(0, 5, &data);
        assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
    }
}

#[test]
fn meta_records_rebuild_the_metapage() {
    let data = le![4u32, 7u32, 2u32, 6u32, 1u32, 11u32, 1u32];
    let mut p = [0xEE; PAGE_SIZE];
    Rec::new(META_CLEANUP, &[])
        .block(0, 0, &data)
        .apply(redo, 0, &mut p)
        .unwrap();
    let q = Page::new(&mut p);
    let words: Vec<u32> = (0..7).map(|i| q.u32_at(24 + 4 * i).unwrap()).collect();
    assert_eq!(words, [MAGIC, 4, 7, 2, 6, 1, 11]);
    assert_eq!(q.range(56, 8).unwrap(), (-1.0f64).to_le_bytes());
    assert_eq!((q.u8_at(64).unwrap(), q.lower(), q.upper()), (1, 72, 8176));
    assert_eq!(read_special(&p), (0, 0, 0, META, 0));
}

#[test]
fn split_with_the_new_item_on_the_left() {
    // High key, then data items 1, 3, 4; 2 is new, 3 goes right.
    let old = [plain(99), plain(1), plain(3), plain(4)];
    let mut p = page(&special_of(8, 9, 0, LEAF | ROOT, 5), &old);
    let main = le![0u32, 3u16, 3u16, 0u16];
    let data = [plain(2), plain(50)].concat();
    let right = [plain(4), plain(3), plain(99)].concat();
    let rec = Rec::new(SPLIT_L, &main)
        .block(0, 7, &data)
        .block(1, 12, &right)
        .block(2, 9, &[]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [plain(50), plain(1), plain(2)]);
    assert_eq!(read_special(&p), (8, 12, 0, LEAF | INCOMPLETE_SPLIT, 0));

    let mut r = [0; PAGE_SIZE];
    rec.apply(redo, 1, &mut r).unwrap();
    assert_eq!(items(&r), [plain(99), plain(3), plain(4)]);
    assert_eq!(read_special(&r), (7, 9, 0, LEAF, 0));
    assert_eq!(Page::new(&mut r).lower(), 36);
    assert_eq!(Page::new(&mut r).upper(), 8176 - 48);

    let mut next = page(&special_of(7, 0, 0, LEAF, 0), &[]);
    rec.apply(redo, 2, &mut next).unwrap();
    assert_eq!(read_special(&next), (12, 0, 0, LEAF, 0));
}

#[test]
fn split_inside_a_posting_list() {
    let old = [posting(&[10, 20, 30]), plain(77)];
    let base = page(&special_of(0, 0, 0, LEAF, 5), &old);
    // The new item (15) goes left behind the rebuilt posting list.
    let main = le![0u32, 2u16, 2u16, 1u16];
    let data = [plain_same_key(15), plain(60)].concat();
    let mut p = base;
    let rec = Rec::new(SPLIT_L, &main)
        .block(0, 7, &data)
        .block(1, 12, &plain(77));
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(
        items(&p),
        [plain(60), posting(&[10, 15, 20]), plain_same_key(30)]
    );
    // It goes right: the left page only gets the rebuilt list.
    let mut p = base;
    let rec = Rec::new(SPLIT_R, &main)
        .block(0, 7, &data)
        .block(1, 12, &plain(77));
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [plain(60), posting(&[10, 15, 20])]);
}

#[test]
fn split_of_an_inner_page_finishes_the_child() {
    let rec = Rec::new(SPLIT_R, &le![1u32, 2u16, 2u16, 0u16])
        .block(0, 7, &plain(1))
        .block(1, 12, &plain(2))
        .block(3, 4, &[]);
    let mut child = page(&special_of(0, 0, 0, LEAF | INCOMPLETE_SPLIT, 0), &[]);
    rec.apply(redo, 3, &mut child).unwrap();
    assert_eq!(read_special(&child).3, LEAF);
    let mut right = [0; PAGE_SIZE];
    rec.apply(redo, 1, &mut right).unwrap();
    assert_eq!(read_special(&right), (7, 0, 1, 0, 0));
}

#[test]
fn dedup_merges_plain_and_posting_items() {
    let old = [
        plain(99),
        plain(1),
        plain_same_key(10),
        posting(&[20, 30]),
        plain_same_key(40),
        plain(5),
        posting(&[50, 60]),
        plain_same_key(70),
    ];
    let mut p = page(&special_of(3, 4, 0, LEAF | HAS_GARBAGE, 2), &old);
    let rec = Rec::new(DEDUP, &le![2u16]).block(0, 7, &le![3u16, 3u16, 7u16, 2u16]);
    rec.apply(redo, 0, &mut p).unwrap();
    let expected = [
        plain(99),
        plain(1),
        posting(&[10, 20, 30, 40]),
        plain(5),
        posting(&[50, 60, 70]),
    ];
    assert_eq!(items(&p), expected);
    assert_eq!(read_special(&p), (3, 4, 0, LEAF, 2));
}

#[test]
fn dedup_intervals_must_lie_inside_the_page() {
    for list in [le![2u16, 3u16], le![4u16, 2u16], le![1u16, 1u16]] {
        let mut p = leaf(&[plain(1), plain(2), plain(3)]);
        let rec = Rec::new(DEDUP, &le![1u16]).block(0, 7, &list);
        assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
    }
}

#[test]
fn delete_shortens_posting_lists_and_drops_items() {
    let old = [
        plain(1),
        posting(&[10, 20, 30]),
        plain(3),
        posting(&[40, 50]),
    ];
    // Item 3 goes; tids 0 and 2 of item 2 go, so does tid 0 of item 4.
    let data = le![3u16, 2u16, 4u16, 2u16, 0u16, 2u16, 1u16, 0u16];
    let mut p = leaf(&old);
    let main = le![0u32, 1u16, 2u16, 0u16];
    let rec = Rec::new(DELETE, &main).block(0, 7, &data);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(
        items(&p),
        [plain(1), plain_same_key(20), plain_same_key(50)]
    );
    assert_eq!(read_special(&p), (0, 0, 0, LEAF, 9));
}

#[test]
fn vacuum_clears_the_cycle_id_in_18_only() {
    for (version, cycle) in [(PgMajor::V17, 9), (PgMajor::V18, 0)] {
        let mut p = leaf(&[plain(1), posting(&[10, 20, 30]), plain(3)]);
        let data = le![1u16, 2u16, 1u16, 1u16];
        let rec = Rec::new(VACUUM, &le![1u16, 1u16])
            .block(0, 7, &data)
            .version(version);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(items(&p), [posting(&[10, 30]), plain(3)]);
        assert_eq!(read_special(&p), (0, 0, 0, LEAF, cycle));
    }
}

#[test]
fn dropping_every_tid_of_a_list_is_refused() {
    let mut p = leaf(&[posting(&[10, 20])]);
    let data = le![1u16, 2u16, 0u16, 1u16];
    let rec = Rec::new(VACUUM, &le![0u16, 1u16]).block(0, 7, &data);
    assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
}

#[test]
fn half_dead_mark_redirects_the_parent() {
    let main = le![2u16, 0u16, 40u32, 39u32, 41u32, 38u32];
    let rec = Rec::new(MARK_PAGE_HALFDEAD, &main)
        .block(0, 40, &[])
        .block(1, 3, &[]);
    let old = [
        tuple(30, 1, 0x2000, 8),
        tuple(38, 1, 0x2000, 16),
        tuple(41, 1, 0x2000, 16),
    ];
    let mut parent = page(&special_of(0, 0, 1, 0, 0), &old);
    rec.apply(redo, 1, &mut parent).unwrap();
    let left = items(&parent);
    assert_eq!(left.len(), 2);
    assert_eq!(tuple_tid(&left[1]), Ok((41, 1)));
    assert_eq!(left[1][8..], old[1][8..]);

    let mut p = leaf(&[plain(1)]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [tuple(38, 0, 0x2000, 8)]);
    assert_eq!(read_special(&p), (39, 41, 0, LEAF | HALF_DEAD, 0));
}

#[test]
fn unlink_deletes_a_page_and_joins_its_neighbours() {
    let mut main = le![
        11u32,
        12u32,
        1u32,
        0u32,
        0x1_0000_0005u64,
        21u32,
        22u32,
        u32::MAX
    ];
    main.resize(40, 0);
    let meta = le![4u32, 7u32, 2u32, 6u32, 1u32, 0u32, 0u32];
    let rec = Rec::new(UNLINK_PAGE_META, &main)
        .block(0, 30, &[])
        .block(1, 11, &[])
        .block(2, 12, &[])
        .block(3, 31, &[])
        .block(4, 0, &meta);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(read_special(&p), (11, 12, 1, DELETED | HAS_FULLXID, 0));
    let q = Page::new(&mut p);
    assert_eq!(
        (q.lower(), q.upper(), q.u32_at(24), q.u32_at(28)),
        (32, 8176, Ok(5), Ok(1))
    );

    let mut left = page(&special_of(1, 30, 1, 0, 4), &[]);
    rec.apply(redo, 1, &mut left).unwrap();
    assert_eq!(read_special(&left), (1, 12, 1, 0, 4));
    let mut right = page(&special_of(30, 2, 1, 0, 4), &[]);
    rec.apply(redo, 2, &mut right).unwrap();
    assert_eq!(read_special(&right), (11, 2, 1, 0, 4));
    let mut dead = [0; PAGE_SIZE];
    rec.apply(redo, 3, &mut dead).unwrap();
    assert_eq!(read_special(&dead), (21, 22, 0, LEAF | HALF_DEAD, 0));
    assert_eq!(items(&dead), [tuple(u32::MAX, 0, 0x2000, 8)]);
    let mut m = [0; PAGE_SIZE];
    rec.apply(redo, 4, &mut m).unwrap();
    assert_eq!(read_special(&m).3, META);
}

#[test]
fn new_root_takes_its_items_from_the_record() {
    let data = [plain(9), tuple(1, 0, 0x2000, 8)].concat();
    let rec = Rec::new(NEWROOT, &le![3u32, 1u32])
        .block(0, 3, &data)
        .block(1, 1, &[]);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [tuple(1, 0, 0x2000, 8), plain(9)]);
    assert_eq!(read_special(&p), (0, 0, 1, ROOT, 0));
    let mut empty = [0; PAGE_SIZE];
    Rec::new(NEWROOT, &le![3u32, 0u32])
        .block(0, 3, &[])
        .apply(redo, 0, &mut empty)
        .unwrap();
    assert_eq!(read_special(&empty), (0, 0, 0, ROOT | LEAF, 0));
}

#[test]
fn unknown_codes_and_references_are_unsupported() {
    let mut p = leaf(&[]);
    let rec = Rec::new(0xF0, &[]).block(0, 1, &[]);
    assert_eq!(rec.apply(redo, 0, &mut p), Err(Fault::Unsupported));
    let rec = Rec::new(DEDUP, &le![0u16]).block(1, 1, &[]);
    assert_eq!(rec.apply(redo, 1, &mut p), Err(Fault::Unsupported));
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(16)) {
        survives(redo, &rec, &page);
    }

    #[test]
    fn posting_swap_keeps_the_set_of_tids(n in 2usize..40, at in 1usize..39, new in any::<u16>()) {
        prop_assume!(at < n);
        let blocks: Vec<u32> = (0..n as u32).map(|i| i * 3).collect();
        let mut t = posting(&blocks);
        let last = super::posting::swap(&mut t, tid(u32::from(new), 9), at).unwrap();
        let tids = super::posting::Tids::of(&t).unwrap();
        let bytes = tids.bytes(&t).unwrap().to_vec();
        let mut all: Vec<[u8; 6]> = bytes.as_chunks::<6>().0.to_vec();
        all.push(last);
        let mut expected: Vec<[u8; 6]> = blocks.iter().map(|b| tid(*b, 1)).collect();
        expected.insert(at, tid(u32::from(new), 9));
        prop_assert_eq!(all, expected);
    }
}
