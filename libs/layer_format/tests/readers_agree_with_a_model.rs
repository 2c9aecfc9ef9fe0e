//! Layers behave like the ordered map they were written from.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

use bytes::Bytes;
use layer_format::writer::{Error, Options};
use layer_format::{Compression, DeltaWriter, Digest, Extent, ImageWriter, Layer, blob};
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{Key, KeyRange, Lsn, TenantId, TimelineId};

const TENANT: TenantId = TenantId([7; 16]);
const TIMELINE: TimelineId = TimelineId([9; 16]);

fn any_key() -> impl Strategy<Value = Key> {
    (0u8..2, 16384u32..16387, 0u32..60).prop_map(|(field5, field4, field6)| Key {
        field4,
        field5,
        field6,
        ..Key::MIN
    })
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0usize..20_000).prop_map(|(b, n)| vec![b; n]),
    ]
}

fn any_options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>()).prop_map(|(zstd, checksums)| Options {
        compression: if zstd {
            Compression::Zstd { level: 1 }
        } else {
            Compression::Disabled
        },
        checksums,
        ..Options::default()
    })
}

/// Reads the way the engine does: whole units, verified, then the blob.
fn fetch(file: &Bytes, layer: &Layer, extent: Extent) -> Bytes {
    let read = layer.to_read(extent);
    let blocks = file.slice(read.offset as usize..read.end() as usize);
    if let Some(sums) = layer.checksums() {
        sums.verify(read.offset, &blocks).unwrap();
    }
    let from = (extent.offset - read.offset) as usize;
    blob::decode(&blocks.slice(from..from + extent.len as usize)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn delta_layer(
        model in proptest::collection::btree_map((any_key(), 0x100u64..0x140), (any::<bool>(), any_value()), 1..400),
        probes in proptest::collection::vec((any_key(), 0xF0u64..0x150), 30),
        options in any_options(),
    ) {
        let end = model.last_key_value().unwrap().0.0.next();
        let mut w = DeltaWriter::new(Vec::new(), TENANT, TIMELINE, Key::MIN, Lsn(0x100)..Lsn(0x140), options).unwrap();
        for ((key, lsn), (init, value)) in &model {
            w.put(*key, Lsn(*lsn), *init, value).unwrap();
        }
        let size = w.size();
        let done = w.finish(end).unwrap();
        let (name, file_size, crc) = (done.name.clone(), done.file_size, done.crc32c);
        let file = Bytes::from(done.into_bytes());
        prop_assert_eq!(file.len() as u64, file_size);
        prop_assert!(size <= file_size && (options.checksums || size == file_size));
        prop_assert_eq!(Digest::of(&file).crc32c(), crc);

        let layer = Layer::from_file(&file, &name, &TENANT).unwrap();
        prop_assert_eq!(layer.checksums().is_some(), options.checksums);
        let Layer::Delta(delta) = &layer else { panic!("kind") };
        prop_assert_eq!(delta.file_size(), file_size);
        let got: Vec<_> = delta.entries().map(|e| ((e.key, e.lsn.0), (e.will_init, fetch(&file, &layer, e.extent).to_vec()))).collect();
        let want: Vec<_> = model.iter().map(|(k, v)| (*k, v.clone())).collect();
        prop_assert_eq!(got, want);

        for (key, before) in probes {
            let got: Vec<_> = delta.versions(key, Lsn(before)).map(|e| (e.lsn.0, e.will_init)).collect();
            let mut want = Vec::new();
            for ((_, lsn), (init, _)) in model.range((key, 0)..(key, before)).rev() {
                want.push((*lsn, *init));
                if *init {
                    break;
                }
            }
            prop_assert_eq!(got, want);
            let range = KeyRange { start: key, end: key.add(u32::try_from(before % 50).unwrap()) };
            let got: Vec<_> = delta.range(range).map(|e| (e.key, e.lsn.0)).collect();
            let want: Vec<_> = model.keys().filter(|(k, _)| range.contains(k)).copied().collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn image_layer(
        model in proptest::collection::btree_map(any_key(), any_value(), 1..300),
        probes in proptest::collection::vec((any_key(), 0u32..80), 30),
        options in any_options(),
    ) {
        let mut w = ImageWriter::new(Vec::new(), TENANT, TIMELINE, Key::MIN, Lsn(0x100), options).unwrap();
        for (key, value) in &model {
            w.put(*key, value).unwrap();
        }
        let done = w.finish(Key::MAX).unwrap();
        let name = done.name.clone();
        let file = Bytes::from(done.into_bytes());
        let layer = Layer::from_file(&file, &name, &TENANT).unwrap();
        let Layer::Image(image) = &layer else { panic!("kind") };
        let got: BTreeMap<_, _> = image.entries().map(|e| (e.key, fetch(&file, &layer, e.extent).to_vec())).collect();
        prop_assert_eq!(&got, &model);
        for (key, n) in probes {
            let got = image.get(key).map(|e| fetch(&file, &layer, e).to_vec());
            prop_assert_eq!(got.as_ref(), model.get(&key));
            let range = KeyRange { start: key, end: key.add(n) };
            let want: Vec<_> = model.keys().filter(|k| range.contains(k)).copied().collect();
            prop_assert_eq!(image.range(range).map(|e| e.key).collect::<Vec<_>>(), want);
        }
    }
}

#[test]
fn what_breaks_the_contract_is_refused() {
    let key = |n| Key {
        field6: n,
        ..Key::MIN
    };
    let new = |options| {
        DeltaWriter::new(
            Vec::new(),
            TENANT,
            TIMELINE,
            key(5),
            Lsn(0x10)..Lsn(0x20),
            options,
        )
        .unwrap()
    };
    let mut w = new(Options::default());
    assert!(matches!(
        w.put(key(4), Lsn(0x10), true, b""),
        Err(Error::KeyOutside { .. })
    ));
    assert!(matches!(
        w.put(key(5), Lsn(0x0F), true, b""),
        Err(Error::LsnOutside { .. })
    ));
    assert!(matches!(
        w.put(key(5), Lsn(0x20), true, b""),
        Err(Error::LsnOutside { .. })
    ));
    w.put(key(6), Lsn(0x12), true, b"").unwrap();
    assert!(matches!(
        w.put(key(6), Lsn(0x12), true, b""),
        Err(Error::Index(_))
    ));
    assert!(matches!(
        w.put(key(5), Lsn(0x13), true, b""),
        Err(Error::Index(_))
    ));
    assert!(matches!(w.finish(key(6)), Err(Error::KeyOutside { .. })));
    assert!(matches!(
        new(Options::default()).finish(key(9)),
        Err(Error::Index(_))
    ));

    let mut small = new(Options {
        max_size: 40_000,
        ..Options::default()
    });
    small.put(key(5), Lsn(0x10), true, &[0; 8192]).unwrap();
    assert!(matches!(
        small.put(key(6), Lsn(0x10), true, &[0; 20_000]),
        Err(Error::TooLarge { limit: 40_000 })
    ));
    let empty = DeltaWriter::new(
        Vec::new(),
        TENANT,
        TIMELINE,
        key(5),
        Lsn(1)..Lsn(1),
        Options::default(),
    );
    assert!(matches!(empty, Err(Error::LsnOutside { .. })));
}
