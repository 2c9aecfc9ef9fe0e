//! The sans-I/O decoder.

use super::{Error, PageHeader};
use crate::record::{self, HEADER_SIZE, Header, MAX_RECORD_SIZE, Record, rmid};
use arrayvec::ArrayVec;
use bytes::Bytes;
use std::ops::Range;
use types::lsn::{LONG_PAGE_HEADER, WAL_PAGE_SIZE};
use types::{Lsn, PgMajor};

/// Smallest WAL segment size in bytes.
pub const MIN_SEGMENT_SIZE: u32 = 1 << 20;
/// Largest WAL segment size in bytes.
pub const MAX_SEGMENT_SIZE: u32 = 1 << 30;
/// Segment size of a cluster that was not told otherwise, in bytes.
pub const DEFAULT_SEGMENT_SIZE: u32 = 16 << 20;

/// Capacity that each of the decoder's buffers keeps when it is empty, in bytes.
const KEPT_CAPACITY: usize = 1 << 20;

const XLOG_SWITCH: u8 = 0x40;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

/// What the stream must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Postgres major that writes the WAL.
    pub version: PgMajor,
    /// WAL segment size in bytes: a power of two, 1 MiB to 1 GiB.
    pub segment_size: u32,
    /// The cluster's system identifier; not checked if absent.
    pub system_identifier: Option<u64>,
    /// Timeline of the first byte; taken from the first page header if absent.
    pub timeline: Option<u32>,
    /// The timeline may rise at a page (the source was promoted). It may never fall.
    pub allow_timeline_increase: bool,
    /// Start of the record before the first one; if absent, the first record's link is only
    /// required to point backwards.
    pub previous: Option<Lsn>,
}

impl Config {
    /// Segments of 16 MiB, any cluster, any timeline that does not fall, any predecessor.
    pub const fn new(version: PgMajor) -> Config {
        Config {
            version,
            segment_size: DEFAULT_SEGMENT_SIZE,
            system_identifier: None,
            timeline: None,
            allow_timeline_increase: true,
            previous: None,
        }
    }
}

/// One whole, verified record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Position of the first byte of its header.
    pub start: Lsn,
    /// Position behind it, a multiple of 8; for a segment switch the next segment's first byte.
    pub end: Lsn,
    /// Its bytes, without page headers and padding.
    pub bytes: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Splits the record into its parts.
    ///
    /// # Errors
    /// See [`Record::parse`].
    pub fn parse(&self, version: PgMajor) -> Result<Record<'a>, record::Error> {
        Record::parse(self.bytes, version)
    }
}

/// Turns WAL bytes into records. [`Decoder::feed`] bytes, take records with [`Decoder::next`]
/// until it has none, feed more.
///
/// Memory: the bytes fed and not yet taken, and the one record that is being put together, which
/// grows as its bytes arrive and never beyond [`MAX_RECORD_SIZE`].
///
/// An error is final: every later call returns it again.
#[derive(Debug)]
pub struct Decoder {
    cfg: Config,
    input: Input,
    state: State,
    /// Next byte wanted.
    fed: Lsn,
    started: bool,
    failed: Option<Error>,
}

impl Decoder {
    /// Starts at the record boundary `start`. If that is a page boundary, the first bytes may be
    /// at it (the page header follows) or at [`Lsn::skip_page_header`] of it.
    ///
    /// A start or a segment size that cannot be is reported by the first call of the other
    /// functions.
    pub fn new(start: Lsn, cfg: Config) -> Decoder {
        let failed = check_setup(start, &cfg).err();
        Decoder {
            cfg,
            input: Input::default(),
            state: State {
                pos: start,
                skip_until: start,
                header: ArrayVec::new(),
                buf: Vec::new(),
                total: 0,
                start,
                end: start,
                lent: false,
                previous: cfg.previous,
                timeline: cfg.timeline.unwrap_or(0),
                first: true,
                overwrite: None,
            },
            fed: start,
            started: false,
            failed,
        }
    }

