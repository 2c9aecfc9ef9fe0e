//! WAL written by real servers of every major decodes to the last record.
//!
//! `tests/data/*.wal.zst` hold what a server with 1 MiB segments wrote for one workload: all index
//! types, subtransactions, row locks, prepared transactions, sequences, messages, an origin,
//! relmap and tablespace changes, segment switches, vacuum, full-page images with each compression
//! the build has, a record of 150 kB whose second half was lost in a crash, and the restart. They
//! end at the page after the last record. Servers: 14.23, 15.18, 16.14, 17.10, 18.4, and a Debian
//! build of 15 for LZ4 and Zstandard. Record positions and lengths of both files of version 15 were
//! compared with `pg_waldump` when the files were made.

#![expect(clippy::disallowed_methods, reason = "reads golden files")]

use pg_wal::image;
use pg_wal::record::{Compression, Record, rmgr_name, rmid};
use pg_wal::stream::{Config, Decoder, Error, segment};
use std::collections::BTreeMap;
use std::io::Read;
use types::{Lsn, PAGE_SIZE, PgMajor};

const SEGMENT_SIZE: u32 = 1 << 20;

struct Golden {
    name: &'static str,
    version: PgMajor,
    base: Lsn,
    end: Lsn,
    records: &'static [(&'static str, usize)],
    images: &'static [(Compression, usize)],
}

#[expect(clippy::unwrap_used, reason = "test support outside a test function")]
fn load(g: &Golden) -> Vec<u8> {
    let path = format!(
        "{}/tests/data/{}.wal.zst",
        env!("CARGO_MANIFEST_DIR"),
        g.name
    );
    let mut out = Vec::new();
    zstd::Decoder::new(std::fs::File::open(path).unwrap())
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    out
}

fn config(version: PgMajor) -> Config {
    Config {
        segment_size: SEGMENT_SIZE,
        ..Config::new(version)
    }
}

const GOLDEN: [Golden; 6] = [
    Golden {
        name: "pg14",
        version: PgMajor::V14,
        base: Lsn(0x80_0000),
        end: Lsn(0xA0_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 338),
            ("Gin", 47),
            ("Gist", 25),
            ("Hash", 149),
            ("Heap", 948),
            ("Heap2", 132),
            ("LogicalMessage", 17),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 25),
            ("Sequence", 2),
            ("Standby", 22),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 59),
            ("XLOG", 30),
        ],
        images: &[(Compression::None, 26), (Compression::Pglz, 6)],
    },
    Golden {
        name: "pg15",
        version: PgMajor::V15,
        base: Lsn(0x60_0000),
        end: Lsn(0x80_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 337),
            ("Gin", 47),
            ("Gist", 25),
            ("Hash", 149),
            ("Heap", 947),
            ("Heap2", 132),
            ("LogicalMessage", 17),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 25),
            ("Sequence", 2),
            ("Standby", 21),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 58),
            ("XLOG", 28),
        ],
        images: &[(Compression::None, 24), (Compression::Pglz, 6)],
    },
    Golden {
        name: "pg15_lz4_zstd",
        version: PgMajor::V15,
        base: Lsn(0x70_0000),
        end: Lsn(0x90_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 343),
            ("Gin", 53),
            ("Gist", 31),
            ("Hash", 155),
            ("Heap", 2623),
            ("Heap2", 136),
            ("LogicalMessage", 15),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 31),
            ("Sequence", 2),
            ("Standby", 24),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 64),
            ("XLOG", 31),
        ],
        images: &[
            (Compression::None, 24),
            (Compression::Pglz, 17),
            (Compression::Lz4, 10),
            (Compression::Zstd, 10),
        ],
    },
    Golden {
        name: "pg16",
        version: PgMajor::V16,
        base: Lsn(0x60_0000),
        end: Lsn(0x80_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 337),
            ("Gin", 47),
            ("Gist", 25),
            ("Hash", 149),
            ("Heap", 947),
            ("Heap2", 133),
            ("LogicalMessage", 17),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 25),
            ("Sequence", 2),
            ("Standby", 21),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 58),
            ("XLOG", 28),
        ],
        images: &[(Compression::None, 24), (Compression::Pglz, 6)],
    },
    Golden {
        name: "pg17",
        version: PgMajor::V17,
        base: Lsn(0x60_0000),
        end: Lsn(0x80_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 338),
            ("Gin", 47),
            ("Gist", 25),
            ("Hash", 149),
            ("Heap", 947),
            ("Heap2", 133),
            ("LogicalMessage", 17),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 25),
            ("Sequence", 2),
            ("Standby", 21),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 58),
            ("XLOG", 23),
        ],
        images: &[(Compression::None, 24), (Compression::Pglz, 6)],
    },
    Golden {
        name: "pg18",
        version: PgMajor::V18,
        base: Lsn(0x90_0000),
        end: Lsn(0xB0_0408),
        records: &[
            ("BRIN", 6),
            ("Btree", 344),
            ("Gin", 47),
            ("Gist", 25),
            ("Hash", 149),
            ("Heap", 946),
            ("Heap2", 136),
            ("LogicalMessage", 17),
            ("RelMap", 1),
            ("ReplicationOrigin", 1),
            ("SPGist", 25),
            ("Sequence", 2),
            ("Standby", 21),
            ("Storage", 15),
            ("Tablespace", 1),
            ("Transaction", 59),
            ("XLOG", 39),
        ],
        images: &[(Compression::None, 25), (Compression::Pglz, 7)],
    },
];

