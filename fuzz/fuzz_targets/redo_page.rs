//! Redo of one record on one page, both arbitrary bytes: an answer or an error.
//!
//! Input: version u8; flags u8 (1 Neon's dialect, 2 hint bits are logged, 4 no page); which block
//! reference the page is u8; length of the record u16; the record, whose length field is made
//! right; the page, zeros from where the input ends.

#![no_main]

use fuzz::{NOW, apply};
use libfuzzer_sys::fuzz_target;
use pg_wal::record::{HEADER_SIZE, Record};
use types::{Flavour, Key, PAGE_SIZE, PgMajor};
use wal_redo::{Dialect, PageBuf};

fuzz_target!(|data: &[u8]| {
    let Some((&[version, flags, reference, l0, l1], rest)) = data.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([l0, l1])).min(rest.len());
    let (record, content) = rest.split_at(len);
    if record.len() < HEADER_SIZE {
        return;
    }
    let mut raw = record.to_vec();
    raw[..4].copy_from_slice(&(len as u32).to_le_bytes());
    let dialect = Dialect {
        version: PgMajor::ALL[usize::from(version) % 5],
        flavour: if flags & 1 == 0 {
            Flavour::Vanilla
        } else {
            Flavour::Neon
        },
        hint_bits_logged: flags & 2 != 0,
    };
    let Ok(record) = Record::parse(&raw, dialect.version) else {
        return;
    };
    let Some(block) = record
        .blocks
        .get(usize::from(reference) % record.blocks.len().max(1))
    else {
        return;
    };
    let key = Key::rel_block(block.rel, block.block);
    let mut buf = PageBuf::new();
    if flags & 4 == 0 {
        let mut page = [0; PAGE_SIZE];
        let n = content.len().min(PAGE_SIZE);
        page[..n].copy_from_slice(&content[..n]);
        assert!(buf.set(&page));
    }
    apply(&mut buf, &key, NOW, &raw, &dialect);
});
