//! Object stores: where everything durable lives.
//!
//! [`Bucket`] is the whole interface: flat keys, whole-object puts, conditional puts, ranged
//! reads, listings. Implementations: [`Local`] (a directory), [`S3`] (anything that speaks S3),
//! [`Memory`] (tests and simulation), and [`Faulty`], which injects faults into any of them.
//!
//! Promised by each, and tested by one suite: a put is atomic and durable when it returns; reads
//! and listings see it at once; of several conditional puts of one version at most one succeeds;
//! deleting what is not there succeeds; a ranged read returns exactly the range or fails. Every
//! error names bucket, key and operation.
//!
//! Not promised: order between operations that overlap, and whether a put, copy or delete that failed
//! with anything but [`Kind::Precondition`] or [`Kind::Throttled`] took effect.

#![forbid(unsafe_code)]

mod config;
mod error;
mod fault;
mod key;
mod local;
mod memory;
mod s3;

pub use config::{Config, ConfigError};
pub use error::{Error, Kind, Operation};
pub use fault::{Faults, Faulty};
pub use key::{MAX_KEY, TEMPORARY_SUFFIX};
pub use local::Local;
pub use memory::Memory;
pub use s3::{Credentials, S3};

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest object [`Bucket::get`] loads into memory, in bytes.
pub const MAX_GET: u64 = 1 << 30;
/// Most entries (objects and prefixes) of one listing.
pub const MAX_LISTED: usize = 1_000_000;
/// Most keys deleted in one request.
pub const DELETE_BATCH: usize = 1000;

/// A version of an object: opaque, differs when the content does.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object with its content.
#[derive(Debug, Clone)]
pub struct Object {
    /// The content.
    pub body: Bytes,
    /// Its version.
    pub etag: ETag,
    /// When it was written.
    pub last_modified: SystemTime,
}

/// An object without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its version; a listing need not have it.
    pub etag: Option<ETag>,
    /// When it was written.
    pub last_modified: SystemTime,
}

/// What to store.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A local file that does not change while it is stored.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its length in bytes; a file of another length is refused.
        len: u64,
        /// CRC-32C of the content if known: the store refuses what arrives damaged.
        crc32c: Option<u32>,
    },
}

impl From<Bytes> for Body {
    fn from(b: Bytes) -> Body {
        Body::Bytes(b)
    }
}

impl From<Vec<u8>> for Body {
    fn from(b: Vec<u8>) -> Body {
        Body::Bytes(b.into())
    }
}

impl Body {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(b) => b.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    /// True if there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// In any case.
    Overwrite,
    /// Only if there is no object; otherwise [`Kind::Precondition`].
    IfAbsent,
    /// Only if the object has this version; otherwise, or without one, [`Kind::Precondition`].
    IfMatch(ETag),
}

/// Objects that begin with a prefix, ascending by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The objects.
    pub objects: Vec<Meta>,
    /// With a delimiter: the distinct beginnings, up to and including the next `/`, of all keys
    /// that have a `/` behind the prefix.
    pub prefixes: Vec<String>,
}

/// A finished download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Bytes written to the file.
    pub size: u64,
    /// CRC-32C of them.
    pub crc32c: u32,
}

/// An object store. Keys are `/`-separated paths of at most [`MAX_KEY`] bytes, without empty,
/// `.` or `..` elements.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// The whole object; at most [`MAX_GET`] bytes.
    async fn get(&self, key: &str) -> Result<Object, Error>;

    /// Exactly the bytes of `range`; [`Kind::Corrupt`] if the object is shorter.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error>;

    /// Writes the whole object to the file `to`, creating or truncating it, and syncs the file.
    /// The caller names it so that an incomplete file is not mistaken for a complete one, renames
    /// it and syncs the directory.
    async fn download(&self, key: &str, to: &Path) -> Result<Download, Error>;

    /// Size and version of an object.
    async fn head(&self, key: &str) -> Result<Meta, Error>;

    /// Stores an object. A conditional put is tried once: after an error other than
    /// [`Kind::Precondition`] and [`Kind::Throttled`] the caller reads what is there.
    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error>;

    /// Stores the content of the object `from` as `to` as well, in any case, without sending it back
    /// and forth.
    async fn copy(&self, from: &str, to: &str) -> Result<(), Error>;

    /// Everything that begins with `prefix`; one level of it if `delimiter` is set. Fails if there
    /// is more than [`MAX_LISTED`].
    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error>;

    /// Deletes objects; missing ones are fine. After an error some may be gone.
    async fn delete(&self, keys: &[String]) -> Result<(), Error>;
}
