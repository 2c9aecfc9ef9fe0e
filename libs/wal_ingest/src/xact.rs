//! Ends of transactions, prepared transactions, replication origins.

use crate::cache::Cached;
use crate::error::Cause;
use crate::event::Event;
use crate::ingest::Ingest;
use crate::store::Store;
use bytes::Bytes;
use pg_format::xid::xid_precedes;
use pg_wal::Record;
use pg_wal::rmgr::clog::XIDS_PER_PAGE;
use pg_wal::rmgr::origin::Origin;
use pg_wal::rmgr::standby::Standby;
use pg_wal::rmgr::xact::{Outcome, Prepared, Xact};
use types::directory::TwoPhaseDirectory;
use types::{Key, Lsn, PgMajor, SlruKind, WalRecord};

/// Origin id of changes that are not to be replicated further; has no position.
const DO_NOT_REPLICATE: u16 = u16::MAX;

impl Ingest {
    pub(crate) async fn xact<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<Event, Cause> {
        match Xact::parse(rec, self.cfg.version)? {
            Xact::End(end) => {
                self.transaction_end(store, rec, end).await?;
                Ok(if end.committed {
                    Event::Commit { time: end.time }
                } else {
                    Event::None
                })
            }
            Xact::Prepare(state) => {
                self.prepare(store, rec, state).await?;
                Ok(Event::None)
            }
            Xact::Other => Ok(Event::None),
        }
    }

    async fn transaction_end<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        end: Outcome<'_>,
    ) -> Result<(), Cause> {
        if end.prepared {
            self.checkpoint_changed |= self.checkpoint.note_xid(end.xid);
        }
        if self.vanilla() {
            self.note_newest(end.subxids.iter());
        }
        let mut xids = Vec::with_capacity(end.subxids.len() + 1);
        xids.extend(end.subxids.iter());
        // A transaction without an id can still drop files; it has no status.
        if end.xid != 0 {
            xids.push(end.xid);
        }
        xids.sort_unstable();
        xids.dedup();
        for group in xids.chunk_by(|a, b| a / XIDS_PER_PAGE == b / XIDS_PER_PAGE) {
            let page = group.first().map_or(0, |x| x / XIDS_PER_PAGE);
            let xids = group.to_vec();
            let change = if end.committed {
                WalRecord::ClogSetCommitted {
                    xids,
                    timestamp: end.time,
                }
            } else {
                WalRecord::ClogSetAborted { xids }
            };
            self.slru_change(store, SlruKind::Clog, page, change)
                .await?;
        }
        if !end.relations.is_empty() {
            self.drop_relations(store, end.relations.iter().collect())
                .await?;
        }
        if end.prepared {
            let xid = self.full_xid(end.xid)?;
            let dir = self.prepared(store).await?;
            if dir.value.xids.contains(&xid) {
                dir.edit().xids.remove(&xid);
            } else {
                self.counters.missing += 1;
            }
        }
        if let Some((lsn, _)) = end.origin {
            self.set_origin(rec.origin, lsn);
        }
        Ok(())
    }

    async fn prepare<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        state: Prepared<'_>,
    ) -> Result<(), Cause> {
        self.checkpoint_changed |= self.checkpoint.note_xid(state.xid);
        if self.vanilla() {
            self.note_newest(state.subxids.iter());
        }
        let xid = self.full_xid(state.xid)?;
        let relaxed = self.relaxed();
        let dir = self.prepared(store).await?;
        if !dir.edit().xids.insert(xid) && !relaxed {
            return Err(Cause::PreparedTwice { xid });
        }
        self.out.put(
            Key::two_phase_file(xid),
            Bytes::copy_from_slice(state.state),
        );
        self.set_origin(rec.origin, state.origin_lsn);
        Ok(())
    }

    fn note_newest(&mut self, xids: impl Iterator<Item = u32>) {
        if let Some(newest) = xids.reduce(|a, b| if xid_precedes(a, b) { b } else { a }) {
            self.checkpoint_changed |= self.checkpoint.note_xid(newest);
        }
    }

    /// The prepared transactions.
    pub(crate) async fn prepared<S: Store>(
        &mut self,
        store: &S,
    ) -> Result<&mut Cached<TwoPhaseDirectory>, Cause> {
        let key = Key::TWO_PHASE_DIR;
        if self.cache.two_phase.is_none() {
            let bytes = self.must(store, key).await?;
            let dir = TwoPhaseDirectory::decode(&bytes, self.wide_xids())
                .map_err(|source| Cause::Value { key, source })?;
            self.cache.two_phase = Some(Cached::clean(dir));
        }
        self.cache.two_phase.as_mut().ok_or(Cause::Missing { key })
    }

    /// Prepared transactions are named by 64-bit ids.
    pub(crate) fn wide_xids(&self) -> bool {
        self.cfg.version >= PgMajor::V17
    }

    fn full_xid(&self, xid: u32) -> Result<u64, Cause> {
        if !self.wide_xids() {
            return Ok(u64::from(xid));
        }
        self.checkpoint
            .next_xid
            .widen(xid)
            .map(|x| x.0)
            .ok_or(Cause::Xid { xid })
    }

    /// Oldest transaction that may still run when nothing but prepared ones do.
    pub(crate) async fn oldest_prepared<S: Store>(&mut self, store: &S) -> Result<u32, Cause> {
        let next = self.checkpoint.next_xid;
        let wide = self.wide_xids();
        let xids = &self.prepared(store).await?.value.xids;
        if wide {
            return Ok(xids.first().map_or(next.xid(), |x| next.0.min(*x) as u32));
        }
        let low = |x: &u64| *x as u32;
        Ok(xids
            .iter()
            .map(low)
            .fold(next.xid(), |a, b| if xid_precedes(b, a) { b } else { a }))
    }

    fn set_origin(&mut self, origin: Option<u16>, lsn: Lsn) {
        if let Some(id) = origin.filter(|id| *id != 0 && *id != DO_NOT_REPLICATE)
            && lsn.is_valid()
        {
            self.put_origin(id, lsn);
        }
    }

    fn put_origin(&mut self, id: u16, lsn: Lsn) {
        self.out.put(
            Key::repl_origin(id),
            Bytes::copy_from_slice(&lsn.0.to_be_bytes()),
        );
    }

    pub(crate) fn origin(&mut self, rec: &Record<'_>) -> Result<(), Cause> {
        match Origin::parse(rec, self.cfg.version)? {
            Origin::Set { id, lsn } => self.put_origin(id, lsn),
            Origin::Drop { id } => self.put_origin(id, Lsn::INVALID),
        }
        Ok(())
    }

    pub(crate) fn standby(&mut self, rec: &Record<'_>) -> Result<(), Cause> {
        if let Standby::RunningXacts {
            next_xid,
            oldest_running_xid,
            ..
        } = Standby::parse(rec, self.cfg.version)?
        {
            if self.checkpoint.oldest_active_xid != oldest_running_xid {
                self.checkpoint.oldest_active_xid = oldest_running_xid;
                self.checkpoint_changed = true;
            }
            if self.vanilla() {
                self.checkpoint_changed |= self.checkpoint.note_xid(next_xid.wrapping_sub(1));
            }
        }
        Ok(())
    }
}
