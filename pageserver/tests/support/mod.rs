//! What tests of the engine share: a place with a disk and a bucket, engines that open it, and a
//! timeline with known pages.

#![allow(dead_code, reason = "each test uses a part")]

use bucket::{Bucket, Memory};
use bytes::Bytes;
use layer_format::Metadata;
use layer_format::index_part::IndexPart;
use pageserver::engine::disk::HostDisk;
use pageserver::engine::env::{Env, HostClock, HostEntropy};
use pageserver::engine::jobs::Runner;
use pageserver::engine::metrics::Metrics;
use pageserver::engine::timeline::import::Layers;
use pageserver::engine::{Engine, Tenant, Timeline};
use serde_json::{Map, Value};
use std::sync::Arc;
use types::directory::{DbDirectory, SlruDirectory, TwoPhaseDirectory, encode_size};
use types::{Key, Lsn, PAGE_SIZE, PgMajor, SlruKind, TenantId, TenantShardId, TimelineId};

/// Version of the Postgres that timelines are of.
pub const VERSION: PgMajor = PgMajor::V17;
/// The first tenant.
pub const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
/// Its first timeline.
pub const MAIN: TimelineId = TimelineId([1; 16]);
/// Where the history of timelines begins.
pub const START: Lsn = Lsn(0x1000);

/// A disk and a bucket, which outlive the engines on them.
pub struct Place {
    /// The disk.
    pub directory: tempfile::TempDir,
    /// The bucket.
    pub bucket: Arc<Memory>,
    /// Settings of tenants.
    pub settings: Map<String, Value>,
}

impl Default for Place {
    fn default() -> Self {
        Place {
            directory: tempfile::tempdir().unwrap(),
            bucket: Arc::new(Memory::new()),
            settings: Map::new(),
        }
    }
}

impl Place {
    /// One where tenants have these settings.
    pub fn with(settings: &Value) -> Self {
        Place {
            settings: settings.as_object().unwrap().clone(),
            ..Place::default()
        }
    }

    /// The disk is lost.
    pub fn lose_disk(&mut self) {
        self.directory = tempfile::tempdir().unwrap();
    }

    /// An engine here that sees the bucket through something else.
    pub fn engine_on(&self, bucket: Arc<dyn Bucket>) -> (Arc<Engine>, Runner) {
        let env = Env {
            disk: Arc::new(HostDisk::new(self.directory.path())),
            bucket,
            clock: Arc::new(HostClock),
            entropy: Arc::new(HostEntropy),
        };
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Arc::new(Metrics::new(&mut registry));
        Engine::new(env, 1 << 30, metrics, self.settings.clone())
    }

    /// An engine here. Nothing happens in its background.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine_on(Arc::clone(&self.bucket) as Arc<dyn Bucket>)
            .0
    }
}

/// Loads all tenants, of which nothing is unfinished.
pub async fn load(engine: &Engine) {
    let mut arrivals = engine.watch_arrivals();
    engine.discover().await.unwrap();
    for waiting in engine.waiting() {
        engine.open(waiting.id).await.unwrap();
        let arrived = arrivals.recv().await.unwrap();
        assert!(arrived.unfinished.is_empty(), "{arrived:?}");
    }
}

/// The key of the nth page of [`timeline`].
pub fn page_key(n: u32) -> Key {
    Key::slru_block(SlruKind::MultiXactOffsets, 0, n)
}

/// What it holds at first.
pub fn first_page(n: u32) -> Bytes {
    Bytes::from(vec![n as u8; PAGE_SIZE])
}

/// A timeline with some pages and a control file, readable at [`START`], in the bucket.
pub async fn timeline(tenant: &Arc<Tenant>, id: TimelineId, pages: u32) -> Arc<Timeline> {
    let index = IndexPart::new(Metadata {
        disk_consistent_lsn: Lsn::INVALID,
        prev_record_lsn: None,
        ancestor_timeline: None,
        ancestor_lsn: Lsn::INVALID,
        latest_gc_cutoff_lsn: START,
        initdb_lsn: START,
        pg_version: VERSION,
    });
    let made = tenant.create_for_import(id, VERSION, index).await;
    let timeline = made.unwrap();
    let mut layers = Layers::new(&timeline, START);
    for n in 0..pages {
        layers.put(page_key(n), first_page(n)).unwrap();
    }
    for (key, value) in directories(pages) {
        layers.put(key, value).unwrap();
    }
    let layers = layers.finish().unwrap();
    timeline.adopt_import(layers, START).await.unwrap();
    timeline.finish_import().await.unwrap();
    timeline
}

/// What says that the pages are there, and no databases.
fn directories(pages: u32) -> Vec<(Key, Bytes)> {
    let kind = SlruKind::MultiXactOffsets;
    let segments = SlruDirectory {
        segments: [0].into(),
    };
    vec![
        (Key::DB_DIR, DbDirectory::default().encode()),
        (Key::slru_dir(kind), segments.encode()),
        (Key::slru_segment_size(kind, 0), encode_size(pages)),
        (
            Key::TWO_PHASE_DIR,
            TwoPhaseDirectory::default().encode(true),
        ),
        (Key::CONTROL_FILE, control_file()),
        (Key::CHECKPOINT, Bytes::from_static(b"checkpoint")),
    ]
}

/// A control file of [`VERSION`].
pub fn control_file() -> Bytes {
    let mut file = include_bytes!("../../../libs/pg_format/tests/data/pg_control_17.bin").to_vec();
    file.resize(PAGE_SIZE, 0);
    file.into()
}
