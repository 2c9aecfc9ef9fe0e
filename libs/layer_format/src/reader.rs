//! Opened layers: what is in a file and where, without the file.
//!
//! Opening takes two reads. [`Head::decode`] takes block 0 and says where the tail (index and
//! checksum table) begins; [`Layer::open`], [`DeltaLayer::open`] or [`ImageLayer::open`] takes
//! the tail, which is one contiguous run to the end of the file. Everything read is verified
//! there: block 0 and the index against their checksums if the file has them, the tree's
//! structure, order of keys, and that blobs follow each other in index order.
//!
//! Look-ups yield [`Extent`]s. The caller reads the blocks that hold them, verifies those with
//! [`Checksums::verify`] and decodes with [`crate::blob::decode`].

use crate::btree::{self, Cursor, Entry, Index, KeyBytes, MAX_KEY};
use crate::checksum::{self, Checksums, Record};
use crate::name::Name;
use crate::summary::{self, Summary};
use crate::{BLOCK, BLOCK_SIZE, blob};
use bytes::Bytes;
use types::key::KEY_SIZE;
use types::{Key, KeyRange, Lsn, TenantId};

/// Longest extent: the longest blob, and padding if it is the last one.
pub const MAX_EXTENT: u64 = (blob::MAX_HEADER + blob::MAX_LENGTH) as u64 + BLOCK;

/// A layer file cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Block 0 is not 8192 bytes.
    #[error("the first block has {0} bytes, 8192 expected")]
    Block0(usize),
    /// The summary is damaged or of another layer.
    #[error(transparent)]
    Summary(#[from] summary::Error),
    /// A checksum does not match.
    #[error(transparent)]
    Checksum(#[from] checksum::Error),
    /// The index is no valid tree.
    #[error(transparent)]
    Index(#[from] btree::Error),
    /// The tail is not made of whole blocks, or too short for index and checksums.
    #[error("the file from the index on has {0} bytes, which cannot hold index and checksums")]
    Tail(usize),
    /// The layer is of the other kind.
    #[error("{0} is a layer of the other kind")]
    Kind(Box<Name>),
    /// An entry lies outside what the layer covers.
    #[error("index entry {0} is outside the range of the layer")]
    Outside(KeyBytes),
    /// Blobs do not follow each other, are too long, or lie outside the blob area.
    #[error(
        "index entry {key}: blob at {offset:#x} does not follow the one before it, at {previous:#x}, or ends beyond {end:#x}"
    )]
    Offset {
        /// Key of the entry.
        key: KeyBytes,
        /// Where its blob begins.
        offset: u64,
        /// Where the previous blob begins.
        previous: u64,
        /// End of the blob area.
        end: u64,
    },
}

/// A blob's place in the file, in bytes. The extent of the last blob of a file includes the
/// padding behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where the blob's header begins.
    pub offset: u64,
    /// Bytes up to the next blob.
    pub len: u64,
}

impl Extent {
    /// First byte behind the extent.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Offset and length of the whole units of some size that hold the extent.
    const fn rounded(&self, unit: u64) -> Extent {
        let offset = self.offset / unit * unit;
        Extent {
            offset,
            len: self.end().next_multiple_of(unit) - offset,
        }
    }
}

/// Block 0, decoded and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The summary.
    pub summary: Summary,
    record: Option<Record>,
}

impl Head {
    /// Decodes the first 8192 bytes of a layer file.
    pub fn decode(block0: &[u8]) -> Result<Head, Error> {
        let block: &[u8; BLOCK_SIZE] =
            block0.try_into().map_err(|_| Error::Block0(block0.len()))?;
        let record = Record::decode(block)?;
        let summary = Summary::decode(block)?;
        Ok(Head { summary, record })
    }

    /// File offset from which on the tail is to be read, to the end of the file.
    pub const fn tail_offset(&self) -> u64 {
        self.summary.index_offset()
    }

