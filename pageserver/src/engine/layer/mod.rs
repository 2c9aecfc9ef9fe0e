//! A persistent layer: an immutable file, in the bucket or about to be, perhaps on local disk.
//!
//! Opening verifies the summary, the index and, block by block, whatever is read ([`read`]). A local
//! file that fails is put aside and fetched again from the bucket once ([`file`]). New ones come from
//! a [`Draft`].

mod draft;
mod file;
mod read;

pub use draft::{Draft, FileSink, Written, write_error, write_l0};
pub use read::{Chunk, Found, Lookup, MAX_CHAIN_BYTES};

use super::disk::ReadFile;
use super::env::Env;
use super::error::{Error, Result};
use super::open_layers::{OpenLayers, Slot};
use super::shared::Shared;
use bytes::Bytes;
use layer_format::reader::Head;
use layer_format::{LayerEntry, Name, path};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::warn;
use types::{KeyRange, Lsn, PAGE_SIZE, TenantId, TenantShardId, TimelineId};

/// An open file and its decoded index.
#[derive(Debug)]
pub struct Opened {
    file: Arc<dyn ReadFile>,
    content: layer_format::Layer,
}

impl Opened {
    /// Memory held, in bytes.
    pub fn memory(&self) -> usize {
        self.content.memory()
    }
}

/// A layer file with its place in the bucket and on disk.
#[derive(Debug)]
pub struct Layer {
    name: Name,
    keys: KeyRange,
    lsns: Range<Lsn>,
    entry: LayerEntry,
    tenant: TenantShardId,
    timeline: TimelineId,
    directory: String,
    resident: AtomicBool,
    opened: Arc<Slot>,
    opening: tokio::sync::Mutex<()>,
}

impl Layer {
    /// A layer that the index names. Not resident until said so.
    pub fn known(
        cache: &Arc<OpenLayers>,
        tenant: TenantShardId,
        timeline: TimelineId,
        directory: &str,
        name: Name,
        entry: LayerEntry,
    ) -> Self {
        Layer {
            keys: name.keys(),
            lsns: name.lsn_range(),
            name,
            entry,
            tenant,
            timeline,
            directory: directory.to_owned(),
            resident: AtomicBool::new(false),
            opened: cache.slot(),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    /// Its identity.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its entry in the index.
    pub fn entry(&self) -> &LayerEntry {
        &self.entry
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.entry.file_size
    }

    /// Keys it covers.
    pub fn keys(&self) -> &KeyRange {
        &self.keys
    }

    /// LSNs it covers; one wide for an image.
    pub fn lsns(&self) -> &Range<Lsn> {
        &self.lsns
    }

    /// True for a delta layer.
    pub fn is_delta(&self) -> bool {
        self.name.is_delta()
    }

    /// True for a delta layer over all keys.
    pub fn is_l0(&self) -> bool {
        self.name.is_l0()
    }

    /// True if the file is on local disk.
    pub fn is_resident(&self) -> bool {
        self.resident.load(Ordering::Acquire)
    }

    /// Says whether the file is on local disk.
    pub fn set_resident(&self, resident: bool) {
        self.resident.store(resident, Ordering::Release);
    }

    /// Name of the local file.
    pub fn local_name(&self) -> String {
        self.name.local_name(self.entry.generation)
    }

    /// Path of the local file.
    pub fn local_path(&self) -> String {
        format!("{}/{}", self.directory, self.local_name())
    }

    /// Key of the object.
    pub fn object_key(&self, tenant: &TenantId, timeline: &TimelineId) -> String {
        path::layer(tenant, timeline, &self.name, &self.entry)
    }

    pub(super) async fn open(&self, shared: &Shared) -> Result<Arc<Opened>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        if !self.is_resident() {
            self.download(shared).await?;
        }
        let opened = match shared.env.blocking(|| self.open_file(&shared.env)) {
            Err(e @ Error::Layer { .. }) => {
                self.quarantine(shared, &e)?;
                self.download(shared).await?;
                shared.env.blocking(|| self.open_file(&shared.env))?
            }
            Err(Error::Disk(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                warn!(tenant = %self.tenant, timeline = %self.timeline, file = %self.local_path(), "the local file is gone, fetched again");
                self.set_resident(false);
                self.download(shared).await?;
                shared.env.blocking(|| self.open_file(&shared.env))?
            }
            other => other?,
        };
        let opened = Arc::new(opened);
        self.opened.put(&opened);
        Ok(opened)
    }

    fn open_file(&self, env: &Env) -> Result<Opened> {
        let path = self.local_path();
        let file = env.disk.open(&path)?;
        let len = file.len()?;
        if len != self.entry.file_size {
            let text = format!("{len} bytes on disk, {} in the index", self.entry.file_size);
            return Err(Error::layer(path, std::io::Error::other(text)));
        }
        let block0 = file.read_at(0, PAGE_SIZE)?;
        let head = Head::decode(&block0).map_err(|e| Error::layer(path.clone(), e))?;
        let tail_len = len
            .checked_sub(head.tail_offset())
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| {
                Error::layer(
                    path.clone(),
                    std::io::Error::other("the index lies behind the end"),
                )
            })?;
        let tail = file.read_at(head.tail_offset(), tail_len)?;
        let tenant = self.tenant.tenant;
        let content = layer_format::Layer::open(head, &self.name, &tenant, &Bytes::from(tail))
            .map_err(|e| Error::layer(path.clone(), e))?;
        // A layer of another branch may have the same name: what is right in itself may still be
        // the wrong file.
        if let (Some(expected), Some(found)) = (self.entry.crc32c, content.file_crc32c())
            && expected != found
        {
            let text = format!(
                "another layer's file: its checksums add up to {found:08x}, the index says {expected:08x}"
            );
            return Err(Error::layer(path, std::io::Error::other(text)));
        }
        Ok(Opened { file, content })
    }
}
