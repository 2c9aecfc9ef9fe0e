//! Redo of SP-GiST records (`docs/format/redo.md`, "SP-GiST"; Postgres headers
//! `access/spgist_private.h` and `access/spgxlog.h`).
//!
//! Everything a record says is in its main data; tuples in it are unaligned. [`tuple`] has the
//! tuple formats and the changes to a page they take part in.

#[cfg(test)]
mod tests;
mod tuple;

use crate::action::{Context, Effect};
use crate::error::Fault;
use crate::index::{self, NO_BLOCK, Offsets, take_offsets};
use crate::page::{Page, Place};
use pg_wal::cursor::Cursor;
use tuple::{Dead, State, link, mark_deleted, put, take_inner, take_leaf};
use types::PgMajor;

const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICKSPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_ROOT: u8 = 0x70;
const VACUUM_REDIRECT: u8 = 0x80;

const LEAF: u16 = 0x04;
const NULLS: u16 = 0x08;

const SPECIAL_SIZE: u16 = 8;
const FLAGS: usize = 0;
const REDIRECTIONS: usize = 2;
const PLACEHOLDERS: usize = 4;
const PAGE_ID: usize = 6;
/// Marks a page as SP-GiST.
const SPGIST_PAGE_ID: u16 = 0xFF82;

/// Replays an SP-GiST record on one of its pages.
pub(crate) fn redo(cx: &Context<'_>, page: &mut Page<'_>) -> Result<Effect, Fault> {
    let id = cx.block().id;
    match cx.op() {
        ADD_LEAF => add_leaf(cx, page, id)?,
        MOVE_LEAFS => move_leafs(cx, page, id)?,
        ADD_NODE => add_node(cx, page, id)?,
        SPLIT_TUPLE => split_tuple(cx, page, id)?,
        PICKSPLIT => pick_split(cx, page, id)?,
        VACUUM_LEAF if id == 0 => vacuum_leaf(cx, page)?,
        VACUUM_ROOT if id == 0 => {
            let mut c = Cursor::new(cx.main(), "spgist root vacuum");
            let count = c.u16()?;
            c.align(4)?;
            c.skip(8)?;
            special(page)?;
            take_offsets(&mut c, count)?.delete_from(page)?;
        }
        VACUUM_REDIRECT if id == 0 => vacuum_redirect(cx, page)?,
        _ => return Err(Fault::Unsupported),
    }
    Ok(Effect::Changed)
}

fn special(page: &Page<'_>) -> Result<usize, Fault> {
    index::special(page, usize::from(SPECIAL_SIZE))
}

/// Adds to one of the two counters in the special space.
fn count(page: &mut Page<'_>, counter: usize, by: i16) -> Result<(), Fault> {
    let at = special(page)? + counter;
    let old = page.u16_at(at)?;
    Ok(page.put_u16(at, old.wrapping_add_signed(by))?)
}

fn init(page: &mut Page<'_>, flags: u16) -> Result<(), Fault> {
    page.init(SPECIAL_SIZE);
    let at = special(page)?;
    page.put_u16(at + PAGE_ID, SPGIST_PAGE_ID)?;
    Ok(page.put_u16(at + FLAGS, flags)?)
}

const fn leaf_flags(nulls: bool) -> u16 {
    if nulls { LEAF | NULLS } else { LEAF }
}

/// Who moved a tuple away: the transaction behind a redirection, or an index build, which leaves
/// placeholders instead.
#[derive(Clone, Copy)]
struct Mover {
    xid: u32,
    is_build: bool,
}

impl Mover {
    fn take(c: &mut Cursor<'_>) -> Result<Mover, Fault> {
        c.align(4)?;
        let mover = Mover {
            xid: c.u32()?,
            is_build: c.u8()? != 0,
        };
        c.align(4)?;
        Ok(mover)
    }

    /// What stands where the moved tuple was.
    const fn trace(self, block: u32, off: u16) -> Dead {
        if self.is_build {
            Dead::new(State::Placeholder)
        } else {
            Dead::redirect(block, off, self.xid)
        }
    }
}

