//! Each rule of the stream, broken once.

mod writer;

use pg_wal::record::rmid;
use pg_wal::stream::{Config, Decoder, Error};
use types::{Lsn, PgMajor};
use writer::{SEGMENT_SIZE, SYSTEM, Writer};

const V: PgMajor = PgMajor::V17;
const BASE: Lsn = Lsn(7 * SEGMENT_SIZE as u64);
const PAGE: usize = 8192;

fn config() -> Config {
    Config {
        segment_size: SEGMENT_SIZE,
        system_identifier: Some(SYSTEM),
        timeline: Some(1),
        ..Config::new(V)
    }
}

/// Two short records, then one over three pages, then a short one.
fn wal() -> Writer {
    let mut w = Writer::new(V, BASE);
    w.put(0, rmid::HEAP, &[1; 100]);
    w.put(0, rmid::HEAP, &[2; 100]);
    w.put(0, rmid::HEAP, &[3; 17_000]);
    w.put(0, rmid::HEAP, &[4; 100]);
    w
}

fn outcome(cfg: Config, start: Lsn, bytes: &[u8]) -> (usize, Result<(), Error>) {
    let mut d = Decoder::new(start, cfg);
    if let Err(e) = d.feed(start, bytes) {
        return (0, Err(e));
    }
    let mut n = 0;
    loop {
        match d.next() {
            Ok(Some(_)) => n += 1,
            Ok(None) => return (n, Ok(())),
            Err(e) => {
                assert_eq!(d.next(), Err(e), "an error is final");
                assert_eq!(d.feed(d.position(), &[]), Err(e), "an error is final");
                return (n, Err(e));
            }
        }
    }
}

/// The outcome after `new` was put at `at`.
fn patched(at: usize, new: &[u8]) -> (usize, Result<(), Error>) {
    let mut w = wal();
    w.out[at..at + new.len()].copy_from_slice(new);
    outcome(config(), BASE, &w.out)
}

#[test]
fn an_intact_stream_passes() {
    assert_eq!(outcome(config(), BASE, &wal().out), (4, Ok(())));
}

#[test]
fn page_headers_are_checked() {
    let second = Lsn(BASE.0 + PAGE as u64);
    assert_eq!(
        patched(0, &[0x13, 0xD1]),
        (
            0,
            Err(Error::Magic {
                page: BASE,
                found: 0xD113,
                version: V
            })
        )
    );
    assert_eq!(
        patched(PAGE + 2, &[0x15]),
        (
            2,
            Err(Error::Flags {
                page: second,
                flags: 0x15,
                rule: "unknown flag"
            })
        )
    );
    assert_eq!(
        patched(PAGE + 2, &[0x07]),
        (
            2,
            Err(Error::Flags {
                page: second,
                flags: 0x07,
                rule: "long header inside a segment"
            })
        )
    );
    assert_eq!(
        patched(2, &[0x04]),
        (
            0,
            Err(Error::Flags {
                page: BASE,
                flags: 0x04,
                rule: "short header at a segment start"
            })
        )
    );
    assert_eq!(
        patched(PAGE + 2, &[0x0D]),
        (
            2,
            Err(Error::Flags {
                page: second,
                flags: 0x0D,
                rule: "continues and overwrites a record"
            })
        )
    );
    assert_eq!(
        patched(PAGE + 8, &[0; 8]),
        (
            2,
            Err(Error::PageAddress {
                page: second,
                found: Lsn(0)
            })
        )
    );
    assert_eq!(
        patched(24, &5u64.to_le_bytes()),
        (
            0,
            Err(Error::SystemIdentifier {
                page: BASE,
                found: 5,
                expected: SYSTEM
            })
        )
    );
    assert_eq!(
        patched(32, &(2 * SEGMENT_SIZE).to_le_bytes()),
        (
            0,
            Err(Error::Geometry {
                page: BASE,
                what: "segment size",
                found: 2 << 20,
                expected: 1 << 20
            })
        )
    );
    assert_eq!(
        patched(36, &4096u32.to_le_bytes()),
        (
            0,
            Err(Error::Geometry {
                page: BASE,
                what: "page size",
                found: 4096,
                expected: 8192
            })
        )
    );
}