    /// Takes a copy of `bytes`, the first of which is at `at`.
    ///
    /// # Errors
    /// [`Error::Position`] unless `at` is [`Decoder::position`]; the final error after one.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), Error> {
        self.accept(at, bytes.len())?;
        self.input.push_slice(bytes);
        Ok(())
    }

    /// Like [`Decoder::feed`], without a copy if everything fed before was taken.
    ///
    /// # Errors
    /// As [`Decoder::feed`].
    pub fn feed_shared(&mut self, at: Lsn, bytes: Bytes) -> Result<(), Error> {
        self.accept(at, bytes.len())?;
        self.input.push_shared(bytes);
        Ok(())
    }

    /// The next record, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// Any [`Error`]: the stream is not what it should be. The decoder stays in that state.
    #[expect(
        clippy::should_implement_trait,
        reason = "the record borrows from the decoder"
    )]
    pub fn next(&mut self) -> Result<Option<RawRecord<'_>>, Error> {
        match self.step()? {
            Some(place) => Ok(Some(self.lend(place))),
            None => Ok(None),
        }
    }

    /// Finds the next record, for [`Decoder::lend`].
    pub(super) fn step(&mut self) -> Result<Option<Place>, Error> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let found = self.state.advance(&self.cfg, &mut self.input);
        self.failed = found.as_ref().err().copied();
        found
    }

    /// Lends the record just found.
    pub(super) fn lend(&self, found: Place) -> RawRecord<'_> {
        let bytes = match found {
            Place::Input(range) => self.input.all().get(range).unwrap_or_default(),
            Place::Assembled => &self.state.buf,
        };
        RawRecord {
            start: self.state.start,
            end: self.state.end,
            bytes,
        }
    }

    /// Position of the next byte wanted by [`Decoder::feed`].
    pub const fn position(&self) -> Lsn {
        self.fed
    }

    /// End of the last record that came out; the start position before the first one.
    pub const fn decoded(&self) -> Lsn {
        self.state.end
    }

    /// Timeline of the last page header read, else the configured one, else 0.
    pub const fn timeline(&self) -> u32 {
        self.state.timeline
    }

    fn accept(&mut self, at: Lsn, len: usize) -> Result<(), Error> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let behind_header = self.fed.skip_page_header(u64::from(self.cfg.segment_size));
        if !self.started && at == behind_header {
            self.fed = at;
            self.state.pos = at;
        }
        let end = u64::try_from(len).ok().and_then(|n| at.checked_add(n));
        let failed = match end {
            _ if at != self.fed => Error::Position {
                expected: self.fed,
                found: at,
            },
            None => Error::AddressSpace { at },
            Some(end) => {
                self.started |= len > 0;
                self.fed = end;
                return Ok(());
            }
        };
        self.failed = Some(failed);
        Err(failed)
    }
}

fn check_setup(start: Lsn, cfg: &Config) -> Result<(), Error> {
    let rule = |rule| Err(Error::Setup { start, rule });
    if !cfg.segment_size.is_power_of_two()
        || !(MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE).contains(&cfg.segment_size)
    {
        return rule("the segment size is not a power of two from 1 MiB to 1 GiB");
    }
    if !start.is_valid() || !start.is_aligned() {
        return rule("a record boundary is a multiple of 8 and not zero");
    }
    let page = Lsn(start.0 - start.page_offset());
    let header = PageHeader::size_at(page, u64::from(cfg.segment_size)) as u64;
    if start != page && start.page_offset() < header {
        return rule("the position is inside a page header");
    }
    Ok(())
}

/// Bytes fed and not yet consumed: either all shared or all copied.
#[derive(Debug, Default)]
struct Input {
    shared: Bytes,
    copied: Vec<u8>,
    at: usize,
}

impl Input {
    fn all(&self) -> &[u8] {
        if self.copied.is_empty() {
            &self.shared
        } else {
            &self.copied
        }
    }

    fn rest(&self) -> &[u8] {
        self.all().get(self.at..).unwrap_or_default()
    }