    /// Splits and verifies the tail.
    fn index_region(&self, tail: &Bytes) -> Result<(Bytes, Option<Checksums>), Error> {
        let wrong = Error::Tail(tail.len());
        if !tail.len().is_multiple_of(BLOCK_SIZE) {
            return Err(wrong);
        }
        let Some(record) = self.record else {
            if checksum::has_footer(tail) {
                return Err(
                    checksum::Error::Inconsistent("block 0 lacks the record of the table").into(),
                );
            }
            return Ok((tail.clone(), None));
        };
        let blocks = record
            .table_block
            .checked_sub(self.summary.index_start)
            .ok_or(wrong.clone())?;
        let at = (blocks as usize)
            .checked_mul(BLOCK_SIZE)
            .filter(|at| *at <= tail.len())
            .ok_or(wrong)?;
        let sums = Checksums::open(record, &tail.slice(at..))?;
        let index = tail.slice(..at);
        sums.verify(self.summary.index_offset(), &index)?;
        Ok((index, Some(sums)))
    }
}

/// What both kinds of layer share.
#[derive(Debug, Clone)]
struct Opened {
    summary: Summary,
    index: Index,
    checksums: Option<Checksums>,
    file_size: u64,
    /// Bits the value is shifted by to get the offset: 1 in a delta layer.
    shift: u32,
}

impl Opened {
    fn open(head: Head, name: &Name, tenant: &TenantId, tail: &Bytes) -> Result<Opened, Error> {
        head.summary.check(name, tenant)?;
        let (region, checksums) = head.index_region(tail)?;
        let summary = head.summary;
        let (keys, lsns, end) = (name.keys(), name.lsn_range(), summary.index_offset());
        let (key_len, shift) = if name.is_delta() {
            (MAX_KEY, 1)
        } else {
            (KEY_SIZE, 0)
        };
        let mut previous = None;
        let index = Index::build(region, summary.index_root, key_len, |entry| {
            let key = key_of(entry);
            if !keys.contains(&key) || lsn_of(entry).is_some_and(|lsn| !lsns.contains(&lsn)) {
                return Err(Error::Outside(entry.key));
            }
            let offset = entry.value >> shift;
            let fits = match previous {
                None => offset >= BLOCK,
                Some(p) => offset > p && offset - p <= MAX_EXTENT,
            };
            if !fits || offset >= end {
                return Err(Error::Offset {
                    key: entry.key,
                    offset,
                    previous: previous.unwrap_or(0),
                    end,
                });
            }
            previous = Some(offset);
            Ok(())
        })?;
        if let Some(last) = previous.filter(|p| end - p > MAX_EXTENT) {
            let key = KeyBytes::of(&[], &[]);
            return Err(Error::Offset {
                key,
                offset: end,
                previous: last,
                end,
            });
        }
        let file_size = end + tail.len() as u64;
        Ok(Opened {
            summary,
            index,
            checksums,
            file_size,
            shift,
        })
    }

    /// The entry before which the cursor stands, its extent ending where the next one begins.
    fn extent(&self, entry: &Entry, next: Option<Entry>) -> Extent {
        let offset = entry.value >> self.shift;
        let end = next.map_or(self.summary.index_offset(), |n| n.value >> self.shift);
        Extent {
            offset,
            len: end.saturating_sub(offset),
        }
    }

    fn memory(&self) -> usize {
        size_of::<Opened>()
            + self.index.memory()
            + self.checksums.as_ref().map_or(0, Checksums::memory)
    }
}

fn key_of(entry: &Entry) -> Key {
    entry
        .key
        .as_slice()
        .first_chunk()
        .map_or(Key::MAX, Key::from_bytes)
}

/// LSN of a delta layer's entry.
fn lsn_of(entry: &Entry) -> Option<Lsn> {
    let (_, lsn) = entry.key.as_slice().split_first_chunk::<KEY_SIZE>()?;
    lsn.first_chunk().map(|l| Lsn(u64::from_be_bytes(*l)))
}

