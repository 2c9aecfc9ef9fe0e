//! Redo of GIN records (`docs/format/redo.md`, "GIN"; Postgres headers `access/ginblock.h` and
//! `access/ginxlog.h`).
//!
//! Entry-tree pages hold index tuples behind line pointers. Posting-tree pages have none: a right
//! bound at byte 24, then from byte 32 up to `pd_lower` the posting items of an inner page or the
//! compressed segments of a leaf ([`segment`]).

mod segment;
#[cfg(test)]
mod tests;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, NO_BLOCK, append, take_tuple};
use crate::page::{HEADER_SIZE, Page, Place};
use pg_wal::cursor::Cursor;

const CREATE_PTREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const VACUUM_PAGE: u8 = 0x40;
const DELETE_PAGE: u8 = 0x50;
const UPDATE_META_PAGE: u8 = 0x60;
const INSERT_LISTPAGE: u8 = 0x70;
const DELETE_LISTPAGE: u8 = 0x80;
const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;

const DATA: u16 = 0x01;
const LEAF: u16 = 0x02;
const DELETED: u16 = 0x04;
const META: u16 = 0x08;
const LIST: u16 = 0x10;
const LIST_FULLROW: u16 = 0x20;
const INCOMPLETE_SPLIT: u16 = 0x40;
const COMPRESSED: u16 = 0x80;

/// Insert flags: the page belongs to a posting tree.
const INSERT_IS_DATA: u16 = 0x01;
/// Insert flags: the page is a leaf.
const INSERT_IS_LEAF: u16 = 0x02;

const SPECIAL_SIZE: u16 = 8;
const RIGHT_LINK: usize = 0;
const MAX_OFF: usize = 4;
const FLAGS: usize = 6;

/// Length of the metapage's contents in bytes.
const META_SIZE: usize = 56;
/// Where the payload of a posting-tree page begins, behind the right bound.
const PAYLOAD: usize = HEADER_SIZE + 8;
/// A child block and a key tid.
const POSTING_ITEM_SIZE: usize = 10;

/// Replays a GIN record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    match (cx.op(), cx.block().id) {
        (CREATE_PTREE, 0) => create_posting_tree(cx, page)?,
        (INSERT, 0) => insert(cx, page)?,
        (INSERT, 1) | (SPLIT, 3) => change_flags(page, INCOMPLETE_SPLIT, 0)?,
        (SPLIT, 0..=2) | (VACUUM_PAGE, 0) => {
            return Err(Fault::Rule(
                "the record consists of page images and this one is missing",
            ));
        }
        (DELETE_PAGE, id @ 0..=2) => delete_page(cx, page, id)?,
        (UPDATE_META_PAGE, 0) => {
            let mut c = Cursor::new(cx.main(), "gin metapage update");
            c.skip(16)?;
            meta(c.take(META_SIZE)?, page)?;
        }
        (UPDATE_META_PAGE, 1) => extend_list(cx, page)?,
        (INSERT_LISTPAGE, 0) => list_page(cx, page)?,
        (DELETE_LISTPAGE, 0) => {
            meta(
                Cursor::new(cx.main(), "gin list deletion").take(META_SIZE)?,
                page,
            )?;
        }
        (DELETE_LISTPAGE, _) => init(page, DELETED)?,
        (VACUUM_DATA_LEAF_PAGE, 0) => segment::recompress(page, cx.data())?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

fn flags(page: &Page<'_>) -> Result<u16, Fault> {
    Ok(page.u16_at(special(page)? + FLAGS)?)
}

fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Result<(), Fault> {
    let at = special(page)? + FLAGS;
    let old = page.u16_at(at)?;
    Ok(page.put_u16(at, old & !clear | set)?)
}

fn max_off(page: &Page<'_>) -> Result<u16, Fault> {
    Ok(page.u16_at(special(page)? + MAX_OFF)?)
}

fn set_max_off(page: &mut Page<'_>, v: u16) -> Result<(), Fault> {
    let at = special(page)? + MAX_OFF;
    Ok(page.put_u16(at, v)?)
}

fn set_right_link(page: &mut Page<'_>, block: u32) -> Result<(), Fault> {
    let at = special(page)? + RIGHT_LINK;
    Ok(page.put_u32(at, block)?)
}

fn init(page: &mut Page<'_>, flags: u16) -> Result<(), Fault> {
    page.init(SPECIAL_SIZE);
    set_right_link(page, NO_BLOCK)?;
    change_flags(page, 0, flags)
}

fn meta(contents: &[u8], page: &mut Page<'_>) -> Result<(), Fault> {
    init(page, META)?;
    page.put(HEADER_SIZE, contents)?;
    page.set_lower((HEADER_SIZE + META_SIZE) as u16);
    Ok(())
}

/// Ends the payload of a posting-tree page `len` bytes after its start.
fn set_payload_len(page: &mut Page<'_>, len: usize) -> Result<(), Fault> {
    let end = PAYLOAD + len;
    if end > special(page)? {
        return Err(Fault::Rule("posting tree page overflows"));
    }
    page.set_lower(end as u16);
    Ok(())
}

