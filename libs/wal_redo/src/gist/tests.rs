use super::*;
use crate::index::testing::{LSN, Rec, any_page, any_record, items, le, page, survives, tuple};
use proptest::prelude::*;
use types::PAGE_SIZE;

fn special_of(nsn: u64, right: u32, flags: u16) -> Vec<u8> {
    le![(nsn >> 32) as u32, nsn as u32, right, flags, GIST_PAGE_ID]
}

fn read_special(buf: &[u8; PAGE_SIZE]) -> (u64, u32, u16) {
    let mut copy = *buf;
    let p = Page::new(&mut copy);
    let at = special(&p).unwrap();
    assert_eq!(p.u16_at(at + PAGE_ID).unwrap(), GIST_PAGE_ID);
    let nsn = u64::from(p.u32_at(at).unwrap()) << 32 | u64::from(p.u32_at(at + 4).unwrap());
    (nsn, p.u32_at(at + 8).unwrap(), p.u16_at(at + 12).unwrap())
}

fn t(n: u32) -> Vec<u8> {
    tuple(n, 1, 0, 24)
}

fn leaf(list: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    page(&special_of(3, 8, LEAF | HAS_GARBAGE | FOLLOW_RIGHT), list)
}

#[test]
fn page_update_replaces_deletes_and_appends() {
    let update = |deleted: u16, inserted: u16, data: &[u8]| {
        let mut p = leaf(&[t(1), t(2), t(3), t(4)]);
        let rec = Rec::new(PAGE_UPDATE, &le![deleted, inserted]).block(0, 5, data);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(read_special(&p), (3, 8, LEAF | HAS_GARBAGE | FOLLOW_RIGHT));
        items(&p)
    };
    let wide = tuple(9, 1, 0, 40);
    assert_eq!(
        update(1, 1, &[le![2u16], wide.clone()].concat()),
        [t(1), wide, t(3), t(4)]
    );
    assert_eq!(
        update(2, 1, &[le![1u16, 3u16], t(7)].concat()),
        [t(2), t(4), t(7)]
    );
    assert_eq!(update(3, 0, &le![1u16, 2u16, 4u16]), [t(3)]);
    assert_eq!(
        update(0, 2, &[t(5), t(6)].concat()),
        [t(1), t(2), t(3), t(4), t(5), t(6)]
    );
}

#[test]
fn the_child_of_a_finished_split_takes_the_lsn_even_after_an_image() {
    let rec = Rec::new(PAGE_UPDATE, &le![0u16, 0u16])
        .block(0, 5, &[])
        .block(1, 6, &[]);
    let mut p = leaf(&[]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(read_special(&p), (LSN.0, 8, LEAF | HAS_GARBAGE));
    let mut q = leaf(&[]);
    rec.with(1, |cx| after_image(cx, &mut Page::new(&mut q)))
        .unwrap();
    assert_eq!(p, q);
    let mut q = leaf(&[]);
    rec.with(0, |cx| after_image(cx, &mut Page::new(&mut q)))
        .unwrap();
    assert_eq!(q, leaf(&[]));
}

#[test]
fn delete_has_a_longer_header_since_16() {
    for (version, main) in [
        (PgMajor::V15, le![7u32, 2u16, 1u16, 3u16]),
        (PgMajor::V16, le![7u32, 2u16, 1u16, 1u16, 3u16]),
    ] {
        let mut p = leaf(&[t(1), t(2), t(3)]);
        let rec = Rec::new(DELETE, &main).block(0, 5, &[]).version(version);
        rec.apply(redo, 0, &mut p).unwrap();
        assert_eq!(items(&p), [t(2)]);
        assert_eq!(read_special(&p).2, LEAF | FOLLOW_RIGHT);
    }
}

fn split(first: u32) -> Rec {
    let main = le![77u32, 0u32, 0x5_0000_0006u64, 1u8, 0u8, 3u16, 1u8];
    let data = |n: u32| [le![2u32], t(n), t(n + 1)].concat();
    Rec::new(PAGE_SPLIT, &main)
        .block(0, 99, &[])
        .block(1, first, &data(10))
        .block(2, 21, &data(20))
        .block(3, 22, &data(30))
}

#[test]
fn split_of_an_ordinary_page() {
    let rec = split(4);
    for (id, right, flags, n) in [
        (1, 21, LEAF | FOLLOW_RIGHT, 10),
        (2, 22, LEAF | FOLLOW_RIGHT, 20),
        (3, 77, LEAF, 30),
    ] {
        let mut p = [0; PAGE_SIZE];
        rec.apply(redo, id, &mut p).unwrap();
        assert_eq!(read_special(&p), (0x5_0000_0006, right, flags));
        assert_eq!(items(&p), [t(n), t(n + 1)]);
    }
    let mut child = leaf(&[]);
    rec.apply(redo, 0, &mut child).unwrap();
    assert_eq!(read_special(&child).0, LSN.0);
}

#[test]
fn split_of_the_root() {
    let rec = split(0);
    for (id, right, flags) in [(1, NO_BLOCK, 0), (2, 22, LEAF), (3, 77, LEAF)] {
        let mut p = [0; PAGE_SIZE];
        rec.apply(redo, id, &mut p).unwrap();
        assert_eq!(read_special(&p), (0x5_0000_0006, right, flags));
    }
}

#[test]
fn page_deletion() {
    let rec = Rec::new(PAGE_DELETE, &le![0x9_0000_0001u64, 2u16])
        .block(0, 5, &[])
        .block(1, 0, &[]);
    let mut p = leaf(&[]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(
        read_special(&p).2,
        LEAF | HAS_GARBAGE | FOLLOW_RIGHT | DELETED
    );
    assert_eq!(p[24..32], 0x9_0000_0001u64.to_le_bytes());
    assert_eq!(Page::new(&mut p).lower(), 32);
    let mut parent = page(&special_of(0, NO_BLOCK, 0), &[t(1), t(2), t(3)]);
    rec.apply(redo, 1, &mut parent).unwrap();
    assert_eq!(items(&parent), [t(1), t(3)]);
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(16)) {
        survives(redo, &rec, &page);
    }
}
