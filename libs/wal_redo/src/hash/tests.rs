use super::meta::{buckets_after, initial_buckets, phase_of};
use super::*;
use crate::index::testing::{Rec, any_page, any_record, items, le, page, survives, tuple};
use proptest::prelude::*;
use types::PAGE_SIZE;

fn special_of(prev: u32, next: u32, bucket: u32, flags: u16) -> Vec<u8> {
    le![prev, next, bucket, flags, HASH_PAGE_ID]
}

fn read_special(buf: &[u8; PAGE_SIZE]) -> (u32, u32, u32, u16) {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    let at = special(&p).unwrap();
    assert_eq!(p.u16_at(at + PAGE_ID).unwrap(), HASH_PAGE_ID);
    (
        p.u32_at(at).unwrap(),
        p.u32_at(at + 4).unwrap(),
        p.u32_at(at + 8).unwrap(),
        p.u16_at(at + 12).unwrap(),
    )
}

fn t(n: u32) -> Vec<u8> {
    tuple(n, 1, 0, 16)
}

fn bucket(list: &[Vec<u8>], flags: u16) -> [u8; PAGE_SIZE] {
    page(&special_of(1, 2, 3, flags), list)
}

fn metapage(tuples: f64) -> [u8; PAGE_SIZE] {
    let mut p = [7; PAGE_SIZE];
    let main = [tuples.to_le_bytes().to_vec(), le![449u32, 307u16]].concat();
    Rec::new(INIT_META_PAGE, &main)
        .block(0, 0, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    p
}

fn word(buf: &[u8; PAGE_SIZE], at: usize) -> u32 {
    u32::from_le_bytes(buf[24 + at..28 + at].try_into().unwrap())
}

fn tuples(buf: &[u8; PAGE_SIZE]) -> f64 {
    f64::from_le_bytes(buf[32..40].try_into().unwrap())
}

#[test]
fn phases_double_and_are_cut_in_four_from_group_ten_on() {
    let phases: Vec<u32> = [1, 2, 3, 4, 5, 512, 513, 640, 641, 1024, 1025]
        .map(phase_of)
        .into();
    assert_eq!(phases, [0, 1, 2, 2, 3, 9, 10, 10, 11, 13, 14]);
    let after: Vec<u32> = [0, 1, 9, 10, 11, 12, 13, 14].map(buckets_after).into();
    assert_eq!(after, [1, 2, 512, 640, 768, 896, 1024, 1280]);
    assert_eq!((phase_of(1 << 30), buckets_after(93)), (93, 1 << 30));
    assert_eq!(initial_buckets(0.0, 307), 2);
    assert_eq!(initial_buckets(307.0 * 700.0, 307), 768);
    assert_eq!(initial_buckets(1e300, 10), 1 << 30);
}

#[test]
fn init_meta_page() {
    let p = metapage(307.0 * 5.0);
    assert_eq!([word(&p, 0), word(&p, 4)], [0x0644_0640, 4]);
    assert_eq!(p[24 + 16..24 + 24], le![307u16, 8152u16, 4096u16, 15u16]);
    // Eight buckets, phase 3.
    assert_eq!(
        [24, 28, 32, 36, 40, 44, 48].map(|at| word(&p, at)),
        [7, 15, 7, 3, 0, 0, 449]
    );
    assert_eq!(
        [0, 1, 2, 3, 4].map(|i| word(&p, 52 + 4 * i)),
        [0, 0, 0, 1, 0]
    );
    assert_eq!(Page::new(&mut p.clone()).lower(), 4568);
    assert_eq!(read_special(&p), (NO_BLOCK, NO_BLOCK, NO_BLOCK, META));
    let mut p = [0; PAGE_SIZE];
    let rec = Rec::new(INIT_META_PAGE, &[0; 14]).block(0, 0, &[]);
    assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
}

#[test]
fn bitmap_pages() {
    let rec = Rec::new(INIT_BITMAP_PAGE, &le![4096u16])
        .block(0, 3, &[])
        .block(1, 0, &[]);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(read_special(&p), (NO_BLOCK, NO_BLOCK, NO_BLOCK, BITMAP));
    assert!(p[24..4120].iter().all(|b| *b == 0xFF) && p[4120] == 0);
    assert_eq!(Page::new(&mut p).lower(), 4120);
    let mut m = metapage(0.0);
    rec.apply(redo, 1, &mut m).unwrap();
    // Two buckets: the bitmap is block 3.
    assert_eq!((word(&m, 44), word(&m, 444)), (1, 3));
    let mut p = [0; PAGE_SIZE];
    let rec = Rec::new(INIT_BITMAP_PAGE, &le![9000u16]).block(0, 3, &[]);
    assert!(rec.apply(redo, 0, &mut p).is_err());
}

#[test]
fn insert_counts_the_tuple() {
    let rec = Rec::new(INSERT, &le![1u16])
        .block(0, 2, &t(1))
        .block(1, 0, &[]);
    let mut p = bucket(&[t(2)], 2);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [t(1), t(2)]);
    let mut m = metapage(0.0);
    rec.apply(redo, 1, &mut m).unwrap();
    assert_eq!(tuples(&m), 1.0);
}

