//! Layouts of heap records: vanilla, Neon's 14 and 15, Neon's own manager in 16 and 17.
//!
//! Neon keeps command ids across replay, so its records carry them.

use crate::error::Fault;
use pg_wal::cursor::Cursor;

/// Who laid the record out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Postgres itself.
    Vanilla,
    /// Neon's 14 and 15, under the ids of Heap and Heap2.
    NeonHeap,
    /// Neon's manager 134.
    NeonManager,
}

/// Change of one existing tuple: DELETE, LOCK, LOCK_UPDATED and the old side of updates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub xmax: u32,
    pub off: u16,
    pub infobits: u8,
    pub flags: u8,
    /// Command id; 0 in vanilla records.
    pub cid: u32,
}

/// Main data of UPDATE and HOT_UPDATE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    pub old: Change,
    pub new_xmax: u32,
    pub new_off: u16,
}

/// Main data of MULTI_INSERT, up to the offset numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multi {
    pub flags: u8,
    pub count: u16,
    /// Command id of all tuples, where it is not in their headers.
    pub cid: u32,
}

/// Header of a tuple in block data.
#[derive(Clone, Copy, Debug)]
pub(super) struct TupleHeader {
    pub infomask2: u16,
    pub infomask: u16,
    pub cid: u32,
    pub hoff: u8,
}

impl Form {
    /// True if the record carries command ids.
    pub fn is_neon(self) -> bool {
        self != Form::Vanilla
    }

    pub fn delete(self, main: &[u8]) -> Result<Change, Fault> {
        let mut c = Cursor::new(main, "heap delete record");
        let (xmax, off) = (c.u32()?, c.u16()?);
        match self {
            Form::NeonHeap => Self::padded_tail(c, xmax, off),
            _ => {
                let (infobits, flags) = (c.u8()?, c.u8()?);
                let cid = if self == Form::NeonManager {
                    c.u32()?
                } else {
                    0
                };
                Ok(Change {
                    xmax,
                    off,
                    infobits,
                    flags,
                    cid,
                })
            }
        }
    }

    pub fn lock(self, main: &[u8]) -> Result<Change, Fault> {
        let mut c = Cursor::new(main, "heap lock record");
        let xmax = c.u32()?;
        match self {
            Form::Vanilla => {
                let (off, infobits, flags) = (c.u16()?, c.u8()?, c.u8()?);
                Ok(Change {
                    xmax,
                    off,
                    infobits,
                    flags,
                    cid: 0,
                })
            }
            Form::NeonHeap => {
                let off = c.u16()?;
                Self::padded_tail(c, xmax, off)
            }
            Form::NeonManager => {
                let (cid, off, infobits, flags) = (c.u32()?, c.u16()?, c.u8()?, c.u8()?);
                Ok(Change {
                    xmax,
                    off,
                    infobits,
                    flags,
                    cid,
                })
            }
        }
    }

    fn padded_tail(mut c: Cursor<'_>, xmax: u32, off: u16) -> Result<Change, Fault> {
        c.skip(2)?;
        let (cid, infobits, flags) = (c.u32()?, c.u8()?, c.u8()?);
        Ok(Change {
            xmax,
            off,
            infobits,
            flags,
            cid,
        })
    }

    /// LOCK_UPDATED has one layout.
    pub fn lock_updated(main: &[u8]) -> Result<Change, Fault> {
        Form::Vanilla.lock(main)
    }

    pub fn update(self, main: &[u8]) -> Result<Update, Fault> {
        let mut c = Cursor::new(main, "heap update record");
        let (xmax, off, infobits, flags) = (c.u32()?, c.u16()?, c.u8()?, c.u8()?);
        let cid = if self.is_neon() { c.u32()? } else { 0 };
        let old = Change {
            xmax,
            off,
            infobits,
            flags,
            cid,
        };
        Ok(Update {
            old,
            new_xmax: c.u32()?,
            new_off: c.u16()?,
        })
    }

    /// Offset number and flags of INSERT.
    pub fn insert(main: &[u8]) -> Result<(u16, u8), Fault> {
        let mut c = Cursor::new(main, "heap insert record");
        Ok((c.u16()?, c.u8()?))
    }

    /// Also returns the cursor, which stands before the offset numbers.
    pub fn multi(self, main: &[u8]) -> Result<(Multi, Cursor<'_>), Fault> {
        let mut c = Cursor::new(main, "heap multi-insert record");
        let flags = c.u8()?;
        c.skip(1)?;
        let count = c.u16()?;
        let cid = if self == Form::NeonManager {
            c.u32()?
        } else {
            0
        };
        Ok((Multi { flags, count, cid }, c))
    }

    #[inline]
    pub fn tuple_header(self, c: &mut Cursor<'_>) -> Result<TupleHeader, Fault> {
        let (infomask2, infomask) = (c.u16()?, c.u16()?);
        let cid = if self.is_neon() { c.u32()? } else { 0 };
        Ok(TupleHeader {
            infomask2,
            infomask,
            cid,
            hoff: c.u8()?,
        })
    }

    /// Length of the tuple behind the header, and the header, in MULTI_INSERT.
    #[inline]
    pub fn multi_header(self, c: &mut Cursor<'_>, cid: u32) -> Result<(usize, TupleHeader), Fault> {
        c.align(2)?;
        let len = usize::from(c.u16()?);
        let (infomask2, infomask) = (c.u16()?, c.u16()?);
        let cid = if self == Form::NeonHeap {
            c.skip(2)?;
            c.u32()?
        } else {
            cid
        };
        Ok((
            len,
            TupleHeader {
                infomask2,
                infomask,
                cid,
                hoff: c.u8()?,
            },
        ))
    }
}
