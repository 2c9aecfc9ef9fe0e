//! A Postgres page and the changes WAL replay makes to it (`docs/format/redo.md`, "Page changes", Postgres header
//! `storage/bufpage.h`).
//!
//! Every primitive checks the page header and the line pointers it uses before it moves a byte;
//! a page that lies about itself gives an [`Error`], never a panic. The byte layout that results
//! is the one Postgres produces, including where tuples stand and which padding travels with
//! them. Bytes between `pd_lower` and `pd_upper` carry no meaning and are left as they fall.

use types::{Lsn, PAGE_SIZE};

/// Length of the page header in bytes; line pointers begin here.
pub const HEADER_SIZE: usize = 24;
/// Size of a line pointer in bytes.
pub const LINE_POINTER_SIZE: usize = 4;
/// `pd_pagesize_version` of an 8 KiB page of layout 4.
pub const SIZE_AND_VERSION: u16 = 0x2004;
/// Most line pointers on a heap page.
pub const MAX_HEAP_TUPLES: u16 = 291;
/// Most tuples on an index page.
pub const MAX_INDEX_TUPLES: usize = 408;

/// `pd_flags`: an unused line pointer exists.
pub const PD_HAS_FREE_LINES: u16 = 0x0001;
/// `pd_flags`: an update found no room.
pub const PD_PAGE_FULL: u16 = 0x0002;
/// `pd_flags`: every tuple is visible to everyone.
pub const PD_ALL_VISIBLE: u16 = 0x0004;

const LOWER: usize = 12;
const UPPER: usize = 14;
const SPECIAL: usize = 16;

/// Rounds up to a multiple of 8 (`MAXALIGN`).
#[inline]
pub const fn align8(n: usize) -> usize {
    (n + 7) & !7
}

/// What is wrong with a page, or with a change asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header's three pointers contradict each other.
    #[error("page header is corrupt: lower {lower}, upper {upper}, special {special}")]
    Header {
        /// `pd_lower`.
        lower: u16,
        /// `pd_upper`.
        upper: u16,
        /// `pd_special`.
        special: u16,
    },
    /// An offset number names no line pointer, or none that may be used.
    #[error("offset number {off} is outside 1 to {max}")]
    OffsetNumber {
        /// The offset number.
        off: u16,
        /// The largest one acceptable.
        max: u16,
    },
    /// A line pointer is in the wrong state or points outside the tuple space.
    #[error(
        "line pointer {off} (offset {}, flags {}, length {}) {why}",
        lp.offset(), lp.flags(), lp.len()
    )]
    LinePointer {
        /// Its offset number.
        off: u16,
        /// Its value.
        lp: LinePointer,
        /// What was expected of it.
        why: &'static str,
    },
    /// The page has no room.
    #[error("no room for {wanted} bytes between lower {lower} and upper {upper}")]
    NoRoom {
        /// Bytes wanted.
        wanted: usize,
        /// `pd_lower`.
        lower: u16,
        /// `pd_upper`.
        upper: u16,
    },
    /// A field lies outside the page or the tuple.
    #[error("{len} bytes at offset {at} are outside the page")]
    Range {
        /// Offset in the page.
        at: usize,
        /// Length in bytes.
        len: usize,
    },
}

/// A line pointer: 15 bits offset, 2 bits state, 15 bits length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinePointer(pub u32);

impl LinePointer {
    /// State of a free line pointer.
    pub const UNUSED: u8 = 0;
    /// State of a line pointer to a tuple.
    pub const NORMAL: u8 = 1;
    /// State of a line pointer that names another one.
    pub const REDIRECT: u8 = 2;
    /// State of a dead line pointer.
    pub const DEAD: u8 = 3;

    /// Puts a line pointer together; surplus bits are cut.
    #[inline]
    pub const fn new(offset: u16, flags: u8, len: u16) -> Self {
        LinePointer(
            (offset as u32 & 0x7FFF) | (flags as u32 & 3) << 15 | (len as u32 & 0x7FFF) << 17,
        )
    }

    /// Byte offset of the tuple, or the target of a redirection.
    #[inline]
    pub const fn offset(self) -> u16 {
        (self.0 & 0x7FFF) as u16
    }

