use super::walk::{BKP_HAS_DATA, BKP_HAS_IMAGE, BKP_SAME_REL, BKP_WILL_INIT};
use super::*;
use proptest::prelude::*;
use types::Fork;

/// A record of these bytes behind the fixed header; a right length and CRC.
fn record(body: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    raw.extend((HEADER_SIZE as u32 + body.len() as u32).to_le_bytes());
    raw.extend(0x0102_0304u32.to_le_bytes());
    raw.extend(0x1_0000_0028u64.to_le_bytes());
    raw.extend([0x51, rmid::HEAP, 0, 0]);
    let crc = types::crc32c::append(types::crc32c::of(body), &raw);
    raw.extend(crc.to_le_bytes());
    raw.extend(body);
    raw
}

/// A block header with its own relation.
fn block(id: u8, flags: u8, data_len: u16, image: &[u8], block: u32) -> Vec<u8> {
    let mut b = vec![id, flags];
    b.extend(data_len.to_le_bytes());
    b.extend(image);
    if flags & BKP_SAME_REL == 0 {
        for oid in [1663u32, 5, 16384] {
            b.extend(oid.to_le_bytes());
        }
    }
    b.extend(block.to_le_bytes());
    b
}

/// An image header; `hole_length` only where the record carries it.
fn image_header(len: u16, hole_offset: u16, info: u8, hole_length: Option<u16>) -> Vec<u8> {
    let mut h = [len.to_le_bytes(), hole_offset.to_le_bytes()].concat();
    h.push(info);
    h.extend(hole_length.into_iter().flat_map(u16::to_le_bytes));
    h
}

fn parse_image(version: PgMajor, header: &[u8], data: usize) -> Result<Image<'static>, Error> {
    let mut body = block(0, BKP_HAS_IMAGE, 0, header, 9);
    body.resize(body.len() + data, 0xDA);
    let raw: &'static [u8] = record(&body).leak();
    Record::parse(raw, version).map(|r| r.blocks[0].image.unwrap())
}

fn rule(body: &[u8]) -> &'static str {
    match Record::parse(&record(body), PgMajor::V17) {
        Err(Error::Rule { rule, .. }) => rule,
        other => panic!("{other:?}"),
    }
}

const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};

#[test]
fn the_fixed_header_is_read() {
    let raw = record(&[]);
    let r = Record::parse(&raw, PgMajor::V14).unwrap();
    let crc = u32::from_le_bytes(*raw.last_chunk().unwrap());
    assert_eq!(
        r.header,
        Header {
            total_len: 24,
            xid: 0x0102_0304,
            prev: 0x1_0000_0028,
            info: 0x51,
            rmid: 10,
            crc
        }
    );
    assert_eq!(r.op(), 0x50);
    assert!(
        r.blocks.is_empty() && r.main.is_empty() && r.origin.is_none() && r.toplevel_xid.is_none()
    );
    assert!(matches!(
        Header::parse(&raw[..23]),
        Err(Short {
            at: 20,
            wanted: 4,
            left: 3,
            ..
        })
    ));
}

#[test]
fn the_crc_covers_everything_but_itself() {
    let raw = record(b"\xff\x05hello");
    assert!(crc_is_valid(&raw));
    for at in 0..raw.len() {
        let mut bad = raw.clone();
        bad[at] ^= 0x10;
        assert!(!crc_is_valid(&bad), "{at}");
    }
    assert!(!crc_is_valid(&raw[..raw.len() - 1]));
    assert!(!crc_is_valid(&raw[..23]));
    assert!(!crc_is_valid(&[]));
}

#[test]
fn the_length_field_must_match() {
    let raw = record(b"\xff\x01x");
    for (given, actual) in [(&raw[..26], 26), (&[&raw[..], &[0]].concat()[..], 28)] {
        assert_eq!(
            Record::parse(given, PgMajor::V17),
            Err(Error::Length {
                announced: 27,
                actual
            })
        );
    }
}

