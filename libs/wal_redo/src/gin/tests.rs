use super::*;
use crate::index::testing::{Rec, any_page, any_record, items, le, page, survives, tuple};
use crate::index::{tid, tuple_tid};
use proptest::prelude::*;
use std::collections::BTreeSet;
use types::PAGE_SIZE;

fn special_of(right: u32, max_off: u16, flags: u16) -> Vec<u8> {
    le![right, max_off, flags]
}

fn read_special(buf: &[u8; PAGE_SIZE]) -> (u32, u16, u16) {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    let at = special(&p).unwrap();
    (
        p.u32_at(at).unwrap(),
        p.u16_at(at + 4).unwrap(),
        p.u16_at(at + 6).unwrap(),
    )
}

/// A segment written by a plain rendering of the format.
fn segment(tids: &[(u32, u16)]) -> Vec<u8> {
    let ints: Vec<u64> = tids
        .iter()
        .map(|(b, o)| u64::from(*b) << 11 | u64::from(*o))
        .collect();
    let mut body = Vec::new();
    for pair in ints.windows(2) {
        let mut d = pair[1] - pair[0];
        loop {
            let low = (d % 128) as u8;
            d /= 128;
            if d == 0 {
                body.push(low);
                break;
            }
            body.push(low + 128);
        }
    }
    let len = body.len() as u16;
    if body.len() % 2 == 1 {
        body.push(0);
    }
    [tid(tids[0].0, tids[0].1).to_vec(), le![len], body].concat()
}

fn leaf(segments: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    let mut buf = page(&special_of(NO_BLOCK, 0, DATA | LEAF | COMPRESSED), &[]);
    let payload = segments.concat();
    let mut p = Page::new(&mut buf);
    p.put(PAYLOAD, &payload).unwrap();
    set_payload_len(&mut p, payload.len()).unwrap();
    buf
}

fn payload(buf: &[u8; PAGE_SIZE]) -> Vec<u8> {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    p.range(PAYLOAD, usize::from(p.lower()) - PAYLOAD)
        .unwrap()
        .to_vec()
}

fn recompress(buf: &mut [u8; PAGE_SIZE], data: &[u8]) -> Result<Effect, Fault> {
    let rec = Rec::new(INSERT, &le![3u16]).block(0, 4, data);
    rec.apply(redo, 0, buf)
}

#[test]
fn segments_encode_distances_in_groups_of_seven_bits() {
    // (1,1) -> (1,2): 1; (1,2) -> (1,130): 128 = 80 01; then a jump of one block: 2048 = 80 10.
    let s = segment(&[(1, 1), (1, 2), (1, 130), (2, 130)]);
    assert_eq!(s, [0, 0, 1, 0, 1, 0, 5, 0, 1, 0x80, 1, 0x80, 0x10, 0]);
    let mut tids = segment::Tids::new(&s).unwrap();
    let mut seen = Vec::new();
    while let Some(v) = tids.peek() {
        seen.push((v >> 11, v & 2047));
        tids.advance().unwrap();
    }
    assert_eq!(seen, [(1, 1), (1, 2), (1, 130), (2, 130)]);
}

