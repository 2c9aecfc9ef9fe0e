//! Visibility-map bits cleared by heap records (`access/heapam_xlog.h`).
//!
//! Heap records say in a flags byte of their main data that they cleared bits of the map. Where
//! the byte stands depends on who wrote the WAL. Newer minor releases also reference the map's
//! pages; that is visible in the block list, not here.

use super::Error;
use crate::record::{Record, rmid};
use types::{BlockNumber, Flavour, Fork, PgMajor, RelTag};

/// Heap blocks per visibility-map page.
pub const HEAP_BLOCKS_PER_VM_PAGE: u32 = 32672;
/// Map bit: every tuple is visible to all.
pub const ALL_VISIBLE: u8 = 1;
/// Map bit: every tuple is frozen.
pub const ALL_FROZEN: u8 = 2;

/// Bits of `xl_info` that name a heap record type.
pub const OP_MASK: u8 = 0x70;

const CLEARED: u8 = 0x01;
const CLEARED_NEW: u8 = 0x02;
const DELETE_HAS_OLD_TUPLE: u8 = 0x06;

/// Map bits that a record cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmClear {
    /// The heap.
    pub rel: RelTag,
    /// Heap block of the new tuple version, if its bits were cleared.
    pub new: Option<BlockNumber>,
    /// Heap block of the old tuple version, if its bits were cleared and it is another block.
    pub old: Option<BlockNumber>,
    /// The bits: [`ALL_VISIBLE`], [`ALL_FROZEN`].
    pub mask: u8,
    /// The record is an update: its map references, if any, name every page it changed.
    pub update: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    MultiInsert,
    Delete,
    Update,
    Lock,
    LockUpdated,
}

/// The map bits that a heap record cleared; `None` for records that clear nothing.
pub fn vm_clear(
    rec: &Record<'_>,
    version: PgMajor,
    flavour: Flavour,
) -> Result<Option<VmClear>, Error> {
    let long = flavour == Flavour::Neon && version <= PgMajor::V15;
    let Some((kind, at)) = flags_offset(rec, long, flavour) else {
        return Ok(None);
    };
    let what = match kind {
        Kind::Insert => "heap insert",
        Kind::MultiInsert => "heap multi-insert",
        Kind::Delete => "heap delete",
        Kind::Update => "heap update",
        Kind::Lock => "heap lock",
        Kind::LockUpdated => "heap lock of an updated tuple",
    };
    let flags = *rec.main.get(at).ok_or(crate::cursor::Short {
        what,
        at,
        wanted: 1,
        left: rec.main.len().saturating_sub(at),
    })?;
    if rec.header.rmid != rmid::NEON && version <= PgMajor::V15 {
        check_dialect(rec, kind, flags, long, what)?;
    }
    let (old, new, mask) = match kind {
        Kind::Insert | Kind::MultiInsert | Kind::Delete => {
            (false, flags & CLEARED != 0, ALL_VISIBLE | ALL_FROZEN)
        }
        Kind::Update => (
            flags & CLEARED != 0,
            flags & CLEARED_NEW != 0,
            ALL_VISIBLE | ALL_FROZEN,
        ),
        Kind::Lock | Kind::LockUpdated => (flags & CLEARED != 0, false, ALL_FROZEN),
    };
    if !old && !new {
        return Ok(None);
    }
    let first = rec.block(0).ok_or(Error::MissingBlock { what, id: 0 })?;
    let other = match kind {
        Kind::Update => rec
            .block(1)
            .filter(|b| b.rel.fork == Fork::Main)
            .unwrap_or(first),
        _ => first,
    };
    let new = new.then_some(first.block);
    let old = old.then_some(other.block).filter(|b| new != Some(*b));
    Ok(Some(VmClear {
        rel: first.rel.with_fork(Fork::Main),
        new,
        old,
        mask,
        update: kind == Kind::Update,
    }))
}

fn flags_offset(rec: &Record<'_>, long: bool, flavour: Flavour) -> Option<(Kind, usize)> {
    let op = rec.header.info & OP_MASK;
    let tail = if long { 13 } else { 7 };
    match (rec.header.rmid, op) {
        (rmid::HEAP, 0x00) => Some((Kind::Insert, 2)),
        (rmid::HEAP, 0x10) => Some((Kind::Delete, tail)),
        (rmid::HEAP, 0x20 | 0x40) => Some((Kind::Update, 7)),
        (rmid::HEAP, 0x60) => Some((Kind::Lock, tail)),
        (rmid::HEAP2, 0x50) => Some((Kind::MultiInsert, 0)),
        (rmid::HEAP2, 0x60) => Some((Kind::LockUpdated, 7)),
        (rmid::NEON, op) if flavour == Flavour::Neon => match op {
            0x00 => Some((Kind::Insert, 2)),
            0x10 => Some((Kind::Delete, 7)),
            0x20 | 0x30 => Some((Kind::Update, 7)),
            0x40 => Some((Kind::Lock, 11)),
            0x50 => Some((Kind::MultiInsert, 0)),
            _ => None,
        },
        _ => None,
    }
}

/// A lock has a fixed length in each dialect, and so has a delete without an old tuple.
fn check_dialect(
    rec: &Record<'_>,
    kind: Kind,
    flags: u8,
    long: bool,
    what: &'static str,
) -> Result<(), Error> {
    let fixed = match kind {
        Kind::Lock => true,
        Kind::Delete => flags & DELETE_HAS_OLD_TUPLE == 0,
        _ => false,
    };
    let expected = if long { 14 } else { 8 };
    if fixed && rec.main.len() != expected {
        let dialect = if long { "Neon" } else { "unmodified Postgres" };
        return Err(Error::Dialect {
            what,
            actual: rec.main.len(),
            expected,
            dialect,
        });
    }
    Ok(())
}
