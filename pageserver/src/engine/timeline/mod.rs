//! A timeline: one branch of one tenant, readable at every LSN of its history.
//!
//! The way of a read is [`read`] → layer map → layers → redo; the way of a write is [`write`] →
//! in-memory layer → [`flush`] → delta layer → [`upload`] → bucket. All positions only grow while
//! a timeline is loaded: `remote_consistent ≤ disk_consistent ≤ last_record`.

mod adopt;
pub mod catalog;
mod chains;
mod cluster;
pub mod compaction;
mod flush;
mod gc;
pub mod import;
mod leftovers;
mod marks;
mod read;
mod residence;
mod retention;
pub mod scrub;
mod size;
mod time;
mod upload;
mod write;

pub use adopt::Lineages;
pub use cluster::Cluster;
pub use gc::{Collected, Horizon};
pub use marks::Marks;
pub use read::Stats as ReadStats;
pub use retention::{Held, Pin, Retention};
pub use size::SizeCache;
pub use time::LsnForTimestamp;
pub use upload::Remote;

use super::error::{Error, Result};
use super::jobs::{Kind as Work, Queued};
use super::layer::Layer;
use super::layer_map::LayerMap;
use super::shared::Shared;
use arc_swap::{ArcSwap, ArcSwapOption};
use layer_format::index_part::{IndexPart, RelSizeMigration, Vanilla};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{Generation, Lsn, PgMajor, TenantShardId, TimelineId};

/// End of the newest record and of the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Reads at or below are answerable.
    pub last: Lsn,
    /// Value of `last` before it; invalid if unknown.
    pub prev: Lsn,
}

/// An LSN that only grows.
#[derive(Debug, Default)]
pub struct Watermark(AtomicU64);

impl Watermark {
    /// Starts at `lsn`.
    pub fn new(lsn: Lsn) -> Self {
        Watermark(AtomicU64::new(lsn.0))
    }
    /// The current value.
    pub fn get(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Acquire))
    }
    /// Raises it; lower values change nothing.
    pub fn raise(&self, lsn: Lsn) {
        self.0.fetch_max(lsn.0, Ordering::AcqRel);
    }
    /// Starts anew.
    fn reset(&self, lsn: Lsn) {
        self.0.store(lsn.0, Ordering::Release);
    }
}

/// Whether a timeline can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Being filled by an import; not readable.
    Importing,
    /// Readable.
    Active,
    /// Unusable, and why.
    Broken(String),
    /// On its way out.
    Stopping,
}

/// What the WAL receiver of a timeline last saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReceiverStatus {
    /// Connection string without its password.
    pub connstr: Option<String>,
    /// End of the newest WAL received.
    pub last_received_lsn: Lsn,
    /// Wall-clock time of the newest message, microseconds since 1970.
    pub last_received_us: u64,
    /// One line for error messages.
    pub text: String,
}

/// What a timeline starts from.
#[derive(Debug)]
pub struct Parts {
    /// Its tenant.
    pub tenant: TenantShardId,
    /// Its id.
    pub id: TimelineId,
    /// Version of its Postgres.
    pub version: PgMajor,
    /// Ancestor and branch point.
    pub ancestor: Option<(Arc<Timeline>, Lsn)>,
    /// Generation of this attachment.
    pub generation: Generation,
    /// The index as it stands in the bucket, or what the first one is made from.
    pub index: IndexPart,
    /// Layers that the index names.
    pub layers: Vec<Arc<Layer>>,
    /// Initial state.
    pub state: State,
}

