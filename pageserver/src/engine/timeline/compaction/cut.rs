//! Parts of an ancestor's layers as layers of a branch of its own.

use super::super::Timeline;
use super::merge::Merge;
use crate::engine::error::{Error, Result};
use crate::engine::layer::{Draft, FileSink, Found, Layer, Lookup, write_error};
use crate::engine::memory::Stored;
use bytes::Bytes;
use layer_format::writer::{Finished, Options};
use layer_format::{DeltaWriter, ImageWriter};
use std::sync::Arc;
use types::key::{AUX_FILE_PREFIX, REPL_ORIGIN_PREFIX};
use types::{Key, KeyRange, Lsn};

/// Values between two points at which other tasks may run.
const YIELD_EVERY: usize = 512;
/// Keys read at a time.
const BATCH: usize = 64;

/// The sparse keys that branches do not inherit.
pub const NOT_INHERITED: KeyRange = KeyRange {
    start: Key {
        field1: AUX_FILE_PREFIX,
        field2: 0,
        field3: 0,
        field4: 0,
        field5: 0,
        field6: 0,
    },
    end: Key {
        field1: REPL_ORIGIN_PREFIX + 1,
        field2: 0,
        field3: 0,
        field4: 0,
        field5: 0,
        field6: 0,
    },
};

/// A directory of auxiliary files, in the form of one value, without files.
const NO_AUX_FILES: &[u8] = &[0; 8];

impl Timeline {
    /// What a delta layer holds at and below `last`, as a layer of this timeline, durable on local
    /// disk; `None` if that is nothing.
    pub(in crate::engine) async fn cut_delta(
        &self,
        source: &Arc<Layer>,
        last: Lsn,
    ) -> Result<Option<Layer>> {
        let env = &self.shared.env;
        let mut merge = Merge::new(&self.shared, std::slice::from_ref(source)).await?;
        let mut open: Option<(Draft, DeltaWriter<FileSink>)> = None;
        let written = async {
            let mut n = 0usize;
            while let Some((key, value)) = merge.next().await? {
                n += 1;
                if n.is_multiple_of(YIELD_EVERY) {
                    self.check_not_ended()?;
                    tokio::task::yield_now().await;
                }
                if value.lsn > last {
                    continue;
                }
                let (_, writer) = match &mut open {
                    Some(open) => open,
                    None => {
                        let (draft, sink) = Draft::create(env, &self.directory(), "cut")?;
                        let lsns = source.lsns().start..last.saturating_add(1);
                        let (tenant, start) = (self.tenant.tenant, source.keys().start);
                        let options = Options::default();
                        let writer = DeltaWriter::new(sink, tenant, self.id, start, lsns, options);
                        open.insert((draft, writer.map_err(write_error)?))
                    }
                };
                let put = writer.put(key, value.lsn, value.will_init, &value.bytes);
                put.map_err(write_error)?;
            }
            Ok::<(), Error>(())
        }
        .await;
        let Some((draft, writer)) = open else {
            return written.map(|()| None);
        };
        written?;
        env.blocking(|| {
            let finished = writer.finish(source.keys().end).map_err(write_error)?;
            draft.publish(self, finished).map(Some)
        })
    }

    /// An image layer without the keys that branches do not inherit, as a layer of this timeline;
    /// `None` if nothing is left.
    pub(in crate::engine) async fn strip_image(
        &self,
        source: &Arc<Layer>,
    ) -> Result<Option<Layer>> {
        let env = &self.shared.env;
        let all = source.keys();
        let mut keys = source.keys_in(&self.shared, all, usize::MAX).await?;
        keys.retain(Key::is_inherited);
        if keys.is_empty() {
            return Ok(None);
        }
        let (draft, sink) = Draft::create(env, &self.directory(), "cut")?;
        let written = async {
            let mut writer = self.image_writer(sink, all, source.lsns().start)?;
            for batch in keys.chunks(BATCH) {
                self.check_not_ended()?;
                for (key, value) in batch.iter().zip(self.images(source, batch).await?) {
                    writer.put(*key, &value).map_err(write_error)?;
                }
                tokio::task::yield_now().await;
            }
            writer.finish(all.end).map_err(write_error)
        };
        let finished = written.await?;
        env.blocking(|| draft.publish(self, finished)).map(Some)
    }

    /// Values that an image layer has of these keys.
    async fn images(&self, source: &Layer, keys: &[Key]) -> Result<Vec<Bytes>> {
        let mut found: Vec<Vec<Stored>> = vec![Vec::new(); keys.len()];
        let lookup = |(key, out)| Lookup {
            key,
            lsns: source.lsns().clone(),
            out,
            found: Found::Incomplete,
        };
        let places = keys.iter().copied().zip(found.iter_mut());
        let mut lookups: Vec<Lookup<'_>> = places.map(lookup).collect();
        source.collect(&self.shared, &mut lookups).await?;
        drop(lookups);
        let missing = |key| Error::Internal(format!("{}: no value of key {key}", source.name()));
        let values = keys.iter().zip(found);
        values
            .map(|(key, mut v)| v.pop().map(|s| s.bytes).ok_or_else(|| missing(key)))
            .collect()
    }

    /// Image layers at this timeline's branch point that say of each key it does not inherit and that
    /// its ancestor ever had that it does not exist.
    pub(in crate::engine) async fn tombstones(
        &self,
        ancestor: &Timeline,
        at: Lsn,
    ) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        let sparse = ancestor.keys_below(&NOT_INHERITED, at).await?;
        let gone: Vec<(Key, Bytes)> = sparse.into_iter().map(|k| (k, Bytes::new())).collect();
        layers.extend(self.write_image(&NOT_INHERITED, at, &gone)?);
        let files = Key::AUX_FILES_V1;
        if ancestor.get_opt(files, at).await?.is_some() {
            let none = [(files, Bytes::from_static(NO_AUX_FILES))];
            layers.extend(self.write_image(&KeyRange::single(files), at, &none)?);
        }
        Ok(layers)
    }

    /// An image layer of a range with these values; `None` if there are none.
    fn write_image(
        &self,
        keys: &KeyRange,
        lsn: Lsn,
        values: &[(Key, Bytes)],
    ) -> Result<Option<Layer>> {
        if values.is_empty() {
            return Ok(None);
        }
        let env = &self.shared.env;
        let (draft, sink) = Draft::create(env, &self.directory(), "cut")?;
        let layer = env.blocking(|| {
            let finished = self.fill_image(sink, keys, lsn, values)?;
            draft.publish(self, finished)
        })?;
        Ok(Some(layer))
    }

    fn fill_image(
        &self,
        sink: FileSink,
        keys: &KeyRange,
        lsn: Lsn,
        values: &[(Key, Bytes)],
    ) -> Result<Finished<FileSink>> {
        let mut writer = self.image_writer(sink, keys, lsn)?;
        for (key, value) in values {
            writer.put(*key, value).map_err(write_error)?;
        }
        writer.finish(keys.end).map_err(write_error)
    }

    fn image_writer(
        &self,
        sink: FileSink,
        keys: &KeyRange,
        lsn: Lsn,
    ) -> Result<ImageWriter<FileSink>> {
        let (tenant, options) = (self.tenant.tenant, Options::default());
        ImageWriter::new(sink, tenant, self.id, keys.start, lsn, options).map_err(write_error)
    }
}
