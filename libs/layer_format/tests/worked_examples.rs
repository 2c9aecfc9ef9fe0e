//! Published examples of layer files: exact bytes, names and SHA-256.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

use bytes::Bytes;
use layer_format::writer::Options;
use layer_format::{DeltaWriter, ImageWriter, Layer, Name, blob};
use sha2::{Digest, Sha256};
use types::{Fork, Key, Lsn, RelTag, TenantId, TimelineId, Value, WalRecord};

const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};

fn ids() -> (TenantId, TimelineId) {
    (
        "00112233445566778899aabbccddeeff".parse().unwrap(),
        "ffeeddccbbaa99887766554433221100".parse().unwrap(),
    )
}

/// As the reference writes: no checksums.
fn plain() -> Options {
    Options {
        checksums: false,
        ..Options::default()
    }
}

fn check(name: &Name, file: &[u8], expected_name: &str, length: usize, sha: &str) -> Layer {
    assert_eq!(name.to_string(), expected_name);
    assert_eq!(file.len(), length);
    assert_eq!(hex::encode(Sha256::digest(file)), sha);
    let layer = Layer::from_file(&Bytes::copy_from_slice(file), name, &ids().0).unwrap();
    assert!(layer.checksums().is_none());
    layer
}

fn image(key: Key, value: &[u8]) -> (Name, Vec<u8>) {
    let (tenant, timeline) = ids();
    let mut w =
        ImageWriter::new(Vec::new(), tenant, timeline, key, Lsn(0x1000028), plain()).unwrap();
    w.put(key, value).unwrap();
    let done = w.finish(key.next()).unwrap();
    assert_eq!(done.crc32c, crc32c(&done));
    (done.name.clone(), done.into_bytes())
}

fn crc32c(done: &layer_format::Finished<Vec<u8>>) -> u32 {
    let mut digest = layer_format::Digest::of(done.block0.as_slice());
    digest.update(&done.sink);
    assert_eq!(digest.length(), done.file_size);
    digest.crc32c()
}

#[test]
fn image_layer_with_one_small_value() {
    let key = Key::rel_size(REL);
    let (name, file) = image(key, &1u32.to_le_bytes());
    assert_eq!(file[0x2000..0x2005], [4, 1, 0, 0, 0]);
    assert_eq!(file[0x4000..0x4005], [0, 1, 0, 0, 0x12]);
    let layer = check(
        &name,
        &file,
        "000000067F000000050000400000FFFFFFFF-000000067F00000005000040000100000000__0000000001000028",
        24576,
        "b70cf03655c21ac95387b707c028b16c9e72325e4edc55356a90249fa7f36dd8",
    );
    let Layer::Image(layer) = layer else {
        panic!("kind")
    };
    assert_eq!(layer.get(key).unwrap().offset, 0x2000);
    assert_eq!(layer.get(key.next()), None);
}

#[test]
fn image_layer_with_one_page() {
    let page: Vec<u8> = (0..8192u32).map(|i| (7 * i + 3) as u8).collect();
    let key = Key::rel_block(REL, 0);
    let (name, file) = image(key, &page);
    assert_eq!(
        file[0x2000..0x2008],
        [0x80, 0, 0x20, 0, 3, 0x0a, 0x11, 0x18]
    );
    let layer = check(
        &name,
        &file,
        "000000067F00000005000040000000000000-000000067F00000005000040000000000001__0000000001000028",
        32768,
        "b3bd9b240bea4492640e0c109aef0e6eea41786f4ee91f023172ee302c13025a",
    );
    let Layer::Image(layer) = layer else {
        panic!("kind")
    };
    let extent = layer.get(key).unwrap();
    assert_eq!((extent.offset, extent.end()), (0x2000, 0x6000));
    let bytes = Bytes::copy_from_slice(&file[0x2000..0x6000]);
    assert_eq!(blob::decode(&bytes).unwrap(), page);
}

#[test]
fn delta_layer_with_two_records() {
    let (tenant, timeline) = ids();
    let key = Key::rel_block(REL, 0);
    let record = |will_init, rec: Vec<u8>| {
        Value::WalRecord(WalRecord::Postgres {
            will_init,
            rec: rec.into(),
        })
    };
    let a = record(true, b"foobar".to_vec());
    let b = record(false, (0..120).collect());
    let lsns = Lsn(0x1000028)..Lsn(0x1000081);
    let mut w = DeltaWriter::new(Vec::new(), tenant, timeline, key, lsns, plain()).unwrap();
    w.put_value(key, Lsn(0x1000028), &a).unwrap();
    w.put_value(key, Lsn(0x1000080), &b).unwrap();
    let done = w.finish(key.next()).unwrap();
    let name = done.name.clone();
    let file = done.into_bytes();
    assert_eq!(file[0x2000], 0x17);
    assert_eq!(file[0x2018..0x201c], [0x80, 0, 0, 0x89]);
    assert_eq!(
        file[0x4039..0x4043],
        [0, 0, 0, 0x40, 1, 0, 0, 0, 0x40, 0x30]
    );
    let layer = check(
        &name,
        &file,
        "000000067F00000005000040000000000000-000000067F00000005000040000000000001__0000000001000028-0000000001000081",
        24576,
        "14ab95a77c8150706d80bb8cdb38920de86c47509707fbe87b0a77552d9c2460",
    );
    let Layer::Delta(layer) = layer else {
        panic!("kind")
    };
    let versions: Vec<_> = layer.versions(key, Lsn(0x1000081)).collect();
    assert_eq!(
        versions
            .iter()
            .map(|v| (v.lsn.0, v.will_init))
            .collect::<Vec<_>>(),
        [(0x1000080, false), (0x1000028, true)]
    );
    for (entry, value) in versions.iter().zip([&b, &a]) {
        let range = entry.extent.offset as usize..entry.extent.end() as usize;
        let stored = blob::decode(&Bytes::copy_from_slice(&file[range])).unwrap();
        assert_eq!(Value::decode(&stored).unwrap(), *value);
    }
    assert_eq!(layer.versions(key, Lsn(0x1000028)).count(), 0);
}
