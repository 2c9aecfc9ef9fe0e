//! Compaction: what keeps the number of layers and of changes that a read meets bounded.
//!
//! Three kinds of work, each an ordinary change of the layer map that no read can notice
//! (docs/architecture.md, "Compaction"; ADR 0003):
//!
//! * L0 layers become L1 layers ([`rewrite`]), cut where [`cells`] end, so that what follows stays
//!   within one cell;
//! * the L1 layers of a cell are merged into larger ones, or
//! * replaced, for readers of the present, by an image of the whole cell ([`image`]), once their
//!   bytes are worth it.
//!
//! Whenever changes are written, a chain that grew too long gets a page in its midst.

mod cells;
mod cut;
mod image;
mod keyspace;
mod merge;
mod rewrite;
mod waste;

pub use cells::{Cell, Work};
pub use cut::NOT_INHERITED;

use super::{State, Timeline};
use crate::engine::error::Result;
use crate::engine::jobs::Kind as Job;
use crate::engine::layer::Layer;
use crate::engine::layer_map::Source;
use rewrite::Order;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{info, warn};
use types::{Key, Lsn};

/// Most bytes of L0 layers that one compaction takes, so that its output stays far below the size
/// of a single upload even if all of it is one key.
const MAX_L0_BYTES: u64 = 1 << 30;

/// Least time that cells get between two compactions of L0 layers.
const LEAST_CELL_TIME: Duration = Duration::from_millis(500);

/// What is to be done regardless of thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Force {
    /// Compact L0 layers however few there are.
    pub l0: bool,
    /// Make images of all cells that have changes.
    pub images: bool,
}

/// What one round of compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// L0 layers replaced.
    pub l0: usize,
    /// L1 layers merged.
    pub merged: usize,
    /// Image layers made.
    pub images: usize,
    /// Layers written.
    pub written: usize,
    /// Bytes written.
    pub bytes: u64,
}

impl Outcome {
    fn add(&mut self, layers: &[Arc<Layer>]) {
        self.written += layers.len();
        self.bytes += layers.iter().map(|l| l.size()).sum::<u64>();
    }
}

impl Timeline {
    /// Number of L0 layers.
    pub fn l0_count(&self) -> usize {
        self.map.load().l0_count()
    }

    /// True if enough L0 layers wait; or one whose chains this process has not counted; or one that
    /// holds back images of history that could go.
    pub(in crate::engine) fn wants_l0_compaction(&self) -> bool {
        let conf = self.shared.conf.load();
        let map = self.map.load();
        let Some(oldest) = map.l0().first() else {
            return false;
        };
        !conf.compaction_period.is_zero()
            && (map.l0_count() >= conf.compaction_threshold
                || oldest.lsns().start <= self.loaded_at
                || oldest.lsns().end <= self.gc_cutoff())
    }

    /// Compaction may find something to do: it looks within its period.
    pub(super) fn unsettle(&self) {
        self.unsettled.store(true, Ordering::Release);
        let period = self.shared.conf.load().compaction_period;
        let last = Duration::from_micros(self.last_compaction_us.load(Ordering::Acquire));
        self.look_by(last + period);
    }

    pub(in crate::engine) fn request_compaction(&self) {
        self.request(Job::Compact);
    }

    /// One round in the background: compaction, then garbage collection if it is due.
    pub(in crate::engine) async fn maintain(&self) -> Result<()> {
        self.queued.clear(Job::Compact);
        let now = self.shared.env.clock.monotonic();
        let us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.last_compaction_us.store(us, Ordering::Release);
        if self.state() != State::Active {
            return Ok(());
        }
        if !self.shared.conf.load().compaction_period.is_zero() {
            self.unsettled.store(false, Ordering::Release);
            self.compact(Force::default())
                .await
                .inspect_err(|_| self.unsettle())?;
        }
        self.gc_if_due().await
    }

    /// True if flushes should wait for compaction. An import, whose layers are not compacted before
    /// it is done, never waits.
    pub(in crate::engine) fn is_flush_stalled(&self) -> bool {
        let conf = self.shared.conf.load();
        self.state() == State::Active
            && conf.l0_flush_stall_threshold > 0
            && !conf.compaction_period.is_zero()
            && !self.compaction_failing.load(Ordering::Acquire)
            // Never below the number that compaction waits for.
            && self.l0_count() >= conf.l0_flush_stall_threshold.max(conf.compaction_threshold)
    }