    fn push_slice(&mut self, bytes: &[u8]) {
        if self.shared.is_empty() {
            self.copied.drain(..self.at.min(self.copied.len()));
            self.copied.shrink_to(KEPT_CAPACITY);
        } else {
            self.copied.clear();
            self.copied
                .extend_from_slice(self.shared.get(self.at..).unwrap_or_default());
            self.shared = Bytes::new();
        }
        self.at = 0;
        self.copied.extend_from_slice(bytes);
    }

    fn push_shared(&mut self, bytes: Bytes) {
        if self.rest().is_empty() {
            self.copied.clear();
            self.shared = bytes;
            self.at = 0;
        } else {
            self.push_slice(&bytes);
        }
    }
}

/// Where a finished record lies.
#[derive(Debug)]
pub(super) enum Place {
    Input(Range<usize>),
    Assembled,
}

/// What the page header allows the next record to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Overwrite {
    /// The record that was dropped, if the decoder saw it.
    aborted: Option<Lsn>,
}

#[derive(Debug)]
struct State {
    /// Position of the next input byte.
    pos: Lsn,
    /// Bytes before this are dropped unread: padding, the rest of a switched segment.
    skip_until: Lsn,
    /// The part of a page header read so far; `pos` is behind it.
    header: ArrayVec<u8, { LONG_PAGE_HEADER as usize }>,
    /// The part of the open record read so far; empty at a record boundary.
    buf: Vec<u8>,
    /// Length of the open record; 0 until its first 4 bytes are there.
    total: u32,
    /// Start of the open or last record.
    start: Lsn,
    /// End of the last record.
    end: Lsn,
    /// `buf` holds a record that was handed out.
    lent: bool,
    /// Start of the last complete record.
    previous: Option<Lsn>,
    timeline: u32,
    /// No record came out yet.
    first: bool,
    /// The next record must be the one that overwrites an aborted record.
    overwrite: Option<Overwrite>,
}

impl State {
    fn advance(&mut self, cfg: &Config, input: &mut Input) -> Result<Option<Place>, Error> {
        if self.lent {
            self.lent = false;
            self.buf.clear();
            self.buf.shrink_to(KEPT_CAPACITY);
        }
        loop {
            let rest = input.rest();
            if rest.is_empty() {
                return Ok(None);
            }
            let used = if self.pos < self.skip_until {
                let skip =
                    usize::try_from(self.skip_until.bytes_since(self.pos)).unwrap_or(usize::MAX);
                skip.min(rest.len())
            } else if self.pos.page_offset() == 0 || !self.header.is_empty() {
                self.page_header(cfg, rest)?
            } else {
                let page_left = (WAL_PAGE_SIZE - self.pos.page_offset()) as usize;
                let page = rest.get(..page_left).unwrap_or(rest);
                match self.record(cfg, page)? {
                    Step::Partial(used) => used,
                    Step::Whole(used, in_place) => {
                        let from = input.at;
                        input.at += used;
                        return Ok(Some(if in_place {
                            Place::Input(from..input.at)
                        } else {
                            self.lent = true;
                            Place::Assembled
                        }));
                    }
                }
            };
            self.pos = moved(self.pos, used)?;
            input.at += used;
        }
    }

    /// Takes bytes of a page header; acts on it once it is whole.
    fn page_header(&mut self, cfg: &Config, rest: &[u8]) -> Result<usize, Error> {
        let page = Lsn(self.pos.0 - self.pos.page_offset());
        let size = PageHeader::size_at(page, u64::from(cfg.segment_size));
        let used = (size - self.header.len()).min(rest.len());
        self.header.extend(rest.iter().take(used).copied());
        if self.header.len() < size {
            return Ok(used);
        }
        // A short header that claims to be long is read as one with zeros, so that the first thing
        // wrong with it is what gets reported.
        let mut padded = [0u8; LONG_PAGE_HEADER as usize];
        for (to, from) in padded.iter_mut().zip(self.header.drain(..)) {
            *to = from;
        }
        let header = PageHeader::parse(&padded).map_err(|_| Error::AddressSpace { at: page })?;
        header.verify(page, cfg)?;
        let current = self.timeline;
        let allowed = match current {
            0 => true,
            t if cfg.allow_timeline_increase => header.timeline >= t,
            t => header.timeline == t,
        };
        if !allowed || header.timeline == 0 {
            return Err(Error::Timeline {
                page,
                found: header.timeline,
                current,
            });
        }
        self.timeline = header.timeline;
        self.continuation(page, &header)?;
        Ok(used)
    }

