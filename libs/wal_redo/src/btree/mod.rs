//! Redo of B-tree records (`docs/format/redo.md`, "B-tree"; Postgres headers `access/nbtree.h` and
//! `access/nbtxlog.h`).
//!
//! Inserts, deletions and everything about whole pages are here; [`rebuild`] has the records
//! that build a page anew from its old items, [`posting`] the tuples with several heap tids.
//! A page must have the 16-byte special space of a B-tree page before anything is read from it.

mod posting;
mod rebuild;
#[cfg(test)]
mod tests;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, take_offsets};
use crate::page::{HEADER_SIZE, MAX_INDEX_TUPLES, Page, Place, align8};
use pg_wal::cursor::Cursor;
use types::PgMajor;

const INSERT_LEAF: u8 = 0x00;
const INSERT_UPPER: u8 = 0x10;
const INSERT_META: u8 = 0x20;
const SPLIT_L: u8 = 0x30;
const SPLIT_R: u8 = 0x40;
const INSERT_POST: u8 = 0x50;
const DEDUP: u8 = 0x60;
const DELETE: u8 = 0x70;
const UNLINK_PAGE: u8 = 0x80;
const UNLINK_PAGE_META: u8 = 0x90;
const NEWROOT: u8 = 0xA0;
const MARK_PAGE_HALFDEAD: u8 = 0xB0;
const VACUUM: u8 = 0xC0;
const META_CLEANUP: u8 = 0xE0;

const LEAF: u16 = 0x01;
const ROOT: u16 = 0x02;
const DELETED: u16 = 0x04;
const META: u16 = 0x08;
const HALF_DEAD: u16 = 0x10;
const HAS_GARBAGE: u16 = 0x40;
const INCOMPLETE_SPLIT: u16 = 0x80;
const HAS_FULLXID: u16 = 0x100;

const SPECIAL_SIZE: u16 = 16;
const PREV: usize = 0;
const NEXT: usize = 4;
const LEVEL: usize = 8;
const FLAGS: usize = 12;
const CYCLE_ID: usize = 14;

/// "No sibling": block 0 is the metapage.
const NO_SIBLING: u32 = 0;
const MAGIC: u32 = 0x0005_3162;
/// Length of the metapage's contents in bytes.
const META_SIZE: u16 = 48;
/// Info bit of pivot and posting tuples: the tid field has another meaning.
const ALT_TID: u16 = 0x2000;

/// Replays a B-tree record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    match (cx.op(), cx.block().id) {
        (INSERT_LEAF | INSERT_UPPER | INSERT_META, 0) => {
            page.add(cx.data(), offnum(cx)?, Place::Shift)?;
        }
        (INSERT_POST, 0) => insert_post(cx, page)?,
        (INSERT_UPPER | INSERT_META, 1) | (NEWROOT, 1) | (SPLIT_L | SPLIT_R, 3) => {
            clear_flags(page, INCOMPLETE_SPLIT)?;
        }
        (INSERT_META, 2) | (UNLINK_PAGE_META, 4) | (NEWROOT, 2) | (META_CLEANUP, 0) => {
            restore_meta(cx.data(), page)?;
        }
        (SPLIT_L, 0) => rebuild::split_left(cx, page, true)?,
        (SPLIT_R, 0) => rebuild::split_left(cx, page, false)?,
        (SPLIT_L | SPLIT_R, 1) => split_right(cx, page)?,
        (SPLIT_L | SPLIT_R, 2) => set_link(page, PREV, cx.blk(1)?)?,
        (DEDUP, 0) => rebuild::dedup(cx, page)?,
        (DELETE, 0) => {
            let mut c = Cursor::new(cx.main(), "btree delete");
            c.skip(4)?;
            remove(cx, page, c.u16()?, c.u16()?)?;
        }
        (VACUUM, 0) => {
            let mut c = Cursor::new(cx.main(), "btree vacuum");
            remove(cx, page, c.u16()?, c.u16()?)?;
            if cx.version() >= PgMajor::V18 {
                let at = special(page)?;
                page.put_u16(at + CYCLE_ID, 0)?;
            }
        }
        (MARK_PAGE_HALFDEAD, id @ (0 | 1)) => mark_half_dead(cx, page, id)?,
        (UNLINK_PAGE | UNLINK_PAGE_META, id @ 0..=3) => unlink(cx, page, id)?,
        (NEWROOT, 0) => new_root(cx, page)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

