//! The front door: one record after the other.

use crate::cache::Cache;
use crate::config::Config;
use crate::error::{At, Cause, Error};
use crate::event::{Counters, Event};
use crate::pending::Pending;
use crate::store::Store;
use bytes::Bytes;
use pg_format::CheckPoint;
use pg_wal::Record;
use pg_wal::record::{Header, rmid};
use pg_wal::rmgr::{heap, opcode};
use types::{Flavour, Key, Lsn, PgMajor};

/// Ingests the WAL of one timeline.
pub struct Ingest {
    pub(crate) cfg: Config,
    pub(crate) out: Pending,
    pub(crate) cache: Cache,
    pub(crate) checkpoint: CheckPoint,
    pub(crate) checkpoint_changed: bool,
    pub(crate) counters: Counters,
    /// End of the record being ingested.
    pub(crate) lsn: Lsn,
    last: Lsn,
    stopped: bool,
}

impl Ingest {
    /// Starts behind `last`, the last LSN the store published. Fails if the store has no
    /// checkpoint.
    pub async fn load<S: Store>(store: &S, cfg: Config, last: Lsn) -> Result<Self, Error> {
        let key = Key::CHECKPOINT;
        let bytes = store
            .get(key)
            .await
            .map_err(Cause::from)?
            .ok_or(Cause::Missing { key })?;
        Ok(Ingest {
            checkpoint: CheckPoint::parse(&bytes, cfg.version).map_err(Cause::from)?,
            cfg,
            out: Pending::default(),
            cache: Cache::default(),
            checkpoint_changed: false,
            counters: Counters::default(),
            lsn: last,
            last,
            stopped: false,
        })
    }

    /// Ingests the record `raw` (whole, CRC verified) that starts at `start` and ends at `end`.
    /// Commits when a batch is full.
    ///
    /// An error stops ingest: the records before can still be committed; to go on, load again. The
    /// same holds if the future is dropped before it is done.
    pub async fn record<S: Store>(
        &mut self,
        store: &S,
        start: Lsn,
        end: Lsn,
        raw: &[u8],
    ) -> Result<Event, Error> {
        if self.stopped {
            return Err(Cause::Stopped.into());
        }
        if end <= self.last {
            return Ok(Event::AlreadyIngested);
        }
        self.stopped = true;
        match self.apply(store, start, end, raw).await {
            Ok(event) => {
                self.last = end;
                self.stopped = false;
                if self.is_full() {
                    self.commit(store).await?;
                }
                Ok(event)
            }
            Err(cause) => {
                self.out.rollback();
                let at = Header::parse(raw).ok().map(|h| At {
                    start,
                    rmid: h.rmid,
                    info: h.info,
                });
                Err(Error { at, cause })
            }
        }
    }

    /// Writes what is pending and publishes the last record.
    pub async fn commit<S: Store>(&mut self, store: &S) -> Result<(), Error> {
        if let Some(batch) = self.out.take() {
            let stopped = std::mem::replace(&mut self.stopped, true);
            store.write(batch).await.map_err(Cause::from)?;
            self.stopped = stopped;
        }
        Ok(())
    }

    /// Records that [`Ingest::commit`] would publish.
    pub fn pending(&self) -> usize {
        self.out.records()
    }

    /// End of the last record ingested, committed or not.
    pub const fn last(&self) -> Lsn {
        self.last
    }

    /// The counters as of the last record ingested.
    pub const fn checkpoint(&self) -> &CheckPoint {
        &self.checkpoint
    }

