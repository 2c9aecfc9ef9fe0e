//! SP-GiST tuples and the changes to a page in which they take part.
//!
//! The low two bits of a tuple are its state. Leaf and dead tuples have their length in the
//! other 30 bits of the first word, inner tuples behind it.

use super::{NOWHERE, PLACEHOLDERS, REDIRECTIONS, count, sorted, special};
use crate::error::Fault;
use crate::index::{self, Offsets, TID_SIZE};
use crate::page::{Page, Place};
use pg_wal::cursor::Cursor;

const TOO_SHORT: Fault = Fault::Rule("spgist tuple shorter than its header");
/// Length of a dead tuple, and the least of a leaf tuple.
const DEAD_SIZE: usize = 16;
const LEAF_HEADER: usize = 12;
const INNER_HEADER: usize = 8;
/// Where leaf and dead tuples have their tid.
const TID: usize = 6;
const NEXT: usize = 4;
/// Bits of the link to the next tuple of a chain.
const NEXT_MASK: u16 = 0x3FFF;

/// State of a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The tuples are somewhere else now.
    Redirect = 1,
    /// The only tuple of an empty chain.
    Dead = 2,
    /// Free to be replaced.
    Placeholder = 3,
}

/// A dead tuple to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dead {
    state: State,
    tid: [u8; TID_SIZE],
    xid: u32,
}

impl Dead {
    /// A tuple that points nowhere.
    pub const fn new(state: State) -> Dead {
        Dead {
            state,
            tid: NOWHERE,
            xid: 0,
        }
    }

    /// A redirection left behind by transaction `xid`.
    pub const fn redirect(block: u32, off: u16, xid: u32) -> Dead {
        Dead {
            state: State::Redirect,
            tid: index::tid(block, off),
            xid,
        }
    }

    /// The tuple as it stands on a page.
    pub fn bytes(self) -> [u8; DEAD_SIZE] {
        let mut out = [0; DEAD_SIZE];
        let word = (self.state as u32 | (DEAD_SIZE as u32) << 2).to_le_bytes();
        let fields = word
            .into_iter()
            .chain([0, 0])
            .chain(self.tid)
            .chain(self.xid.to_le_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// The page's counter of such tuples.
    pub const fn counter(self) -> Option<usize> {
        match self.state {
            State::Redirect => Some(REDIRECTIONS),
            State::Placeholder => Some(PLACEHOLDERS),
            State::Dead => None,
        }
    }
}

fn state(tuple: &[u8]) -> u8 {
    tuple.first().map_or(0, |b| b & 3)
}

/// The next leaf tuple of a record.
pub(super) fn take_leaf<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let mut head = *c;
    let len = usize::try_from(head.u32()? >> 2).unwrap_or(usize::MAX);
    if len < LEAF_HEADER {
        Err(TOO_SHORT)
    } else {
        Ok(c.take(len)?)
    }
}

/// The next inner tuple of a record.
pub(super) fn take_inner<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let mut head = *c;
    head.skip(4)?;
    let len = usize::from(head.u16()?);
    if len < INNER_HEADER {
        Err(TOO_SHORT)
    } else {
        Ok(c.take(len)?)
    }
}

/// Adds a tuple, in place of a placeholder if there is one under that number.
pub(super) fn put(page: &mut Page<'_>, tuple: &[u8], off: u16) -> Result<(), Fault> {
    special(page)?;
    if off <= page.max_offset() {
        if state(page.item(off)?) != State::Placeholder as u8 {
            return Err(Fault::Rule("the tuple to be replaced is not a placeholder"));
        }
        count(page, PLACEHOLDERS, -1)?;
        page.delete(off)?;
    }
    Ok(page.add(tuple, off, Place::Shift)?)
}

/// Replaces tuples by dead ones: the first in the record's order by `first`, the others by ones
/// of state `rest`.
pub(super) fn mark_deleted(
    page: &mut Page<'_>,
    offs: Offsets<'_>,
    first: Dead,
    rest: State,
) -> Result<(), Fault> {
    special(page)?;
    let list = sorted(offs)?;
    page.multi_delete(&list)?;
    for off in list {
        let dead = if offs.get(0) == Some(off) {
            first
        } else {
            Dead::new(rest)
        };
        page.add(&dead.bytes(), off, Place::Shift)?;
        if let Some(counter) = dead.counter() {
            count(page, counter, 1)?;
        }
    }
    Ok(())
}

/// Points node `node` (from 0) of the inner tuple at `off` to a tuple.
pub(super) fn link(
    page: &mut Page<'_>,
    off: u16,
    node: u16,
    block: u32,
    to: u16,
) -> Result<(), Fault> {
    special(page)?;
    let inner = page.item_mut(off)?;
    let word = u32::from_le_bytes(*inner.first_chunk().ok_or(TOO_SHORT)?);
    let (nodes, prefix) = (word >> 3 & 0x1FFF, word >> 16);
    if u32::from(node) >= nodes {
        return Err(Fault::Rule("inner tuple has no such node"));
    }
    let mut at = INNER_HEADER + usize::try_from(prefix).unwrap_or(usize::MAX);
    for _ in 0..node {
        at += index::tuple_len(inner.get(at..).ok_or(TOO_SHORT)?)?;
    }
    index::set_tuple_tid(inner.get_mut(at..).ok_or(TOO_SHORT)?, block, to)
}

/// Links the leaf tuple at `off` to the next one of its chain.
pub(super) fn set_next(page: &mut Page<'_>, off: u16, next: u16) -> Result<(), Fault> {
    special(page)?;
    let field = page
        .item_mut(off)?
        .get_mut(NEXT..)
        .and_then(|t| t.first_chunk_mut());
    let field: &mut [u8; 2] = field.ok_or(TOO_SHORT)?;
    let old = u16::from_le_bytes(*field);
    *field = (old & !NEXT_MASK | next & NEXT_MASK).to_le_bytes();
    Ok(())
}

/// Makes a placeholder of the redirection at `off`; its transaction id stays.
pub(super) fn forget_redirect(page: &mut Page<'_>, off: u16) -> Result<(), Fault> {
    let item = page.item_mut(off)?;
    if state(item) != State::Redirect as u8 {
        return Err(Fault::Rule("the tuple is not a redirection"));
    }
    *item
        .get_mut(TID..)
        .and_then(|t| t.first_chunk_mut())
        .ok_or(TOO_SHORT)? = NOWHERE;
    if let Some(b) = item.first_mut() {
        *b |= State::Placeholder as u8;
    }
    Ok(())
}
