//! Branches of a random history are detached from their ancestors, one after the other, in deep chains.
//! Every read of every timeline is the same before and after, also after compaction, garbage
//! collection, restarts and the deletion of former ancestors; and a detached branch has its
//! ancestor's history below its branch point.

#![cfg(test)]

mod support;

use bucket::Bucket as _;
use bytes::Bytes;
use layer_format::index_part::{IndexPart, RelSizeMigration};
use layer_format::path;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::{Branch, Detach, Engine, ErrorKind, Levels, Tenant, Timeline};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::*;
use types::{Batch, Fork, Key, Lsn, RelTag, TimelineId, Value, WalRecord};

const PAGES: u32 = 5;
const SPARSE: u32 = 3;

/// Sparse, inherited by branches.
fn entry(n: u32) -> Key {
    Key::rel_dir_entry(RelTag {
        spc: 1663,
        db: 5,
        rel: 30000 + n,
        fork: Fork::Main,
    })
}

fn keys() -> Vec<Key> {
    let pages = (0..PAGES).map(page_key);
    let entries = (0..SPARSE).map(entry);
    let origins = (0..SPARSE).map(|n| Key::repl_origin(n as u16));
    pages.chain(entries).chain(origins).collect()
}

/// A small generator of random numbers: the same seed makes the same history.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_F42D_4C95_7F2D)
            .wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

struct Line {
    parent: Option<(TimelineId, Lsn)>,
    versions: BTreeMap<(Key, Lsn), Vec<u8>>,
}

struct World {
    place: Place,
    engine: Arc<Engine>,
    lines: BTreeMap<TimelineId, Line>,
    random: Random,
}

impl World {
    async fn new(seed: u64) -> World {
        let place = Place::with(&serde_json::json!({
            "compaction_threshold": 2,
            "image_creation_threshold": 1,
            "compaction_target_size": 65536,
            "delta_chain_threshold": 6,
        }));
        // What happens in the background happens in the steps.
        let engine = place.engine();
        let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
        timeline(&tenant.unwrap(), MAIN, PAGES).await;
        let first = |n| ((page_key(n), START), first_page(n).to_vec());
        let versions = (0..PAGES).map(first).collect();
        let root = Line {
            parent: None,
            versions,
        };
        World {
            place,
            engine,
            lines: [(MAIN, root)].into(),
            random: Random(seed),
        }
    }

    fn tenant(&self) -> Arc<Tenant> {
        self.engine.tenant(TENANT).unwrap()
    }

    fn timeline(&self, id: TimelineId) -> Arc<Timeline> {
        self.tenant().timeline(id).unwrap()
    }

    fn ids(&self) -> Vec<TimelineId> {
        self.tenant().timelines().iter().map(|t| t.id).collect()
    }

    /// What a read must answer.
    fn expected(&self, id: TimelineId, key: Key, lsn: Lsn) -> Option<&Vec<u8>> {
        let line = &self.lines[&id];
        let own = line.versions.range((key, Lsn(0))..=(key, lsn)).next_back();
        if let Some((_, value)) = own {
            return Some(value);
        }
        let (parent, at) = line.parent.filter(|_| key.is_inherited())?;
        self.expected(parent, key, lsn.min(at))
    }

    async fn write(&mut self, id: TimelineId) {
        let timeline = self.timeline(id);
        let lsn = timeline.last_record_lsn().saturating_add(8);
        let mut batch = Batch::new();
        let all = keys();
        for _ in 0..self.random.below(4) {
            let key = self.random.pick(&all);
            let line = &self.lines[&id];
            if line.versions.contains_key(&(key, lsn)) {
                continue;
            }
            let (value, content) = if !all[..PAGES as usize].contains(&key) {
                let gone = self.random.below(4) == 0;
                let value = self.random.below(u64::MAX).to_be_bytes().to_vec();
                let content = if gone { Vec::new() } else { value };
                (Value::Image(content.clone().into()), content)
            } else if self.random.below(4) == 0 {
                let content = vec![self.random.below(256) as u8; 8192];
                (Value::Image(content.clone().into()), content)
            } else {
                let (word, moff) = (
                    self.random.below(20) as u32,
                    self.random.below(1 << 32) as u32,
                );
                let mut content = self.expected(id, key, lsn).unwrap().clone();
                content[word as usize * 4..][..4].copy_from_slice(&moff.to_le_bytes());
                let mid = key.field6 * 2048 + word;
                (
                    Value::WalRecord(WalRecord::MultixactOffsetCreate { mid, moff }),
                    content,
                )
            };
            batch.put(key, lsn, &value);
            self.lines
                .get_mut(&id)
                .unwrap()
                .versions
                .insert((key, lsn), content);
        }
        batch.last_lsn = lsn;
        timeline.write(batch).await.unwrap();
    }

