//! Which base is used, which records are skipped, which are refused.

use crate::record::*;
use bytes::Bytes;
use types::{Fork, Key, Lsn, PgMajor, SlruKind, WalRecord};
use wal_redo::page::Page;
use wal_redo::{Error, Fault, Outcome, PageBuf, Stats, apply_postgres, reconstruct};

fn pg(rec: &Record) -> WalRecord {
    WalRecord::Postgres {
        will_init: false,
        rec: Bytes::from(rec.build()),
    }
}

fn page_at(lsn: u64, rows: u16) -> [u8; 8192] {
    let mut buf = PageBuf::new();
    for off in 1..=rows {
        let rec = insert(9, 7, off, b"row").build();
        apply_postgres(&mut buf, &key(7), Lsn(lsn), &rec, &vanilla(PgMajor::V16)).unwrap();
        Page::new(buf.page_mut().unwrap()).set_lsn(Lsn(lsn - 8));
    }
    Page::new(buf.page_mut().unwrap()).set_lsn(Lsn(lsn));
    *buf.page().unwrap()
}

fn image_of(page: &[u8; 8192], apply: bool) -> Block {
    let bytes = page.to_vec();
    let image = Some(Image {
        bytes,
        hole_offset: 0,
        apply,
    });
    Block {
        id: 0,
        rel: REL,
        block: 7,
        will_init: false,
        image,
        data: Vec::new(),
    }
}

#[test]
fn a_page_needs_a_base_unless_it_is_a_map() {
    let d = vanilla(PgMajor::V16);
    let mut out = PageBuf::new();
    let rec = pg(&insert(1, 7, 2, b"x"));
    let err = reconstruct(&key(7), None, [(Lsn(64), &rec)], &d, &mut out).unwrap_err();
    assert_eq!(
        err,
        Error::MissingBase {
            lsn: Lsn(64),
            key: key(7)
        }
    );
    assert!(reconstruct(&key(7), None, [], &d, &mut out).is_err());
    for fork in [Fork::Vm, Fork::Fsm] {
        reconstruct(
            &Key::rel_block(REL.with_fork(fork), 0),
            None,
            [],
            &d,
            &mut out,
        )
        .unwrap();
        assert_eq!(out.as_slice(), [0; 8192]);
    }
    let err = reconstruct(&key(7), Some(&[0; 100]), [], &d, &mut out).unwrap_err();
    assert_eq!(
        err,
        Error::BaseSize {
            key: key(7),
            len: 100
        }
    );
    assert!(reconstruct(&key(7), Some(&[0; 8200]), [], &d, &mut out).is_err());
    assert!(reconstruct(&Key::CHECKPOINT, None, [(Lsn(1), &rec)], &d, &mut out).is_err());
}

#[test]
fn records_the_page_contains_are_skipped() {
    let d = vanilla(PgMajor::V16);
    let base = page_at(0x2000, 1);
    let recs = [
        pg(&insert(1, 7, 2, b"second")),
        pg(&insert(1, 7, 2, b"second")),
    ];
    let mut out = PageBuf::new();
    let list = [(Lsn(0x2000), &recs[0]), (Lsn(0x2040), &recs[1])];
    let stats = reconstruct(&key(7), Some(&base), list, &d, &mut out).unwrap();
    assert_eq!(
        stats,
        Stats {
            changed: 1,
            older: 1,
            ..Stats::default()
        }
    );
    assert_eq!(Page::new(out.page_mut().unwrap()).max_offset(), 2);
}

#[test]
fn a_page_that_was_never_initialised_is_left_alone() {
    let d = vanilla(PgMajor::V16);
    let mut out = PageBuf::new();
    let rec = pg(&insert(1, 7, 2, b"x"));
    let stats = reconstruct(&key(7), Some(&[0; 8192]), [(Lsn(64), &rec)], &d, &mut out).unwrap();
    assert_eq!(
        stats,
        Stats {
            new_page: 1,
            ..Stats::default()
        }
    );
    assert_eq!(out.as_slice(), [0; 8192]);
}

#[test]
fn will_init_discards_the_base() {
    let d = vanilla(PgMajor::V16);
    let base = page_at(0x9000, 5);
    let mut out = PageBuf::new();
    let rec = pg(&insert(1, 7, 1, b"fresh"));
    reconstruct(&key(7), Some(&base), [(Lsn(64), &rec)], &d, &mut out).unwrap();
    let mut page = Page::new(out.page_mut().unwrap());
    assert_eq!((page.max_offset(), page.lsn()), (1, Lsn(64)));
    assert_eq!(page.item_mut(1).unwrap().len(), 29);
}

/// Found by fuzzing: a hash DELETE whose lock-only reference says WILL_INIT blanked the page and
/// reported it as untouched.
#[test]
fn a_reference_that_only_locks_cannot_discard_the_page() {
    let d = vanilla(PgMajor::V16);
    let mut rec = Record::new(12, 0x90, 1, [1, 1]).on(0, REL, 7, []);
    let mut buf = PageBuf::new();
    let base = page_at(0x2000, 1);
    assert!(buf.set(&base));
    let outcome = apply_postgres(&mut buf, &key(7), Lsn(0x3000), &rec.build(), &d);
    assert_eq!(outcome, Ok(Outcome::Untouched));
    assert_eq!(buf.as_slice(), base);
    rec.blocks[0].will_init = true;
    let outcome = apply_postgres(&mut buf, &key(7), Lsn(0x3000), &rec.build(), &d);
    assert!(
        matches!(outcome, Err(Error::Action { rmid: 12, .. })),
        "{outcome:?}"
    );
}

