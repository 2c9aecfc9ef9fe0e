//! Everything a pageserver keeps in a bucket, as bytes: layer files (delta and image), their
//! names, the documents that list them, and the checksums that guard them.
//!
//! Layers are readable by and identical to those of a version-3 pageserver; what is added
//! (checksums) sits where such a reader does not look. `docs/format/layers.md` and
//! `docs/format/index_part.md` are the byte contracts.
//!
//! Pure: functions from bytes to bytes. The caller does the I/O, which it plans from the
//! [`reader::Extent`]s handed out here. No input can cause a panic or an allocation beyond a
//! named limit; malformed input is a typed error with the place where it was found.

#![forbid(unsafe_code)]

pub mod blob;
pub mod btree;
pub mod checksum;
pub mod heatmap;
pub mod index_part;
pub mod manifest;
pub mod metadata;
pub mod name;
pub mod path;
pub mod reader;
pub mod seal;
pub mod summary;
pub mod timestamp;
pub mod writer;

pub use blob::Compression;
pub use checksum::{Checksums, Digest};
pub use heatmap::Heatmap;
pub use index_part::{IndexPart, LayerEntry};
pub use manifest::Manifest;
pub use metadata::Metadata;
pub use name::Name;
pub use reader::{DeltaLayer, Extent, ImageLayer, Layer};
pub use timestamp::Timestamp;
pub use writer::{DeltaWriter, Finished, ImageWriter};

/// Size of a layer-file block in bytes.
pub const BLOCK_SIZE: usize = types::PAGE_SIZE;
/// [`BLOCK_SIZE`] as a file offset.
pub(crate) const BLOCK: u64 = BLOCK_SIZE as u64;
