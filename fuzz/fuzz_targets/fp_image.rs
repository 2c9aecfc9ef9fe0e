//! Full-page images: no panic, no read or write outside, the hole comes back as zeros.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pg_wal::image;
use pg_wal::record::{Compression, Image};
use types::{Lsn, PAGE_SIZE};

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    method: u8,
    hole_offset: u16,
    hole_length: u16,
    lsn: u64,
    data: &'a [u8],
}

fuzz_target!(|case: Case<'_>| {
    let compression = match case.method % 4 {
        0 => Compression::None,
        1 => Compression::Pglz,
        2 => Compression::Lz4,
        _ => Compression::Zstd,
    };
    let i = Image {
        data: case.data,
        hole_offset: case.hole_offset,
        hole_length: case.hole_length,
        compression,
        apply: true,
    };
    let mut page = [0xEE; PAGE_SIZE];
    if image::restore(&i, &mut page).is_err() {
        return;
    }
    let hole = usize::from(i.hole_offset)..usize::from(i.hole_offset) + usize::from(i.hole_length);
    assert!(page[hole].iter().all(|b| *b == 0));
    // What was in the page before does not shine through.
    let mut other = [0x11; PAGE_SIZE];
    assert!(image::restore(&i, &mut other).is_ok());
    assert!(page == other);
    assert!(image::restore_with_lsn(&i, &mut other, Lsn(case.lsn)).is_ok());
    assert!(page[8..] == other[8..]);
    if image::is_new(&page) {
        assert!(page == other);
    }
});
