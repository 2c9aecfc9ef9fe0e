//! A byte changed anywhere in a layer file is noticed when the file is opened and its blocks are
//! verified; without checksums nothing worse than an error or a wrong value happens.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

use bytes::Bytes;
use layer_format::reader::{Error, Head};
use layer_format::writer::Options;
use layer_format::{
    BLOCK_SIZE, Compression, DeltaWriter, ImageWriter, Layer, Name, blob, checksum,
};
use proptest::prelude::*;
use types::{Key, Lsn, TenantId, TimelineId};

const TENANT: TenantId = TenantId([7; 16]);
const TIMELINE: TimelineId = TimelineId([9; 16]);

fn key(n: u32) -> Key {
    Key {
        field4: 16384,
        field6: n,
        ..Key::MIN
    }
}

fn delta(entries: u32, options: Options) -> (Name, Vec<u8>) {
    let lsns = Lsn(0x100)..Lsn(0x1000);
    let mut w = DeltaWriter::new(Vec::new(), TENANT, TIMELINE, key(0), lsns, options).unwrap();
    for i in 0..entries {
        let value = vec![i as u8; (i as usize * 37) % 400];
        w.put(
            key(i / 3),
            Lsn(0x100 + u64::from(i % 3)),
            i % 3 == 0,
            &value,
        )
        .unwrap();
    }
    let done = w.finish(key(entries)).unwrap();
    (done.name.clone(), done.into_bytes())
}

fn image(entries: u32, options: Options) -> (Name, Vec<u8>) {
    let mut w =
        ImageWriter::new(Vec::new(), TENANT, TIMELINE, key(0), Lsn(0x100), options).unwrap();
    for i in 0..entries {
        w.put(key(i), &[i as u8; 1000]).unwrap();
    }
    let done = w.finish(key(entries)).unwrap();
    (done.name.clone(), done.into_bytes())
}

/// Opens the file and reads every entry.
fn read_all(file: &Bytes, name: &Name) -> Result<u64, String> {
    let layer = Layer::from_file(file, name, &TENANT).map_err(|e| e.to_string())?;
    let extents: Vec<_> = match &layer {
        Layer::Delta(l) => l.entries().map(|e| e.extent).collect(),
        Layer::Image(l) => l.entries().map(|e| e.extent).collect(),
    };
    for e in &extents {
        let bytes = file
            .get(e.offset as usize..e.end() as usize)
            .ok_or("extent outside the file")?;
        blob::decode(&Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
    }
    Ok(extents.len() as u64)
}

#[test]
fn a_flipped_byte_anywhere_is_detected() {
    for (name, file) in [
        delta(900, Options::default()),
        image(60, Options::default()),
    ] {
        let count = read_all(&Bytes::from(file.clone()), &name).unwrap();
        assert!(count == 900 || count == 60);
        // Every byte of the structures, a sample of the rest.
        let blocks = file.len() / BLOCK_SIZE;
        let dense = |at: usize| at < 200 || (4090..4130).contains(&at) || at >= file.len() - 64;
        for at in (0..file.len()).filter(|at| dense(*at) || at % 97 == 0) {
            let mut bad = file.clone();
            bad[at] ^= 1 << (at % 8);
            let got = read_all(&Bytes::from(bad), &name);
            assert!(got.is_err(), "byte {at} of {blocks} blocks: {got:?}");
        }
    }
}

#[test]
fn a_wrong_block_is_named() {
    let (name, mut file) = image(60, Options::default());
    file[3 * BLOCK_SIZE + 5] ^= 1;
    let error = Layer::from_file(&Bytes::from(file), &name, &TENANT).unwrap_err();
    assert!(
        matches!(error, Error::Checksum(checksum::Error::Mismatch { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("0x6000"), "{error}");
}

#[test]
fn a_file_cut_short_or_extended_is_refused() {
    for checksums in [false, true] {
        let (name, file) = delta(
            900,
            Options {
                checksums,
                ..Options::default()
            },
        );
        for blocks in 0..file.len() / BLOCK_SIZE {
            let cut = Bytes::copy_from_slice(&file[..blocks * BLOCK_SIZE]);
            assert!(
                Layer::from_file(&cut, &name, &TENANT).is_err(),
                "{blocks} blocks"
            );
        }
        let cut = Bytes::copy_from_slice(&file[..file.len() - 1]);
        assert!(Layer::from_file(&cut, &name, &TENANT).is_err());
        let mut longer = file.clone();
        longer.resize(file.len() + BLOCK_SIZE, 0);
        // Unknown bytes behind the index are tolerated in files of the reference.
        assert_eq!(
            Layer::from_file(&Bytes::from(longer), &name, &TENANT).is_err(),
            checksums
        );
    }
}

#[test]
fn another_layers_file_is_refused() {
    let (name, file) = delta(9, Options::default());
    let file = Bytes::from(file);
    let error = Layer::from_file(&file, &name, &TenantId([8; 16])).unwrap_err();
    assert!(error.to_string().contains("tenant"), "{error}");
    let (other, _) = image(9, Options::default());
    assert!(
        Layer::from_file(&file, &other, &TENANT)
            .unwrap_err()
            .to_string()
            .contains(&other.to_string())
    );
    let head = Head::decode(&file[..BLOCK_SIZE]).unwrap();
    let tail = file.slice(head.tail_offset() as usize..);
    assert!(matches!(
        layer_format::ImageLayer::open(head, &name, &TENANT, &tail),
        Err(Error::Kind(_))
    ));
}

/// What a version-3 reader looks at is the same with and without checksums.
#[test]
fn checksums_change_nothing_a_version_3_reader_sees() {
    for make in [delta, image] {
        let (name, with) = make(300, Options::default());
        let (same, without) = make(
            300,
            Options {
                checksums: false,
                ..Options::default()
            },
        );
        assert_eq!(name, same);
        assert!(with.len() > without.len() && with.len().is_multiple_of(BLOCK_SIZE));
        assert_eq!(with[..4096], without[..4096]);
        assert_eq!(with[BLOCK_SIZE..without.len()], without[BLOCK_SIZE..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_without_checksums_never_panics(
        entries in 1u32..900,
        compress: bool,
        is_delta: bool,
        flips in proptest::collection::vec((any::<usize>(), 1u8.., any::<bool>()), 1..12),
    ) {
        let compression = if compress { Compression::Zstd { level: 1 } } else { Compression::Disabled };
        let options = Options { checksums: false, compression, ..Options::default() };
        let (name, mut file) = if is_delta { delta(entries, options) } else { image(entries, options) };
        for (at, bits, front) in flips {
            let at = if front { at % 96 } else { at % file.len() };
            file[at] ^= bits;
        }
        let _ = read_all(&Bytes::from(file), &name);
    }

    #[test]
    fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200), blocks in 0usize..4) {
        let mut file = bytes;
        file.resize(file.len().max(blocks * BLOCK_SIZE), 0);
        let (name, _) = image(1, Options::default());
        prop_assert!(Layer::from_file(&Bytes::from(file), &name, &TENANT).is_err());
    }
}
