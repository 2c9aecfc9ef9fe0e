//! Values out of a layer: of some keys, of all keys in order, or only how many there are.

use super::{Layer, Opened};
use crate::engine::error::{Error, Result};
use crate::engine::memory::Stored;
use crate::engine::shared::Shared;
use bytes::{Buf, Bytes};
use layer_format::blob;
use layer_format::reader::Extent;
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use types::{Key, KeyRange, Lsn};

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

impl Layer {
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
        let buf = opened.file.read_at(around.offset, len)?;
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
}