#[test]
fn a_timeline_may_rise_if_allowed_and_never_falls() {
    let second = Lsn(BASE.0 + PAGE as u64);
    let mut w = wal();
    for page in w.out.chunks_mut(PAGE).skip(1) {
        page[4..8].copy_from_slice(&3u32.to_le_bytes());
    }
    assert_eq!(outcome(config(), BASE, &w.out), (4, Ok(())));
    let fixed = Config {
        allow_timeline_increase: false,
        ..config()
    };
    let refused = |found, current| {
        Err(Error::Timeline {
            page: second,
            found,
            current,
        })
    };
    assert_eq!(outcome(fixed, BASE, &w.out), (2, refused(3, 1)));
    w.out[4..8].copy_from_slice(&4u32.to_le_bytes());
    assert_eq!(outcome(config(), BASE, &w.out), (2, refused(3, 4)));
    let later = Config {
        timeline: Some(2),
        ..config()
    };
    assert_eq!(
        outcome(later, BASE, &wal().out),
        (
            0,
            Err(Error::Timeline {
                page: BASE,
                found: 1,
                current: 2
            })
        )
    );
    assert_eq!(patched(PAGE + 4, &[0]), (2, refused(0, 1)));

    let mut d = Decoder::new(
        BASE,
        Config {
            timeline: None,
            ..config()
        },
    );
    assert_eq!(d.timeline(), 0);
    d.feed(BASE, &w.out[..40]).unwrap();
    assert_eq!(d.next(), Ok(None));
    assert_eq!(d.timeline(), 4);
}

#[test]
fn continuations_must_match_the_open_record() {
    let second = Lsn(BASE.0 + PAGE as u64);
    let w = wal();
    let start = w.records[2].start;
    let on_first = PAGE as u64 - start.page_offset();
    let missing = 17_024 - on_first as u32;
    let broken = |rem_len| {
        (
            2,
            Err(Error::Continuation {
                page: second,
                start,
                missing,
                rem_len,
            }),
        )
    };
    assert_eq!(
        patched(PAGE + 16, &(missing + 1).to_le_bytes()),
        broken(missing + 1)
    );
    assert_eq!(patched(PAGE + 2, &[0x04]), broken(0));
    assert_eq!(
        patched(2, &[0x07]),
        (
            0,
            Err(Error::UnexpectedContinuation {
                page: BASE,
                rem_len: 0
            })
        )
    );
    assert_eq!(
        patched(16, &[9, 0, 0, 0]),
        (
            0,
            Err(Error::UnexpectedContinuation {
                page: BASE,
                rem_len: 9
            })
        )
    );
}

#[test]
fn lengths_are_bounded() {
    let w = wal();
    let (start, at) = (w.records[1].start, (w.records[1].start.0 - BASE.0) as usize);
    assert_eq!(patched(at, &[0; 4]), (1, Err(Error::ZeroLength { start })));
    assert_eq!(
        patched(at, &23u32.to_le_bytes()),
        (1, Err(Error::Length { start, length: 23 }))
    );
    let most = 1020u32 << 20;
    assert_eq!(
        patched(at, &(most + 1).to_le_bytes()),
        (
            1,
            Err(Error::Length {
                start,
                length: most + 1
            })
        )
    );
    assert_eq!(
        patched(at, &u32::MAX.to_le_bytes()),
        (
            1,
            Err(Error::Length {
                start,
                length: u32::MAX
            })
        )
    );
    // A length that could be true is found out at the next page.
    let page = Lsn(BASE.0 + PAGE as u64);
    let (n, end) = patched(at, &most.to_le_bytes());
    assert!(
        matches!(end, Err(Error::Continuation { page: p, .. }) if p == page),
        "{end:?}"
    );
    assert_eq!(n, 1);
}

#[test]
fn records_are_linked_and_checksummed() {
    let w = wal();
    let offset = |n: usize| (w.records[n].start.0 - BASE.0) as usize;
    let (first, second) = (w.records[0].start, w.records[1].start);
    assert_eq!(
        patched(offset(1) + 8, &5u64.to_le_bytes()),
        (
            1,
            Err(Error::Previous {
                start: second,
                found: Lsn(5),
                expected: first
            })
        )
    );
    assert_eq!(
        patched(offset(0) + 8, &first.0.to_le_bytes()),
        (
            0,
            Err(Error::PreviousOrder {
                start: first,
                found: first
            })
        )
    );
    let linked = Config {
        previous: Some(Lsn(BASE.0 - 16)),
        ..config()
    };
    assert_eq!(
        outcome(linked, BASE, &w.out),
        (
            0,
            Err(Error::Previous {
                start: first,
                found: Lsn(BASE.0 - 8),
                expected: Lsn(BASE.0 - 16)
            })
        )
    );
    let linked = Config {
        previous: Some(Lsn(BASE.0 - 8)),
        ..config()
    };
    assert_eq!(outcome(linked, BASE, &w.out), (4, Ok(())));
    for at in [4, 16, 17, 20, 24, 123] {
        assert_eq!(
            patched(offset(1) + at, &[0x77]),
            (
                1,
                Err(Error::Crc {
                    start: second,
                    length: 124
                })
            )
        );
    }
    // The long record's link is checked before its second page arrives.
    let long = w.records[2].start;
    let mut cut = w.out[..PAGE].to_vec();
    cut[offset(2) + 8] ^= 8;
    let (n, end) = outcome(config(), BASE, &cut);
    assert!(
        matches!(end, Err(Error::Previous { start, .. }) if start == long),
        "{end:?}"
    );
    assert_eq!(n, 2);
}