#[test]
fn recompression_actions() {
    let a = segment(&[(1, 1), (1, 5)]);
    let b = segment(&[(2, 1), (2, 2), (2, 9)]);
    let c = segment(&[(3, 1)]);
    let d = segment(&[(4, 1), (9, 9)]);
    let x = segment(&[(2, 3)]);
    let base = leaf(&[a.clone(), b.clone(), c.clone(), d.clone()]);

    let mut p = base;
    recompress(&mut p, &le![1u16, 1u8, 1u8]).unwrap();
    assert_eq!(payload(&p), [a.clone(), c.clone(), d.clone()].concat());

    let mut p = base;
    recompress(&mut p, &[le![1u16, 2u8, 2u8], x.clone()].concat()).unwrap();
    assert_eq!(
        payload(&p),
        [a.clone(), b.clone(), x.clone(), c.clone(), d.clone()].concat()
    );

    let mut p = base;
    let data = [le![2u16, 1u8, 3u8], x.clone(), le![3u8, 1u8]].concat();
    recompress(&mut p, &data).unwrap();
    assert_eq!(payload(&p), [a.clone(), x.clone(), c.clone()].concat());

    let mut p = base;
    let added = [tid(2, 2), tid(2, 4), tid(3, 0)].concat();
    recompress(&mut p, &[le![1u16, 1u8, 4u8, 3u16], added].concat()).unwrap();
    let merged = segment(&[(2, 1), (2, 2), (2, 4), (2, 9), (3, 0)]);
    assert_eq!(
        payload(&p),
        [a.clone(), merged, c.clone(), d.clone()].concat()
    );

    // A new segment at the end, and several for one place.
    let mut p = base;
    let data = [le![2u16, 4u8, 2u8], x.clone(), le![4u8, 2u8], a.clone()].concat();
    recompress(&mut p, &data).unwrap();
    assert_eq!(
        payload(&p),
        [a, b, c, d, x, segment(&[(1, 1), (1, 5)])].concat()
    );
}

#[test]
fn recompression_refuses_nonsense() {
    let base = leaf(&[segment(&[(1, 1), (1, 5)]), segment(&[(2, 1)])]);
    let unsorted = [le![1u16, 0u8, 4u8, 2u16].as_slice(), &tid(1, 3), &tid(1, 2)].concat();
    let wide = [le![1u16, 0u8, 4u8, 1u16].as_slice(), &tid(1, 2048)].concat();
    for data in [
        le![1u16, 2u8, 1u8],
        le![1u16, 0u8, 9u8],
        le![2u16, 1u8, 1u8, 0u8, 1u8],
        le![1u16, 0u8, 4u8, 3u16],
        unsorted,
        wide,
    ] {
        let mut p = base;
        assert!(recompress(&mut p, &data).is_err(), "{data:?}");
    }
}

#[test]
fn recompression_never_overflows_the_page() {
    let tids: Vec<(u32, u16)> = (0..2000).map(|i| (i * 1000, 1)).collect();
    let big = segment(&tids);
    let mut p = leaf(std::slice::from_ref(&big));
    let data = [le![1u16, 1u8, 2u8], big].concat();
    assert!(matches!(recompress(&mut p, &data), Err(Fault::Rule(_))));
}

#[test]
fn uncompressed_leaves_are_converted_first() {
    let mut buf = page(&special_of(NO_BLOCK, 2, DATA | LEAF), &[]);
    let mut p = Page::new(&mut buf);
    p.put(PAYLOAD, &[tid(5, 1), tid(6, 2)].concat()).unwrap();
    recompress(
        &mut buf,
        &[le![1u16, 0u8, 4u8, 1u16].as_slice(), &tid(5, 9)].concat(),
    )
    .unwrap();
    assert_eq!(payload(&buf), segment(&[(5, 1), (5, 9), (6, 2)]));
    assert_eq!(read_special(&buf), (NO_BLOCK, 0, DATA | LEAF | COMPRESSED));
}

