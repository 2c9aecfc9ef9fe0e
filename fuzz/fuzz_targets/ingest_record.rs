//! Ingest: no panic on any record; whatever it writes keeps the rules of a batch, and a record that
//! is refused leaves nothing behind.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pg_format::{CheckPoint, FullXid};
use types::{Flavour, Fork, Lsn, PgMajor, RelTag};
use wal_ingest::testing::{MemoryStore, RecordBuilder};
use wal_ingest::{Config, Ingest, Limits};

const START: Lsn = Lsn(0x1000);

#[derive(Arbitrary, Debug)]
struct Block {
    fork: u8,
    rel: u8,
    block: u16,
    init: bool,
    image: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Rec<'a> {
    rmid: u8,
    info: u8,
    xid: u32,
    origin: Option<u16>,
    main: &'a [u8],
    blocks: Vec<Block>,
    raw: Option<&'a [u8]>,
}

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    version: u8,
    neon: bool,
    records: Vec<Rec<'a>>,
}

fn build(version: PgMajor, r: &Rec<'_>) -> Vec<u8> {
    if let Some(raw) = r.raw {
        return raw.to_vec();
    }
    let mut rec = RecordBuilder::new(version, r.rmid, r.info).xid(r.xid).main(r.main);
    if let Some(id) = r.origin {
        rec = rec.origin(id);
    }
    for (id, b) in (0u8..33).zip(&r.blocks) {
        let fork = Fork::from_u8(b.fork % 4).unwrap_or(Fork::Main);
        let rel = RelTag { spc: 1663, db: 5, rel: u32::from(b.rel), fork };
        rec = rec.block(id, rel, u32::from(b.block));
        if b.init {
            rec = rec.init();
        }
        if let Some(fill) = b.image {
            rec = rec.image(&[fill; 8192], Some((64, 4096)), true);
        }
    }
    rec.build()
}

fuzz_target!(|case: Case<'_>| {
    let version = PgMajor::ALL[usize::from(case.version) % 5];
    let flavour = if case.neon { Flavour::Neon } else { Flavour::Vanilla };
    let limits = Limits { gap_blocks: 256, ..Limits::default() };
    let cfg = Config { flavour, limits, ..Config::new(version) };
    let checkpoint = CheckPoint { next_xid: FullXid(1024), ..CheckPoint::default() };
    let store = MemoryStore::fresh(version, START, &checkpoint);
    let mut ingest = pollster::block_on(Ingest::load(&store, cfg, START)).expect("a checkpoint");
    let mut good = START;
    for r in &case.records {
        let raw = build(version, r);
        let end = Lsn(good.0 + raw.len() as u64 + 8).align();
        match pollster::block_on(ingest.record(&store, good, end, &raw)) {
            Ok(_) => good = end,
            // The one store failure that is not a bug: a copy of pages that need redo.
            Err(e) if matches!(e.cause, wal_ingest::Cause::Store(_)) => {
                assert!(e.to_string().contains("needs redo"), "{e}");
                break;
            }
            Err(_) => break,
        }
    }
    pollster::block_on(ingest.commit(&store)).expect("rules of a batch");
    assert_eq!(store.last(), good);
});
