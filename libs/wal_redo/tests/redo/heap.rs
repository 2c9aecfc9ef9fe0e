//! Heap records change exactly the fields they should.

use crate::record::*;
use types::{Flavour, Lsn, PgMajor};
use wal_redo::page::{LinePointer, PD_ALL_VISIBLE, PD_HAS_FREE_LINES, Page};
use wal_redo::{Dialect, Error, Fault, Outcome, PageBuf, apply_postgres};

struct Heap {
    buf: PageBuf,
    lsn: u64,
    dialect: Dialect,
}

impl Heap {
    fn new(version: PgMajor) -> Heap {
        Heap {
            buf: PageBuf::new(),
            lsn: 0x1000,
            dialect: vanilla(version),
        }
    }

    fn with_rows(version: PgMajor, rows: &[&[u8]]) -> Heap {
        let mut h = Heap::new(version);
        for (off, row) in (1..).zip(rows) {
            assert_eq!(h.apply(&insert(100, 7, off, row)), Ok(Outcome::Changed));
        }
        h
    }

    fn apply(&mut self, rec: &Record) -> Result<Outcome, Error> {
        self.lsn += 64;
        apply_postgres(
            &mut self.buf,
            &key(7),
            Lsn(self.lsn),
            &rec.build(),
            &self.dialect,
        )
    }

    fn page(&mut self) -> Page<'_> {
        Page::new(self.buf.page_mut().unwrap())
    }

    fn item(&mut self, off: u16) -> Vec<u8> {
        self.page().item(off).unwrap().to_vec()
    }

    fn u32(&mut self, off: u16, at: usize) -> u32 {
        u32::from_le_bytes(self.item(off)[at..at + 4].try_into().unwrap())
    }

    fn u16(&mut self, off: u16, at: usize) -> u16 {
        u16::from_le_bytes(self.item(off)[at..at + 2].try_into().unwrap())
    }

    /// Block and offset number of `ctid`.
    fn ctid(&mut self, off: u16) -> (u32, u16) {
        let block = u32::from(self.u16(off, 12)) << 16 | u32::from(self.u16(off, 14));
        (block, self.u16(off, 16))
    }

    fn state(&mut self, off: u16) -> (u8, u16) {
        let lp = self.page().line_pointer(off).unwrap();
        (lp.flags(), lp.offset())
    }
}

#[test]
fn insert_builds_the_tuple_header() {
    let mut h = Heap::with_rows(PgMajor::V16, &[b"abc"]);
    let want = "64000000 00000000 00000000 00000700 0100 0100 0008 18 00 616263".replace(' ', "");
    let hexed: String = h.item(1).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hexed, want);
    let at = u64::from(h.page().upper());
    assert_eq!((at, h.page().lower()), (8192 - 32, 28));
    let lsn = Lsn(h.lsn);
    assert_eq!(h.page().lsn(), lsn);
}

#[test]
fn delete_marks_the_tuple_and_remembers_the_oldest_deleter() {
    let mut h = Heap::with_rows(PgMajor::V14, &[b"a", b"b"]);
    h.page().set_flags(PD_ALL_VISIBLE);
    h.apply(&Record::new(HEAP, 0x10, 200, change(200, 2, 0x14, 1)).on(0, REL, 7, []))
        .unwrap();
    assert_eq!(h.u32(2, 4), 200);
    assert_eq!((h.u16(2, 18), h.u16(2, 20)), (0x2001, 0x0040));
    assert_eq!((h.page().flags(), h.page().prune_xid()), (0, 200));
    h.apply(&Record::new(HEAP, 0x10, 150, change(150, 1, 0, 0x10)).on(0, REL, 7, []))
        .unwrap();
    assert_eq!((h.page().prune_xid(), h.ctid(1)), (150, (u32::MAX, 0xFFFD)));
    h.apply(&Record::new(HEAP, 0x10, 0x9000_0000, change(9, 1, 0, 8)).on(0, REL, 7, []))
        .unwrap();
    // 0x90000000 is older than 150 by wraparound; a super delete takes xmin and leaves xmax.
    assert_eq!(
        (h.page().prune_xid(), h.u32(1, 0), h.u32(1, 4)),
        (0x9000_0000, 0, 150)
    );
}

