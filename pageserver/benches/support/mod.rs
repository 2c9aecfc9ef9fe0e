//! What the benchmarks of the engine share: an engine on a temporary directory, a timeline with
//! known pages, and figures that mean something on a machine that does other things as well.

#![allow(dead_code, reason = "each benchmark uses a part")]

use bucket::Memory;
use bytes::Bytes;
use layer_format::Metadata;
use layer_format::index_part::IndexPart;
use pageserver::engine::disk::HostDisk;
use pageserver::engine::env::{HostClock, HostEntropy};
use pageserver::engine::jobs::Runner;
use pageserver::engine::metrics::Metrics;
use pageserver::engine::timeline::import::Layers;
use pageserver::engine::{Engine, Env, State, Tenant, Timeline};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use types::directory::{DbDirectory, RelDirectory, TwoPhaseDirectory, encode_size};
use types::{
    Batch, Fork, Key, Lsn, PAGE_SIZE, PgMajor, RelTag, TenantId, TenantShardId, TimelineId,
};
use wal_ingest::testing::RecordBuilder;

/// Version of the Postgres that the synthetic pages are of.
pub const VERSION: PgMajor = PgMajor::V17;
/// The one relation.
pub const REL: RelTag = RelTag {
    spc: 1663,
    db: 5,
    rel: 16384,
    fork: Fork::Main,
};
/// Where the history of the synthetic timeline begins.
pub const START: Lsn = Lsn(0x100_0000);
/// Its tenant.
pub const TENANT: TenantId = TenantId([7; 16]);

/// True unless the program is run by something that only wants to know its tests, or names other
/// benchmarks.
pub fn wanted(name: &str) -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = words.iter().filter(|w| !w.starts_with('-')).collect();
    words.iter().any(|w| w == "--bench")
        && (filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
}

/// An engine on a temporary directory with a bucket in memory.
pub struct World {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its only tenant.
    pub tenant: Arc<Tenant>,
    /// Its directory.
    pub directory: TempDir,
    /// Background work, for whoever wants it done.
    pub runner: Option<Runner>,
}

impl World {
    /// An empty engine whose open layers are not frozen by size. Nothing happens in the background
    /// before [`World::runner`] runs.
    pub async fn new() -> World {
        let directory = TempDir::new().unwrap();
        let env = Env {
            disk: Arc::new(HostDisk::new(directory.path())),
            bucket: Arc::new(Memory::new()),
            clock: Arc::new(HostClock),
            entropy: Arc::new(HostEntropy),
        };
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let conf = serde_json::json!({ "checkpoint_distance": 4u64 << 30 });
        let conf = conf.as_object().unwrap().clone();
        let (engine, runner) = Engine::new(env, 8 << 30, metrics, conf);
        let id = TenantShardId::unsharded(TENANT);
        let tenant = engine.create_tenant(id, Default::default(), None).await;
        World {
            tenant: tenant.unwrap(),
            engine,
            directory,
            runner: Some(runner),
        }
    }

    /// A timeline whose history begins at `start` with these values.
    pub async fn timeline(
        &self,
        id: u8,
        version: PgMajor,
        start: Lsn,
        values: impl IntoIterator<Item = (Key, Bytes)>,
    ) -> Arc<Timeline> {
        let index = IndexPart::new(Metadata {
            disk_consistent_lsn: start,
            prev_record_lsn: None,
            ancestor_timeline: None,
            ancestor_lsn: Lsn::INVALID,
            latest_gc_cutoff_lsn: start,
            initdb_lsn: start,
            pg_version: version,
        });
        let id = TimelineId([id; 16]);
        let timeline = self.tenant.create_for_import(id, version, index).await;
        let timeline = timeline.unwrap();
        let mut layers = Layers::new(&timeline, start);
        let mut has_control_file = false;
        for (key, value) in values {
            has_control_file |= key == Key::CONTROL_FILE;
            layers.put(key, value).unwrap();
        }
        if !has_control_file {
            let file = include_bytes!("../../../libs/pg_format/tests/data/pg_control_17.bin");
            let mut file = file.to_vec();
            file.resize(PAGE_SIZE, 0);
            layers.put(Key::CONTROL_FILE, file.into()).unwrap();
        }
        let layers = layers.finish().unwrap();
        timeline.adopt_import(layers, start).await.unwrap();
        timeline.set_state(State::Active);
        timeline
    }

