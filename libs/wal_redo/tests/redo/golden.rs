//! Records of real servers, with the pages they found and the pages they left.
//!
//! `tests/golden/NN.zst` (heap above all) and `tests/golden/NN-index.zst` hold, for each variant
//! of each record type that a workload made Postgres NN write under `wal_consistency_checking`,
//! one record with the pages it changes as they were before. Written by
//! `cargo xtask oracle --dir --cases`; format: `cases.rs`.

#![expect(clippy::disallowed_methods, reason = "reads golden files")]

use crate::cases::{self, Case};
use types::{Fork, PgMajor};
use wal_redo::Dialect;
use wal_redo::oracle::{Oracle, Problem, Report, Row};

fn cases(version: PgMajor, kind: &str) -> Vec<Case> {
    let path = format!(
        "{}/tests/golden/{version}{kind}.zst",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    cases::parse(&bytes).unwrap()
}

fn dialect(version: PgMajor) -> Dialect {
    // Clusters are created with checksums from 18 on.
    Dialect {
        hint_bits_logged: version >= PgMajor::V18,
        ..crate::record::vanilla(version)
    }
}

fn run(version: PgMajor, case: &Case) -> Report {
    let mut oracle = Oracle::new(dialect(version));
    for (rel, block, page) in &case.pages {
        oracle.adopt(*rel, *block, page);
    }
    oracle.record(case.lsn, &case.raw).unwrap();
    oracle.into_report()
}

#[test]
fn redo_leaves_the_pages_postgres_left() {
    for version in PgMajor::ALL {
        let mut sum = Row::default();
        for case in cases(version, "").iter().chain(&cases(version, "-index")) {
            let report = run(version, case);
            let row = report.total();
            assert!(
                report.findings.is_empty(),
                "{version}: {}",
                report.findings[0]
            );
            assert_eq!(row.adopted, 0);
            sum.compared += row.compared;
        }
        assert!(sum.compared > 80, "{version}: {sum:?}");
    }
}

#[test]
fn index_cases_cover_every_record_type_that_is_not_only_images() {
    for version in PgMajor::ALL {
        let mut types: Vec<(u8, u8)> = cases(version, "-index")
            .iter()
            .map(|c| (c.raw[17], c.raw[16] & 0xF0))
            .collect();
        types.sort_unstable();
        types.dedup();
        let of = |rmid: u8| types.iter().filter(|(r, _)| *r == rmid).count();
        // Btree, hash, GIN, GiST, SP-GiST, BRIN, generic.
        let counts = [11, 12, 13, 14, 16, 17, 20].map(of);
        assert_eq!(counts, [14, 12, 7, 4, 8, 8, 1], "{version}");
    }
}

#[test]
fn the_oracle_sees_what_a_wrong_redo_leaves() {
    // A changed byte of user data in the base must surface as a difference.
    let mut seen = 0;
    for case in cases(PgMajor::V16, "").iter_mut() {
        let [(rel, _, page)] = case.pages.as_mut_slice() else {
            continue;
        };
        let upper = usize::from(u16::from_le_bytes([page[14], page[15]]));
        if rel.fork != Fork::Main || !matches!(case.raw[17], 9 | 10) || upper > 8100 {
            continue;
        }
        let at = upper + 40;
        page[at] ^= 0x55;
        let report = run(PgMajor::V16, case);
        seen += report.total().mismatched + report.total().errors;
        assert!(report.findings.iter().all(|f| matches!(
            f.problem,
            Problem::Differs { count: 1.., .. } | Problem::Redo(_) | Problem::Unmaskable(_)
        )));
    }
    assert!(seen > 5, "{seen}");
}
