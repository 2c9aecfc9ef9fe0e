use super::*;
use crate::record::{Block, Header, Record, rmid};
use arrayvec::ArrayVec;
use types::{Flavour, Fork, Lsn, RelTag};

fn record(id: u8, info: u8, main: &[u8]) -> Record<'_> {
    Record {
        raw: &[],
        header: Header {
            total_len: 0,
            xid: 700,
            prev: 0,
            info,
            rmid: id,
            crc: 0,
        },
        blocks: ArrayVec::new(),
        main,
        origin: None,
        toplevel_xid: None,
    }
}

fn with_blocks<'a>(mut rec: Record<'a>, blocks: &[(u8, Fork, u32)]) -> Record<'a> {
    for (id, fork, block) in blocks {
        rec.blocks.push(Block {
            id: *id,
            rel: RelTag {
                spc: 1663,
                db: 5,
                rel: 16384,
                fork: *fork,
            },
            block: *block,
            will_init: false,
            image: None,
            data: &[],
            has_data: false,
        });
    }
    rec
}

fn words(w: &[u32]) -> Vec<u8> {
    w.iter().flat_map(|n| n.to_le_bytes()).collect()
}

mod transaction_end {
    use super::*;
    use crate::rmgr::xact::Xact;

    /// Every optional part at once.
    fn full(version: PgMajor, committed: bool) -> Vec<u8> {
        let stats = version >= PgMajor::V15;
        let item = if version >= PgMajor::V18 { 16 } else { 12 };
        let mut info = 0x001 | 0x002 | 0x004 | 0x008 | 0x010 | 0x020 | 0x080 | 0x2000_0000;
        if stats {
            info |= 0x100;
        }
        let mut m = 42i64.to_le_bytes().to_vec();
        m.extend(words(&[info, 5, 1663, 2, 701, 702, 1, 1663, 5, 16384]));
        if stats {
            m.extend(words(&[2]));
            m.extend(vec![0xEE; 2 * item]);
        }
        if committed {
            m.extend(words(&[1]));
            m.extend([0xDD; 16]);
        }
        m.extend(words(&[650]));
        m.extend(b"a name\0");
        m.extend(0x1_2345u64.to_le_bytes());
        m.extend(77i64.to_le_bytes());
        m
    }

    #[test]
    fn every_part_is_found_behind_the_ones_before_it() {
        for version in PgMajor::ALL {
            for (info, committed) in [(0xB0, true), (0xC0, false)] {
                let main = full(version, committed);
                let Xact::End(end) =
                    Xact::parse(&record(rmid::XACT, info, &main), version).unwrap()
                else {
                    panic!("not an end");
                };
                assert_eq!(
                    (end.committed, end.prepared, end.xid, end.time),
                    (committed, true, 650, 42)
                );
                assert_eq!(end.subxids.iter().collect::<Vec<_>>(), [701, 702]);
                assert_eq!(end.relations.iter().collect::<Vec<_>>(), [(1663, 5, 16384)]);
                assert_eq!(end.origin, Some((Lsn(0x1_2345), 77)), "{version}");
            }
        }
    }

    #[test]
    fn a_plain_commit_has_only_its_time() {
        let main = 9i64.to_le_bytes();
        let Xact::End(end) = Xact::parse(&record(rmid::XACT, 0, &main), PgMajor::V16).unwrap()
        else {
            panic!("not an end");
        };
        assert_eq!(
            (end.xid, end.time, end.subxids.len(), end.relations.len()),
            (700, 9, 0, 0)
        );
        assert!(matches!(
            Xact::parse(&record(rmid::XACT, 0x50, &[]), PgMajor::V16),
            Ok(Xact::Other)
        ));
    }

    #[test]
    fn a_list_longer_than_the_record_or_negative_is_refused() {
        for count in [u32::MAX, 0x7FFF_FFFF, 3] {
            let mut main = 0i64.to_le_bytes().to_vec();
            main.extend(words(&[0x002, count, 1, 2]));
            assert!(Xact::parse(&record(rmid::XACT, 0x80, &main), PgMajor::V15).is_err());
        }
    }

    #[test]
    fn the_end_of_a_prepared_transaction_must_name_it() {
        let main = 0i64.to_le_bytes();
        assert!(Xact::parse(&record(rmid::XACT, 0x30, &main), PgMajor::V15).is_err());
    }
}

mod prepared_state {
    use super::*;
    use crate::rmgr::xact::{Prepared, TWO_PHASE_MAGIC};