    /// The state.
    #[inline]
    pub const fn flags(self) -> u8 {
        (self.0 >> 15 & 3) as u8
    }

    /// Length of the tuple in bytes.
    #[inline]
    pub const fn len(self) -> u16 {
        (self.0 >> 17) as u16
    }

    /// True without tuple space.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// True if the state is UNUSED.
    #[inline]
    pub const fn is_unused(self) -> bool {
        self.flags() == Self::UNUSED
    }

    /// True if the state is NORMAL.
    #[inline]
    pub const fn is_normal(self) -> bool {
        self.flags() == Self::NORMAL
    }

    /// The same pointer with another offset.
    #[inline]
    pub const fn at(self, offset: u16) -> Self {
        LinePointer::new(offset, self.flags(), self.len())
    }

    /// Tuple space taken, padding included.
    #[inline]
    fn space(self) -> usize {
        align8(usize::from(self.len()))
    }
}

/// What [`Page::reserve`] does when the offset number exists already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Reuse the line pointer, which must be unused; offset numbers up to 291 only.
    Heap,
    /// Reuse the line pointer, which must be unused.
    Overwrite,
    /// Move this and the later line pointers up by one.
    Shift,
}

/// A page in the caller's buffer.
#[derive(Debug)]
pub struct Page<'a> {
    bytes: &'a mut [u8; PAGE_SIZE],
    /// All bytes are zero and none was written since: [`Page::init`] need not clear them.
    blank: bool,
}

impl<'a> Page<'a> {
    /// Looks at a buffer as a page; nothing is checked.
    #[inline]
    pub fn new(bytes: &'a mut [u8; PAGE_SIZE]) -> Self {
        Page {
            bytes,
            blank: false,
        }
    }

    /// A page of zeros.
    #[inline]
    pub(crate) fn blank(zeros: &'a mut [u8; PAGE_SIZE]) -> Self {
        debug_assert!(zeros.iter().all(|b| *b == 0));
        Page {
            bytes: zeros,
            blank: true,
        }
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        self.bytes
    }

