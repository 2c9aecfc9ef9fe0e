//! Image layers from a stream of pages in file order, for imports.
//!
//! Long runs of consecutive keys (large relations) are written to layers of their own as they
//! come. What is short is gathered in memory under a limit and written, sorted, at the end. The
//! key ranges of all layers are disjoint.

use super::{State, Timeline};
use crate::engine::env::Env;
use crate::engine::error::{Error, Result};
use crate::engine::layer::{Draft, FileSink, Layer, write_error};
use bytes::Bytes;
use layer_format::ImageWriter;
use layer_format::writer::Options;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{Key, KeyRange, Lsn};

/// A run of this many bytes gets a layer of its own.
const RUN_BYTES: usize = 8 << 20;
/// A layer is ended at this size, in bytes.
const LAYER_BYTES: u64 = 256 << 20;
/// Most bytes gathered in memory before the longest runs are written early.
const POOL_BYTES: usize = 256 << 20;

struct Open {
    draft: Draft,
    writer: ImageWriter<FileSink>,
    start: Key,
    last: Key,
}

/// Takes values in any order, each key once.
pub struct Layers {
    timeline: Arc<Timeline>,
    env: Env,
    lsn: Lsn,
    run: Vec<(Key, Bytes)>,
    run_bytes: usize,
    open: Option<Open>,
    pool: BTreeMap<Key, Bytes>,
    pool_bytes: usize,
    done: Vec<Arc<Layer>>,
    taken: Vec<KeyRange>,
}