    /// Compacts until nothing is left to do: L0 layers first, then, cell by cell, merges and
    /// images. Reads are answered the same before, during and after.
    ///
    /// # Errors
    /// What was finished before stays; nothing is lost.
    pub async fn compact(&self, force: Force) -> Result<Outcome> {
        let _one_at_a_time = self.compacting.lock().await;
        let result = self.compact_locked(force).await;
        let failed = result.is_err() && !self.cancel.is_cancelled();
        self.compaction_failing.store(failed, Ordering::Release);
        result
    }

    async fn compact_locked(&self, force: Force) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let clock = &self.shared.env.clock;
        let start = clock.monotonic();
        loop {
            let before = clock.monotonic();
            let l0 = (force.l0 && self.l0_count() > 0) || self.wants_l0_compaction();
            let progress = l0 && self.compact_l0(&mut outcome).await?;
            // Fresh layers and cells share the time, so that neither starves; only when no fresh
            // layer waits are the cells brought to where nothing is left to do.
            let spent = clock.monotonic().saturating_sub(before);
            let until = clock.monotonic() + spent.max(LEAST_CELL_TIME);
            let limit = |t: &Timeline| t.wants_l0_compaction() && clock.monotonic() >= until;
            let done = self.tend_cells(force, limit, &mut outcome).await?;
            let more = self.wants_l0_compaction() || (force.l0 && self.l0_count() > 0);
            if done && !(progress && more) {
                break;
            }
            self.check_not_ended()?;
        }
        if outcome != Outcome::default() {
            let took = self.shared.env.clock.monotonic().saturating_sub(start);
            info!(tenant = %self.tenant, timeline = %self.id, l0 = outcome.l0, merged = outcome.merged, images = outcome.images, written = outcome.written, bytes = outcome.bytes, ?took, "compacted");
            self.shared.metrics.compacted(&outcome);
            self.request_upload();
        }
        Ok(outcome)
    }

    fn check_not_ended(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(crate::engine::Error::Shutdown);
        }
        self.check_active()
    }

    /// Turns the oldest L0 layers into L1 layers. False if there is nothing that can be taken.
    async fn compact_l0(&self, outcome: &mut Outcome) -> Result<bool> {
        self.writer
            .lock()
            .await
            .chains
            .rotate(self.last_record_lsn());
        let map = self.layers();
        let conf = self.shared.conf.load_full();
        let limit = (conf.checkpoint_distance as u64)
            .saturating_mul(conf.compaction_upper_limit.max(conf.compaction_threshold) as u64)
            .min(MAX_L0_BYTES);
        let mut inputs: Vec<Arc<Layer>> = Vec::new();
        let mut bytes = 0;
        for layer in map.l0() {
            let gap = inputs
                .last()
                .is_some_and(|last| last.lsns().end != layer.lsns().start);
            if gap || (!inputs.is_empty() && bytes + layer.size() > limit) {
                break;
            }
            bytes += layer.size();
            inputs.push(Arc::clone(layer));
        }
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
            return Ok(false);
        };
        let lsns = first.lsns().start..last.lsns().end;
        let above = map.files().find(|l| {
            l.is_delta() && !l.is_l0() && l.lsns().end > lsns.start && l.lsns().start < lsns.end
        });
        if let Some(other) = above {
            warn!(tenant = %self.tenant, timeline = %self.id, layer = %other.name(), l0 = %first.name(), "overlaps an L0 layer, which is therefore left as it is");
            return Ok(false);
        }
        let mut cuts: Vec<Key> = self.cells(&map).iter().map(|c| c.keys.start).collect();
        cuts.push(Key::MAX);
        let order = Order {
            inputs: &inputs,
            lsns: lsns.clone(),
            cuts: &cuts,
        };
        let written = self.rewrite(&order).await?;
        outcome.l0 += inputs.len();
        outcome.add(&written);
        self.replace(&inputs, written);
        self.writer.lock().await.chains.forget_below(lsns.end);
        Ok(true)
    }

    /// Merges and images, cell by cell, the most urgent first. False if it ended before all was
    /// done because `limit` said so; a cell with as many levels as a read may ever meet is never
    /// left for later.
    async fn tend_cells(
        &self,
        force: Force,
        limit: impl Fn(&Timeline) -> bool,
        outcome: &mut Outcome,
    ) -> Result<bool> {
        let map = self.layers();
        // Images are made where compacted changes end, so that none reaches across them.
        let at = map
            .l0()
            .first()
            .map_or(map.disk().last, |l| Lsn(l.lsns().start.0.saturating_sub(1)));
        let cutoff = self.gc_cutoff();
        let threshold = self.shared.conf.load().image_creation_threshold;
        let mut todo: Vec<(usize, Cell, Work)> = Vec::new();
        for cell in self.cells(&map) {
            let (levels, work) = cell.work(threshold, cutoff);
            let work = match work {
                Work::Nothing | Work::Merge(_) if force.images && cell.has_changes() => Work::Image,
                other => other,
            };
            match work {
                Work::Nothing => {}
                // Not below the cutoff: a reader at the cutoff could not use it, and what it
                // covers could never go.
                Work::Image if at < cutoff || at <= self.ancestor_lsn() => {}
                work => todo.push((levels, cell, work)),
            }
        }
        let may_look = at >= cutoff && at > self.ancestor_lsn();
        let looks = self.look_for_waste.load(Ordering::Acquire) && may_look;
        let cells = if looks { self.cells(&map) } else { Vec::new() };
        drop(map);
        todo.sort_by_key(|(levels, _, _)| std::cmp::Reverse(*levels));
        let mut keyspace = None;
        if looks {
            let keyspace = keyspace.insert(self.keyspace(at).await?);
            let wasteful = self.wasteful(cells, keyspace, at).await?;
            todo.retain(|(_, cell, _)| !wasteful.iter().any(|w| w.holds(cell)));
            todo.extend(wasteful.into_iter().map(|cell| (0, cell, Work::Image)));
        }
        for (levels, cell, work) in todo {
            self.check_not_ended()?;
            if levels < cells::most_levels(threshold) && limit(self) {
                return Ok(false);
            }
            match work {
                Work::Nothing => {}
                Work::Image => {
                    let keyspace = match &keyspace {
                        Some(known) => known,
                        None => keyspace.insert(self.keyspace(at).await?),
                    };
                    let made = self.make_images(&cell, keyspace, at).await?;
                    outcome.images += made.len();
                    outcome.add(&made);
                    self.replace(&[], made);
                }
                Work::Merge(inputs) => {
                    let start = inputs.iter().map(|l| l.lsns().start).min();
                    let end = inputs.iter().map(|l| l.lsns().end).max();
                    if let (Some(start), Some(end)) = (start, end) {
                        let order = Order {
                            inputs: &inputs,
                            lsns: start..end,
                            cuts: &[cell.keys.start, cell.keys.end],
                        };
                        let written = self.rewrite(&order).await?;
                        outcome.merged += inputs.len();
                        outcome.add(&written);
                        self.replace(&inputs, written);
                    }
                }
            }
        }
        if looks {
            self.look_for_waste.store(false, Ordering::Release);
        }
        Ok(true)
    }

    /// Puts `add` in the place of `remove` for all readers at once. What is removed leaves the
    /// bucket after the next index has.
    pub(super) fn replace(&self, remove: &[Arc<Layer>], add: Vec<Arc<Layer>>) {
        if remove.is_empty() && add.is_empty() {
            return;
        }
        let names: Vec<String> = remove.iter().map(|l| l.name().to_string()).collect();
        self.update_map(|m| m.with_files(add, &names));
        self.retired.lock().extend(remove.iter().cloned());
        self.mark_index();
        self.compacted.notify_waiters();
    }

    /// Number of changes that a read of `key` just below `end` would replay.
    pub(super) async fn chain_length(&self, key: &Key, end: Lsn) -> Result<usize> {
        let mut total = 0;
        let mut below: Option<Arc<Timeline>> = None;
        let mut end = end;
        loop {
            let timeline = below.as_deref().unwrap_or(self);
            let origin = timeline.ancestor();
            let map = timeline.layers();
            while let Some(found) = map.search(key, end) {
                let complete = match &found.source {
                    Source::Memory(layer) => {
                        let (n, complete) = layer.count(key, found.floor..end);
                        total += n;
                        complete
                    }
                    Source::File(layer) => {
                        let (n, state) =
                            layer.count(&timeline.shared, key, found.floor..end).await?;
                        total += n;
                        state != crate::engine::layer::Found::Incomplete
                    }
                };
                if complete {
                    return Ok(total);
                }
                end = found.floor;
            }
            match origin {
                Some((ancestor, branch_point)) if key.is_inherited() => {
                    end = end.min(branch_point.saturating_add(1));
                    below = Some(ancestor);
                }
                _ => return Ok(total),
            }
        }
    }
}
