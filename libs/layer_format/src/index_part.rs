//! The index of a timeline, `index_part.json`: which layers make it up and where it stands
//! (`docs/format/index_part.md`).
//!
//! Reads versions 1 to 15, writes 15. Members this program does not know are kept and written
//! back; obsolete ones (`l2_lsn`, `timeline_layers`, `missing_layers`) are dropped. Documents name
//! each layer once; a document that does not is refused.

use crate::metadata::Metadata;
use crate::name::Name;
use crate::seal;
use crate::timestamp::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use types::shard::ShardIndex;
use types::{Generation, Lsn, TimelineId};

/// Version written.
pub const VERSION: u32 = 15;
/// Largest document read, in bytes: some four million layers.
pub const MAX_DOCUMENT: usize = 1 << 30;
/// Former ancestors kept in a lineage; older ones are forgotten.
pub const MAX_REPARENTINGS: usize = 100;
/// Duplicate of a metadata member, written for readers that look here.
const DISK_CONSISTENT_LSN: &str = "disk_consistent_lsn";
/// Members of old versions that have no meaning any more.
const OBSOLETE: [&str; 3] = ["l2_lsn", "timeline_layers", "missing_layers"];

/// A document of the bucket cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not of this shape.
    #[error("invalid {document}: {source}")]
    Json {
        /// Which document.
        document: &'static str,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// Larger than [`MAX_DOCUMENT`].
    #[error("{document} of {size} bytes is larger than {MAX_DOCUMENT}")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size.
        size: usize,
    },
    /// Not what was written.
    #[error("damaged {document}: {source}")]
    Damaged {
        /// Which document.
        document: &'static str,
        /// What is wrong.
        source: seal::Error,
    },
}

/// Parses a document with the size limit and error of this family.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(
    document: &'static str,
    json: &'a [u8],
) -> Result<T, Error> {
    if json.len() > MAX_DOCUMENT {
        return Err(Error::TooLarge {
            document,
            size: json.len(),
        });
    }
    serde_json::from_slice(json).map_err(|source| Error::Json { document, source })
}

pub(crate) fn to_json<T: Serialize>(document: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|source| Error::Json { document, source })
}

