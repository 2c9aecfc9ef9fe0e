//! Heap tuple headers on a page (Postgres header `access/htup_details.h`).

use crate::error::Fault;
use crate::page::{self, Page, Place};
use types::BlockNumber;

/// Length of the fixed header in bytes; the null bitmap follows.
pub(super) const HEADER_SIZE: usize = 23;

pub(super) const KEYSHR_LOCK: u16 = 0x0010;
pub(super) const COMBOCID: u16 = 0x0020;
pub(super) const EXCL_LOCK: u16 = 0x0040;
pub(super) const LOCK_ONLY: u16 = 0x0080;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
pub(super) const IS_MULTI: u16 = 0x1000;
const MOVED: u16 = 0xC000;

const KEYS_UPDATED: u16 = 0x2000;
pub(super) const HOT_UPDATED: u16 = 0x4000;

/// Offset number of a `ctid` that says the row moved to another partition.
const MOVED_PARTITIONS: u16 = 0xFFFD;

const XMIN: usize = 0;
const XMAX: usize = 4;
const FIELD3: usize = 8;
const CTID: usize = 12;
const INFOMASK2: usize = 18;
const INFOMASK: usize = 20;
const HOFF: usize = 22;

/// A tuple that exists on the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuple {
    /// Byte offset of the header in the page.
    pub at: usize,
    /// Length in bytes, header included, padding not.
    pub len: usize,
    pub infomask: u16,
    pub infomask2: u16,
    /// `t_hoff`: length of header, null bitmap and padding.
    pub hoff: usize,
}

impl Tuple {
    /// The tuple behind line pointer `off`, which must be NORMAL.
    #[inline]
    pub fn find(page: &Page<'_>, off: u16) -> Result<Tuple, Fault> {
        let lp = page.line_pointer(off)?;
        if !lp.is_normal() || usize::from(lp.len()) < HEADER_SIZE {
            return Err(page::Error::LinePointer {
                off,
                lp,
                why: "is not that of a tuple",
            }
            .into());
        }
        page.stored(off)?;
        let at = usize::from(lp.offset());
        Ok(Tuple {
            at,
            len: usize::from(lp.len()),
            infomask: page.u16_at(at + INFOMASK)?,
            infomask2: page.u16_at(at + INFOMASK2)?,
            hoff: usize::from(page.u8_at(at + HOFF)?),
        })
    }

    /// Start and length of the user data in the page.
    pub fn data(&self) -> Result<(usize, usize), Fault> {
        match self.len.checked_sub(self.hoff) {
            Some(len) if self.hoff >= HEADER_SIZE => Ok((self.at + self.hoff, len)),
            _ => Err(Fault::Rule("t_hoff is outside the tuple")),
        }
    }

    /// Forgets who deleted, updated or locked the tuple.
    pub fn clear_xmax(&mut self) {
        self.infomask &= !(XMAX_COMMITTED
            | XMAX_INVALID
            | IS_MULTI
            | KEYSHR_LOCK
            | EXCL_LOCK
            | LOCK_ONLY
            | MOVED);
        self.infomask2 &= !KEYS_UPDATED;
    }

    /// Takes the lock bits of a record. With `combo` (Neon's records) the combo-cid bit too.
    pub fn set_infobits(&mut self, bits: u8, combo: bool) {
        self.infomask &= !(IS_MULTI | LOCK_ONLY | KEYSHR_LOCK | EXCL_LOCK);
        self.infomask2 &= !KEYS_UPDATED;
        for (bit, mask) in [
            (1, IS_MULTI),
            (2, LOCK_ONLY),
            (4, EXCL_LOCK),
            (8, KEYSHR_LOCK),
        ] {
            if bits & bit != 0 {
                self.infomask |= mask;
            }
        }
        if bits & 0x10 != 0 {
            self.infomask2 |= KEYS_UPDATED;
        }
        if combo {
            self.infomask &= !COMBOCID;
            if bits & 0x20 != 0 {
                self.infomask |= COMBOCID;
            }
        }
    }

    /// Sets the command id; vanilla records carry none and `cid` is 0 without a combo cid.
    pub fn set_command(&mut self, page: &mut Page<'_>, cid: u32, neon: bool) -> Result<(), Fault> {
        if !neon {
            self.infomask &= !COMBOCID;
        }
        Ok(page.put_u32(self.at + FIELD3, cid)?)
    }

    /// True if xmax only locks the tuple.
    pub fn is_locked_only(&self) -> bool {
        self.infomask & LOCK_ONLY != 0
            || self.infomask & (IS_MULTI | EXCL_LOCK | KEYSHR_LOCK) == EXCL_LOCK
    }

    /// Writes both infomasks back.
    pub fn store_masks(&self, page: &mut Page<'_>) -> Result<(), Fault> {
        page.put_u16(self.at + INFOMASK2, self.infomask2)?;
        Ok(page.put_u16(self.at + INFOMASK, self.infomask)?)
    }

    pub fn set_xmin(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Fault> {
        Ok(page.put_u32(self.at + XMIN, xid)?)
    }

    pub fn set_xmax(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Fault> {
        Ok(page.put_u32(self.at + XMAX, xid)?)
    }

    pub fn set_xvac(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Fault> {
        Ok(page.put_u32(self.at + FIELD3, xid)?)
    }

    pub fn set_ctid(&self, page: &mut Page<'_>, block: BlockNumber, off: u16) -> Result<(), Fault> {
        Ok(page.put(self.at + CTID, &tid(block, off))?)
    }

    /// Says that the row went to another partition.
    pub fn set_moved_partitions(&self, page: &mut Page<'_>) -> Result<(), Fault> {
        self.set_ctid(page, BlockNumber::MAX, MOVED_PARTITIONS)
    }
}

/// The part of a tuple header that records carry, and where the tuple goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub xmin: u32,
    pub xmax: u32,
    pub field3: u32,
    pub block: BlockNumber,
    pub off: u16,
    pub infomask2: u16,
    pub infomask: u16,
    pub hoff: u8,
}

impl New {
    /// Makes room for the tuple, writes its header and returns where byte 23 goes; `rest` bytes
    /// have to follow.
    #[inline]
    pub fn place(&self, page: &mut Page<'_>, rest: usize) -> Result<usize, Fault> {
        let at = page.reserve(HEADER_SIZE + rest, self.off, Place::Heap)?;
        let mut h = [0u8; HEADER_SIZE];
        let [b0, b1, b2, b3, o0, o1] = tid(self.block, self.off);
        let [n0, n1, n2, n3] = self.xmin.to_le_bytes();
        let [x0, x1, x2, x3] = self.xmax.to_le_bytes();
        let [c0, c1, c2, c3] = self.field3.to_le_bytes();
        let [i0, i1] = self.infomask2.to_le_bytes();
        let [j0, j1] = self.infomask.to_le_bytes();
        h.copy_from_slice(&[
            n0, n1, n2, n3, x0, x1, x2, x3, c0, c1, c2, c3, b0, b1, b2, b3, o0, o1, i0, i1, j0, j1,
            self.hoff,
        ]);
        page.put(at, &h)?;
        Ok(at + HEADER_SIZE)
    }
}

/// A tuple id: block number with its high half first, then the offset number.
pub(super) fn tid(block: BlockNumber, off: u16) -> [u8; 6] {
    let [h0, h1] = ((block >> 16) as u16).to_le_bytes();
    let [l0, l1] = ((block & 0xFFFF) as u16).to_le_bytes();
    let [o0, o1] = off.to_le_bytes();
    [h0, h1, l0, l1, o0, o1]
}