/// One branch of one tenant.
pub struct Timeline {
    /// Its tenant.
    pub tenant: TenantShardId,
    /// Its id.
    pub id: TimelineId,
    /// Version of its Postgres.
    pub version: PgMajor,
    /// Generation of this attachment.
    pub generation: Generation,
    /// Receiver status for readers.
    pub receiver: Mutex<ReceiverStatus>,
    /// Cancelled when the timeline stops.
    pub cancel: CancellationToken,
    this: Weak<Timeline>,
    shared: Arc<Shared>,
    /// Ancestor and branch point.
    origin: ArcSwapOption<(Arc<Timeline>, Lsn)>,
    map: ArcSwap<LayerMap>,
    map_update: Mutex<()>,
    position: watch::Sender<Position>,
    state: watch::Sender<State>,
    remote_consistent: watch::Sender<Lsn>,
    retention: Arc<Retention>,
    initdb_lsn: Watermark,
    writer: tokio::sync::Mutex<write::Writer>,
    flushing: tokio::sync::Mutex<()>,
    /// Background work that is queued.
    pub(in crate::engine) queued: Queued,
    index_dirty: AtomicBool,
    /// Set before the layers in memory are dropped.
    stopped: AtomicBool,
    remote: tokio::sync::Mutex<Remote>,
    vanilla: Mutex<Option<Vanilla>>,
    marks: Mutex<Marks>,
    cluster: std::sync::OnceLock<Cluster>,
    sizes: SizeCache,
    size_delta: AtomicI64,
    /// Exact size minus `size_delta` at the same moment.
    logical_size: Mutex<Option<i64>>,
    /// From this LSN on relations are listed by one key each.
    sparse_relations_from: Option<Lsn>,
    /// Held by whoever changes the set of layers other than by flushing.
    compacting: tokio::sync::Mutex<()>,
    /// Woken when compaction changed the set of layers.
    compacted: tokio::sync::Notify,
    /// Compaction may find something to do.
    unsettled: AtomicBool,
    /// History has gone since compaction last looked for images of what exists no more.
    look_for_waste: AtomicBool,
    compaction_failing: AtomicBool,
    /// Chains in L0 layers that begin at or below were not counted by this process.
    loaded_at: Lsn,
    /// Monotonic times of loading and, in microseconds, of the last looks.
    loaded: Duration,
    last_gc_us: AtomicU64,
    /// When a position without data was first seen that the bucket does not know; 0 if none.
    unsaved_since_us: AtomicU64,
    last_compaction_us: AtomicU64,
    /// Layers out of the map that an index in the bucket may still name.
    retired: Mutex<Vec<Arc<Layer>>>,
    /// Layers that no index names any more.
    condemned: Mutex<Vec<Arc<Layer>>>,
    /// Layers made from an ancestor's, not yet in the map.
    made: Mutex<Vec<Arc<Layer>>>,
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timeline({}/{})", self.tenant, self.id)
    }
}

impl Timeline {
    /// Puts a timeline together. `last_record_lsn` starts at the index's disk-consistent LSN.
    pub fn new(shared: Arc<Shared>, parts: Parts) -> Arc<Timeline> {
        let meta = &parts.index.metadata;
        let disk = Position {
            last: meta.disk_consistent_lsn,
            prev: meta.prev_record_lsn.unwrap_or(Lsn::INVALID),
        };
        let (gc_cutoff, initdb_lsn) = (meta.latest_gc_cutoff_lsn, meta.initdb_lsn);
        // Below its branch point a branch has nothing of its own: that history is the ancestor's,
        // who collects it without asking.
        let readable_from = gc_cutoff.max(parts.ancestor.as_ref().map_or(Lsn::INVALID, |a| a.1));
        let vanilla = parts.index.vanilla.clone();
        let marks = Marks::of(&parts.index);
        if marks.gc_blocking.is_some() {
            shared.collection.set_blocked(parts.id, true);
        }
        let now = shared.env.clock.monotonic();
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let migrated = parts.index.rel_size_migration == Some(RelSizeMigration::Migrated);
        let sparse_relations_from =
            migrated.then(|| parts.index.rel_size_migrated_at.unwrap_or(Lsn::INVALID));
        Arc::new_cyclic(|this| Timeline {
            this: Weak::clone(this),
            tenant: parts.tenant,
            id: parts.id,
            version: parts.version,
            generation: parts.generation,
            receiver: Mutex::default(),
            cancel: shared.cancel.child_token(),
            origin: ArcSwapOption::new(parts.ancestor.map(Arc::new)),
            map: ArcSwap::from_pointee(LayerMap::new(parts.layers, disk)),
            map_update: Mutex::new(()),
            position: watch::channel(disk).0,
            state: watch::channel(parts.state).0,
            remote_consistent: watch::channel(disk.last).0,
            retention: Arc::new(Retention::new(readable_from)),
            initdb_lsn: Watermark::new(initdb_lsn),
            writer: tokio::sync::Mutex::default(),
            flushing: tokio::sync::Mutex::new(()),
            queued: Queued::default(),
            index_dirty: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            remote: tokio::sync::Mutex::new(Remote::new(parts.index)),
            vanilla: Mutex::new(vanilla),
            marks: Mutex::new(marks),
            cluster: std::sync::OnceLock::new(),
            sizes: SizeCache::default(),
            size_delta: AtomicI64::new(0),
            logical_size: Mutex::new(None),
            sparse_relations_from,
            compacting: tokio::sync::Mutex::new(()),
            compacted: tokio::sync::Notify::new(),
            unsettled: AtomicBool::new(true),
            look_for_waste: AtomicBool::new(false),
            compaction_failing: AtomicBool::new(false),
            loaded_at: disk.last,
            loaded: now,
            last_gc_us: AtomicU64::new(now_us),
            unsaved_since_us: AtomicU64::new(0),
            last_compaction_us: AtomicU64::new(now_us),
            retired: Mutex::default(),
            condemned: Mutex::default(),
            made: Mutex::default(),
            shared,
        })
    }

    /// End of the newest record and of the one before.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// End of the newest record: reads at or below it are answerable.
    pub fn last_record_lsn(&self) -> Lsn {
        self.position().last
    }

    /// Everything at or below is in layer files on local disk.
    pub fn disk_consistent_lsn(&self) -> Lsn {
        self.map.load().disk().last
    }

