use super::*;
use crate::index::testing::{Rec, any_page, any_record, items, le, page, survives};
use proptest::prelude::*;
use types::PAGE_SIZE;

fn page_type(buf: &[u8; PAGE_SIZE]) -> u16 {
    u16::from_le_bytes([buf[8190], buf[8191]])
}

fn regular(list: &[Vec<u8>]) -> [u8; PAGE_SIZE] {
    page(&le![0u32, 0u16, REGULAR], list)
}

fn summary(n: u8) -> Vec<u8> {
    vec![n; 16]
}

#[test]
fn create_index_writes_the_metapage() {
    let mut p = [1; PAGE_SIZE];
    Rec::new(CREATE_INDEX, &le![128u32, 1u16])
        .block(0, 0, &[])
        .apply(redo, 0, &mut p)
        .unwrap();
    assert_eq!(p[24..40], le![MAGIC, 1u32, 128u32, 0u32]);
    assert_eq!((page_type(&p), Page::new(&mut p).lower()), (META, 40));
    let rec = Rec::new(REVMAP_EXTEND, &le![7u32])
        .block(0, 0, &[])
        .block(1, 7, &[]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(p[24..40], le![MAGIC, 1u32, 128u32, 7u32]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(page_type(&p), REVMAP);
}

#[test]
fn insert_fills_a_page_and_the_revmap() {
    let main = le![2724u32, 2u32, 1u16];
    let rec = Rec::new(INSERT | INIT_PAGE, &main)
        .block(0, 9, &summary(5))
        .block(1, 1, &[]);
    let mut p = [0; PAGE_SIZE];
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!((items(&p), page_type(&p)), (vec![summary(5)], REGULAR));
    // Heap block 2724 is in range 1362, entry 2 of the second revmap page.
    let mut map = page(&le![0u32, 0u16, REVMAP], &[]);
    rec.apply(redo, 1, &mut map).unwrap();
    assert_eq!(map[24 + 12..24 + 18], tid(9, 1));
}

#[test]
fn update_moves_a_summary_and_keeps_numbers() {
    let main = le![1u16, 0u16, 3u32, 1u32, 2u16];
    let rec = Rec::new(UPDATE, &main)
        .block(0, 9, &summary(6))
        .block(1, 1, &[])
        .block(2, 8, &[]);
    let mut old = regular(&[summary(1), summary(2)]);
    rec.apply(redo, 2, &mut old).unwrap();
    let mut copy = old;
    let p = Page::new(&mut copy);
    assert!(p.line_pointer(1).unwrap().is_unused());
    assert_eq!(p.item(2).unwrap(), summary(2));
    let mut new = regular(&[summary(1)]);
    rec.apply(redo, 0, &mut new).unwrap();
    assert_eq!(items(&new), [summary(1), summary(6)]);
    // An offset number that is in use is refused, a free one below the end is taken.
    assert!(rec.apply(redo, 0, &mut new).is_err());
    let main = le![3u32, 1u32, 1u16];
    Rec::new(INSERT, &main)
        .block(0, 8, &summary(7))
        .apply(redo, 0, &mut old)
        .unwrap();
    assert_eq!(items(&old), [summary(7), summary(2)]);
}

#[test]
fn samepage_update_and_desummarize() {
    let mut p = regular(&[summary(1), summary(2)]);
    let rec = Rec::new(SAMEPAGE_UPDATE, &le![1u16]).block(0, 9, &[9; 40]);
    rec.apply(redo, 0, &mut p).unwrap();
    assert_eq!(items(&p), [vec![9; 40], summary(2)]);
    let rec = Rec::new(DESUMMARIZE, &le![1u32, 3u32, 2u16])
        .block(0, 1, &[])
        .block(1, 9, &[]);
    rec.apply(redo, 1, &mut p).unwrap();
    assert_eq!(items(&p), [vec![9; 40]]);
    let mut map = page(&le![0u32, 0u16, REVMAP], &[]);
    rec.apply(redo, 0, &mut map).unwrap();
    assert_eq!(map[24 + 18..24 + 24], [0xFF, 0xFF, 0xFF, 0xFF, 0, 0]);
}

#[test]
fn zero_pages_per_range_is_refused() {
    let mut map = page(&le![0u32, 0u16, REVMAP], &[]);
    let rec = Rec::new(INSERT, &le![3u32, 0u32, 1u16])
        .block(0, 8, &[])
        .block(1, 1, &[]);
    assert!(matches!(rec.apply(redo, 1, &mut map), Err(Fault::Rule(_))));
}

proptest! {
    #[test]
    fn any_record_on_any_page_never_panics(rec in any_record(), page in any_page(8)) {
        survives(redo, &rec, &page);
    }
}
