//! Writes layer files, front to back, in one pass.
//!
//! The caller reserves block 0, takes everything else through a [`Sink`] in file order, and
//! writes [`Finished::block0`] at offset 0 at the end. Blobs stream out in runs of whole blocks;
//! the index stays in memory (about 1 % of the file) until [`DeltaWriter::finish`] or
//! [`ImageWriter::finish`] appends it and, unless switched off, the checksum table.
//!
//! Promised of every finished file: keys ascend strictly and lie in the key range, LSNs lie in
//! the LSN range, the length is a multiple of 8192, and the reference reads it. Without
//! checksums and compression the bytes are those the reference writes.

use crate::blob::{self, Compression, Encoder};
use crate::btree::{BuildError, Builder, KeyBytes, MAX_KEY};
use crate::checksum::{self, Digest, TableBuilder};
use crate::index_part::LayerEntry;
use crate::name::Name;
use crate::summary::Summary;
use crate::{BLOCK, BLOCK_SIZE};
use std::convert::Infallible;
use std::ops::Range;
use types::key::KEY_SIZE;
use types::shard::ShardIndex;
use types::{Generation, Key, KeyRange, Lsn, TenantId, TimelineId, Value};

/// Largest file written by default, in bytes: what a single PUT of the reference may carry.
pub const MAX_FILE_SIZE: u64 = 4_500_000_000;
/// Offsets of delta blobs stay below this: one bit of the 39 is the flag.
const DELTA_OFFSET_LIMIT: u64 = 1 << 38;
/// Offsets of image blobs stay below this.
const IMAGE_OFFSET_LIMIT: u64 = 1 << 39;
/// Blobs are handed to the sink once this many bytes are there.
const RUN: usize = 64 << 10;

/// Takes the file from offset 8192 on, in order, in runs of whole blocks.
pub trait Sink {
    /// Why a write failed.
    type Error;
    /// Appends whole blocks.
    fn append(&mut self, blocks: &[u8]) -> Result<(), Self::Error>;
}

impl Sink for Vec<u8> {
    type Error = Infallible;
    fn append(&mut self, blocks: &[u8]) -> Result<(), Infallible> {
        self.extend_from_slice(blocks);
        Ok(())
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    type Error = S::Error;
    fn append(&mut self, blocks: &[u8]) -> Result<(), S::Error> {
        (**self).append(blocks)
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Compression of values. Leave off for delta layers of tenants that may return to a
    /// reference node with tiered compaction, which cannot read it there.
    pub compression: Compression,
    /// Append block checksums.
    pub checksums: bool,
    /// Largest file, in bytes.
    pub max_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            compression: Compression::Disabled,
            checksums: true,
            max_size: MAX_FILE_SIZE,
        }
    }
}