#[test]
fn main_data_is_short_or_long_or_absent() {
    let main = |body: &[u8]| Record::parse(&record(body), PgMajor::V17).map(|r| r.main.to_vec());
    assert_eq!(main(b"\xff\x03abc").unwrap(), b"abc");
    assert_eq!(main(b"\xff\x00").unwrap(), b"");
    assert_eq!(main(b"\xfe\x03\0\0\0abc").unwrap(), b"abc");
    let long = [&[254][..], &70_000u32.to_le_bytes(), &[7; 70_000]].concat();
    assert_eq!(main(&long).unwrap(), [7; 70_000]);
    assert_eq!(
        main(b"\xff\x02abc"),
        Err(Error::Payload {
            announced: 2,
            left: 3
        })
    );
    assert_eq!(
        main(b"\xff\x04abc"),
        Err(Error::Payload {
            announced: 4,
            left: 3
        })
    );
    assert_eq!(
        main(b"\xfe\xff\xff\xff\xff"),
        Err(Error::Payload {
            announced: 0xFFFF_FFFF,
            left: 0
        })
    );
    assert!(matches!(
        main(b"\xff"),
        Err(Error::Short(Short { at: 25, .. }))
    ));
    assert!(matches!(
        main(b"\xfe\x01\0"),
        Err(Error::Short(Short {
            at: 25,
            wanted: 4,
            ..
        }))
    ));
}

#[test]
fn main_data_ends_the_headers() {
    // What follows is payload, even if it looks like another header.
    let r = record(b"\xff\x02\xfd\x01");
    assert_eq!(Record::parse(&r, PgMajor::V17).unwrap().main, b"\xfd\x01");
}

#[test]
fn origin_and_top_level_xid_are_read() {
    let raw = record(b"\xfd\x34\x12\xfc\x78\x56\x34\x12\xff\x01m");
    let r = Record::parse(&raw, PgMajor::V16).unwrap();
    assert_eq!(
        (r.origin, r.toplevel_xid, r.main),
        (Some(0x1234), Some(0x1234_5678), &b"m"[..])
    );
}

#[test]
fn unknown_fragments_are_refused() {
    for id in 33..=251u8 {
        assert_eq!(
            Record::parse(&record(&[id, 0, 0]), PgMajor::V17),
            Err(Error::FragmentId { at: 24, id })
        );
    }
}

#[test]
fn block_ids_ascend_and_may_have_gaps() {
    let body = [
        block(1, 0, 0, &[], 10),
        block(4, 0, 0, &[], 11),
        block(32, BKP_WILL_INIT, 0, &[], 12),
    ]
    .concat();
    let raw = record(&body);
    let r = Record::parse(&raw, PgMajor::V17).unwrap();
    assert_eq!(
        r.blocks.iter().map(|b| b.id).collect::<Vec<_>>(),
        [1, 4, 32]
    );
    assert_eq!(
        r.block(4).map(|b| (b.block, b.rel, b.will_init)),
        Some((11, REL, false))
    );
    assert_eq!(
        r.block(32).map(|b| (b.block, b.will_init)),
        Some((12, true))
    );
    assert_eq!((r.block(0), r.block(2), r.block(33)), (None, None, None));
    for second in [0, 1] {
        let body = [block(1, 0, 0, &[], 10), block(second, 0, 0, &[], 11)].concat();
        assert_eq!(
            Record::parse(&record(&body), PgMajor::V17),
            Err(Error::BlockOrder {
                at: 24 + 20,
                id: second
            })
        );
    }
}

#[test]
fn a_record_holds_33_blocks() {
    let body: Vec<u8> = (0..=32)
        .flat_map(|id| block(id, if id > 0 { BKP_SAME_REL } else { 0 }, 0, &[], 100))
        .collect();
    assert_eq!(
        Record::parse(&record(&body), PgMajor::V14)
            .unwrap()
            .blocks
            .len(),
        33
    );
}

#[test]
fn same_rel_repeats_the_relation_but_not_the_fork() {
    let body = [
        block(0, 0, 0, &[], 1),
        block(1, BKP_SAME_REL | 2, 0, &[], 2),
    ]
    .concat();
    let raw = record(&body);
    let r = Record::parse(&raw, PgMajor::V17).unwrap();
    assert_eq!(r.blocks[1].rel, REL.with_fork(Fork::Vm));
    assert_eq!(
        rule(&block(0, BKP_SAME_REL, 0, &[], 1)),
        "SAME_REL without a previous reference"
    );
}

