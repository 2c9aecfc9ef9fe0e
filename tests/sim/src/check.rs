//! What must hold after a start and at the end of a run.

use crate::bucket::path_ids;
use crate::node::Node;
use crate::oracle::{self, Life};
use crate::random::Random;
use crate::user::User;
use crate::world::World;
use layer_format::path;
use pageserver::engine::{State, Timeline};
use std::collections::{BTreeMap, BTreeSet};
use types::{Lsn, TenantShardId, TimelineId};

/// A deletion is finished at a start: somebody must have asked for it.
pub fn may_be_deleted(world: &World, id: TimelineId) {
    let mut oracle = world.oracle.lock();
    let has_children = oracle.has_children(id);
    let Some(b) = oracle.branches.get_mut(&id) else {
        drop(oracle);
        return world.fail(format!("timeline {id} of which nobody heard is deleted"));
    };
    let life = b.life;
    if life == Life::Doomed && !has_children {
        b.life = Life::Deleted;
        return;
    }
    drop(oracle);
    if life == Life::Live || has_children {
        world.fail(format!(
            "timeline {id} is deleted at a start; it is {life:?}{}",
            if has_children {
                " and has children"
            } else {
                ""
            }
        ));
    }
}

/// Compares what a node loaded with what must and may exist. True if everything is there; in peace
/// anything less is a failure.
pub fn loaded(world: &World, node: &Node, peaceful: bool) -> bool {
    let mut complete = true;
    let mut problems = Vec::new();
    let mut oracle = world.oracle.lock();
    let ids: Vec<TimelineId> = oracle.branches.keys().copied().collect();
    for id in ids {
        let Some(branch) = oracle.branches.get_mut(&id) else {
            continue;
        };
        let loaded = node.timeline(branch.tenant, id);
        if let Some(State::Broken(why)) = loaded.as_ref().map(|t| t.state()) {
            complete = false;
            world.trace.event(format!("timeline {id} is broken: {why}"));
        }
        match (branch.life, loaded) {
            (Life::Live, None) => complete = false,
            (Life::Live, Some(t)) => {
                let (last, told) = (t.last_record_lsn(), branch.acknowledged);
                if last < told {
                    problems.push(format!(
                        "timeline {id} ends at {last} after a start; {told} was reported as durable"
                    ));
                }
            }
            (Life::Perhaps, Some(t)) => {
                branch.life = Life::Live;
                branch.parent = branch.parent.map(|(p, _)| (p, t.ancestor_lsn()));
            }
            // A deletion that left no trace did not happen, or has gone through.
            (Life::Doomed, None) if peaceful => branch.life = Life::Deleted,
            (Life::Deleted, Some(_)) => problems.push(format!("deleted timeline {id} is back")),
            _ => {}
        }
    }
    drop(oracle);
    for p in problems {
        world.fail(format!("{}: {p}", node.name));
    }
    complete
}

/// Everything that was reported as durable is there and right, without any WAL being fed.
pub async fn acknowledged(world: &World, node: &Node, random: &mut Random) {
    let user = User { world, node };
    let live: Vec<(TimelineId, Lsn)> = {
        let oracle = world.oracle.lock();
        let live = oracle.ids(&[Life::Live]).into_iter();
        live.filter_map(|id| Some((id, oracle.branches.get(&id)?.acknowledged)))
            .collect()
    };
    let keys = oracle::keys();
    for (id, told) in live {
        let Some(t) = find(world, node, id) else {
            continue;
        };
        let oldest = t.gc_cutoff().max(oracle::START);
        if told < oldest {
            continue;
        }
        for _ in 0..6 {
            let Some(key) = random.pick(&keys).copied() else {
                return;
            };
            let lsn = match random.chance(0.5) {
                true => told,
                false => Lsn(oldest.0 + random.below(told.0 - oldest.0 + 1)),
            };
            if let Err(e) = user.check(&t, key, lsn).await {
                world.fail(format!(
                    "{} timeline {id}: key {key} at {lsn}, reported as durable up to {told}: {e}",
                    node.name
                ));
            }
        }
    }
    world.observe(node);
}

fn find(world: &World, node: &Node, id: TimelineId) -> Option<std::sync::Arc<Timeline>> {
    let tenant = world.oracle.lock().branches.get(&id)?.tenant;
    node.timeline(tenant, id)
}

