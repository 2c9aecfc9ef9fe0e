//! Multixact records (`access/multixact.h`).

use super::{Error, opcode, slru_page};
use crate::cursor::Cursor;
use crate::record::Record;
use types::{Oid, PgMajor};

/// Offsets per page.
pub const OFFSETS_PER_PAGE: u32 = 2048;
/// Members per page: 409 groups of four.
pub const MEMBERS_PER_PAGE: u32 = 1636;
/// Pages the offsets can have.
pub const OFFSET_PAGES: u32 = (1 << 31) / (OFFSETS_PER_PAGE / 2);
/// Pages the members can have.
pub const MEMBER_PAGES: u32 = u32::MAX / MEMBERS_PER_PAGE + 1;

/// Members of a multixact: (xid, status) each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Members<'a>(&'a [[u8; 8]]);

impl<'a> Members<'a> {
    /// Number of members.
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// True without members.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// (xid, status) in record order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (u32, u32)> + 'a {
        self.0.iter().map(|b| {
            let [a0, a1, a2, a3, b0, b1, b2, b3] = *b;
            (
                u32::from_le_bytes([a0, a1, a2, a3]),
                u32::from_le_bytes([b0, b1, b2, b3]),
            )
        })
    }
}

/// A multixact record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MultiXact<'a> {
    /// An offsets page comes into being, all zero.
    ZeroOffsetsPage(u32),
    /// A members page comes into being, all zero.
    ZeroMembersPage(u32),
    /// A multixact is created.
    Create {
        /// Its id.
        mid: u32,
        /// Offset of its first member.
        moff: u32,
        /// Its members.
        members: Members<'a>,
    },
    /// Old multixacts go away.
    Truncate {
        /// Database with the oldest one that stays.
        oldest_multi_db: Oid,
        /// First multixact removed.
        start_off: u32,
        /// First multixact that stays.
        end_off: u32,
        /// Offset of the first member removed.
        start_memb: u32,
        /// Offset of the first member that stays.
        end_memb: u32,
    },
}

impl<'a> MultiXact<'a> {
    /// Parses a record of this manager.
    pub fn parse(rec: &Record<'a>, version: PgMajor) -> Result<MultiXact<'a>, Error> {
        const WHAT: &str = "multixact record";
        let mut c = Cursor::new(rec.main, WHAT);
        Ok(match rec.op() {
            0x00 => MultiXact::ZeroOffsetsPage(slru_page(&mut c, WHAT, version, OFFSET_PAGES)?),
            0x10 => MultiXact::ZeroMembersPage(slru_page(&mut c, WHAT, version, MEMBER_PAGES)?),
            0x20 => {
                let (mid, moff) = (c.u32()?, c.u32()?);
                MultiXact::Create {
                    mid,
                    moff,
                    members: Members(super::list(&mut c, WHAT)?),
                }
            }
            0x30 => MultiXact::Truncate {
                oldest_multi_db: c.u32()?,
                start_off: c.u32()?,
                end_off: c.u32()?,
                start_memb: c.u32()?,
                end_memb: c.u32()?,
            },
            _ => return Err(opcode::unknown(&rec.header, version)),
        })
    }
}
