use super::*;
use proptest::prelude::*;

#[derive(Debug, PartialEq, Clone)]
enum Seen {
    Entry(Entry),
    Data(Vec<u8>),
    EntryEnd,
    ArchiveEnd,
}

/// Everything a parser reports when the archive arrives in pieces of `step` bytes, with the data
/// of each entry put together.
fn read(archive: &[u8], step: usize) -> Result<(Vec<Seen>, Ending), Error> {
    let mut parser = Parser::new();
    let mut seen: Vec<Seen> = Vec::new();
    for mut piece in archive.chunks(step) {
        while let Some(event) = parser.next(&mut piece)? {
            match (event, seen.last_mut()) {
                (Event::Data(d), Some(Seen::Data(all))) => all.extend_from_slice(d),
                (Event::Data(d), _) => seen.push(Seen::Data(d.to_vec())),
                (Event::Entry(e), _) => seen.push(Seen::Entry(e)),
                (Event::EntryEnd, _) => seen.push(Seen::EntryEnd),
                (Event::ArchiveEnd, _) => seen.push(Seen::ArchiveEnd),
            }
        }
        assert!(piece.is_empty());
    }
    // Ends that need no more input are reported by an empty piece.
    while let Some(event) = parser.next(&mut &[][..])? {
        assert_eq!(event, Event::EntryEnd);
        seen.push(Seen::EntryEnd);
    }
    assert_eq!(parser.position(), archive.len() as u64);
    Ok((seen, parser.finish()?))
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, data) in files {
        out.extend_from_slice(&header(path, Item::File(data.len() as u64), 1).unwrap());
        out.extend_from_slice(data);
        out.extend(std::iter::repeat_n(0, padding(data.len() as u64)));
    }
    out
}

#[test]
fn file_header_has_exactly_these_bytes() {
    let mut expected = [0u8; BLOCK];
    let fields: [(usize, &[u8]); 6] = [
        (0, b"a/b"),
        (0x64, b"0000600"),
        (0x7C, b"00000000005"),
        (0x88, b"14524770400"),
        (0x94, b"0004776"),
        (0x101, b"ustar  "),
    ];
    for (at, text) in fields {
        expected[at..at + text.len()].copy_from_slice(text);
    }
    assert_eq!(
        header("a/b", Item::File(5), 1_700_000_000).unwrap(),
        expected
    );
}

#[test]
fn directory_header_has_mode_type_and_checksum() {
    let b = header("pg_xact", Item::Directory, 1_700_000_000).unwrap();
    assert_eq!(&b[0x64..0x6C], b"0000755\0");
    assert_eq!(&b[0x7C..0x88], b"00000000000\0");
    assert_eq!(&b[0x94..0x9C], b"0006055\0");
    assert_eq!(b[0x9C], b'5');
}

#[test]
fn unwritable_entries_are_refused() {
    let long = "x".repeat(101);
    for path in [
        "",
        "/a",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        long.as_str(),
    ] {
        assert!(
            matches!(
                header(path, Item::Directory, 0),
                Err(UnwritableEntry::Path(_))
            ),
            "{path}"
        );
    }
    assert!(header(&long[1..], Item::File(MAX), MAX).is_ok());
    assert!(matches!(
        header("a", Item::File(MAX + 1), 0),
        Err(UnwritableEntry::Number { .. })
    ));
    assert!(matches!(
        header("a", Item::Directory, MAX + 1),
        Err(UnwritableEntry::Number { .. })
    ));
}
const MAX: u64 = (1 << 33) - 1;