    fn state(version: PgMajor, gid: &[u8], subs: &[u32]) -> Vec<u8> {
        let mut s = words(&[TWO_PHASE_MAGIC, 0, 812, 5]);
        s.extend(1i64.to_le_bytes());
        s.extend(words(&[10, subs.len() as u32]));
        let counts = if version >= PgMajor::V15 { 5 } else { 3 };
        s.extend(words(&vec![0; counts]));
        s.extend([0, 0]);
        s.extend((gid.len() as u16).to_le_bytes());
        s.extend(0x55u64.to_le_bytes());
        s.extend(0i64.to_le_bytes());
        s.extend(gid);
        s.resize(s.len().next_multiple_of(8), 0);
        s.extend(words(subs));
        s.resize(s.len().next_multiple_of(8), 0);
        let total = (s.len() + 4) as u32;
        s[4..8].copy_from_slice(&total.to_le_bytes());
        s
    }

    #[test]
    fn header_and_subtransactions_are_read_in_every_version() {
        for version in PgMajor::ALL {
            let s = state(version, b"some gid\0", &[813, 814, 815]);
            let p = Prepared::parse(&s, version).unwrap();
            assert_eq!((p.xid, p.origin_lsn), (812, Lsn(0x55)));
            assert_eq!(
                p.subxids.iter().collect::<Vec<_>>(),
                [813, 814, 815],
                "{version}"
            );
        }
    }

    #[test]
    fn wrong_magic_and_wrong_length_are_refused() {
        let mut s = state(PgMajor::V16, b"g\0", &[]);
        s.push(0);
        assert!(Prepared::parse(&s, PgMajor::V16).is_err());
        s.pop();
        s[0] ^= 1;
        assert!(Prepared::parse(&s, PgMajor::V16).is_err());
    }
}

#[test]
fn database_opcodes_moved_in_15() {
    use dbase::Dbase;
    let copy = words(&[16390, 1663, 1, 1663]);
    let drop = words(&[16390, 2, 1663, 1664]);
    for version in PgMajor::ALL {
        let parse =
            |info, main: &[u8]| match Dbase::parse(&record(rmid::DBASE, info, main), version) {
                Ok(Dbase::CopyFiles {
                    db: 16390,
                    spc: 1663,
                    src_db: 1,
                    src_spc: 1663,
                }) => "copy",
                Ok(Dbase::CreateEmpty { db: 16390, .. }) => "create",
                Ok(Dbase::Drop {
                    db: 16390,
                    tablespaces,
                }) if tablespaces.len() == 2 => "drop",
                _ => "none",
            };
        let want = if version == PgMajor::V14 {
            ["copy", "drop", "none"]
        } else {
            ["copy", "create", "drop"]
        };
        let second = if version == PgMajor::V14 {
            &drop
        } else {
            &copy
        };
        assert_eq!(
            [parse(0, &copy), parse(0x10, second), parse(0x20, &drop)],
            want,
            "{version}"
        );
    }
}

#[test]
fn slru_page_numbers_are_wide_from_17_on_and_checked() {
    use clog::Clog;
    for version in PgMajor::ALL {
        let wide = version >= PgMajor::V17;
        let page = |n: i64| {
            if wide {
                n.to_le_bytes().to_vec()
            } else {
                (n as i32).to_le_bytes().to_vec()
            }
        };
        let zero = |n| {
            let main = page(n);
            Clog::parse(&record(rmid::CLOG, 0, &main), version)
        };
        assert_eq!(zero(131_071), Ok(Clog::ZeroPage(131_071)));
        assert!(zero(131_072).is_err() && zero(-1).is_err());
        let mut main = page(3);
        main.extend(words(&[98_304, 5]));
        assert_eq!(
            Clog::parse(&record(rmid::CLOG, 0x10, &main), version),
            Ok(Clog::Truncate {
                page: 3,
                oldest_xid: 98_304,
                oldest_xid_db: 5
            })
        );
    }
}

#[test]
fn multixact_members_keep_their_order() {
    use multixact::MultiXact;
    let main = words(&[9, 100, 2, 701, 4, 702, 5]);
    let rec = record(rmid::MULTIXACT, 0x20, &main);
    let Ok(MultiXact::Create {
        mid: 9,
        moff: 100,
        members,
    }) = MultiXact::parse(&rec, PgMajor::V18)
    else {
        panic!("not a creation");
    };
    assert_eq!(members.iter().collect::<Vec<_>>(), [(701, 4), (702, 5)]);
}

#[test]
fn relation_maps_have_one_length_per_version() {
    for version in PgMajor::ALL {
        for len in [512usize, 524] {
            let mut main = words(&[5, 1663, len as u32]);
            main.extend(vec![7; len]);
            let ok = relmap::Update::parse(&record(rmid::RELMAP, 0, &main), version).is_ok();
            assert_eq!(ok, len == relmap::map_size(version), "{version} {len}");
        }
    }
}

