//! Requests and answers of the management API. Absent values are `null`; unknown members are
//! ignored when reading.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{Lsn, TenantId, TenantShardId, TimelineId};

/// The body of every error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub msg: String,
}

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Number of the node.
    pub id: u64,
}

/// A state with an optional payload.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tagged {
    /// Name of the state.
    pub slug: String,
    /// Payload of states that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// For clients of 2022.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background_jobs_running: Option<bool>,
}

/// A tenant shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TenantInfo {
    /// Its id.
    pub id: TenantShardId,
    /// Its state.
    pub state: Tagged,
    /// Sum of all layer file sizes in bytes; only in the details.
    pub current_physical_size: Option<u64>,
    /// Whether this server may write its data.
    pub attachment_status: Tagged,
    /// Generation of the attachment.
    pub generation: Option<u32>,
    /// Why no garbage is collected; only in the details, absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc_blocking: Option<String>,
    /// For clients of 2022.
    #[serde(default)]
    pub has_in_progress_downloads: bool,
    /// Name for people, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ids of its timelines; only in the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timelines: Option<Vec<TimelineId>>,
}

/// Body of `POST /v1/tenant`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TenantCreate {
    /// Id of the new tenant; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tenant_id: Option<TenantId>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tenant settings.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// State of a timeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimelineState {
    /// Being filled or loaded.
    Loading,
    /// Readable.
    Active,
    /// On its way out.
    Stopping,
    /// Unusable.
    Broken {
        /// Why.
        reason: String,
        /// For strict decoders.
        backtrace: String,
    },
}

/// A timeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// Its tenant.
    pub tenant_id: TenantShardId,
    /// Its id.
    pub timeline_id: TimelineId,
    /// Name for people, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its ancestor.
    pub ancestor_timeline_id: Option<TimelineId>,
    /// Branch point.
    pub ancestor_lsn: Option<Lsn>,
    /// End of the newest record.
    pub last_record_lsn: Lsn,
    /// End of the record before it.
    pub prev_record_lsn: Option<Lsn>,
    /// Everything up to here is in local layer files.
    pub disk_consistent_lsn: Lsn,
    /// Everything up to here is in the bucket.
    pub remote_consistent_lsn: Lsn,
    /// The same, confirmed under the current generation.
    pub remote_consistent_lsn_visible: Lsn,
    /// Start of the history.
    pub initdb_lsn: Lsn,
    /// Reads below are refused.
    pub applied_gc_cutoff_lsn: Lsn,
    /// Oldest legal branch point.
    pub min_readable_lsn: Lsn,
    /// For clients of 2023: the same.
    pub latest_gc_cutoff_lsn: Lsn,
    /// Size of all relations in bytes; perhaps approximate.
    pub current_logical_size: u64,
    /// Whether it is exact.
    pub current_logical_size_is_accurate: bool,
    /// Sum of the layer file sizes in bytes.
    pub current_physical_size: Option<u64>,
    /// Exact size, if asked for.
    pub current_logical_size_non_incremental: Option<u64>,
    /// Where WAL comes from, without the password.
    pub wal_source_connstr: Option<String>,
    /// End of the newest WAL received.
    pub last_received_msg_lsn: Option<Lsn>,
    /// When, in microseconds since 1970.
    pub last_received_msg_ts: Option<u64>,
    /// Major version of Postgres.
    pub pg_version: u32,
    /// Its state.
    pub state: TimelineState,
    /// What the WAL receiver does.
    pub walreceiver_status: String,
    /// Whether it is archived.
    pub is_archived: Option<bool>,
    /// Whether it is hidden from the size of the tenant.
    #[serde(default)]
    pub is_invisible: Option<bool>,
    /// For clients of 2022.
    #[serde(default)]
    pub awaits_download: bool,
}

/// Body of `PUT …/archival_config`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchivalConfig {
    /// The state wanted.
    pub state: Archival,
}

/// Whether a timeline is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Archival {
    /// Out of use.
    Archived,
    /// In use.
    Unarchived,
}

/// Answer of `PUT …/detach_ancestor`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AncestorDetached {
    /// Branches that moved along.
    pub reparented_timelines: Vec<TimelineId>,
}

/// Body of `POST /v1/tenant/{t}/timeline`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TimelineCreate {
    /// Id of the new timeline; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_timeline_id: Option<TimelineId>,
    /// Timeline to branch from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestor_timeline_id: Option<TimelineId>,
    /// Branch point; the ancestor's newest LSN if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestor_start_lsn: Option<Lsn>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Major version of a new, empty Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_version: Option<u32>,
}

/// Answer of `get_lsn_by_timestamp`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LsnByTimestamp {
    /// The LSN.
    pub lsn: Lsn,
    /// `present`, `future`, `past` or `nodata`.
    pub kind: String,
}

/// Body of `POST /v1/import`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportCreate {
    /// `postgres://…` of the running server.
    pub connstr: String,
    /// Tenant to put it in; a new one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Id of the new timeline; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline_id: Option<TimelineId>,
    /// Name of a new tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Upper bound of the transfer rate in KiB/s, 32 to 1048576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u32>,
}

/// Answer of `POST /v1/import`: the ids to ask for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportStarted {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
}

/// How far an import is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportStatus {
    /// `checking`, `backup`, `wal`, `upload`, `done`, `undoing` or `failed`.
    pub phase: String,
    /// Bytes of files received.
    pub bytes_done: u64,
    /// Bytes of files expected, by the server's estimate.
    pub bytes_total: u64,
    /// What is not as it should be on the server.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerInfo {
    /// `Delta` or `Image`.
    pub kind: String,
    /// Name without generation.
    pub layer_file_name: String,
    /// Bytes.
    pub layer_file_size: u64,
    /// First LSN.
    pub lsn_start: Lsn,
    /// First LSN behind it; deltas only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_end: Option<Lsn>,
    /// True if the file is not on local disk.
    pub remote: bool,
    /// A delta over all keys; deltas only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l0: Option<bool>,
}

/// What to scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubRequest {
    /// Read local files; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Read objects in the bucket; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<bool>,
    /// Most bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// What a scrub found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Layers looked at.
    pub layers: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Layers without a digest: only their sizes were compared.
    pub without_digest: usize,
    /// Local files that were wrong and fetched again.
    pub local_repaired: Vec<String>,
    /// Objects that were wrong or gone and written again.
    pub bucket_repaired: Vec<String>,
    /// Layers of which no good copy was found, and why.
    pub lost: Vec<String>,
    /// Layers of which a copy could not be read now, or what is left over that could not be listed or
    /// removed, and why.
    #[serde(default)]
    pub unchecked: Vec<String>,
    /// Objects that a crash or a takeover had left behind, removed.
    #[serde(default)]
    pub leftovers: usize,
}

/// A layer in memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InMemoryLayerInfo {
    /// `Open` or `Frozen`.
    pub kind: String,
    /// First LSN.
    pub lsn_start: Lsn,
    /// First LSN behind it; frozen ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_end: Option<Lsn>,
}

/// Answer of `GET …/layer`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerMapInfo {
    /// Layers in memory.
    pub in_memory_layers: Vec<InMemoryLayerInfo>,
    /// Layers in files.
    pub historic_layers: Vec<LayerInfo>,
}
