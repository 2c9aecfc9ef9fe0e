//! A small site for tests that tell a history of their own: one tenant, one imported timeline, nodes
//! one after the other or at once.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

use crate::bucket::Store;
use crate::disk::SimDisk;
use crate::node::{ENOUGH, Machine, Node, Settings};
use crate::oracle::{Life, Oracle, word_page};
use crate::power::Power;
use crate::random::Random;
use crate::run::import;
use crate::trace::Trace;
use layer_format::path;
use pageserver::engine::timeline::scrub;
use pageserver::engine::{Branch, Timeline};
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::time::Instant;
use types::{TenantId, TenantShardId, TimelineId};

/// The only tenant.
pub const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
/// The imported timeline.
pub const ROOT: TimelineId = TimelineId([1; 16]);
/// Id for a branch.
pub const CHILD: TimelineId = TimelineId([2; 16]);
/// Id for another.
pub const GRANDCHILD: TimelineId = TimelineId([3; 16]);

/// Layers in the bucket, as fast as they can be read, and what is left over there.
pub const SCRUB_BUCKET: scrub::Options = scrub::Options {
    local: false,
    bucket: true,
    rate: u64::MAX,
};

/// Nodes one after the other, or at once, on one bucket.
pub struct Site {
    /// The bucket.
    pub store: Store,
    /// What happened.
    pub trace: Trace,
    /// What is right.
    pub oracle: Oracle,
    /// Makes up WAL.
    pub wal: Random,
    /// Settings of tenants on the nodes to come.
    pub settings: Map<String, Value>,
    starts: u32,
    began: Instant,
}

impl Site {
    /// A site with one imported timeline, and its first node.
    pub async fn new() -> (Site, Node) {
        let mut site = Site {
            store: Store::default(),
            trace: Trace::new(false),
            oracle: Oracle::default(),
            wal: Random::new(1, "wal"),
            settings: Map::new(),
            starts: 0,
            began: Instant::now(),
        };
        let node = site.start(None);
        let created = node.engine.create_tenant(TENANT, Map::new(), None).await;
        import(&created.unwrap(), ROOT).await.unwrap();
        site.oracle.import(TENANT, ROOT);
        (site, node)
    }

    /// A node on a disk, or on an empty one; nothing is loaded yet.
    pub fn start(&mut self, disk: Option<&SimDisk>) -> Node {
        self.starts += 1;
        let name = format!("n{}", self.starts);
        let power: Arc<Power> = Arc::default();
        let random = Random::new(u64::from(self.starts), "disk");
        let disk = match disk {
            Some(d) => d.after_restart(&name, Arc::clone(&power), random),
            None => SimDisk::new(&name, Arc::clone(&power), self.trace.clone(), random),
        };
        let settings = Settings {
            memory_budget: 64 << 20,
            tenants: self.settings.clone(),
        };
        let machine = Machine { name, power, disk };
        Node::start(machine, &self.store, &self.trace, &settings, self.began, 1)
    }

    /// The next node, with everything loaded that it can load.
    pub async fn next(&mut self) -> Node {
        let node = self.start(None);
        load_all(&node).await;
        node
    }

    /// WAL for a timeline, up to a number of bytes behind where it stands.
    pub async fn write(&mut self, timeline: &Timeline, bytes: u64) {
        let end = timeline.last_record_lsn().saturating_add(bytes);
        while timeline.last_record_lsn() < end {
            let at = timeline.last_record_lsn();
            let batch = self.oracle.batch(timeline.id, at, 1, true, &mut self.wal);
            timeline.write(batch.unwrap()).await.unwrap();
        }
    }

    /// A page of a timeline at its newest record is right.
    pub async fn check_newest(&self, timeline: &Timeline) {
        let at = timeline.last_record_lsn();
        let want = self.oracle.get(timeline.id, word_page(0), at).unwrap();
        let got = timeline.get(word_page(0), at).await.unwrap();
        assert_eq!(got, want.bytes(), "timeline {} at {at}", timeline.id);
    }

    /// A branch at the newest LSN, also known to the oracle.
    pub async fn branch(
        &mut self,
        node: &Node,
        id: TimelineId,
        ancestor: TimelineId,
    ) -> Arc<Timeline> {
        let tenant = node.engine.tenant(TENANT).unwrap();
        let branch = tenant.branch(newest(id, ancestor)).await.unwrap();
        let life = Life::Live;
        self.oracle
            .branch(id, ancestor, branch.ancestor_lsn(), life);
        branch
    }

    /// Keys of a timeline's objects.
    pub fn objects_of(&self, timeline: TimelineId) -> Vec<String> {
        let prefix = path::timeline(&TENANT, &timeline);
        let keys = self.store.keys().into_iter();
        keys.filter(|k| k.starts_with(&prefix)).collect()
    }
}

/// A branch at the ancestor's newest LSN.
pub fn newest(id: TimelineId, ancestor: TimelineId) -> Branch {
    Branch {
        id,
        ancestor,
        at: None,
    }
}

/// A timeline that is loaded.
pub fn timeline(node: &Node, id: TimelineId) -> Arc<Timeline> {
    node.timeline(TENANT, id).unwrap()
}

/// Runs a test on one thread with virtual time.
pub fn simulated(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

/// Loads all tenants that can be loaded, of which nothing is unfinished.
pub async fn load_all(node: &Node) {
    let unfinished = node.load(ENOUGH).await.unwrap();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}
