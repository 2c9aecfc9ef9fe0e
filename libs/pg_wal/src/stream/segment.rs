//! WAL segment files: their names, and reading records from their bytes.
//!
//! In a file nothing says where WAL ends: the bytes behind it are zeros or remains of a recycled
//! segment. So the first thing that is not a valid record is the end, and [`Reader::stopped`] says
//! what it was. Whether more was expected is for the caller to know.

use super::{Config, Decoder, Error, PageHeader, RawRecord};
use types::Lsn;
use types::lsn::WAL_PAGE_SIZE;

/// Bytes handed to the decoder at once.
const STEP: usize = 128 * 1024;

/// Reads the records of one or more consecutive segments held in memory.
#[derive(Debug)]
pub struct Reader<'a> {
    decoder: Decoder,
    left: &'a [u8],
    stopped: Option<Error>,
}

impl<'a> Reader<'a> {
    /// Reads from the record boundary `start`; `bytes` begin at it.
    pub fn new(start: Lsn, bytes: &'a [u8], cfg: Config) -> Reader<'a> {
        Reader {
            decoder: Decoder::new(start, cfg),
            left: bytes,
            stopped: None,
        }
    }

    /// Reads from the first record that begins in `bytes`, which begin at the page `page`.
    /// `None` if no record begins there, or not behind a valid page header.
    pub fn from_page(page: Lsn, bytes: &'a [u8], cfg: Config) -> Option<Reader<'a>> {
        let (start, timeline) = first_record(page, bytes, &cfg)?;
        let behind = usize::try_from(start.bytes_since(page)).ok()?;
        let cfg = Config {
            timeline: cfg.timeline.or(Some(timeline)),
            ..cfg
        };
        Some(Reader::new(start, bytes.get(behind..)?, cfg))
    }

    /// The next record, or `None` at the end of WAL.
    #[expect(
        clippy::should_implement_trait,
        reason = "the record borrows from the reader"
    )]
    pub fn next(&mut self) -> Option<RawRecord<'_>> {
        if self.stopped.is_some() {
            return None;
        }
        let found = loop {
            let stepped = match self.decoder.step() {
                Ok(Some(place)) => break place,
                Ok(None) if self.left.is_empty() => return None,
                Ok(None) => self.feed(),
                Err(e) => Err(e),
            };
            if let Err(e) = stepped {
                self.stopped = Some(e);
                return None;
            }
        };
        Some(self.decoder.lend(found))
    }

    fn feed(&mut self) -> Result<(), Error> {
        let (now, later) = self.left.split_at(self.left.len().min(STEP));
        self.left = later;
        self.decoder.feed(self.decoder.position(), now)
    }

    /// End of the last record read: where WAL ends, once [`Reader::next`] returned `None`.
    pub const fn end(&self) -> Lsn {
        self.decoder.decoded()
    }

    /// Timeline of the last page read.
    pub const fn timeline(&self) -> u32 {
        self.decoder.timeline()
    }

    /// What stands where the next record should; `None` if the bytes just ran out.
    pub const fn stopped(&self) -> Option<Error> {
        self.stopped
    }
}

/// The first record boundary in `bytes`, which begin at the page `page`, and the timeline there.
fn first_record(page: Lsn, bytes: &[u8], cfg: &Config) -> Option<(Lsn, u32)> {
    let mut page = page;
    let mut open: Option<u32> = None;
    for raw in bytes.chunks(WAL_PAGE_SIZE as usize) {
        let size = PageHeader::size_at(page, u64::from(cfg.segment_size));
        let header = PageHeader::parse(raw).ok()?;
        header.verify(page, cfg).ok()?;
        if !header.continues() {
            // A record boundary either way: the record open so far was aborted or none was.
            return (open.is_none() || header.overwrites()).then_some((page, header.timeline));
        }
        if header.rem_len == 0 || open.is_some_and(|rest| rest != header.rem_len) {
            return None;
        }
        let payload = u32::try_from(WAL_PAGE_SIZE)
            .ok()?
            .checked_sub(u32::try_from(size).ok()?)?;
        match header.rem_len.checked_sub(payload) {
            None | Some(0) => {
                let begin = page.checked_add(u64::try_from(size).ok()?)?;
                return Some((
                    begin.checked_add(u64::from(header.rem_len))?.align(),
                    header.timeline,
                ));
            }
            rest => open = rest,
        }
        page = page.checked_add(WAL_PAGE_SIZE)?;
    }
    None
}

/// Name of the segment `number` of a timeline: 24 hex digits. `segment_size` is a power of two from
/// 1 MiB to 1 GiB, in bytes.
pub fn file_name(timeline: u32, number: u64, segment_size: u32) -> String {
    let per_id = (1u64 << 32) / u64::from(segment_size.max(1));
    format!(
        "{timeline:08X}{:08X}{:08X}",
        number / per_id,
        number % per_id
    )
}

/// Timeline and number of the segment of that name; `None` if the name has another form, such as
/// that of a history file, or names a segment that cannot be.
pub fn parse_file_name(name: &str, segment_size: u32) -> Option<(u32, u64)> {
    if name.len() != 24
        || !name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    let per_id = (1u64 << 32).checked_div(u64::from(segment_size))?;
    let (high, low) = (u64::from(part(8)?), u64::from(part(16)?));
    (low < per_id).then_some((part(0)?, high * per_id + low))
}