/// A layer cannot be written, or not with this entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The sink failed.
    #[error("writing a layer: {0}")]
    Sink(E),
    /// A value cannot be encoded.
    #[error("writing a layer: {0}")]
    Blob(#[from] blob::Error),
    /// The entry is out of order, or there is none.
    #[error("writing a layer: {0}")]
    Index(#[from] BuildError),
    /// The checksum table cannot hold the file.
    #[error("writing a layer: {0}")]
    Checksum(#[from] checksum::Error),
    /// The key lies outside the layer's key range.
    #[error("writing a layer: key {key} is outside {start}-{end}")]
    KeyOutside {
        /// The key.
        key: Key,
        /// Start of the range.
        start: Key,
        /// End of the range.
        end: Key,
    },
    /// The LSN lies outside the layer's LSN range, or the range is empty.
    #[error("writing a layer: LSN {lsn} is outside {start}-{end}")]
    LsnOutside {
        /// The LSN.
        lsn: Lsn,
        /// Start of the range.
        start: Lsn,
        /// End of the range.
        end: Lsn,
    },
    /// The file would exceed its limit.
    #[error("writing a layer: it would exceed {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

/// A complete layer, but for block 0, which the caller writes at offset 0.
#[derive(Debug)]
pub struct Finished<S> {
    /// The sink, with everything from offset 8192 on.
    pub sink: S,
    /// The first 8192 bytes of the file.
    pub block0: Box<[u8; BLOCK_SIZE]>,
    /// Name without generation.
    pub name: Name,
    /// Length of the file in bytes, block 0 included.
    pub file_size: u64,
    /// CRC-32C of the whole file, block 0 included.
    pub crc32c: u32,
    /// Number of entries.
    pub entries: u64,
}

impl<S> Finished<S> {
    /// The layer's entry in the index document.
    pub const fn entry(&self, generation: Generation, shard: ShardIndex) -> LayerEntry {
        LayerEntry {
            file_size: self.file_size,
            generation,
            shard,
            crc32c: Some(self.crc32c),
        }
    }
}

impl Finished<Vec<u8>> {
    /// The whole file.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut file = self.block0.to_vec();
        file.extend_from_slice(&self.sink);
        file
    }
}

/// What both kinds of layer share.
struct Body<S> {
    sink: S,
    options: Options,
    encoder: Encoder,
    /// Blob bytes not handed to the sink yet.
    pending: Vec<u8>,
    /// Bytes of blobs, including pending ones.
    blob_bytes: u64,
    index: Builder,
    table: TableBuilder,
    digest: Digest,
}

impl<S: Sink> Body<S> {
    fn new(sink: S, key_len: usize, options: Options) -> Result<Self, Error<S::Error>> {
        Ok(Body {
            sink,
            options,
            encoder: Encoder::new(options.compression)?,
            pending: Vec::with_capacity(RUN + 2 * BLOCK_SIZE),
            blob_bytes: 0,
            index: Builder::new(key_len),
            table: TableBuilder::default(),
            digest: Digest::new(),
        })
    }

    /// Length of the file if it were finished now, in bytes; checksums not counted.
    fn size(&self) -> u64 {
        BLOCK + self.blob_bytes.next_multiple_of(BLOCK) + self.index.size()
    }

    fn put(
        &mut self,
        key: KeyBytes,
        body: &[u8],
        offset_limit: u64,
        value: impl FnOnce(u64) -> u64,
    ) -> Result<(), Error<S::Error>> {
        let offset = BLOCK + self.blob_bytes;
        let most = (body.len() + blob::MAX_HEADER) as u64;
        if self.size() + most > self.options.max_size {
            return Err(Error::TooLarge {
                limit: self.options.max_size,
            });
        }
        if offset >= offset_limit {
            return Err(Error::TooLarge {
                limit: offset_limit,
            });
        }
        if body.len() > blob::MAX_LENGTH {
            return Err(blob::Error::TooLong.into());
        }
        self.index.append(key, value(offset))?;
        let before = self.pending.len();
        self.encoder.encode(body, &mut self.pending)?;
        self.blob_bytes += (self.pending.len() - before) as u64;
        if self.pending.len() >= RUN {
            let whole = self.pending.len() / BLOCK_SIZE * BLOCK_SIZE;
            let rest = self.pending.split_off(whole);
            let run = std::mem::replace(&mut self.pending, rest);
            self.emit(&run)?;
        }
        Ok(())
    }

    fn emit(&mut self, blocks: &[u8]) -> Result<(), Error<S::Error>> {
        self.digest.update(blocks);
        if self.options.checksums {
            self.table.add(blocks);
        }
        self.sink.append(blocks).map_err(Error::Sink)
    }

    fn finish(
        mut self,
        tenant: TenantId,
        timeline: TimelineId,
        name: Name,
    ) -> Result<Finished<S>, Error<S::Error>> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.resize(pending.len().next_multiple_of(BLOCK_SIZE), 0);
        if !pending.is_empty() {
            self.emit(&pending)?;
        }
        let too_large = |_| Error::TooLarge {
            limit: self.options.max_size,
        };
        let index_start =
            u32::try_from((BLOCK + self.digest.length()) / BLOCK).map_err(too_large)?;
        let index = std::mem::replace(&mut self.index, Builder::new(0)).finish()?;
        self.emit(&index.blocks)?;
        let summary = Summary {
            tenant,
            timeline,
            name,
            index_start,
            index_root: index.root,
        };
        let mut block0 = Box::new(summary.encode());
        if self.options.checksums {
            let area = std::mem::take(&mut self.table).finish(&mut block0)?;
            self.digest.update(&area);
            self.sink.append(&area).map_err(Error::Sink)?;
        }
        let digest = Digest::of(block0.as_slice()).followed_by(&self.digest);
        Ok(Finished {
            sink: self.sink,
            block0,
            name: summary.name,
            file_size: digest.length(),
            crc32c: digest.crc32c(),
            entries: index.entries,
        })
    }
}

fn outside<E>(key: Key, keys: KeyRange) -> Error<E> {
    Error::KeyOutside {
        key,
        start: keys.start,
        end: keys.end,
    }
}

/// Writes a delta layer: changes, ascending by key and LSN.
pub struct DeltaWriter<S> {
    body: Body<S>,
    tenant: TenantId,
    timeline: TimelineId,
    key_start: Key,
    lsns: Range<Lsn>,
    last: Key,
    scratch: Vec<u8>,
}

impl<S: Sink> DeltaWriter<S> {
    /// A layer whose keys begin at or behind `key_start`, over `lsns`.
    pub fn new(
        sink: S,
        tenant: TenantId,
        timeline: TimelineId,
        key_start: Key,
        lsns: Range<Lsn>,
        options: Options,
    ) -> Result<Self, Error<S::Error>> {
        if lsns.is_empty() {
            return Err(Error::LsnOutside {
                lsn: lsns.start,
                start: lsns.start,
                end: lsns.end,
            });
        }
        let body = Body::new(sink, MAX_KEY, options)?;
        Ok(DeltaWriter {
            body,
            tenant,
            timeline,
            key_start,
            lsns,
            last: key_start,
            scratch: Vec::new(),
        })
    }

    /// Appends a change given its serialized [`Value`]; `will_init` is [`Value::is_init`] of it.
    pub fn put(
        &mut self,
        key: Key,
        lsn: Lsn,
        will_init: bool,
        value: &[u8],
    ) -> Result<(), Error<S::Error>> {
        if key < self.key_start || key == Key::MAX {
            return Err(outside(
                key,
                KeyRange {
                    start: self.key_start,
                    end: Key::MAX,
                },
            ));
        }
        if !self.lsns.contains(&lsn) {
            return Err(Error::LsnOutside {
                lsn,
                start: self.lsns.start,
                end: self.lsns.end,
            });
        }
        let index_key = KeyBytes::of(&key.to_bytes(), &lsn.0.to_be_bytes());
        self.body.put(index_key, value, DELTA_OFFSET_LIMIT, |at| {
            at << 1 | u64::from(will_init)
        })?;
        self.last = key;
        Ok(())
    }

    /// Appends a change.
    pub fn put_value(&mut self, key: Key, lsn: Lsn, value: &Value) -> Result<(), Error<S::Error>> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        value.encode(&mut scratch);
        let done = self.put(key, lsn, value.is_init(), &scratch);
        self.scratch = scratch;
        done
    }

    /// Length of the file if it were finished now, in bytes; checksums not counted.
    pub fn size(&self) -> u64 {
        self.body.size()
    }

    /// Number of entries so far.
    pub const fn entries(&self) -> u64 {
        self.body.index.entries()
    }

    /// Ends the layer; all keys lie below `key_end`. Fails if there is no entry.
    pub fn finish(self, key_end: Key) -> Result<Finished<S>, Error<S::Error>> {
        let keys = KeyRange {
            start: self.key_start,
            end: key_end,
        };
        if !keys.contains(&self.last) {
            return Err(outside(self.last, keys));
        }
        self.body.finish(
            self.tenant,
            self.timeline,
            Name::Delta {
                keys,
                lsns: self.lsns,
            },
        )
    }
}

