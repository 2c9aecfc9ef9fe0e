//! What two copies of a page may differ in: bits Postgres changes without WAL.
//!
//! [`for_consistency`] is Postgres's own mask for `wal_consistency_checking`, plus one GiST flag
//! that Postgres forgets. [`Level::Strict`] hides less: it holds for every page seen so far and shows
//! differences in hint-free infomask bits, `PD_ALL_VISIBLE` and the visibility map.
//! Masked bytes become zero. Apply the same mask to both pages, then compare bytes.

use crate::page::{
    self, HEADER_SIZE, LinePointer, PD_ALL_VISIBLE, PD_HAS_FREE_LINES, PD_PAGE_FULL, Page,
};
use pg_wal::record::rmid;
use types::{BlockNumber, Fork, Lsn, PAGE_SIZE};

/// Which mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// As Postgres masks.
    Consistency,
    /// Only what is known to differ.
    Strict,
}

/// What is on a page, which decides how it is masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Heap page.
    Heap,
    /// Visibility map.
    VisibilityMap,
    /// B-tree.
    Btree,
    /// Hash index.
    Hash,
    /// GIN index.
    Gin,
    /// GiST index.
    Gist,
    /// SP-GiST index.
    SpGist,
    /// BRIN index.
    Brin,
    /// Sequence or generic WAL.
    Plain,
    /// Page without a mask of its own: only LSN and checksum are hidden.
    Opaque,
}

impl Kind {
    /// The kind of page that a resource manager's records change on a fork; `None` if the
    /// manager has no pages.
    pub const fn of(rm: u8, fork: Fork) -> Option<Kind> {
        Some(match rm {
            rmid::HEAP | rmid::HEAP2 | rmid::NEON => match fork {
                Fork::Vm => Kind::VisibilityMap,
                _ => Kind::Heap,
            },
            rmid::BTREE => Kind::Btree,
            rmid::HASH => Kind::Hash,
            rmid::GIN => Kind::Gin,
            rmid::GIST => Kind::Gist,
            rmid::SPGIST => Kind::SpGist,
            rmid::BRIN => Kind::Brin,
            rmid::SEQ | rmid::GENERIC => Kind::Plain,
            rmid::XLOG => Kind::Opaque,
            _ => return None,
        })
    }

    /// A guess from the page itself, for pages read from files. Pages with an 8-byte special
    /// space and no mark of their own are taken for GIN.
    pub fn guess(bytes: &[u8; PAGE_SIZE], fork: Fork) -> Kind {
        match fork {
            Fork::Vm => return Kind::VisibilityMap,
            Fork::Fsm => return Kind::Opaque,
            Fork::Main | Fork::Init => {}
        }
        let mut copy = *bytes;
        let page = Page::new(&mut copy);
        let Ok(special) = page.special() else {
            return Kind::Opaque;
        };
        let last = special.last_chunk::<2>().map(|b| u16::from_le_bytes(*b));
        let magic = special.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
        match (special.len(), last) {
            (0, _) => Kind::Heap,
            (16, Some(0xFF80)) => Kind::Hash,
            (16, Some(0xFF81)) => Kind::Gist,
            (16, _) => Kind::Btree,
            (8, Some(0xFF82)) => Kind::SpGist,
            (8, Some(0xF091..=0xF093)) => Kind::Brin,
            (8, _) if magic == Some(0x1717) => Kind::Plain,
            (8, _) => Kind::Gin,
            _ => Kind::Opaque,
        }
    }
}

/// Masks a page as Postgres does before it compares. Fails on a page whose header is corrupt.
pub fn for_consistency(
    rm: u8,
    fork: Fork,
    block: BlockNumber,
    bytes: &mut [u8; PAGE_SIZE],
) -> Result<(), page::Error> {
    match Kind::of(rm, fork) {
        Some(kind) => page(kind, Level::Consistency, block, bytes),
        None => Ok(()),
    }
}

/// Masks a page of a known kind. Fails on a page whose header is corrupt; pages that were never
/// initialised stay as they are.
pub fn page(
    kind: Kind,
    level: Level,
    block: BlockNumber,
    bytes: &mut [u8; PAGE_SIZE],
) -> Result<(), page::Error> {
    let mut page = Page::new(bytes);
    if page.is_new() {
        return Ok(());
    }
    lsn_and_checksum(&mut page)?;
    match kind {
        Kind::Opaque => Ok(()),
        Kind::Plain => unused_space(&mut page),
        Kind::VisibilityMap if level == Level::Strict => Ok(()),
        Kind::Heap | Kind::VisibilityMap => heap(&mut page, level, block),
        Kind::Btree => btree(&mut page),
        Kind::Hash => hash(&mut page),
        Kind::Gin => gin(&mut page),
        Kind::Gist => gist(&mut page),
        Kind::SpGist => {
            hint_bits(&mut page, Level::Consistency);
            if usize::from(page.lower()) >= HEADER_SIZE {
                unused_space(&mut page)
            } else {
                Ok(())
            }
        }
        Kind::Brin => brin(&mut page),
    }
}

fn lsn_and_checksum(page: &mut Page<'_>) -> Result<(), page::Error> {
    page.set_lsn(Lsn::INVALID);
    page.put_u16(8, 0)
}

/// Prune hint and page flags.
fn hint_bits(page: &mut Page<'_>, level: Level) {
    page.set_prune_xid(0);
    let keep = if level == Level::Strict {
        PD_ALL_VISIBLE
    } else {
        0
    };
    page.change_flags(
        (PD_HAS_FREE_LINES | PD_PAGE_FULL | PD_ALL_VISIBLE) & !keep,
        0,
    );
}

