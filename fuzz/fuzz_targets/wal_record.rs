//! The record envelope: no panic, every slice inside the record, every image restorable or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_wal::image;
use pg_wal::record::{HEADER_SIZE, Record};
use types::{Lsn, PAGE_SIZE, PgMajor};

fuzz_target!(|data: &[u8]| {
    let Some((&version, body)) = data.split_first() else {
        return;
    };
    let version = PgMajor::ALL[usize::from(version) % 5];
    let _ = Record::parse(body, version);

    // The length field is the stream decoder's business; make it right to get to the rest.
    let mut raw = ((HEADER_SIZE + body.len()) as u32).to_le_bytes().to_vec();
    raw.resize(HEADER_SIZE, 0);
    raw.extend_from_slice(body);
    let Ok(record) = Record::parse(&raw, version) else {
        return;
    };
    let mut payload = record.main.len();
    let mut last = None;
    for b in &record.blocks {
        assert!(last < Some(b.id));
        last = Some(b.id);
        assert_eq!(b.has_data, !b.data.is_empty());
        assert_eq!(record.block(b.id), Some(b));
        payload += b.data.len();
        if let Some(i) = &b.image {
            payload += i.data.len();
            let mut page = [0xEE; PAGE_SIZE];
            let _ = image::restore_with_lsn(i, &mut page, Lsn(8));
        }
    }
    assert!(raw.ends_with(record.main));
    assert!(payload <= body.len());
});
