//! A timeline under random writes, flushes, uploads, crashes, losses of local data, branches,
//! compactions and garbage collections answers every read as a plain in-memory history does, and
//! no read replays more changes than the setting allows.

#![expect(
    clippy::disallowed_methods,
    reason = "loses the local files of a timeline"
)]
#![cfg(test)]

use bucket::Memory;
use bytes::Bytes;
use layer_format::index_part::IndexPart;
use layer_format::{Metadata, path};
use pageserver::engine::disk::HostDisk;
use pageserver::engine::env::{Env, HostClock, HostEntropy};
use pageserver::engine::metrics::Metrics;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::timeline::import::Layers;
use pageserver::engine::{Branch, Engine, Error, Timeline};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use types::directory::{DbDirectory, SlruDirectory, TwoPhaseDirectory, encode_size};
use types::{
    Batch, Key, Lsn, PgMajor, SlruKind, TenantId, TenantShardId, TimelineId, Value, WalRecord,
};

const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
const MAIN: TimelineId = TimelineId([1; 16]);
const START: Lsn = Lsn(0x1000);
const KEYS: u32 = 6;
/// Layers open at once: few, so that they are closed and opened all the time.
const OPEN_LAYERS: usize = 3;
/// `delta_chain_threshold`.
const CHAIN: usize = 4;

/// An offsets page: a change writes one word, so a model of it is easy.
fn key(n: u32) -> Key {
    Key::slru_block(SlruKind::MultiXactOffsets, 0, n)
}

#[derive(Debug, Clone)]
enum Step {
    /// Whole pages and single words at the next LSN: (key, word, value, whole page).
    Write(Vec<(u32, u32, u32, bool)>),
    Freeze,
    Flush,
    Checkpoint,
    Restart {
        lose: bool,
    },
    Branch {
        back: u64,
    },
    Compact(Force),
    Collect {
        keep: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..KEYS, 0u32..4, any::<u32>(), prop::bool::weighted(0.2));
    prop_oneof![
        8 => prop::collection::vec(change, 0..5).prop_map(Step::Write),
        1 => Just(Step::Freeze),
        2 => Just(Step::Flush),
        2 => Just(Step::Checkpoint),
        1 => any::<bool>().prop_map(|lose| Step::Restart { lose }),
        1 => (0u64..20).prop_map(|back| Step::Branch { back }),
        2 => any::<(bool, bool)>().prop_map(|(l0, images)| Step::Compact(Force { l0, images })),
        1 => (0u64..20).prop_map(|keep| Step::Collect { keep }),
    ]
}

type Page = Vec<u8>;

/// Every version of every key of one branch.
#[derive(Clone, Default)]
struct History {
    versions: BTreeMap<(Key, Lsn), Page>,
    last: Lsn,
}

impl History {
    fn get(&self, key: Key, lsn: Lsn) -> Option<&Page> {
        self.versions
            .range((key, Lsn(0))..=(key, lsn))
            .next_back()
            .map(|(_, p)| p)
    }

    fn forget_after(&mut self, lsn: Lsn) {
        self.versions.retain(|(_, l), _| *l <= lsn);
        self.last = self.last.min(lsn);
    }
}

struct World {
    directory: tempfile::TempDir,
    bucket: Arc<Memory>,
    engine: Arc<Engine>,
    /// The branch written to, and its history.
    current: TimelineId,
    histories: BTreeMap<TimelineId, History>,
    next_branch: u8,
}

