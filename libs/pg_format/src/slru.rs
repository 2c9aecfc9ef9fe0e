//! SLRU files: geometry, segment names, commit log bits, multixact offsets and members.
//!
//! Pages of an SLRU have no header and no LSN. 32 pages make a segment file
//! (`access/slru.h`, `access/clog.c`, `access/multixact.c`; `docs/format/pgdata.md`).

use crate::page::Page;
use crate::xid::Xid;
use types::SlruKind;
use types::rel::SLRU_PAGES_PER_SEGMENT;

/// Transactions on a clog page.
pub const XIDS_PER_PAGE: u32 = 32_768;
/// Multixacts on an offsets page.
pub const OFFSETS_PER_PAGE: u32 = 2048;
/// Members on a members page: 409 groups of four, 12 bytes unused.
pub const MEMBERS_PER_PAGE: u32 = 1636;
/// Directory of commit timestamps, kept by some clusters.
pub const COMMIT_TS_DIRECTORY: &str = "pg_commit_ts";
/// Largest segment number of `pg_commit_ts`: 819 transactions on a page.
const COMMIT_TS_MAX_SEGMENT: u32 = u32::MAX / 819 / SLRU_PAGES_PER_SEGMENT;

/// A page of an SLRU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageNumber(pub u32);

impl PageNumber {
    /// Segment the page is in.
    pub const fn segment(self) -> u32 {
        self.0 / SLRU_PAGES_PER_SEGMENT
    }

    /// Place in the segment, 0 to 31.
    pub const fn block(self) -> u32 {
        self.0 % SLRU_PAGES_PER_SEGMENT
    }

    /// The page at this place. Saturates for segments no SLRU can have.
    pub const fn at(segment: u32, block: u32) -> PageNumber {
        PageNumber(
            segment
                .saturating_mul(SLRU_PAGES_PER_SEGMENT)
                .saturating_add(block),
        )
    }
}

/// Clog page of a transaction.
pub const fn clog_page(xid: Xid) -> PageNumber {
    PageNumber(xid / XIDS_PER_PAGE)
}

/// Offsets page of a multixact.
pub const fn offsets_page(multi: u32) -> PageNumber {
    PageNumber(multi / OFFSETS_PER_PAGE)
}

/// Members page of a member.
pub const fn members_page(member: u32) -> PageNumber {
    PageNumber(member / MEMBERS_PER_PAGE)
}

/// Largest segment number this SLRU can have.
pub const fn max_segment(kind: SlruKind) -> u32 {
    match kind {
        SlruKind::Clog => clog_page(u32::MAX).segment(),
        SlruKind::MultiXactMembers => members_page(u32::MAX).segment(),
        SlruKind::MultiXactOffsets => offsets_page(u32::MAX).segment(),
    }
}

/// File name of a segment: at least four upper-case hex digits.
pub fn segment_name(segment: u32) -> String {
    format!("{segment:04X}")
}

/// Path of a segment below the data directory.
pub fn segment_path(kind: SlruKind, segment: u32) -> String {
    format!("{}/{segment:04X}", kind.directory())
}

/// Segment number of a file name, if this SLRU can have it.
pub fn parse_segment_name(kind: SlruKind, name: &str) -> Option<u32> {
    parse_name(name, max_segment(kind))
}

/// Segment number of a file below `pg_commit_ts`.
pub fn parse_commit_ts_name(name: &str) -> Option<u32> {
    parse_name(name, COMMIT_TS_MAX_SEGMENT)
}

fn parse_name(name: &str, max: u32) -> Option<u32> {
    let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if !(4..=6).contains(&name.len()) || !name.bytes().all(digit) {
        return None;
    }
    let n = u32::from_str_radix(name, 16).ok().filter(|n| *n <= max)?;
    (segment_name(n) == name).then_some(n)
}

/// What the clog says about a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum XidStatus {
    /// Running, or crashed.
    InProgress = 0,
    /// Committed.
    Committed = 1,
    /// Aborted.
    Aborted = 2,
    /// Subtransaction whose parent decides.
    SubCommitted = 3,
}

const fn clog_place(xid: Xid) -> (usize, u32) {
    let entry = xid % XIDS_PER_PAGE;
    ((entry / 4) as usize, 2 * (entry % 4))
}

/// Status of `xid` on its clog page.
pub fn xid_status(page: &Page, xid: Xid) -> XidStatus {
    let (byte, shift) = clog_place(xid);
    match page.get(byte).map_or(0, |b| (b >> shift) & 3) {
        0 => XidStatus::InProgress,
        1 => XidStatus::Committed,
        2 => XidStatus::Aborted,
        _ => XidStatus::SubCommitted,
    }
}