fn u16_at(page: &[u8; PAGE_SIZE], at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

#[test]
fn every_record_is_found_and_parses() {
    for g in &GOLDEN {
        let wal = load(g);
        let mut reader = segment::Reader::from_page(g.base, &wal, config(g.version)).unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        while let Some(raw) = reader.next() {
            let record = raw
                .parse(g.version)
                .unwrap_or_else(|e| panic!("{} {}: {e}", g.name, raw.start));
            assert!(record.header.rmid <= rmid::MAX_BUILTIN);
            *counts.entry(rmgr_name(record.header.rmid)).or_default() += 1;
        }
        assert_eq!(reader.end(), g.end, "{}", g.name);
        assert_eq!(
            reader.stopped(),
            Some(Error::ZeroLength { start: g.end }),
            "{}",
            g.name
        );
        assert_eq!(reader.timeline(), 1);
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            g.records,
            "{}",
            g.name
        );
    }
}

#[test]
fn every_image_restores_to_a_page() {
    for g in &GOLDEN {
        let wal = load(g);
        let mut reader = segment::Reader::from_page(g.base, &wal, config(g.version)).unwrap();
        let mut counts = vec![];
        while let Some(raw) = reader.next() {
            let record = raw.parse(g.version).unwrap();
            for i in record.blocks.iter().filter_map(|b| b.image.as_ref()) {
                match counts.iter_mut().find(|(c, _)| *c == i.compression) {
                    Some((_, n)) => *n += 1,
                    None => counts.push((i.compression, 1)),
                }
                let mut page = [0xEE; PAGE_SIZE];
                image::restore_with_lsn(i, &mut page, raw.end)
                    .unwrap_or_else(|e| panic!("{} {}: {e}", g.name, raw.start));
                assert_eq!(u16_at(&page, 18), 0x2004, "page size and layout version");
                let (lower, upper, special) =
                    (u16_at(&page, 12), u16_at(&page, 14), u16_at(&page, 16));
                assert!(24 <= lower && lower <= upper && upper <= special && special <= PAGE_SIZE);
                let hole = usize::from(i.hole_offset)..usize::from(i.hole_offset + i.hole_length);
                if !hole.is_empty() {
                    assert_eq!(hole, lower..upper, "the hole is the free space");
                    assert!(page[hole].iter().all(|b| *b == 0));
                }
                assert_eq!(page[..4], (raw.end.0 >> 32).to_le_bytes()[..4]);
                assert_eq!(page[4..8], raw.end.0.to_le_bytes()[..4]);
            }
        }
        counts.sort_by_key(|(c, _)| *c as u8);
        assert_eq!(counts, g.images, "{}", g.name);
    }
}

#[test]
fn the_record_lost_in_the_crash_is_dropped_and_named() {
    for g in &GOLDEN {
        let wal = load(g);
        let mut reader = segment::Reader::from_page(g.base, &wal, config(g.version)).unwrap();
        let mut before = Lsn::INVALID;
        let mut found = vec![];
        while let Some(raw) = reader.next() {
            let record = raw.parse(g.version).unwrap();
            if record.header.rmid == rmid::XLOG && record.op() == 0xD0 {
                found.push(raw.start);
                let lost = Lsn(u64::from_le_bytes(*record.main.first_chunk().unwrap()));
                assert_eq!(
                    lost,
                    before.skip_page_header(u64::from(SEGMENT_SIZE)),
                    "{}",
                    g.name
                );
                assert_eq!(
                    raw.start.segment_offset(u64::from(SEGMENT_SIZE)),
                    40,
                    "the lost half was in the next segment"
                );
            }
            before = raw.end;
        }
        assert_eq!(found.len(), 1, "{}", g.name);
    }
}

#[test]
fn the_stream_may_be_cut_anywhere() {
    for g in &GOLDEN {
        let mut wal = load(g);
        wal.truncate((g.end.0 - g.base.0) as usize);
        let total: usize = g.records.iter().map(|(_, n)| n).sum();
        for cut in [1, 7, 4096, 8192, 100_003] {
            let mut d = Decoder::new(g.base, config(g.version));
            let mut found = 0;
            for piece in wal.chunks(cut) {
                d.feed(d.position(), piece).unwrap();
                while let Some(raw) = d.next().unwrap() {
                    found += 1;
                    assert!(Record::parse(raw.bytes, g.version).is_ok());
                }
            }
            assert_eq!(
                (found, d.decoded()),
                (total, g.end),
                "{} in pieces of {cut}",
                g.name
            );
        }
    }
}

#[test]
fn another_major_is_refused_at_the_first_page() {
    for g in &GOLDEN {
        let wal = load(g);
        for version in PgMajor::ALL.into_iter().filter(|v| *v != g.version) {
            let mut d = Decoder::new(g.base, config(version));
            d.feed(g.base, &wal).unwrap();
            assert_eq!(
                d.next(),
                Err(Error::Magic {
                    page: g.base,
                    found: g.version.wal_magic(),
                    version
                })
            );
            assert!(segment::Reader::from_page(g.base, &wal, config(version)).is_none());
        }
    }
}

#[test]
fn reading_may_begin_in_the_middle_of_a_record() {
    for g in &GOLDEN {
        let wal = load(g);
        let mut whole = segment::Reader::from_page(g.base, &wal, config(g.version)).unwrap();
        let mut starts = vec![];
        while let Some(raw) = whole.next() {
            starts.push(raw.start);
        }
        // Behind the last switched segment every page is in use.
        for page in (0..wal.len()).step_by(PAGE_SIZE) {
            let at = Lsn(g.base.0 + page as u64);
            let Some(mut r) = segment::Reader::from_page(at, &wal[page..], config(g.version))
            else {
                continue;
            };
            let Some(first) = r.next().map(|r| r.start) else {
                continue;
            };
            assert!(
                starts.binary_search(&first).is_ok(),
                "{} from {at}: {first}",
                g.name
            );
        }
    }
}
