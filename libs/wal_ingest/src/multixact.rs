//! Multixacts: offsets, members, truncation.

use crate::error::Cause;
use crate::ingest::Ingest;
use crate::slru::{page_precedes, segment_precedes};
use crate::store::Store;
use pg_format::xid::{FIRST_NORMAL_XID, xid_precedes};
use pg_wal::Record;
use pg_wal::rmgr::multixact::{MEMBERS_PER_PAGE, Members, MultiXact, OFFSETS_PER_PAGE};
use types::rel::SLRU_PAGES_PER_SEGMENT;
use types::{SlruKind, WalRecord};

/// First ordinary multixact plus one.
const OFFSETS_BASE: u32 = 2;
/// Members per segment.
const MEMBERS_PER_SEGMENT: u32 = MEMBERS_PER_PAGE * SLRU_PAGES_PER_SEGMENT;

impl Ingest {
    pub(crate) async fn multixact<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        match MultiXact::parse(rec, self.cfg.version)? {
            MultiXact::ZeroOffsetsPage(page) => {
                self.slru_zero(store, SlruKind::MultiXactOffsets, page)
                    .await
            }
            MultiXact::ZeroMembersPage(page) => {
                self.slru_zero(store, SlruKind::MultiXactMembers, page)
                    .await
            }
            MultiXact::Create { mid, moff, members } => {
                self.multixact_create(store, mid, moff, members).await
            }
            MultiXact::Truncate {
                oldest_multi_db,
                end_off,
                start_memb,
                end_memb,
                ..
            } => {
                self.checkpoint.oldest_multi = end_off;
                self.checkpoint.oldest_multi_db = oldest_multi_db;
                self.checkpoint_changed = true;
                self.multixact_truncate(store, end_off, start_memb, end_memb)
                    .await
            }
        }
    }

    async fn multixact_create<S: Store>(
        &mut self,
        store: &S,
        mid: u32,
        moff: u32,
        members: Members<'_>,
    ) -> Result<(), Cause> {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.checkpoint_changed |= self.checkpoint.note_multixact(mid, moff, count);
        let normal = members
            .iter()
            .map(|(xid, _)| xid)
            .filter(|x| *x >= FIRST_NORMAL_XID);
        if let Some(newest) = normal.reduce(|a, b| if xid_precedes(a, b) { b } else { a }) {
            self.checkpoint_changed |= self.checkpoint.note_xid(newest);
        }
        let offset = WalRecord::MultixactOffsetCreate { mid, moff };
        self.slru_change(
            store,
            SlruKind::MultiXactOffsets,
            mid / OFFSETS_PER_PAGE,
            offset,
        )
        .await?;

        let mut members = members.iter().peekable();
        let mut at = moff;
        while members.peek().is_some() {
            // The last page of all is short: offsets wrap to 0 before its end.
            let room =
                (MEMBERS_PER_PAGE - at % MEMBERS_PER_PAGE).min((u32::MAX - at).saturating_add(1));
            let part: Vec<_> = members.by_ref().take(room as usize).collect();
            let next = at.wrapping_add(u32::try_from(part.len()).unwrap_or(0));
            let page = at / MEMBERS_PER_PAGE;
            let change = WalRecord::MultixactMembersCreate {
                moff: at,
                members: part,
            };
            self.slru_change(store, SlruKind::MultiXactMembers, page, change)
                .await?;
            at = next;
        }
        Ok(())
    }

    async fn multixact_truncate<S: Store>(
        &mut self,
        store: &S,
        end_off: u32,
        start_memb: u32,
        end_memb: u32,
    ) -> Result<(), Cause> {
        let (from, to) = (
            start_memb / MEMBERS_PER_SEGMENT,
            end_memb / MEMBERS_PER_SEGMENT,
        );
        let gone = |s| {
            if from <= to {
                (from..to).contains(&s)
            } else {
                s >= from || s < to
            }
        };
        self.slru_drop(store, SlruKind::MultiXactMembers, gone)
            .await?;

        // The page of the newest multixact removed may hold the oldest one that stays.
        let cutoff = match end_off.wrapping_sub(1) {
            0 => u32::MAX,
            m => m,
        } / OFFSETS_PER_PAGE;
        let newest = self.checkpoint.next_multi / OFFSETS_PER_PAGE;
        if page_precedes(newest, cutoff, OFFSETS_PER_PAGE, OFFSETS_BASE) {
            return Ok(());
        }
        let gone = |s| segment_precedes(s, cutoff, OFFSETS_PER_PAGE, OFFSETS_BASE);
        self.slru_drop(store, SlruKind::MultiXactOffsets, gone)
            .await
    }
}