/// Reads `null` like an absent member.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// The index of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexPart {
    /// Version of the document as read; informative.
    #[serde(default)]
    pub version: u32,
    /// The layers, by name.
    #[serde(deserialize_with = "layers")]
    pub layer_metadata: BTreeMap<Name, LayerEntry>,
    /// Where the timeline stands.
    #[serde(rename = "metadata_bytes", alias = "metadata")]
    pub metadata: Metadata,
    /// Deletion has begun and cannot be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// Where the timeline came from.
    #[serde(default, deserialize_with = "or_default")]
    pub lineage: Lineage,
    /// Obsolete; kept as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_aux_file_policy: Option<String>,
    /// Archived since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// GC must not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc_blocking: Option<GcBlocking>,
    /// State of an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_pgdata: Option<ImportPgdata>,
    /// Form of the relation directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_size_migration: Option<RelSizeMigration>,
    /// Progress of garbage-collecting compaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc_compaction: Option<GcCompaction>,
    /// Hidden from size accounting since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked_invisible_at: Option<Timestamp>,
    /// LSN from which on the sparse relation directory applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_size_migrated_at: Option<Lsn>,
    /// Children whose branch points lie below the cutoff, all of them: the history at those LSNs is
    /// held. Absent in documents of programs that do not say so. Not known to the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_branches: Option<BTreeMap<TimelineId, Lsn>>,
    /// Made up for each document: stores tell versions of an object apart by content, and a put that
    /// was given up must not match a later document. Not known to the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The timeline follows an ordinary Postgres. Not known to the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanilla: Option<Vanilla>,
    /// Members this program does not know, written back unchanged.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl IndexPart {
    /// The index of a timeline without layers.
    pub fn new(metadata: Metadata) -> IndexPart {
        IndexPart {
            version: VERSION,
            layer_metadata: BTreeMap::new(),
            metadata,
            deleted_at: None,
            lineage: Lineage::default(),
            last_aux_file_policy: None,
            archived_at: None,
            gc_blocking: None,
            import_pgdata: None,
            rel_size_migration: None,
            gc_compaction: None,
            marked_invisible_at: None,
            rel_size_migrated_at: None,
            held_branches: None,
            nonce: None,
            vanilla: None,
            unknown: Map::new(),
        }
    }

    /// Reads a document, after verifying its checksum if it has one. The top-level
    /// `disk_consistent_lsn` duplicates the metadata's, which counts.
    pub fn from_json(json: &[u8]) -> Result<IndexPart, Error> {
        let document = "index_part.json";
        seal::verify(json).map_err(|source| Error::Damaged { document, source })?;
        let mut part: IndexPart = from_json(document, json)?;
        let dropped = OBSOLETE.iter().chain(&seal::MEMBERS);
        for member in dropped.chain([&DISK_CONSISTENT_LSN]) {
            part.unknown.remove(*member);
        }
        Ok(part)
    }

    /// Writes the document, as version [`VERSION`], with a checksum.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            disk_consistent_lsn: Lsn,
            #[serde(flatten)]
            part: Versioned<'a>,
        }
        struct Versioned<'a>(&'a IndexPart);
        impl Serialize for Versioned<'_> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(s)
            }
        }
        let document = |part| Document {
            disk_consistent_lsn: self.metadata.disk_consistent_lsn,
            part: Versioned(part),
        };
        if self.version == VERSION {
            return to_json("index_part.json", &document(self)).map(seal::add);
        }
        let current = IndexPart {
            version: VERSION,
            ..self.clone()
        };
        to_json("index_part.json", &document(&current)).map(seal::add)
    }

    /// False for a child whose branch point this timeline does not hold, and whose history there may
    /// be gone: one that nobody was told to exist.
    pub fn holds(&self, child: &TimelineId, at: Lsn) -> bool {
        let held = self.held_branches.as_ref();
        at >= self.metadata.latest_gc_cutoff_lsn || held.is_none_or(|h| h.get(child) == Some(&at))
    }

    /// All layers up to here are in the index.
    pub const fn disk_consistent_lsn(&self) -> Lsn {
        self.metadata.disk_consistent_lsn
    }
}

/// Reads the layers, refusing a document that names one twice.
fn layers<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<Name, LayerEntry>, D::Error> {
    struct Layers;
    impl<'de> Visitor<'de> for Layers {
        type Value = BTreeMap<Name, LayerEntry>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of layers")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut layers = BTreeMap::new();
            while let Some((name, entry)) = map.next_entry::<Name, LayerEntry>()? {
                if layers.contains_key(&name) {
                    return Err(serde::de::Error::custom(format_args!(
                        "layer {name} is listed twice"
                    )));
                }
                layers.insert(name, entry);
            }
            Ok(layers)
        }
    }
    d.deserialize_map(Layers)
}

/// What the index says of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Exact length of the object in bytes.
    pub file_size: u64,
    /// Generation in the object's name.
    #[serde(default, skip_serializing_if = "Generation::is_none")]
    pub generation: Generation,
    /// Shard in the object's path.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "is_unsharded"
    )]
    pub shard: ShardIndex,
    /// CRC-32C of the whole object. Not known to the reference, which drops it on rewriting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
}

fn is_unsharded(shard: &ShardIndex) -> bool {
    shard.is_unsharded()
}

impl LayerEntry {
    /// An entry without a checksum.
    pub const fn new(file_size: u64, generation: Generation, shard: ShardIndex) -> LayerEntry {
        LayerEntry {
            file_size,
            generation,
            shard,
            crc32c: None,
        }
    }
}

