//! The engine: which record does what to which page.

use crate::action::{Context, Effect};
use crate::buf::{MAX_LEN, PageBuf};
use crate::error::{Error, Fault};
use crate::page::Page;
use crate::{brin, btree, generic, gin, gist, hash, heap, sequence, slru, spgist, vm};
use pg_wal::record::{Header, rmid};
use pg_wal::{View, image};
use types::key::Kind;
use types::{
    BlockNumber, Flavour, Fork, Key, Lsn, PAGE_SIZE, PgMajor, RelTag, SlruKind, WalRecord,
};

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
    let target = Target::of(key)?;
    out.clear();
    if let Some(base) = base {
        let slru = matches!(target, Target::Slru { .. });
        if (base.len() == MAX_LEN && !slru) || !out.set(base) {
            return Err(Error::BaseSize {
                key: *key,
                len: base.len(),
            });
        }
    }
    let mut stats = Stats::default();
    for (lsn, rec) in records {
        stats.count(target.apply(out, key, lsn, rec, dialect)?);
    }
    if out.is_empty() {
        target.zero_base(out).ok_or(Error::MissingBase {
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
    Target::of(key)?.apply(buf, key, lsn, rec, dialect)
}

/// Applies one raw Postgres record, which ends at `lsn`, to the page of `key` in `buf`.
pub fn apply_postgres(
    buf: &mut PageBuf,
    key: &Key,
    lsn: Lsn,
    raw: &[u8],
    dialect: &Dialect,
) -> Result<Outcome, Error> {
    match Target::of(key)? {
        target @ Target::Rel { rel, block } => {
            target.postgres(buf, key, (rel, block), lsn, raw, dialect)
        }
        Target::Slru { .. } => Err(Error::NotAPage { key: *key }),
    }
}

/// The page a key names.
#[derive(Clone, Copy, Debug)]
enum Target {
    Rel {
        rel: RelTag,
        block: BlockNumber,
    },
    Slru {
        kind: SlruKind,
        segment: u32,
        block: BlockNumber,
    },
}

impl Target {
    fn of(key: &Key) -> Result<Target, Error> {
        match key.kind() {
            Kind::RelBlock { rel, block } => Ok(Target::Rel { rel, block }),
            Kind::SlruBlock {
                kind,
                segment,
                block,
            } => Ok(Target::Slru {
                kind,
                segment,
                block,
            }),
            _ => Err(Error::NotAPage { key: *key }),
        }
    }

    #[inline]
    fn apply(
        self,
        buf: &mut PageBuf,
        key: &Key,
        lsn: Lsn,
        rec: &WalRecord,
        dialect: &Dialect,
    ) -> Result<Outcome, Error> {
        match (self, rec) {
            (Target::Rel { rel, block }, WalRecord::Postgres { rec, .. }) => {
                self.postgres(buf, key, (rel, block), lsn, rec, dialect)
            }
            (Target::Rel { rel, block }, rec) => vm::internal(buf, key, rel, block, lsn, rec),
            (
                Target::Slru {
                    kind,
                    segment,
                    block,
                },
                rec,
            ) => slru::internal(buf, key, (kind, segment, block), lsn, rec),
        }
    }

    fn postgres(
        self,
        buf: &mut PageBuf,
        key: &Key,
        page: (RelTag, BlockNumber),
        lsn: Lsn,
        raw: &[u8],
        dialect: &Dialect,
    ) -> Result<Outcome, Error> {
        // The block number alone rules most references out.
        let found = View::find(raw, dialect.version, |_, rel, block| {
            block == page.1 && rel == page.0
        });
        let rec = match found {
            Ok(Some(rec)) => rec,
            Ok(None) => return Err(not_referenced(key, lsn, raw)),
            Err(source) => {
                return Err(Error::Record {
                    lsn,
                    key: *key,
                    source,
                });
            }
        };
        let cx = Context {
            rec: &rec,
            lsn,
            dialect: *dialect,
        };
        let (rmid, info, id) = (rec.header.rmid, rec.header.info, rec.block.id);
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
                block: id,
                fault,
            },
        };

        if let Some(image) = rec.block.image.filter(|i| i.apply) {
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

        let mut page = if rec.block.will_init {
            Page::blank(buf.zero())
        } else {
            if buf.is_empty() {
                self.zero_base(buf)
                    .ok_or(Error::MissingBase { lsn, key: *key })?;
            }
            let Some(bytes) = buf.page_mut() else {
                return Err(Error::MissingBase { lsn, key: *key });
            };
            let page = Page::new(bytes);
            if page.is_new() && !initialises_itself(&rec) {
                return Ok(Outcome::NewPage);
            }
            if page.lsn() >= lsn {
                return Ok(Outcome::Older);
            }
            page
        };
        match dispatch(&cx, &mut page).map_err(wrap)? {
            Effect::Changed => {
                page.set_lsn(lsn);
                Ok(Outcome::Changed)
            }
            Effect::Unlogged => Ok(Outcome::Changed),
            // The page is gone already.
            Effect::Untouched if rec.block.will_init => Err(wrap(Fault::Rule(
                "a page started anew and nothing put on it",
            ))),
            Effect::Untouched => Ok(Outcome::Untouched),
        }
    }

    /// Map pages come into being without WAL; their missing base is a page of zeros.
    fn zero_base(self, buf: &mut PageBuf) -> Option<()> {
        match self {
            Target::Rel {
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
}

#[cold]
fn not_referenced(key: &Key, lsn: Lsn, raw: &[u8]) -> Error {
    match Header::parse(raw) {
        Ok(Header { rmid, info, .. }) => Error::NotReferenced {
            lsn,
            key: *key,
            rmid,
            info,
        },
        Err(short) => Error::Record {
            lsn,
            key: *key,
            source: short.into(),
        },
    }
}

/// The one action that starts from a page of zeros without WILL_INIT: VISIBLE on its map page.
fn initialises_itself(rec: &View<'_>) -> bool {
    rec.header.rmid == rmid::HEAP2 && rec.op() & 0x70 == heap::VISIBLE && rec.block.id == 0
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
