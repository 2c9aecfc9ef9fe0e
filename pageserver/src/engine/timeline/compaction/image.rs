//! Image layers: every page of a cell as of one LSN.

use super::super::Timeline;
use super::Cell;
use super::keyspace::{Keyspace, SPARSE};
use crate::engine::error::{Error, Result};
use crate::engine::layer::{Draft, FileSink, Layer, Written, write_error};
use bytes::Bytes;
use layer_format::ImageWriter;
use layer_format::writer::Options;
use std::sync::Arc;
use tracing::warn;
use types::key::Kind;
use types::{Fork, Key, KeyRange, Lsn};

/// Keys read at a time.
const BATCH: usize = 64;

struct Open {
    draft: Draft,
    writer: ImageWriter<FileSink>,
}

/// The image layers of one cell; together they cover all of it, keys without a value included.
struct Images<'a> {
    timeline: &'a Timeline,
    lsn: Lsn,
    target: u64,
    /// Where the next layer begins.
    start: Key,
    open: Option<Open>,
    done: Written,
}

impl Images<'_> {
    fn put(&mut self, key: Key, value: &Bytes) -> Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|o| o.writer.size() >= self.target)
        {
            self.close(key)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let timeline = self.timeline;
                let (draft, sink) =
                    Draft::create(&timeline.shared.env, &timeline.directory(), "image")?;
                let writer = ImageWriter::new(
                    sink,
                    timeline.tenant.tenant,
                    timeline.id,
                    self.start,
                    self.lsn,
                    Options::default(),
                )
                .map_err(write_error)?;
                self.open.insert(Open { draft, writer })
            }
        };
        open.writer.put(key, value).map_err(write_error)
    }

    /// Ends the layer at `end`, where the next one begins.
    fn close(&mut self, end: Key) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let env = &self.timeline.shared.env;
        let layer = env.blocking(|| {
            let finished = open.writer.finish(end).map_err(write_error)?;
            open.draft.publish(self.timeline, finished)
        })?;
        self.done.push(layer);
        self.start = end;
        Ok(())
    }
}

/// Maps of free space and visibility may lack pages that nobody has written.
fn may_be_missing(key: &Key) -> bool {
    matches!(key.kind(), Kind::RelBlock { rel, .. } if matches!(rel.fork, Fork::Fsm | Fork::Vm))
}

impl Timeline {
    /// Image layers of all keys of a cell at `lsn`, durable on local disk. None if a page cannot
    /// be rebuilt: its changes stay, and so does what they need.
    pub(super) async fn make_images(
        &self,
        cell: &Cell,
        keyspace: &Keyspace,
        lsn: Lsn,
    ) -> Result<Vec<Arc<Layer>>> {
        let mut images = Images {
            timeline: self,
            lsn,
            target: self.shared.conf.load().compaction_target_size,
            start: cell.keys.start,
            open: None,
            done: Written::new(&self.shared.env),
        };
        let result = self.fill(&mut images, cell, keyspace, lsn).await;
        match result {
            Ok(()) => Ok(images.done.take()),
            Err(e @ (Error::MissingKey { .. } | Error::Redo { .. } | Error::Value { .. })) => {
                self.shared.metrics.job_failed("image");
                warn!(tenant = %self.tenant, timeline = %self.id, start = %cell.keys.start, end = %cell.keys.end, %lsn, "no image made: {e}");
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }

    async fn fill(
        &self,
        images: &mut Images<'_>,
        cell: &Cell,
        keyspace: &Keyspace,
        lsn: Lsn,
    ) -> Result<()> {
        let mut batch: Vec<(Key, Lsn)> = Vec::with_capacity(BATCH);
        let sparse = KeyRange {
            start: SPARSE.start.max(cell.keys.start),
            end: SPARSE.end.min(cell.keys.end),
        };
        // Sparse keys come last in key order.
        for range in keyspace.within(&cell.keys) {
            let mut key = range.start;
            while key < range.end {
                batch.push((key, lsn));
                if batch.len() == BATCH {
                    self.fill_batch(images, &mut batch).await?;
                }
                key = key.next();
            }
        }
        self.fill_batch(images, &mut batch).await?;
        if !sparse.is_empty() {
            for (key, value) in self.scan(sparse, lsn).await? {
                images.put(key, &value)?;
            }
        }
        images.close(cell.keys.end)
    }

    async fn fill_batch(&self, images: &mut Images<'_>, batch: &mut Vec<(Key, Lsn)>) -> Result<()> {
        self.check_not_ended()?;
        for ((key, _), value) in batch.iter().zip(self.get_many(batch).await) {
            match value {
                Ok(value) => images.put(*key, &value)?,
                Err(Error::MissingKey { .. }) if may_be_missing(key) => {}
                Err(e) => return Err(e),
            }
        }
        batch.clear();
        tokio::task::yield_now().await;
        Ok(())
    }
}