    /// What was ingested so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.cfg
    }

    /// Sets or clears the end of an online import.
    pub const fn set_import_end(&mut self, end: Option<Lsn>) {
        self.cfg.import_end = end;
    }

    fn is_full(&self) -> bool {
        self.out.records() >= self.cfg.limits.batch_records.max(1)
            || self.out.bytes() >= self.cfg.limits.batch_bytes
    }

    pub(crate) fn vanilla(&self) -> bool {
        self.cfg.flavour == Flavour::Vanilla
    }

    /// The imported state may be newer than the record.
    pub(crate) fn relaxed(&self) -> bool {
        self.cfg.import_end.is_some_and(|end| self.lsn <= end)
    }

    /// Newest value of a metadata key.
    pub(crate) async fn meta<S: Store>(&self, store: &S, key: Key) -> Result<Option<Bytes>, Cause> {
        match self.out.get(&key) {
            Some(v) => Ok(Some(v.clone())),
            None => Ok(store.get(key).await?),
        }
    }

    /// Newest value of a metadata key that must exist.
    pub(crate) async fn must<S: Store>(&self, store: &S, key: Key) -> Result<Bytes, Cause> {
        self.meta(store, key).await?.ok_or(Cause::Missing { key })
    }

    /// Makes room while a record writes many pages.
    pub(crate) async fn spill_if_full<S: Store>(&mut self, store: &S) -> Result<(), Cause> {
        if self.out.bytes() >= self.cfg.limits.batch_bytes {
            store.write(self.out.take_values()).await?;
        }
        Ok(())
    }

    async fn apply<S: Store>(
        &mut self,
        store: &S,
        start: Lsn,
        end: Lsn,
        raw: &[u8],
    ) -> Result<Event, Cause> {
        if !end.is_aligned() || end <= start {
            return Err(Cause::Position { start, end });
        }
        let rec = Record::parse(raw, self.cfg.version)?;
        opcode::check(&rec.header, self.cfg.version).map_err(Cause::from)?;
        self.cache.trim(
            self.cfg.limits.cached_sizes,
            self.cfg.limits.cached_directories,
        );
        self.lsn = end;
        self.out.begin(end);
        if rec.header.xid != 0 {
            self.checkpoint_changed |= self.checkpoint.note_xid(rec.header.xid);
        }
        let event = self.meaning(store, &rec).await?;
        self.blocks(store, &rec).await?;
        self.write_directories();
        if std::mem::take(&mut self.checkpoint_changed) {
            self.out.put(
                Key::CHECKPOINT,
                Bytes::copy_from_slice(&self.checkpoint.encode()),
            );
        }
        self.out.seal();
        self.counters.records += 1;
        Ok(event)
    }

    /// The part of a record that is not about its block references.
    async fn meaning<S: Store>(&mut self, store: &S, rec: &Record<'_>) -> Result<Event, Cause> {
        let version = self.cfg.version;
        match rec.header.rmid {
            rmid::XLOG => return self.xlog(store, rec).await,
            rmid::XACT => return Box::pin(self.xact(store, rec)).await,
            rmid::SMGR => Box::pin(self.smgr(store, rec)).await?,
            rmid::CLOG => Box::pin(self.clog(store, rec)).await?,
            rmid::DBASE => return Box::pin(self.dbase(store, rec)).await.map(|()| Event::None),
            rmid::TBLSPC => self.tblspc(rec)?,
            rmid::MULTIXACT => Box::pin(self.multixact(store, rec)).await?,
            rmid::RELMAP => Box::pin(self.relmap(store, rec)).await?,
            rmid::STANDBY => self.standby(rec)?,
            rmid::REPLORIGIN => self.origin(rec)?,
            rmid::LOGICALMSG => Box::pin(self.logical_message(store, rec)).await?,
            rmid::HEAP | rmid::HEAP2 => self.heap(store, rec).await?,
            rmid::NEON if self.cfg.flavour == Flavour::Neon => {
                let known = rec.header.info & heap::OP_MASK <= 0x50;
                if !known || !(PgMajor::V16..=PgMajor::V17).contains(&version) {
                    return Err(opcode::unknown(&rec.header, version).into());
                }
                self.heap(store, rec).await?;
            }
            // Commit timestamps are not kept; index managers and extensions change pages only.
            _ => {}
        }
        Ok(Event::None)
    }
}