macro_rules! common {
    ($layer:ident, $delta:literal) => {
        impl $layer {
            /// Opens a layer from its block 0 and its tail (see the module), checking that it is the
            /// one named.
            pub fn open(
                head: Head,
                name: &Name,
                tenant: &TenantId,
                tail: &Bytes,
            ) -> Result<Self, Error> {
                if head.summary.name.is_delta() != $delta {
                    return Err(Error::Kind(Box::new(head.summary.name)));
                }
                Opened::open(head, name, tenant, tail).map($layer)
            }

            /// The summary.
            pub const fn summary(&self) -> &Summary {
                &self.0.summary
            }

            /// Number of entries.
            pub const fn len(&self) -> u64 {
                self.0.index.entries()
            }

            /// False: a layer has at least one entry.
            pub const fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Checksums of the blocks; `None` in a file written by the reference.
            pub const fn checksums(&self) -> Option<&Checksums> {
                self.0.checksums.as_ref()
            }

            /// Length of the file in bytes.
            pub const fn file_size(&self) -> u64 {
                self.0.file_size
            }

            /// Memory held, in bytes.
            pub fn memory(&self) -> usize {
                self.0.memory()
            }
        }
    };
}

/// An opened delta layer.
#[derive(Debug, Clone)]
pub struct DeltaLayer(Opened);

/// An opened image layer.
#[derive(Debug, Clone)]
pub struct ImageLayer(Opened);

common!(DeltaLayer, true);
common!(ImageLayer, false);

/// Where a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaEntry {
    /// Key.
    pub key: Key,
    /// LSN.
    pub lsn: Lsn,
    /// Nothing older is needed to reconstruct the value.
    pub will_init: bool,
    /// The serialized value.
    pub extent: Extent,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageEntry {
    /// Key.
    pub key: Key,
    /// The value.
    pub extent: Extent,
}

impl DeltaLayer {
    /// All entries, ascending by key and LSN.
    pub fn entries(&self) -> DeltaEntries<'_> {
        DeltaEntries {
            layer: &self.0,
            cursor: self.0.index.first(),
            end: Key::MAX,
        }
    }

    /// The entries of a range of keys, ascending by key and LSN.
    pub fn range(&self, keys: KeyRange) -> DeltaEntries<'_> {
        let cursor = self.0.index.seek(keys.start.to_bytes().as_slice());
        DeltaEntries {
            layer: &self.0,
            cursor,
            end: keys.end,
        }
    }

    /// All entries from a key and LSN on, ascending.
    pub fn entries_from(&self, key: Key, lsn: Lsn) -> DeltaEntries<'_> {
        let bound = KeyBytes::of(&key.to_bytes(), &lsn.0.to_be_bytes());
        DeltaEntries {
            layer: &self.0,
            cursor: self.0.index.seek(bound.as_slice()),
            end: Key::MAX,
        }
    }

    /// The changes of a key below `before`, newest first, down to and including the one that
    /// needs nothing older.
    pub fn versions(&self, key: Key, before: Lsn) -> Versions<'_> {
        let bound = KeyBytes::of(&key.to_bytes(), &before.0.to_be_bytes());
        let cursor = self.0.index.seek(bound.as_slice());
        Versions {
            layer: &self.0,
            cursor,
            key,
            done: false,
        }
    }
}

fn delta_entry(layer: &Opened, entry: &Entry, next: Option<Entry>) -> DeltaEntry {
    DeltaEntry {
        key: key_of(entry),
        lsn: lsn_of(entry).unwrap_or_default(),
        will_init: entry.value & 1 == 1,
        extent: layer.extent(entry, next),
    }
}

/// Ascending entries of a delta layer.
#[derive(Debug, Clone)]
pub struct DeltaEntries<'a> {
    layer: &'a Opened,
    cursor: Cursor<'a>,
    end: Key,
}

impl Iterator for DeltaEntries<'_> {
    type Item = DeltaEntry;

    fn next(&mut self) -> Option<DeltaEntry> {
        self.cursor.entry().filter(|e| key_of(e) < self.end)?;
        let entry = self.cursor.next_entry()?;
        Some(delta_entry(self.layer, &entry, self.cursor.entry()))
    }
}

/// Changes of one key, newest first.
#[derive(Debug, Clone)]
pub struct Versions<'a> {
    layer: &'a Opened,
    cursor: Cursor<'a>,
    key: Key,
    done: bool,
}

impl Iterator for Versions<'_> {
    type Item = DeltaEntry;

    fn next(&mut self) -> Option<DeltaEntry> {
        if self.done {
            return None;
        }
        let next = self.cursor.entry();
        let entry = self
            .cursor
            .previous_entry()
            .filter(|e| key_of(e) == self.key);
        self.done = entry.is_none_or(|e| e.value & 1 == 1);
        entry.map(|e| delta_entry(self.layer, &e, next))
    }
}