    /// A timeline with `pages` empty heap pages in one image layer. The first `changed` of them
    /// get `deltas` inserts each, in turn, which are then in one L0 layer if `flushed`.
    pub async fn relation(
        &self,
        pages: u32,
        changed: u32,
        deltas: u16,
        flushed: bool,
    ) -> Arc<Timeline> {
        let blocks = (0..pages).map(|n| (Key::rel_block(REL, n), heap_page(n)));
        let values = blocks.chain(directories(pages));
        let timeline = self.timeline(1, VERSION, START, values).await;
        let mut lsn = START;
        for offset in 1..=deltas {
            let mut batch = Batch::new();
            for block in 0..changed {
                lsn = lsn.saturating_add(256);
                let record = insert(block, offset, 90);
                batch.put_postgres(Key::rel_block(REL, block), lsn, false, &record);
            }
            batch.last_lsn = lsn;
            timeline.write(batch).await.unwrap();
        }
        if flushed {
            timeline.freeze_and_flush().await.unwrap();
        }
        timeline
    }
}

/// What says that the relation is there, and nothing else.
fn directories(pages: u32) -> [(Key, Bytes); 5] {
    let databases = DbDirectory {
        dbs: [((REL.spc, REL.db), false)].into(),
    };
    let relations = RelDirectory {
        rels: [(REL.rel, REL.fork)].into(),
    };
    let prepared = TwoPhaseDirectory::default().encode(true);
    [
        (Key::DB_DIR, databases.encode()),
        (Key::rel_dir(REL.spc, REL.db), relations.encode()),
        (Key::rel_size(REL), encode_size(pages)),
        (Key::TWO_PHASE_DIR, prepared),
        (Key::CHECKPOINT, Bytes::from_static(b"checkpoint")),
    ]
}

/// An empty heap page; the bytes that stay unused tell the block.
pub fn heap_page(block: u32) -> Bytes {
    let mut page = vec![0u8; PAGE_SIZE];
    let mut put = |at: usize, n: u16| page[at..at + 2].copy_from_slice(&n.to_le_bytes());
    put(12, 24);
    put(14, 8192);
    put(16, 8192);
    put(18, 0x2004);
    page[4000..4004].copy_from_slice(&block.to_le_bytes());
    page.into()
}

/// A heap insert of a tuple with `len` bytes of columns.
pub fn insert(block: u32, offset: u16, len: usize) -> Vec<u8> {
    let mut data = vec![1, 0, 0, 8, 24, 0];
    data.resize(5 + 1 + len, 0x5A);
    RecordBuilder::new(VERSION, pg_wal::record::rmid::HEAP, 0)
        .xid(700)
        .block(0, REL, block)
        .data(data)
        .main(offset.to_le_bytes())
        .main([0])
        .build()
}

/// A cheap sequence of numbers below `n` without a pattern.
pub fn scattered(n: u32) -> impl Iterator<Item = u32> {
    let mut x = 0x2545_F491_4F6C_DD1Du64;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (((x >> 32) * u64::from(n)) >> 32) as u32
    })
}

/// Times of many rounds of one thing. On a busy machine the smallest is closest to what the thing
/// costs; the others tell how busy the machine was.
#[derive(Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds a round.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds the rounds of another.
    pub fn extend(&mut self, other: &Times) {
        self.0.extend_from_slice(&other.0);
    }

    /// Number of rounds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Times one round.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = work();
        self.push(start.elapsed());
        out
    }

    /// The value below which a part `p` of the rounds lie.
    pub fn quantile(&self, p: f64) -> Duration {
        let mut all = self.0.clone();
        all.sort_unstable();
        let at = (all.len().saturating_sub(1)) as f64 * p;
        all.get(at.round() as usize).copied().unwrap_or_default()
    }

    /// The smallest.
    pub fn min(&self) -> Duration {
        self.quantile(0.0)
    }

    /// Prints minimum and median of one of `per` operations in a round, and how the minimum compares.
    pub fn print(&self, name: &str, per: usize, to: Option<&Times>) {
        let each = |d: Duration| d.as_secs_f64() * 1e6 / per as f64;
        let ratio = to.map_or_else(String::new, |t| {
            format!(
                "{:>8.2} x",
                self.min().as_secs_f64() / t.min().as_secs_f64()
            )
        });
        println!(
            "{name:<44} {:>9.3} {:>9.3} {ratio}",
            each(self.min()),
            each(self.quantile(0.5))
        );
    }
}