#[test]
fn a_posting_tree_starts_with_the_logged_payload() {
    let body = segment(&[(1, 1), (1, 2)]);
    let mut p = [9; PAGE_SIZE];
    let main = [le![body.len() as u32], body.clone()].concat();
    Rec::new(CREATE_PTREE, &main)
        .block(0, 3, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(payload(&p), body);
    assert_eq!(read_special(&p), (NO_BLOCK, 0, DATA | LEAF | COMPRESSED));
}

fn inner(list: &[(u32, u32)]) -> [u8; PAGE_SIZE] {
    let mut buf = page(&special_of(NO_BLOCK, list.len() as u16, DATA), &[]);
    let mut p = Page::new(&mut buf);
    let body: Vec<u8> = list
        .iter()
        .flat_map(|(child, key)| posting(*child, *key))
        .collect();
    p.put(PAYLOAD, &body).unwrap();
    set_payload_len(&mut p, body.len()).unwrap();
    buf
}

fn posting(child: u32, key: u32) -> Vec<u8> {
    [&tid(child, 0)[..4], &tid(key, 1)].concat()
}

#[test]
fn inner_posting_insert_points_the_old_item_at_the_right_half() {
    let mut p = inner(&[(10, 1), (20, 2)]);
    let main = [le![1u16].as_slice(), &tid(20, 0)[..4], &tid(21, 0)[..4]].concat();
    let data = [le![2u16], posting(20, 7)].concat();
    let rec = Rec::new(INSERT, &main).block(0, 3, &data).block(1, 20, &[]);
    rec.apply(redo, 0, &mut p).unwrap();
    let expected = [posting(10, 1), posting(20, 7), posting(21, 2)].concat();
    assert_eq!(payload(&p), expected);
    assert_eq!(read_special(&p).1, 3);

    let mut child = page(&special_of(21, 0, DATA | INCOMPLETE_SPLIT), &[]);
    rec.apply(redo, 1, &mut child).unwrap();
    assert_eq!(read_special(&child), (21, 0, DATA));
}

#[test]
fn page_deletion_touches_page_parent_and_left_neighbour() {
    let main = le![1u16, 0u16, 55u32, 900u32];
    let rec = Rec::new(DELETE_PAGE, &main)
        .block(0, 4, &[])
        .block(1, 2, &[])
        .block(2, 3, &[]);
    let mut gone = leaf(&[segment(&[(1, 1)])]);
    rec.apply(redo, 0, &mut gone).unwrap();
    assert_eq!(read_special(&gone).2, DATA | LEAF | COMPRESSED | DELETED);
    assert_eq!(Page::new(&mut gone).prune_xid(), 900);
    let mut parent = inner(&[(10, 1), (20, 2)]);
    rec.apply(redo, 1, &mut parent).unwrap();
    assert_eq!(payload(&parent), posting(20, 2));
    assert_eq!(read_special(&parent).1, 1);
    let mut left = leaf(&[]);
    rec.apply(redo, 2, &mut left).unwrap();
    assert_eq!(read_special(&left).0, 55);
}

#[test]
fn entry_insert_on_leaf_and_inner_pages() {
    let t = |n: u32| tuple(n, 1, 0, 16);
    let mut p = page(&special_of(NO_BLOCK, 0, LEAF), &[t(1), t(3)]);
    let data = [le![2u16, 0u16], t(2)].concat();
    Rec::new(INSERT, &le![2u16])
        .block(0, 3, &data)
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [t(1), t(2), t(3)]);
    // isdelete: the item is replaced.
    let data = [le![3u16, 1u16], tuple(4, 1, 0, 24)].concat();
    Rec::new(INSERT, &le![2u16])
        .block(0, 3, &data)
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(items(&p), [t(1), t(2), tuple(4, 1, 0, 24)]);

    let mut p = page(&special_of(NO_BLOCK, 0, 0), &[t(1)]);
    let main = [le![0u16].as_slice(), &tid(8, 0)[..4], &tid(9, 0)[..4]].concat();
    let data = [le![1u16, 0u16], t(8)].concat();
    Rec::new(INSERT, &main)
        .block(0, 3, &data)
        .apply(redo, 0, &mut p)
        .unwrap();
    let list = items(&p);
    assert_eq!(list[0], t(8));
    assert_eq!(tuple_tid(&list[1]), Ok((9, 0)));
}

fn meta_bytes() -> Vec<u8> {
    (0..56).collect()
}

