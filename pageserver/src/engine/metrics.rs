//! Counters of the engine. Handles are held, never looked up, on hot paths; no label has a
//! per-tenant value, except where a series exists for few timelines and only as long as it says
//! something.

use super::timeline::compaction::Outcome;
use super::timeline::{Collected, ReadStats};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use types::{Lsn, TenantShardId, TimelineId};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct JobLabel {
    job: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TimelineLabel {
    tenant_id: String,
    shard_id: String,
    timeline_id: String,
}

/// The engine's counters.
#[derive(Debug)]
pub struct Metrics {
    reads: Counter,
    read_layers: Histogram,
    read_deltas: Histogram,
    flushes: Counter,
    flushed_bytes: Counter,
    uploads: Counter,
    uploaded_bytes: Counter,
    downloads: Counter,
    downloaded_bytes: Counter,
    evictions: Counter,
    evicted_bytes: Counter,
    checksum_failures: Counter,
    failures: Family<JobLabel, Counter>,
    compactions: Counter,
    compacted_bytes: Counter,
    images_created: Counter,
    layers_merged: Counter,
    collected_layers: Counter,
    collected_bytes: Counter,
    scrubbed_bytes: Counter,
    scrub_repairs: Counter,
    scrub_losses: Counter,
    scrub_leftovers: Counter,
    standby_horizon: Family<TimelineLabel, Gauge>,
    /// Pages put into chains of changes that grew long.
    pub pages_materialized: Counter,
    /// WAL records ingested.
    pub wal_records: Counter,
    /// WAL bytes ingested.
    pub wal_bytes: Counter,
    /// Bytes in open and frozen in-memory layers.
    pub unflushed_bytes: Gauge,
    /// Tenants known.
    pub tenants: Gauge,
    /// Timelines loaded.
    pub timelines: Gauge,
    /// Open page-service connections.
    pub connections: Gauge,
    /// Pages served.
    pub pages_served: Counter,
}

/// Upper bounds for "layers per read" and "deltas per read".
const COUNT_BUCKETS: [f64; 12] = [
    1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2048.0, 8192.0,
];

impl Metrics {
    /// Registers all counters.
    pub fn new(registry: &mut Registry) -> Self {
        let m = Metrics {
            reads: Counter::default(),
            read_layers: Histogram::new(COUNT_BUCKETS),
            read_deltas: Histogram::new(COUNT_BUCKETS),
            flushes: Counter::default(),
            flushed_bytes: Counter::default(),
            uploads: Counter::default(),
            uploaded_bytes: Counter::default(),
            downloads: Counter::default(),
            downloaded_bytes: Counter::default(),
            evictions: Counter::default(),
            evicted_bytes: Counter::default(),
            checksum_failures: Counter::default(),
            failures: Family::default(),
            compactions: Counter::default(),
            compacted_bytes: Counter::default(),
            images_created: Counter::default(),
            layers_merged: Counter::default(),
            collected_layers: Counter::default(),
            collected_bytes: Counter::default(),
            scrubbed_bytes: Counter::default(),
            scrub_repairs: Counter::default(),
            scrub_losses: Counter::default(),
            scrub_leftovers: Counter::default(),
            standby_horizon: Family::default(),
            pages_materialized: Counter::default(),
            wal_records: Counter::default(),
            wal_bytes: Counter::default(),
            unflushed_bytes: Gauge::default(),
            tenants: Gauge::default(),
            timelines: Gauge::default(),
            connections: Gauge::default(),
            pages_served: Counter::default(),
        };
        let r = registry.sub_registry_with_prefix("pageserver");
        r.register("reads", "Values read from the layers", m.reads.clone());
        r.register(
            "read_layers",
            "Layers visited per read",
            m.read_layers.clone(),
        );
        r.register(
            "read_deltas",
            "Records replayed per read",
            m.read_deltas.clone(),
        );
        r.register(
            "flushes",
            "In-memory layers written to files",
            m.flushes.clone(),
        );
        r.register_with_unit(
            "flushed",
            "Bytes of delta layers written by flushes",
            Unit::Bytes,
            m.flushed_bytes.clone(),
        );
        r.register("uploads", "Objects uploaded", m.uploads.clone());
        r.register_with_unit(
            "uploaded",
            "Bytes uploaded",
            Unit::Bytes,
            m.uploaded_bytes.clone(),
        );
        r.register("downloads", "Layers downloaded", m.downloads.clone());
        r.register_with_unit(
            "downloaded",
            "Bytes of layers downloaded",
            Unit::Bytes,
            m.downloaded_bytes.clone(),
        );
        r.register("evictions", "Layers evicted", m.evictions.clone());
        r.register_with_unit(
            "evicted",
            "Bytes of layers evicted",
            Unit::Bytes,
            m.evicted_bytes.clone(),
        );
        r.register(
            "checksum_failures",
            "Blocks or files that failed verification",
            m.checksum_failures.clone(),
        );
        r.register(
            "job_failures",
            "Background jobs that failed and will be tried again",
            m.failures.clone(),
        );
        r.register(
            "compactions",
            "Rounds of compaction that changed something",
            m.compactions.clone(),
        );
        r.register_with_unit(
            "compacted",
            "Bytes of layers written by compaction, images included",
            Unit::Bytes,
            m.compacted_bytes.clone(),
        );
        r.register(
            "images_created",
            "Image layers made by compaction",
            m.images_created.clone(),
        );
        r.register(
            "layers_merged",
            "Delta layers replaced by compaction",
            m.layers_merged.clone(),
        );
        r.register(
            "collected_layers",
            "Layers removed by garbage collection",
            m.collected_layers.clone(),
        );
        r.register_with_unit(
            "collected",
            "Bytes of layers removed by garbage collection",
            Unit::Bytes,
            m.collected_bytes.clone(),
        );
        r.register_with_unit(
            "scrubbed",
            "Bytes read by scrubs",
            Unit::Bytes,
            m.scrubbed_bytes.clone(),
        );
        r.register(
            "scrub_repairs",
            "Copies of layers that a scrub found wrong and replaced",
            m.scrub_repairs.clone(),
        );
        r.register(
            "scrub_losses",
            "Layers of which a scrub found no good copy",
            m.scrub_losses.clone(),
        );
        r.register(
            "scrub_leftovers",
            "Objects of older generations that nothing named and a scrub removed",
            m.scrub_leftovers.clone(),
        );
        r.register(
            "standby_horizon",
            "Lowest LSN reported by read replicas since the last garbage collection",
            m.standby_horizon.clone(),
        );
        r.register(
            "pages_materialized",
            "Pages put into chains of changes that grew long",
            m.pages_materialized.clone(),
        );
        r.register("wal_records", "WAL records ingested", m.wal_records.clone());
        r.register_with_unit("wal", "WAL ingested", Unit::Bytes, m.wal_bytes.clone());
        r.register_with_unit(
            "unflushed",
            "Data in memory that is not in a layer file",
            Unit::Bytes,
            m.unflushed_bytes.clone(),
        );
        r.register("tenants", "Tenants known", m.tenants.clone());
        r.register("timelines", "Timelines loaded", m.timelines.clone());
        r.register(
            "page_service_connections",
            "Open page-service connections",
            m.connections.clone(),
        );
        r.register("pages_served", "Pages served", m.pages_served.clone());
        m
    }

    /// Counts a read.
    pub fn read(&self, stats: &ReadStats) {
        self.reads.inc();
        self.read_layers.observe(stats.layers as f64);
        self.read_deltas.observe(stats.deltas as f64);
    }

    /// Counts a flush of `bytes`.
    pub fn flushed(&self, bytes: u64) {
        self.flushes.inc();
        self.flushed_bytes.inc_by(bytes);
    }

    /// Counts an upload of `bytes`.
    pub fn uploaded(&self, bytes: u64) {
        self.uploads.inc();
        self.uploaded_bytes.inc_by(bytes);
    }

    /// Counts a download of `bytes`.
    pub fn downloaded(&self, bytes: u64) {
        self.downloads.inc();
        self.downloaded_bytes.inc_by(bytes);
    }

    /// Counts an eviction of `bytes`.
    pub fn evicted(&self, bytes: u64) {
        self.evictions.inc();
        self.evicted_bytes.inc_by(bytes);
    }

    /// Counts a round of compaction.
    pub fn compacted(&self, outcome: &Outcome) {
        self.compactions.inc();
        self.compacted_bytes.inc_by(outcome.bytes);
        self.images_created.inc_by(outcome.images as u64);
        self.layers_merged
            .inc_by((outcome.l0 + outcome.merged) as u64);
    }

    /// Counts a scrub.
    pub fn scrubbed(&self, bytes: u64, repaired: usize, lost: usize, leftovers: usize) {
        self.scrubbed_bytes.inc_by(bytes);
        self.scrub_repairs.inc_by(repaired as u64);
        self.scrub_losses.inc_by(lost as u64);
        self.scrub_leftovers.inc_by(leftovers as u64);
    }

    /// Says where the read replicas of a timeline are, if that is known.
    pub fn set_standby_horizon(
        &self,
        tenant: TenantShardId,
        timeline: TimelineId,
        at: Option<Lsn>,
    ) {
        let label = TimelineLabel {
            tenant_id: tenant.tenant.to_string(),
            shard_id: tenant.shard.to_string(),
            timeline_id: timeline.to_string(),
        };
        match at {
            Some(lsn) => {
                let value = i64::try_from(lsn.0).unwrap_or(i64::MAX);
                self.standby_horizon.get_or_create(&label).set(value);
            }
            None => {
                self.standby_horizon.remove(&label);
            }
        }
    }

    /// Counts a garbage collection.
    pub fn collected(&self, collected: &Collected) {
        self.collected_layers.inc_by(collected.removed as u64);
        self.collected_bytes.inc_by(collected.removed_bytes);
    }

    /// Counts a failed verification.
    pub fn checksum_failed(&self) {
        self.checksum_failures.inc();
    }

    /// Counts a failed background job.
    pub fn job_failed(&self, job: &str) {
        self.failures
            .get_or_create(&JobLabel {
                job: job.to_owned(),
            })
            .inc();
    }
}
