//! Redo of internal records on SLRU pages: commit log and multixacts.
//!
//! SLRU pages have neither header nor LSN; every change here is idempotent.

use crate::buf::PageBuf;
use crate::error::Error;
use crate::redo::{Outcome, slru_page};
use types::{BlockNumber, Key, Lsn, PAGE_SIZE, SlruKind, WalRecord};

const XACTS_PER_PAGE: u32 = 32768;
const OFFSETS_PER_PAGE: u32 = 2048;
/// A group is four status bytes and four transaction ids.
const GROUP_SIZE: usize = 20;
const GROUPS_PER_PAGE: u32 = 409;
const MEMBERS_PER_GROUP: u32 = 4;
/// Members on one page of `pg_multixact/members`.
pub const MEMBERS_PER_PAGE: u32 = GROUPS_PER_PAGE * MEMBERS_PER_GROUP;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;

/// Applies an internal record to an SLRU page.
pub(crate) fn internal(
    buf: &mut PageBuf,
    key: &Key,
    (kind, segment, block): (SlruKind, u32, BlockNumber),
    lsn: Lsn,
    rec: &WalRecord,
) -> Result<Outcome, Error> {
    let number = slru_page(segment, block);
    let err = |record, rule| Error::Internal {
        lsn,
        key: *key,
        record,
        rule,
    };
    let Some(page) = buf.page_mut() else {
        return Err(Error::MissingBase { lsn, key: *key });
    };
    let elsewhere = "an entry belongs to another page";
    match (kind, rec) {
        (SlruKind::Clog, WalRecord::ClogSetCommitted { xids, timestamp }) => {
            set_status(page, number, xids, COMMITTED).ok_or(err("ClogSetCommitted", elsewhere))?;
            buf.set_tail(timestamp.to_be_bytes());
        }
        (SlruKind::Clog, WalRecord::ClogSetAborted { xids }) => {
            set_status(page, number, xids, ABORTED).ok_or(err("ClogSetAborted", elsewhere))?;
        }
        (SlruKind::MultiXactOffsets, WalRecord::MultixactOffsetCreate { mid, moff }) => {
            let at = entry(number, *mid, OFFSETS_PER_PAGE).map(|e| e as usize * 4);
            at.and_then(|at| put(page, at, moff.to_le_bytes()))
                .ok_or(err("MultixactOffsetCreate", elsewhere))?;
        }
        (SlruKind::MultiXactMembers, WalRecord::MultixactMembersCreate { moff, members }) => {
            let mut member = *moff;
            for (xid, status) in members {
                set_member(page, number, member, *xid, *status)
                    .ok_or(err("MultixactMembersCreate", elsewhere))?;
                member = member.wrapping_add(1);
            }
        }
        (_, rec) => return Err(err(kind_of(rec), "not a record for this kind of page")),
    }
    Ok(Outcome::Changed)
}

/// Name of an internal record's kind.
pub(crate) const fn kind_of(rec: &WalRecord) -> &'static str {
    match rec {
        WalRecord::Postgres { .. } => "Postgres",
        WalRecord::ClearVisibilityMapFlags { .. } => "ClearVisibilityMapFlags",
        WalRecord::ClogSetCommitted { .. } => "ClogSetCommitted",
        WalRecord::ClogSetAborted { .. } => "ClogSetAborted",
        WalRecord::MultixactOffsetCreate { .. } => "MultixactOffsetCreate",
        WalRecord::MultixactMembersCreate { .. } => "MultixactMembersCreate",
        WalRecord::AuxFile { .. } => "AuxFile",
        WalRecord::TruncateVisibilityMap { .. } => "TruncateVisibilityMap",
    }
}

/// Place of `id` on page `number`, if it lives there.
fn entry(number: u64, id: u32, per_page: u32) -> Option<u32> {
    (u64::from(id / per_page) == number).then_some(id % per_page)
}

fn put<const N: usize>(page: &mut [u8; PAGE_SIZE], at: usize, v: [u8; N]) -> Option<()> {
    *page.get_mut(at..)?.first_chunk_mut::<N>()? = v;
    Some(())
}

fn set_status(page: &mut [u8; PAGE_SIZE], number: u64, xids: &[u32], status: u8) -> Option<()> {
    for xid in xids {
        let e = entry(number, *xid, XACTS_PER_PAGE)?;
        let byte = page.get_mut(e as usize / 4)?;
        let shift = e % 4 * 2;
        *byte = *byte & !(3 << shift) | status << shift;
    }
    Some(())
}

fn set_member(
    page: &mut [u8; PAGE_SIZE],
    number: u64,
    member: u32,
    xid: u32,
    status: u32,
) -> Option<()> {
    let e = entry(number, member, MEMBERS_PER_PAGE)?;
    let group = (e / MEMBERS_PER_GROUP) as usize * GROUP_SIZE;
    let slot = (e % MEMBERS_PER_GROUP) as usize;
    // Statuses are 0 to 5; the byte is all the page has room for.
    put(page, group + slot, [(status & 0xFF) as u8])?;
    put(page, group + 4 + 4 * slot, xid.to_le_bytes())
}