/// Stores the status of `xid` on its clog page.
pub fn set_xid_status(page: &mut Page, xid: Xid, status: XidStatus) {
    let (byte, shift) = clog_place(xid);
    if let Some(b) = page.get_mut(byte) {
        *b = (*b & !(3 << shift)) | ((status as u8) << shift);
    }
}

fn offset_slot(multi: u32) -> usize {
    (multi % OFFSETS_PER_PAGE) as usize
}

/// Where the members of `multi` start, as its offsets page says; 0 if never written.
pub fn member_offset(page: &Page, multi: u32) -> u32 {
    page.as_chunks::<4>()
        .0
        .get(offset_slot(multi))
        .map_or(0, |b| u32::from_le_bytes(*b))
}

/// Stores where the members of `multi` start.
pub fn set_member_offset(page: &mut Page, multi: u32, offset: u32) {
    if let Some(b) = page.as_chunks_mut::<4>().0.get_mut(offset_slot(multi)) {
        *b = offset.to_le_bytes();
    }
}

/// Places of one member on its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberPlace {
    /// Byte offset of its status.
    pub status: usize,
    /// Byte offset of its transaction id, four bytes.
    pub xid: usize,
}

/// Where a member is on the page [`members_page`] names.
pub const fn member_place(member: u32) -> MemberPlace {
    let entry = member % MEMBERS_PER_PAGE;
    let group = (entry / 4 * 20) as usize;
    let n = (entry % 4) as usize;
    MemberPlace {
        status: group + n,
        xid: group + 4 + 4 * n,
    }
}

/// Fills holes in multixact offsets before they are handed to a server.
///
/// WAL of older minors sets one entry per multixact, so an entry created concurrently may still
/// be zero when a server is started in between; newer minors refuse such a zero. Every zero
/// entry from the oldest multixact up to the next one takes the value of the entry behind it,
/// and the last one the next free member offset. The multixact before a hole then ends where the
/// one behind the hole begins; the members in between have id 0, and readers skip them. The hole
/// itself has no members, which is right as long as no tuple names it, that is, as long as its
/// own creation has not been replayed. Entries outside that range are left alone; a server
/// writes the one at the next multixact when it starts.
///
/// Give the pages from the newest to the oldest, circularly: the value behind a page's last
/// entry stands on the page after it.
#[derive(Clone, Copy, Debug)]
pub struct OffsetRepair {
    oldest: u32,
    next: u32,
    following: u32,
}

impl OffsetRepair {
    /// Repairs multixacts from `oldest_multi` up to but excluding `next_multi`.
    pub const fn new(oldest_multi: u32, next_multi: u32, next_offset: u32) -> OffsetRepair {
        const fn nonzero(n: u32) -> u32 {
            if n == 0 { 1 } else { n }
        }
        OffsetRepair {
            oldest: nonzero(oldest_multi),
            next: nonzero(next_multi),
            following: nonzero(next_offset),
        }
    }

