//! Time of one change of one page, for each resource manager.
//!
//! Every record of the golden files of Postgres 17 (one of each variant of each record type, of real
//! servers) on every page it changes. An element is one change: a copy of the page as it was before
//! and the record. `copy` is the same without the record. Variants count alike here however rare they
//! are in practice, so these figures show what a manager's costly records cost; `redo` and `cargo
//! xtask bench recovery` show ordinary WAL.
//!
//! `--types` after `--` prints the mean of each record type's changes instead, best of 1,000 rounds.
//!
//! Figures: `docs/benchmarks.md`.

#![expect(clippy::unwrap_used, reason = "the golden files are whole")]
#![expect(clippy::disallowed_methods, reason = "a benchmark needs the time")]

#[path = "../tests/redo/cases.rs"]
mod cases;

use cases::Case;
use criterion::{Criterion, Throughput, criterion_group};
use pg_wal::Record;
use pg_wal::record::{rmgr_name, rmid};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};
use types::{Flavour, Key, Lsn, PgMajor};
use wal_redo::{Dialect, Outcome, PageBuf, apply_postgres, name};

const FILES: [&[u8]; 2] = [
    include_bytes!("../tests/golden/17.zst"),
    include_bytes!("../tests/golden/17-index.zst"),
];
const DIALECT: Dialect = Dialect {
    version: PgMajor::V17,
    flavour: Flavour::Vanilla,
    hint_bits_logged: false,
};
const MANAGERS: [u8; 9] = [
    rmid::HEAP,
    rmid::HEAP2,
    rmid::BTREE,
    rmid::HASH,
    rmid::GIN,
    rmid::GIST,
    rmid::SPGIST,
    rmid::BRIN,
    rmid::GENERIC,
];

/// One change: a page, as it was before, and what changes it.
struct Change {
    key: Key,
    base: PageBuf,
    lsn: Lsn,
    raw: Vec<u8>,
}

impl Change {
    fn redo(&self, page: &mut PageBuf) -> Outcome {
        page.clone_from(&self.base);
        apply_postgres(page, &self.key, self.lsn, &self.raw, &DIALECT).unwrap()
    }
}

fn changes(case: &Case) -> Vec<Change> {
    let rec = Record::parse(&case.raw, DIALECT.version).unwrap();
    let change = |block: &pg_wal::Block<'_>| {
        let known = |(rel, n, _): &&(_, _, _)| *rel == block.rel && *n == block.block;
        let mut base = PageBuf::new();
        if let Some((_, _, page)) = case.pages.iter().find(known) {
            assert!(base.set(page.as_slice()));
        }
        Change {
            key: Key::rel_block(block.rel, block.block),
            base,
            lsn: case.lsn,
            raw: case.raw.clone(),
        }
    };
    rec.blocks.iter().map(change).collect()
}

fn all_cases() -> Vec<Case> {
    FILES
        .iter()
        .flat_map(|f| cases::parse(&zstd::decode_all(*f).unwrap()).unwrap())
        .collect()
}

fn bench(c: &mut Criterion) {
    let cases = all_cases();
    let mut page = PageBuf::new();
    let mut group = c.benchmark_group("managers");
    for manager in MANAGERS {
        let of_manager = cases.iter().filter(|c| c.raw[17] == manager);
        let changes: Vec<Change> = of_manager.flat_map(changes).collect();
        assert!(!changes.is_empty());
        group.throughput(Throughput::Elements(changes.len() as u64));
        group.bench_function(rmgr_name(manager), |b| {
            b.iter(|| {
                for change in &changes {
                    black_box(change.redo(&mut page));
                }
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let base = changes(&cases[0]).swap_remove(0).base;
    group.bench_function("copy", |b| {
        b.iter(|| page.clone_from(black_box(&base)));
    });
    group.finish();
}

fn types() {
    let mut by_type: BTreeMap<(u8, u8), Vec<Change>> = BTreeMap::new();
    for case in all_cases() {
        let kind = (case.raw[17], case.raw[16] & 0xF0);
        by_type.entry(kind).or_default().extend(changes(&case));
    }
    let mut page = PageBuf::new();
    for ((manager, info), changes) in by_type {
        let mut best = Duration::MAX;
        for _ in 0..1000 {
            let begun = Instant::now();
            for change in &changes {
                black_box(change.redo(&mut page));
            }
            best = best.min(begun.elapsed());
        }
        println!(
            "{:<10} {:<24} {:>3} changes {:>7} ns",
            rmgr_name(manager),
            name::record(manager, info),
            changes.len(),
            best.as_nanos() / changes.len() as u128
        );
    }
}

criterion_group!(benches, bench);

fn main() {
    if std::env::args().any(|a| a == "--types") {
        return types();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