    async fn maintain(&mut self, id: TimelineId) {
        let timeline = self.timeline(id);
        match self.random.below(12) {
            0 | 1 => timeline.freeze().await,
            2 | 3 => timeline.freeze_and_flush().await.unwrap(),
            4 | 5 => timeline.checkpoint().await.unwrap(),
            6 | 7 => {
                let (l0, images) = (self.random.below(2) == 0, self.random.below(2) == 0);
                timeline.compact(Force { l0, images }).await.unwrap();
            }
            8 => {
                let horizon = Horizon {
                    bytes: self.random.below(200),
                    pitr: Duration::ZERO,
                };
                timeline.gc(horizon).await.unwrap();
            }
            _ => {}
        }
    }

    async fn branch(&mut self) {
        let ids = self.ids();
        let parent = self.random.pick(&ids);
        let timeline = self.timeline(parent);
        let oldest = timeline.gc_cutoff().max(timeline.ancestor_lsn()).0;
        let span = (timeline.last_record_lsn().0 - oldest) / 8;
        // Now and then at either end, and more than one at one place.
        let steps = match self.random.below(4) {
            0 => 0,
            1 => span,
            _ => self.random.below(span + 1),
        };
        let at = Lsn(oldest + steps * 8);
        let id = TimelineId([self.lines.len() as u8 + 1; 16]);
        let request = Branch {
            id,
            ancestor: parent,
            at: Some(at),
        };
        self.tenant().branch(request).await.unwrap();
        let line = Line {
            parent: Some((parent, at)),
            versions: BTreeMap::new(),
        };
        self.lines.insert(id, line);
    }

    /// Reads everything that is readable, of every timeline.
    async fn check(&self, when: &str) {
        for timeline in self.tenant().timelines() {
            let branch_point = self.lines[&timeline.id].parent.map_or(START, |(_, at)| at);
            let (mut lsn, last) = (timeline.gc_cutoff(), timeline.last_record_lsn());
            while lsn <= last {
                let _pin = timeline.pin(lsn).unwrap();
                for key in keys() {
                    // Below its branch point a branch never had these.
                    if lsn < branch_point && !key.is_inherited() {
                        continue;
                    }
                    let got = timeline.get_opt(key, lsn).await.unwrap();
                    let got = got.filter(|v| !v.is_empty());
                    let want = self
                        .expected(timeline.id, key, lsn)
                        .filter(|v| !v.is_empty());
                    assert!(
                        got.as_deref() == want.map(Vec::as_slice),
                        "{when}: {timeline:?} key {key} at {lsn}: {:?}, not {:?}",
                        got.map(|v| types::crc32c::of(&v)),
                        want.map(|v| types::crc32c::of(v)),
                    );
                }
                lsn = lsn.saturating_add(8);
            }
            let origins = timeline.replication_origins(last).await.unwrap().len();
            let there = |n: u32| {
                let value = self.expected(timeline.id, Key::repl_origin(n as u16), last);
                value.is_some_and(|v| v.iter().any(|b| *b != 0))
            };
            let want = (0..SPARSE).filter(|n| there(*n)).count();
            assert_eq!(origins, want, "{when}: origins of {timeline:?}");
        }
    }

