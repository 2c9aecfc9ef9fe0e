//! Pages and segments of the commit log and of multixacts. Kept by shard zero only.

use crate::cache::Cached;
use crate::error::Cause;
use crate::ingest::Ingest;
use crate::pending::ZERO_PAGE;
use crate::store::Store;
use bytes::Bytes;
use pg_format::slru::{XidStatus, member_place, set_member_offset, set_xid_status};
use pg_format::xid::circular_precedes;
use pg_wal::Record;
use pg_wal::rmgr::clog::{Clog, XIDS_PER_PAGE};
use types::directory::{self, SlruDirectory};
use types::rel::SLRU_PAGES_PER_SEGMENT;
use types::{Key, PAGE_SIZE, SlruKind, WalRecord};

/// True if SLRU page `a` is older than `b` with all its entries. `base` is the first ordinary
/// entry plus one (`clog.c`, `multixact.c`: `PagePrecedes`).
pub(crate) fn page_precedes(a: u32, b: u32, per_page: u32, base: u32) -> bool {
    let first = |page: u32| page.wrapping_mul(per_page).wrapping_add(base);
    let (a, b) = (first(a), first(b));
    circular_precedes(a, b) && circular_precedes(a, b.wrapping_add(per_page - 1))
}

/// True if every page of a segment precedes `cutoff`.
pub(crate) fn segment_precedes(segment: u32, cutoff: u32, per_page: u32, base: u32) -> bool {
    let first = segment.wrapping_mul(SLRU_PAGES_PER_SEGMENT);
    let last = first.wrapping_add(SLRU_PAGES_PER_SEGMENT - 1);
    page_precedes(first, cutoff, per_page, base) && page_precedes(last, cutoff, per_page, base)
}

/// First ordinary transaction id plus one.
const CLOG_BASE: u32 = 4;

/// What a change makes of a page of zeros (`docs/format/values.md`).
fn on_zeros(change: &WalRecord) -> Bytes {
    let mut page = [0; PAGE_SIZE];
    let mut tail = None;
    match change {
        WalRecord::ClogSetCommitted { xids, timestamp } => {
            xids.iter()
                .for_each(|x| set_xid_status(&mut page, *x, XidStatus::Committed));
            tail = Some(timestamp.to_be_bytes());
        }
        WalRecord::ClogSetAborted { xids } => {
            xids.iter()
                .for_each(|x| set_xid_status(&mut page, *x, XidStatus::Aborted));
        }
        WalRecord::MultixactOffsetCreate { mid, moff } => set_member_offset(&mut page, *mid, *moff),
        WalRecord::MultixactMembersCreate { moff, members } => {
            for (i, (xid, status)) in (0u32..).zip(members) {
                let place = member_place(moff.wrapping_add(i));
                if let Some(byte) = page.get_mut(place.status) {
                    *byte = *status as u8;
                }
                if let Some(field) = page.get_mut(place.xid..place.xid + 4) {
                    field.copy_from_slice(&xid.to_le_bytes());
                }
            }
        }
        _ => {}
    }
    let mut value = page.to_vec();
    value.extend(tail.iter().flatten());
    value.into()
}