fn add_leaf(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist leaf");
    let (new_page, nulls) = (c.u8()? != 0, c.u8()? != 0);
    let (leaf, head, parent, node) = (c.u16()?, c.u16()?, c.u16()?, c.u16()?);
    if id == 1 {
        return link(page, parent, node, cx.blk(0)?, leaf);
    }
    if id != 0 {
        return Err(Fault::Unsupported);
    }
    let item = take_leaf(&mut c)?;
    if new_page {
        init(page, leaf_flags(nulls))?;
    }
    special(page)?;
    if leaf == head {
        page.delete(leaf)?;
        return Ok(page.add(item, leaf, Place::Shift)?);
    }
    put(page, item, leaf)?;
    if head == 0 {
        Ok(())
    } else {
        tuple::set_next(page, head, leaf)
    }
}

fn move_leafs(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist leaf move");
    let moves = c.u16()?;
    let (new_page, replace_dead, nulls) = (c.u8()? != 0, c.u8()? != 0, c.u8()? != 0);
    c.align(2)?;
    let (parent, node) = (c.u16()?, c.u16()?);
    let mover = Mover::take(&mut c)?;
    let gone = take_offsets(&mut c, moves)?;
    let inserts = if replace_dead {
        1
    } else {
        moves.saturating_add(1)
    };
    let places = take_offsets(&mut c, inserts)?;
    let last = places.last().unwrap_or(0);
    match id {
        0 => mark_deleted(
            page,
            gone,
            mover.trace(cx.blk(1)?, last),
            State::Placeholder,
        ),
        1 => {
            if new_page {
                init(page, leaf_flags(nulls))?;
            }
            for off in places.iter() {
                put(page, take_leaf(&mut c)?, off)?;
            }
            Ok(())
        }
        2 => link(page, parent, node, cx.blk(1)?, last),
        _ => Err(Fault::Unsupported),
    }
}

fn add_node(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist node");
    let (off, new_off) = (c.u16()?, c.u16()?);
    let (new_page, parent_block) = (c.u8()? != 0, c.u8()?);
    let (parent, node) = (c.u16()?, c.u16()?);
    let mover = Mover::take(&mut c)?;
    let inner = take_inner(&mut c)?;
    if !cx.has(1) {
        if id != 0 {
            return Err(Fault::Unsupported);
        }
        special(page)?;
        page.delete(off)?;
        return Ok(page.add(inner, off, Place::Shift)?);
    }
    let new_block = cx.blk(1)?;
    match id {
        0 => {
            special(page)?;
            page.delete(off)?;
            let trace = mover.trace(new_block, new_off);
            page.add(&trace.bytes(), off, Place::Shift)?;
            count(page, trace.counter().unwrap_or(PLACEHOLDERS), 1)?;
        }
        1 => {
            if new_page {
                init(page, 0)?;
            }
            put(page, inner, new_off)?;
        }
        2 => {}
        _ => return Err(Fault::Unsupported),
    }
    if parent_block == id {
        link(page, parent, node, new_block, new_off)
    } else {
        Ok(())
    }
}

fn split_tuple(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist tuple split");
    let (prefix_off, postfix_off) = (c.u16()?, c.u16()?);
    let (new_page, same_page) = (c.u8()? != 0, c.u8()? != 0);
    let prefix = take_inner(&mut c)?;
    let postfix = take_inner(&mut c)?;
    match id {
        0 => {
            special(page)?;
            page.delete(prefix_off)?;
            page.add(prefix, prefix_off, Place::Shift)?;
            if same_page {
                put(page, postfix, postfix_off)
            } else {
                Ok(())
            }
        }
        1 => {
            if new_page {
                init(page, 0)?;
            }
            put(page, postfix, postfix_off)
        }
        _ => Err(Fault::Unsupported),
    }
}