#[test]
fn an_applied_image_is_the_page_and_takes_the_lsn_unless_new() {
    let d = vanilla(PgMajor::V16);
    let mut buf = PageBuf::new();
    let rec =
        Record::new(HEAP, 0x10, 1, change(1, 1, 0, 0)).with(image_of(&page_at(0x100, 3), true));
    let out = apply_postgres(&mut buf, &key(7), Lsn(0x5000), &rec.build(), &d);
    assert_eq!(out, Ok(Outcome::Image));
    let page = Page::new(buf.page_mut().unwrap());
    assert_eq!((page.lsn(), page.max_offset()), (Lsn(0x5000), 3));
    let rec = Record::new(0, 0xB0, 0, []).with(image_of(&[0; 8192], true));
    apply_postgres(&mut buf, &key(7), Lsn(0x6000), &rec.build(), &d).unwrap();
    assert_eq!(buf.as_slice(), [0; 8192]);
}

#[test]
fn a_check_image_is_never_restored() {
    let d = vanilla(PgMajor::V16);
    let mut buf = PageBuf::new();
    assert!(buf.set(&page_at(0x100, 3)));
    let mut block = image_of(&page_at(0x100, 1), false);
    block.data = tuple(1, 0x800, b"4th");
    let rec = Record::new(HEAP, 0, 1, [4, 0, 0]).with(block);
    apply_postgres(&mut buf, &key(7), Lsn(0x200), &rec.build(), &d).unwrap();
    assert_eq!(Page::new(buf.page_mut().unwrap()).max_offset(), 4);
}

#[test]
fn images_belong_to_fpi_records_and_hints_may_lack_one() {
    let d = vanilla(PgMajor::V16);
    let mut buf = PageBuf::new();
    assert!(buf.set(&page_at(0x100, 1)));
    let hint = Record::new(0, 0xA0, 0, []).on(0, REL, 7, []).build();
    assert_eq!(
        apply_postgres(&mut buf, &key(7), Lsn(0x200), &hint, &d),
        Ok(Outcome::Untouched)
    );
    let fpi = Record::new(0, 0xB0, 0, []).on(0, REL, 7, []).build();
    let err = apply_postgres(&mut buf, &key(7), Lsn(0x200), &fpi, &d);
    assert!(matches!(
        err,
        Err(Error::Action {
            fault: Fault::Rule(_),
            ..
        })
    ));
}

#[test]
fn unknown_managers_are_named() {
    let d = vanilla(PgMajor::V16);
    let mut buf = PageBuf::new();
    assert!(buf.set(&page_at(0x100, 1)));
    for rmid in [1, 128, 134, 255] {
        let rec = Record::new(rmid, 0x10, 0, []).on(0, REL, 7, []).build();
        let err = apply_postgres(&mut buf, &key(7), Lsn(0x200), &rec, &d).unwrap_err();
        assert_eq!(
            err,
            Error::Unsupported {
                lsn: Lsn(0x200),
                key: key(7),
                rmid,
                info: 0x10
            }
        );
        assert!(err.to_string().contains("0/200"), "{err}");
    }
    let rec = Record::new(HEAP, 0x10, 0, []).on(0, REL, 8, []).build();
    let err = apply_postgres(&mut buf, &key(7), Lsn(0x200), &rec, &d);
    assert!(matches!(err, Err(Error::NotReferenced { .. })));
}

#[test]
fn sequence_and_generic_records() {
    let d = vanilla(PgMajor::V16);
    let mut buf = PageBuf::new();
    let mut main = vec![0; 12];
    main.extend([7; 40]);
    let rec = Record::new(15, 0, 0, main).init(0, REL, 7, []).build();
    apply_postgres(&mut buf, &key(7), Lsn(0x200), &rec, &d).unwrap();
    let page = Page::new(buf.page_mut().unwrap());
    assert_eq!(
        (page.item(1).unwrap(), page.u32_at(8184)),
        (&[7; 40][..], Ok(0x1717))
    );
    let data = [0xF8, 0x1F, 1, 0, 0xAA, 30, 0, 1, 0, 0xBB];
    let rec = Record::new(20, 0, 0, []).on(0, REL, 7, data).build();
    apply_postgres(&mut buf, &key(7), Lsn(0x300), &rec, &d).unwrap();
    // The second fragment fell into the hole, which is zeroed.
    let page = Page::new(buf.page_mut().unwrap());
    assert_eq!(
        (page.u8_at(0x1FF8), page.u8_at(30), page.lsn()),
        (Ok(0xAA), Ok(0), Lsn(0x300))
    );
    let rec = Record::new(20, 0, 0, [])
        .on(0, REL, 7, [0xFF, 0x1F, 2, 0, 1, 2])
        .build();
    assert!(apply_postgres(&mut buf, &key(7), Lsn(0x400), &rec, &d).is_err());
}

#[test]
fn slru_keys_take_no_postgres_record() {
    let d = vanilla(PgMajor::V16);
    let mut out = PageBuf::new();
    let rec = pg(&insert(1, 7, 1, b"x"));
    let key = Key::slru_block(SlruKind::Clog, 0, 0);
    let err = reconstruct(&key, Some(&[0; 8192]), [(Lsn(8), &rec)], &d, &mut out);
    assert!(matches!(
        err,
        Err(Error::Internal {
            record: "Postgres",
            ..
        })
    ));
}
