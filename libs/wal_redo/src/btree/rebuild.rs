//! B-tree records that build a page anew from its old items: the left half of a split, and
//! deduplication. Page flags and prune xid start over.

use super::{
    FLAGS, HAS_GARBAGE, INCOMPLETE_SPLIT, LEAF, NEXT, NO_SIBLING, SPECIAL_SIZE, posting, special,
};
use crate::action::Context;
use crate::error::Fault;
use crate::index::{self, Offsets, TID_SIZE, append};
use crate::page::{Page, Place};
use pg_wal::cursor::Cursor;
use types::PAGE_SIZE;

/// An empty page with the special space of `page`, and the offset number of the first data item
/// of `page`.
fn fresh<'a>(
    page: &Page<'_>,
    scratch: &'a mut [u8; PAGE_SIZE],
) -> Result<(Page<'a>, u16, usize), Fault> {
    let at = special(page)?;
    let mut new = Page::new(scratch);
    new.init(SPECIAL_SIZE);
    new.put(at, page.range(at, usize::from(SPECIAL_SIZE))?)?;
    let first = if page.u32_at(at + NEXT)? == NO_SIBLING {
        1
    } else {
        2
    };
    Ok((new, first, at))
}

/// SPLIT on the left page. With `left` the new item goes there.
pub(super) fn split_left(cx: &Context<'_>, page: &mut Page<'_>, left: bool) -> Result<(), Fault> {
    let mut c = Cursor::new(cx.main(), "btree split");
    let level = c.u32()?;
    let (first_right, new_off) = (c.u16()?, c.u16()?);
    let posting_at = usize::from(c.u16()?);
    let mut c = Cursor::new(cx.data(), "btree split, left page");
    let mut new: &[u8] = &[];
    let mut replaced = 0;
    let mut moved = [0; TID_SIZE];
    if left || posting_at != 0 {
        new = index::take_padded_tuple(&mut c)?;
    }
    if posting_at != 0 {
        replaced = new_off.wrapping_sub(1);
        moved = posting::last_tid(page.item(replaced)?, posting_at)?;
    }
    let high_key = index::take_padded_tuple(&mut c)?;

    let mut scratch = [0; PAGE_SIZE];
    let (mut to, first, at) = fresh(page, &mut scratch)?;
    to.add(high_key, 1, Place::Shift)?;
    let add_new = |to: &mut Page<'_>| -> Result<(), Fault> {
        append(to, new)?;
        if posting_at != 0 {
            to.item_mut(to.max_offset())?
                .first_chunk_mut()
                .map(|t: &mut [u8; TID_SIZE]| *t = moved)
                .ok_or(posting::TOO_SHORT)?;
        }
        Ok(())
    };
    for off in first..first_right {
        if posting_at != 0 && off == replaced {
            append(&mut to, page.item(off)?)?;
            posting::swap(
                to.item_mut(to.max_offset())?,
                posting::first_tid(new)?,
                posting_at,
            )?;
            continue;
        }
        if left && off == new_off {
            add_new(&mut to)?;
        }
        append(&mut to, page.item(off)?)?;
    }
    if left && new_off == first.max(first_right) {
        add_new(&mut to)?;
    }
    let leaf = if level == 0 { LEAF } else { 0 };
    to.put_u16(at + FLAGS, INCOMPLETE_SPLIT | leaf)?;
    to.put_u32(at + NEXT, cx.blk(1)?)?;
    to.put_u16(at + super::CYCLE_ID, 0)?;
    *page.bytes_mut() = scratch;
    Ok(())
}

/// DEDUP: each interval of items becomes one posting list tuple.
pub(super) fn dedup(cx: &Context<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let count = usize::from(Cursor::new(cx.main(), "btree deduplication").u16()?);
    let data = Offsets::new(cx.data())?;
    if data.len() != 2 * count {
        return Err(Fault::Rule(
            "number of intervals does not match the block data",
        ));
    }
    let mut intervals = (0..count)
        .map(|i| (data.get(2 * i), data.get(2 * i + 1)))
        .peekable();

    let mut scratch = [0; PAGE_SIZE];
    let (mut to, first, at) = fresh(page, &mut scratch)?;
    if first == 2 {
        append(&mut to, page.item(1)?)?;
    }
    let max = page.max_offset();
    let mut off = first;
    while off <= max {
        match intervals.next_if(|(base, _)| *base == Some(off)) {
            Some((_, items)) => {
                let items = items.unwrap_or(0);
                let end = off
                    .checked_add(items)
                    .filter(|end| items >= 2 && end - 1 <= max);
                let end = end.ok_or(Fault::Rule("interval outside the page"))?;
                merge(page, off..end, &mut to)?;
                off = end;
            }
            None => {
                let item = page.item(off)?;
                let len = index::tuple_len(item)?;
                append(&mut to, item.get(..len).ok_or(posting::TOO_SHORT)?)?;
                off += 1;
            }
        }
    }
    if intervals.next().is_some() {
        return Err(Fault::Rule(
            "intervals do not ascend or lie outside the page",
        ));
    }
    let flags = to.u16_at(at + FLAGS)?;
    to.put_u16(at + FLAGS, flags & !HAS_GARBAGE)?;
    *page.bytes_mut() = scratch;
    Ok(())
}

/// Appends one posting list tuple with the heap tids of the items `offs`.
fn merge(page: &Page<'_>, offs: std::ops::Range<u16>, to: &mut Page<'_>) -> Result<(), Fault> {
    let base = page.item(offs.start)?;
    let keysize = posting::Tids::of(base)?.keysize;
    let mut count = 0;
    for off in offs.clone() {
        count += posting::Tids::of(page.item(off)?)?.count();
    }
    let len = posting::size(keysize, count);
    let at = to.reserve(len, to.max_offset() + 1, Place::Shift)?;
    to.put(at, base.get(..keysize).ok_or(posting::TOO_SHORT)?)?;
    let mut next = at + keysize;
    for off in offs {
        let item = page.item(off)?;
        let tids = posting::Tids::of(item)?.bytes(item)?;
        to.put(next, tids)?;
        next += tids.len();
    }
    posting::write_header(to.range_mut(at, len)?, keysize, count, [0; TID_SIZE])
}
