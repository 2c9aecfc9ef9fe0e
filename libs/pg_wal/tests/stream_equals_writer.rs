//! Whatever records are written and however the bytes are cut, the decoder gives back the records.

mod writer;

use bytes::Bytes;
use pg_wal::record::rmid;
use pg_wal::stream::{Config, Decoder, Error};
use proptest::prelude::*;
use types::{Lsn, PgMajor};
use writer::{SEGMENT_SIZE, SYSTEM, Writer, Written};

#[derive(Clone, Debug)]
enum Op {
    Put { info: u8, rmgr: u8, len: usize },
    FillTo(usize),
    Switch,
    Abort { len: usize, pages: usize },
    Promote,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![8 => 0usize..200, 3 => 0usize..9000, 1 => 8000usize..60_000];
    prop_oneof![
        12 => (any::<u8>(), 1u8..=21, len).prop_map(|(info, rmgr, len)| Op::Put { info, rmgr, len }),
        4 => (0usize..6).prop_map(|n| Op::FillTo(n * 8)),
        1 => Just(Op::Switch),
        2 => (8200usize..40_000, 1usize..4).prop_map(|(len, pages)| Op::Abort { len, pages }),
        1 => Just(Op::Promote),
    ]
}

fn write(version: PgMajor, base: Lsn, ops: &[Op]) -> Writer {
    let mut w = Writer::new(version, base);
    let mut switches = 0;
    for (n, op) in ops.iter().enumerate() {
        let body = |len: usize| (0..len).map(|i| (i * 31 + n) as u8).collect::<Vec<_>>();
        match *op {
            Op::Put { info, rmgr, len } => drop(w.put(info, rmgr, &body(len))),
            Op::FillTo(left) => w.fill_to(left),
            Op::Switch if switches < 2 => {
                switches += 1;
                w.switch();
            }
            Op::Switch => {}
            Op::Abort { len, pages } => w.abort(&body(len), pages),
            Op::Promote => w.timeline += 1,
        }
    }
    w
}

fn config(version: PgMajor) -> Config {
    Config {
        segment_size: SEGMENT_SIZE,
        system_identifier: Some(SYSTEM),
        timeline: Some(1),
        ..Config::new(version)
    }
}

/// Feeds `stream` in pieces of the sizes in `cuts`, over and over.
fn decode(
    d: &mut Decoder,
    stream: &[u8],
    cuts: &[usize],
    shared: bool,
) -> (Vec<Written>, Result<(), Error>) {
    let mut got = Vec::new();
    let mut left = stream;
    for &cut in cuts.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let n = cut.clamp(1, left.len());
        let (now, later) = left.split_at(n);
        left = later;
        let at = d.position();
        let fed = if shared {
            d.feed_shared(at, Bytes::copy_from_slice(now))
        } else {
            d.feed(at, now)
        };
        if let Err(e) = fed {
            return (got, Err(e));
        }
        loop {
            match d.next() {
                Ok(Some(r)) => got.push(Written {
                    start: r.start,
                    end: r.end,
                    bytes: r.bytes.to_vec(),
                }),
                Ok(None) => break,
                Err(e) => return (got, Err(e)),
            }
        }
    }
    (got, Ok(()))
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![usize::MAX]),
        Just(vec![8192]),
        proptest::collection::vec(1usize..60, 1..20),
        proptest::collection::vec(1usize..20_000, 1..20),
    ]
}

