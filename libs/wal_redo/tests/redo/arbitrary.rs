//! Hostile records and pages: an answer or an error, never a panic.

use crate::record::{Block, REL, Record, insert, key, vm_key};
use proptest::prelude::*;
use types::{Flavour, Fork, Lsn, PgMajor};
use wal_redo::mask::{self, Kind, Level};
use wal_redo::page::Page;
use wal_redo::{Dialect, PageBuf, apply_postgres};

fn dialect() -> impl Strategy<Value = Dialect> {
    (0usize..5, any::<bool>(), any::<bool>()).prop_map(|(v, neon, hint_bits_logged)| Dialect {
        version: PgMajor::ALL[v],
        flavour: if neon {
            Flavour::Neon
        } else {
            Flavour::Vanilla
        },
        hint_bits_logged,
    })
}

/// Small numbers make offset numbers and counts that exist.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..120),
        proptest::collection::vec(0u8..9, 0..120),
    ]
}

fn page(d: &Dialect, rows: u16, special: bool, noise: &[(u16, u8)]) -> [u8; 8192] {
    let mut buf = PageBuf::new();
    let d = Dialect {
        flavour: Flavour::Vanilla,
        ..*d
    };
    for off in 1..=rows {
        let rec = insert(700, 7, off, &[off as u8; 30]);
        apply_postgres(&mut buf, &key(7), Lsn(u64::from(off) * 8), &rec.build(), &d).unwrap();
    }
    let mut bytes = buf.page().copied().unwrap_or([0; 8192]);
    if special {
        let mut page = Page::new(&mut bytes);
        page.init(16);
        for off in 1..=rows {
            let mut item = [off as u8; 16];
            item[6..8].copy_from_slice(&[16, 0]);
            page.add(&item, off, wal_redo::page::Place::Shift).unwrap();
        }
    }
    for (at, v) in noise {
        bytes[usize::from(*at) % 8192] = *v;
    }
    bytes
}

fn noise() -> impl Strategy<Value = Vec<(u16, u8)>> {
    let at = prop_oneof![8u16..120, 8000u16..8192, any::<u16>()];
    proptest::collection::vec((at, any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn any_record_on_any_page(
        d in dialect(),
        rmid in prop_oneof![9u8..12, 12u8..18, Just(20), Just(0), Just(134), any::<u8>()],
        info in any::<u8>(),
        main in bytes(),
        blocks in proptest::collection::vec((bytes(), any::<bool>(), 0u8..8), 1..5),
        target in 0usize..5,
        rows in 0u16..12,
        special in any::<bool>(),
        noise in noise(),
    ) {
        let mut rec = Record::new(rmid, info, 700, main);
        for (n, (data, will_init, fork)) in blocks.iter().enumerate() {
            let hit = n == target % blocks.len();
            let fork = if *fork == 0 { Fork::Vm } else { Fork::Main };
            rec = rec.with(Block {
                id: n as u8,
                rel: REL.with_fork(fork),
                block: if hit { 7 } else { 100 + n as u32 },
                will_init: *will_init && !hit,
                image: None,
                data: data.clone(),
            });
        }
        let raw = rec.build();
        for key in [key(7), vm_key(7)] {
            let mut buf = PageBuf::new();
            prop_assert!(buf.set(&page(&d, rows, special, &noise)));
            if let Err(e) = apply_postgres(&mut buf, &key, Lsn(1 << 30), &raw, &d) {
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_as_record(d in dialect(), raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut buf = PageBuf::new();
        prop_assert!(buf.set(&page(&d, 3, false, &[])));
        prop_assert!(apply_postgres(&mut buf, &key(7), Lsn(1 << 30), &raw, &d).is_err());
    }

    #[test]
    fn any_page_can_be_masked(d in dialect(), rows in 0u16..12, special in any::<bool>(), noise in noise()) {
        let bytes = page(&d, rows, special, &noise);
        for fork in Fork::ALL {
            Kind::guess(&bytes, fork);
        }
        for rmid in [9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 0] {
            let mut once = bytes;
            if mask::for_consistency(rmid, Fork::Main, 7, &mut once).is_ok() {
                // The mask shows nothing twice: two masked copies of one page are equal, and
                // LSN and checksum are gone.
                let mut again = bytes;
                again[..8].fill(0x77);
                mask::for_consistency(rmid, Fork::Main, 7, &mut again).unwrap();
                if !Page::new(&mut { bytes }).is_new() {
                    prop_assert_eq!(once[..10].to_vec(), vec![0; 10]);
                    prop_assert_eq!(&once[..], &again[..]);
                }
            }
            let mut strict = bytes;
            let _ = mask::page(Kind::Heap, Level::Strict, 7, &mut strict);
        }
    }
}