fn sealed(mut b: [u8; BLOCK]) -> [u8; BLOCK] {
    let sum = format!("{:06o}\0 ", checksum(&b));
    b[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(sum.as_bytes());
    b
}

fn posix(path: &str, prefix: &str, kind: u8, target: &str) -> [u8; BLOCK] {
    let mut b = header("x", Item::File(0), 7).unwrap();
    b[..100].fill(0);
    b[..path.len()].copy_from_slice(path.as_bytes());
    b[156] = kind;
    b[157..157 + target.len()].copy_from_slice(target.as_bytes());
    b[257..265].copy_from_slice(b"ustar\x0000");
    b[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    sealed(b)
}

#[test]
fn prefixes_links_and_dots_are_understood() {
    let entry = |b: [u8; BLOCK]| match &read(&b, 512).unwrap().0[0] {
        Seen::Entry(e) => e.clone(),
        other => panic!("{other:?}"),
    };
    let e = entry(posix("b/", "long/a", b'5', ""));
    assert_eq!(
        (e.path.as_str(), e.kind, e.mtime),
        ("long/a/b", Kind::Directory, 7)
    );
    let e = entry(posix("./pg_tblspc/9", "", b'2', "/mnt/ts"));
    assert_eq!(
        (e.path.as_str(), e.kind),
        ("pg_tblspc/9", Kind::Symlink("/mnt/ts".into()))
    );
    assert_eq!(entry(posix("./", "", b'5', "")).path, "");
    assert_eq!(entry(posix("p", "", b'x', "")).kind, Kind::Other(b'x'));
    let mut big = posix("big", "", b'0', "");
    big[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]);
    let mut parser = Parser::new();
    let Ok(Some(Event::Entry(e))) = parser.next(&mut &sealed(big)[..]) else {
        panic!()
    };
    assert_eq!(e.size, 0x2_0000_0001);
    assert!(matches!(parser.finish(), Err(Error::Truncated { .. })));
}

#[test]
fn hostile_headers_are_refused() {
    let parse = |b: [u8; BLOCK]| read(&b, 512).unwrap_err();
    let mut b = posix("a", "", b'0', "");
    b[0] = b'b';
    assert!(matches!(parse(b), Error::Checksum { at: 0, .. }));
    assert!(matches!(
        parse(posix("/etc/passwd", "", b'0', "")),
        Error::Path { .. }
    ));
    assert!(matches!(
        parse(posix("a/../../b", "", b'0', "")),
        Error::Path { .. }
    ));
    assert!(matches!(
        parse(posix("b", "..", b'0', "")),
        Error::Path { .. }
    ));
    let mut b = posix("a", "", b'0', "");
    b[257] = b'v';
    assert_eq!(parse(sealed(b)), Error::Magic(0));
    for size in [
        *b"0000000000x\0",
        [0xFF; 12],
        [0x80, 0xFF, 0, 0, 0xFF, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut b = posix("a", "", b'0', "");
        b[124..136].copy_from_slice(&size);
        assert_eq!(
            parse(sealed(b)),
            Error::Field {
                at: 0,
                field: "size"
            }
        );
    }
}

#[test]
fn endings_are_told_apart() {
    let body = archive(&[("a", b"12345")]);
    assert_eq!(read(&body, 100).unwrap().1, Ending::Missing);
    let with = |zeros: usize| [&body[..], &vec![0; zeros]].concat();
    assert_eq!(read(&with(512), 100).unwrap().1, Ending::Partial);
    assert_eq!(read(&with(1024), 100).unwrap().1, Ending::Marked);
    assert_eq!(read(&with(1025), 100).unwrap().1, Ending::Partial);
    assert_eq!(read(&with(10_240), 100).unwrap().1, Ending::Marked);
    assert_eq!(
        read(&with(100), 100),
        Err(Error::Truncated {
            at: 1124,
            missing: 412
        })
    );
    assert_eq!(
        read(&body[..600], 100),
        Err(Error::Truncated {
            at: 600,
            missing: 424
        })
    );
    let mut more = with(2048);
    more[1024 + 700] = 1;
    assert_eq!(read(&more, 100), Err(Error::Trailing(1724)));
    assert_eq!(read(&[], 1).unwrap(), (vec![], Ending::Missing));
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_any_pieces(
        files in proptest::collection::vec(
            ("[a-z]{1,20}(/[a-z]{1,20}){0,2}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..5),
        step in 1usize..2000,
    ) {
        let list: Vec<_> = files.iter().map(|(p, d)| (p.as_str(), d.as_slice())).collect();
        let mut bytes = archive(&list);
        bytes.extend_from_slice(&END);
        let (seen, ending) = read(&bytes, step).unwrap();
        prop_assert_eq!(ending, Ending::Marked);
        let mut expected = Vec::new();
        for (path, data) in files {
            let size = data.len() as u64;
            expected.push(Seen::Entry(Entry { path, size, kind: Kind::File, mtime: 1 }));
            if size != 0 {
                expected.push(Seen::Data(data));
            }
            expected.push(Seen::EntryEnd);
        }
        expected.push(Seen::ArchiveEnd);
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut b in proptest::collection::vec(any::<u8>(), 512..2000), seal in any::<bool>(), step in 1usize..600,
    ) {
        if seal {
            b[257..263].copy_from_slice(b"ustar\0");
            let mut head = [0; BLOCK];
            head.copy_from_slice(&b[..BLOCK]);
            b[..BLOCK].copy_from_slice(&sealed(head));
        }
        let result = read(&b, step);
        prop_assert!(seal || result.is_err());
    }
}
