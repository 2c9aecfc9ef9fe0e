//! The metapage of a hash index and the arithmetic of bucket allocation.
//!
//! Buckets are allocated in groups that double in size; from group 10 on a group comes in four
//! phases. `spares` counts the overflow pages before each phase.

use super::{META, special};
use crate::error::Fault;
use crate::index::NO_BLOCK;
use crate::page::{HEADER_SIZE, Page};
use pg_wal::cursor::Cursor;

const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;
/// Bytes for tuples on a page.
const BUCKET_SIZE: u16 = 8152;
/// Bytes of a bitmap page in use, a power of two.
const BITMAP_SIZE: u16 = 4096;
/// Logarithm of the number of bits on it.
const BITMAP_SHIFT: u16 = 15;

const TUPLES: usize = HEADER_SIZE + 8;
const FILL_FACTOR: usize = HEADER_SIZE + 16;
const MAX_BUCKET: usize = HEADER_SIZE + 24;
const HIGH_MASK: usize = HEADER_SIZE + 28;
const LOW_MASK: usize = HEADER_SIZE + 32;
const OVERFLOW_POINT: usize = HEADER_SIZE + 36;
const FIRST_FREE: usize = HEADER_SIZE + 40;
const MAPS: usize = HEADER_SIZE + 44;
const PROC: usize = HEADER_SIZE + 48;
const SPARES: usize = HEADER_SIZE + 52;
const MAP_BLOCKS: usize = HEADER_SIZE + 444;
/// End of the contents.
const END: u16 = HEADER_SIZE as u16 + 4544;

const SPARES_LEN: u32 = 98;
const MAP_BLOCKS_LEN: u32 = 1024;
/// Groups of buckets that are allocated at once.
const SINGLE_PHASE_GROUPS: u32 = 10;
const MAX_BUCKETS: u32 = 1 << 30;

/// The phase to which bucket number `buckets - 1` belongs.
pub(super) const fn phase_of(buckets: u32) -> u32 {
    let group = if buckets <= 1 {
        0
    } else {
        u32::BITS - (buckets - 1).leading_zeros()
    };
    if group < SINGLE_PHASE_GROUPS {
        return group;
    }
    let part = (buckets - 1) >> (group - 3) & 3;
    SINGLE_PHASE_GROUPS + 4 * (group - SINGLE_PHASE_GROUPS) + part
}

/// Number of buckets after a phase.
pub(super) const fn buckets_after(phase: u32) -> u32 {
    if phase < SINGLE_PHASE_GROUPS {
        return 1 << phase;
    }
    let group = SINGLE_PHASE_GROUPS + (phase - SINGLE_PHASE_GROUPS) / 4;
    let before = 1 << (group - 1);
    before + before / 4 * ((phase - SINGLE_PHASE_GROUPS) % 4 + 1)
}

/// Buckets an index for `tuples` rows starts with.
pub(super) fn initial_buckets(tuples: f64, fill_factor: u16) -> u32 {
    let wanted = tuples / f64::from(fill_factor);
    if wanted >= f64::from(MAX_BUCKETS) {
        MAX_BUCKETS
    } else if wanted > 2.0 {
        buckets_after(phase_of(wanted as u32))
    } else {
        2
    }
}

/// INIT_META_PAGE.
pub(super) fn init(c: &mut Cursor<'_>, page: &mut Page<'_>) -> Result<(), Fault> {
    let tuples = f64::from_le_bytes(c.array()?);
    let (proc, fill_factor) = (c.u32()?, c.u16()?);
    if fill_factor == 0 || tuples.is_nan() {
        return Err(Fault::Rule("fill factor or number of tuples out of range"));
    }
    let buckets = initial_buckets(tuples, fill_factor);
    let phase = phase_of(buckets);
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    super::init(page, NO_BLOCK, NO_BLOCK, NO_BLOCK, META)?;
    page.put_u32(HEADER_SIZE, MAGIC)?;
    page.put_u32(HEADER_SIZE + 4, VERSION)?;
    let sizes = [fill_factor, BUCKET_SIZE, BITMAP_SIZE, BITMAP_SHIFT];
    for (at, v) in (FILL_FACTOR..).step_by(2).zip(sizes) {
        page.put_u16(at, v)?;
    }
    page.put_u32(MAX_BUCKET, buckets - 1)?;
    page.put_u32(HIGH_MASK, high_mask)?;
    page.put_u32(LOW_MASK, high_mask >> 1)?;
    page.put_u32(OVERFLOW_POINT, phase)?;
    page.put_u32(PROC, proc)?;
    page.put_u32(spare(phase)?, 1)?;
    page.set_lower(END);
    Ok(())
}

