//! Checks redo against the pages Postgres itself had.
//!
//! With `wal_consistency_checking = 'all'` every record carries, for each block it changes, the
//! page as it was on the primary afterwards. [`Oracle`] keeps a map of pages, replays the stream
//! into it record by record and compares each page with the record's copy under the masks of
//! [`crate::mask`]. The first image seen of a block is its base, so the WAL is all it needs: no
//! data directory, no second server.
//!
//! The result of redo, not Postgres's copy, is carried forward; errors in masked bits surface
//! later. After a mismatch or an error the copy is taken over so that one bug is counted once.
//! Visibility-map bits that heap records clear without naming the map page, and truncations, are
//! applied to the map as an ingest path would do.
//!
//! Memory: one page per block in the stream.

use crate::buf::PageBuf;
use crate::error::Error;
use crate::heap;
use crate::mask::{self, Kind, Level};
use crate::name;
use crate::page::Page;
use crate::redo::{Dialect, apply, apply_postgres};
use crate::vm;
use pg_wal::cursor::Cursor;
use pg_wal::record::{self, rmgr_name, rmid};
use pg_wal::{Block, Record, View, image};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use types::{BlockNumber, Fork, Key, Lsn, PAGE_SIZE, RelTag, WalRecord};

/// Most mismatches and errors kept with their details.
pub const MAX_FINDINGS: usize = 100;

/// Counts for one record type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Row {
    /// Records.
    pub records: u64,
    /// References restored from an image.
    pub images: u64,
    /// References whose page was unknown; the copy became the base.
    pub adopted: u64,
    /// References replayed and compared.
    pub compared: u64,
    /// Of these: differences under Postgres's own mask.
    pub mismatched: u64,
    /// Of these: differences under the strict mask.
    pub strict: u64,
    /// References redo refused.
    pub errors: u64,
    /// Of these: records without redo action.
    pub unsupported: u64,
}

impl Row {
    fn add(&mut self, other: &Row) {
        self.records += other.records;
        self.images += other.images;
        self.adopted += other.adopted;
        self.compared += other.compared;
        self.mismatched += other.mismatched;
        self.strict += other.strict;
        self.errors += other.errors;
        self.unsupported += other.unsupported;
    }
}

/// What was wrong with one page after one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Redo failed.
    Redo(Error),
    /// A check image could not be restored.
    Image(image::Error),
    /// Redo's page differs from Postgres's.
    Differs {
        /// Which mask was on.
        level: Level,
        /// Offset of the first byte that differs.
        first: usize,
        /// How many bytes differ.
        count: usize,
        /// Redo's page, unmasked.
        redo: Box<[u8; PAGE_SIZE]>,
        /// Postgres's page, unmasked.
        postgres: Box<[u8; PAGE_SIZE]>,
    },
    /// A page is too broken to be masked.
    Unmaskable(crate::page::Error),
}

/// One mismatch or error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// End of the record.
    pub lsn: Lsn,
    /// Resource manager.
    pub rmid: u8,
    /// Info byte.
    pub info: u8,
    /// Block reference.
    pub id: u8,
    /// Relation fork.
    pub rel: RelTag,
    /// Block.
    pub block: BlockNumber,
    /// What was wrong.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {:#04X} ending at {}, reference {} to {} block {}: ",
            rmgr_name(self.rmid),
            name::record(self.rmid, self.info),
            self.info,
            self.lsn,
            self.id,
            self.rel,
            self.block
        )?;
        match &self.problem {
            Problem::Redo(e) => write!(f, "{e}"),
            Problem::Image(e) => write!(f, "check image: {e}"),
            Problem::Unmaskable(e) => write!(f, "cannot be compared: {e}"),
            Problem::Differs {
                level,
                first,
                count,
                ..
            } => {
                write!(
                    f,
                    "{count} bytes differ, the first at {first} ({level:?} mask)"
                )
            }
        }
    }
}

