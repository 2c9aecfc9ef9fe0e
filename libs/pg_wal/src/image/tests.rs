use super::*;
use proptest::prelude::*;

type Page = [u8; PAGE_SIZE];

/// A page that compresses: header, line pointers, a hole and tuples.
fn page(lower: usize, upper: usize) -> Page {
    let mut p = [0u8; PAGE_SIZE];
    for (i, b) in p.iter_mut().enumerate() {
        if i < lower || i >= upper {
            *b = ((i / 48) as u8).wrapping_mul(7) ^ (i % 5) as u8;
        }
    }
    p[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
    p[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
    p
}

fn without_hole(p: &Page, lower: usize, upper: usize) -> Vec<u8> {
    [&p[..lower], &p[upper..]].concat()
}

fn image(data: &[u8], hole: std::ops::Range<usize>, compression: Compression) -> Image<'_> {
    Image {
        data,
        hole_offset: hole.start as u16,
        hole_length: hole.len() as u16,
        compression,
        apply: true,
    }
}

/// A simple PGLZ compressor: the longest match at the nearest distance, by brute force.
fn pglz_compress(raw: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let mut at = 0;
    while at < raw.len() {
        let control = out.len();
        out.push(0);
        for bit in 0..8 {
            if at == raw.len() {
                break;
            }
            let mut best = (0, 0);
            for distance in 1..=at.min(4095).min(600) {
                let n = (0..273.min(raw.len() - at))
                    .take_while(|n| raw[at + n] == raw[at + n - distance])
                    .count();
                if n > best.0 {
                    best = (n, distance);
                }
            }
            let (length, distance) = best;
            if length < 3 {
                out.push(raw[at]);
                at += 1;
                continue;
            }
            out[control] |= 1 << bit;
            let nibble = (length - 3).min(15) as u8;
            out.push(((distance >> 4) & 0xF0) as u8 | nibble);
            out.push(distance as u8);
            if nibble == 15 {
                out.push((length - 18) as u8);
            }
            at += length;
        }
    }
    out
}

fn compress(raw: &[u8], method: Compression) -> Vec<u8> {
    match method {
        Compression::None => raw.to_vec(),
        Compression::Pglz => pglz_compress(raw),
        Compression::Lz4 => lz4_flex::block::compress(raw),
        Compression::Zstd => zstd::bulk::compress(raw, 3).unwrap(),
    }
}

const METHODS: [Compression; 4] = [
    Compression::None,
    Compression::Pglz,
    Compression::Lz4,
    Compression::Zstd,
];

#[test]
fn every_method_restores_with_and_without_a_hole() {
    for method in METHODS {
        for (lower, upper) in [(0, 0), (24, 8192), (200, 7000), (1, 2), (8191, 8192)] {
            let p = page(lower, upper);
            let data = compress(&without_hole(&p, lower, upper), method);
            let hole = if lower == upper { 0..0 } else { lower..upper };
            let mut got = [0xEE; PAGE_SIZE];
            restore(&image(&data, hole, method), &mut got).unwrap();
            assert!(got == p, "{method:?} {lower}..{upper}");
        }
    }
}

#[test]
fn a_zero_length_image_is_a_zero_page() {
    let mut got = [0xEE; PAGE_SIZE];
    restore_with_lsn(&image(&[], 0..8192, Compression::None), &mut got, Lsn(77)).unwrap();
    assert!(got == [0; PAGE_SIZE], "a new page gets no LSN");
}

#[test]
fn the_lsn_is_stamped_high_half_first() {
    let p = page(40, 8000);
    let data = without_hole(&p, 40, 8000);
    let i = image(&data, 40..8000, Compression::None);
    let mut got = [0; PAGE_SIZE];
    restore_with_lsn(&i, &mut got, Lsn(0x0102_0304_0506_0708)).unwrap();
    assert_eq!(got[..8], [4, 3, 2, 1, 8, 7, 6, 5]);
    assert_eq!(got[8..], p[8..]);
}

#[test]
fn wrong_lengths_are_refused() {
    let p = page(100, 7000);
    let raw = without_hole(&p, 100, 7000);
    let mut got = [0; PAGE_SIZE];
    for method in METHODS {
        let data = compress(&raw, method);
        for hole in [100..6999, 100..7001] {
            assert!(
                restore(&image(&data, hole, method), &mut got).is_err(),
                "{method:?}"
            );
        }
        for cut in [0, 1, data.len() / 2, data.len() - 1] {
            assert!(
                restore(&image(&data[..cut], 100..7000, method), &mut got).is_err(),
                "{method:?} {cut}"
            );
        }
    }
    let long = [&pglz_compress(&raw)[..], &[0]].concat();
    assert!(restore(&image(&long, 100..7000, Compression::Pglz), &mut got).is_err());
    assert_eq!(
        restore(&image(&raw, 100..6999, Compression::None), &mut got),
        Err(Error::Length {
            expected: raw.len() + 1,
            found: raw.len()
        })
    );
}

#[test]
fn a_hole_outside_the_page_is_refused() {
    let mut got = [0; PAGE_SIZE];
    for (offset, length) in [(1, 8192), (8192, 1), (0, 8193), (65535, 65535), (8000, 193)] {
        let i = Image {
            data: &[],
            hole_offset: offset,
            hole_length: length,
            compression: Compression::None,
            apply: true,
        };
        assert_eq!(restore(&i, &mut got), Err(Error::Hole { offset, length }));
    }
}

#[test]
fn pglz_follows_the_format() {
    let mut out = [0; 12];
    // Literals 'a' 'b' 'c', then 9 bytes from 3 back, overlapping.
    assert_eq!(
        pglz::decompress(&[0b1000, b'a', b'b', b'c', 0x06, 3], &mut out),
        Ok(())
    );
    assert_eq!(&out, b"abcabcabcabc");
    // A long match: nibble 15 and 2 more; distance 1.
    let mut out = [0; 21];
    assert_eq!(
        pglz::decompress(&[0b10, b'x', 0x0F, 1, 2], &mut out),
        Ok(())
    );
    assert_eq!(out, [b'x'; 21]);
    // A distance with upper bits: 0x123.
    let mut source = vec![];
    for group in 0..37 {
        source.push(0);
        source.extend((0..8).map(|i| (group * 8 + i) as u8));
    }
    source.extend([1, 0x10, 0x23]);
    let mut out = [0; 299];
    assert_eq!(pglz::decompress(&source, &mut out), Ok(()));
    assert_eq!(out[296..], out[296 - 0x123..299 - 0x123]);

    let mut out = [0; 4];
    for (bad, why) in [
        (&[][..], "ends before the page is full"),
        (&[0, 1, 2, 3], "ends before the page is full"),
        (&[0, 1, 2, 3, 4, 5], "bytes left when the page is full"),
        (&[0b10, 1, 0x00, 0], "match of distance 0"),
        (&[0b10, 1, 0x00, 2], "match before the page"),
        (&[0b10, 1, 0x01, 1], "match past the page"),
        (&[0b10, 1, 0x00], "ends inside a match"),
        (&[0b10, 1, 0x0F, 1], "ends inside a match"),
    ] {
        assert_eq!(pglz::decompress(bad, &mut out), Err(why), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pglz_inverts_its_compressor(raw in proptest::collection::vec(0u8..4, 0..3000)) {
        let mut out = vec![0; raw.len()];
        prop_assert_eq!(pglz::decompress(&pglz_compress(&raw), &mut out), Ok(()));
        prop_assert_eq!(out, raw);
    }

    #[test]
    fn arbitrary_data_is_refused_or_gives_a_page(
        data in proptest::collection::vec(any::<u8>(), 0..300),
        offset: u16,
        length: u16,
        near in 0u16..40,
        method in proptest::sample::select(METHODS.to_vec()),
    ) {
        let mut got = [0xEE; PAGE_SIZE];
        for (hole_offset, hole_length) in [(offset, length), (near, 8192 - near * 2)] {
            let i = Image { data: &data, hole_offset, hole_length, compression: method, apply: true };
            if restore(&i, &mut got).is_ok() {
                let hole = usize::from(hole_offset)..usize::from(hole_offset + hole_length);
                prop_assert!(got[hole].iter().all(|b| *b == 0));
            }
        }
    }
}
