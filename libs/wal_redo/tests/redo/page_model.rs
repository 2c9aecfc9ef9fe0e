//! Page primitives against a model: a list of line pointers with their items.

use proptest::prelude::*;
use wal_redo::page::{Error, HEADER_SIZE, LinePointer, PD_HAS_FREE_LINES, Page, Place, align8};

fn empty(special: u16) -> [u8; 8192] {
    let mut bytes = [0; 8192];
    Page::new(&mut bytes).init(special);
    bytes
}

fn filled(lens: &[usize]) -> [u8; 8192] {
    let mut bytes = empty(16);
    let mut page = Page::new(&mut bytes);
    for (n, len) in (1..).zip(lens) {
        page.add(&vec![n as u8; *len], n, Place::Overwrite).unwrap();
    }
    bytes
}

fn offsets(page: &Page<'_>) -> Vec<u16> {
    (1..=page.max_offset())
        .map(|o| page.line_pointer(o).unwrap().offset())
        .collect()
}

#[test]
fn init_lays_out_an_empty_page() {
    let mut bytes = empty(12);
    let page = Page::new(&mut bytes);
    assert_eq!(
        (page.lower(), page.upper(), page.special_offset()),
        (24, 8176, 8176)
    );
    assert_eq!(
        (page.u16_at(18), page.max_offset(), page.is_new()),
        (Ok(0x2004), 0, false)
    );
}

#[test]
fn lsn_is_stored_high_half_first() {
    let mut bytes = empty(0);
    let mut page = Page::new(&mut bytes);
    page.set_lsn(types::Lsn(0x0102_0304_0506_0708));
    assert_eq!(page.bytes()[..8], [4, 3, 2, 1, 8, 7, 6, 5]);
    assert_eq!(page.lsn(), types::Lsn(0x0102_0304_0506_0708));
}

#[test]
fn two_deletions_keep_the_physical_order_and_three_repack() {
    // Items 1 to 5 stand at 8168, 8160, … ; swap the first two physically.
    let build = || {
        let mut bytes = filled(&[8, 8, 8, 8, 8]);
        let mut page = Page::new(&mut bytes);
        let (a, b) = (page.line_pointer(1).unwrap(), page.line_pointer(2).unwrap());
        page.set_line_pointer(1, b).unwrap();
        page.set_line_pointer(2, a).unwrap();
        bytes
    };
    let mut bytes = build();
    let mut page = Page::new(&mut bytes);
    page.multi_delete(&[4, 5]).unwrap();
    assert_eq!(
        (offsets(&page), page.upper()),
        (vec![8160, 8168, 8152], 8152)
    );
    let mut bytes = build();
    let mut page = Page::new(&mut bytes);
    page.multi_delete(&[3, 4, 5]).unwrap();
    assert_eq!((offsets(&page), page.upper()), (vec![8168, 8160], 8160));
    assert_eq!(
        (page.item(1).unwrap(), page.item(2).unwrap()),
        (&[2; 8][..], &[1; 8][..])
    );
}

#[test]
fn deleting_with_numbers_kept_cuts_only_the_last_pointer() {
    let mut bytes = filled(&[8, 16, 8]);
    let mut page = Page::new(&mut bytes);
    page.delete_keep_numbers(2).unwrap();
    assert_eq!(
        (page.max_offset(), page.line_pointer(2)),
        (3, Ok(LinePointer::default()))
    );
    page.delete_keep_numbers(3).unwrap();
    assert_eq!(
        (page.max_offset(), page.upper(), page.item(1).unwrap()),
        (2, 8168, &[1; 8][..])
    );
}

#[test]
fn refusals() {
    let mut bytes = filled(&[8, 8]);
    let mut page = Page::new(&mut bytes);
    assert!(matches!(
        page.add(b"x", 4, Place::Shift),
        Err(Error::OffsetNumber { off: 4, max: 3 })
    ));
    assert!(matches!(
        page.add(b"x", 0, Place::Heap),
        Err(Error::OffsetNumber { .. })
    ));
    assert!(matches!(
        page.add(b"x", 1, Place::Overwrite),
        Err(Error::LinePointer { .. })
    ));
    assert!(matches!(
        page.add(&[0; 8200], 3, Place::Shift),
        Err(Error::NoRoom { .. })
    ));
    assert!(matches!(
        page.multi_delete(&[1, 2, 9]),
        Err(Error::OffsetNumber { off: 9, .. })
    ));
    let mut bytes = filled(&[8, 8]);
    let mut page = Page::new(&mut bytes);
    page.set_line_pointer(1, LinePointer::new(8190, LinePointer::NORMAL, 8))
        .unwrap();
    assert!(matches!(
        page.delete(1),
        Err(Error::LinePointer { off: 1, .. })
    ));
    assert!(matches!(
        page.repack(),
        Err(Error::LinePointer { off: 1, .. })
    ));
    page.set_upper(9000);
    assert!(matches!(
        page.add(b"x", 3, Place::Shift),
        Err(Error::Header { upper: 9000, .. })
    ));
}