/// Where a timeline came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// Former ancestors, newest last, at most [`MAX_REPARENTINGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reparenting_history: Vec<TimelineId>,
    /// There were more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reparenting_history_truncated: bool,
    /// Ancestor, branch point and time of the detach, if the timeline was detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_ancestor: Option<(TimelineId, Lsn, Timestamp)>,
}

impl Lineage {
    /// Notes a former ancestor, forgetting the oldest beyond the limit. False if already the
    /// newest.
    pub fn reparented_from(&mut self, ancestor: TimelineId) -> bool {
        if self.reparenting_history.last() == Some(&ancestor) {
            return false;
        }
        self.reparenting_history.push(ancestor);
        let excess = self
            .reparenting_history
            .len()
            .saturating_sub(MAX_REPARENTINGS);
        self.reparenting_history.drain(..excess);
        self.reparenting_history_truncated |= excess > 0;
        true
    }
}

/// Why GC must not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcBlocking {
    /// Since when.
    pub started_at: Timestamp,
    /// Never empty.
    pub reasons: Vec<GcBlockingReason>,
}

/// A reason for [`GcBlocking`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GcBlockingReason {
    /// Asked for by an operator.
    Manual,
    /// The timeline is being detached from its ancestor.
    DetachAncestor,
    /// One this program does not know; it blocks all the same.
    #[serde(untagged)]
    Other(String),
}

/// Form of the relation directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelSizeMigration {
    /// One set per database.
    #[default]
    Legacy,
    /// Both are kept.
    Migrating,
    /// Sparse keys.
    Migrated,
}

/// Progress of garbage-collecting compaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GcCompaction {
    /// Cutoff of the last complete pass.
    pub last_completed_lsn: Lsn,
    /// Members this program does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// State of an import of a data directory by the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ImportPgdata {
    /// The only version there is.
    V1(ImportV1),
    /// A form this program does not know, kept as it is: the timeline is not usable.
    #[serde(untagged)]
    Other(Value),
}

/// First version of the import state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ImportV1 {
    /// Not complete: the timeline must not be used.
    InProgress(ImportInProgress),
    /// Complete.
    Done(ImportDone),
}

/// A running import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportInProgress {
    /// Key that makes repeated requests one.
    pub idempotency_key: String,
    /// Where the data directory is.
    pub location: ImportLocation,
    /// Since when.
    pub started_at: Timestamp,
    /// Members this program does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Where a data directory to import is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ImportLocation {
    /// In a bucket.
    AwsS3 {
        /// Region.
        region: String,
        /// Bucket.
        bucket: String,
        /// Prefix in the bucket.
        key: String,
    },
    /// Elsewhere; kept as it is.
    #[serde(untagged)]
    Other(Value),
}

/// A finished import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportDone {
    /// Key that makes repeated requests one.
    pub idempotency_key: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Members this program does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl ImportPgdata {
    /// True if the timeline can be used.
    pub const fn is_done(&self) -> bool {
        matches!(self, ImportPgdata::V1(ImportV1::Done(_)))
    }
}

/// What is known of the ordinary Postgres a timeline follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanilla {
    /// Always vanilla; says what the object is about.
    pub flavour: types::Flavour,
    /// `pg_control`'s system identifier; a string in JSON, which has no 64-bit numbers.
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    /// Postgres timeline being followed.
    pub timeline_id: u32,
    /// Size of the server's WAL segments in bytes.
    pub wal_segment_size: u32,
    /// Connection string of the server, without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Physical replication slot on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Import by base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<VanillaImport>,
    /// Postgres timelines that came before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<TimelineSwitch>,
}

/// An import by base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VanillaImport {
    /// Where the backup began.
    pub start_lsn: Lsn,
    /// Where it ended: pages are consistent from there on. Unknown until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_lsn: Option<Lsn>,
    /// The backup is complete and WAL up to `end_lsn` was applied.
    pub done: bool,
}

/// A Postgres timeline that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The timeline.
    pub timeline_id: u32,
    /// Where its successor left it.
    pub switch_lsn: Lsn,
}

mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