fn engine(directory: &tempfile::TempDir, bucket: &Arc<Memory>) -> Arc<Engine> {
    let env = Env {
        disk: Arc::new(HostDisk::new(directory.path())),
        bucket: Arc::clone(bucket) as Arc<dyn bucket::Bucket>,
        clock: Arc::new(HostClock),
        entropy: Arc::new(HostEntropy),
    };
    let metrics = Arc::new(Metrics::new(
        &mut prometheus_client::registry::Registry::default(),
    ));
    let settings = serde_json::json!({
        "compaction_threshold": 2,
        "image_creation_threshold": 2,
        "compaction_target_size": 65536,
        "delta_chain_threshold": CHAIN,
    });
    // No runner: what happens in the background happens in the steps.
    let defaults = settings.as_object().unwrap().clone();
    let engine = Engine::new(env, 1 << 30, metrics, defaults).0;
    engine.open_layers().limit_files(OPEN_LAYERS);
    engine
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let bucket = Arc::new(Memory::new());
        let engine = engine(&directory, &bucket);
        let tenant = engine
            .create_tenant(TENANT, serde_json::Map::new(), None)
            .await
            .unwrap();
        let index = IndexPart::new(Metadata {
            disk_consistent_lsn: Lsn::INVALID,
            prev_record_lsn: None,
            ancestor_timeline: None,
            ancestor_lsn: Lsn::INVALID,
            latest_gc_cutoff_lsn: START,
            initdb_lsn: START,
            pg_version: PgMajor::V17,
        });
        let timeline = tenant
            .create_for_import(MAIN, PgMajor::V17, index)
            .await
            .unwrap();
        let mut layers = Layers::new(&timeline, START);
        let mut history = History {
            last: START,
            ..History::default()
        };
        for n in 0..KEYS {
            let page = vec![n as u8; 8192];
            layers.put(key(n), Bytes::from(page.clone())).unwrap();
            history.versions.insert((key(n), START), page);
        }
        let control = include_bytes!("../../libs/pg_format/tests/data/pg_control_17.bin");
        let mut file = control.to_vec();
        file.resize(8192, 0);
        layers.put(Key::CONTROL_FILE, file.into()).unwrap();
        // What the directories name is what exists.
        let kind = SlruKind::MultiXactOffsets;
        let segments = SlruDirectory {
            segments: [0].into(),
        };
        for (key, value) in [
            (Key::DB_DIR, DbDirectory::default().encode()),
            (Key::CHECKPOINT, Bytes::from_static(b"checkpoint")),
            (
                Key::TWO_PHASE_DIR,
                TwoPhaseDirectory::default().encode(true),
            ),
            (Key::slru_dir(kind), segments.encode()),
            (Key::slru_segment_size(kind, 0), encode_size(KEYS)),
        ] {
            layers.put(key, value).unwrap();
        }
        timeline
            .adopt_import(layers.finish().unwrap(), START)
            .await
            .unwrap();
        timeline.finish_import().await.unwrap();
        let histories = [(MAIN, history)].into();
        World {
            directory,
            bucket,
            engine,
            current: MAIN,
            histories,
            next_branch: 2,
        }
    }

    fn timeline(&self, id: TimelineId) -> Arc<Timeline> {
        self.engine.timeline(TENANT, id).unwrap()
    }

    async fn write(&mut self, changes: &[(u32, u32, u32, bool)]) {
        let timeline = self.timeline(self.current);
        let history = self.histories.get_mut(&self.current).unwrap();
        let lsn = Lsn(history.last.0 + 8);
        let mut batch = Batch::new();
        let mut seen = Vec::new();
        for (n, word, value, whole) in changes {
            if seen.contains(n) {
                continue;
            }
            seen.push(*n);
            let mut page = history.get(key(*n), lsn).unwrap().clone();
            if *whole {
                page.fill(*value as u8);
                batch.put(key(*n), lsn, &Value::Image(Bytes::from(page.clone())));
            } else {
                let mid = n * 2048 + word;
                let at = (*word as usize) * 4;
                page[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let rec = WalRecord::MultixactOffsetCreate { mid, moff: *value };
                batch.put(key(*n), lsn, &Value::WalRecord(rec));
            }
            history.versions.insert((key(*n), lsn), page);
        }
        history.last = lsn;
        batch.last_lsn = lsn;
        timeline.write(batch).await.unwrap();
    }

    /// The process dies; what is in memory is gone, and the source sends WAL again from there.
    async fn restart(&mut self, lose: bool) {
        if lose {
            std::fs::remove_dir_all(self.directory.path().join("tenants")).unwrap();
        }
        self.engine = engine(&self.directory, &self.bucket);
        let unfinished = self.engine.load_all().await.unwrap();
        assert!(unfinished.is_empty());
        // Branches first: what they inherited is checked against the ancestor's loss below.
        let lasts: BTreeMap<TimelineId, Lsn> = self
            .histories
            .keys()
            .map(|id| (*id, self.timeline(*id).last_record_lsn()))
            .collect();
        for (id, history) in &mut self.histories {
            assert!(lasts[id] <= history.last);
            history.forget_after(lasts[id]);
        }
    }

    async fn branch(&mut self, back: u64) {
        let history = &self.histories[&self.current];
        let oldest = self.timeline(self.current);
        let oldest = oldest.gc_cutoff().max(oldest.ancestor_lsn());
        let at = Lsn(history.last.0.saturating_sub(back * 8)).max(oldest);
        let id = TimelineId([self.next_branch; 16]);
        self.next_branch += 1;
        let tenant = self.engine.tenant(TENANT).unwrap();
        // A branch is only as durable as its ancestor; a crash would take both back.
        self.timeline(self.current).checkpoint().await.unwrap();
        let request = Branch {
            id,
            ancestor: self.current,
            at: Some(at),
        };
        tenant.branch(request).await.unwrap();
        let mut child = history.clone();
        child.forget_after(at);
        child.last = at;
        self.histories.insert(id, child);
        self.current = id;
    }

    async fn check(&self) {
        for (id, history) in &self.histories {
            let timeline = self.timeline(*id);
            assert_eq!(timeline.last_record_lsn(), history.last);
            let mut lsn = START;
            while lsn <= history.last {
                if lsn < timeline.gc_cutoff() {
                    assert!(matches!(timeline.pin(lsn), Err(Error::BelowCutoff { .. })));
                    lsn = Lsn(lsn.0 + 8);
                    continue;
                }
                let _pin = timeline.pin(lsn).unwrap();
                for n in 0..KEYS {
                    let (got, stats) = timeline.get_counted(key(n), lsn).await.unwrap();
                    assert!(
                        got.unwrap() == history.get(key(n), lsn).unwrap(),
                        "{id} key {n} at {lsn}"
                    );
                    // Each ancestor's fresh layers may add half of it once more.
                    let limit = CHAIN * (1 + self.histories.len());
                    assert!(
                        stats.deltas <= limit,
                        "{} changes for key {n} at {lsn}",
                        stats.deltas
                    );
                }
                lsn = Lsn(lsn.0 + 8);
            }
        }
    }

    /// Whoever reads the newest index of a timeline finds every layer it names.
    async fn check_bucket(&self) {
        use bucket::Bucket;
        for id in self.histories.keys() {
            let prefix = path::index_part_prefix(&TENANT, id);
            let indexes = self.bucket.list(&prefix, false).await.unwrap().objects;
            let newest = indexes
                .iter()
                .max_by_key(|o| path::index_part_generation(&o.key))
                .unwrap();
            let body = self.bucket.get(&newest.key).await.unwrap().body;
            for (name, entry) in IndexPart::from_json(&body).unwrap().layer_metadata {
                let key = path::layer(&TENANT.tenant, id, &name, &entry);
                assert_eq!(self.bucket.head(&key).await.unwrap().size, entry.file_size);
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new().await;
    for step in steps {
        let timeline = world.timeline(world.current);
        match step {
            Step::Write(changes) => world.write(&changes).await,
            Step::Freeze => timeline.freeze().await,
            Step::Flush => timeline.freeze_and_flush().await.unwrap(),
            Step::Checkpoint => timeline.checkpoint().await.unwrap(),
            Step::Restart { lose } => world.restart(lose).await,
            Step::Branch { back } => world.branch(back).await,
            Step::Compact(force) => {
                for id in world.histories.keys() {
                    world.timeline(*id).compact(force).await.unwrap();
                }
            }
            Step::Collect { keep } => {
                let horizon = Horizon {
                    bytes: keep * 8,
                    pitr: Duration::ZERO,
                };
                // Of all branches: what one inherits stays.
                for id in world.histories.keys() {
                    world.timeline(*id).gc(horizon).await.unwrap();
                }
            }
        }
    }
    world.check().await;
    let (_, open) = world.engine.open_layers().usage();
    assert!(open <= OPEN_LAYERS, "{open} layers are open");
    world.check_bucket().await;
    world.restart(true).await;
    world.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn reads_equal_the_history(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
