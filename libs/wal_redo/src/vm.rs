//! The visibility map: geometry, bits cleared by heap records, internal records.
//!
//! Two bits per heap block, 1 all-visible and 2 all-frozen, from byte 24 of each map page.

use crate::buf::PageBuf;
use crate::error::{Error, Fault};
use crate::page::{HEADER_SIZE, Page};
use crate::redo::Outcome;
use crate::slru::kind_of;
use types::{BlockNumber, Fork, Key, Lsn, PAGE_SIZE, RelTag, WalRecord};

/// Heap blocks on one map page.
pub(crate) const HEAP_BLOCKS_PER_PAGE: u32 = 32672;
const MAP_SIZE: usize = PAGE_SIZE - HEADER_SIZE;

/// Both bits of a heap block.
pub(crate) const ALL_BITS: u8 = 3;
/// The all-frozen bit.
pub(crate) const ALL_FROZEN: u8 = 2;

/// Map page, byte in that page and shift of a heap block's bits.
pub(crate) const fn place(heap: BlockNumber) -> (BlockNumber, usize, u32) {
    let within = heap % HEAP_BLOCKS_PER_PAGE;
    (
        heap / HEAP_BLOCKS_PER_PAGE,
        HEADER_SIZE + within as usize / 4,
        within % 4 * 2,
    )
}

/// Clears bits of a heap block; true if one was set.
pub(crate) fn clear(page: &mut Page<'_>, heap: BlockNumber, bits: u8) -> Result<bool, Fault> {
    let (_, at, shift) = place(heap);
    let old = page.u8_at(at)?;
    let new = old & !((bits & ALL_BITS) << shift);
    page.put(at, &[new])?;
    Ok(new != old)
}

/// Adds bits of a heap block unless the block has exactly these; true if the map changed.
pub(crate) fn set(page: &mut Page<'_>, heap: BlockNumber, bits: u8) -> Result<bool, Fault> {
    let (_, at, shift) = place(heap);
    let old = page.u8_at(at)?;
    if old >> shift & ALL_BITS == bits {
        return Ok(false);
    }
    page.put(at, &[old | bits << shift])?;
    Ok(true)
}

/// Applies an internal record to a visibility-map page.
pub(crate) fn internal(
    buf: &mut PageBuf,
    key: &Key,
    rel: RelTag,
    block: BlockNumber,
    lsn: Lsn,
    rec: &WalRecord,
) -> Result<Outcome, Error> {
    let err = |rule| Error::Internal {
        lsn,
        key: *key,
        record: kind_of(rec),
        rule,
    };
    if rel.fork != Fork::Vm {
        return Err(err("not a record for this kind of page"));
    }
    if buf.is_empty() {
        buf.zero();
    }
    let Some(bytes) = buf.page_mut() else {
        return Err(Error::MissingBase { lsn, key: *key });
    };
    let mut page = Page::new(bytes);
    match rec {
        WalRecord::ClearVisibilityMapFlags {
            new_heap_block,
            old_heap_block,
            flags,
        } => {
            for heap in [new_heap_block, old_heap_block].into_iter().flatten() {
                if place(*heap).0 != block {
                    return Err(err("a heap block belongs to another map page"));
                }
                clear(&mut page, *heap, *flags).map_err(|_| err("a bit outside the map"))?;
            }
            if !page.is_new() {
                page.set_lsn(lsn);
            }
        }
        WalRecord::TruncateVisibilityMap {
            trunc_byte,
            trunc_offs,
        } => {
            let kept = usize::try_from(*trunc_byte)
                .ok()
                .filter(|b| *b < MAP_SIZE)
                .ok_or(err("the byte is outside the map"))?;
            let bits = u32::try_from(*trunc_offs)
                .ok()
                .filter(|b| *b < 8)
                .ok_or(err("the bit is outside its byte"))?;
            let cut = page.bytes_mut().iter_mut().skip(HEADER_SIZE + kept);
            let mut mask = ((1u16 << bits) - 1) as u8;
            for byte in cut {
                *byte &= mask;
                mask = 0;
            }
        }
        _ => return Err(err("not a record for this kind of page")),
    }
    Ok(Outcome::Changed)
}
