//! A persistent layer: an immutable file, in the bucket or about to be, perhaps on local disk.
//!
//! Opening verifies the summary, the index and, block by block, whatever is read. A local file
//! that fails is put aside and fetched again from the bucket once.

use super::damage;
use super::disk::{ReadFile, WriteFile};
use super::env::Env;
use super::error::{Error, Result};
use super::memory::{self, Stored};
use super::open_layers::{OpenLayers, Slot};
use super::shared::Shared;
use super::timeline::Timeline;
use bytes::{Buf, Bytes};
use layer_format::reader::{Extent, Head};
use layer_format::writer::{Finished, Options, Sink};
use layer_format::{DeltaWriter, Digest, LayerEntry, Name, blob, path};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{error, info, warn};
use types::{Key, KeyRange, Lsn, PAGE_SIZE, TenantId, TenantShardId, TimelineId};

/// Buffer for verifying a downloaded file.
const VERIFY_CHUNK: usize = 1 << 20;
/// Most bytes of one key that a scan of an in-file chain may gather, against runaway memory.
pub const MAX_CHAIN_BYTES: u64 = 256 << 20;
/// Bytes between two blobs that are read along rather than read around.
const MAX_GAP: u64 = 16 << 10;
/// Most bytes read at once for several blobs.
const MAX_RUN: u64 = 256 << 10;

/// What a layer said about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A value that needs nothing older was found.
    Complete,
    /// Older layers are to be asked.
    Incomplete,
    /// The layer is an image that covers the key and has no value: the key does not exist.
    Absent,
}

/// A key that is looked for in a layer.
#[derive(Debug)]
pub struct Lookup<'a> {
    /// The key.
    pub key: Key,
    /// LSNs of the values wanted.
    pub lsns: Range<Lsn>,
    /// Takes the values, newest first.
    pub out: &'a mut Vec<Stored>,
    /// What the layer said.
    pub found: Found,
}

/// A blob that a lookup needs.
#[derive(Debug)]
struct Wanted {
    lookup: usize,
    lsn: Lsn,
    will_init: bool,
    extent: Extent,
}

/// Values in the order in which they were wanted.
type Values = SmallVec<[Option<Bytes>; 2]>;