/// Counts per record type, and details of what went wrong.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By resource manager and high nibble of the info byte.
    pub rows: BTreeMap<(u8, u8), Row>,
    /// The first [`MAX_FINDINGS`] problems; differences only under the strict mask included.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sum of all rows.
    pub fn total(&self) -> Row {
        let mut sum = Row::default();
        self.rows.values().for_each(|r| sum.add(r));
        sum
    }

    /// Sum of the rows of one resource manager.
    pub fn manager(&self, rm: u8) -> Row {
        let mut sum = Row::default();
        self.rows
            .range((rm, 0)..=(rm, 0xFF))
            .for_each(|(_, r)| sum.add(r));
        sum
    }
}

impl Report {
    /// Record types that change pages ([`name::CHANGING_PAGES`]) of which no page was compared or
    /// restored: manager and high nibble of the info byte.
    pub fn unseen(&self) -> impl Iterator<Item = (u8, u8)> {
        let seen = |rm, op| {
            let row = self.rows.get(&(rm, op));
            row.is_some_and(|r| r.compared + r.images > 0)
        };
        name::CHANGING_PAGES
            .iter()
            .flat_map(|(rm, ops)| ops.iter().map(|op| (*rm, *op)))
            .filter(move |(rm, op)| !seen(*rm, *op))
    }

    /// Adds the counts of another run; its findings as far as there is room.
    pub fn add(&mut self, other: &Report) {
        for (key, row) in &other.rows {
            self.rows.entry(*key).or_default().add(row);
        }
        let room = MAX_FINDINGS.saturating_sub(self.findings.len());
        self.findings
            .extend(other.findings.iter().take(room).cloned());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:<34} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>7} {:>7}",
            "manager",
            "record",
            "records",
            "images",
            "adopted",
            "compared",
            "mismatch",
            "strict",
            "errors",
            "unsupp"
        )?;
        let total = (("total", ""), self.total());
        let rows = self
            .rows
            .iter()
            .map(|((rm, info), r)| ((rmgr_name(*rm), name::record(*rm, *info)), *r));
        for ((rm, name), r) in rows
            .filter(|(_, r)| r.images + r.compared + r.adopted + r.errors > 0)
            .chain([total])
        {
            writeln!(
                f,
                "{rm:<12} {name:<34} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7} {:>7} {:>7}",
                r.records,
                r.images,
                r.adopted,
                r.compared,
                r.mismatched,
                r.strict,
                r.errors,
                r.unsupported
            )?;
        }
        Ok(())
    }
}

/// Replays a WAL stream and compares as it goes.
#[derive(Debug)]
pub struct Oracle {
    dialect: Dialect,
    pages: HashMap<(RelTag, BlockNumber), Box<[u8; PAGE_SIZE]>>,
    buf: PageBuf,
    report: Report,
}

/// Replays a whole stream: raw records, oldest first, each with its end LSN.
///
/// # Errors
/// A record whose envelope is malformed ends the run.
pub fn verify_stream<R: AsRef<[u8]>>(
    records: impl IntoIterator<Item = (Lsn, R)>,
    dialect: Dialect,
) -> Result<Report, record::Error> {
    let mut oracle = Oracle::new(dialect);
    for (lsn, raw) in records {
        oracle.record(lsn, raw.as_ref())?;
    }
    Ok(oracle.into_report())
}

impl Oracle {
    /// Knows no page yet.
    pub fn new(dialect: Dialect) -> Self {
        Oracle {
            dialect,
            pages: HashMap::new(),
            buf: PageBuf::new(),
            report: Report::default(),
        }
    }

    /// What was found so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Ends the run.
    pub fn into_report(self) -> Report {
        self.report
    }

    /// Every page as redo left it.
    pub fn pages(&self) -> impl Iterator<Item = (RelTag, BlockNumber, &[u8; PAGE_SIZE])> {
        self.pages
            .iter()
            .map(|((rel, block), page)| (*rel, *block, &**page))
    }

    /// One page as redo left it.
    pub fn page(&self, rel: RelTag, block: BlockNumber) -> Option<&[u8; PAGE_SIZE]> {
        self.pages.get(&(rel, block)).map(|page| &**page)
    }