    /// Every index names what is there.
    async fn check_bucket(&self) {
        for id in self.ids() {
            self.timeline(id).upload().await.unwrap();
            let listing = self
                .place
                .bucket
                .list(&path::timeline(&TENANT, &id), false)
                .await
                .unwrap();
            let mut sizes: BTreeMap<String, u64> = listing
                .objects
                .into_iter()
                .map(|o| (o.key, o.size))
                .collect();
            for layer in self.timeline(id).layers().files() {
                let key = layer.object_key(&TENANT.tenant, &id);
                assert_eq!(sizes.remove(&key), Some(layer.size()), "{key}");
            }
        }
    }

    async fn restart(&mut self, lose: bool) {
        for t in self.tenant().timelines() {
            t.checkpoint().await.unwrap();
        }
        if lose {
            self.place.lose_disk();
        }
        self.engine = self.place.engine();
        load(&self.engine).await;
    }

    async fn grow(&mut self, steps: u64) {
        for _ in 0..steps {
            let ids = self.ids();
            let id = self.random.pick(&ids);
            self.write(id).await;
            self.maintain(id).await;
            if self.lines.len() < 9 && self.random.below(12) == 0 {
                self.branch().await;
            }
        }
    }

    /// Detaches a branch and returns its former ancestor.
    async fn detach(&mut self, id: TimelineId) -> TimelineId {
        let tenant = self.tenant();
        let branch = self.timeline(id);
        let (ancestor, at) = branch.ancestor().unwrap();
        let others = tenant.timelines().into_iter().filter(|t| t.id != id);
        let earlier = others.filter_map(|t| {
            let (a, point) = t.ancestor()?;
            (a.id == ancestor.id && point <= at).then_some(t.id)
        });
        let earlier: Vec<_> = earlier.collect();
        let first = tenant.detach_ancestor(id, Detach::default()).await.unwrap();
        assert_eq!(first, earlier);
        let second = tenant.detach_ancestor(id, Detach::default()).await.unwrap();
        assert_eq!(second, earlier);
        assert!(branch.ancestor().is_none());
        for moved in earlier {
            let parent = self.timeline(moved).ancestor().map(|(a, _)| a.id);
            assert_eq!(parent, Some(id));
        }
        ancestor.id
    }
}

