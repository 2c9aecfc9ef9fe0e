//! What all timelines of an engine share: the outside world, limits, background work, counters.

use super::config::TenantConf;
use super::env::Env;
use super::error::{Error, Result};
use super::generation::Lease;
use super::jobs::{Jobs, Turns};
use super::metrics::Metrics;
use super::open_layers::OpenLayers;
use super::redo_program::Fallback;
use super::timeline::Lineages;
use super::timers::Timers;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Notify, RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;
use types::TimelineId;

/// Unflushed bytes in memory, over all timelines.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    shrunk: Notify,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Budget {
            limit,
            used: AtomicUsize::new(0),
            shrunk: Notify::new(),
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// True when flushing should start before the limit is reached.
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Waits until there is room for another batch.
    pub async fn admit(&self, cancel: &CancellationToken) -> Result<()> {
        loop {
            let mut woken = std::pin::pin!(self.shrunk.notified());
            woken.as_mut().enable();
            if self.used() < self.limit {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Shutdown),
                () = woken => {}
            }
        }
    }

    /// Counts bytes that were added.
    pub fn grow(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts bytes that were flushed.
    pub fn shrink(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.shrunk.notify_waiters();
    }
}

/// Whether garbage may be collected in a tenant. One timeline that blocks it stops it for all.
#[derive(Debug, Default)]
pub struct Collection {
    blocked: Mutex<BTreeSet<TimelineId>>,
    running: RwLock<()>,
}

impl Collection {
    /// Says whether a timeline blocks collection.
    pub fn set_blocked(&self, timeline: TimelineId, blocked: bool) {
        let mut all = self.blocked.lock();
        if blocked {
            all.insert(timeline);
        } else {
            all.remove(&timeline);
        }
    }

    /// Timelines that block it.
    pub fn blocked(&self) -> Vec<TimelineId> {
        self.blocked.lock().iter().copied().collect()
    }

    /// The right to collect until the guard is dropped; `None` if collection is blocked.
    pub async fn begin(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let guard = self.running.read().await;
        self.blocked.lock().is_empty().then_some(guard)
    }

    /// Waits for collections that began before it was blocked.
    pub async fn quiesce(&self) {
        drop(self.running.write().await);
    }
}

/// What all timelines of a tenant shard share.
#[derive(Debug)]
pub struct Shared {
    /// The outside world.
    pub env: Env,
    /// The tenant's settings.
    pub conf: ArcSwap<TenantConf>,
    /// Memory for unflushed data.
    pub budget: std::sync::Arc<Budget>,
    /// Open layer files of all tenants.
    pub open_layers: std::sync::Arc<OpenLayers>,
    /// The right to write this tenant; `None` when a control plane issues generations.
    pub lease: Option<std::sync::Arc<Lease>>,
    /// Whether garbage may be collected.
    pub collection: Collection,
    /// Changes of ancestors.
    pub lineages: Lineages,
    /// Background work.
    pub jobs: Jobs,
    /// When each timeline is looked at next.
    pub timers: std::sync::Arc<Timers>,
    /// The tenant's turns at background work.
    pub turns: Turns,
    /// Counters.
    pub metrics: std::sync::Arc<Metrics>,
    /// What replays records that native redo cannot.
    pub redo: std::sync::Arc<Fallback>,
    /// Cancelled when the tenant stops.
    pub cancel: CancellationToken,
}
