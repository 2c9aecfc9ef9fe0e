//! A timeline under random writes, flushes, uploads, crashes, losses of local data, branches,
//! compactions and garbage collections answers every read as a plain in-memory history does, and
//! no read replays more changes than the setting allows.

#![cfg(test)]

mod support;

use bytes::Bytes;
use layer_format::index_part::IndexPart;
use layer_format::path;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::{Branch, Engine, Error, Timeline};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::*;
use types::{Batch, Key, Lsn, TimelineId, Value, WalRecord};

const KEYS: u32 = 6;
/// Layers open at once: few, so that they are closed and opened all the time.
const OPEN_LAYERS: usize = 3;
/// `delta_chain_threshold`.
const CHAIN: usize = 4;

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
    place: Place,
    engine: Arc<Engine>,
    /// The branch written to, and its history.
    current: TimelineId,
    histories: BTreeMap<TimelineId, History>,
    next_branch: u8,
}

fn engine(place: &Place) -> Arc<Engine> {
    // What happens in the background happens in the steps.
    let engine = place.engine();
    engine.open_layers().limit_files(OPEN_LAYERS);
    engine
}

impl World {
    async fn new() -> World {
        let place = Place::with(&serde_json::json!({
            "compaction_threshold": 2,
            "image_creation_threshold": 2,
            "compaction_target_size": 65536,
            "delta_chain_threshold": CHAIN,
        }));
        let engine = engine(&place);
        let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
        timeline(&tenant.unwrap(), MAIN, KEYS).await;
        let first = |n| ((page_key(n), START), first_page(n).to_vec());
        let history = History {
            last: START,
            versions: (0..KEYS).map(first).collect(),
        };
        World {
            place,
            engine,
            current: MAIN,
            histories: [(MAIN, history)].into(),
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
            let mut page = history.get(page_key(*n), lsn).unwrap().clone();
            if *whole {
                page.fill(*value as u8);
                batch.put(page_key(*n), lsn, &Value::Image(Bytes::from(page.clone())));
            } else {
                let mid = n * 2048 + word;
                let at = (*word as usize) * 4;
                page[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let rec = WalRecord::MultixactOffsetCreate { mid, moff: *value };
                batch.put(page_key(*n), lsn, &Value::WalRecord(rec));
            }
            history.versions.insert((page_key(*n), lsn), page);
        }
        history.last = lsn;
        batch.last_lsn = lsn;
        timeline.write(batch).await.unwrap();
    }

    /// The process dies; what is in memory is gone, and the source sends WAL again from there.
    async fn restart(&mut self, lose: bool) {
        if lose {
            self.place.lose_disk();
        }
        self.engine = engine(&self.place);
        load(&self.engine).await;
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
                    let (got, stats) = timeline.get_counted(page_key(n), lsn).await.unwrap();
                    assert!(
                        got.unwrap() == history.get(page_key(n), lsn).unwrap(),
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
            let indexes = self
                .place
                .bucket
                .list(&prefix, false)
                .await
                .unwrap()
                .objects;
            let newest = indexes
                .iter()
                .max_by_key(|o| path::index_part_generation(&o.key))
                .unwrap();
            let body = self.place.bucket.get(&newest.key).await.unwrap().body;
            for (name, entry) in IndexPart::from_json(&body).unwrap().layer_metadata {
                let key = path::layer(&TENANT.tenant, id, &name, &entry);
                assert_eq!(
                    self.place.bucket.head(&key).await.unwrap().size,
                    entry.file_size
                );
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