/// Writes an image layer: values at one LSN, ascending by key.
pub struct ImageWriter<S> {
    body: Body<S>,
    tenant: TenantId,
    timeline: TimelineId,
    key_start: Key,
    lsn: Lsn,
    last: Key,
}

impl<S: Sink> ImageWriter<S> {
    /// A layer whose keys begin at or behind `key_start`, at `lsn`.
    pub fn new(
        sink: S,
        tenant: TenantId,
        timeline: TimelineId,
        key_start: Key,
        lsn: Lsn,
        options: Options,
    ) -> Result<Self, Error<S::Error>> {
        let body = Body::new(sink, KEY_SIZE, options)?;
        Ok(ImageWriter {
            body,
            tenant,
            timeline,
            key_start,
            lsn,
            last: key_start,
        })
    }

    /// Appends a value: the bare bytes.
    pub fn put(&mut self, key: Key, image: &[u8]) -> Result<(), Error<S::Error>> {
        if key < self.key_start || key == Key::MAX {
            return Err(outside(
                key,
                KeyRange {
                    start: self.key_start,
                    end: Key::MAX,
                },
            ));
        }
        self.body.put(
            KeyBytes::of(&key.to_bytes(), &[]),
            image,
            IMAGE_OFFSET_LIMIT,
            |at| at,
        )?;
        self.last = key;
        Ok(())
    }

    /// Length of the file if it were finished now, in bytes; checksums not counted.
    pub fn size(&self) -> u64 {
        self.body.size()
    }

    /// Number of entries so far.
    pub const fn entries(&self) -> u64 {
        self.body.index.entries()
    }

    /// Ends the layer; all keys lie below `key_end`. Fails if there is no entry.
    pub fn finish(self, key_end: Key) -> Result<Finished<S>, Error<S::Error>> {
        let keys = KeyRange {
            start: self.key_start,
            end: key_end,
        };
        if !keys.contains(&self.last) {
            return Err(outside(self.last, keys));
        }
        self.body.finish(
            self.tenant,
            self.timeline,
            Name::Image {
                keys,
                lsn: self.lsn,
            },
        )
    }
}