    fn continuation(&mut self, page: Lsn, header: &PageHeader) -> Result<(), Error> {
        let rem_len = header.rem_len;
        if self.buf.is_empty() || header.overwrites() {
            if header.continues() || rem_len != 0 {
                return Err(Error::UnexpectedContinuation { page, rem_len });
            }
            if header.overwrites() {
                self.overwrite = Some(Overwrite {
                    aborted: (!self.buf.is_empty()).then_some(self.start),
                });
                self.buf.clear();
            }
            return Ok(());
        }
        let missing = self
            .total
            .saturating_sub(u32::try_from(self.buf.len()).unwrap_or(u32::MAX));
        if !header.continues() || rem_len != missing {
            let rem_len = if header.continues() { rem_len } else { 0 };
            return Err(Error::Continuation {
                page,
                start: self.start,
                missing,
                rem_len,
            });
        }
        Ok(())
    }

    /// Takes record bytes from `page`, what is there of the current page, which is not empty.
    #[inline]
    fn record(&mut self, cfg: &Config, page: &[u8]) -> Result<Step, Error> {
        if self.buf.is_empty() {
            self.start = self.pos;
            self.total = 0;
            if let Some(length) = page.first_chunk::<4>() {
                self.total = self.length(u32::from_le_bytes(*length))?;
                if let Some(whole) = page.get(..self.total as usize) {
                    let header = self.check_header(whole)?;
                    self.finish(cfg, &header, whole)?;
                    return Ok(Step::Whole(whole.len(), true));
                }
            }
        }
        let before = self.buf.len();
        // Record starts are aligned, so the length never crosses a page.
        let wanted = if self.total == 0 {
            4
        } else {
            self.total as usize
        };
        let used = wanted.saturating_sub(before).min(page.len());
        self.buf
            .extend_from_slice(page.get(..used).unwrap_or_default());
        if self.total == 0 {
            if let Some(length) = self.buf.first_chunk::<4>() {
                self.total = self.length(u32::from_le_bytes(*length))?;
            }
            return Ok(Step::Partial(used));
        }
        if before < HEADER_SIZE && self.buf.len() >= HEADER_SIZE {
            self.check_header(&self.buf)?;
        }
        if self.buf.len() < self.total as usize {
            return Ok(Step::Partial(used));
        }
        let whole = std::mem::take(&mut self.buf);
        self.pos = moved(self.pos, used)?;
        let done = self
            .check_header(&whole)
            .and_then(|header| self.finish_at(cfg, &header, &whole, self.pos));
        self.buf = whole;
        done.map(|()| Step::Whole(used, false))
    }

    fn length(&self, length: u32) -> Result<u32, Error> {
        let start = self.start;
        match length {
            0 => Err(Error::ZeroLength { start }),
            l if (l as usize) < HEADER_SIZE || l > MAX_RECORD_SIZE => {
                Err(Error::Length { start, length })
            }
            l => Ok(l),
        }
    }

    /// Checks what the fixed header alone tells, before a long record is put together.
    #[inline]
    fn check_header(&self, raw: &[u8]) -> Result<Header, Error> {
        let start = self.start;
        let header = Header::parse(raw).map_err(|_| Error::Length {
            start,
            length: self.total,
        })?;
        let found = Lsn(header.prev);
        match self.previous {
            Some(expected) if expected != found => Err(Error::Previous {
                start,
                found,
                expected,
            }),
            None if found >= start => Err(Error::PreviousOrder { start, found }),
            _ => Ok(header),
        }
    }

    /// Finishes a record that lies at `self.pos`.
    #[inline]
    fn finish(&mut self, cfg: &Config, header: &Header, whole: &[u8]) -> Result<(), Error> {
        let after = moved(self.pos, whole.len())?;
        self.finish_at(cfg, header, whole, after)?;
        self.pos = after;
        Ok(())
    }

