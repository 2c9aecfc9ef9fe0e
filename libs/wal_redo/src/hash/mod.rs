//! Redo of hash index records (`docs/format/redo.md`, "Hash"; Postgres headers `access/hash.h` and
//! `access/hash_xlog.h`).
//!
//! [`meta`] has the metapage with the allocation arithmetic; buckets and bitmaps are here.

mod meta;
#[cfg(test)]
mod tests;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, NO_BLOCK, Offsets, take_offsets, take_padded_tuple};
use crate::page::{HEADER_SIZE, Page, Place};
use pg_wal::cursor::Cursor;
use types::PgMajor;

const INIT_META_PAGE: u8 = 0x00;
const INIT_BITMAP_PAGE: u8 = 0x10;
const INSERT: u8 = 0x20;
const ADD_OVFL_PAGE: u8 = 0x30;
const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
const SPLIT_PAGE: u8 = 0x50;
const SPLIT_COMPLETE: u8 = 0x60;
const MOVE_PAGE_CONTENTS: u8 = 0x70;
const SQUEEZE_PAGE: u8 = 0x80;
const DELETE: u8 = 0x90;
const SPLIT_CLEANUP: u8 = 0xA0;
const UPDATE_META_PAGE: u8 = 0xB0;
const VACUUM_ONE_PAGE: u8 = 0xC0;

const UNUSED: u16 = 0x00;
const OVERFLOW: u16 = 0x01;
const BITMAP: u16 = 0x04;
const META: u16 = 0x08;
const NEEDS_SPLIT_CLEANUP: u16 = 0x40;
const HAS_DEAD_TUPLES: u16 = 0x80;

const SPECIAL_SIZE: u16 = 16;
const PREV: usize = 0;
const NEXT: usize = 4;
const BUCKET: usize = 8;
const FLAGS: usize = 12;
const PAGE_ID: usize = 14;
/// Marks a page as one of a hash index.
const HASH_PAGE_ID: u16 = 0xFF80;

/// Replays a hash index record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let mut c = Cursor::new(cx.main(), "hash record");
    match (cx.op(), cx.block().id) {
        (INIT_META_PAGE, 0) => meta::init(&mut c, page)?,
        (INIT_BITMAP_PAGE, 0) | (ADD_OVFL_PAGE, 3) => init_bitmap(page, c.u16()?)?,
        (INIT_BITMAP_PAGE, 1) => meta::add_first_bitmap(page)?,
        (INSERT, 0) => {
            special(page)?;
            page.add(cx.data(), c.u16()?, Place::Shift)?;
        }
        (INSERT, 1) => meta::add_tuples(page, 1.0)?,
        (ADD_OVFL_PAGE, 0) => init(page, cx.blk(1)?, NO_BLOCK, data_u32(cx)?, OVERFLOW)?,
        (ADD_OVFL_PAGE, 1) => set_u32(page, NEXT, cx.blk(0)?)?,
        (ADD_OVFL_PAGE, 2) => set_bit(page, data_u32(cx)?, true)?,
        (ADD_OVFL_PAGE, 4) => {
            c.skip(2)?;
            let found = c.u8()? != 0;
            let bitmap = if cx.has(3) { Some(cx.blk(3)?) } else { None };
            meta::add_overflow(page, data_u32(cx)?, found, bitmap)?;
        }
        (SPLIT_ALLOCATE_PAGE, 0) | (SPLIT_COMPLETE, 0 | 1) => split_flags(cx, page)?,
        (SPLIT_ALLOCATE_PAGE, 1) => {
            let bucket = c.u32()?;
            c.skip(2)?;
            init(page, bucket, NO_BLOCK, bucket, c.u16()?)?;
        }
        (SPLIT_ALLOCATE_PAGE, 2) => {
            let bucket = c.u32()?;
            c.skip(4)?;
            meta::add_bucket(page, bucket, c.u8()?, cx.data())?;
        }
        (SPLIT_PAGE, 0) => {
            return Err(Fault::Rule(
                "the record consists of a page image and it is missing",
            ));
        }
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE | DELETE, 0) => return Ok(Effect::Untouched),
        (MOVE_PAGE_CONTENTS, 1) => insert_list(cx, page, c.u16()?)?,
        (MOVE_PAGE_CONTENTS, 2) => delete_list(cx, page)?,
        (SQUEEZE_PAGE, id) => return squeeze(cx, page, id),
        (DELETE, 1) => {
            delete_list(cx, page)?;
            if c.u8()? != 0 {
                clear_flags(page, HAS_DEAD_TUPLES)?;
            }
        }
        (SPLIT_CLEANUP, 0) => clear_flags(page, NEEDS_SPLIT_CLEANUP)?,
        (UPDATE_META_PAGE, 0) => meta::set_tuples(page, f64::from_le_bytes(c.array()?))?,
        (VACUUM_ONE_PAGE, id @ (0 | 1)) => vacuum_one_page(cx, page, id)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

