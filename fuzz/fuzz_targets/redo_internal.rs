//! Redo of internal records on map and SLRU pages: a stored value and a page, both arbitrary.
//!
//! Input: kind of page u8, segment u8, block u8, length of the value u8, value, page.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use types::{Flavour, Fork, Key, Lsn, PgMajor, RelTag, SlruKind, Value};
use wal_redo::{Dialect, PageBuf, apply, reconstruct};

const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Vm,
};

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, segment, block, len], rest)) = data.split_first_chunk() else {
        return;
    };
    let (value, content) = rest.split_at(usize::from(len).min(rest.len()));
    let Ok(Value::WalRecord(rec)) = Value::decode(&Bytes::copy_from_slice(value)) else {
        return;
    };
    let (segment, block) = (u32::from(segment), u32::from(block));
    let slru = |kind| Key::slru_block(kind, segment, block);
    let key = match kind % 5 {
        0 => Key::rel_block(REL, block),
        1 => slru(SlruKind::Clog),
        2 => slru(SlruKind::MultiXactOffsets),
        3 => slru(SlruKind::MultiXactMembers),
        _ => Key::rel_block(REL.with_fork(Fork::Main), block),
    };
    let dialect = Dialect {
        version: PgMajor::V17,
        flavour: Flavour::Vanilla,
        hint_bits_logged: false,
    };
    let size = if kind & 0x80 == 0 { 8192 } else { 8200 };
    let mut page = vec![0; size];
    let n = content.len().min(size);
    page[..n].copy_from_slice(&content[..n]);
    let lsn = Lsn(1 << 62);

    let mut one = PageBuf::new();
    assert!(one.set(&page));
    let first = apply(&mut one, &key, lsn, &rec, &dialect);
    let mut other = PageBuf::new();
    let all = reconstruct(&key, Some(&page), [(lsn, &rec)], &dialect, &mut other);
    match (first, all) {
        (Ok(_), Ok(stats)) => {
            assert_eq!(stats.records(), 1);
            assert_eq!(one.as_slice(), other.as_slice());
            // Records of pages without an LSN may be replayed twice.
            assert!(apply(&mut other, &key, lsn, &rec, &dialect).is_ok());
            assert_eq!(one.as_slice(), other.as_slice());
        }
        (Err(a), Err(b)) => {
            // A long base is refused before any record is seen.
            assert!(a == b || size == 8200);
        }
        (a, b) => assert!(size == 8200, "{a:?} one by one, {b:?} at once"),
    }
    let mut fresh = PageBuf::new();
    let _ = reconstruct(&key, None, [(lsn, &rec)], &dialect, &mut fresh);
});
