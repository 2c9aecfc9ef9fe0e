//! The write path: batches go into the open in-memory layer, then `last_record_lsn` moves.

use super::chains::Chains;
use super::{Position, Timeline};
use crate::engine::error::{Error, Result};
use crate::engine::memory::{self, Stored};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use types::key::Kind;
use types::{Batch, Key, Lsn};

/// Frozen layers that may wait for their flush before the open layer grows beyond
/// `checkpoint_distance`.
pub const MAX_FROZEN: usize = 4;
/// Size in bytes at which the open layer is frozen all the same.
pub const MAX_OPEN: usize = 1 << 30;

/// State that only the holder of the writer lock may touch.
#[derive(Debug, Default)]
pub struct Writer {
    /// Values above `last_record_lsn` are in the open layer: it must not be frozen now.
    partial: bool,
    /// Lengths of chains in data that is not compacted.
    pub(super) chains: Chains,
}

impl Timeline {
    /// Adds a batch and, if it names one, advances `last_record_lsn`. All values of a record
    /// become readable together. Waits while too much unflushed data is in memory.
    ///
    /// # Errors
    /// A batch that goes back in LSN is refused as a whole.
    pub async fn write(&self, batch: Batch) -> Result<()> {
        self.shared.budget.admit(&self.cancel).await?;
        let mut writer = self.writer.lock().await;
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::Shutdown);
        }
        let at = self.position();
        if batch.last_lsn.is_valid() && (batch.last_lsn <= at.last || !batch.last_lsn.is_aligned())
        {
            return Err(Error::Internal(format!(
                "timeline {}/{}: batch ends at LSN {}, not an aligned position behind {}",
                self.tenant, self.id, batch.last_lsn, at.last
            )));
        }
        if let Some(e) = batch
            .entries
            .iter()
            .find(|e| e.lsn <= at.last || !e.key.is_writable())
        {
            return Err(Error::Internal(format!(
                "timeline {}/{}: value of key {} at LSN {} cannot be written behind {}",
                self.tenant, self.id, e.key, e.lsn, at.last
            )));
        }
        let distance = self.shared.conf.load().checkpoint_distance;
        // While flushes wait for compaction the open layer grows instead: fewer and larger layers
        // are less work for compaction, and readers meet few.
        let waiting = self.map.load().frozen().len();
        if !writer.partial
            && self.open_size() + batch.raw.len() > distance
            && (waiting < MAX_FROZEN || self.open_size() > MAX_OPEN)
        {
            self.freeze_locked(&writer);
        }
        let (last, prev, delta) = (batch.last_lsn, batch.prev_lsn, batch.size_delta);
        let mut open = None;
        let mut long: Vec<(Key, Lsn)> = Vec::new();
        if !batch.entries.is_empty() {
            let open = open.insert(self.open_layer());
            let before = open.size();
            self.note_sizes(&batch);
            let limit = self.shared.conf.load().delta_chain_threshold / 2;
            let chains = &mut writer.chains;
            let entries = batch.entries.iter();
            let too_long = entries.filter(|e| chains.count(&e.key, e.will_init, limit));
            long.extend(too_long.map(|e| (e.key, e.lsn)));
            open.add(batch).map_err(|e| {
                Error::Internal(format!("timeline {}/{}: {e}", self.tenant, self.id))
            })?;
            self.shared.budget.grow(open.size().saturating_sub(before));
        }
        // At once with the values: whoever waits for this may give up, at the next await.
        self.size_delta.fetch_add(delta, Ordering::AcqRel);
        writer.partial = !last.is_valid();
        if last.is_valid() {
            let prev = if prev.is_valid() { prev } else { at.last };
            self.position.send_replace(Position { last, prev });
        }
        for (key, lsn) in long {
            let Some(open) = &open else { break };
            let before = open.size();
            self.cut_chain(open, key, lsn).await;
            self.shared.budget.grow(open.size().saturating_sub(before));
        }
        Ok(())
    }

    /// Puts a page in the place of a change in the open layer. Readers get the same either way.
    async fn cut_chain(&self, open: &memory::Layer, key: Key, lsn: Lsn) {
        let mut value = Stored {
            lsn,
            will_init: false,
            bytes: Bytes::new(),
            bare: false,
        };
        if self.materialize(&key, &mut value).await {
            open.replace(&key, &value);
        }
    }

    /// Moves `last_record_lsn` without data, for a timeline whose history begins at `lsn`.
    pub(super) fn start_at(&self, lsn: Lsn) {
        self.position.send_replace(Position {
            last: lsn,
            prev: Lsn::INVALID,
        });
    }

    /// The newest LSN and the growth reported up to it; `None` in the midst of a record.
    pub(super) async fn size_delta_at(&self) -> Option<(Lsn, i64)> {
        let writer = self.writer.lock().await;
        let delta = self.size_delta.load(Ordering::Acquire);
        (!writer.partial).then(|| (self.last_record_lsn(), delta))
    }

    /// Bytes in the open layer.
    pub fn open_size(&self) -> usize {
        self.map.load().open().map_or(0, |o| o.size())
    }

    /// Freezes the open layer, unless it is empty or a record is half written.
    pub async fn freeze(&self) {
        let writer = self.writer.lock().await;
        if !writer.partial {
            self.freeze_locked(&writer);
        }
    }

    fn freeze_locked(&self, _proof: &Writer) {
        let map = self.map.load();
        let Some(open) = map.open().filter(|o| !o.is_empty()) else {
            return;
        };
        open.freeze(self.last_record_lsn().saturating_add(1));
        self.update_map(|m| m.with_open_frozen());
        self.request_flush();
    }

    fn open_layer(&self) -> Arc<memory::Layer> {
        if let Some(open) = self.map.load().open() {
            return Arc::clone(open);
        }
        let start = self.last_record_lsn().saturating_add(1);
        let layer = Arc::new(memory::Layer::new(start, self.shared.env.clock.monotonic()));
        self.update_map(|m| m.with_open(Arc::clone(&layer)));
        self.look_by(layer.created() + self.shared.conf.load().checkpoint_timeout);
        layer
    }

    fn note_sizes(&self, batch: &Batch) {
        for e in &batch.entries {
            if let Kind::RelSize { rel } = e.key.kind() {
                // The serialized image is a tag, a length and the size itself.
                let size = batch
                    .bytes(e)
                    .last_chunk::<4>()
                    .map(|b| u32::from_le_bytes(*b))
                    .filter(|_| e.will_init);
                self.sizes.changed(rel, e.lsn, size);
            }
        }
    }
}
