//! Time to rebuild a heap page.
//!
//! `two_records`: a base page copied, an insert and an update applied. `full_page`: 227 records,
//! an insert that initialises the page, 225 inserts and a VISIBLE. A redo process behind pipes
//! needs 32 µs and 139 µs for such requests, of which 22 µs are the pipes (published figures,
//! 8-core arm64, 2024).
//!
//! 2026-11-21, two shared and busy cores of an x86-64 virtual machine, so the best of 30,000
//! rebuilds and instruction counts instead of means: `two_records` 0.24 µs, 2,835 instructions
//! (a quarter of them the copy of the base); `full_page` 9.5 to 10.2 µs, 156,400 instructions, 690
//! a record. Parsing whole records instead of walking to the one reference: 13 µs and 232,800.
//!
//! `--count CASE N` after `--` rebuilds one case N times; under `valgrind --tool=callgrind` the
//! difference of two such runs gives the instructions of one rebuild.

#![expect(clippy::disallowed_methods, reason = "a benchmark needs the time")]

#[path = "../tests/redo/record.rs"]
mod record;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use record::*;
use std::hint::black_box;
use types::{Fork, Lsn, PgMajor, WalRecord};
use wal_redo::{PageBuf, reconstruct};

fn pg(will_init: bool, rec: &Record) -> WalRecord {
    WalRecord::Postgres {
        will_init,
        rec: Bytes::from(rec.build()),
    }
}

fn rebuild(key: &types::Key, base: Option<&[u8]>, records: &[(Lsn, WalRecord)], out: &mut PageBuf) {
    let dialect = vanilla(PgMajor::V17);
    let list = records.iter().map(|(lsn, rec)| (*lsn, rec));
    let stats = reconstruct(key, base, list, &dialect, out);
    assert_eq!(stats.map(|s| s.changed), Ok(records.len() as u64));
}

/// A page request: base, records, and how many of the records change the page.
struct Case {
    name: &'static str,
    base: Option<Vec<u8>>,
    records: Vec<(Lsn, WalRecord)>,
}

fn cases() -> [Case; 2] {
    let mut page = PageBuf::new();
    let inserts: Vec<_> = (1..=20u16)
        .map(|off| {
            (
                Lsn(u64::from(off) * 64),
                pg(off == 1, &insert(9, 7, off, &[5; 90])),
            )
        })
        .collect();
    rebuild(&key(7), None, &inserts, &mut page);

    let mut new = vec![20, 0, 20, 0];
    new.extend(tuple(1, 0x2800, &[6; 50]));
    let hot = Record::new(HEAP, 0x40, 11, update(change(11, 3, 0, 0x60), 0, 22)).on(0, REL, 7, new);
    let two = vec![
        (Lsn(0x10000), pg(false, &insert(10, 7, 21, &[5; 90]))),
        (Lsn(0x10100), pg(false, &hot)),
    ];

    let mut full: Vec<_> = (1..=226u16)
        .map(|off| {
            (
                Lsn(u64::from(off) * 64),
                pg(off == 1, &insert(9, 7, off, &[5; 4])),
            )
        })
        .collect();
    let visible = Record::new(HEAP2, 0x40, 0, [9, 0, 0, 0, 1])
        .on(0, REL.with_fork(Fork::Vm), 0, [])
        .on(1, REL, 7, []);
    full.push((Lsn(0x20000), pg(false, &visible)));
    [
        Case {
            name: "two_records",
            base: Some(page.as_slice().to_vec()),
            records: two,
        },
        Case {
            name: "full_page",
            base: None,
            records: full,
        },
    ]
}

fn bench(c: &mut Criterion) {
    let mut out = PageBuf::new();
    let mut group = c.benchmark_group("redo");
    for case in cases() {
        group.throughput(Throughput::Elements(case.records.len() as u64));
        group.bench_function(case.name, |b| {
            b.iter(|| {
                rebuild(
                    black_box(&key(7)),
                    case.base.as_deref(),
                    black_box(&case.records),
                    &mut out,
                )
            });
        });
    }
    group.finish();
}

/// Rebuilds the page of one case N times and nothing else.
fn count(mut arguments: impl Iterator<Item = String>) -> Option<()> {
    arguments.find(|a| a == "--count")?;
    let (name, times) = (arguments.next()?, arguments.next()?.parse::<u32>().ok()?);
    let cases = cases();
    let case = cases.iter().find(|c| c.name == name)?;
    let mut out = PageBuf::new();
    let mut best = std::time::Duration::MAX;
    for _ in 0..times {
        let start = std::time::Instant::now();
        rebuild(
            black_box(&key(7)),
            case.base.as_deref(),
            black_box(&case.records),
            &mut out,
        );
        best = best.min(start.elapsed());
    }
    println!("{name}: best of {times} is {best:?}");
    Some(())
}

criterion_group!(benches, bench);

fn main() {
    if count(std::env::args()).is_none() {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