async fn run(seed: u64) {
    let mut world = World::new(seed).await;
    world.grow(120).await;
    world.check("before").await;
    loop {
        // A branch of a root; deeper ones have to wait for their turn.
        let mut ready = Vec::new();
        for t in world.tenant().timelines() {
            let Some((ancestor, _)) = t.ancestor() else {
                continue;
            };
            if ancestor.ancestor().is_none() {
                ready.push(t.id);
            } else {
                let refused = world
                    .tenant()
                    .detach_ancestor(t.id, Detach::default())
                    .await;
                let refused = refused.unwrap_err();
                assert_eq!(refused.to_string(), "too many ancestors");
                assert_eq!(refused.kind(), ErrorKind::BadRequest);
            }
        }
        if ready.is_empty() {
            break;
        }
        let id = world.random.pick(&ready);
        let former = world.detach(id).await;
        world.check("detached").await;
        world.check_bucket().await;
        if world.random.below(2) == 0 {
            let lose = world.random.below(2) == 0;
            world.restart(lose).await;
            world.check("restarted").await;
        }
        if world.tenant().children(former).is_empty() {
            world.tenant().delete_timeline(former).await.unwrap();
            world.check("former ancestor deleted").await;
        }
        world.grow(25).await;
        for id in world.ids() {
            world.maintain(id).await;
        }
        world.check("gone on").await;
    }
    let again = world
        .tenant()
        .detach_ancestor(MAIN, Detach::default())
        .await;
    if let Err(e) = again {
        assert!(
            matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound),
            "{e}"
        );
    }
    world.restart(true).await;
    world.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detached_branches_read_the_same() {
    for seed in 1..=4 {
        run(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_branch_has_the_history_below_its_branch_point() {
    let mut world = World::new(99).await;
    for _ in 0..10 {
        world.write(MAIN).await;
    }
    let at = Lsn(START.0 + 40);
    let id = TimelineId([2; 16]);
    let request = Branch {
        id,
        ancestor: MAIN,
        at: Some(at),
    };
    let branch = world.tenant().branch(request).await.unwrap();
    let line = Line {
        parent: Some((MAIN, at)),
        versions: BTreeMap::new(),
    };
    world.lines.insert(id, line);
    world.write(id).await;
    assert_eq!(branch.gc_cutoff(), at);
    assert!(branch.pin(START).is_err());
    world.detach(id).await;
    assert_eq!(branch.gc_cutoff(), START);
    world.check("detached").await;
    world.restart(true).await;
    assert_eq!(world.timeline(id).gc_cutoff(), START);
    world.check("restarted").await;
    // And can be branched there.
    let early = Branch {
        id: TimelineId([3; 16]),
        ancestor: id,
        at: Some(START),
    };
    world.tenant().branch(early).await.unwrap();
}

/// Relations of a tenant that lists them by one key each are listed so on its branches, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_inherit_the_form_of_the_relation_directory() {
    let mut world = World::new(3).await;
    let listed = Key::rel_dir_entry(RelTag {
        spc: 1663,
        db: 5,
        rel: 30000,
        fork: Fork::Main,
    });
    let root = world.timeline(MAIN);
    let lsn = root.last_record_lsn().saturating_add(8);
    let mut batch = Batch::new();
    batch.put(listed, lsn, &Value::Image(Bytes::from_static(b"x")));
    batch.last_lsn = lsn;
    root.write(batch).await.unwrap();
    root.checkpoint().await.unwrap();
    // As a tenant comes from the reference.
    let key = path::index_part(&TENANT, &MAIN, root.generation);
    let object = world.place.bucket.get(&key).await.unwrap();
    let mut index = IndexPart::from_json(&object.body).unwrap();
    index.rel_size_migration = Some(RelSizeMigration::Migrated);
    index.rel_size_migrated_at = Some(START);
    let body = index.to_json().unwrap();
    let put = bucket::PutMode::Overwrite;
    world
        .place
        .bucket
        .put(&key, body.into(), put)
        .await
        .unwrap();
    world.engine = world.place.engine();
    load(&world.engine).await;
    let request = Branch {
        id: TimelineId([2; 16]),
        ancestor: MAIN,
        at: None,
    };
    let branch = world.tenant().branch(request).await.unwrap();
    assert_eq!(branch.relations(1663, 5, lsn).await.unwrap().len(), 1);
    world.restart(true).await;
    let branch = world.timeline(request.id);
    assert_eq!(branch.relations(1663, 5, lsn).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_levels_that_left_each_other_at_one_point_are_left_at_once() {
    let mut world = World::new(5).await;
    for _ in 0..6 {
        world.write(MAIN).await;
    }
    let at = Lsn(START.0 + 32);
    for n in 2..5u8 {
        let id = TimelineId([n; 16]);
        let request = Branch {
            id,
            ancestor: TimelineId([n - 1; 16]),
            at: Some(at),
        };
        world.tenant().branch(request).await.unwrap();
        let line = Line {
            parent: Some((request.ancestor, at)),
            versions: BTreeMap::new(),
        };
        world.lines.insert(id, line);
        world.write(id).await;
    }
    let several = Detach {
        levels: Levels::Several,
        ..Detach::default()
    };
    let leaf = TimelineId([4; 16]);
    let moved = world.tenant().detach_ancestor(leaf, several).await.unwrap();
    assert_eq!(moved, []);
    assert!(world.timeline(leaf).ancestor().is_none());
    world.check("detached").await;
    // A branch that left one of them later has history of two.
    let later = Branch {
        id: TimelineId([5; 16]),
        ancestor: TimelineId([3; 16]),
        at: None,
    };
    world.tenant().branch(later).await.unwrap();
    let refused = world
        .tenant()
        .detach_ancestor(later.id, several)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "ancestor is not empty");
    world.tenant().archive(leaf).await.unwrap();
    let third = TimelineId([3; 16]);
    world.tenant().archive(later.id).await.unwrap();
    world.tenant().archive(third).await.unwrap();
    let refused = world
        .tenant()
        .detach_ancestor(third, several)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), format!("archived: {third}"));
}