/// Every key of every timeline, at the ends, at branch points and at `samples` LSNs.
pub async fn everything(world: &World, node: &Node, samples: u64, random: &mut Random) {
    let user = User { world, node };
    let live = world.oracle.lock().ids(&[Life::Live]);
    for id in live {
        let Some(t) = find(world, node, id) else {
            world.fail(format!("timeline {id} is not there at the end"));
            return;
        };
        let oldest = t.gc_cutoff().max(oracle::START);
        let last = t.last_record_lsn();
        let mut lsns: BTreeSet<Lsn> = [oldest, last].into();
        lsns.extend(world.oracle.lock().branch_points(id));
        for _ in 0..samples {
            lsns.insert(Lsn(oldest.0 + random.below(last.0 - oldest.0 + 1)));
        }
        for lsn in lsns.into_iter().filter(|l| (oldest..=last).contains(l)) {
            for key in oracle::keys() {
                if let Err(e) = user.check(&t, key, lsn).await {
                    world.fail(format!("timeline {id} key {key} at {lsn}: {e}"));
                }
            }
            if world.has_failed() {
                return;
            }
        }
    }
}

/// Nothing is left over, right after an orderly restart of a settled node.
///
/// On disk: exactly the resident layers of loaded timelines. In the bucket, after a scrub: for each
/// tenant its record; for each timeline one index and the layers that it names.
pub fn no_leaks(world: &World, node: &Node) {
    no_strange_files(world, node);
    bucket_is_tidy(world);
}

/// On disk is nothing but the resident layers of loaded timelines.
pub fn no_strange_files(world: &World, node: &Node) {
    let mut files = node.disk.files();
    for t in node.timelines() {
        for layer in t.layers().files() {
            let found = files.remove(&layer.local_path());
            if layer.is_resident() && found != Some(layer.size()) {
                world.fail(format!("resident file {} is {found:?}", layer.local_path()));
            }
        }
    }
    if let Some((path, len)) = files.first_key_value() {
        world.fail(format!("left over on disk: {path}, {len} bytes"));
    }
}

/// No file of a node was ever found to be damaged: what the engine gives a name is durable.
pub fn intact(world: &World, node: &Node) {
    let failures = node.counter("pageserver_checksum_failures_total");
    if failures != 0 {
        world.fail(format!(
            "{}: {failures} verifications failed, though no disk damages what was synced",
            node.name
        ));
    }
}

/// Paths of the layers that a node has on disk. One that is being evicted when the power goes may be
/// gone already.
pub fn resident(node: &Node) -> BTreeSet<String> {
    let files = node.disk.files();
    let timelines = node.timelines();
    let maps = timelines.iter().map(|t| t.layers());
    maps.flat_map(|map| {
        let resident = map.files().filter(|l| l.is_resident());
        resident.map(|l| l.local_path()).collect::<Vec<_>>()
    })
    .filter(|path| files.contains_key(path))
    .collect()
}

/// After a power cut, the layers that were on disk are there, as far as they still count.
pub fn cache_survived(world: &World, node: &Node, before: &BTreeSet<String>) {
    let lost = node.disk.lost_directories();
    for t in node.timelines() {
        for layer in t.layers().files() {
            let path = layer.local_path();
            let gone = lost.iter().any(|l| path.starts_with(l.as_str()));
            if before.contains(&path) && !layer.is_resident() && !gone {
                world.fail(format!("{}: {path} did not survive a power cut", node.name));
            }
        }
    }
}

fn bucket_is_tidy(world: &World) {
    let lives: BTreeMap<TimelineId, Life> = {
        let oracle = world.oracle.lock();
        oracle
            .branches
            .iter()
            .map(|(id, b)| (*id, b.life))
            .collect()
    };
    let mut needed: BTreeMap<TimelineId, BTreeSet<String>> = BTreeMap::new();
    for key in world.store.keys() {
        if key.ends_with("/standalone.json") {
            continue;
        }
        let Some((tenant, id)) = path_ids(&key) else {
            world.fail(format!("unknown object {key}"));
            continue;
        };
        let life = lives.get(&id).copied();
        let fine = match life {
            Some(Life::Doomed) => true,
            Some(Life::Live) => needed
                .entry(id)
                .or_insert_with(|| needed_objects(world, tenant, id))
                .contains(&key),
            _ => false,
        };
        if !fine {
            world.fail(format!("left over in the bucket: {key} ({life:?})"));
        }
    }
}

/// A timeline's newest index and the layers that it names.
fn needed_objects(world: &World, tenant: TenantShardId, id: TimelineId) -> BTreeSet<String> {
    let Some((index, content)) = world.store.newest_index(&tenant, &id) else {
        return BTreeSet::new();
    };
    let layers = content.layer_metadata.iter();
    let layers = layers.map(|(name, entry)| path::layer(&tenant.tenant, &id, name, entry));
    layers.chain([index]).collect()
}