fn unused_space(page: &mut Page<'_>) -> Result<(), page::Error> {
    page.check()?;
    let (lower, upper) = (usize::from(page.lower()), usize::from(page.upper()));
    page.range_mut(lower, upper.saturating_sub(lower))?.fill(0);
    Ok(())
}

/// Dead marks on index entries are hints.
fn line_pointer_flags(page: &mut Page<'_>) -> Result<(), page::Error> {
    for off in 1..=page.max_offset() {
        let lp = page.line_pointer(off)?;
        if !lp.is_unused() {
            page.set_line_pointer(off, LinePointer::new(lp.offset(), 0, lp.len()))?;
        }
    }
    Ok(())
}

/// Everything but the header's size fields.
fn content(page: &mut Page<'_>) -> Result<(), page::Error> {
    page.range_mut(HEADER_SIZE, PAGE_SIZE - HEADER_SIZE)?
        .fill(0);
    page.set_lower(0);
    page.set_upper(0);
    Ok(())
}

fn heap(page: &mut Page<'_>, level: Level, block: BlockNumber) -> Result<(), page::Error> {
    const FROZEN: u16 = 0x0300;
    const SPECULATIVE: u16 = 0xFFFE;
    hint_bits(page, level);
    unused_space(page)?;
    let (frozen_mask, mask) = match level {
        Level::Consistency => (0x0C00, 0xFFF0),
        Level::Strict => (0x0C20, 0x0F20),
    };
    for off in 1..=page.max_offset() {
        let lp = page.line_pointer(off)?;
        if lp.is_empty() {
            continue;
        }
        let at = usize::from(lp.offset());
        if lp.is_normal() {
            let infomask = page.u16_at(at + 20)?;
            let hidden = if infomask & FROZEN == FROZEN {
                frozen_mask
            } else {
                mask
            };
            page.put_u16(at + 20, infomask & !hidden)?;
            page.put_u32(at + 8, 0)?;
            if page.u16_at(at + 16)? == SPECULATIVE {
                page.put_u16(at + 12, (block >> 16) as u16)?;
                page.put_u16(at + 14, (block & 0xFFFF) as u16)?;
                page.put_u16(at + 16, off)?;
            }
        }
        let end = at + usize::from(lp.len());
        page.range_mut(end, page::align8(end) - end)?.fill(0);
    }
    Ok(())
}

/// The flags word of a special space of at least 16 bytes.
fn special16(page: &Page<'_>, at: usize) -> Result<(usize, u16), page::Error> {
    let at = usize::from(page.special_offset()) + at;
    Ok((at, page.u16_at(at)?))
}

fn btree(page: &mut Page<'_>) -> Result<(), page::Error> {
    const LEAF: u16 = 0x01;
    const SPLIT_END: u16 = 0x20;
    const HAS_GARBAGE: u16 = 0x40;
    hint_bits(page, Level::Consistency);
    unused_space(page)?;
    let (at, flags) = special16(page, 12)?;
    if flags & LEAF != 0 {
        line_pointer_flags(page)?;
    }
    page.put_u16(at, flags & !(HAS_GARBAGE | SPLIT_END))?;
    page.put_u16(at + 2, 0)
}

fn hash(page: &mut Page<'_>) -> Result<(), page::Error> {
    const PAGE_TYPE: u16 = 0x0F;
    const BUCKET_OR_OVERFLOW: u16 = 0x03;
    const HAS_DEAD_TUPLES: u16 = 0x80;
    hint_bits(page, Level::Consistency);
    unused_space(page)?;
    let (at, flags) = special16(page, 12)?;
    if flags & PAGE_TYPE == 0 {
        // An unused page: whatever it held does not matter, not even its special space.
        return content(page);
    }
    if flags & BUCKET_OR_OVERFLOW != 0 {
        line_pointer_flags(page)?;
    }
    page.put_u16(at, flags & !HAS_DEAD_TUPLES)
}

fn gin(page: &mut Page<'_>) -> Result<(), page::Error> {
    const DELETED: u16 = 0x04;
    hint_bits(page, Level::Consistency);
    let (_, flags) = special16(page, 6)?;
    if flags & DELETED != 0 {
        return content(page);
    }
    if usize::from(page.lower()) > HEADER_SIZE {
        unused_space(page)
    } else {
        Ok(())
    }
}

fn gist(page: &mut Page<'_>) -> Result<(), page::Error> {
    const LEAF: u16 = 0x01;
    const TUPLES_DELETED: u16 = 0x04;
    const FOLLOW_RIGHT: u16 = 0x08;
    const HAS_GARBAGE: u16 = 0x10;
    hint_bits(page, Level::Consistency);
    unused_space(page)?;
    let (at, flags) = special16(page, 12)?;
    page.range_mut(usize::from(page.special_offset()), 8)?
        .fill(0);
    if flags & LEAF != 0 {
        line_pointer_flags(page)?;
    }
    page.put_u16(at, (flags | FOLLOW_RIGHT) & !(HAS_GARBAGE | TUPLES_DELETED))
}

fn brin(page: &mut Page<'_>) -> Result<(), page::Error> {
    const META: u16 = 0xF091;
    const REGULAR: u16 = 0xF093;
    const EVACUATE: u16 = 0x01;
    hint_bits(page, Level::Consistency);
    let (_, kind) = special16(page, 6)?;
    if kind == REGULAR || (kind == META && usize::from(page.lower()) > HEADER_SIZE) {
        unused_space(page)?;
    }
    let (at, flags) = special16(page, 4)?;
    page.put_u16(at, flags & !EVACUATE)
}