#[derive(Debug, Clone)]
enum Op {
    Add {
        off: u16,
        item: Vec<u8>,
        shift: bool,
    },
    Delete(u16),
    DeleteKeep(u16),
    Multi(Vec<u16>),
    Overwrite(u16, Vec<u8>),
    Repack,
    Kill {
        off: u16,
        unused: bool,
    },
    Redirect(u16),
    Repair(bool),
    Truncate,
}

fn item() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 1usize..300).prop_map(|(b, n)| (0..n).map(|i| b.wrapping_add(i as u8)).collect())
}

fn op() -> impl Strategy<Value = Op> {
    let off = 1u16..24;
    prop_oneof![
        6 => (off.clone(), item(), any::<bool>()).prop_map(|(off, item, shift)| Op::Add { off, item, shift }),
        2 => off.clone().prop_map(Op::Delete),
        2 => off.clone().prop_map(Op::DeleteKeep),
        1 => proptest::collection::btree_set(1u16..24, 0..6).prop_map(|s| Op::Multi(s.into_iter().collect())),
        2 => (off.clone(), item()).prop_map(|(o, i)| Op::Overwrite(o, i)),
        1 => Just(Op::Repack),
        1 => (off.clone(), any::<bool>()).prop_map(|(off, unused)| Op::Kill { off, unused }),
        1 => off.prop_map(Op::Redirect),
        1 => any::<bool>().prop_map(Op::Repair),
        1 => Just(Op::Truncate),
    ]
}

/// State, redirection target or 0, item.
type Slot = (u8, u16, Vec<u8>);

fn model(slots: &mut Vec<Slot>, op: &Op, ok: bool) {
    let at = |off: &u16| usize::from(*off) - 1;
    match op {
        _ if !ok => {}
        Op::Add { off, item, shift } => {
            let new = (LinePointer::NORMAL, 0, item.clone());
            if *shift || at(off) == slots.len() {
                slots.insert(at(off), new);
            } else {
                slots[at(off)] = new;
            }
        }
        Op::Delete(off) => drop(slots.remove(at(off))),
        Op::DeleteKeep(off) if at(off) + 1 == slots.len() => drop(slots.pop()),
        Op::DeleteKeep(off) => slots[at(off)] = (0, 0, Vec::new()),
        Op::Multi(offs) => offs.iter().rev().for_each(|o| drop(slots.remove(at(o)))),
        Op::Overwrite(off, item) => slots[at(off)].2 = item.clone(),
        Op::Kill { off, unused } => {
            slots[at(off)] = (if *unused { 0 } else { LinePointer::DEAD }, 0, Vec::new());
        }
        Op::Redirect(off) => slots[at(off)] = (LinePointer::REDIRECT, 1, Vec::new()),
        Op::Repack => {}
        Op::Repair(cut) => {
            while *cut && slots.last().is_some_and(|s| s.0 == 0) {
                slots.pop();
            }
        }
        Op::Truncate => {
            while slots.len() > 1 && slots.last().is_some_and(|s| s.0 == 0) {
                slots.pop();
            }
        }
    }
}

fn check(page: &Page<'_>, slots: &[Slot]) {
    page.check().unwrap();
    assert_eq!(usize::from(page.max_offset()), slots.len());
    let mut used = Vec::new();
    for (off, slot) in (1..).zip(slots) {
        let lp = page.line_pointer(off).unwrap();
        assert_eq!(lp.flags(), slot.0, "state of {off}");
        if slot.2.is_empty() {
            assert_eq!((lp.len(), lp.offset()), (0, slot.1));
        } else {
            assert_eq!(page.item(off).unwrap(), slot.2);
            let start = usize::from(lp.offset());
            used.push(start..start + align8(slot.2.len()));
        }
    }
    used.sort_by_key(|r| r.start);
    for pair in used.windows(2) {
        assert!(pair[0].end <= pair[1].start, "items overlap");
    }
    assert!(
        used.last()
            .is_none_or(|r| r.end <= usize::from(page.special_offset()))
    );
}