    /// The bytes, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        self.blank = false;
        self.bytes
    }

    // Fields at computed places.

    /// `len` bytes at `at`.
    #[inline]
    pub fn range(&self, at: usize, len: usize) -> Result<&[u8], Error> {
        at.checked_add(len)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or(Error::Range { at, len })
    }

    /// `len` bytes at `at`, to be changed.
    #[inline]
    pub fn range_mut(&mut self, at: usize, len: usize) -> Result<&mut [u8], Error> {
        at.checked_add(len)
            .and_then(|end| self.bytes_mut().get_mut(at..end))
            .ok_or(Error::Range { at, len })
    }

    #[inline]
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        self.bytes
            .get(at..)
            .and_then(|s| s.first_chunk::<N>())
            .copied()
            .ok_or(Error::Range { at, len: N })
    }

    /// Writes `value` at `at`.
    #[inline]
    pub fn put(&mut self, at: usize, value: &[u8]) -> Result<(), Error> {
        self.range_mut(at, value.len())?.copy_from_slice(value);
        Ok(())
    }

    /// The byte at `at`.
    #[inline]
    pub fn u8_at(&self, at: usize) -> Result<u8, Error> {
        self.bytes
            .get(at)
            .copied()
            .ok_or(Error::Range { at, len: 1 })
    }

    /// The little-endian u16 at `at`.
    #[inline]
    pub fn u16_at(&self, at: usize) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    /// The little-endian u32 at `at`.
    #[inline]
    pub fn u32_at(&self, at: usize) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    /// Writes a little-endian u16 at `at`.
    #[inline]
    pub fn put_u16(&mut self, at: usize, v: u16) -> Result<(), Error> {
        self.put(at, &v.to_le_bytes())
    }

    /// Writes a little-endian u32 at `at`.
    #[inline]
    pub fn put_u32(&mut self, at: usize, v: u32) -> Result<(), Error> {
        self.put(at, &v.to_le_bytes())
    }

    /// Moves `len` bytes inside the page; the ranges may overlap.
    #[inline]
    pub fn move_bytes(&mut self, from: usize, to: usize, len: usize) -> Result<(), Error> {
        for at in [from, to] {
            if at.checked_add(len).is_none_or(|end| end > PAGE_SIZE) {
                return Err(Error::Range { at, len });
            }
        }
        self.bytes_mut().copy_within(from..from + len, to);
        Ok(())
    }

    // Header.

    #[inline]
    fn head16(&self, at: usize) -> u16 {
        let field = self.bytes.get(at..).and_then(|b| b.first_chunk());
        u16::from_le_bytes(field.copied().unwrap_or_default())
    }

    #[inline]
    fn put_head16(&mut self, at: usize, v: u16) {
        if let Some(to) = self
            .bytes_mut()
            .get_mut(at..)
            .and_then(|b| b.first_chunk_mut())
        {
            *to = v.to_le_bytes();
        }
    }

    /// `pd_lsn`: end of the last record applied.
    #[inline]
    pub fn lsn(&self) -> Lsn {
        let [a, b, c, d, e, f, g, h, ..] = *self.bytes;
        let high = u32::from_le_bytes([a, b, c, d]);
        let low = u32::from_le_bytes([e, f, g, h]);
        Lsn(u64::from(high) << 32 | u64::from(low))
    }

    /// Sets `pd_lsn`.
    #[inline]
    pub fn set_lsn(&mut self, lsn: Lsn) {
        let v = lsn.0.rotate_left(32).to_le_bytes();
        if let Some(to) = self.bytes_mut().first_chunk_mut() {
            *to = v;
        }
    }

    /// `pd_flags`.
    #[inline]
    pub fn flags(&self) -> u16 {
        self.head16(10)
    }

    /// Sets `pd_flags`.
    #[inline]
    pub fn set_flags(&mut self, flags: u16) {
        self.put_head16(10, flags);
    }

    /// Sets and clears bits of `pd_flags`.
    #[inline]
    pub fn change_flags(&mut self, clear: u16, set: u16) {
        self.set_flags(self.flags() & !clear | set);
    }

    /// `pd_lower`: end of the line pointers.
    #[inline]
    pub fn lower(&self) -> u16 {
        self.head16(LOWER)
    }

    /// Sets `pd_lower`.
    #[inline]
    pub fn set_lower(&mut self, v: u16) {
        self.put_head16(LOWER, v);
    }

    /// `pd_upper`: start of the tuples.
    #[inline]
    pub fn upper(&self) -> u16 {
        self.head16(UPPER)
    }

    /// Sets `pd_upper`.
    #[inline]
    pub fn set_upper(&mut self, v: u16) {
        self.put_head16(UPPER, v);
    }

    /// `pd_special`: start of the special space.
    #[inline]
    pub fn special_offset(&self) -> u16 {
        self.head16(SPECIAL)
    }

    /// `pd_prune_xid`.
    #[inline]
    pub fn prune_xid(&self) -> u32 {
        self.u32_at(20).unwrap_or(0)
    }

    /// Sets `pd_prune_xid`.
    #[inline]
    pub fn set_prune_xid(&mut self, xid: u32) {
        let done = self.put_u32(20, xid);
        debug_assert!(done.is_ok());
    }

    /// True if the page was never initialised (`pd_upper` is 0).
    #[inline]
    pub fn is_new(&self) -> bool {
        self.upper() == 0
    }

    /// Checks that the header's pointers are in order.
    #[inline]
    pub fn check(&self) -> Result<(), Error> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special_offset());
        let sane = usize::from(lower) >= HEADER_SIZE
            && lower <= upper
            && upper <= special
            && usize::from(special) <= PAGE_SIZE
            && special.is_multiple_of(8);
        if sane {
            Ok(())
        } else {
            Err(Error::Header {
                lower,
                upper,
                special,
            })
        }
    }

    /// Makes the page empty, with a special space of `special` bytes (rounded up to 8).
    pub fn init(&mut self, special: u16) {
        if !self.blank {
            self.bytes_mut().fill(0);
        }
        let start = (PAGE_SIZE as u16).saturating_sub(special.saturating_add(7) & !7);
        self.set_lower(HEADER_SIZE as u16);
        self.set_upper(start);
        self.put_head16(SPECIAL, start);
        self.put_head16(18, SIZE_AND_VERSION);
    }

    /// The special space.
    pub fn special(&self) -> Result<&[u8], Error> {
        self.check()?;
        let at = usize::from(self.special_offset());
        self.range(at, PAGE_SIZE - at)
    }

    /// The special space, to be changed.
    pub fn special_mut(&mut self) -> Result<&mut [u8], Error> {
        self.check()?;
        let at = usize::from(self.special_offset());
        self.range_mut(at, PAGE_SIZE - at)
    }

    // Line pointers and items.

    /// Number of line pointers.
    #[inline]
    pub fn max_offset(&self) -> u16 {
        self.lower().saturating_sub(HEADER_SIZE as u16) / LINE_POINTER_SIZE as u16
    }

    #[inline]
    fn slot(off: u16) -> usize {
        HEADER_SIZE + LINE_POINTER_SIZE * usize::from(off.wrapping_sub(1))
    }

    /// Line pointer `off`, counted from 1.
    #[inline]
    pub fn line_pointer(&self, off: u16) -> Result<LinePointer, Error> {
        let max = self.max_offset();
        if off == 0 || off > max {
            return Err(Error::OffsetNumber { off, max });
        }
        Ok(LinePointer(self.u32_at(Self::slot(off))?))
    }

    /// Replaces line pointer `off`.
    #[inline]
    pub fn set_line_pointer(&mut self, off: u16, lp: LinePointer) -> Result<(), Error> {
        let max = self.max_offset();
        if off == 0 || off > max {
            return Err(Error::OffsetNumber { off, max });
        }
        self.put_u32(Self::slot(off), lp.0)
    }

    /// Line pointer `off`, which must point to bytes between `pd_upper` and `pd_special`.
    #[inline]
    pub fn stored(&self, off: u16) -> Result<LinePointer, Error> {
        let lp = self.line_pointer(off)?;
        let start = usize::from(lp.offset());
        if lp.is_empty()
            || start < usize::from(self.upper())
            || start + usize::from(lp.len()) > usize::from(self.special_offset())
        {
            return Err(Error::LinePointer {
                off,
                lp,
                why: "does not point into the tuple space",
            });
        }
        Ok(lp)
    }

    /// The item behind line pointer `off`, whatever the pointer's state.
    #[inline]
    pub fn item(&self, off: u16) -> Result<&[u8], Error> {
        let lp = self.stored(off)?;
        self.range(usize::from(lp.offset()), usize::from(lp.len()))
    }

    /// The item behind line pointer `off`, to be changed.
    #[inline]
    pub fn item_mut(&mut self, off: u16) -> Result<&mut [u8], Error> {
        let lp = self.stored(off)?;
        self.range_mut(usize::from(lp.offset()), usize::from(lp.len()))
    }

    /// Makes room for an item of `len` bytes under offset number `off` and returns the byte
    /// offset where the item has to be written. Padding behind it keeps what was there.
    #[inline]
    pub fn reserve(&mut self, len: usize, off: u16, place: Place) -> Result<usize, Error> {
        self.check()?;
        let limit = self.max_offset() + 1;
        let highest = if place == Place::Heap {
            limit.min(MAX_HEAP_TUPLES)
        } else {
            limit
        };
        if off == 0 || off > highest {
            return Err(Error::OffsetNumber { off, max: highest });
        }
        let shift = off < limit && place == Place::Shift;
        if off < limit && !shift {
            let lp = self.line_pointer(off)?;
            if !lp.is_unused() || !lp.is_empty() {
                return Err(Error::LinePointer {
                    off,
                    lp,
                    why: "is in use",
                });
            }
        }
        let lower = usize::from(self.lower())
            + if off == limit || shift {
                LINE_POINTER_SIZE
            } else {
                0
            };
        let no_room = Error::NoRoom {
            wanted: len,
            lower: self.lower(),
            upper: self.upper(),
        };
        let upper = usize::from(self.upper())
            .checked_sub(align8(len))
            .ok_or(no_room)?;
        // 8 KiB pages: a length over 15 bits cannot pass the subtraction above.
        if len == 0 || lower > upper {
            return Err(no_room);
        }
        if shift {
            let from = Self::slot(off);
            self.move_bytes(from, from + LINE_POINTER_SIZE, Self::slot(limit) - from)?;
        }
        self.set_lower(lower as u16);
        self.set_upper(upper as u16);
        let lp = LinePointer::new(upper as u16, LinePointer::NORMAL, len as u16);
        self.put_u32(Self::slot(off), lp.0)?;
        Ok(upper)
    }

    /// Adds an item under offset number `off`.
    #[inline]
    pub fn add(&mut self, item: &[u8], off: u16, place: Place) -> Result<(), Error> {
        let at = self.reserve(item.len(), off, place)?;
        self.put(at, item)
    }

    /// Adds `by` to the offset of every line pointer with storage at or below `limit`.
    fn slide(&mut self, limit: u16, by: i32) -> Result<(), Error> {
        for off in 1..=self.max_offset() {
            let lp = self.line_pointer(off)?;
            if !lp.is_empty() && lp.offset() <= limit {
                let moved = i32::from(lp.offset()) + by;
                let moved = u16::try_from(moved).map_err(|_| Error::LinePointer {
                    off,
                    lp,
                    why: "would leave the page",
                })?;
                self.set_line_pointer(off, lp.at(moved))?;
            }
        }
        Ok(())
    }

    /// Line pointer `off` with its whole, padded item inside the tuple space.
    fn padded(&self, off: u16) -> Result<LinePointer, Error> {
        self.check()?;
        let lp = self.stored(off)?;
        if usize::from(lp.offset()) + lp.space() > usize::from(self.special_offset())
            || !lp.offset().is_multiple_of(8)
        {
            return Err(Error::LinePointer {
                off,
                lp,
                why: "overlaps the special space",
            });
        }
        Ok(lp)
    }

    /// Closes the gap an item leaves behind. Its line pointer must be gone or emptied.
    fn close_gap(&mut self, lp: LinePointer) -> Result<(), Error> {
        let (upper, start, size) = (
            usize::from(self.upper()),
            usize::from(lp.offset()),
            lp.space(),
        );
        self.move_bytes(upper, upper + size, start.saturating_sub(upper))?;
        self.slide(lp.offset(), i32::try_from(size).unwrap_or(i32::MAX))?;
        self.set_upper((upper + size) as u16);
        Ok(())
    }

    /// Removes an item and its line pointer; later offset numbers move down by one.
    pub fn delete(&mut self, off: u16) -> Result<(), Error> {
        let lp = self.padded(off)?;
        let next = Self::slot(off) + LINE_POINTER_SIZE;
        let end = Self::slot(self.max_offset() + 1);
        self.move_bytes(next, Self::slot(off), end - next)?;
        self.set_lower(self.lower() - LINE_POINTER_SIZE as u16);
        self.close_gap(lp)
    }

    /// Removes an item but keeps later offset numbers: its line pointer becomes unused, or is
    /// cut off if it is the last one.
    pub fn delete_keep_numbers(&mut self, off: u16) -> Result<(), Error> {
        let lp = self.padded(off)?;
        if off == self.max_offset() {
            self.set_lower(self.lower() - LINE_POINTER_SIZE as u16);
        } else {
            self.set_line_pointer(off, LinePointer::default())?;
        }
        self.close_gap(lp)
    }

    /// Removes several items and their line pointers; `offs` in ascending order. Up to two are
    /// removed one by one, keeping the physical order; more lead to a [`Page::repack`].
    pub fn multi_delete(&mut self, offs: &[u16]) -> Result<(), Error> {
        if offs.len() <= 2 {
            return offs.iter().rev().try_for_each(|off| self.delete(*off));
        }
        self.check()?;
        let max = self.max_offset();
        let mut gone = offs.iter().copied().peekable();
        let mut kept = 0u16;
        for off in 1..=max {
            if gone.next_if_eq(&off).is_some() {
                continue;
            }
            kept += 1;
            let lp = self.line_pointer(off)?;
            self.set_line_pointer(kept, lp)?;
        }
        if let Some(off) = gone.next() {
            return Err(Error::OffsetNumber { off, max });
        }
        self.set_lower((Self::slot(kept + 1)) as u16);
        self.repack()
    }

    /// Puts `item` in the place of the item behind line pointer `off`, keeping its state.
    pub fn overwrite(&mut self, off: u16, item: &[u8]) -> Result<(), Error> {
        let lp = self.padded(off)?;
        let (lower, upper) = (self.lower(), self.upper());
        let old = lp.space();
        let new = align8(item.len());
        if item.is_empty() || new > old + usize::from(upper - lower) {
            return Err(Error::NoRoom {
                wanted: item.len(),
                lower,
                upper,
            });
        }
        let by = old as i32 - new as i32;
        if by != 0 {
            let from = usize::from(upper);
            let to = from.checked_add_signed(by as isize).unwrap_or_default();
            self.move_bytes(from, to, usize::from(lp.offset()) - from)?;
            self.set_upper(to as u16);
            self.slide(lp.offset(), by)?;
        }
        let start = self.line_pointer(off)?.offset();
        self.set_line_pointer(off, LinePointer::new(start, lp.flags(), item.len() as u16))?;
        self.put(usize::from(start), item)
    }

    /// Packs all items with storage against the special space, in line pointer order from the
    /// end of the page downwards.
    pub fn repack(&mut self) -> Result<(), Error> {
        self.check()?;
        let old = *self.bytes;
        let (lower, special) = (
            usize::from(self.lower()),
            usize::from(self.special_offset()),
        );
        let mut upper = special;
        for off in 1..=self.max_offset() {
            let lp = self.line_pointer(off)?;
            if lp.is_empty() {
                continue;
            }
            let start = usize::from(lp.offset());
            let broken = Error::LinePointer {
                off,
                lp,
                why: "does not point into the tuple space",
            };
            if start < lower || start + lp.space() > special {
                return Err(broken);
            }
            upper = upper
                .checked_sub(lp.space())
                .filter(|u| *u >= lower)
                .ok_or(broken)?;
            let item = old.get(start..start + lp.space()).ok_or(broken)?;
            self.put(upper, item)?;
            self.set_line_pointer(off, lp.at(upper as u16))?;
        }
        self.set_upper(upper as u16);
        Ok(())
    }

    /// Heap: packs the tuples and maintains HAS_FREE_LINES. With `cut` (Postgres 15 and later)
    /// unused line pointers at the end are cut off as well.
    pub fn repair_fragmentation(&mut self, cut: bool) -> Result<(), Error> {
        self.check()?;
        let max = self.max_offset();
        let (mut unused, mut last_used) = (0u16, 0u16);
        for off in 1..=max {
            let lp = self.line_pointer(off)?;
            if lp.is_unused() {
                unused += 1;
                self.set_line_pointer(off, LinePointer::default())?;
            } else {
                last_used = off;
            }
        }
        self.repack()?;
        if cut {
            unused -= max - last_used;
            self.set_lower(Self::slot(last_used + 1) as u16);
        }
        let hint = if unused > 0 { PD_HAS_FREE_LINES } else { 0 };
        self.change_flags(PD_HAS_FREE_LINES, hint);
        Ok(())
    }

    /// Heap: cuts unused line pointers off the end, the first one excepted, and maintains
    /// HAS_FREE_LINES. Tuples do not move.
    pub fn truncate_line_pointers(&mut self) -> Result<(), Error> {
        self.check()?;
        let mut kept = self.max_offset();
        while kept > 1 && self.line_pointer(kept)?.is_unused() {
            kept -= 1;
        }
        self.set_lower(Self::slot(kept + 1) as u16);
        let mut hint = 0;
        for off in 1..=kept {
            if self.line_pointer(off)?.is_unused() {
                hint = PD_HAS_FREE_LINES;
                break;
            }
        }
        self.change_flags(PD_HAS_FREE_LINES, hint);
        Ok(())
    }
}
