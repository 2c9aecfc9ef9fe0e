//! First inputs for fuzz targets: the golden records of `wal_redo` and the golden WAL of `pg_wal`,
//! in the input format that each target documents.

#[path = "../../../libs/wal_redo/tests/redo/cases.rs"]
#[allow(dead_code, reason = "the tests of wal_redo use all of it")]
mod cases;

use crate::run::root;
use anyhow::{Context as _, Result};
use cases::Case;
use pg_wal::record::{HEADER_SIZE, Record};
use pg_wal::stream::{Config, Decoder};
use std::fs;
use std::path::Path;
use types::{Lsn, PgMajor, Value, WalRecord};

/// Fills the corpus of a target and returns the number of seeds; targets whose input cannot be
/// made from golden files start from nothing.
pub fn plant(target: &str, corpus: &Path) -> Result<usize> {
    let seeds = match target {
        "wal_record" => each_record(|raw| raw.get(HEADER_SIZE..).unwrap_or_default().to_vec())?,
        "wal_view" => each_record(<[u8]>::to_vec)?,
        "redo_page" => each_page(page)?,
        "redo_golden" => each_page(|case, n, place| Some(golden(case, n, place)))?,
        "redo_internal" => internal(),
        _ => Vec::new(),
    };
    fs::create_dir_all(corpus)?;
    for (n, seed) in seeds.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{n:05}")), seed)?;
    }
    Ok(seeds.len())
}

/// The version as its index in [`PgMajor::ALL`], then what `make` makes of each record.
fn each_record(make: impl Fn(&[u8]) -> Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for (index, version) in (0u8..).zip(PgMajor::ALL) {
        let mut add = |raw: &[u8]| seeds.push([vec![index], make(raw)].concat());
        golden_cases(version)?.iter().for_each(|c| add(&c.raw));
        golden_wal(version, add)?;
    }
    Ok(seeds)
}

/// Which case of which version, and which reference of its record.
struct Place {
    version: u8,
    case: u16,
    reference: u8,
}

/// What `make` makes of each page of each case.
fn each_page(make: impl Fn(&Case, usize, Place) -> Option<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for (version, major) in (0u8..).zip(PgMajor::ALL) {
        for (number, case) in (0u16..).zip(golden_cases(major)?) {
            let record = Record::parse(&case.raw, major)?;
            for (n, (rel, block, _)) in case.pages.iter().enumerate() {
                let here = |b: &pg_wal::Block<'_>| b.rel == *rel && b.block == *block;
                let reference = record.blocks.iter().position(here).unwrap_or(0);
                let place = Place {
                    version,
                    case: number,
                    reference: u8::try_from(reference)?,
                };
                seeds.extend(make(&case, n, place));
            }
        }
    }
    Ok(seeds)
}

fn page(case: &Case, n: usize, place: Place) -> Option<Vec<u8>> {
    let length = u16::try_from(case.raw.len()).ok()?.to_le_bytes();
    let mut seed = vec![place.version, 2, place.reference];
    seed.extend(length);
    seed.extend(&case.raw);
    seed.extend(case.pages.get(n)?.2.as_slice());
    Some(seed)
}

/// As `arbitrary` reads its structures: fields in order, a byte before each element of a list.
fn golden(_: &Case, n: usize, place: Place) -> Vec<u8> {
    let [low, high] = place.case.to_le_bytes();
    let page = u8::try_from(n).unwrap_or(0);
    let base = [place.version, 0, 1, 1, low, high, page];
    let steps = [0, 1, low, high, place.reference, 0, 0];
    [base, steps].concat()
}

fn internal() -> Vec<Vec<u8>> {
    let records = [
        WalRecord::ClearVisibilityMapFlags {
            new_heap_block: Some(7),
            old_heap_block: None,
            flags: 3,
        },
        WalRecord::TruncateVisibilityMap {
            trunc_byte: 2,
            trunc_offs: 4,
        },
        WalRecord::ClogSetCommitted {
            xids: vec![700, 701],
            timestamp: 1,
        },
        WalRecord::ClogSetAborted { xids: vec![702] },
        WalRecord::MultixactOffsetCreate { mid: 3, moff: 9 },
        WalRecord::MultixactMembersCreate {
            moff: 9,
            members: vec![(700, 1), (701, 4)],
        },
    ];
    let kinds = [0u8, 0, 1, 1, 2, 3];
    kinds
        .into_iter()
        .zip(records)
        .map(|(kind, record)| {
            let value = Value::WalRecord(record).to_bytes();
            let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
            [vec![kind, 0, 0, length], value, vec![0xFF; 64]].concat()
        })
        .collect()
}

fn golden_cases(version: PgMajor) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    for kind in ["", "-index"] {
        let path = root()?.join(format!("libs/wal_redo/tests/golden/{version}{kind}.zst"));
        let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
        all.extend(cases::parse(&zstd::decode_all(file)?)?);
    }
    Ok(all)
}

/// Records of the golden WAL of one version; the files begin at a record.
fn golden_wal(version: PgMajor, mut add: impl FnMut(&[u8])) -> Result<()> {
    let path = root()?.join(format!("libs/pg_wal/tests/data/pg{version}.wal.zst"));
    let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
    let bytes = zstd::decode_all(file)?;
    let address = bytes.get(8..).and_then(|b| b.first_chunk());
    let begin = Lsn(u64::from_le_bytes(*address.context("no page header")?));
    let cfg = Config {
        segment_size: 1 << 20,
        ..Config::new(version)
    };
    let mut decoder = Decoder::new(begin, cfg);
    decoder.feed(begin, &bytes)?;
    // The first thing that is not WAL is its end. Records with images would fill the corpus with the
    // contents of pages.
    while let Ok(Some(record)) = decoder.next() {
        if record.bytes.len() < 1000 {
            add(record.bytes);
        }
    }
    Ok(())
}