#[test]
fn add_overflow_page() {
    let record = |found: u8| {
        Rec::new(ADD_OVFL_PAGE, &le![64u16, found])
            .block(0, 30, &le![9u32])
            .block(1, 12, &[])
            .block(2, 3, &le![33u32])
            .block(3, 31, &[])
            .block(4, 0, &le![34u32])
    };
    let rec = record(0);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(read_special(&p), (12, NO_BLOCK, 9, OVERFLOW));
    let mut p = bucket(&[], 2);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(read_special(&p), (1, 30, 3, 2));
    let mut map = bucket(&[], BITMAP);
    rec.apply(redo, 2, &mut map).unwrap();
    assert_eq!((word(&map, 0), word(&map, 4)), (0, 2));
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 3, &mut p).unwrap();
    assert_eq!((p[87], p[88]), (0xFF, 0));
    let mut m = metapage(0.0);
    rec.apply(redo, 4, &mut m).unwrap();
    assert_eq!([40, 44, 444, 56].map(|at| word(&m, at)), [34, 1, 31, 3]);
    let mut m = metapage(0.0);
    record(1).apply(redo, 4, &mut m).unwrap();
    assert_eq!([40, 44, 444, 56].map(|at| word(&m, at)), [34, 0, 0, 1]);
}

#[test]
fn a_bit_outside_the_bitmap_is_refused() {
    let rec = Rec::new(ADD_OVFL_PAGE, &le![64u16, 0u8]).block(2, 3, &le![u32::MAX]);
    assert!(matches!(
        rec.apply(redo, 2, &mut bucket(&[], BITMAP)),
        Err(Fault::Rule(_))
    ));
}

#[test]
fn split_allocation() {
    let rec = Rec::new(SPLIT_ALLOCATE_PAGE, &le![8u32, 0x22u16, 0x12u16, 3u8])
        .block(0, 5, &[])
        .block(1, 9, &[])
        .block(2, 0, &le![7u32, 15u32, 4u32, 6u32]);
    let mut old = bucket(&[t(1)], 2);
    rec.apply(redo, 0, &mut old).unwrap();
    assert_eq!(read_special(&old), (8, 2, 3, 0x22));
    let mut image = bucket(&[t(1)], 2);
    rec.with(0, |cx| after_image(cx, &mut Page::new(&mut image)))
        .unwrap();
    assert_eq!(image, old);
    let mut new = [0; PAGE_SIZE];
    rec.apply(redo, 1, &mut new).unwrap();
    assert_eq!(read_special(&new), (8, NO_BLOCK, 8, 0x12));
    let mut m = metapage(0.0);
    rec.apply(redo, 2, &mut m).unwrap();
    // maxbucket, highmask, lowmask, ovflpoint, spares[4]
    assert_eq!(
        [24, 28, 32, 36, 68].map(|at| word(&m, at)),
        [8, 15, 7, 4, 6]
    );
}

#[test]
fn split_completion_sets_each_bucket_its_flags() {
    let rec = Rec::new(SPLIT_COMPLETE, &le![2u16, 0x42u16])
        .block(0, 5, &[])
        .block(1, 9, &[]);
    for (id, flags) in [(0, 2), (1, 0x42)] {
        let mut p = bucket(&[], 0x22);
        rec.apply(redo, id, &mut p).unwrap();
        assert_eq!(read_special(&p).3, flags);
        let mut p = bucket(&[], 0x22);
        rec.with(id, |cx| after_image(cx, &mut Page::new(&mut p)))
            .unwrap();
        assert_eq!(read_special(&p).3, flags);
    }
    let rec = Rec::new(SPLIT_CLEANUP, &[]).block(0, 5, &[]);
    let mut p = bucket(&[], 0x42);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(read_special(&p).3, 2);
    let rec = Rec::new(SPLIT_PAGE, &[]).block(0, 5, &[]);
    assert!(matches!(rec.apply(redo, 0, &mut p), Err(Fault::Rule(_))));
}

#[test]
fn move_page_contents() {
    let data = [le![1u16, 3u16], t(7), t(9)].concat();
    let rec = Rec::new(MOVE_PAGE_CONTENTS, &le![2u16, 0u8])
        .block(0, 2, &[])
        .block(1, 5, &data)
        .block(2, 6, &le![1u16, 2u16]);
    let mut p = bucket(&[t(8)], 1);
    assert_eq!(rec.apply(redo, 0, &mut p), Ok(Effect::Untouched));
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [t(7), t(8), t(9)]);
    rec.apply(redo, 2, &mut p).unwrap();
    assert_eq!(items(&p), [t(9)]);
}