    /// A page as it was before the first record, for streams without full-page images.
    pub fn adopt(&mut self, rel: RelTag, block: BlockNumber, page: &[u8; PAGE_SIZE]) {
        self.pages.insert((rel, block), Box::new(*page));
    }

    /// Replays one record that ends at `lsn`.
    ///
    /// # Errors
    /// The record's envelope is malformed. Anything else wrong goes to the report.
    pub fn record(&mut self, lsn: Lsn, raw: &[u8]) -> Result<(), record::Error> {
        let rec = Record::parse(raw, self.dialect.version)?;
        let row = self
            .report
            .rows
            .entry((rec.header.rmid, rec.op()))
            .or_default();
        row.records += 1;
        for block in &rec.blocks {
            self.reference(lsn, &rec, block);
        }
        self.side_effects(lsn, &rec);
        Ok(())
    }

    fn row(&mut self, rec: &Record<'_>) -> &mut Row {
        self.report
            .rows
            .entry((rec.header.rmid, rec.op()))
            .or_default()
    }

    fn find(&mut self, lsn: Lsn, rec: &Record<'_>, block: &Block<'_>, problem: Problem) {
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding {
                lsn,
                rmid: rec.header.rmid,
                info: rec.header.info,
                id: block.id,
                rel: block.rel,
                block: block.block,
                problem,
            });
        }
    }

    fn reference(&mut self, lsn: Lsn, rec: &Record<'_>, block: &Block<'_>) {
        let key = Key::rel_block(block.rel, block.block);
        let place = (block.rel, block.block);
        let check = match block.image.filter(|i| !i.apply) {
            None => None,
            Some(image) => {
                let mut copy = Box::new([0; PAGE_SIZE]);
                match image::restore(&image, &mut copy) {
                    Ok(()) => Some(copy),
                    Err(e) => {
                        self.row(rec).errors += 1;
                        return self.find(lsn, rec, block, Problem::Image(e));
                    }
                }
            }
        };
        self.buf.clear();
        let known = self.pages.get(&place);
        if !block.applies_image() && !block.will_init {
            let Some(known) = known else {
                if let Some(copy) = check {
                    self.row(rec).adopted += 1;
                    self.take_over(place, copy, lsn);
                }
                return;
            };
            let copied = self.buf.set(known.as_slice());
            debug_assert!(copied);
        }
        if let Err(e) = apply_postgres(&mut self.buf, &key, lsn, rec.raw, &self.dialect) {
            let row = self.row(rec);
            row.errors += 1;
            row.unsupported += u64::from(matches!(e, Error::Unsupported { .. }));
            self.find(lsn, rec, block, Problem::Redo(e));
            return match check {
                Some(copy) => self.take_over(place, copy, lsn),
                None => drop(self.pages.remove(&place)),
            };
        }
        if block.applies_image() {
            self.row(rec).images += 1;
        }
        let (Some(page), Some(copy)) = (self.buf.page().copied(), check) else {
            if let Some(page) = self.buf.page() {
                self.pages.insert(place, Box::new(*page));
            }
            return;
        };
        self.row(rec).compared += 1;
        if let Some(problem) = differs(rec, block, Level::Consistency, &page, &copy) {
            self.row(rec).mismatched += 1;
            self.find(lsn, rec, block, problem);
            return self.take_over(place, copy, lsn);
        }
        if let Some(problem) = differs(rec, block, Level::Strict, &page, &copy) {
            self.row(rec).strict += 1;
            self.find(lsn, rec, block, problem);
        }
        match self.pages.get_mut(&place) {
            Some(to) => **to = page,
            None => drop(self.pages.insert(place, Box::new(page))),
        }
    }

    /// Postgres takes its copies before it sets the LSN.
    fn take_over(
        &mut self,
        place: (RelTag, BlockNumber),
        mut copy: Box<[u8; PAGE_SIZE]>,
        lsn: Lsn,
    ) {
        let mut page = Page::new(&mut copy);
        if !page.is_new() {
            page.set_lsn(lsn);
        }
        self.pages.insert(place, copy);
    }

    /// Changes of blocks the record does not reference.
    fn side_effects(&mut self, lsn: Lsn, rec: &Record<'_>) {
        if rec.header.rmid == rmid::SMGR && rec.op() == 0x20 {
            self.truncate(lsn, rec.main);
            return;
        }
        if rec.blocks.iter().any(|b| b.rel.fork == Fork::Vm) {
            return;
        }
        let Ok(Some(view)) = View::find(rec.raw, self.dialect.version, |id, _, _| id == 0) else {
            return;
        };
        for (heap, bits) in heap::map_bits_cleared(&view, &self.dialect) {
            let vm_rel = view.block.rel.with_fork(Fork::Vm);
            let clear = WalRecord::ClearVisibilityMapFlags {
                new_heap_block: Some(heap),
                old_heap_block: None,
                flags: bits,
            };
            self.internal(lsn, vm_rel, vm::place(heap).0, &clear);
        }
    }

    fn internal(&mut self, lsn: Lsn, rel: RelTag, block: BlockNumber, rec: &WalRecord) {
        let Some(page) = self.pages.get_mut(&(rel, block)) else {
            return;
        };
        if self.buf.set(page.as_slice())
            && apply(
                &mut self.buf,
                &Key::rel_block(rel, block),
                lsn,
                rec,
                &self.dialect,
            )
            .is_ok()
            && let Some(changed) = self.buf.page()
        {
            **page = *changed;
        }
    }

    fn truncate(&mut self, lsn: Lsn, main: &[u8]) {
        const MAIN: u32 = 1;
        const VM: u32 = 2;
        let mut c = Cursor::new(main, "truncate record");
        let (Ok(blocks), Ok(spc), Ok(db), Ok(rel), Ok(flags)) =
            (c.u32(), c.u32(), c.u32(), c.u32(), c.u32())
        else {
            return;
        };
        let heap = RelTag {
            spc,
            db,
            rel,
            fork: Fork::Main,
        };
        let map = heap.with_fork(Fork::Vm);
        if flags & MAIN != 0 {
            self.pages.retain(|(r, b), _| *r != heap || *b < blocks);
        }
        if flags & VM != 0 {
            let (last, byte, shift) = vm::place(blocks);
            let kept = !blocks.is_multiple_of(vm::HEAP_BLOCKS_PER_PAGE);
            self.pages
                .retain(|(r, b), _| *r != map || *b < last || (kept && *b == last));
            if kept {
                let cut = WalRecord::TruncateVisibilityMap {
                    trunc_byte: (byte - crate::page::HEADER_SIZE) as u64,
                    trunc_offs: u64::from(shift),
                };
                self.internal(lsn, map, last, &cut);
            }
        }
    }
}

fn differs(
    rec: &Record<'_>,
    block: &Block<'_>,
    level: Level,
    redo: &[u8; PAGE_SIZE],
    postgres: &[u8; PAGE_SIZE],
) -> Option<Problem> {
    let kind = Kind::of(rec.header.rmid, block.rel.fork)?;
    // LSN and checksum are masked at any level, and equal input has equal masks.
    const COMPARED: usize = 10;
    if redo.get(COMPARED..) == postgres.get(COMPARED..) {
        return None;
    }
    let (mut a, mut b) = (*redo, *postgres);
    for side in [&mut a, &mut b] {
        if let Err(e) = mask::page(kind, level, block.block, side) {
            return Some(Problem::Unmaskable(e));
        }
    }
    if a == b {
        return None;
    }
    let mut different = a
        .iter()
        .zip(&b)
        .enumerate()
        .filter(|(_, (x, y))| x != y)
        .map(|(at, _)| at);
    let first = different.next()?;
    Some(Problem::Differs {
        level,
        first,
        count: 1 + different.count(),
        redo: Box::new(*redo),
        postgres: Box::new(*postgres),
    })
}