    /// Everything at or below survives the loss of this machine.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        *self.remote_consistent.borrow()
    }

    /// Everything at or below survives the loss of this machine, what is inherited included: a
    /// branch is no more durable than its ancestors are up to the branch point.
    pub fn durable_lsn(&self) -> Lsn {
        let mut lsn = self.remote_consistent_lsn();
        let mut next = self.ancestor();
        while let Some((ancestor, branch_point)) = next {
            let durable = ancestor.remote_consistent_lsn();
            if durable < branch_point {
                lsn = lsn.min(durable);
            }
            next = ancestor.ancestor();
        }
        lsn
    }

    /// A channel that follows [`Timeline::remote_consistent_lsn`].
    pub fn watch_remote_consistent(&self) -> watch::Receiver<Lsn> {
        self.remote_consistent.subscribe()
    }

    /// LSN of the initial contents.
    pub fn initdb_lsn(&self) -> Lsn {
        self.initdb_lsn.get()
    }

    /// A snapshot of the layer map.
    pub fn layers(&self) -> Arc<LayerMap> {
        self.map.load_full()
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Changes the state; a stopping timeline stays so.
    pub fn set_state(&self, state: State) {
        self.state.send_if_modified(|s| {
            let change = *s != State::Stopping && *s != state;
            if change {
                *s = state;
            }
            change
        });
    }

    /// The outside world and the engine-wide limits.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What is known of the Postgres that this timeline follows or was imported from.
    pub fn vanilla(&self) -> Option<Vanilla> {
        self.vanilla.lock().clone()
    }

    /// Changes it; the change reaches the bucket with the next index.
    pub fn update_vanilla(&self, change: impl FnOnce(&mut Option<Vanilla>)) {
        change(&mut self.vanilla.lock());
        self.mark_index();
    }

    /// Segment size of the WAL this timeline follows, in bytes.
    pub fn wal_segment_size(&self) -> u64 {
        self.vanilla
            .lock()
            .as_ref()
            .map_or(16 << 20, |v| u64::from(v.wal_segment_size))
    }

    /// Returns once the timeline is of no more use: it stops, or another daemon has taken it.
    pub async fn ended(&self) {
        let mut state = self.state.subscribe();
        // Fails only when the timeline is gone altogether.
        let _ = state
            .wait_for(|s| matches!(s, State::Stopping | State::Broken(_)))
            .await;
    }

    /// Fails unless the timeline is readable.
    pub fn check_active(&self) -> Result<()> {
        match &*self.state.borrow() {
            State::Active => Ok(()),
            State::Stopping => Err(Error::Shutdown),
            State::Importing => Err(Error::Precondition(format!(
                "timeline {}/{} is still being imported",
                self.tenant, self.id
            ))),
            State::Broken(why) => Err(Error::Internal(format!(
                "timeline {}/{} is broken: {why}",
                self.tenant, self.id
            ))),
        }
    }

    /// Waits until everything up to `lsn` was ingested.
    ///
    /// # Errors
    /// [`Error::LsnTimeout`] after `limit`; [`Error::Shutdown`] when the timeline stops.
    pub async fn wait_lsn(&self, lsn: Lsn, limit: Duration) -> Result<()> {
        if self.last_record_lsn() >= lsn {
            return Ok(());
        }
        let mut position = self.position.subscribe();
        let reached = position.wait_for(|p| p.last >= lsn);
        tokio::select! {
            biased;
            r = tokio::time::timeout(limit, reached) => match r {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(Error::Shutdown),
                Err(_) => Err(Error::LsnTimeout {
                    wanted: lsn,
                    last: self.last_record_lsn(),
                    disk: self.disk_consistent_lsn(),
                    receiver: self.receiver.lock().text.clone(),
                }),
            },
            () = self.cancel.cancelled() => Err(Error::Shutdown),
        }
    }

    /// Queues background work, unless it is queued already.
    pub(in crate::engine) fn request(&self, work: Work) {
        if self.queued.set(work)
            && let Some(me) = self.this.upgrade()
        {
            self.shared.jobs.push(work, me);
        }
    }

    /// Has the timer look at this timeline by a monotonic time.
    fn look_by(&self, due: Duration) {
        self.shared.timers.look_by(self.tenant, self.id, due);
    }

    /// Has it looked at as soon as possible.
    fn look_soon(&self) {
        self.look_by(Duration::ZERO);
    }

    /// The index in the bucket is not what it should be.
    fn mark_index(&self) {
        self.index_dirty.store(true, Ordering::Release);
        self.look_soon();
    }

    fn update_map(&self, change: impl FnOnce(&LayerMap) -> LayerMap) {
        let _one_at_a_time = self.map_update.lock();
        let next = change(&self.map.load());
        self.map.store(Arc::new(next));
    }

    /// Directory of the timeline's files, relative to the working directory.
    pub fn directory(&self) -> String {
        format!("tenants/{}/timelines/{}", self.tenant, self.id)
    }
}
