//! Redo of BRIN records (`docs/format/redo.md`, "BRIN"; Postgres headers `access/brin_page.h` and
//! `access/brin_xlog.h`).

#[cfg(test)]
mod tests;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, NO_BLOCK, TID_SIZE, tid};
use crate::page::{HEADER_SIZE, Page, Place};
use pg_wal::cursor::Cursor;

const OP_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAMEPAGE_UPDATE: u8 = 0x30;
const REVMAP_EXTEND: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;

const META: u16 = 0xF091;
const REVMAP: u16 = 0xF092;
const REGULAR: u16 = 0xF093;

const SPECIAL_SIZE: u16 = 8;
const TYPE: usize = 6;
const MAGIC: u32 = 0xA810_9CFA;
/// Magic, version, pages per range, last revmap page.
const META_SIZE: u16 = 16;
const LAST_REVMAP: usize = HEADER_SIZE + 12;
/// Tids on a revmap page.
const REVMAP_TIDS: u32 = 1360;

/// Replays a BRIN record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    match (cx.op() & OP_MASK, cx.block().id) {
        (CREATE_INDEX, 0) => create(cx, page)?,
        (INSERT | UPDATE, id @ (0 | 1)) => insert(cx, page, id)?,
        (UPDATE, 2) => {
            let old = Cursor::new(cx.main(), "brin update").u16()?;
            special(page)?;
            page.delete_keep_numbers(old)?;
        }
        (SAMEPAGE_UPDATE, 0) => {
            let off = Cursor::new(cx.main(), "brin update").u16()?;
            special(page)?;
            page.overwrite(off, cx.data())?;
        }
        (REVMAP_EXTEND, 0) => {
            let target = Cursor::new(cx.main(), "brin revmap extension").u32()?;
            special(page)?;
            page.put_u32(LAST_REVMAP, target)?;
            page.set_lower(HEADER_SIZE as u16 + META_SIZE);
        }
        (REVMAP_EXTEND, 1) => init(page, REVMAP)?,
        (DESUMMARIZE, id @ (0 | 1)) => desummarize(cx, page, id)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

fn init(page: &mut Page<'_>, kind: u16) -> Result<(), Fault> {
    page.init(SPECIAL_SIZE);
    let at = special(page)? + TYPE;
    Ok(page.put_u16(at, kind)?)
}

fn create(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "brin index");
    let pages_per_range = c.u32()?;
    let version = u32::from(c.u16()?);
    init(page, META)?;
    let fields = [MAGIC, version, pages_per_range, 0];
    for (at, v) in (HEADER_SIZE..).step_by(4).zip(fields) {
        page.put_u32(at, v)?;
    }
    page.set_lower(HEADER_SIZE as u16 + META_SIZE);
    Ok(())
}

/// Points the entry of heap block `heap` at a summary.
fn set_revmap(page: &mut Page<'_>, range: u32, heap: u32, to: [u8; TID_SIZE]) -> Result<(), Fault> {
    special(page)?;
    let entry = heap
        .checked_div(range)
        .ok_or(Fault::Rule("no pages per range"))?
        % REVMAP_TIDS;
    // At most 1359.
    Ok(page.put(HEADER_SIZE + TID_SIZE * entry as usize, &to)?)
}

/// INSERT, and the new place of an UPDATE.
fn insert(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "brin insert");
    if cx.op() & OP_MASK == UPDATE {
        c.skip(4)?;
    }
    let (heap, range, off) = (c.u32()?, c.u32()?, c.u16()?);
    if id == 1 {
        return set_revmap(page, range, heap, tid(cx.blk(0)?, off));
    }
    if cx.op() & INIT_PAGE != 0 {
        init(page, REGULAR)?;
    }
    special(page)?;
    Ok(page.add(cx.data(), off, Place::Overwrite)?)
}

fn desummarize(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "brin desummarization");
    let (range, heap, off) = (c.u32()?, c.u32()?, c.u16()?);
    if id == 0 {
        return set_revmap(page, range, heap, tid(NO_BLOCK, 0));
    }
    special(page)?;
    Ok(page.delete_keep_numbers(off)?)
}