#[test]
fn hot_update_takes_prefix_and_suffix_from_the_old_version() {
    let mut h = Heap::with_rows(PgMajor::V17, &[b"hello brave world"]);
    let mut data = vec![6, 0, 6, 0];
    data.extend([1, 0, 0, 0x28, 24, 0]);
    data.extend(b"new");
    let main = update(change(300, 1, 0x10, 0x60), 0, 2);
    h.apply(&Record::new(HEAP, 0x40, 300, main).on(0, REL, 7, data))
        .unwrap();
    assert_eq!(&h.item(2)[24..], b"hello new world");
    assert_eq!((h.ctid(1), h.ctid(2)), ((7, 2), (7, 2)));
    assert_eq!((h.u16(1, 18), h.u32(1, 4)), (0x6001, 300));
    assert_eq!(h.u32(2, 0), 300);
}

#[test]
fn update_across_pages_changes_each_page_once() {
    let mut old = Heap::with_rows(PgMajor::V18, &[b"row"]);
    let main = update(change(300, 1, 0, 0x01), 0, 1);
    let vm = REL.with_fork(types::Fork::Vm);
    let rec = Record::new(HEAP, 0x80 | 0x20, 300, main)
        .init(0, REL, 9, tuple(1, 0, b"moved"))
        .on(1, REL, 7, [])
        .on(3, vm, 0, []);
    assert_eq!(old.apply(&rec), Ok(Outcome::Changed));
    assert_eq!(
        (old.ctid(1), old.u32(1, 4), old.page().max_offset()),
        ((9, 1), 300, 1)
    );
    let mut new = PageBuf::new();
    let d = vanilla(PgMajor::V18);
    apply_postgres(&mut new, &key(9), Lsn(1 << 20), &rec.build(), &d).unwrap();
    let mut bytes = *new.page().unwrap();
    assert_eq!(&Page::new(&mut bytes).item(1).unwrap()[24..], b"moved");
}

#[test]
fn lock_of_a_locked_tuple_resets_its_chain_but_a_multixact_with_an_update_does_not() {
    let mut h = Heap::with_rows(PgMajor::V15, &[b"a"]);
    let main = update(change(300, 1, 0, 0), 0, 2);
    h.apply(&Record::new(HEAP, 0x40, 300, main).on(0, REL, 7, tuple(1, 0x2800, b"b")))
        .unwrap();
    h.apply(&Record::new(HEAP, 0x60, 1, change(55, 1, 0x09, 0)).on(0, REL, 7, []))
        .unwrap();
    assert_eq!((h.ctid(1), h.u16(1, 18) & 0x4000), ((7, 2), 0x4000));
    assert_eq!((h.u16(1, 20), h.u32(1, 4)), (0x1010, 55));
    h.apply(&Record::new(HEAP, 0x60, 1, change(56, 1, 0x06, 0)).on(0, REL, 7, []))
        .unwrap();
    assert_eq!(
        (h.ctid(1), h.u16(1, 18) & 0x4000, h.u16(1, 20)),
        ((7, 1), 0, 0x00C0)
    );
}

#[test]
fn multi_insert_pads_tuples_to_two_bytes() {
    let mut h = Heap::new(PgMajor::V16);
    let mut data = Vec::new();
    for row in [b"odd".as_slice(), b"even", b"x"] {
        data.resize(data.len().next_multiple_of(2), 0);
        data.extend((row.len() as u16 + 1).to_le_bytes());
        data.extend([1, 0, 0, 8, 24, 0]);
        data.extend(row);
    }
    let rec = Record::new(HEAP2, 0xD0, 77, [0x20, 0, 3, 0]).init(0, REL, 7, data.clone());
    h.apply(&rec).unwrap();
    assert_eq!(
        (&h.item(1)[24..], &h.item(2)[24..], &h.item(3)[24..]),
        (&b"odd"[..], &b"even"[..], &b"x"[..])
    );
    assert_eq!(h.page().flags(), PD_ALL_VISIBLE);
    data.push(0);
    let rec = Record::new(HEAP2, 0xD0, 77, [0, 0, 3, 0]).init(0, REL, 7, data);
    assert!(matches!(
        h.apply(&rec),
        Err(Error::Action {
            fault: Fault::Rule(_),
            ..
        })
    ));
}