impl Layers {
    /// Layers of a timeline at one LSN.
    pub fn new(timeline: &Arc<Timeline>, lsn: Lsn) -> Self {
        Layers {
            timeline: Arc::clone(timeline),
            env: timeline.shared.env.clone(),
            lsn,
            run: Vec::new(),
            run_bytes: 0,
            open: None,
            pool: BTreeMap::new(),
            pool_bytes: 0,
            done: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Adds a value.
    pub fn put(&mut self, key: Key, value: Bytes) -> Result<()> {
        if let Some(open) = &mut self.open {
            if open.last.next() == key && open.writer.size() < LAYER_BYTES {
                open.last = key;
                return open.writer.put(key, &value).map_err(write_error);
            }
            self.close_open()?;
        }
        if self.run.last().is_some_and(|(last, _)| last.next() != key) {
            self.end_run()?;
        }
        self.run_bytes += value.len();
        self.run.push((key, value));
        if self.run_bytes >= RUN_BYTES {
            self.open_run()?;
        }
        Ok(())
    }

    /// Gives a long run a layer of its own, to which the following keys are appended.
    fn open_run(&mut self) -> Result<()> {
        let Some((start, _)) = self.run.first() else {
            return Ok(());
        };
        let start = *start;
        let (draft, mut writer) = self.begin(start)?;
        let mut last = start;
        for (key, value) in self.run.drain(..) {
            writer.put(key, &value).map_err(write_error)?;
            last = key;
        }
        self.run_bytes = 0;
        self.open = Some(Open {
            draft,
            writer,
            start,
            last,
        });
        Ok(())
    }

    fn begin(&self, start: Key) -> Result<(Draft, ImageWriter<FileSink>)> {
        let (draft, sink) = Draft::create(&self.env, &self.timeline.directory(), "image")?;
        let t = &self.timeline;
        let writer = ImageWriter::new(
            sink,
            t.tenant.tenant,
            t.id,
            start,
            self.lsn,
            Options::default(),
        )
        .map_err(write_error)?;
        Ok((draft, writer))
    }

    fn close_open(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let range = KeyRange {
            start: open.start,
            end: open.last.next(),
        };
        self.taken.push(range);
        self.publish(open.draft, open.writer, range.end)
    }

    fn publish(&mut self, draft: Draft, writer: ImageWriter<FileSink>, end: Key) -> Result<()> {
        let env = &self.env;
        let layer = env.blocking(|| {
            let finished = writer.finish(end).map_err(write_error)?;
            draft.publish(&self.timeline, finished)
        })?;
        self.done.push(Arc::new(layer));
        Ok(())
    }

    fn end_run(&mut self) -> Result<()> {
        self.pool_bytes += self.run_bytes;
        self.run_bytes = 0;
        self.pool.extend(self.run.drain(..));
        if self.pool_bytes > POOL_BYTES {
            self.spill()
        } else {
            Ok(())
        }
    }

    /// Writes the longest runs of the pool as layers of their own until half of it is free.
    fn spill(&mut self) -> Result<()> {
        let mut runs: Vec<(usize, KeyRange)> = Vec::new();
        for (key, value) in &self.pool {
            match runs.last_mut() {
                Some((bytes, range)) if range.end == *key => {
                    *bytes += value.len();
                    range.end = key.next();
                }
                _ => runs.push((value.len(), KeyRange::single(*key))),
            }
        }
        runs.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, range) in runs {
            if self.pool_bytes <= POOL_BYTES / 2 {
                break;
            }
            let (draft, mut writer) = self.begin(range.start)?;
            let keys: Vec<Key> = self
                .pool
                .range(range.start..range.end)
                .map(|(k, _)| *k)
                .collect();
            for key in keys {
                if let Some(value) = self.pool.remove(&key) {
                    writer.put(key, &value).map_err(write_error)?;
                }
            }
            self.pool_bytes = self.pool_bytes.saturating_sub(bytes);
            self.taken.push(range);
            self.publish(draft, writer, range.end)?;
        }
        Ok(())
    }

    /// Writes what is left and returns all layers.
    pub fn finish(mut self) -> Result<Vec<Arc<Layer>>> {
        self.close_open()?;
        self.end_run()?;
        self.taken.sort_unstable();
        let pool = std::mem::take(&mut self.pool);
        let taken = std::mem::take(&mut self.taken);
        let mut gaps = taken.iter().peekable();
        let mut current: Option<Open> = None;
        for (key, value) in pool {
            // A layer may not reach over a range that another one covers.
            let mut crossed = false;
            while gaps.peek().is_some_and(|g| g.start <= key) {
                crossed = true;
                gaps.next();
            }
            let full = current
                .as_ref()
                .is_some_and(|c| c.writer.size() >= LAYER_BYTES);
            if (crossed || full)
                && let Some(open) = current.take()
            {
                self.publish(open.draft, open.writer, open.last.next())?;
            }
            let open = match &mut current {
                Some(open) => open,
                None => {
                    let (draft, writer) = self.begin(key)?;
                    current.insert(Open {
                        draft,
                        writer,
                        start: key,
                        last: key,
                    })
                }
            };
            open.writer.put(key, &value).map_err(write_error)?;
            open.last = key;
        }
        if let Some(open) = current {
            self.publish(open.draft, open.writer, open.last.next())?;
        }
        Ok(self.done)
    }
}

impl Timeline {
    /// Takes over the layers of a finished backup: history begins at `start`.
    pub async fn adopt_import(&self, layers: Vec<Arc<Layer>>, start: Lsn) -> Result<()> {
        self.add_layers(layers, start);
        self.start_at(start);
        self.mark_index();
        Ok(())
    }

    /// Makes an import readable from the newest LSN on, durably. Returns that LSN.
    pub async fn finish_import(&self) -> Result<Lsn> {
        let lsn = self.last_record_lsn();
        self.retention
            .advance(lsn, self.shared.env.clock.monotonic());
        self.initdb_lsn.raise(lsn);
        self.learn_cluster(lsn).await?;
        self.update_vanilla(|v| {
            if let Some(import) = v.as_mut().and_then(|v| v.import.as_mut()) {
                import.done = true;
                import.end_lsn = Some(lsn);
            }
        });
        self.checkpoint().await?;
        if self.remote_consistent_lsn() < lsn {
            return Err(Error::Internal(format!(
                "timeline {}/{}: import up to {lsn} is only durable up to {}",
                self.tenant,
                self.id,
                self.remote_consistent_lsn()
            )));
        }
        self.set_state(State::Active);
        Ok(lsn)
    }
}