#[test]
fn metapage_records() {
    let mut main = vec![0; 16];
    main.extend(meta_bytes());
    main.extend(le![NO_BLOCK, NO_BLOCK, 0i32]);
    let mut p = [7; PAGE_SIZE];
    Rec::new(UPDATE_META_PAGE, &main)
        .block(0, 0, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(p[24..80], meta_bytes());
    assert_eq!(read_special(&p), (NO_BLOCK, 0, META));
    assert_eq!(Page::new(&mut p).lower(), 80);

    let main = [meta_bytes(), le![1i32, 0u32]].concat();
    let rec = Rec::new(DELETE_LISTPAGE, &main)
        .block(0, 0, &[])
        .block(1, 6, &[]);
    let mut q = [7; PAGE_SIZE];
    rec.apply(redo, 0, &mut q).unwrap();
    assert_eq!(p, q);
    rec.apply(redo, 1, &mut q).unwrap();
    assert_eq!(read_special(&q), (NO_BLOCK, 0, DELETED));
}

#[test]
fn pending_list_grows_by_tuples_or_by_a_page() {
    let t = |n: u32| tuple(n, 1, 0, 16);
    let build = |prev: u32, right: u32, n: i32| {
        let mut main = vec![0; 16];
        main.extend(meta_bytes());
        main.extend(le![prev, right, n]);
        main
    };
    let mut p = page(&special_of(NO_BLOCK, 1, LIST | LIST_FULLROW), &[t(1)]);
    let data = [t(2), t(3)].concat();
    let rec = Rec::new(UPDATE_META_PAGE, &build(NO_BLOCK, NO_BLOCK, 2)).block(1, 5, &data);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [t(1), t(2), t(3)]);
    assert_eq!(read_special(&p).1, 2);
    let rec = Rec::new(UPDATE_META_PAGE, &build(5, 6, 0)).block(1, 5, &[]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(read_special(&p).0, 6);
    let rec = Rec::new(UPDATE_META_PAGE, &build(NO_BLOCK, 6, 0)).block(1, 5, &[]);
    assert!(rec.apply(redo, 1, &mut p).is_err());

    for (right, max_off, flags) in [(9, 0, LIST), (NO_BLOCK, 1, LIST | LIST_FULLROW)] {
        let rec = Rec::new(INSERT_LISTPAGE, &le![right, 2i32]).block(0, 5, &data);
        let mut p = [3; PAGE_SIZE];
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(items(&p), [t(2), t(3)]);
        assert_eq!(read_special(&p), (right, max_off, flags));
    }
}

#[test]
fn image_only_records_without_an_image_are_errors() {
    let mut p = leaf(&[]);
    for info in [SPLIT, VACUUM_PAGE] {
        let rec = Rec::new(info, &[]).block(0, 5, &[]);
        assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
    }
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(8)) {
        survives(redo, &rec, &page);
    }

    #[test]
    fn any_recompression_of_any_leaf_never_panics(
        data in proptest::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..200),
        body in proptest::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..400),
    ) {
        let mut p = leaf(&[body]);
        let _ = recompress(&mut p, &data);
    }

    #[test]
    fn adding_items_is_a_set_union(
        old in proptest::collection::btree_set((0u32..5000, 1u16..300), 1..300),
        new in proptest::collection::btree_set((0u32..5000, 1u16..300), 1..100),
        before in any::<bool>(),
    ) {
        let list = |s: &BTreeSet<(u32, u16)>| s.iter().copied().collect::<Vec<_>>();
        let extra = segment(&[(0, 1)]);
        let mut segments = vec![segment(&list(&old)), extra.clone()];
        if before {
            segments.insert(0, extra.clone());
        }
        let mut p = leaf(&segments);
        let mut data = le![1u16, u8::from(before), 4u8, new.len() as u16];
        data.extend(new.iter().flat_map(|(b, o)| tid(*b, *o)));
        recompress(&mut p, &data).unwrap();
        segments[usize::from(before)] = segment(&list(&old.union(&new).copied().collect()));
        prop_assert_eq!(payload(&p), segments.concat());
    }
}