impl Ingest {
    /// The segments of an SLRU.
    pub(crate) async fn segments<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
    ) -> Result<&mut Cached<SlruDirectory>, Cause> {
        let key = Key::slru_dir(kind);
        if !self.cache.slrus.contains_key(&kind) {
            let bytes = self.must(store, key).await?;
            let dir =
                SlruDirectory::decode(&bytes).map_err(|source| Cause::Value { key, source })?;
            self.cache.slrus.insert(kind, Cached::clean(dir));
        }
        self.cache
            .slrus
            .get_mut(&kind)
            .ok_or(Cause::Missing { key })
    }

    /// Pages in a segment; `None` if it does not exist.
    async fn segment_size<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
        segment: u32,
    ) -> Result<Option<u32>, Cause> {
        if let Some(n) = self.cache.segments.get(&(kind, segment)) {
            return Ok(Some(*n));
        }
        if !self
            .segments(store, kind)
            .await?
            .value
            .segments
            .contains(&segment)
        {
            return Ok(None);
        }
        let key = Key::slru_segment_size(kind, segment);
        let bytes = self.must(store, key).await?;
        let n = directory::decode_size(&bytes).map_err(|source| Cause::Value { key, source })?;
        self.cache.segments.insert((kind, segment), n);
        Ok(Some(n))
    }

    /// Makes the segment reach up to `page`, with empty pages before it. The page itself is the
    /// caller's to write. True if the page was not there.
    async fn slru_grow<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
        page: u32,
    ) -> Result<bool, Cause> {
        let (segment, block) = (page / SLRU_PAGES_PER_SEGMENT, page % SLRU_PAGES_PER_SEGMENT);
        let old = match self.segment_size(store, kind, segment).await? {
            Some(n) => n,
            None => {
                self.segments(store, kind)
                    .await?
                    .edit()
                    .segments
                    .insert(segment);
                0
            }
        };
        if block < old {
            return Ok(false);
        }
        self.cache.segments.insert((kind, segment), block + 1);
        let size = directory::encode_size(block + 1);
        self.out.put(Key::slru_segment_size(kind, segment), size);
        for g in old..block {
            self.out
                .put_image(Key::slru_block(kind, segment, g), &ZERO_PAGE)?;
        }
        Ok(true)
    }

    fn keeps_slrus(&self) -> bool {
        self.cfg.shard.index.is_zero()
    }

    /// Writes a page of zeros.
    pub(crate) async fn slru_zero<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
        page: u32,
    ) -> Result<(), Cause> {
        if !self.keeps_slrus() {
            return Ok(());
        }
        self.slru_grow(store, kind, page).await?;
        let (segment, block) = (page / SLRU_PAGES_PER_SEGMENT, page % SLRU_PAGES_PER_SEGMENT);
        self.out
            .put_image(Key::slru_block(kind, segment, block), &ZERO_PAGE)
    }

    /// Changes a page. One that no record created is taken for zeros, as Postgres's replay does.
    pub(crate) async fn slru_change<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
        page: u32,
        change: WalRecord,
    ) -> Result<(), Cause> {
        if !self.keeps_slrus() {
            return Ok(());
        }
        let (segment, block) = (page / SLRU_PAGES_PER_SEGMENT, page % SLRU_PAGES_PER_SEGMENT);
        let key = Key::slru_block(kind, segment, block);
        if self.slru_grow(store, kind, page).await? {
            self.counters.slru_pages_made_up += 1;
            return self.out.put_image(key, &on_zeros(&change));
        }
        self.out.put_change(key, change)
    }

    /// Removes the segments that `gone` names.
    pub(crate) async fn slru_drop<S: Store>(
        &mut self,
        store: &S,
        kind: SlruKind,
        gone: impl Fn(u32) -> bool + Send,
    ) -> Result<(), Cause> {
        if !self.keeps_slrus() {
            return Ok(());
        }
        let dir = self.segments(store, kind).await?;
        if dir.value.segments.iter().any(|s| gone(*s)) {
            dir.edit().segments.retain(|s| !gone(*s));
            self.cache
                .segments
                .retain(|(k, s), _| *k != kind || !gone(*s));
        }
        Ok(())
    }

    pub(crate) async fn clog<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        match Clog::parse(rec, self.cfg.version)? {
            Clog::ZeroPage(page) => self.slru_zero(store, SlruKind::Clog, page).await,
            Clog::Truncate {
                page,
                oldest_xid,
                oldest_xid_db,
            } => {
                self.checkpoint.oldest_xid = oldest_xid;
                self.checkpoint.oldest_xid_db = oldest_xid_db;
                self.checkpoint_changed = true;
                let newest = self.checkpoint.next_xid.xid() / XIDS_PER_PAGE;
                // A cutoff ahead of everything means wraparound: keep all.
                if page_precedes(newest, page, XIDS_PER_PAGE, CLOG_BASE) {
                    return Ok(());
                }
                let gone = |s| segment_precedes(s, page, XIDS_PER_PAGE, CLOG_BASE);
                self.slru_drop(store, SlruKind::Clog, gone).await
            }
        }
    }
}