#[test]
fn messages_need_a_terminated_prefix() {
    let message = |prefix: &[u8], content: &[u8]| {
        let mut m = words(&[5, 0]);
        m.extend((prefix.len() as u64).to_le_bytes());
        m.extend((content.len() as u64).to_le_bytes());
        m.extend([prefix, content].concat());
        m
    };
    let good = message(b"p\0", b"xyz");
    let parsed =
        logicalmsg::Message::parse(&record(rmid::LOGICALMSG, 0, &good), PgMajor::V15).unwrap();
    assert_eq!((parsed.prefix, parsed.content), (&b"p"[..], &b"xyz"[..]));
    for bad in [message(b"p", b""), message(b"", b"")] {
        assert!(
            logicalmsg::Message::parse(&record(rmid::LOGICALMSG, 0, &bad), PgMajor::V15).is_err()
        );
    }
}

mod visibility {
    use super::*;
    use crate::rmgr::heap::{VmClear, vm_clear};

    fn main(len: usize, at: usize, flags: u8) -> Vec<u8> {
        let mut m = vec![0; len];
        m[at] = flags;
        m
    }

    fn clear(
        rec: &Record<'_>,
        version: PgMajor,
        flavour: Flavour,
    ) -> Option<(Option<u32>, Option<u32>, u8)> {
        let c: Option<VmClear> = vm_clear(rec, version, flavour).unwrap();
        c.map(|c| (c.new, c.old, c.mask))
    }

    #[test]
    fn flags_are_found_where_each_dialect_puts_them() {
        use Flavour::{Neon, Vanilla};
        let both = Some((Some(3), None, 3));
        let frozen = Some((None, Some(3), 2));
        // (rmgr, info, length, offset, flag, dialect, versions, expected)
        let cases = [
            (rmid::HEAP, 0x00, 3, 2, Vanilla, 14..=18, both),
            (rmid::HEAP, 0x80, 3, 2, Neon, 14..=15, both),
            (rmid::HEAP2, 0x50, 4, 0, Vanilla, 14..=18, both),
            (rmid::HEAP2, 0xD0, 4, 0, Neon, 14..=15, both),
            (rmid::HEAP, 0x10, 8, 7, Vanilla, 14..=18, both),
            (rmid::HEAP, 0x10, 14, 13, Neon, 14..=15, both),
            (rmid::HEAP, 0x60, 8, 7, Vanilla, 14..=18, frozen),
            (rmid::HEAP, 0x60, 14, 13, Neon, 14..=15, frozen),
            (rmid::HEAP2, 0x60, 8, 7, Vanilla, 14..=18, frozen),
            (rmid::HEAP2, 0x60, 8, 7, Neon, 14..=17, frozen),
            (rmid::NEON, 0x00, 3, 2, Neon, 16..=17, both),
            (rmid::NEON, 0x10, 12, 7, Neon, 16..=17, both),
            (rmid::NEON, 0x40, 12, 11, Neon, 16..=17, frozen),
            (rmid::NEON, 0x50, 8, 0, Neon, 16..=17, both),
        ];
        for (id, info, len, at, flavour, versions, want) in cases {
            for version in PgMajor::ALL
                .into_iter()
                .filter(|v| versions.contains(&v.number()))
            {
                let set = main(len, at, 1);
                let rec = with_blocks(record(id, info, &set), &[(0, Fork::Main, 3)]);
                assert_eq!(
                    clear(&rec, version, flavour),
                    want,
                    "{id} {info:#x} {version} {flavour:?}"
                );
                let unset = main(len, at, 0xF8);
                let rec = with_blocks(record(id, info, &unset), &[(0, Fork::Main, 3)]);
                assert_eq!(clear(&rec, version, flavour), None);
            }
        }
    }

    #[test]
    fn the_old_block_of_an_update_is_block_one_or_else_block_zero() {
        for (id, info, flavour) in [
            (rmid::HEAP, 0x20, Flavour::Vanilla),
            (rmid::NEON, 0x20, Flavour::Neon),
            (rmid::NEON, 0x30, Flavour::Neon),
        ] {
            let at = |flags, blocks: &[(u8, Fork, u32)]| {
                let m = main(14, 7, flags);
                clear(
                    &with_blocks(record(id, info, &m), blocks),
                    PgMajor::V17,
                    flavour,
                )
            };
            let two = [(0, Fork::Main, 8), (1, Fork::Main, 4)];
            assert_eq!(at(3, &two), Some((Some(8), Some(4), 3)));
            assert_eq!(at(1, &two), Some((None, Some(4), 3)));
            assert_eq!(at(2, &two), Some((Some(8), None, 3)));
            // References to map pages come last and are not the old block.
            let with_maps = [(0, Fork::Main, 8), (2, Fork::Vm, 0), (3, Fork::Vm, 1)];
            assert_eq!(at(1, &with_maps), Some((None, Some(8), 3)));
            assert_eq!(at(3, &with_maps), Some((Some(8), None, 3)));
        }
    }