/// The changes that follow even a restored image: the flags of buckets in a split.
pub(crate) fn after_image(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    match (cx.op(), cx.block().id) {
        (SPLIT_ALLOCATE_PAGE, 0) | (SPLIT_COMPLETE, 0 | 1) => split_flags(cx, page),
        _ => Ok(()),
    }
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

fn set_u32(page: &mut Page<'_>, field: usize, v: u32) -> Result<(), Fault> {
    let at = special(page)? + field;
    Ok(page.put_u32(at, v)?)
}

fn set_flags(page: &mut Page<'_>, flags: u16) -> Result<(), Fault> {
    let at = special(page)? + FLAGS;
    Ok(page.put_u16(at, flags)?)
}

fn clear_flags(page: &mut Page<'_>, flags: u16) -> Result<(), Fault> {
    let at = special(page)? + FLAGS;
    let old = page.u16_at(at)?;
    Ok(page.put_u16(at, old & !flags)?)
}

/// The only number in the block data.
fn data_u32(cx: &Context<'_>) -> Result<u32, Fault> {
    Ok(Cursor::new(cx.data(), "hash block data").u32()?)
}

fn init(page: &mut Page<'_>, prev: u32, next: u32, bucket: u32, flags: u16) -> Result<(), Fault> {
    page.init(SPECIAL_SIZE);
    set_u32(page, PREV, prev)?;
    set_u32(page, NEXT, next)?;
    set_u32(page, BUCKET, bucket)?;
    set_flags(page, flags)?;
    let at = special(page)? + PAGE_ID;
    Ok(page.put_u16(at, HASH_PAGE_ID)?)
}

/// A bitmap of `size` bytes with every overflow page in use.
fn init_bitmap(page: &mut Page<'_>, size: u16) -> Result<(), Fault> {
    init(page, NO_BLOCK, NO_BLOCK, NO_BLOCK, BITMAP)?;
    let end = HEADER_SIZE + usize::from(size);
    if end > special(page)? {
        return Err(Fault::Rule("bitmap larger than a page"));
    }
    page.range_mut(HEADER_SIZE, usize::from(size))?.fill(0xFF);
    page.set_lower(end as u16);
    Ok(())
}

fn set_bit(page: &mut Page<'_>, bit: u32, on: bool) -> Result<(), Fault> {
    let end = special(page)?;
    let at = usize::try_from(bit / 32)
        .unwrap_or(usize::MAX)
        .saturating_mul(4);
    let at = at.saturating_add(HEADER_SIZE);
    if at.saturating_add(4) > end {
        return Err(Fault::Rule("bit outside the bitmap"));
    }
    let (word, mask) = (page.u32_at(at)?, 1 << (bit % 32));
    Ok(page.put_u32(at, if on { word | mask } else { word & !mask })?)
}

fn split_flags(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "hash split");
    if cx.op() == SPLIT_ALLOCATE_PAGE {
        let bucket = c.u32()?;
        set_u32(page, PREV, bucket)?;
    } else if cx.block().id == 1 {
        c.skip(2)?;
    }
    set_flags(page, c.u16()?)
}

/// Adds `count` tuples under the offset numbers at the start of the block data.
fn insert_list(cx: &Context<'_>, page: &mut Page<'_>, count: u16) -> Result<(), Fault> {
    special(page)?;
    let mut c = Cursor::new(cx.data(), "hash moved tuples");
    for off in take_offsets(&mut c, count)?.iter() {
        page.add(take_padded_tuple(&mut c)?, off, Place::Shift)?;
    }
    Ok(())
}

/// Removes the items the block data lists.
fn delete_list(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    special(page)?;
    Offsets::new(cx.data())?.delete_from(page)
}

fn squeeze(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<Effect, Fault> {
    let mut c = Cursor::new(cx.main(), "hash squeeze");
    let (prev, next, tuples) = (c.u32()?, c.u32()?, c.u16()?);
    c.skip(1)?;
    let prev_is_same = c.u8()? != 0;
    match id {
        1 if cx.version() >= PgMajor::V17 && tuples == 0 && !prev_is_same => {
            return Ok(Effect::Untouched);
        }
        1 => {
            insert_list(cx, page, tuples)?;
            if prev_is_same {
                set_u32(page, NEXT, next)?;
            }
        }
        2 => init(page, NO_BLOCK, NO_BLOCK, NO_BLOCK, UNUSED)?,
        3 => set_u32(page, NEXT, next)?,
        4 => set_u32(page, PREV, prev)?,
        5 => set_bit(page, data_u32(cx)?, false)?,
        6 => meta::set_first_free(page, data_u32(cx)?)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

fn vacuum_one_page(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "hash page vacuum");
    c.skip(4)?;
    // Before 16 the count has 4 bytes, since then 2 and a flag follows: the list stays in place.
    let count = if cx.version() >= PgMajor::V16 {
        let count = c.u16()?;
        c.align(4)?;
        count
    } else {
        u16::try_from(c.i32()?).map_err(|_| Fault::Rule("number of dead tuples out of range"))?
    };
    if id == 1 {
        return meta::add_tuples(page, -f64::from(count));
    }
    special(page)?;
    take_offsets(&mut c, count)?.delete_from(page)?;
    clear_flags(page, HAS_DEAD_TUPLES)
}
