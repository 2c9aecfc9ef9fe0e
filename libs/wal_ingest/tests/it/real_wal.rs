//! WAL of real servers goes in to the last record, and how it is batched makes no difference.
//!
//! The files are those of `pg_wal`; they begin in the middle of a cluster's life, so the state
//! before is made up from nothing, which exercises implicit creation all over. The workload
//! also creates a tablespace, which is refused; the test leaves those records out.

#![expect(clippy::disallowed_methods, reason = "reads golden files")]

use crate::feed::fresh_checkpoint;
use pg_wal::record::{Record, rmid};
use pg_wal::stream::{self, Decoder};
use std::io::Read;
use types::{Key, Lsn, PgMajor};
use wal_ingest::testing::MemoryStore;
use wal_ingest::{Cause, Config, Counters, Ingest, Limits};

fn load(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../pg_wal/tests/data/{name}.wal.zst",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut out = Vec::new();
    zstd::Decoder::new(std::fs::File::open(path).unwrap())
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    out
}

/// True for records about the tablespace the workload creates.
fn in_user_tablespace(rec: &Record<'_>) -> bool {
    let named = match (rec.header.rmid, rec.op()) {
        (rmid::SMGR, 0x10) => rec.main.first_chunk::<4>(),
        (rmid::SMGR, 0x20) => rec.main.get(4..).and_then(|m| m.first_chunk::<4>()),
        _ => None,
    };
    let named = named.map_or(1663, |b| u32::from_le_bytes(*b));
    let user = |spc| spc != 1663 && spc != 1664;
    rec.header.rmid == rmid::TBLSPC || user(named) || rec.blocks.iter().any(|b| user(b.rel.spc))
}

fn ingest(name: &str, version: PgMajor, base: Lsn, batch: usize) -> (MemoryStore, Counters, Lsn) {
    let wal = load(name);
    let store = MemoryStore::fresh(version, Lsn(base.0 - 8), &fresh_checkpoint());
    // Only its parameters are looked at, when they change.
    store.set(Key::CONTROL_FILE, store.last(), &control(version));
    let limits = Limits {
        batch_records: batch,
        ..Limits::default()
    };
    let cfg = Config {
        limits,
        ..Config::new(version)
    };
    let mut ingest = pollster::block_on(Ingest::load(&store, cfg, store.last())).unwrap();
    let decoder = stream::Config {
        segment_size: 1 << 20,
        ..stream::Config::new(version)
    };
    let mut decoder = Decoder::new(base, decoder);
    decoder.feed(base, &wal).unwrap();
    let mut end = Lsn::INVALID;
    // What is behind the last record is not a record.
    while let Ok(Some(raw)) = decoder.next() {
        let rec = raw.parse(version).unwrap();
        if in_user_tablespace(&rec) {
            continue;
        }
        let done = pollster::block_on(ingest.record(&store, raw.start, raw.end, raw.bytes));
        done.unwrap_or_else(|e| panic!("{name}: {e}"));
        end = raw.end;
    }
    pollster::block_on(ingest.commit(&store)).unwrap();
    (store, ingest.counters(), end)
}

/// A control file with a valid CRC and otherwise the fixed fields only.
fn control(version: PgMajor) -> Vec<u8> {
    use pg_format::control::{catalog_version, control_version};
    let mut b = vec![0; 8192];
    let mut put = |at: usize, n: u32| b[at..at + 4].copy_from_slice(&n.to_le_bytes());
    put(8, control_version(version));
    put(12, catalog_version(version));
    put(16, 6);
    put(216, 8192);
    put(220, 131_072);
    put(224, 8192);
    put(228, 1 << 20);
    let at = if version == PgMajor::V18 { 292 } else { 288 };
    let crc = types::crc32c::of(&b[..at]);
    b[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    b
}

#[test]
fn every_record_of_every_version_goes_in() {
    for (name, version, base) in [
        ("pg14", PgMajor::V14, 0x80_0000),
        ("pg15", PgMajor::V15, 0x60_0000),
        ("pg15_lz4_zstd", PgMajor::V15, 0x70_0000),
        ("pg16", PgMajor::V16, 0x60_0000),
        ("pg17", PgMajor::V17, 0),
        ("pg18", PgMajor::V18, 0),
    ] {
        let base = if base == 0 {
            first_page(&load(name))
        } else {
            Lsn(base)
        };
        let (one, counters, end) = ingest(name, version, base, 1);
        assert!(
            counters.records > 1500 && counters.images > 20,
            "{name}: {counters:?}"
        );
        assert_eq!(one.last(), end);
        let (many, other, _) = ingest(name, version, base, 500);
        assert_eq!(one.dump(), many.dump(), "{name}");
        assert_eq!((counters, one.logical_size()), (other, many.logical_size()));
        assert!(one.logical_size() > 0);
        let cp = one.checkpoint(version).unwrap();
        assert!(
            cp.next_oid > 16384 && cp.next_xid >= fresh_checkpoint().next_xid,
            "{name}"
        );
    }
}

/// Address in the header of the first page.
fn first_page(wal: &[u8]) -> Lsn {
    Lsn(u64::from_le_bytes(*wal[8..].first_chunk().unwrap()))
}

#[test]
fn a_tablespace_stops_ingest_with_advice() {
    let wal = load("pg16");
    let version = PgMajor::V16;
    let base = first_page(&wal);
    let store = MemoryStore::fresh(version, Lsn(base.0 - 8), &fresh_checkpoint());
    let mut ingest =
        pollster::block_on(Ingest::load(&store, Config::new(version), store.last())).unwrap();
    let cfg = stream::Config {
        segment_size: 1 << 20,
        ..stream::Config::new(version)
    };
    let mut decoder = Decoder::new(base, cfg);
    decoder.feed(base, &wal).unwrap();
    let error = loop {
        let raw = decoder
            .next()
            .unwrap()
            .expect("the workload creates a tablespace");
        if let Err(e) = pollster::block_on(ingest.record(&store, raw.start, raw.end, raw.bytes)) {
            break e;
        }
    };
    assert!(matches!(error.cause, Cause::Tablespace { .. }), "{error}");
}