fn pick_split(cx: &Context<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist picksplit");
    c.skip(2)?;
    let (deletes, inserts) = (c.u16()?, c.u16()?);
    let (init_source, init_target) = (c.u8()? != 0, c.u8()? != 0);
    let inner_off = c.u16()?;
    let (init_inner, nulls) = (c.u8()? != 0, c.u8()? != 0);
    let inner_is_parent = c.u8()? != 0;
    c.align(2)?;
    let (parent, node) = (c.u16()?, c.u16()?);
    let mover = Mover::take(&mut c)?;
    let gone = take_offsets(&mut c, deletes)?;
    let places = take_offsets(&mut c, inserts)?;
    let select = c.take(usize::from(inserts))?;
    let inner = take_inner(&mut c)?;
    let inner_block = cx.blk(2)?;
    match id {
        0 | 1 => {
            if if id == 0 { init_source } else { init_target } {
                init(page, leaf_flags(nulls))?;
            } else if id == 0 {
                mark_deleted(
                    page,
                    gone,
                    mover.trace(inner_block, inner_off),
                    State::Placeholder,
                )?;
            }
            for (off, target) in places.iter().zip(select) {
                let leaf = take_leaf(&mut c)?;
                if (*target != 0) == (id == 1) {
                    put(page, leaf, off)?;
                }
            }
            Ok(())
        }
        2 => {
            if init_inner {
                init(page, if nulls { NULLS } else { 0 })?;
            }
            put(page, inner, inner_off)?;
            if inner_is_parent {
                link(page, parent, node, inner_block, inner_off)
            } else {
                Ok(())
            }
        }
        3 => link(page, parent, node, inner_block, inner_off),
        _ => Err(Fault::Unsupported),
    }
}

fn vacuum_leaf(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist leaf vacuum");
    let (dead, placeholder, moves, chains) = (c.u16()?, c.u16()?, c.u16()?, c.u16()?);
    Mover::take(&mut c)?;
    let dead = take_offsets(&mut c, dead)?;
    let placeholder = take_offsets(&mut c, placeholder)?;
    let from = take_offsets(&mut c, moves)?;
    let to = take_offsets(&mut c, moves)?;
    let chained = take_offsets(&mut c, chains)?;
    let next = take_offsets(&mut c, chains)?;
    mark_deleted(page, dead, Dead::new(State::Dead), State::Dead)?;
    mark_deleted(
        page,
        placeholder,
        Dead::new(State::Placeholder),
        State::Placeholder,
    )?;
    for (a, b) in from.iter().zip(to.iter()) {
        let (old, new) = (page.line_pointer(a)?, page.line_pointer(b)?);
        page.set_line_pointer(a, new)?;
        page.set_line_pointer(b, old)?;
    }
    mark_deleted(
        page,
        from,
        Dead::new(State::Placeholder),
        State::Placeholder,
    )?;
    for (off, next) in chained.iter().zip(next.iter()) {
        tuple::set_next(page, off, next)?;
    }
    Ok(())
}

fn vacuum_redirect(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "spgist redirect vacuum");
    let (redirects, first_placeholder) = (c.u16()?, c.u16()?);
    c.skip(4)?;
    if cx.version() >= PgMajor::V16 {
        c.skip(2)?;
    }
    special(page)?;
    for off in take_offsets(&mut c, redirects)?.iter() {
        tuple::forget_redirect(page, off)?;
        count(page, REDIRECTIONS, -1)?;
        count(page, PLACEHOLDERS, 1)?;
    }
    if first_placeholder == 0 {
        return Ok(());
    }
    let mut cut = index::OffsetList::new();
    for off in first_placeholder..=page.max_offset() {
        cut.try_push(off)
            .map_err(|_| Fault::Rule("more line pointers than a page can have"))?;
        count(page, PLACEHOLDERS, -1)?;
    }
    Ok(page.multi_delete(&cut)?)
}

/// A list in the order the record has it and the same list sorted.
fn sorted(offs: Offsets<'_>) -> Result<index::OffsetList, Fault> {
    let mut list = offs.to_list()?;
    list.sort_unstable();
    if list.is_sorted_by(|a, b| a < b) {
        Ok(list)
    } else {
        Err(Fault::Rule("an offset number occurs twice"))
    }
}

/// The tid of tuples that point nowhere.
const NOWHERE: [u8; 6] = index::tid(NO_BLOCK, 0);
