//! The engine: which record does what to which page.

use crate::action::{Context, Effect};
use crate::buf::{MAX_LEN, PageBuf};
use crate::error::{Error, Fault};
use crate::page::Page;
use crate::{brin, btree, generic, gin, gist, hash, heap, sequence, slru, spgist, vm};
use pg_wal::record::rmid;
use pg_wal::{Block, Record, image};
use types::key::Kind;
use types::{BlockNumber, Flavour, Fork, Key, Lsn, PAGE_SIZE, PgMajor, RelTag, WalRecord};

/// Properties of the WAL that its records do not carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    /// Major version of the writer.
    pub version: PgMajor,
    /// Vanilla Postgres, or Neon's longer heap records.
    pub flavour: Flavour,
    /// Hint bits are WAL-logged (data checksums or `wal_log_hints` are on). Decides whether a
    /// VISIBLE record moves the heap page's LSN.
    pub hint_bits_logged: bool,
}

/// What one record did to the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The page was restored from the record's image.
    Image,
    /// The page changed.
    Changed,
    /// The record asks for no change of this page.
    Untouched,
    /// The page is at least as new as the record.
    Older,
    /// The page was never initialised; as in Postgres the record is skipped. Legal if the
    /// relation was truncated or dropped later, worth a log line otherwise.
    NewPage,
}

/// How often each [`Outcome`] occurred.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Images restored.
    pub images: u64,
    /// Changes applied.
    pub changed: u64,
    /// Records without effect on the page.
    pub untouched: u64,
    /// Records the page already contained.
    pub older: u64,
    /// Records skipped because the page was never initialised.
    pub new_page: u64,
}

impl Stats {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Outcome) {
        let n = match outcome {
            Outcome::Image => &mut self.images,
            Outcome::Changed => &mut self.changed,
            Outcome::Untouched => &mut self.untouched,
            Outcome::Older => &mut self.older,
            Outcome::NewPage => &mut self.new_page,
        };
        *n += 1;
    }

    /// Records seen.
    pub const fn records(&self) -> u64 {
        self.images + self.changed + self.untouched + self.older + self.new_page
    }
}

/// Rebuilds `key` in `out` from an optional base (8192 bytes, or 8200 for the commit log) and
/// the records after it, oldest first, each with its end LSN.
///
/// Without a base, visibility-map and free-space-map pages start from zeros; any other page
/// needs a first record that rebuilds it. `out` is undefined after an error.
pub fn reconstruct<'a>(
    key: &Key,
    base: Option<&[u8]>,
    records: impl IntoIterator<Item = (Lsn, &'a WalRecord)>,
    dialect: &Dialect,
    out: &mut PageBuf,
) -> Result<Stats, Error> {
    out.clear();
    if let Some(base) = base {
        let slru = matches!(key.kind(), Kind::SlruBlock { .. });
        if (base.len() == MAX_LEN && !slru) || !out.set(base) {
            return Err(Error::BaseSize {
                key: *key,
                len: base.len(),
            });
        }
    }
    let mut stats = Stats::default();
    for (lsn, rec) in records {
        stats.count(apply(out, key, lsn, rec, dialect)?);
    }
    if out.is_empty() {
        zero_base(out, key).ok_or(Error::MissingBase {
            lsn: Lsn::INVALID,
            key: *key,
        })?;
    }
    Ok(stats)
}

/// Applies one record, which ends at `lsn`, to the page of `key` in `buf`; an empty `buf` means
/// there is no base.
pub fn apply(
    buf: &mut PageBuf,
    key: &Key,
    lsn: Lsn,
    rec: &WalRecord,
    dialect: &Dialect,
) -> Result<Outcome, Error> {
    match key.kind() {
        Kind::RelBlock { rel, block } => match rec {
            WalRecord::Postgres { rec, .. } => apply_postgres(buf, key, lsn, rec, dialect),
            internal => vm::internal(buf, key, rel, block, lsn, internal),
        },
        Kind::SlruBlock {
            kind,
            segment,
            block,
        } => slru::internal(buf, key, (kind, segment, block), lsn, rec),
        _ => Err(Error::NotAPage { key: *key }),
    }
}

/// Applies one raw Postgres record, which ends at `lsn`, to the page of `key` in `buf`.
pub fn apply_postgres(
    buf: &mut PageBuf,
    key: &Key,
    lsn: Lsn,
    raw: &[u8],
    dialect: &Dialect,
) -> Result<Outcome, Error> {
    let mut rec = Record::empty();
    rec.parse_into(raw, dialect.version)
        .map_err(|source| Error::Record {
            lsn,
            key: *key,
            source,
        })?;
    apply_parsed(buf, key, lsn, &rec, dialect)
}