fn create_posting_tree(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gin posting tree");
    let size = usize::try_from(c.u32()?).unwrap_or(usize::MAX);
    let payload = c.take(size)?;
    init(page, DATA | LEAF | COMPRESSED)?;
    set_payload_len(page, size)?;
    Ok(page.put(PAYLOAD, payload)?)
}

fn insert(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gin insert");
    let kind = c.u16()?;
    let right_child = if kind & INSERT_IS_LEAF == 0 {
        c.skip(4)?;
        Some(c.array::<4>()?)
    } else {
        None
    };
    match (kind & INSERT_IS_DATA != 0, right_child) {
        (true, None) => segment::recompress(page, cx.data()),
        (true, Some(child)) => insert_posting_item(cx.data(), page, child),
        (false, child) => insert_entry(cx.data(), page, child),
    }
}

fn insert_entry(data: &[u8], page: &mut Page<'_>, child: Option<[u8; 4]>) -> Result<(), Fault> {
    let mut c = Cursor::new(data, "gin entry");
    let off = c.u16()?;
    let replace = c.u8()? != 0;
    c.skip(1)?;
    let tuple = take_tuple(&mut c)?;
    special(page)?;
    if let Some([a, b, c, d]) = child {
        let (block, _) = index::tid_parts([a, b, c, d, 0, 0]);
        index::set_tuple_tid(page.item_mut(off)?, block, 0)?;
    }
    if replace {
        page.delete(off)?;
    }
    Ok(page.add(tuple, off, Place::Shift)?)
}

/// Where posting item `off` (from 1) of an inner page begins.
const fn posting_item(off: u16) -> usize {
    PAYLOAD + POSTING_ITEM_SIZE * (off as usize).saturating_sub(1)
}

/// The number of posting items of an inner page that has item `off`.
fn posting_items_with(page: &Page<'_>, off: u16) -> Result<u16, Fault> {
    let count = max_off(page)?;
    if off == 0 || off > count {
        return Err(Fault::Rule("no such posting item"));
    }
    if posting_item(count) + POSTING_ITEM_SIZE > special(page)? {
        return Err(Fault::Rule("more posting items than a page can have"));
    }
    Ok(count)
}

/// The item at `off` gets the right half of its split child; the new item before it the left.
fn insert_posting_item(data: &[u8], page: &mut Page<'_>, child: [u8; 4]) -> Result<(), Fault> {
    let mut c = Cursor::new(data, "gin posting item");
    let off = c.u16()?;
    let item: [u8; POSTING_ITEM_SIZE] = c.array()?;
    let count = posting_items_with(page, off)?;
    let at = posting_item(off);
    set_payload_len(page, POSTING_ITEM_SIZE * (usize::from(count) + 1))?;
    page.put(at, &child)?;
    page.move_bytes(
        at,
        at + POSTING_ITEM_SIZE,
        posting_item(count) + POSTING_ITEM_SIZE - at,
    )?;
    page.put(at, &item)?;
    set_max_off(page, count + 1)
}

fn remove_posting_item(page: &mut Page<'_>, off: u16) -> Result<(), Fault> {
    let count = posting_items_with(page, off)?;
    let at = posting_item(off);
    page.move_bytes(at + POSTING_ITEM_SIZE, at, posting_item(count) - at)?;
    set_max_off(page, count - 1)?;
    set_payload_len(page, POSTING_ITEM_SIZE * usize::from(count - 1))
}

fn delete_page(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gin page deletion");
    let parent_off = c.u16()?;
    c.align(4)?;
    let (right, xid) = (c.u32()?, c.u32()?);
    match id {
        0 => {
            change_flags(page, 0, DELETED)?;
            page.set_prune_xid(xid);
            Ok(())
        }
        1 => remove_posting_item(page, parent_off),
        _ => set_right_link(page, right),
    }
}

/// UPDATE_META_PAGE on the tail of the pending list: more tuples, or a successor.
fn extend_list(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gin metapage update");
    c.skip(16 + META_SIZE)?;
    let (previous_tail, right, tuples) = (c.u32()?, c.u32()?, c.i32()?);
    if tuples > 0 {
        let mut c = Cursor::new(cx.data(), "gin pending tuples");
        special(page)?;
        for _ in 0..tuples {
            append(page, take_tuple(&mut c)?)?;
        }
        // Heap rows, and each record adds one.
        let rows = max_off(page)?.wrapping_add(1);
        set_max_off(page, rows)
    } else if previous_tail != NO_BLOCK {
        set_right_link(page, right)
    } else {
        Err(Fault::Rule(
            "a pending-list page is referenced but not changed",
        ))
    }
}

fn list_page(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "gin list page");
    let (right, tuples) = (c.u32()?, c.i32()?);
    let last = right == NO_BLOCK;
    init(page, if last { LIST | LIST_FULLROW } else { LIST })?;
    set_right_link(page, right)?;
    set_max_off(page, u16::from(last))?;
    let mut c = Cursor::new(cx.data(), "gin pending tuples");
    for _ in 0..tuples {
        append(page, take_tuple(&mut c)?)?;
    }
    Ok(())
}