    #[test]
    fn wal_of_the_other_dialect_is_refused() {
        for version in [PgMajor::V14, PgMajor::V15] {
            for (info, len, flavour) in [
                (0x60, 14, Flavour::Vanilla),
                (0x60, 8, Flavour::Neon),
                (0x10, 14, Flavour::Vanilla),
            ] {
                let m = main(len.max(14), 0, 0);
                let m = &m[..len];
                let rec = with_blocks(record(rmid::HEAP, info, m), &[(0, Fork::Main, 3)]);
                assert!(
                    vm_clear(&rec, version, flavour).is_err(),
                    "{info:#x} {len} {flavour:?}"
                );
            }
        }
    }

    #[test]
    fn a_flag_without_its_heap_block_is_an_error() {
        let m = main(3, 2, 1);
        let rec = record(rmid::HEAP, 0, &m);
        assert_eq!(
            vm_clear(&rec, PgMajor::V16, Flavour::Vanilla),
            Err(Error::MissingBlock {
                what: "heap insert",
                id: 0
            })
        );
    }
}

mod opcodes {
    use super::*;

    fn known(id: u8, info: u8, version: PgMajor) -> bool {
        let header = Header {
            total_len: 0,
            xid: 0,
            prev: 0,
            info,
            rmid: id,
            crc: 0,
        };
        opcode::check(&header, version).is_ok()
    }

    #[test]
    fn types_are_known_by_version() {
        assert!(known(rmid::XLOG, 0xE0, PgMajor::V17) && !known(rmid::XLOG, 0xE0, PgMajor::V16));
        assert!(known(rmid::DBASE, 0x20, PgMajor::V15) && !known(rmid::DBASE, 0x20, PgMajor::V14));
        assert!(known(200, 0x30, PgMajor::V15) && !known(200, 0x30, PgMajor::V14));
        assert!(known(rmid::BTREE, 0xE0, PgMajor::V14) && !known(rmid::BTREE, 0xF0, PgMajor::V14));
        assert!(
            known(rmid::HEAP, 0xF0, PgMajor::V14),
            "the top bit is a flag"
        );
        assert!(
            known(rmid::XLOG, 0xB3, PgMajor::V14),
            "the low bits are flags"
        );
        assert!(!known(rmid::XACT, 0x70, PgMajor::V18));
        for id in 22..128 {
            assert!(!known(id, 0, PgMajor::V18), "{id}");
        }
    }
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_main_data_never_panics(
            id in 0u8..=22, info: u8, v in 0usize..5, neon: bool,
            main in proptest::collection::vec(any::<u8>(), 0..160),
        ) {
            let version = PgMajor::ALL[v];
            let flavour = if neon { Flavour::Neon } else { Flavour::Vanilla };
            let rec = record(id, info, &main);
            let bound = main.len();
            if let Ok(xact::Xact::End(e)) = xact::Xact::parse(&rec, version) {
                prop_assert!(e.subxids.len() * 4 + e.relations.len() * 12 <= bound);
            }
            if let Ok(multixact::MultiXact::Create { members, .. }) = multixact::MultiXact::parse(&rec, version) {
                prop_assert!(members.len() * 8 <= bound);
            }
            if let Ok(dbase::Dbase::Drop { tablespaces, .. }) = dbase::Dbase::parse(&rec, version) {
                prop_assert!(tablespaces.len() * 4 <= bound);
            }
            let _ = xlog::Xlog::parse(&rec, version).is_ok();
            let _ = smgr::Smgr::parse(&rec, version).is_ok();
            let _ = clog::Clog::parse(&rec, version).is_ok();
            let _ = relmap::Update::parse(&rec, version).is_ok();
            let _ = standby::Standby::parse(&rec, version).is_ok();
            let _ = origin::Origin::parse(&rec, version).is_ok();
            let _ = tblspc::Tblspc::parse(&rec, version).is_ok();
            let _ = logicalmsg::Message::parse(&rec, version).is_ok();
            let _ = xact::Prepared::parse(&main, version).is_ok();
            let _ = heap::vm_clear(&with_blocks(rec, &[(0, Fork::Main, 1)]), version, flavour).is_ok();
        }
    }
}