/// Applies one parsed Postgres record, which ends at `lsn`, to the page of `key` in `buf`.
pub fn apply_parsed(
    buf: &mut PageBuf,
    key: &Key,
    lsn: Lsn,
    rec: &Record<'_>,
    dialect: &Dialect,
) -> Result<Outcome, Error> {
    let Kind::RelBlock { rel, block } = key.kind() else {
        return Err(Error::NotAPage { key: *key });
    };
    let (rmid, info) = (rec.header.rmid, rec.header.info);
    let Some(target) = rec.blocks.iter().find(|b| b.block == block && b.rel == rel) else {
        return Err(Error::NotReferenced {
            lsn,
            key: *key,
            rmid,
            info,
        });
    };
    let cx = Context {
        rec,
        block: target,
        lsn,
        dialect: *dialect,
    };
    let wrap = |fault| match fault {
        Fault::Unsupported => Error::Unsupported {
            lsn,
            key: *key,
            rmid,
            info,
        },
        fault => Error::Action {
            lsn,
            key: *key,
            rmid,
            info,
            block: target.id,
            fault,
        },
    };

    if let Some(image) = target.image.filter(|i| i.apply) {
        let mut page = buf.overwrite();
        image::restore(&image, page.bytes_mut()).map_err(|source| Error::Image {
            lsn,
            key: *key,
            rmid,
            info,
            source,
        })?;
        if !page.is_new() {
            page.set_lsn(lsn);
        }
        after_image(&cx, &mut page).map_err(wrap)?;
        return Ok(Outcome::Image);
    }

    if target.will_init {
        buf.zero();
    } else if buf.is_empty() {
        zero_base(buf, key).ok_or(Error::MissingBase { lsn, key: *key })?;
    }
    let Some(bytes) = buf.page_mut() else {
        return Err(Error::MissingBase { lsn, key: *key });
    };
    let mut page = Page::new(bytes);
    if !target.will_init {
        if page.is_new() && !initialises_itself(rec, target) {
            return Ok(Outcome::NewPage);
        }
        if page.lsn() >= lsn {
            return Ok(Outcome::Older);
        }
    }
    match dispatch(&cx, &mut page).map_err(wrap)? {
        Effect::Changed => {
            page.set_lsn(lsn);
            Ok(Outcome::Changed)
        }
        Effect::Unlogged => Ok(Outcome::Changed),
        Effect::Untouched => Ok(Outcome::Untouched),
    }
}

/// Map pages come into being without WAL; their missing base is a page of zeros.
fn zero_base(buf: &mut PageBuf, key: &Key) -> Option<()> {
    match key.kind() {
        Kind::RelBlock {
            rel:
                RelTag {
                    fork: Fork::Vm | Fork::Fsm,
                    ..
                },
            ..
        } => {
            buf.zero();
            Some(())
        }
        _ => None,
    }
}

/// The one action that starts from a page of zeros without WILL_INIT: VISIBLE on its map page.
fn initialises_itself(rec: &Record<'_>, target: &Block<'_>) -> bool {
    rec.header.rmid == rmid::HEAP2 && rec.op() & 0x70 == heap::VISIBLE && target.id == 0
}

/// The redo action of a record. A new resource manager is added here.
fn dispatch(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    match cx.rec.header.rmid {
        rmid::HEAP => heap::redo(cx, page),
        rmid::HEAP2 => heap::redo2(cx, page),
        rmid::NEON => heap::redo_neon(cx, page),
        rmid::BTREE => btree::redo(cx, page),
        rmid::HASH => hash::redo(cx, page),
        rmid::GIN => gin::redo(cx, page),
        rmid::GIST => gist::redo(cx, page),
        rmid::SPGIST => spgist::redo(cx, page),
        rmid::BRIN => brin::redo(cx, page),
        rmid::SEQ => sequence::redo(cx, page),
        rmid::GENERIC => generic::redo(cx, page),
        rmid::XLOG => full_page_image(cx),
        _ => Err(Fault::Unsupported),
    }
}

/// Changes that follow even a restored image, because the image was taken before them.
fn after_image(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    match cx.rec.header.rmid {
        rmid::HASH => hash::after_image(cx, page),
        rmid::GIST => gist::after_image(cx, page),
        _ => Ok(()),
    }
}

/// FPI_FOR_HINT written with `full_page_writes = off` has no image and no effect.
fn full_page_image(cx: &Context<'_>) -> Result<Effect, Fault> {
    match cx.op() {
        0xA0 => Ok(Effect::Untouched),
        0xB0 => Err(Fault::Rule("a full-page image record without its image")),
        _ => Err(Fault::Unsupported),
    }
}

/// Number of the page an SLRU key names.
pub(crate) const fn slru_page(segment: u32, block: BlockNumber) -> u64 {
    segment as u64 * types::rel::SLRU_PAGES_PER_SEGMENT as u64 + block as u64
}

const _: () = assert!(MAX_LEN == PAGE_SIZE + 8);