#[test]
fn forks_above_3_are_refused() {
    for fork in 0..16u8 {
        let parsed = Record::parse(&record(&block(0, fork, 0, &[], 1)), PgMajor::V17)
            .map(|r| r.blocks[0].rel.fork);
        assert_eq!(parsed.ok(), Fork::from_u8(fork), "{fork}");
        assert_eq!(parsed.is_ok(), fork <= 3);
    }
}

#[test]
fn block_data_needs_its_flag_and_a_length() {
    let why = "data length and HAS_DATA disagree";
    assert_eq!(rule(&[&block(0, 0, 3, &[], 1)[..], b"abc"].concat()), why);
    assert_eq!(rule(&block(0, BKP_HAS_DATA, 0, &[], 1)), why);
    let raw = record(&[&block(0, BKP_HAS_DATA, 3, &[], 1)[..], b"abc"].concat());
    let r = Record::parse(&raw, PgMajor::V17).unwrap();
    assert_eq!(
        (r.blocks[0].data, r.blocks[0].has_data),
        (&b"abc"[..], true)
    );
}

#[test]
fn payloads_follow_in_order_image_data_main() {
    let image = image_header(8192, 0, 0x02, None);
    let mut body = block(0, BKP_HAS_DATA, 2, &[], 1);
    body.extend(block(
        3,
        BKP_HAS_IMAGE | BKP_HAS_DATA | BKP_SAME_REL,
        3,
        &image,
        2,
    ));
    body.extend(b"\xff\x04");
    body.extend(b"d0");
    body.extend([0x11; 8192]);
    body.extend(b"d-3main");
    let raw = record(&body);
    let r = Record::parse(&raw, PgMajor::V18).unwrap();
    assert_eq!(
        (r.blocks[0].data, r.blocks[1].data, r.main),
        (&b"d0"[..], &b"d-3"[..], &b"main"[..])
    );
    assert_eq!(r.blocks[1].image.unwrap().data, [0x11; 8192]);
    assert!(r.blocks[1].applies_image() && !r.blocks[0].applies_image());
}

#[test]
fn image_flags_moved_in_15() {
    use Compression::*;
    let got = |version, info: u8, hole: bool, compressed: bool| {
        let (offset, length) = if hole { (100, 7000) } else { (0, 0) };
        let len = if compressed { 50 } else { 8192 - length };
        let header = image_header(len, offset, info, (compressed && hole).then_some(length));
        parse_image(version, &header, usize::from(len))
            .map(|i| (i.hole_length, i.compression, i.apply))
    };
    assert_eq!(got(PgMajor::V14, 0x05, true, false), Ok((7000, None, true)));
    assert_eq!(
        got(PgMajor::V14, 0x01, true, false),
        Ok((7000, None, false))
    );
    assert_eq!(got(PgMajor::V14, 0x07, true, true), Ok((7000, Pglz, true)));
    assert_eq!(got(PgMajor::V14, 0x06, false, true), Ok((0, Pglz, true)));
    for v in [PgMajor::V15, PgMajor::V16, PgMajor::V17, PgMajor::V18] {
        assert_eq!(got(v, 0x03, true, false), Ok((7000, None, true)));
        assert_eq!(got(v, 0x01, true, false), Ok((7000, None, false)));
        assert_eq!(got(v, 0x02, false, false), Ok((0, None, true)));
        assert_eq!(got(v, 0x07, true, true), Ok((7000, Pglz, true)));
        assert_eq!(got(v, 0x0B, true, true), Ok((7000, Lz4, true)));
        assert_eq!(got(v, 0x12, false, true), Ok((0, Zstd, true)));
        for two in [0x0C, 0x14, 0x18, 0x1C] {
            assert!(matches!(got(v, two, false, true), Err(Error::Rule { .. })));
        }
    }
}