/// A run of values of a delta layer.
#[derive(Debug, Default)]
pub struct Chunk {
    /// In (key, LSN) order.
    pub values: Vec<(Key, Stored)>,
    /// Where the next run begins; `None` at the end.
    pub next: Option<(Key, Lsn)>,
}

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

    /// Appends to each lookup the values of its key with LSN in its range, newest first, down to
    /// the first that needs nothing older. Blobs that lie close to each other are read at once.
    pub async fn collect(&self, shared: &Shared, lookups: &mut [Lookup<'_>]) -> Result<()> {
        let opened = self.open(shared).await?;
        match self.read_values(&opened, lookups) {
            Err(e @ Error::Layer { .. }) => {
                self.put_aside(shared, &e).await?;
                let opened = self.open(shared).await?;
                self.read_values(&opened, lookups)
            }
            other => other,
        }
    }

    /// Fills the lookups; on failure they are as before.
    fn read_values(&self, opened: &Opened, lookups: &mut [Lookup<'_>]) -> Result<()> {
        let mut wanted: SmallVec<[Wanted; 2]> = SmallVec::with_capacity(lookups.len());
        let mut founds: SmallVec<[Found; 8]> = SmallVec::with_capacity(lookups.len());
        for (at, lookup) in lookups.iter().enumerate() {
            founds.push(self.locate(opened, at, lookup, &mut wanted)?);
        }
        let values = self.read_wanted(opened, &wanted)?;
        // In the order of lookups, and within each from new to old.
        for (want, bytes) in wanted.iter().zip(values) {
            if let (Some(lookup), Some(bytes)) = (lookups.get_mut(want.lookup), bytes) {
                lookup.out.push(Stored {
                    lsn: want.lsn,
                    will_init: want.will_init,
                    bytes,
                    bare: !self.is_delta(),
                });
            }
        }
        for (lookup, found) in lookups.iter_mut().zip(founds) {
            lookup.found = found;
        }
        Ok(())
    }

    /// Appends where the values for a lookup are.
    fn locate(
        &self,
        opened: &Opened,
        at: usize,
        lookup: &Lookup<'_>,
        wanted: &mut SmallVec<[Wanted; 2]>,
    ) -> Result<Found> {
        match &opened.content {
            layer_format::Layer::Image(image) => Ok(match image.get(lookup.key) {
                None => Found::Absent,
                Some(extent) => {
                    wanted.push(Wanted {
                        lookup: at,
                        lsn: self.lsns.start,
                        will_init: true,
                        extent,
                    });
                    Found::Complete
                }
            }),
            layer_format::Layer::Delta(delta) => {
                let mut total = 0;
                for version in delta.versions(lookup.key, lookup.lsns.end) {
                    if version.lsn < lookup.lsns.start {
                        break;
                    }
                    total += version.extent.len;
                    if total > MAX_CHAIN_BYTES {
                        return Err(Error::Internal(format!(
                            "{}: more than {MAX_CHAIN_BYTES} bytes of changes to key {}",
                            self.name, lookup.key
                        )));
                    }
                    wanted.push(Wanted {
                        lookup: at,
                        lsn: version.lsn,
                        will_init: version.will_init,
                        extent: version.extent,
                    });
                    if version.will_init {
                        return Ok(Found::Complete);
                    }
                }
                Ok(Found::Incomplete)
            }
        }
    }

    /// Reads blobs, each by itself if it lies alone, else together with its neighbours in the
    /// file. The answers are in the order of the questions.
    fn read_wanted(&self, opened: &Opened, wanted: &[Wanted]) -> Result<Values> {
        if let [one] = wanted {
            let (around, bytes) = self.read_around(opened, one.extent)?;
            let blob = self.place(bytes, around, one.extent)?;
            let value = blob::decode_owned(blob).map_err(|e| self.failed(one.extent, &e))?;
            return Ok(smallvec![Some(value)]);
        }
        let mut values: Values = smallvec![None; wanted.len()];
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|at| wanted.get(*at).map_or(0, |w| w.extent.offset));
        let mut rest = order.as_slice();
        while let Some((first, _)) = rest.split_first() {
            let Some(mut run) = wanted.get(*first).map(|w| w.extent) else {
                break;
            };
            let mut n = 1;
            for next in rest.iter().skip(1).filter_map(|at| wanted.get(*at)) {
                let grown = Extent {
                    offset: run.offset,
                    len: next.extent.end().max(run.end()) - run.offset,
                };
                if next.extent.offset > run.end() + MAX_GAP || grown.len > MAX_RUN {
                    break;
                }
                run = grown;
                n += 1;
            }
            let (now, later) = rest.split_at(n);
            rest = later;
            let (around, bytes) = self.read_around(opened, run)?;
            for at in now {
                if let (Some(want), Some(value)) = (wanted.get(*at), values.get_mut(*at)) {
                    *value = Some(self.decode(&bytes, around, want.extent)?);
                }
            }
        }
        Ok(values)
    }

    fn failed(&self, extent: Extent, e: &dyn std::fmt::Display) -> Error {
        let text = format!("blob at offset {:#x}: {e}", extent.offset);
        Error::layer(self.local_path(), std::io::Error::other(text))
    }

    /// Reads and verifies what holds an extent.
    fn read_around(&self, opened: &Opened, extent: Extent) -> Result<(Extent, Bytes)> {
        let around = opened.content.to_read(extent);
        let len = usize::try_from(around.len).map_err(|e| self.failed(extent, &e))?;
        let mut buf = vec![0u8; len];
        opened.file.read_exact_at(&mut buf, around.offset)?;
        if let Some(sums) = opened.content.checksums() {
            sums.verify(around.offset, &buf)
                .map_err(|e| self.failed(extent, &e))?;
        }
        Ok((around, Bytes::from(buf)))
    }

    /// Decodes a blob out of the bytes around it.
    fn decode(&self, bytes: &Bytes, around: Extent, extent: Extent) -> Result<Bytes> {
        let blob = self.place(bytes.clone(), around, extent)?;
        blob::decode_owned(blob).map_err(|e| self.failed(extent, &e))
    }

    /// Cuts an extent out of the bytes around it.
    fn place(&self, mut bytes: Bytes, around: Extent, extent: Extent) -> Result<Bytes> {
        let place = || {
            let start = usize::try_from(extent.offset.checked_sub(around.offset)?).ok()?;
            let len = usize::try_from(extent.len).ok()?;
            (start.checked_add(len)? <= bytes.len()).then_some((start, len))
        };
        let (start, len) =
            place().ok_or_else(|| self.failed(extent, &"extent beyond what was read"))?;
        bytes.advance(start);
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Number of values of `key` with LSN in `lsns` that a read would collect, without reading
    /// them.
    pub async fn count(
        &self,
        shared: &Shared,
        key: &Key,
        lsns: Range<Lsn>,
    ) -> Result<(usize, Found)> {
        let opened = self.open(shared).await?;
        Ok(match &opened.content {
            layer_format::Layer::Image(image) if image.get(*key).is_some() => (0, Found::Complete),
            layer_format::Layer::Image(_) => (0, Found::Absent),
            layer_format::Layer::Delta(delta) => {
                let mut n = 0;
                for version in delta.versions(*key, lsns.end) {
                    if version.lsn < lsns.start {
                        break;
                    }
                    if version.will_init {
                        return Ok((n, Found::Complete));
                    }
                    n += 1;
                }
                (n, Found::Incomplete)
            }
        })
    }

    /// The values of a delta layer from `from` on in (key, LSN) order, about `budget` bytes of
    /// them, with the key and LSN to go on from.
    pub async fn scan(&self, shared: &Shared, from: (Key, Lsn), budget: usize) -> Result<Chunk> {
        let opened = self.open(shared).await?;
        match shared.env.blocking(|| self.read_run(&opened, from, budget)) {
            Err(e @ Error::Layer { .. }) => {
                self.put_aside(shared, &e).await?;
                let opened = self.open(shared).await?;
                shared.env.blocking(|| self.read_run(&opened, from, budget))
            }
            other => other,
        }
    }

    fn read_run(&self, opened: &Opened, from: (Key, Lsn), budget: usize) -> Result<Chunk> {
        let layer_format::Layer::Delta(delta) = &opened.content else {
            return Err(Error::Internal(format!("{}: not a delta layer", self.name)));
        };
        let mut entries = Vec::new();
        let mut run: Option<Extent> = None;
        let mut next = None;
        for entry in delta.entries_from(from.0, from.1) {
            // Blobs follow each other in the order of the index.
            let grown = Extent {
                offset: run.map_or(entry.extent.offset, |r| r.offset),
                len: run.map_or(0, |r| r.len) + entry.extent.len,
            };
            if run.is_some() && grown.len > budget as u64 {
                next = Some((entry.key, entry.lsn));
                break;
            }
            run = Some(grown);
            entries.push(entry);
        }
        let Some(run) = run else {
            return Ok(Chunk::default());
        };
        let (around, bytes) = self.read_around(opened, run)?;
        let mut values = Vec::with_capacity(entries.len());
        for entry in entries {
            let bytes = self.decode(&bytes, around, entry.extent)?;
            values.push((
                entry.key,
                Stored {
                    lsn: entry.lsn,
                    will_init: entry.will_init,
                    bytes,
                    bare: false,
                },
            ));
        }
        Ok(Chunk { values, next })
    }

    /// Keys of a range that have an entry, ascending, at most `limit`.
    pub async fn keys_in(
        &self,
        shared: &Shared,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<Key>> {
        let opened = self.open(shared).await?;
        let mut keys: Vec<Key> = match &opened.content {
            layer_format::Layer::Image(l) => l.range(*range).map(|e| e.key).take(limit).collect(),
            layer_format::Layer::Delta(l) => l.range(*range).map(|e| e.key).take(limit).collect(),
        };
        keys.dedup();
        Ok(keys)
    }

    async fn open(&self, shared: &Shared) -> Result<Arc<Opened>> {
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
        let mut block0 = vec![0u8; PAGE_SIZE];
        file.read_exact_at(&mut block0, 0)?;
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
        let mut tail = vec![0u8; tail_len];
        file.read_exact_at(&mut tail, head.tail_offset())?;
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

    /// Reads the local file in full and compares it with the index.
    pub fn verify_local(&self, shared: &Shared) -> Result<()> {
        let env = &shared.env;
        env.blocking(|| self.verify_file(env, &self.local_path()))
    }

    /// Removes the local file of a layer that is in the bucket. Readers under way go on with it; the
    /// next one fetches it again. False if there was none.
    pub async fn evict(&self, shared: &Shared) -> Result<bool> {
        let _one_at_a_time = self.opening.lock().await;
        if !self.is_resident() {
            return Ok(false);
        }
        match shared.env.disk.remove(&self.local_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.set_resident(false);
        self.opened.close();
        shared.metrics.evicted(self.entry.file_size);
        Ok(true)
    }

    /// Fetches the file unless it is on local disk. False if it is.
    pub async fn fetch(&self, shared: &Shared) -> Result<bool> {
        let _one_at_a_time = self.opening.lock().await;
        if self.is_resident() {
            return Ok(false);
        }
        self.download(shared).await?;
        Ok(true)
    }

    /// Puts the local file aside and fetches it again.
    pub async fn fetch_again(&self, shared: &Shared, why: &Error) -> Result<()> {
        let _one_at_a_time = self.opening.lock().await;
        self.quarantine(shared, why)?;
        self.download(shared).await
    }

    /// Fetches the file from the bucket and verifies all of it.
    async fn download(&self, shared: &Shared) -> Result<()> {
        let env = &shared.env;
        let path = self.local_path();
        let temp = format!("{path}.___temp");
        env.disk.create_dir_all(&self.directory)?;
        remove_if_there(env, &temp)?;
        let fetched = match self.fetch_to(env, &temp).await {
            Ok(()) => env.disk.rename(&temp, &path).map_err(Error::from),
            Err(e) => Err(e),
        };
        if let Err(e) = fetched {
            if let Err(e) = remove_if_there(env, &temp) {
                info!(file = %temp, "not removed now, will be at the next try: {e}");
            }
            return Err(e);
        }
        env.disk.sync_dir(&self.directory)?;
        self.set_resident(true);
        shared.metrics.downloaded(self.entry.file_size);
        info!(tenant = %self.tenant, timeline = %self.timeline, layer = %self.name, bytes = self.entry.file_size, "downloaded");
        Ok(())
    }

    /// Fetches the object into a file under a temporary name.
    async fn fetch_to(&self, env: &Env, temp: &str) -> Result<()> {
        let key = self.object_key(&self.tenant.tenant, &self.timeline);
        match env.disk.host_path(temp) {
            Some(host) => {
                env.bucket.download(&key, &host).await?;
            }
            None => {
                let object = env.bucket.get(&key).await?;
                let mut file = env.disk.create(temp)?;
                file.append(&object.body)?;
                file.sync()?;
            }
        }
        env.blocking(|| self.verify_file(env, temp))
    }

    fn verify_file(&self, env: &Env, path: &str) -> Result<()> {
        let file = env.disk.open(path)?;
        let len = file.len()?;
        let wrong = |text: String| Error::layer(path, std::io::Error::other(text));
        if len != self.entry.file_size {
            return Err(wrong(format!(
                "{len} bytes fetched, {} in the index",
                self.entry.file_size
            )));
        }
        let Some(expected) = self.entry.crc32c else {
            return Ok(());
        };
        let mut digest = Digest::new();
        let chunk = usize::try_from(len).map_or(VERIFY_CHUNK, |n| n.min(VERIFY_CHUNK));
        let mut buf = vec![0u8; chunk];
        let mut at = 0u64;
        while at < len {
            let n = usize::try_from(len - at)
                .unwrap_or(usize::MAX)
                .min(VERIFY_CHUNK);
            let part = buf.get_mut(..n).unwrap_or_default();
            file.read_exact_at(part, at)?;
            digest.update(part);
            at += n as u64;
        }
        if digest.crc32c() == expected {
            return Ok(());
        }
        Err(wrong(format!(
            "CRC-32C of the file is {:08x}, the index says {expected:08x}; {}",
            digest.crc32c(),
            damage::locate(&*file, len)
        )))
    }

    async fn put_aside(&self, shared: &Shared, why: &Error) -> Result<()> {
        let _one_at_a_time = self.opening.lock().await;
        self.quarantine(shared, why)
    }

    /// Moves a damaged local file out of the way.
    fn quarantine(&self, shared: &Shared, why: &Error) -> Result<()> {
        let path = self.local_path();
        error!(tenant = %self.tenant, timeline = %self.timeline, file = %path, "damaged, put aside and fetched again: {why}");
        shared.metrics.checksum_failed();
        self.opened.close();
        self.set_resident(false);
        match shared.env.disk.rename(&path, &format!("{path}.damaged")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn remove_if_there(env: &Env, path: &str) -> Result<()> {
    match env.disk.remove(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Feeds a file from offset 8192 on.
pub struct FileSink(Box<dyn WriteFile>);

impl Sink for FileSink {
    type Error = std::io::Error;
    fn append(&mut self, blocks: &[u8]) -> Result<(), std::io::Error> {
        self.0.append(blocks)
    }
}

/// A layer file that is being written under a temporary name.
#[derive(Debug)]
pub struct Draft {
    temp: String,
}

impl Draft {
    /// Starts a file in `directory`; `label` tells drafts of one directory apart.
    pub fn create(env: &Env, directory: &str, label: &str) -> Result<(Draft, FileSink)> {
        let temp = format!(
            "{directory}/{label}.{:016x}.___temp",
            env.entropy.next_u64()
        );
        let mut file = env.disk.create(&temp)?;
        let draft = Draft { temp };
        if let Err(e) = file.append(&[0u8; PAGE_SIZE]) {
            draft.discard(env);
            return Err(e.into());
        }
        Ok((draft, FileSink(file)))
    }

    /// Publishes what was written, or removes it if writing failed.
    pub fn end(
        self,
        env: &Env,
        timeline: &Timeline,
        written: Result<Finished<FileSink>>,
    ) -> Result<Layer> {
        match written {
            Ok(finished) => self.publish(env, timeline, finished),
            Err(e) => {
                self.discard(env);
                Err(e)
            }
        }
    }

    /// Completes the file, makes it durable and gives it its name. If that fails, nothing is left
    /// under the temporary name: tries again on a full disk would pile up there.
    pub fn publish(
        self,
        env: &Env,
        timeline: &Timeline,
        finished: Finished<FileSink>,
    ) -> Result<Layer> {
        let published = self.try_publish(env, timeline, finished);
        if published.is_err() {
            self.discard(env);
        }
        published
    }

    fn try_publish(
        &self,
        env: &Env,
        timeline: &Timeline,
        finished: Finished<FileSink>,
    ) -> Result<Layer> {
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
        env.disk.rename(&self.temp, &layer.local_path())?;
        env.disk.sync_dir(&directory)?;
        layer.set_resident(true);
        Ok(layer)
    }

    /// Removes the unfinished file.
    pub fn discard(self, env: &Env) {
        if let Err(e) = env.disk.remove(&self.temp)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            info!(file = %self.temp, "unfinished file not removed now, will be at the next start: {e}");
        }
    }
}

/// Writes a frozen in-memory layer as an L0 delta layer that ends at `end` (exclusive).
pub fn write_l0(env: &Env, timeline: &Timeline, frozen: &memory::Layer, end: Lsn) -> Result<Layer> {
    let (draft, sink) = Draft::create(env, &timeline.directory(), "l0")?;
    let written = fill_l0(timeline, frozen, end, sink);
    draft.end(env, timeline, written)
}

/// Removes what compaction wrote for a change that is not made: the draft under way, if any, and the
/// finished layers, which no reader has seen.
pub fn abandon(env: &Env, open: Option<Draft>, done: &[Arc<Layer>]) {
    if let Some(draft) = open {
        draft.discard(env);
    }
    for layer in done {
        let path = layer.local_path();
        if let Err(e) = env.disk.remove(&path) {
            info!(file = %path, "unused layer not removed now, will be at the next start: {e}");
        }
    }
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