fn squeeze_record(tuples: u16, prev_is_same: u8, version: PgMajor) -> Rec {
    let data = if tuples == 1 {
        [le![1u16], t(7)].concat()
    } else {
        Vec::new()
    };
    Rec::new(SQUEEZE_PAGE, &le![40u32, 41u32, tuples, 0u8, prev_is_same])
        .block(0, 2, &[])
        .block(1, 5, &data)
        .block(2, 6, &[])
        .block(3, 40, &[])
        .block(4, 41, &[])
        .block(5, 3, &le![2u32])
        .block(6, 0, &le![2u32])
        .version(version)
}

#[test]
fn squeeze() {
    let rec = squeeze_record(1, 1, PgMajor::V17);
    let mut p = bucket(&[], OVERFLOW);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(
        (items(&p), read_special(&p)),
        (vec![t(7)], (1, 41, 3, OVERFLOW))
    );
    rec.apply(redo, 2, &mut p).unwrap();
    assert_eq!(read_special(&p), (NO_BLOCK, NO_BLOCK, NO_BLOCK, UNUSED));
    let mut p = bucket(&[], OVERFLOW);
    rec.apply(redo, 3, &mut p).unwrap();
    rec.apply(redo, 4, &mut p).unwrap();
    assert_eq!(read_special(&p), (40, 41, 3, OVERFLOW));
    let mut map = bucket(&[], BITMAP);
    map[24] = 0xFF;
    rec.apply(redo, 5, &mut map).unwrap();
    assert_eq!(map[24], 0b1111_1011);
    let mut m = metapage(0.0);
    rec.apply(redo, 6, &mut m).unwrap();
    assert_eq!(word(&m, 40), 2);
}

#[test]
fn squeeze_without_tuples_leaves_the_write_page_alone_since_17() {
    for (version, effect) in [
        (PgMajor::V16, Effect::Changed),
        (PgMajor::V17, Effect::Untouched),
    ] {
        let mut p = bucket(&[t(1)], OVERFLOW);
        assert_eq!(
            squeeze_record(0, 0, version).apply(redo, 1, &mut p),
            Ok(effect)
        );
        assert_eq!(p, bucket(&[t(1)], OVERFLOW));
    }
}

#[test]
fn delete_and_clear_the_dead_mark() {
    for (clear, flags) in [(0u8, 0x82), (1, 2)] {
        let rec = Rec::new(DELETE, &le![clear, 1u8])
            .block(0, 5, &[])
            .block(1, 5, &le![1u16, 3u16]);
        let mut p = bucket(&[t(1), t(2), t(3)], 0x82);
        assert_eq!(rec.apply(redo, 0, &mut p), Ok(Effect::Untouched));
        rec.apply(redo, 1, &mut p).unwrap();
        assert_eq!((items(&p), read_special(&p).3), (vec![t(2)], flags));
    }
}

#[test]
fn vacuum_one_page_and_the_tuple_count() {
    for (version, head) in [
        (PgMajor::V14, le![77u32, 2i32]),
        (PgMajor::V16, le![77u32, 2u16, 1u8, 0u8]),
    ] {
        let main = [head, le![1u16, 2u16]].concat();
        let rec = Rec::new(VACUUM_ONE_PAGE, &main)
            .block(0, 5, &[])
            .block(1, 0, &[]);
        let rec = rec.version(version);
        let mut p = bucket(&[t(1), t(2), t(3)], 0x82);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!((items(&p), read_special(&p).3), (vec![t(3)], 2));
        let mut m = metapage(0.0);
        let set = Rec::new(UPDATE_META_PAGE, &10.0f64.to_le_bytes()).block(0, 0, &[]);
        set.apply(redo, 0, &mut m).unwrap();
        rec.apply(redo, 1, &mut m).unwrap();
        assert_eq!(tuples(&m), 8.0);
    }
    let rec = Rec::new(VACUUM_ONE_PAGE, &le![77u32, -1i32]).block(0, 5, &[]);
    let rec = rec.version(PgMajor::V14);
    assert!(matches!(
        rec.apply(redo, 0, &mut bucket(&[], 2)),
        Err(Fault::Rule(_))
    ));
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(16)) {
        survives(redo, &rec, &page);
    }

    #[test]
    fn a_phase_ends_at_or_after_its_buckets(n in 1u32..=1 << 30) {
        let phase = phase_of(n);
        prop_assert!(buckets_after(phase) >= n);
        prop_assert!(phase == 0 || buckets_after(phase - 1) < n);
    }
}
