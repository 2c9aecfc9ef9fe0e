//! WAL files: names, where reading begins, where it ends.

mod writer;

use pg_wal::record::rmid;
use pg_wal::stream::segment::{Reader, file_name, parse_file_name};
use pg_wal::stream::{Config, Error};
use types::{Lsn, PgMajor};
use writer::{SEGMENT_SIZE, Writer};

const BASE: Lsn = Lsn(9 * SEGMENT_SIZE as u64);

fn config() -> Config {
    Config {
        segment_size: SEGMENT_SIZE,
        ..Config::new(PgMajor::V16)
    }
}

fn count(mut r: Reader<'_>) -> (usize, Lsn, Option<Error>) {
    let mut n = 0;
    while r.next().is_some() {
        n += 1;
    }
    assert!(r.next().is_none());
    (n, r.end(), r.stopped())
}

#[test]
fn names_round_trip() {
    let mib16 = 16 << 20;
    assert_eq!(file_name(1, 1, mib16), "000000010000000000000001");
    assert_eq!(file_name(0x2A, 0x1FF, mib16), "0000002A00000001000000FF");
    assert_eq!(file_name(1, 4097, SEGMENT_SIZE), "000000010000000100000001");
    for size in [1u32 << 20, 16 << 20, 1 << 30] {
        for number in [0, 1, 3, 255, 256, 4095, 4096, 1 << 33] {
            assert_eq!(
                parse_file_name(&file_name(7, number, size), size),
                Some((7, number))
            );
        }
    }
    for bad in [
        "",
        "00000001000000000000000",
        "0000000100000000000000010",
        "00000001000000000000000g",
        "00000001000000000000000a",
        "00000002.history00000000",
        "000000010000000000000100",
        "+00000010000000000000001",
        "0000000100000000000000\u{e9}",
    ] {
        assert_eq!(parse_file_name(bad, mib16), None, "{bad}");
    }
    assert_eq!(parse_file_name("000000010000000000000001", 0), None);
}

#[test]
fn zeros_damage_and_recycled_pages_end_wal() {
    let mut w = Writer::new(PgMajor::V16, BASE);
    for n in 0..200 {
        w.put(0, rmid::HEAP, &vec![n; 300]);
    }
    let end = w.position();
    let used = w.out.len();
    w.out.resize(used.next_multiple_of(8192) + 8192, 0);
    assert_eq!(
        count(Reader::new(BASE, &w.out, config())),
        (200, end, Some(Error::ZeroLength { start: end }))
    );
    assert_eq!(
        count(Reader::new(BASE, &w.out[..used], config())),
        (200, end, None)
    );

    let hundredth = (w.records[100].start, w.records[99].end);
    let at = (hundredth.0.0 - BASE.0) as usize;
    let mut damaged = w.out.clone();
    damaged[at + 50] ^= 1;
    let crc = Error::Crc {
        start: hundredth.0,
        length: 324,
    };
    assert_eq!(
        count(Reader::new(BASE, &damaged, config())),
        (100, hundredth.1, Some(crc))
    );

    let mut recycled = w.out.clone();
    let page = 2 * 8192;
    recycled[page + 8..page + 16]
        .copy_from_slice(&(BASE.0 - 0x10_0000 + page as u64).to_le_bytes());
    let (n, _, stopped) = count(Reader::new(BASE, &recycled, config()));
    assert_eq!(
        n,
        w.records
            .iter()
            .filter(|r| r.end.0 <= BASE.0 + page as u64)
            .count()
    );
    assert!(
        matches!(stopped, Some(Error::PageAddress { .. })),
        "{stopped:?}"
    );
}

#[test]
fn reading_begins_behind_a_continued_record() {
    let before = Lsn(BASE.0 - 8192);
    // A record that ends in the second page of the segment, exactly at its end, or right behind it.
    let to_end = 8192 - 40 + 8192 - 24;
    for (tail, expected) in [
        (5_000, Lsn(BASE.0 + 40 + 5_000)),
        (10_000, Lsn(BASE.0 + 8192 + 24 + 1_848)),
        (to_end, Lsn(BASE.0 + 2 * 8192 + 24)),
        (to_end + 8, Lsn(BASE.0 + 2 * 8192 + 32)),
    ] {
        let mut w = Writer::new(PgMajor::V16, before);
        w.fill_to(64);
        w.put(0, rmid::HEAP, &vec![1; 40 + tail]);
        w.put(0, rmid::HEAP, b"first of the segment");
        let mut r = Reader::from_page(BASE, &w.out[8192..], config()).unwrap();
        assert_eq!(r.next().unwrap().start, expected, "{tail}");
        assert_eq!(r.timeline(), 1);
    }
}

#[test]
fn reading_begins_where_an_aborted_record_was_overwritten() {
    let mut w = Writer::new(PgMajor::V16, Lsn(BASE.0 - 8192));
    w.fill_to(64);
    w.abort(&[1; 30_000], 3);
    let overwriting = w.records.last().unwrap().start;
    let mut r = Reader::from_page(BASE, &w.out[8192..], config()).unwrap();
    assert_eq!(r.next().unwrap().start, overwriting);
}

#[test]
fn nothing_begins_in_the_middle_of_a_long_record_or_in_zeros() {
    let mut w = Writer::new(PgMajor::V16, BASE);
    w.put(0, rmid::HEAP, &[1; 60_000]);
    assert!(Reader::from_page(Lsn(BASE.0 + 8192), &w.out[8192..4 * 8192], config()).is_none());
    assert!(Reader::from_page(BASE, &[0; 8192], config()).is_none());
    assert!(Reader::from_page(BASE, &[], config()).is_none());
}