/// Place of the overflow page counter of a phase.
fn spare(phase: u32) -> Result<usize, Fault> {
    if phase < SPARES_LEN {
        Ok(SPARES + 4 * phase as usize)
    } else {
        Err(Fault::Rule("phase beyond the last one"))
    }
}

fn check(page: &Page<'_>) -> Result<(), Fault> {
    special(page)?;
    if page.u32_at(HEADER_SIZE)? == MAGIC {
        Ok(())
    } else {
        Err(Fault::Rule("not the metapage of a hash index"))
    }
}

fn add_u32(page: &mut Page<'_>, at: usize, by: u32) -> Result<u32, Fault> {
    let old = page.u32_at(at)?;
    page.put_u32(at, old.wrapping_add(by))?;
    Ok(old)
}

fn add_bitmap(page: &mut Page<'_>, block: u32) -> Result<(), Fault> {
    let maps = page.u32_at(MAPS)?;
    if maps >= MAP_BLOCKS_LEN {
        return Err(Fault::Rule("more bitmaps than an index can have"));
    }
    page.put_u32(MAP_BLOCKS + 4 * maps as usize, block)?;
    Ok(page.put_u32(MAPS, maps + 1)?)
}

/// INIT_BITMAP_PAGE: the bitmap stands behind the buckets.
pub(super) fn add_first_bitmap(page: &mut Page<'_>) -> Result<(), Fault> {
    check(page)?;
    let block = page.u32_at(MAX_BUCKET)?.wrapping_add(2);
    add_bitmap(page, block)
}

/// ADD_OVFL_PAGE; `found` says a freed page was used again.
pub(super) fn add_overflow(
    page: &mut Page<'_>,
    first_free: u32,
    found: bool,
    bitmap: Option<u32>,
) -> Result<(), Fault> {
    check(page)?;
    page.put_u32(FIRST_FREE, first_free)?;
    if !found {
        let at = spare(page.u32_at(OVERFLOW_POINT)?)?;
        add_u32(page, at, 1)?;
        if let Some(block) = bitmap {
            add_bitmap(page, block)?;
            add_u32(page, at, 1)?;
        }
    }
    Ok(())
}

/// SPLIT_ALLOCATE_PAGE; bit 0 of `flags` brings new masks, bit 1 a new phase.
pub(super) fn add_bucket(
    page: &mut Page<'_>,
    bucket: u32,
    flags: u8,
    data: &[u8],
) -> Result<(), Fault> {
    check(page)?;
    let mut c = Cursor::new(data, "hash split, metapage");
    page.put_u32(MAX_BUCKET, bucket)?;
    if flags & 1 != 0 {
        page.put_u32(LOW_MASK, c.u32()?)?;
        page.put_u32(HIGH_MASK, c.u32()?)?;
    }
    if flags & 2 != 0 {
        let phase = c.u32()?;
        page.put_u32(spare(phase)?, c.u32()?)?;
        page.put_u32(OVERFLOW_POINT, phase)?;
    }
    Ok(())
}

/// Changes the number of tuples.
pub(super) fn add_tuples(page: &mut Page<'_>, by: f64) -> Result<(), Fault> {
    check(page)?;
    let old = page
        .range(TUPLES, 8)?
        .first_chunk()
        .copied()
        .unwrap_or_default();
    Ok(page.put(TUPLES, &(f64::from_le_bytes(old) + by).to_le_bytes())?)
}

/// Sets the number of tuples.
pub(super) fn set_tuples(page: &mut Page<'_>, tuples: f64) -> Result<(), Fault> {
    check(page)?;
    Ok(page.put(TUPLES, &tuples.to_le_bytes())?)
}

/// Sets the first overflow page that may be free.
pub(super) fn set_first_free(page: &mut Page<'_>, bit: u32) -> Result<(), Fault> {
    check(page)?;
    Ok(page.put_u32(FIRST_FREE, bit)?)
}