    /// Verifies the whole record, whose last byte is before `after`, and moves the state behind it.
    fn finish_at(
        &mut self,
        cfg: &Config,
        header: &Header,
        whole: &[u8],
        after: Lsn,
    ) -> Result<(), Error> {
        let start = self.start;
        if !record::crc_is_valid(whole) {
            return Err(Error::Crc {
                start,
                length: self.total,
            });
        }
        let alignment = match (header.rmid, header.info & 0xF0) {
            (rmid::XLOG, XLOG_SWITCH) => u64::from(cfg.segment_size),
            _ => 8,
        };
        self.check_overwrite(cfg, header, whole)?;
        let end = after
            .0
            .checked_next_multiple_of(alignment)
            .ok_or(Error::AddressSpace { at: after })?;
        self.end = Lsn(end);
        self.skip_until = self.end;
        self.previous = Some(start);
        self.first = false;
        Ok(())
    }

    /// A record on a page that overwrites an aborted one must name it, and no other record may.
    #[inline]
    fn check_overwrite(
        &mut self,
        cfg: &Config,
        header: &Header,
        whole: &[u8],
    ) -> Result<(), Error> {
        let is_overwrite =
            header.rmid == rmid::XLOG && header.info & 0xF0 == XLOG_OVERWRITE_CONTRECORD;
        let flagged = self.overwrite.take();
        if !is_overwrite && flagged.is_none() {
            return Ok(());
        }
        let found = if is_overwrite {
            let main = Record::parse(whole, cfg.version)
                .map(|r| r.main)
                .unwrap_or_default();
            main.first_chunk::<8>().map(|b| Lsn(u64::from_le_bytes(*b)))
        } else {
            None
        };
        let seen = flagged.and_then(|f| f.aborted);
        let agrees = match (found, seen) {
            (Some(found), Some(seen)) => found == seen,
            // Decoding began behind the aborted record.
            (Some(_), None) => self.first,
            (None, _) => false,
        };
        if agrees {
            Ok(())
        } else {
            Err(Error::Overwrite {
                start: self.start,
                found,
                expected: seen,
            })
        }
    }
}

enum Step {
    /// So many bytes taken, the record is not whole.
    Partial(usize),
    /// The last so many bytes taken, `pos` already moved; true if they are the whole record.
    Whole(usize, bool),
}

#[inline]
fn moved(pos: Lsn, by: usize) -> Result<Lsn, Error> {
    u64::try_from(by)
        .ok()
        .and_then(|n| pos.checked_add(n))
        .ok_or(Error::AddressSpace { at: pos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_record_takes_memory_only_as_its_bytes_arrive() {
        let start = Lsn((5 << 20) + 40);
        let mut d = Decoder::new(
            start,
            Config {
                segment_size: 1 << 20,
                ..Config::new(PgMajor::V17)
            },
        );
        let mut header = [0u8; 32];
        header[..4].copy_from_slice(&MAX_RECORD_SIZE.to_le_bytes());
        d.feed(start, &header).unwrap();
        assert_eq!(d.next(), Ok(None));
        assert!(d.state.buf.capacity() < 1 << 10);
        assert_eq!(d.state.total, MAX_RECORD_SIZE);
    }

    #[test]
    fn buffers_shrink_again() {
        let start = Lsn((5 << 20) + 40);
        let cfg = Config {
            segment_size: 1 << 20,
            ..Config::new(PgMajor::V17)
        };
        let mut d = Decoder::new(start, cfg);
        d.state.lent = true;
        d.state.buf = vec![0; 3 * KEPT_CAPACITY];
        assert_eq!(d.next(), Ok(None));
        assert!(d.state.buf.capacity() <= KEPT_CAPACITY);
        d.input.copied = vec![0; 3 * KEPT_CAPACITY];
        d.input.at = d.input.copied.len();
        d.feed(start, &[24]).unwrap();
        assert!(d.input.copied.capacity() <= KEPT_CAPACITY);
        assert_eq!(d.input.rest(), [24]);
    }
}
