//! A WAL writer, the model the decoder is held against: records in, pages out.

#![allow(
    dead_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "test support; each test uses its part"
)]

use pg_wal::record::{MAX_RECORD_SIZE, rmid};
use types::lsn::WAL_PAGE_SIZE;
use types::{Lsn, PgMajor};

pub const SEGMENT_SIZE: u32 = 1 << 20;
pub const SYSTEM: u64 = 0x6A5B_0123_4567_89AB;

const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const REMOVABLE: u16 = 4;
const OVERWRITE: u16 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub start: Lsn,
    pub end: Lsn,
    pub bytes: Vec<u8>,
}

/// Writes WAL from a page boundary on.
pub struct Writer {
    pub version: PgMajor,
    pub base: Lsn,
    pub out: Vec<u8>,
    pub timeline: u32,
    pub previous: Lsn,
    pub records: Vec<Written>,
    overwrites: bool,
}

/// The record's bytes; `body` is everything behind the fixed header.
pub fn record(previous: Lsn, xid: u32, info: u8, rmgr: u8, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(24 + body.len()).unwrap();
    assert!(total <= MAX_RECORD_SIZE);
    let mut raw = Vec::with_capacity(total as usize);
    raw.extend(total.to_le_bytes());
    raw.extend(xid.to_le_bytes());
    raw.extend(previous.0.to_le_bytes());
    raw.extend([info, rmgr, 0, 0]);
    let crc = types::crc32c::append(types::crc32c::of(body), &raw);
    raw.extend(crc.to_le_bytes());
    raw.extend(body);
    raw
}

impl Writer {
    pub fn new(version: PgMajor, base: Lsn) -> Writer {
        assert_eq!(base.page_offset(), 0);
        Writer {
            version,
            base,
            out: Vec::new(),
            timeline: 1,
            previous: Lsn(base.0 - 8),
            records: Vec::new(),
            overwrites: false,
        }
    }

    pub fn position(&self) -> Lsn {
        Lsn(self.base.0 + self.out.len() as u64)
    }

    pub fn page_left(&self) -> usize {
        (WAL_PAGE_SIZE - self.position().page_offset()) as usize
    }

    /// Writes the page header if one is due; `missing` bytes of a record follow it.
    fn header(&mut self, missing: u32) {
        let page = self.position();
        if page.page_offset() != 0 {
            return;
        }
        let long = page.segment_offset(u64::from(SEGMENT_SIZE)) == 0;
        let mut flags = REMOVABLE;
        if missing > 0 {
            flags |= CONTRECORD;
        }
        if std::mem::take(&mut self.overwrites) {
            flags |= OVERWRITE;
        }
        if long {
            flags |= LONG;
        }
        self.out.extend(self.version.wal_magic().to_le_bytes());
        self.out.extend(flags.to_le_bytes());
        self.out.extend(self.timeline.to_le_bytes());
        self.out.extend(page.0.to_le_bytes());
        self.out.extend(missing.to_le_bytes());
        self.out.extend([0; 4]);
        if long {
            self.out.extend(SYSTEM.to_le_bytes());
            self.out.extend(SEGMENT_SIZE.to_le_bytes());
            self.out.extend((WAL_PAGE_SIZE as u32).to_le_bytes());
        }
    }

    /// Writes a record.
    pub fn put(&mut self, info: u8, rmgr: u8, body: &[u8]) -> Written {
        self.header(0);
        let start = self.position();
        let bytes = record(self.previous, 7, info, rmgr, body);
        self.raw(&bytes);
        self.previous = start;
        let end = self.position();
        let w = Written { start, end, bytes };
        self.records.push(w.clone());
        w
    }

    /// Writes bytes across pages, then pads to 8.
    pub fn raw(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        let mut first = true;
        while !left.is_empty() {
            self.header(if first { 0 } else { left.len() as u32 });
            first = false;
            let (now, later) = left.split_at(left.len().min(self.page_left()));
            self.out.extend(now);
            left = later;
        }
        while !self.out.len().is_multiple_of(8) {
            self.out.push(0);
        }
    }

    /// Writes a segment switch and the zeros behind it.
    pub fn switch(&mut self) {
        self.put(0x40, rmid::XLOG, &[]);
        while self.position().segment_offset(u64::from(SEGMENT_SIZE)) != 0 {
            self.out.push(0);
        }
        let end = self.position();
        self.records.last_mut().unwrap().end = end;
    }

    /// Writes the beginning of a record of `body` that does not fit its page, `pages` page ends
    /// of it, then the record that says it was aborted.
    pub fn abort(&mut self, body: &[u8], pages: usize) {
        self.header(0);
        let start = self.position();
        let bytes = record(self.previous, 7, 0, rmid::HEAP, body);
        let before = self.out.len();
        self.raw(&bytes);
        let mut page_end = before + (WAL_PAGE_SIZE as usize - (before % WAL_PAGE_SIZE as usize));
        for _ in 1..pages {
            if page_end + WAL_PAGE_SIZE as usize + 64 < self.out.len() {
                page_end += WAL_PAGE_SIZE as usize;
            }
        }
        assert!(
            page_end < self.out.len(),
            "an aborted record has to cross a page"
        );
        self.out.truncate(page_end);
        self.overwrites = true;
        self.overwrite_record(start);
    }

    pub fn overwrite_record(&mut self, aborted: Lsn) {
        let mut body = vec![255, 16];
        body.extend(aborted.0.to_le_bytes());
        body.extend(0x0002_D000_0000_0000u64.to_le_bytes());
        self.put(0xD0, rmid::XLOG, &body);
    }

    /// Writes a record such that the next one starts `left` bytes before a page end
    /// (0: behind the next page's header).
    pub fn fill_to(&mut self, left: usize) {
        self.header(0);
        let mut room = self.page_left();
        if room < left + 24 {
            self.put(0, rmid::HEAP, &vec![0xAA; room]);
            room = self.page_left();
        }
        self.put(0, rmid::HEAP, &vec![0xBB; room - left - 24]);
    }
}
