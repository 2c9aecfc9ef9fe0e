//! Redo of GiST records (`docs/format/redo.md`, "GiST"; Postgres headers `access/gist.h` and
//! `access/gistxlog.h`).
//!
//! The flag TUPLES_DELETED is never set here: nothing reads it, and Postgres releases disagree
//! about where they set it.

#[cfg(test)]
mod tests;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, NO_BLOCK, append, take_offsets, take_tuple};
use crate::page::{HEADER_SIZE, Page};
use pg_wal::cursor::Cursor;
use types::{Lsn, PgMajor};

const PAGE_UPDATE: u8 = 0x00;
const DELETE: u8 = 0x10;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;

const LEAF: u16 = 0x01;
const DELETED: u16 = 0x02;
const FOLLOW_RIGHT: u16 = 0x08;
const HAS_GARBAGE: u16 = 0x10;

const SPECIAL_SIZE: u16 = 16;
const NSN: usize = 0;
const RIGHT_LINK: usize = 8;
const FLAGS: usize = 12;
const PAGE_ID: usize = 14;
/// Marks a page as GiST.
const GIST_PAGE_ID: u16 = 0xFF81;
const ROOT_BLOCK: u32 = 0;

/// Replays a GiST record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    match (cx.op(), cx.block().id) {
        (PAGE_UPDATE, 0) => page_update(cx, page)?,
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(cx, page)?,
        (PAGE_SPLIT, _) => page_split(cx, page)?,
        (DELETE, 0) => delete(cx, page)?,
        (PAGE_DELETE, id @ (0 | 1)) => page_delete(cx, page, id)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

/// The change that follows even a restored image: the child of a finished split.
pub(crate) fn after_image(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    match (cx.op(), cx.block().id) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(cx, page),
        _ => Ok(()),
    }
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Result<(), Fault> {
    let at = special(page)? + FLAGS;
    let old = page.u16_at(at)?;
    Ok(page.put_u16(at, old & !clear | set)?)
}

fn set_nsn(page: &mut Page<'_>, nsn: Lsn) -> Result<(), Fault> {
    let at = special(page)? + NSN;
    // The high half stands first.
    Ok(page.put(at, &nsn.0.rotate_left(32).to_le_bytes())?)
}

fn finish_split(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    set_nsn(page, cx.lsn)?;
    change_flags(page, FOLLOW_RIGHT, 0)
}

fn page_update(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gist page update");
    let (deleted, inserted) = (c.u16()?, c.u16()?);
    special(page)?;
    let mut c = Cursor::new(cx.data(), "gist page update, block data");
    let offs = take_offsets(&mut c, deleted)?;
    if let (1, 1, Some(off)) = (deleted, inserted, offs.get(0)) {
        page.overwrite(off, take_tuple(&mut c)?)?;
    } else if deleted > 0 {
        offs.delete_from(page)?;
    }
    while c.left() > 0 {
        append(page, take_tuple(&mut c)?)?;
    }
    Ok(())
}

fn delete(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gist delete");
    c.skip(4)?;
    let count = c.u16()?;
    if cx.version() >= PgMajor::V16 {
        c.skip(2)?;
    }
    special(page)?;
    take_offsets(&mut c, count)?.delete_from(page)?;
    change_flags(page, HAS_GARBAGE, 0)
}

fn page_split(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gist page split");
    let old_right = c.u32()?;
    c.align(8)?;
    let nsn = Lsn(c.u64()?);
    let leaf = c.u8()? != 0;
    c.align(2)?;
    let pages = c.u16()?;
    let mark = c.u8()? != 0;
    let id = cx.block().id;
    if u16::from(id) > pages {
        return Err(Fault::Rule("more block references than pages in the split"));
    }
    let root = cx.block().block == ROOT_BLOCK;
    page.init(SPECIAL_SIZE);
    let at = special(page)?;
    page.put_u16(at + PAGE_ID, GIST_PAGE_ID)?;
    page.put_u16(at + FLAGS, if leaf && !root { LEAF } else { 0 })?;
    let mut c = Cursor::new(cx.data(), "gist page split, block data");
    for _ in 0..c.u32()? {
        append(page, take_tuple(&mut c)?)?;
    }
    set_nsn(page, nsn)?;
    let last = u16::from(id) == pages;
    let right = match (root, last) {
        (true, _) => NO_BLOCK,
        (false, true) => old_right,
        (false, false) => cx.blk(id + 1)?,
    };
    page.put_u32(at + RIGHT_LINK, right)?;
    if !root && !last && mark && cx.blk(1)? != ROOT_BLOCK {
        change_flags(page, 0, FOLLOW_RIGHT)?;
    }
    Ok(())
}

fn page_delete(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gist page deletion");
    let xid: [u8; 8] = c.array()?;
    let downlink = c.u16()?;
    special(page)?;
    if id == 1 {
        return Ok(page.delete(downlink)?);
    }
    change_flags(page, 0, DELETED)?;
    page.put(HEADER_SIZE, &xid)?;
    page.set_lower(HEADER_SIZE as u16 + 8);
    Ok(())
}
