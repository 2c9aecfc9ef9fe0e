//! Flush: frozen in-memory layers become delta layers on disk, oldest first.

use super::{Position, State, Timeline};
use crate::engine::error::{Error, Result};
use crate::engine::jobs::Kind as Work;
use crate::engine::layer::{self, Layer};
use crate::engine::memory;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{info, warn};
use types::Lsn;

/// Between two looks at what a flush waits for, in case a failure wakes nobody.
const STALL_LOOK: Duration = Duration::from_secs(1);
/// Before layers that somebody still read are tried again to delete.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

impl Timeline {
    pub(super) fn request_flush(self: &Timeline) {
        self.request(Work::Flush);
    }

    /// Freezes the open layer, writes all frozen ones, uploads them and the index. After it
    /// returns, everything ingested before the call is durable in the bucket.
    pub async fn checkpoint(&self) -> Result<()> {
        self.freeze_and_flush().await?;
        self.upload().await
    }

    /// Freezes the open layer and writes all frozen ones to local disk.
    pub async fn freeze_and_flush(&self) -> Result<()> {
        self.freeze().await;
        self.flush_frozen().await?;
        self.settle().await
    }

    /// As [`Timeline::flush_frozen`], but before each layer waits while too many L0 layers wait for
    /// compaction: memory then fills up to its budget, and the source of the WAL waits.
    pub(in crate::engine) async fn flush_when_compacted(&self) -> Result<()> {
        self.queued.clear(Work::Flush);
        loop {
            self.wait_for_compaction().await?;
            let _one_at_a_time = self.flushing.lock().await;
            let oldest = self.map.load().frozen().first().cloned();
            let Some(frozen) = oldest else { return Ok(()) };
            self.flush_one(&frozen)?;
        }
    }

    async fn wait_for_compaction(&self) -> Result<()> {
        while self.is_flush_stalled() {
            self.request_compaction();
            let mut woken = std::pin::pin!(self.compacted.notified());
            woken.as_mut().enable();
            if !self.is_flush_stalled() {
                break;
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::Shutdown),
                () = woken => {}
                () = tokio::time::sleep(STALL_LOOK) => {}
            }
        }
        Ok(())
    }

    /// Writes all frozen layers to files. `disk_consistent_lsn` moves behind a layer only when its
    /// file and its directory entry are durable; a failure leaves everything as it was.
    pub async fn flush_frozen(&self) -> Result<()> {
        let _one_at_a_time = self.flushing.lock().await;
        self.queued.clear(Work::Flush);
        loop {
            let oldest = self.map.load().frozen().first().cloned();
            let Some(frozen) = oldest else { return Ok(()) };
            if self.stopped.load(Ordering::Acquire) {
                return Err(Error::Shutdown);
            }
            self.flush_one(&frozen)?;
            tokio::task::yield_now().await;
        }
    }

    fn flush_one(&self, frozen: &Arc<memory::Layer>) -> Result<()> {
        let env = &self.shared.env;
        let started = env.clock.monotonic();
        let end = frozen.search_end();
        let written = env.blocking(|| layer::write_l0(env, self, frozen, end))?;
        let size = frozen.size();
        let file = Arc::new(written);
        info!(
            tenant = %self.tenant, timeline = %self.id, layer = %file.name(), bytes = file.size(),
            took = ?env.clock.monotonic().saturating_sub(started), "flushed"
        );
        self.shared.metrics.flushed(file.size());
        let disk = self.position_up_to(Lsn(end.0.saturating_sub(1)));
        self.update_map(|m| m.with_flushed(frozen, Arc::clone(&file), disk));
        self.shared.budget.shrink(size);
        self.request_upload();
        if self.wants_l0_compaction() {
            self.request_compaction();
        }
        self.unsettle();
        Ok(())
    }

    /// `last` with the record before it, which is known only of the newest record.
    fn position_up_to(&self, last: Lsn) -> Position {
        let at = self.position();
        let prev = if at.last == last {
            at.prev
        } else {
            Lsn::INVALID
        };
        Position { last, prev }
    }

    /// Nothing in memory and nothing half written: everything ingested is on disk already, though
    /// the last records may have stored nothing.
    async fn settle(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        // Stopping drops what is in memory: nothing there does not mean that it was written.
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::Shutdown);
        }
        let map = self.map.load();
        let idle = map.frozen().is_empty() && map.open().is_none_or(|o| o.is_empty());
        let last = self.last_record_lsn();
        if idle && last > self.disk_consistent_lsn() {
            let disk = self.position_up_to(last);
            self.update_map(|m| m.with_disk(disk));
            self.mark_index();
        }
        Ok(())
    }

    /// Called by the timer when something may be due, and now and then in any case.
    pub(in crate::engine) async fn housekeeping(&self) {
        let conf = self.shared.conf.load_full();
        let now = self.shared.env.clock.monotonic();
        self.freeze_if_old(now, conf.checkpoint_timeout).await;
        if self.index_dirty.load(Ordering::Acquire) {
            self.request_upload();
        }
        if !self.condemned.lock().is_empty() {
            if let Err(e) = self.sweep().await {
                warn!(tenant = %self.tenant, timeline = %self.id, "layers not deleted now, tried again soon: {e}");
            }
            if !self.condemned.lock().is_empty() {
                self.look_by(now + SWEEP_PAUSE);
            }
        }
        let last = Duration::from_micros(self.last_compaction_us.load(Ordering::Acquire));
        let due = last + conf.compaction_period;
        let compacts = !conf.compaction_period.is_zero();
        if self.wants_l0_compaction() || self.gc_is_due(now) {
            self.request_compaction();
        } else if compacts && self.unsettled.load(Ordering::Acquire) {
            if due <= now {
                self.request_compaction();
            } else {
                self.look_by(due);
            }
        }
    }

    /// Freezes an open layer of some age. If records came that stored nothing, the position alone
    /// goes to the bucket at that age, so that the source can drop its WAL.
    async fn freeze_if_old(&self, now: Duration, timeout: Duration) {
        let map = self.map.load_full();
        let open = map.open().filter(|o| !o.is_empty());
        if let Some(created) = open.map(|o| o.created()) {
            if created + timeout <= now {
                self.freeze().await;
            } else {
                self.look_by(created + timeout);
            }
        } else if self.state() == State::Active
            && map.frozen().is_empty()
            && self.last_record_lsn() > map.disk().last
        {
            let us = |t: Duration| u64::try_from(t.as_micros()).unwrap_or(u64::MAX);
            let since = self.unsaved_since_us.load(Ordering::Acquire);
            if since == 0 {
                self.unsaved_since_us.store(us(now), Ordering::Release);
            } else if since.saturating_add(us(timeout)) <= us(now) {
                // Fails only when the timeline has stopped.
                let _ = self.settle().await;
            }
        } else {
            self.unsaved_since_us.store(0, Ordering::Release);
        }
    }

    /// Adds finished layers that an import made, which hold everything up to `start`.
    pub(super) fn add_layers(&self, layers: Vec<Arc<Layer>>, start: Lsn) {
        let disk = Position {
            last: start,
            prev: Lsn::INVALID,
        };
        self.update_map(|m| m.with_files(layers, &[]).with_disk(disk));
        self.unsettle();
    }
}