impl ImageLayer {
    /// All entries, ascending.
    pub fn entries(&self) -> ImageEntries<'_> {
        ImageEntries {
            layer: &self.0,
            cursor: self.0.index.first(),
            end: Key::MAX,
        }
    }

    /// The entries of a range of keys, ascending.
    pub fn range(&self, keys: KeyRange) -> ImageEntries<'_> {
        let cursor = self.0.index.seek(keys.start.to_bytes().as_slice());
        ImageEntries {
            layer: &self.0,
            cursor,
            end: keys.end,
        }
    }

    /// Where the value of a key is; `None` if the layer has none.
    pub fn get(&self, key: Key) -> Option<Extent> {
        let mut cursor = self.0.index.seek(key.to_bytes().as_slice());
        let entry = cursor.next_entry().filter(|e| key_of(e) == key)?;
        Some(self.0.extent(&entry, cursor.entry()))
    }
}

/// Ascending entries of an image layer.
#[derive(Debug, Clone)]
pub struct ImageEntries<'a> {
    layer: &'a Opened,
    cursor: Cursor<'a>,
    end: Key,
}

impl Iterator for ImageEntries<'_> {
    type Item = ImageEntry;

    fn next(&mut self) -> Option<ImageEntry> {
        self.cursor.entry().filter(|e| key_of(e) < self.end)?;
        let entry = self.cursor.next_entry()?;
        let extent = self.layer.extent(&entry, self.cursor.entry());
        Some(ImageEntry {
            key: key_of(&entry),
            extent,
        })
    }
}

/// An opened layer of either kind.
#[derive(Debug, Clone)]
pub enum Layer {
    /// Changes.
    Delta(DeltaLayer),
    /// Values at one LSN.
    Image(ImageLayer),
}

impl Layer {
    /// Opens a layer of the kind its summary says.
    pub fn open(head: Head, name: &Name, tenant: &TenantId, tail: &Bytes) -> Result<Layer, Error> {
        if head.summary.name.is_delta() {
            DeltaLayer::open(head, name, tenant, tail).map(Layer::Delta)
        } else {
            ImageLayer::open(head, name, tenant, tail).map(Layer::Image)
        }
    }

    /// Opens a whole file held in memory and verifies every block of it.
    pub fn from_file(file: &Bytes, name: &Name, tenant: &TenantId) -> Result<Layer, Error> {
        let block0 = file.get(..BLOCK_SIZE).ok_or(Error::Block0(file.len()))?;
        let head = Head::decode(block0)?;
        let at = usize::try_from(head.tail_offset())
            .ok()
            .filter(|at| *at <= file.len());
        let at = at.ok_or(Error::Tail(0))?;
        let layer = Layer::open(head, name, tenant, &file.slice(at..))?;
        if let Some(sums) = layer.checksums() {
            sums.verify(0, file.get(..at).unwrap_or_default())?;
        }
        Ok(layer)
    }

    /// Checksums of the blocks; `None` in a file written by the reference.
    pub const fn checksums(&self) -> Option<&Checksums> {
        match self {
            Layer::Delta(l) => l.checksums(),
            Layer::Image(l) => l.checksums(),
        }
    }

    /// CRC-32C of the whole file as its checksums imply it; `None` in a file written by the
    /// reference.
    pub fn file_crc32c(&self) -> Option<u32> {
        self.checksums().map(Checksums::file_crc32c)
    }

    /// What to read in order to have an extent and to verify it: the extent itself in a file without
    /// checksums.
    pub fn to_read(&self, extent: Extent) -> Extent {
        match self.checksums() {
            Some(sums) => extent.rounded(sums.unit() as u64),
            None => extent,
        }
    }

    /// The summary.
    pub const fn summary(&self) -> &Summary {
        match self {
            Layer::Delta(l) => l.summary(),
            Layer::Image(l) => l.summary(),
        }
    }

    /// Memory held, in bytes.
    pub fn memory(&self) -> usize {
        match self {
            Layer::Delta(l) => l.memory(),
            Layer::Image(l) => l.memory(),
        }
    }
}