#[test]
fn pruning_cuts_trailing_line_pointers_from_15_on() {
    for (version, kept, flags) in [
        (PgMajor::V14, 5, PD_HAS_FREE_LINES),
        (PgMajor::V15, 3, 0),
        (PgMajor::V16, 3, 0),
    ] {
        let mut h = Heap::with_rows(version, &[b"1", b"2", b"3", b"4", b"5"]);
        // 1 -> 2, 3 dead, 4 and 5 unused.
        let data: Vec<u8> = [1u16, 2, 3, 4, 5]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        h.apply(&Record::new(HEAP2, 0x10, 0, [9, 0, 0, 0, 1, 0, 1, 0, 0]).on(0, REL, 7, data))
            .unwrap();
        assert_eq!((h.page().max_offset(), h.page().flags()), (kept, flags));
        assert_eq!(h.state(1), (LinePointer::REDIRECT, 2));
        assert_eq!(h.state(2), (LinePointer::NORMAL, 8192 - 32));
        assert_eq!(h.state(3), (LinePointer::DEAD, 0));
        assert_eq!(&h.item(2)[24..], b"2");
        assert_eq!(h.page().upper(), 8192 - 32);
    }
}

#[test]
fn merged_prune_frees_first_and_freezes_after() {
    let mut h = Heap::with_rows(PgMajor::V17, &[b"1", b"2", b"3"]);
    let mut data = vec![1, 0, 0, 0]; // one plan
    data.extend([0, 0, 0, 0, 1, 0, 0, 0x0B, 0, 0, 1, 0]); // xmax 0, masks, one tuple
    data.extend([1, 0, 1, 0]); // dead: 1
    data.extend([1, 0, 2, 0]); // unused: 2
    data.extend([3, 0]); // freeze 3
    let flags = 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
    let rec = Record::new(HEAP2, 0x20, 0, [0, flags, 1, 2, 3, 4]).on(0, REL, 7, data.clone());
    h.apply(&rec).unwrap();
    assert_eq!(
        (h.state(1).0, h.state(2).0, h.state(3).0),
        (LinePointer::DEAD, LinePointer::UNUSED, LinePointer::NORMAL)
    );
    assert_eq!(
        (h.u16(3, 20), h.u16(3, 18), h.page().flags()),
        (0x0B00, 1, PD_HAS_FREE_LINES)
    );
    let mut wrong = Heap::with_rows(PgMajor::V17, &[b"1", b"2", b"3"]);
    let rec = Record::new(HEAP2, 0x20, 0, [0, flags & !4, 1, 2, 3, 4]).on(0, REL, 7, data);
    assert!(matches!(
        wrong.apply(&rec),
        Err(Error::Action {
            fault: Fault::Rule(_),
            ..
        })
    ));
}

#[test]
fn vacuum_keeps_the_first_line_pointer() {
    let mut h = Heap::with_rows(PgMajor::V16, &[b"1", b"2"]);
    for off in [1, 2] {
        h.page()
            .set_line_pointer(off, LinePointer::new(0, LinePointer::DEAD, 0))
            .unwrap();
    }
    h.apply(&Record::new(HEAP2, 0x20, 0, [2, 0]).on(0, REL, 7, [1, 0, 2, 0]))
        .unwrap();
    assert_eq!(
        (h.page().max_offset(), h.page().flags()),
        (1, PD_HAS_FREE_LINES)
    );
}

#[test]
fn freezing_before_16_names_each_tuple_and_16_shares_plans() {
    let mut h = Heap::with_rows(PgMajor::V15, &[b"1"]);
    let entry = [0, 0, 0, 0, 1, 0, 1, 0, 0, 0x0B, 0, 0];
    h.apply(&Record::new(HEAP2, 0x30, 0, [1, 0, 0, 0, 1, 0]).on(0, REL, 7, entry))
        .unwrap();
    assert_eq!(h.u16(1, 20), 0x0B00);
    let mut h = Heap::with_rows(PgMajor::V16, &[b"1", b"2"]);
    let plan = [5, 0, 0, 0, 1, 0, 0, 0x0B, 2, 0, 2, 0, 1, 0, 2, 0];
    h.apply(&Record::new(HEAP2, 0x30, 0, [1, 0, 0, 0, 1, 0, 0]).on(0, REL, 7, plan))
        .unwrap();
    assert_eq!((h.u16(2, 20), h.u32(2, 4), h.u32(2, 8)), (0x0B00, 5, 2));
}