fn offnum(cx: &Context<'_>) -> Result<u16, Fault> {
    Ok(Cursor::new(cx.main(), "btree insert").u16()?)
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

fn clear_flags(page: &mut Page<'_>, flags: u16) -> Result<(), Fault> {
    let at = special(page)? + FLAGS;
    let old = page.u16_at(at)?;
    Ok(page.put_u16(at, old & !flags)?)
}

fn set_link(page: &mut Page<'_>, field: usize, block: u32) -> Result<(), Fault> {
    let at = special(page)?;
    Ok(page.put_u32(at + field, block)?)
}

/// Makes an empty page; `level` 0 adds the LEAF flag.
fn init(page: &mut Page<'_>, prev: u32, next: u32, level: u32, flags: u16) -> Result<(), Fault> {
    page.init(SPECIAL_SIZE);
    let at = usize::from(page.special_offset());
    page.put_u32(at + PREV, prev)?;
    page.put_u32(at + NEXT, next)?;
    page.put_u32(at + LEVEL, level)?;
    let leaf = if level == 0 { LEAF } else { 0 };
    Ok(page.put_u16(at + FLAGS, flags | leaf)?)
}

/// Rebuilds the metapage from its logged fields.
fn restore_meta(data: &[u8], page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(data, "btree metadata");
    let fields = c.take(24)?;
    let all_equal_image = c.u8()?;
    page.init(SPECIAL_SIZE);
    page.put_u32(HEADER_SIZE, MAGIC)?;
    page.put(HEADER_SIZE + 4, fields)?;
    page.put(HEADER_SIZE + 32, &(-1.0f64).to_le_bytes())?;
    page.put(HEADER_SIZE + 40, &[all_equal_image])?;
    page.set_lower(HEADER_SIZE as u16 + META_SIZE);
    let at = special(page)?;
    Ok(page.put_u16(at + FLAGS, META)?)
}

/// Fills an empty page with items logged as a copy of its tuple space: the item with the
/// highest number stands first.
fn restore_items(data: &[u8], page: &mut Page<'_>) -> Result<(), Fault> {
    let mut count = 0u16;
    let mut c = Cursor::new(data, "btree page items");
    while c.left() > 0 {
        index::take_padded_tuple(&mut c)?;
        count += 1;
        if usize::from(count) > MAX_INDEX_TUPLES {
            return Err(Fault::Rule("more items than a B-tree page can have"));
        }
    }
    let lower = HEADER_SIZE + 4 * usize::from(count);
    let upper = usize::from(page.upper())
        .checked_sub(data.len())
        .filter(|upper| *upper >= lower)
        .ok_or(Fault::Rule("items do not fit the page"))?;
    page.put(upper, data)?;
    page.set_lower(lower as u16);
    page.set_upper(upper as u16);
    let mut c = Cursor::new(data, "btree page items");
    for off in (1..=count).rev() {
        let start = upper + c.position();
        let len = index::take_padded_tuple(&mut c)?.len();
        let lp = crate::page::LinePointer::new(
            start as u16,
            crate::page::LinePointer::NORMAL,
            len as u16,
        );
        page.set_line_pointer(off, lp)?;
    }
    Ok(())
}

/// Makes a half-dead leaf, whose only item names the topmost page of the branch to delete.
fn half_dead(page: &mut Page<'_>, left: u32, right: u32, top: u32) -> Result<(), Fault> {
    init(page, left, right, 0, HALF_DEAD)?;
    let [t0, t1, t2, t3, t4, t5] = index::tid(top, 0);
    let [i0, i1] = (8 | ALT_TID).to_le_bytes();
    Ok(page.add(&[t0, t1, t2, t3, t4, t5, i0, i1], 1, Place::Shift)?)
}

/// INSERT_POST: the new tid falls into the middle of a posting list, whose last tid moves to the
/// new item.
fn insert_post(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let off = offnum(cx)?;
    let mut c = Cursor::new(cx.data(), "btree posting split");
    let at = usize::from(c.u16()?);
    let new = c.rest();
    special(page)?;
    let old = page.item_mut(off.wrapping_sub(1))?;
    let last = posting::swap(old, posting::first_tid(new)?, at)?;
    let place = page.reserve(align8(index::tuple_len(new)?), off, Place::Shift)?;
    page.put(
        place,
        new.get(..align8(index::tuple_len(new)?))
            .ok_or(posting::TOO_SHORT)?,
    )?;
    Ok(page.put(place, &last)?)
}

/// SPLIT on the new right page.
fn split_right(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let level = Cursor::new(cx.main(), "btree split").u32()?;
    let next = if cx.has(2) { cx.blk(2)? } else { NO_SIBLING };
    init(page, cx.blk(0)?, next, level, 0)?;
    restore_items(cx.data(), page)
}

/// DELETE and VACUUM: shortens posting lists, then removes items.
fn remove(cx: &Context<'_>, page: &mut Page<'_>, deleted: u16, updated: u16) -> Result<(), Fault> {
    special(page)?;
    let mut c = Cursor::new(cx.data(), "btree deletion");
    let gone = take_offsets(&mut c, deleted)?;
    for off in take_offsets(&mut c, updated)?.iter() {
        let count = c.u16()?;
        let dropped = take_offsets(&mut c, count)?;
        let shorter = posting::without(page.item(off)?, dropped)?;
        page.overwrite(off, &shorter)?;
    }
    gone.delete_from(page)?;
    clear_flags(page, HAS_GARBAGE)
}

fn mark_half_dead(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "btree half-dead mark");
    let parent_off = c.u16()?;
    c.align(4)?;
    c.skip(4)?;
    let (left, right, top) = (c.u32()?, c.u32()?, c.u32()?);
    if id == 0 {
        return half_dead(page, left, right, top);
    }
    special(page)?;
    let next = parent_off
        .checked_add(1)
        .ok_or(Fault::Rule("offset number overflows"))?;
    let (child, _) = index::tuple_tid(page.item(next)?)?;
    let pivot = page.item_mut(parent_off)?;
    let (_, attributes) = index::tuple_tid(pivot)?;
    index::set_tuple_tid(pivot, child, attributes)?;
    Ok(page.delete(next)?)
}

fn unlink(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "btree unlink");
    let (left, right, level) = (c.u32()?, c.u32()?, c.u32()?);
    c.align(8)?;
    let safe_xid: [u8; 8] = c.array()?;
    let (leaf_left, leaf_right, leaf_top) = (c.u32()?, c.u32()?, c.u32()?);
    match id {
        0 => {
            init(page, left, right, level, DELETED | HAS_FULLXID)?;
            page.put(HEADER_SIZE, &safe_xid)?;
            page.set_lower(HEADER_SIZE as u16 + 8);
            Ok(())
        }
        1 => set_link(page, NEXT, right),
        2 => set_link(page, PREV, left),
        _ => half_dead(page, leaf_left, leaf_right, leaf_top),
    }
}

fn new_root(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "btree new root");
    c.skip(4)?;
    let level = c.u32()?;
    init(page, NO_SIBLING, NO_SIBLING, level, ROOT)?;
    if level > 0 {
        restore_items(cx.data(), page)
    } else {
        Ok(())
    }
}
