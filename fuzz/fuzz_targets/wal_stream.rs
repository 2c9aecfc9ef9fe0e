//! The stream decoder: whatever the bytes, how they are cut makes no difference; whatever damage is
//! done to good WAL, no record comes out that was not written.

#![no_main]

#[path = "../../libs/pg_wal/tests/writer/mod.rs"]
mod writer;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pg_wal::stream::{Config, Decoder, Error, segment};
use types::{Lsn, PgMajor};
use writer::{SEGMENT_SIZE, Writer, Written};

#[derive(Arbitrary, Debug)]
enum Op<'a> {
    Put { info: u8, rmgr: u8, body: &'a [u8] },
    Long { len: u16 },
    FillTo(u8),
    Switch,
    Abort { len: u16, pages: u8 },
    Promote,
}

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    version: u8,
    page: u8,
    cut: u16,
    ops: Vec<Op<'a>>,
    damage: Vec<(u32, u8)>,
    raw: &'a [u8],
}

fn write(version: PgMajor, base: Lsn, ops: &[Op<'_>]) -> Writer {
    let mut w = Writer::new(version, base);
    let mut switches = 0;
    for op in ops.iter().take(64) {
        match *op {
            Op::Put { info, rmgr, body } => drop(w.put(info, rmgr.max(1), body)),
            Op::Long { len } => drop(w.put(0, 10, &vec![0x5A; usize::from(len)])),
            Op::FillTo(left) => w.fill_to(usize::from(left % 8) * 8),
            Op::Switch if switches == 0 => {
                switches += 1;
                w.switch();
            }
            Op::Switch => {}
            Op::Abort { len, pages } => {
                w.abort(
                    &vec![0x3C; 8200 + usize::from(len)],
                    usize::from(pages % 4) + 1,
                );
            }
            Op::Promote => w.timeline += 1,
        }
    }
    w
}

/// Most pieces that input is cut into: megabytes, byte by byte, would take all the time there is.
const PIECES: usize = 2000;

fn decode(base: Lsn, cfg: Config, bytes: &[u8], cut: usize) -> (Vec<Written>, Result<(), Error>) {
    let mut d = Decoder::new(base, cfg);
    let mut got = vec![];
    for piece in bytes.chunks(cut.max(bytes.len() / PIECES).max(1)) {
        if let Err(e) = d.feed(d.position(), piece) {
            return (got, Err(e));
        }
        loop {
            match d.next() {
                Ok(Some(r)) => {
                    assert!(r.start < r.end && r.end.is_aligned());
                    got.push(Written {
                        start: r.start,
                        end: r.end,
                        bytes: r.bytes.to_vec(),
                    });
                }
                Ok(None) => break,
                Err(e) => return (got, Err(e)),
            }
        }
    }
    (got, Ok(()))
}

fuzz_target!(|case: Case<'_>| {
    let version = PgMajor::ALL[usize::from(case.version) % 5];
    let cfg = Config {
        segment_size: SEGMENT_SIZE,
        ..Config::new(version)
    };
    let base = Lsn(9 * u64::from(SEGMENT_SIZE) - 8192 * u64::from(case.page % 4));
    let cut = usize::from(case.cut);

    let raw_start = Lsn(base.0 + 64);
    assert_eq!(
        decode(raw_start, cfg, case.raw, cut),
        decode(raw_start, cfg, case.raw, usize::MAX)
    );
    if let Some(mut r) = segment::Reader::from_page(base, case.raw, cfg) {
        while r.next().is_some() {}
    }

    let mut w = write(version, base, &case.ops);
    assert_eq!(decode(base, cfg, &w.out, cut), (w.records.clone(), Ok(())));
    if case.damage.is_empty() || w.out.is_empty() {
        return;
    }
    for (at, change) in case.damage.iter().take(8) {
        let at = *at as usize % w.out.len();
        w.out[at] ^= change;
    }
    let whole = decode(base, cfg, &w.out, usize::MAX);
    assert_eq!(decode(base, cfg, &w.out, cut), whole);
    // A CRC-32C finds every burst of up to 32 bits; wider damage may slip through by chance.
    if case.damage.len() == 1 {
        assert!(w.records.starts_with(&whole.0));
    }
});
