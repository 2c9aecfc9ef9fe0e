//! Rewrites delta layers as other delta layers with the same content for every readable LSN.

use super::super::Timeline;
use super::merge::Merge;
use crate::engine::error::Result;
use crate::engine::layer::{Draft, FileSink, Layer, Written, write_error};
use crate::engine::memory::Stored;
use layer_format::DeltaWriter;
use layer_format::writer::Options;
use std::ops::Range;
use std::sync::Arc;
use tracing::warn;
use types::{Key, Lsn};

/// Values between two points at which other tasks may run.
const YIELD_EVERY: usize = 512;

/// What is rewritten.
pub struct Order<'a> {
    /// Delta layers whose LSNs no other delta layer of their keys shares.
    pub inputs: &'a [Arc<Layer>],
    /// LSNs of the outputs; holds those of all inputs.
    pub lsns: Range<Lsn>,
    /// Keys that no output reaches across, ascending. Outputs begin and end there where they can,
    /// not at the keys they happen to hold: layers of one cell then have the same bounds, and the
    /// layer map has few.
    pub cuts: &'a [Key],
}

/// The output that is being written.
struct Open {
    draft: Draft,
    writer: DeltaWriter<FileSink>,
    last: Key,
}

struct Outputs<'a> {
    timeline: &'a Timeline,
    order: &'a Order<'a>,
    target: u64,
    /// Behind the last output.
    start: Key,
    open: Option<Open>,
    done: Written,
}

impl Outputs<'_> {
    fn put(&mut self, key: Key, value: &Stored) -> Result<()> {
        if let Some(open) = self.open.as_ref().filter(|o| o.last != key) {
            if let Some(cut) = self.cut_after(open.last).filter(|c| *c <= key) {
                self.close(cut)?;
            } else if open.writer.size() >= self.target {
                self.close(key)?;
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let timeline = self.timeline;
                let cuts = self.order.cuts;
                let before = cuts.get(..cuts.partition_point(|c| *c <= key));
                let cut = before.and_then(<[Key]>::last).copied();
                let start = cut.unwrap_or(key).max(self.start).min(key);
                let (draft, sink) =
                    Draft::create(&timeline.shared.env, &timeline.directory(), "delta")?;
                let writer = DeltaWriter::new(
                    sink,
                    timeline.tenant.tenant,
                    timeline.id,
                    start,
                    self.order.lsns.clone(),
                    Options::default(),
                )
                .map_err(write_error)?;
                self.open.insert(Open {
                    draft,
                    writer,
                    last: key,
                })
            }
        };
        open.last = key;
        open.writer
            .put(key, value.lsn, value.will_init, &value.bytes)
            .map_err(write_error)
    }

    /// The first cut behind a key.
    fn cut_after(&self, last: Key) -> Option<Key> {
        let cuts = self.order.cuts;
        cuts.get(cuts.partition_point(|c| *c <= last)).copied()
    }

    /// Ends the last output: at the next cut, but never at the end of all keys, as a layer over all
    /// of them would be taken for an L0 layer.
    fn close_last(&mut self) -> Result<()> {
        let Some(last) = self.open.as_ref().map(|o| o.last) else {
            return Ok(());
        };
        let cut = self.cut_after(last).filter(|c| *c != Key::MAX);
        self.close(cut.unwrap_or_else(|| last.next()))
    }

    /// Ends the open output at `end`.
    fn close(&mut self, end: Key) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.start = end;
        let env = &self.timeline.shared.env;
        let layer = env.blocking(|| {
            let finished = open.writer.finish(end).map_err(write_error)?;
            open.draft.publish(self.timeline, finished)
        })?;
        self.done.push(layer);
        Ok(())
    }
}

/// Values of one key on their way: those that no reader needs any more are left out.
struct Trim {
    /// No LSN below is readable by looking at these layers.
    lowest: Lsn,
    held: Vec<Stored>,
}

impl Trim {
    /// Takes a value; returns true if it is to be written at once, after those held.
    fn holds(&mut self, value: &Stored) -> bool {
        if value.lsn > self.lowest {
            return false;
        }
        if value.will_init {
            self.held.clear();
        }
        self.held.push(value.clone());
        true
    }
}

impl Timeline {
    /// Carries out an order. The outputs are durable on local disk when it returns.
    pub(super) async fn rewrite(&self, order: &Order<'_>) -> Result<Vec<Arc<Layer>>> {
        let mut outputs = Outputs {
            timeline: self,
            order,
            target: self.shared.conf.load().compaction_target_size,
            start: Key::MIN,
            open: None,
            done: Written::new(&self.shared.env),
        };
        self.rewrite_into(order, &mut outputs).await?;
        Ok(outputs.done.take())
    }

    async fn rewrite_into(&self, order: &Order<'_>, outputs: &mut Outputs<'_>) -> Result<()> {
        let limit = self.shared.conf.load().delta_chain_threshold / 2;
        let now = self.shared.env.clock.monotonic();
        let (cutoff, held) = self.retention.advance(Lsn::INVALID, now);
        // While collection is blocked everything stays, for branches that are not known here yet.
        let lowest = match self.shared.collection.blocked().is_empty() {
            true => held
                .lowest_from(order.lsns.start)
                .map_or(cutoff, |lsn| lsn.min(cutoff)),
            false => Lsn::INVALID,
        };
        let mut trim = Trim {
            lowest,
            held: Vec::new(),
        };
        let mut merge = Merge::new(&self.shared, order.inputs).await?;
        let mut at: Option<Key> = None;
        let mut chain = 0;
        let mut n = 0usize;
        while let Some((key, mut value)) = merge.next().await? {
            n += 1;
            if n.is_multiple_of(YIELD_EVERY) {
                self.check_not_ended()?;
                tokio::task::yield_now().await;
            }
            if at != Some(key) {
                if let Some(previous) = at {
                    flush(&mut trim, previous, outputs)?;
                }
                at = Some(key);
                chain = if value.will_init {
                    0
                } else {
                    self.chain_length(&key, order.lsns.start).await?
                };
            }
            if value.will_init {
                chain = 0;
            } else {
                chain += 1;
                if chain > limit && self.materialize(&key, &mut value).await {
                    chain = 0;
                }
            }
            if !trim.holds(&value) {
                flush(&mut trim, key, outputs)?;
                outputs.put(key, &value)?;
            }
        }
        if let Some(key) = at {
            flush(&mut trim, key, outputs)?;
        }
        outputs.close_last()
    }

    /// Puts the whole page, as of the change's LSN, in the place of the change. A page that cannot
    /// be rebuilt stays a change, as its readers are told what is wrong.
    pub(in crate::engine) async fn materialize(&self, key: &Key, value: &mut Stored) -> bool {
        match self.get_counted(*key, value.lsn).await {
            Ok((Some(page), _)) => {
                let mut bytes = Vec::with_capacity(page.len() + 12);
                types::value::encode_image(&mut bytes, &page);
                value.bytes = bytes.into();
                value.will_init = true;
                self.shared.metrics.pages_materialized.inc();
                true
            }
            Ok((None, _)) => false,
            Err(e) => {
                self.shared.metrics.job_failed("materialize");
                warn!(tenant = %self.tenant, timeline = %self.id, %key, lsn = %value.lsn, "a long chain of changes stays as it is: {e}");
                false
            }
        }
    }
}

fn flush(trim: &mut Trim, key: Key, outputs: &mut Outputs<'_>) -> Result<()> {
    for value in trim.held.drain(..) {
        outputs.put(key, &value)?;
    }
    Ok(())
}
