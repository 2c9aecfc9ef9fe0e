//! Checkpoints, settings and Postgres timelines.

use crate::error::Cause;
use crate::event::Event;
use crate::ingest::Ingest;
use crate::store::Store;
use bytes::Bytes;
use pg_format::control::Parameters;
use pg_format::{CheckPoint, ControlFile};
use pg_wal::Record;
use pg_wal::rmgr::xlog::{EndOfRecovery, ParameterChange, Xlog};
use types::{Key, Lsn, PgMajor};

impl Ingest {
    pub(crate) async fn xlog<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<Event, Cause> {
        match Xlog::parse(rec, self.cfg.version)? {
            Xlog::Checkpoint { shutdown, body } => {
                let now = CheckPoint::parse(body, self.cfg.version)?;
                Box::pin(self.checkpoint_record(store, shutdown, now)).await
            }
            Xlog::NextOid(oid) => {
                self.checkpoint_changed |= self.checkpoint.next_oid != oid;
                self.checkpoint.next_oid = oid;
                Ok(Event::None)
            }
            Xlog::BackupEnd(start) => Ok(Event::BackupEnd { start }),
            Xlog::ParameterChange(p) => {
                Box::pin(self.parameter_change(store, p)).await?;
                Ok(Event::ParameterChange)
            }
            Xlog::FpwChange(on) => {
                if self.vanilla() {
                    self.checkpoint_changed |= self.checkpoint.full_page_writes != on;
                    self.checkpoint.full_page_writes = on;
                }
                Ok(Event::None)
            }
            Xlog::EndOfRecovery(end) => Ok(self.end_of_recovery(end)),
            Xlog::RestorePoint { .. }
            | Xlog::Fpi { .. }
            | Xlog::OverwriteContrecord { .. }
            | Xlog::Other => Ok(Event::None),
        }
    }

    async fn checkpoint_record<S: Store>(
        &mut self,
        store: &S,
        shutdown: bool,
        now: CheckPoint,
    ) -> Result<Event, Cause> {
        let mut event = Event::Checkpoint { shutdown };
        let vanilla = self.vanilla();
        let cp = &mut self.checkpoint;
        cp.advance_oldest_xid(now.oldest_xid, now.oldest_xid_db);
        if vanilla {
            // After a switch the first checkpoint of a server that was promoted is a shutdown one.
            if shutdown && cp.this_tli != now.this_tli && cp.this_tli != 0 {
                event = Event::TimelineSwitch {
                    previous: now.prev_tli,
                    timeline: now.this_tli,
                    at: Lsn::INVALID,
                };
            }
            cp.this_tli = now.this_tli;
            cp.prev_tli = now.prev_tli;
            cp.full_page_writes = now.full_page_writes;
            cp.time = now.time;
            cp.wal_level = now.wal_level;
            cp.oldest_commit_ts_xid = now.oldest_commit_ts_xid;
            cp.newest_commit_ts_xid = now.newest_commit_ts_xid;
            cp.advance_oldest_multi(now.oldest_multi, now.oldest_multi_db);
            cp.advance_next_xid(now.next_xid);
            cp.advance_multi(now.next_multi, now.next_multi_offset);
            if shutdown {
                cp.next_oid = now.next_oid;
            }
        }
        cp.redo = if shutdown { self.lsn } else { Lsn::INVALID };
        cp.oldest_active_xid = now.oldest_active_xid;
        if shutdown {
            self.checkpoint.oldest_active_xid = self.oldest_prepared(store).await?;
        }
        self.checkpoint_changed = true;
        Ok(self.with_switch_position(event))
    }

    fn with_switch_position(&self, event: Event) -> Event {
        match event {
            Event::TimelineSwitch {
                previous, timeline, ..
            } => Event::TimelineSwitch {
                previous,
                timeline,
                at: self.last(),
            },
            other => other,
        }
    }

    fn end_of_recovery(&mut self, end: EndOfRecovery) -> Event {
        if let Some(level) = end.wal_level {
            self.checkpoint_changed |= self.checkpoint.wal_level != Some(level);
            self.checkpoint.wal_level = Some(level);
        }
        if !self.vanilla() {
            return Event::None;
        }
        self.checkpoint.this_tli = end.timeline;
        self.checkpoint.prev_tli = end.previous;
        self.checkpoint_changed = true;
        Event::TimelineSwitch {
            previous: end.previous,
            timeline: end.timeline,
            at: self.last(),
        }
    }

    async fn parameter_change<S: Store>(
        &mut self,
        store: &S,
        p: ParameterChange,
    ) -> Result<(), Cause> {
        if self.cfg.version >= PgMajor::V17 && self.checkpoint.wal_level != Some(p.wal_level) {
            self.checkpoint.wal_level = Some(p.wal_level);
            self.checkpoint_changed = true;
        }
        if !self.vanilla() {
            return Ok(());
        }
        // A server that starts read-only refuses limits below those its pg_control records.
        let key = Key::CONTROL_FILE;
        let file = ControlFile::parse(&self.must(store, key).await?)?;
        let parameters = Parameters {
            max_connections: p.max_connections,
            max_worker_processes: p.max_worker_processes,
            max_wal_senders: p.max_wal_senders,
            max_prepared_xacts: p.max_prepared_xacts,
            max_locks_per_xact: p.max_locks_per_xact,
            wal_level: p.wal_level,
            wal_log_hints: p.wal_log_hints,
            track_commit_timestamp: p.track_commit_timestamp,
        };
        let patched = file.patch().parameters(&parameters).finish();
        self.out
            .put(key, Bytes::copy_from_slice(&patched.to_bytes()));
        Ok(())
    }
}
