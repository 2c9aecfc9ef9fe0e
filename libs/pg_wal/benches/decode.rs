//! Decoding (page headers, record boundaries, `xl_prev`, CRC) beside the floor: a CRC-32C and a
//! copy of the same bytes, in the same run. The ratio is what counts.
//!
//! 2026-11-21, two shared cores of an x86-64 virtual machine under load, GiB/s as decode, decode of
//! shared bytes, floor: oltp 1.0, 1.1, 3.6 (records of about 80 bytes; the floor has no cost per
//! record); fpi 3.9, 3.4, 3.4; bulk 4.8, 4.9, 3.2. One run; noise of a tenth and more.

#![allow(missing_docs, clippy::unwrap_used, reason = "benchmark")]

#[path = "../tests/writer/mod.rs"]
mod writer;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_wal::stream::{Config, Decoder};
use std::hint::black_box;
use types::{Lsn, PgMajor};
use writer::{SEGMENT_SIZE, Writer};

/// Bytes handed to the decoder at once: what a walsender sends.
const CHUNK: usize = 128 * 1024;

/// 8 MiB of WAL whose record bodies have the given lengths in turn.
fn wal(bodies: &[usize]) -> (Lsn, Bytes) {
    let base = Lsn(u64::from(SEGMENT_SIZE) * 5);
    let mut w = Writer::new(PgMajor::V17, base);
    for (n, len) in bodies.iter().cycle().enumerate() {
        if w.out.len() > 8 << 20 {
            break;
        }
        w.put(0, 10, &vec![n as u8; *len]);
        w.records.clear();
    }
    (base, w.out.into())
}

fn decode(base: Lsn, wal: &Bytes, shared: bool) -> usize {
    let cfg = Config {
        segment_size: SEGMENT_SIZE,
        ..Config::new(PgMajor::V17)
    };
    let mut d = Decoder::new(base, cfg);
    let mut records = 0;
    let mut at = 0;
    while at < wal.len() {
        let chunk = wal.slice(at..wal.len().min(at + CHUNK));
        at += chunk.len();
        let pos = d.position();
        if shared {
            d.feed_shared(pos, chunk)
        } else {
            d.feed(pos, &chunk)
        }
        .unwrap();
        while let Some(r) = d.next().unwrap() {
            black_box(r.bytes);
            records += 1;
        }
    }
    records
}

fn bench(c: &mut Criterion) {
    let loads: [(&str, &[usize]); 3] = [
        ("oltp", &[40, 50, 130, 56, 10]),
        ("fpi", &[3000, 8100, 60]),
        ("bulk", &[7900, 30_000]),
    ];
    for (name, bodies) in loads {
        let (base, wal) = wal(bodies);
        let mut g = c.benchmark_group(name);
        g.throughput(Throughput::Bytes(wal.len() as u64));
        g.bench_function("decode", |b| b.iter(|| decode(base, &wal, false)));
        g.bench_function("decode_shared", |b| b.iter(|| decode(base, &wal, true)));
        let mut copy = vec![0u8; wal.len()];
        g.bench_function("floor_crc_and_copy", |b| {
            b.iter(|| {
                for (to, from) in copy.chunks_mut(CHUNK).zip(wal.chunks(CHUNK)) {
                    to.copy_from_slice(from);
                    black_box(types::crc32c::of(to));
                }
            })
        });
        g.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