proptest! {
    #[test]
    fn any_sequence_of_changes_keeps_the_items(ops in proptest::collection::vec(op(), 1..80)) {
        let mut bytes = empty(16);
        let mut page = Page::new(&mut bytes);
        page.special_mut().unwrap().fill(0xEE);
        let mut slots: Vec<Slot> = Vec::new();
        for op in &ops {
            let before = *page.bytes();
            let room = |page: &Page<'_>| usize::from(page.upper() - page.lower());
            let exists = |off: u16| usize::from(off) <= slots.len();
            let stored = |off: u16| exists(off) && !slots[usize::from(off) - 1].2.is_empty();
            // Unlike the others, these require items where they look, so the model decides
            // beforehand whether they may succeed.
            let (ok, done) = match op {
                Op::Add { off, item, shift } => {
                    let last = usize::from(*off) == slots.len() + 1;
                    let free = exists(*off) && slots[usize::from(*off) - 1].0 == 0;
                    let needs = align8(item.len()) + if last || *shift { 4 } else { 0 };
                    let ok = (last || exists(*off) && (*shift || free)) && needs <= room(&page);
                    let place = if *shift { Place::Shift } else { Place::Overwrite };
                    (ok, page.add(item, *off, place))
                }
                Op::Delete(off) => (stored(*off), page.delete(*off)),
                Op::DeleteKeep(off) => (stored(*off), page.delete_keep_numbers(*off)),
                Op::Multi(offs) => {
                    let ok = if offs.len() <= 2 {
                        offs.iter().all(|o| stored(*o))
                    } else {
                        offs.iter().all(|o| exists(*o))
                    };
                    (ok, page.multi_delete(offs))
                }
                Op::Overwrite(off, item) => {
                    let ok = stored(*off) && {
                        let old = align8(slots[usize::from(*off) - 1].2.len());
                        align8(item.len()) <= old + room(&page)
                    };
                    (ok, page.overwrite(*off, item))
                }
                Op::Kill { off, unused } => {
                    let state = if *unused { 0 } else { LinePointer::DEAD };
                    (exists(*off), page.set_line_pointer(*off, LinePointer::new(0, state, 0)))
                }
                Op::Redirect(off) => {
                    let lp = LinePointer::new(1, LinePointer::REDIRECT, 0);
                    (exists(*off), page.set_line_pointer(*off, lp))
                }
                Op::Repack => (true, page.repack()),
                Op::Repair(cut) => (true, page.repair_fragmentation(*cut)),
                Op::Truncate => (true, page.truncate_line_pointers()),
            };
            prop_assert_eq!(done.is_ok(), ok, "{:?}: {:?}", op, done);
            if ok {
                model(&mut slots, op, ok);
            } else {
                // A refused change may have been made in part; redo gives the page up then.
                *page.bytes_mut() = before;
            }
            check(&page, &slots);
            if matches!(op, Op::Repair(_) | Op::Truncate) {
                let unused = slots.iter().any(|s| s.0 == 0);
                prop_assert_eq!(page.flags() & PD_HAS_FREE_LINES != 0, unused);
            }
            if matches!(op, Op::Repack | Op::Repair(_)) {
                let size: usize = slots.iter().map(|s| align8(s.2.len())).sum();
                prop_assert_eq!(usize::from(page.upper()), 8176 - size);
            }
            prop_assert_eq!(page.special().unwrap(), &[0xEE; 16][..]);
        }
    }

    #[test]
    fn a_corrupt_page_gives_errors_only(
        head in proptest::array::uniform24(any::<u8>()),
        pointers in proptest::collection::vec(any::<u32>(), 0..40),
        ops in proptest::collection::vec(op(), 1..12),
        sane in any::<bool>(),
    ) {
        let mut bytes = [0xA5; 8192];
        bytes[..24].copy_from_slice(&head);
        let mut page = Page::new(&mut bytes);
        if sane {
            page.set_lower((HEADER_SIZE + 4 * pointers.len()) as u16);
            page.set_upper(4096);
            page.put_u16(16, 8176).unwrap();
        }
        for (n, lp) in pointers.iter().enumerate() {
            page.put_u32(24 + 4 * n, *lp).unwrap();
        }
        for op in ops {
            let _ = match &op {
                Op::Add { off, item, shift } => {
                    page.add(item, *off, if *shift { Place::Shift } else { Place::Heap })
                }
                Op::Delete(off) => page.delete(*off),
                Op::DeleteKeep(off) => page.delete_keep_numbers(*off),
                Op::Multi(offs) => page.multi_delete(offs),
                Op::Overwrite(off, item) => page.overwrite(*off, item),
                Op::Repack => page.repack(),
                Op::Kill { off, .. } | Op::Redirect(off) => page.item(*off).map(drop),
                Op::Repair(cut) => page.repair_fragmentation(*cut),
                Op::Truncate => page.truncate_line_pointers(),
            };
        }
    }
}
