//! Layer files that are being written.

use super::Layer;
use crate::engine::disk::WriteFile;
use crate::engine::env::Env;
use crate::engine::error::{Error, Result};
use crate::engine::memory;
use crate::engine::timeline::Timeline;
use layer_format::DeltaWriter;
use layer_format::writer::{Finished, Options, Sink};
use std::sync::Arc;
use tracing::info;
use types::{Key, Lsn, PAGE_SIZE};

/// Feeds a file from offset 8192 on.
pub struct FileSink(Box<dyn WriteFile>);

impl Sink for FileSink {
    type Error = std::io::Error;
    fn append(&mut self, blocks: &[u8]) -> Result<(), std::io::Error> {
        self.0.append(blocks)
    }
}

/// A layer file that is being written under a temporary name. Dropped, it is removed.
#[derive(Debug)]
pub struct Draft {
    env: Env,
    temp: String,
    published: bool,
}

impl Draft {
    /// Starts a file in `directory`; `label` tells drafts of one directory apart.
    pub fn create(env: &Env, directory: &str, label: &str) -> Result<(Draft, FileSink)> {
        let temp = format!(
            "{directory}/{label}.{:016x}.___temp",
            env.entropy.next_u64()
        );
        let mut file = env.disk.create(&temp)?;
        let draft = Draft {
            env: env.clone(),
            temp,
            published: false,
        };
        file.append(&[0u8; PAGE_SIZE])?;
        Ok((draft, FileSink(file)))
    }

    /// Completes the file, makes it durable and gives it its name. If that fails, nothing is left
    /// under the temporary name: tries again on a full disk would pile up there.
    pub fn publish(mut self, timeline: &Timeline, finished: Finished<FileSink>) -> Result<Layer> {
        let entry = finished.entry(timeline.generation, timeline.tenant.shard);
        let mut file = finished.sink.0;
        file.write_at(0, &finished.block0[..])?;
        file.sync()?;
        drop(file);
        let directory = timeline.directory();
        let layer = Layer::known(
            &timeline.shared().open_layers,
            timeline.tenant,
            timeline.id,
            &directory,
            finished.name,
            entry,
        );
        let disk = &self.env.disk;
        disk.rename(&self.temp, &layer.local_path())?;
        self.published = true;
        disk.sync_dir(&directory)?;
        layer.set_resident(true);
        Ok(layer)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            remove_unused(&self.env, &self.temp);
        }
    }
}

/// Finished layers that no reader has seen yet. Dropped before they are taken, their files are
/// removed.
#[derive(Debug)]
pub struct Written {
    env: Env,
    layers: Vec<Arc<Layer>>,
}

impl Written {
    /// None yet.
    pub fn new(env: &Env) -> Self {
        Written {
            env: env.clone(),
            layers: Vec::new(),
        }
    }

    /// One more.
    pub fn push(&mut self, layer: Layer) {
        self.layers.push(Arc::new(layer));
    }

    /// The layers, for the map.
    pub fn take(mut self) -> Vec<Arc<Layer>> {
        std::mem::take(&mut self.layers)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for layer in &self.layers {
            remove_unused(&self.env, &layer.local_path());
        }
    }
}

fn remove_unused(env: &Env, path: &str) {
    if let Err(e) = env.disk.remove(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        info!(file = %path, "unfinished file not removed now, will be at the next start: {e}");
    }
}

/// Writes a frozen in-memory layer as an L0 delta layer that ends at `end` (exclusive).
pub fn write_l0(env: &Env, timeline: &Timeline, frozen: &memory::Layer, end: Lsn) -> Result<Layer> {
    let (draft, sink) = Draft::create(env, &timeline.directory(), "l0")?;
    draft.publish(timeline, fill_l0(timeline, frozen, end, sink)?)
}

fn fill_l0(
    timeline: &Timeline,
    frozen: &memory::Layer,
    end: Lsn,
    sink: FileSink,
) -> Result<Finished<FileSink>> {
    let mut writer = DeltaWriter::new(
        sink,
        timeline.tenant.tenant,
        timeline.id,
        Key::MIN,
        frozen.start()..end,
        Options::default(),
    )
    .map_err(write_error)?;
    frozen.for_each(|key, stored| {
        writer
            .put(*key, stored.lsn, stored.will_init, &stored.bytes)
            .map_err(write_error)
    })?;
    writer.finish(Key::MAX).map_err(write_error)
}

/// A layer could not be written.
pub fn write_error(e: layer_format::writer::Error<std::io::Error>) -> Error {
    match e {
        layer_format::writer::Error::Sink(e) => e.into(),
        other => Error::Internal(format!("layer writer: {other}")),
    }
}