#[test]
fn inplace_must_keep_the_length() {
    let mut h = Heap::with_rows(PgMajor::V18, &[b"catalog"]);
    h.apply(&Record::new(HEAP, 0x70, 0, [1, 0, 0, 0]).on(0, REL, 7, *b"CATALOG"))
        .unwrap();
    assert_eq!(&h.item(1)[24..], b"CATALOG");
    assert!(
        h.apply(&Record::new(HEAP, 0x70, 0, [1, 0]).on(0, REL, 7, *b"longer.."))
            .is_err()
    );
}

#[test]
fn confirm_points_a_speculative_tuple_to_itself() {
    let mut h = Heap::with_rows(PgMajor::V16, &[b"s"]);
    let at = usize::from(h.page().line_pointer(1).unwrap().offset());
    h.page().put_u16(at + 16, 0xFFFE).unwrap();
    h.apply(&Record::new(HEAP, 0x50, 0, [1, 0]).on(0, REL, 7, []))
        .unwrap();
    assert_eq!(h.ctid(1), (7, 1));
}

#[test]
fn neon_records_keep_command_ids() {
    for version in [PgMajor::V14, PgMajor::V15, PgMajor::V16, PgMajor::V17] {
        let old = version < PgMajor::V16;
        let rm = if old { HEAP } else { 134 };
        let mut h = Heap::new(version);
        h.dialect.flavour = Flavour::Neon;
        let data = [1, 0, 0x20, 0x08, 9, 0, 0, 0, 24, 0, b'n'];
        h.apply(&Record::new(rm, 0x80, 100, [1, 0, 0x20]).init(0, REL, 7, data))
            .unwrap();
        assert_eq!(
            (h.u32(1, 8), h.u16(1, 20), h.page().flags()),
            (9, 0x0820, PD_ALL_VISIBLE)
        );

        let mut delete = 101u32.to_le_bytes().to_vec();
        delete.extend([1, 0]);
        delete.extend(if old {
            [0, 0, 4, 0, 0, 0, 0x34, 0]
        } else {
            [0x34, 0, 4, 0, 0, 0, 0, 0]
        });
        delete.truncate(if old { 14 } else { 12 });
        h.apply(&Record::new(rm, 0x10, 101, delete).on(0, REL, 7, []))
            .unwrap();
        assert_eq!(
            (h.u32(1, 4), h.u32(1, 8), h.u16(1, 20), h.u16(1, 18)),
            (101, 4, 0x0060, 0x2001)
        );

        let (lock, info) = if old {
            (
                [102, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0x06, 0].to_vec(),
                0x60,
            )
        } else {
            ([102, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0x06, 0].to_vec(), 0x40)
        };
        h.apply(&Record::new(rm, info, 102, lock).on(0, REL, 7, []))
            .unwrap();
        assert_eq!((h.u32(1, 4), h.u32(1, 8), h.u16(1, 20)), (102, 6, 0x00C0));

        let hot = if old { 0x40 } else { 0x30 };
        let main = [103, 0, 0, 0, 1, 0, 0x10, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        let data = [1, 0, 0, 0x28, 8, 0, 0, 0, 24, 0, b'm'];
        h.apply(&Record::new(rm, hot, 103, main).on(0, REL, 7, data))
            .unwrap();
        assert_eq!((h.u32(1, 8), h.u32(2, 8), h.ctid(1)), (7, 8, (7, 2)));

        let (main, data): (Vec<u8>, Vec<u8>) = if old {
            (
                vec![0, 0, 1, 0, 3, 0],
                vec![2, 0, 1, 0, 0, 8, 0, 0, 5, 0, 0, 0, 24, 0, b'k'],
            )
        } else {
            (
                vec![0, 0, 1, 0, 5, 0, 0, 0, 3, 0],
                vec![2, 0, 1, 0, 0, 8, 24, 0, b'k'],
            )
        };
        let rm = if old { HEAP2 } else { 134 };
        h.apply(&Record::new(rm, 0x50, 104, main).on(0, REL, 7, data))
            .unwrap();
        assert_eq!((h.u32(3, 8), h.item(3).last()), (5, Some(&b'k')));
    }
}

#[test]
fn a_target_that_is_not_a_tuple_is_an_error_that_names_everything() {
    let mut h = Heap::with_rows(PgMajor::V16, &[b"a"]);
    let text = h
        .apply(&Record::new(HEAP, 0x10, 1, change(1, 9, 0, 0)).on(0, REL, 7, []))
        .unwrap_err()
        .to_string();
    for part in ["Heap", "DELETE", "0/1080", "offset number 9"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