    /// Repairs one page; returns how many entries were filled.
    pub fn page(&mut self, number: PageNumber, page: &mut Page) -> u32 {
        let first = number.0.wrapping_mul(OFFSETS_PER_PAGE);
        let live = self.next.wrapping_sub(self.oldest);
        let mut filled = 0;
        for i in (0..OFFSETS_PER_PAGE).rev() {
            let multi = first.wrapping_add(i);
            if multi == 0 || multi.wrapping_sub(self.oldest) >= live {
                continue;
            }
            match member_offset(page, multi) {
                0 => {
                    set_member_offset(page, multi, self.following);
                    filled += 1;
                }
                offset => self.following = offset,
            }
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::PAGE_SIZE;

    #[test]
    fn geometry_at_the_ends() {
        assert_eq!(max_segment(SlruKind::Clog), 0xFFF);
        assert_eq!(max_segment(SlruKind::MultiXactOffsets), 0xFFFF);
        assert_eq!(max_segment(SlruKind::MultiXactMembers), 82_040);
        assert_eq!(clog_page(32_768 * 33).segment(), 1);
        assert_eq!(clog_page(32_768 * 33).block(), 1);
        assert_eq!(PageNumber::at(2, 5), PageNumber(69));
        assert_eq!(
            member_place(1635),
            MemberPlace {
                status: 8163,
                xid: 8176
            }
        );
        assert_eq!(member_place(1636), MemberPlace { status: 0, xid: 4 });
    }

    #[test]
    fn segment_names() {
        assert_eq!(segment_path(SlruKind::Clog, 0xAB), "pg_xact/00AB");
        assert_eq!(
            parse_segment_name(SlruKind::MultiXactMembers, "14078"),
            Some(82_040)
        );
        for bad in ["14079", "00001", "001", "00aB", "-001", "", "0000000"] {
            assert_eq!(
                parse_segment_name(SlruKind::MultiXactMembers, bad),
                None,
                "{bad}"
            );
        }
        assert_eq!(parse_segment_name(SlruKind::Clog, "1000"), None);
        assert_eq!(parse_commit_ts_name("28028"), Some(0x28028));
        assert_eq!(parse_commit_ts_name("28029"), None);
    }

    #[test]
    fn neighbours_keep_their_status() {
        let mut page = [0xFF; PAGE_SIZE];
        set_xid_status(&mut page, 32_768 + 6, XidStatus::Committed);
        assert_eq!(page[1], 0b1101_1111);
        assert_eq!(xid_status(&page, 6), XidStatus::Committed);
        assert_eq!(xid_status(&page, 5), XidStatus::SubCommitted);
    }

    #[test]
    fn holes_take_the_offset_behind_them_across_pages() {
        let mut pages = [[0; PAGE_SIZE]; 2];
        for (multi, offset) in [(2046, 10), (2049, 14)] {
            set_member_offset(&mut pages[multi as usize / 2048], multi, offset);
        }
        let mut repair = OffsetRepair::new(2045, 2052, 20);
        let [older, newer] = &mut pages;
        assert_eq!(repair.page(PageNumber(1), newer), 3);
        assert_eq!(repair.page(PageNumber(0), older), 2);
        let got: Vec<_> = (2044..2053)
            .map(|m| member_offset(&pages[m as usize / 2048], m))
            .collect();
        assert_eq!(got, [0, 10, 10, 14, 14, 14, 20, 20, 0]);
    }

    #[test]
    fn multixact_zero_is_never_filled() {
        let mut page = [0; PAGE_SIZE];
        let mut repair = OffsetRepair::new(0xFFFF_FFFE, 2, 0);
        assert_eq!(repair.page(PageNumber(0), &mut page), 1);
        assert_eq!((member_offset(&page, 0), member_offset(&page, 1)), (0, 1));
        let mut last = [0; PAGE_SIZE];
        assert_eq!(repair.page(offsets_page(u32::MAX), &mut last), 2);
        let mut untouched = [0; PAGE_SIZE];
        assert_eq!(
            OffsetRepair::new(5, 5, 9).page(PageNumber(0), &mut untouched),
            0
        );
    }

    proptest! {
        #[test]
        fn status_round_trips(xid in any::<u32>(), fill in any::<u8>(), status in 0usize..4) {
            let status = [
                XidStatus::InProgress, XidStatus::Committed, XidStatus::Aborted, XidStatus::SubCommitted,
            ][status];
            let mut page = [fill; PAGE_SIZE];
            set_xid_status(&mut page, xid, status);
            prop_assert_eq!(xid_status(&page, xid), status);
            let others = (0..XIDS_PER_PAGE).filter(|x| *x != xid % XIDS_PER_PAGE);
            for x in others.step_by(97) {
                prop_assert_eq!(xid_status(&page, x) as u8, (fill >> (2 * (x % 4))) & 3);
            }
        }

        #[test]
        fn names_round_trip(n in 0u32..=82_040) {
            prop_assert_eq!(parse_segment_name(SlruKind::MultiXactMembers, &segment_name(n)), Some(n));
        }

        #[test]
        fn repair_agrees_with_a_backward_scan(
            entries in proptest::collection::btree_map(0u32..4096, 1u32..1000, 0..40),
            oldest in 1u32..4096, len in 0u32..4096, next_offset in 1u32..1000,
        ) {
            let next = (oldest + len).min(4096);
            let mut pages = [[0; PAGE_SIZE]; 2];
            for (m, o) in &entries {
                set_member_offset(&mut pages[*m as usize / 2048], *m, *o);
            }
            let mut repair = OffsetRepair::new(oldest, next, next_offset);
            let [older, newer] = &mut pages;
            repair.page(PageNumber(1), newer);
            repair.page(PageNumber(0), older);
            for m in 0..4096 {
                let stored = entries.get(&m).copied().unwrap_or(0);
                let behind = entries.range(m..next.max(m)).next().map_or(next_offset, |(_, o)| *o);
                let expected = if stored == 0 && (oldest..next).contains(&m) { behind } else { stored };
                prop_assert_eq!(member_offset(&pages[m as usize / 2048], m), expected, "{}", m);
            }
        }
    }
}
