//! A record seen from one of its blocks: the same envelopes are good as for the whole record, and
//! each block looks the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_wal::View;
use pg_wal::record::{HEADER_SIZE, MAX_BLOCK_ID, Record};
use types::PgMajor;

fuzz_target!(|data: &[u8]| {
    let Some((&version, raw)) = data.split_first() else {
        return;
    };
    let version = PgMajor::ALL[usize::from(version) % 5];
    compare(raw, version);

    // The length field is the stream decoder's business; make it right to get to the rest.
    let mut raw = raw.to_vec();
    if raw.len() >= HEADER_SIZE {
        let len = raw.len() as u32;
        raw[..4].copy_from_slice(&len.to_le_bytes());
        compare(&raw, version);
    }
});

fn compare(raw: &[u8], version: PgMajor) {
    let whole = Record::parse(raw, version);
    let first = View::find(raw, version, |_, _, _| true);
    let record = match (whole, first) {
        (Err(a), Err(b)) => return assert_eq!(a, b),
        (Ok(record), Ok(view)) => {
            assert_eq!(view.map(|v| v.block), record.blocks.first().copied());
            record
        }
        (whole, first) => panic!("{whole:?} as a whole, {first:?} from a block"),
    };
    let nothing = View::find(raw, version, |_, _, _| false);
    assert!(matches!(nothing, Ok(None)));
    for b in &record.blocks {
        let view = View::find(raw, version, |id, rel, block| {
            id == b.id && rel == b.rel && block == b.block
        });
        let Ok(Some(view)) = view else {
            panic!("no view from {b:?}: {view:?}");
        };
        assert_eq!(view.block, *b);
        assert_eq!(view.main, record.main);
        assert_eq!(
            (view.header.rmid, view.op()),
            (record.header.rmid, record.op())
        );
        for id in (0..=MAX_BLOCK_ID).chain([MAX_BLOCK_ID + 1, 63, 64, 255]) {
            assert_eq!(view.has(id), record.block(id).is_some());
            assert_eq!(view.block_number(id), record.block(id).map(|b| b.block));
        }
    }
}