#[test]
fn bytes_must_follow_each_other() {
    let w = wal();
    for found in [Lsn(BASE.0 + 99), Lsn(BASE.0 + 101), Lsn(0), Lsn::MAX] {
        let mut d = Decoder::new(BASE, config());
        d.feed(BASE, &w.out[..100]).unwrap();
        let expected = Lsn(BASE.0 + 100);
        assert_eq!(d.position(), expected);
        let e = Error::Position { expected, found };
        assert_eq!(d.feed(found, &[0]), Err(e));
        assert_eq!(d.next(), Err(e));
        let word = if found > expected { "gap" } else { "overlap" };
        assert!(e.to_string().contains(word) && e.to_string().contains(&expected.to_string()));
    }
}

#[test]
fn a_start_on_a_page_boundary_takes_the_header_or_what_is_behind_it() {
    let w = wal();
    let behind = BASE.skip_page_header(u64::from(SEGMENT_SIZE));
    let mut d = Decoder::new(BASE, config());
    d.feed(behind, &w.out[40..]).unwrap();
    assert_eq!(d.next().unwrap().unwrap().start, behind);
    let mut d = Decoder::new(BASE, config());
    d.feed(BASE, &w.out[..1]).unwrap();
    assert!(
        matches!(d.feed(behind, &w.out[40..]), Err(Error::Position { .. })),
        "only the first bytes"
    );
    assert_eq!(outcome(config(), behind, &w.out[40..]), (4, Ok(())));
}

#[test]
fn an_impossible_set_up_is_refused() {
    for (start, size) in [
        (Lsn(0), SEGMENT_SIZE),
        (Lsn(BASE.0 + 4), SEGMENT_SIZE),
        (Lsn(BASE.0 + 32), SEGMENT_SIZE),
        (Lsn(BASE.0 + 8192 + 16), SEGMENT_SIZE),
        (BASE, 0),
        (BASE, SEGMENT_SIZE / 2),
        (BASE, SEGMENT_SIZE * 3),
        (BASE, 1 << 31),
    ] {
        let cfg = Config {
            segment_size: size,
            ..config()
        };
        let mut d = Decoder::new(start, cfg);
        assert!(
            matches!(d.feed(start, &[0]), Err(Error::Setup { .. })),
            "{start} {size}"
        );
        assert!(
            matches!(d.next(), Err(Error::Setup { .. })),
            "{start} {size}"
        );
    }
}

#[test]
fn the_end_of_the_address_space_is_an_error() {
    let start = Lsn(u64::MAX - 7);
    let mut d = Decoder::new(start, config());
    assert_eq!(
        d.feed(start, &[0; 64]),
        Err(Error::AddressSpace { at: start })
    );
}

#[test]
fn an_overwriting_record_must_name_the_aborted_one() {
    let aborted = |named: Option<u64>| {
        let mut w = wal();
        w.abort(&[5; 9000], 1);
        let n = w.records.len();
        let last = w.records[n - 1].start;
        let at = (last.0 - BASE.0) as usize;
        w.out.truncate(at);
        w.records.truncate(n - 1);
        w.previous = w.records[n - 2].start;
        let lost = w.records[n - 2].end;
        match named {
            Some(delta) => w.overwrite_record(Lsn(lost.0 + delta)),
            None => drop(w.put(0, rmid::HEAP, b"another kind")),
        }
        w.put(0, rmid::HEAP, b"more");
        (lost, last, outcome(config(), BASE, &w.out))
    };
    assert_eq!(aborted(Some(0)).2, (6, Ok(())));
    let (lost, start, end) = aborted(Some(8));
    assert_eq!(
        end,
        (
            4,
            Err(Error::Overwrite {
                start,
                found: Some(Lsn(lost.0 + 8)),
                expected: Some(lost)
            })
        )
    );
    let (lost, start, end) = aborted(None);
    assert_eq!(
        end,
        (
            4,
            Err(Error::Overwrite {
                start,
                found: None,
                expected: Some(lost)
            })
        )
    );

    let mut w = wal();
    w.overwrite_record(Lsn(64));
    let start = w.records[4].start;
    assert_eq!(
        outcome(config(), BASE, &w.out),
        (
            4,
            Err(Error::Overwrite {
                start,
                found: Some(Lsn(64)),
                expected: None
            })
        )
    );
}
