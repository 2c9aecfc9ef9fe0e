//! Time to rebuild a heap page.
//!
//! `two_records`: a base page copied, an insert and an update applied. `full_page`: 227 records,
//! an insert that initialises the page, 225 inserts and a VISIBLE. A redo process behind pipes
//! needs 32 µs and 139 µs for such requests, of which 22 µs are the pipes (published figures,
//! 8-core arm64, 2024).

#[path = "../tests/redo/record.rs"]
mod record;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

fn bench(c: &mut Criterion) {
    let mut page = PageBuf::new();
    let inserts = (1..=20).map(|off| {
        (
            Lsn(u64::from(off) * 64),
            pg(off == 1, &insert(9, 7, off, &[5; 90])),
        )
    });
    rebuild(&key(7), None, &inserts.collect::<Vec<_>>(), &mut page);
    let base = page.as_slice().to_vec();

    let mut new = vec![20, 0, 20, 0];
    new.extend(tuple(1, 0x2800, &[6; 50]));
    let hot = Record::new(HEAP, 0x40, 11, update(change(11, 3, 0, 0x60), 0, 22)).on(0, REL, 7, new);
    let two = [
        (Lsn(0x10000), pg(false, &insert(10, 7, 21, &[5; 90]))),
        (Lsn(0x10100), pg(false, &hot)),
    ];
    let mut out = PageBuf::new();
    let mut group = c.benchmark_group("redo");
    group.bench_function("two_records", |b| {
        b.iter(|| rebuild(black_box(&key(7)), Some(&base), black_box(&two), &mut out));
    });

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
    group.throughput(Throughput::Elements(full.len() as u64));
    group.bench_function("full_page", |b| {
        b.iter(|| rebuild(black_box(&key(7)), None, black_box(&full), &mut out));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