fn base() -> impl Strategy<Value = Lsn> {
    (1u64..0x1_0002_0000, 0u64..128).prop_map(|(segment, page)| {
        Lsn(segment * u64::from(SEGMENT_SIZE)
            + if page < 100 {
                0x10_0000 - (page % 6 + 1) * 8192
            } else {
                0
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_back(
        version in proptest::sample::select(PgMajor::ALL.to_vec()),
        base in base(),
        ops in proptest::collection::vec(op(), 1..40),
        cuts in cuts(),
        shared: bool,
    ) {
        let w = write(version, base, &ops);
        let mut d = Decoder::new(base, config(version));
        let (got, end) = decode(&mut d, &w.out, &cuts, shared);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(d.position(), w.position());
        if let Some(last) = w.records.last() {
            prop_assert_eq!(d.decoded(), last.end);
        }
        prop_assert_eq!(got, w.records);
    }

    #[test]
    fn decoding_may_start_at_any_record_end(
        base in base(),
        ops in proptest::collection::vec(op(), 2..25),
        at in any::<proptest::sample::Index>(),
        behind_header: bool,
    ) {
        let w = write(PgMajor::V17, base, &ops);
        prop_assume!(w.records.len() > 1);
        let n = at.index(w.records.len() - 1);
        let start = w.records[n].end;
        let cfg = Config { timeline: None, previous: Some(w.records[n].start), ..config(PgMajor::V17) };
        let mut d = Decoder::new(start, cfg);
        let from = if behind_header { start.skip_page_header(u64::from(SEGMENT_SIZE)) } else { start };
        // Behind the header, the decoder cannot know that the first record overwrites another.
        let skipped = (from.0 - base.0) as usize;
        prop_assert_eq!(d.feed(from, &w.out[skipped..]), Ok(()));
        for expected in &w.records[n + 1..] {
            let r = d.next().unwrap().unwrap();
            prop_assert_eq!((r.start, r.end, r.bytes), (expected.start, expected.end, &expected.bytes[..]));
        }
        prop_assert_eq!(d.next(), Ok(None));
    }

    #[test]
    fn a_flipped_bit_never_changes_a_record(
        base in base(),
        ops in proptest::collection::vec(op(), 1..25),
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
        cuts in cuts(),
    ) {
        let mut w = write(PgMajor::V16, base, &ops);
        prop_assume!(!w.out.is_empty());
        let at = at.index(w.out.len());
        w.out[at] ^= 1 << bit;
        let mut d = Decoder::new(base, config(PgMajor::V16));
        let (got, end) = decode(&mut d, &w.out, &cuts, false);
        prop_assert!(got.len() <= w.records.len());
        prop_assert_eq!(&got[..], &w.records[..got.len()]);
        if let Err(e) = end {
            prop_assert_eq!(d.next(), Err(e));
            prop_assert_eq!(d.feed(d.position(), &[0]), Err(e));
        }
    }

    #[test]
    fn arbitrary_bytes_give_no_record_and_no_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..30_000),
        base in base(),
        cuts in cuts(),
    ) {
        let mut d = Decoder::new(Lsn(base.0 + 48), config(PgMajor::V15));
        let (got, _) = decode(&mut d, &bytes, &cuts, false);
        prop_assert!(got.is_empty());
    }
}

#[test]
fn a_record_may_cross_many_pages_and_a_segment() {
    let base = Lsn(3 * u64::from(SEGMENT_SIZE) - 8192);
    let mut w = Writer::new(PgMajor::V18, base);
    w.fill_to(8);
    w.put(0x10, rmid::HEAP, &vec![3; 3 << 20]);
    w.put(0, rmid::HEAP, &[]);
    let mut d = Decoder::new(base, config(PgMajor::V18));
    let (got, end) = decode(&mut d, &w.out, &[100_000], true);
    assert_eq!(end, Ok(()));
    assert_eq!(got, w.records);
}

#[test]
fn a_switch_may_be_the_first_record_of_a_segment_or_end_at_its_last_byte() {
    let base = Lsn(2 * u64::from(SEGMENT_SIZE) - 8192);
    let mut w = Writer::new(PgMajor::V14, base);
    w.fill_to(24);
    w.switch();
    assert_eq!(
        w.records.last().unwrap().end,
        Lsn(2 * u64::from(SEGMENT_SIZE))
    );
    w.switch();
    w.put(0, rmid::XACT, b"after");
    let mut d = Decoder::new(base, config(PgMajor::V14));
    let (got, end) = decode(&mut d, &w.out, &[8192], false);
    assert_eq!(end, Ok(()));
    assert_eq!(got, w.records);
}
