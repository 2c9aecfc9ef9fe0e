//! The visibility map.

use crate::record::*;
use types::{Fork, Lsn, PgMajor, RelTag, WalRecord};
use wal_redo::page::{PD_ALL_VISIBLE, Page};
use wal_redo::{Outcome, PageBuf, apply, apply_postgres};

const VM: RelTag = REL.with_fork(Fork::Vm);

fn visible(heap: u32, bits: u8) -> Vec<u8> {
    Record::new(HEAP2, 0x40, 0, [9, 0, 0, 0, bits])
        .on(0, VM, heap / 32672, [])
        .on(1, REL, heap, [])
        .build()
}

fn map_with(heap: u32, bits: u8) -> PageBuf {
    let mut buf = PageBuf::new();
    let d = vanilla(PgMajor::V17);
    let out = apply_postgres(
        &mut buf,
        &vm_key(heap / 32672),
        Lsn(64),
        &visible(heap, bits),
        &d,
    );
    assert_eq!(out, Ok(Outcome::Changed));
    buf
}

#[test]
fn visible_starts_a_map_page_and_only_adds_bits() {
    let d = vanilla(PgMajor::V17);
    let mut buf = map_with(32672 + 5, 1 | 4);
    let mut page = Page::new(buf.page_mut().unwrap());
    assert_eq!(
        (page.u8_at(25), page.lower(), page.upper()),
        (Ok(0b0100), 24, 8192)
    );
    page.set_lsn(Lsn(80));
    let again = visible(32672 + 5, 1);
    let out = apply_postgres(&mut buf, &vm_key(1), Lsn(128), &again, &d);
    assert_eq!(out, Ok(Outcome::Untouched));
    let page = Page::new(buf.page_mut().unwrap());
    assert_eq!(page.lsn(), Lsn(80));
    apply_postgres(&mut buf, &vm_key(1), Lsn(192), &visible(32672 + 5, 3), &d).unwrap();
    assert_eq!(buf.as_slice()[25], 0b1100);
}

#[test]
fn visible_moves_the_heap_page_lsn_only_with_logged_hints() {
    for hint_bits_logged in [false, true] {
        let mut d = vanilla(PgMajor::V15);
        d.hint_bits_logged = hint_bits_logged;
        let mut buf = PageBuf::new();
        apply_postgres(
            &mut buf,
            &key(5),
            Lsn(64),
            &insert(1, 5, 1, b"r").build(),
            &d,
        )
        .unwrap();
        apply_postgres(&mut buf, &key(5), Lsn(128), &visible(5, 1), &d).unwrap();
        let page = Page::new(buf.page_mut().unwrap());
        assert_eq!(page.flags(), PD_ALL_VISIBLE);
        assert_eq!(page.lsn(), Lsn(if hint_bits_logged { 128 } else { 64 }));
    }
}

#[test]
fn a_named_map_page_is_cleared_for_the_blocks_that_live_on_it() {
    let d = vanilla(PgMajor::V18);
    // Old version on heap block 6, new one on 32672 + 6: two map pages, references 2 and 3.
    let main = update(change(3, 1, 0, 0x03), 0, 1);
    let rec = Record::new(HEAP, 0x20, 3, main)
        .on(0, REL, 32672 + 6, tuple(1, 0, b"x"))
        .on(1, REL, 6, [])
        .on(2, VM, 1, [])
        .on(3, VM, 0, [])
        .build();
    for (map, heap) in [(0, 6), (1, 32672 + 6)] {
        let mut buf = map_with(heap, 3);
        let out = apply_postgres(&mut buf, &vm_key(map), Lsn(128), &rec, &d);
        assert_eq!(out, Ok(Outcome::Changed));
        assert_eq!(buf.as_slice()[24..26], [0, 0]);
        let out = apply_postgres(&mut buf, &vm_key(map), Lsn(192), &rec, &d);
        assert_eq!(out, Ok(Outcome::Untouched));
        assert_eq!(Page::new(buf.page_mut().unwrap()).lsn(), Lsn(128));
    }
}

#[test]
fn a_lock_clears_only_the_frozen_bit() {
    let d = vanilla(PgMajor::V17);
    let mut buf = map_with(6, 3);
    let rec = Record::new(HEAP, 0x60, 3, change(3, 1, 2, 1))
        .on(0, REL, 6, [])
        .on(1, VM, 0, []);
    apply_postgres(&mut buf, &vm_key(0), Lsn(128), &rec.build(), &d).unwrap();
    assert_eq!(buf.as_slice()[25], 0b01_0000);
}

#[test]
fn internal_records() {
    let d = vanilla(PgMajor::V17);
    let clear = |new, old, flags| WalRecord::ClearVisibilityMapFlags {
        new_heap_block: new,
        old_heap_block: old,
        flags,
    };
    let mut empty = PageBuf::new();
    apply(
        &mut empty,
        &vm_key(0),
        Lsn(64),
        &clear(Some(3), None, 3),
        &d,
    )
    .unwrap();
    assert_eq!(empty.as_slice(), [0; 8192]);

    let mut buf = map_with(6, 3);
    apply(
        &mut buf,
        &vm_key(0),
        Lsn(256),
        &clear(Some(1), Some(6), 2),
        &d,
    )
    .unwrap();
    assert_eq!(buf.as_slice()[25], 0b01_0000);
    assert_eq!(Page::new(buf.page_mut().unwrap()).lsn(), Lsn(256));
    assert!(
        apply(
            &mut buf,
            &vm_key(0),
            Lsn(300),
            &clear(Some(32672), None, 3),
            &d
        )
        .is_err()
    );
    assert!(apply(&mut buf, &key(0), Lsn(300), &clear(Some(1), None, 3), &d).is_err());

    buf.page_mut().unwrap()[24..].fill(0xFF);
    let cut = |trunc_byte, trunc_offs| WalRecord::TruncateVisibilityMap {
        trunc_byte,
        trunc_offs,
    };
    apply(&mut buf, &vm_key(0), Lsn(512), &cut(2, 4), &d).unwrap();
    assert_eq!(buf.as_slice()[24..28], [0xFF, 0xFF, 0x0F, 0]);
    assert_eq!(Page::new(buf.page_mut().unwrap()).lsn(), Lsn(256));
    assert!(apply(&mut buf, &vm_key(0), Lsn(600), &cut(8168, 0), &d).is_err());
    assert!(apply(&mut buf, &vm_key(0), Lsn(600), &cut(0, 8), &d).is_err());
}