#[test]
fn image_rules_are_enforced() {
    let v = PgMajor::V17;
    let why = |header: Vec<u8>, data: usize| match parse_image(v, &header, data) {
        Err(Error::Rule { rule, id: 0, .. }) => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        why(image_header(8193, 0, 0x02, None), 8193),
        "image longer than a page"
    );
    assert_eq!(
        why(image_header(8192, 10, 0x03, None), 8192),
        "hole flag set but the hole is empty"
    );
    assert_eq!(
        why(image_header(8000, 0, 0x03, None), 8000),
        "hole flag set but the hole is empty"
    );
    assert_eq!(
        why(image_header(50, 10, 0x07, Some(0)), 50),
        "hole flag set but the hole is empty"
    );
    assert_eq!(
        why(image_header(50, 0, 0x07, Some(9)), 50),
        "hole flag set but the hole is empty"
    );
    assert_eq!(
        why(image_header(8000, 0, 0x02, None), 8000),
        "hole without the hole flag"
    );
    assert_eq!(
        why(image_header(8192, 5, 0x02, None), 8192),
        "hole without the hole flag"
    );
    assert_eq!(
        why(image_header(50, 5, 0x06, None), 50),
        "hole without the hole flag"
    );
    assert_eq!(
        why(image_header(8192, 0, 0x06, None), 8192),
        "compressed image is not smaller than a page"
    );
    assert_eq!(
        why(image_header(92, 93, 0x03, None), 92),
        "hole reaches past the page"
    );
    assert_eq!(
        why(image_header(50, 8000, 0x07, Some(193)), 50),
        "hole reaches past the page"
    );
    assert_eq!(
        why(image_header(50, 65535, 0x07, Some(65535)), 50),
        "hole reaches past the page"
    );
    assert!(parse_image(v, &image_header(50, 8000, 0x07, Some(192)), 50).is_ok());
}

#[test]
fn a_zero_length_image_is_a_page_of_hole() {
    for info in [0x02, 0x03] {
        let i = parse_image(PgMajor::V16, &image_header(0, 0, info, None), 0).unwrap();
        assert_eq!(
            (i.data.len(), i.hole_offset, i.hole_length, i.apply),
            (0, 0, 8192, true)
        );
    }
    assert!(parse_image(PgMajor::V16, &image_header(0, 1, 0x03, None), 0).is_err());
}

#[derive(Debug, Clone)]
struct Part {
    id: u8,
    fork: u8,
    init: bool,
    same: bool,
    image: Option<(u8, u16, u16)>,
    data: Vec<u8>,
}

fn part() -> impl Strategy<Value = Part> {
    let image = proptest::option::of((0u8..4, 1u16..4000, 1u16..4000));
    (
        0u8..4,
        any::<bool>(),
        any::<bool>(),
        image,
        proptest::collection::vec(any::<u8>(), 0..60),
    )
        .prop_map(|(fork, init, same, image, data)| Part {
            id: 0,
            fork,
            init,
            same,
            image,
            data,
        })
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    proptest::sample::subsequence((0..=32u8).collect::<Vec<_>>(), 0..8).prop_flat_map(|ids| {
        proptest::collection::vec(part(), ids.len()).prop_map(move |mut parts| {
            for (p, id) in parts.iter_mut().zip(&ids) {
                p.id = *id;
            }
            parts
        })
    })
}

fn encode(parts: &[Part], main: Option<&[u8]>, origin: Option<u16>) -> Vec<u8> {
    let (mut headers, mut payload) = (vec![], vec![]);
    for (n, p) in parts.iter().enumerate() {
        let mut flags = p.fork;
        flags |= if p.init { BKP_WILL_INIT } else { 0 };
        flags |= if p.same && n > 0 { BKP_SAME_REL } else { 0 };
        flags |= if p.data.is_empty() { 0 } else { BKP_HAS_DATA };
        let mut image = vec![];
        if let Some((method, offset, length)) = p.image {
            flags |= BKP_HAS_IMAGE;
            let len = if method == 0 { 8192 - length } else { 33 };
            let info = 0x03 | [0, 4, 8, 16][usize::from(method)];
            image = image_header(len, offset, info, (method != 0).then_some(length));
            payload.resize(payload.len() + usize::from(len), p.id);
        }
        payload.extend(&p.data);
        headers.extend(block(
            p.id,
            flags,
            p.data.len() as u16,
            &image,
            n as u32 * 1000,
        ));
    }
    if let Some(o) = origin {
        headers.push(253);
        headers.extend(o.to_le_bytes());
    }
    if let Some(m) = main {
        match u8::try_from(m.len()) {
            Ok(n) => headers.extend([255, n]),
            Err(_) => headers.extend([&[254][..], &(m.len() as u32).to_le_bytes()].concat()),
        }
        payload.extend(m);
    }
    headers.extend(payload);
    record(&headers)
}

/// The view from every reference shows what the whole record shows, and both refuse the same.
fn views_agree(raw: &[u8], version: PgMajor) -> Result<(), TestCaseError> {
    let whole = Record::parse(raw, version);
    let r = match (&whole, View::find(raw, version, |_, _, _| false)) {
        (Err(a), b) => {
            prop_assert_eq!(Some(*a), b.err());
            return Ok(());
        }
        (Ok(r), b) => {
            prop_assert!(matches!(b, Ok(None)));
            r
        }
    };
    for b in &r.blocks {
        let view = View::find(raw, version, |id, rel, block| {
            (id, rel, block) == (b.id, b.rel, b.block)
        });
        let view = view.unwrap().unwrap();
        prop_assert_eq!((view.header, view.block, view.main), (r.header, *b, r.main));
        for id in 0..=255 {
            prop_assert_eq!(view.has(id), r.block(id).is_some());
            prop_assert_eq!(view.block_number(id), r.block(id).map(|b| b.block));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_is_parsed(
        parts in parts(),
        main in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..600)),
        origin in proptest::option::of(any::<u16>()),
    ) {
        let raw = encode(&parts, main.as_deref(), origin);
        let r = Record::parse(&raw, PgMajor::V17).unwrap();
        prop_assert!(crc_is_valid(&raw));
        prop_assert_eq!(r.main, main.as_deref().unwrap_or_default());
        prop_assert_eq!(r.origin, origin);
        prop_assert_eq!(r.blocks.len(), parts.len());
        for (n, (b, p)) in r.blocks.iter().zip(&parts).enumerate() {
            prop_assert_eq!((b.id, b.block, b.will_init), (p.id, n as u32 * 1000, p.init));
            prop_assert_eq!(b.rel, REL.with_fork(Fork::from_u8(p.fork).unwrap()));
            prop_assert_eq!(b.data, &p.data[..]);
            prop_assert_eq!(b.has_data, !p.data.is_empty());
            prop_assert_eq!(b.image.map(|i| (i.compression as u8, i.hole_offset, i.hole_length)), p.image);
            if let Some(i) = b.image {
                prop_assert!(i.data.iter().all(|x| *x == p.id) && !i.data.is_empty());
            }
            prop_assert_eq!(r.block(b.id), Some(b));
        }
        views_agree(&raw, PgMajor::V17)?;
    }

    #[test]
    fn damaged_records_never_panic(
        parts in parts(),
        main in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..300)),
        at in any::<proptest::sample::Index>(),
        byte: u8,
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut raw = encode(&parts, main.as_deref(), None);
        let short = cut.index(raw.len());
        prop_assert!(Record::parse(&raw[..short], PgMajor::V17).is_err());
        // With a length field made to fit, the envelope may be right by chance; the CRC is not.
        let mut fitted = raw[..short].to_vec();
        if let Some(len) = fitted.first_chunk_mut::<4>() {
            *len = (short as u32).to_le_bytes();
        }
        prop_assert!(!crc_is_valid(&fitted));
        let payload = |r: &Record<'_>| {
            let of_block = |b: &Block<'_>| b.data.len() + b.image.map_or(0, |i| i.data.len());
            r.main.len() + r.blocks.iter().map(of_block).sum::<usize>()
        };
        for v in PgMajor::ALL {
            views_agree(&fitted, v)?;
            if let Ok(r) = Record::parse(&fitted, v) {
                prop_assert!(payload(&r) + HEADER_SIZE <= short);
            }
        }
        let at = at.index(raw.len());
        raw[at] = byte;
        for v in PgMajor::ALL {
            views_agree(&raw, v)?;
            if let Ok(r) = Record::parse(&raw, v) {
                prop_assert!(payload(&r) + HEADER_SIZE <= raw.len());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for v in PgMajor::ALL {
            views_agree(&record(&body), v)?;
            if let Ok(r) = Record::parse(&record(&body), v) {
                prop_assert!(r.main.len() <= body.len());
            }
        }
    }
}
