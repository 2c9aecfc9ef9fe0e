//! Tenants that the bucket knows and that are not loaded yet. Each is loaded when somebody asks for
//! it, and in the background otherwise; one that cannot be loaded now is tried again.

use super::error::{Error, Result};
use super::tenant::Tenant;
use super::{Engine, Unfinished};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use types::TenantShardId;

/// Tenants that are loaded at once in the background. Each waits for the bucket most of the time, whose own
/// limit of requests holds as well.
pub const AT_ONCE: usize = 64;
/// Pause before those that failed are tried again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between tries.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A tenant that is not loaded yet.
#[derive(Debug, Default)]
struct Arrival {
    /// Held by whoever loads it.
    loading: tokio::sync::Mutex<()>,
    /// Why the newest try failed.
    failure: Mutex<Option<String>>,
}

/// A tenant that was loaded.
#[derive(Debug)]
pub struct Arrived {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// Its timelines whose creation or deletion was interrupted.
    pub unfinished: Vec<Unfinished>,
}

/// A tenant that waits to be loaded, and why the newest try failed if there was one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its id.
    pub id: TenantShardId,
    /// Text of the error.
    pub failure: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Arrivals {
    waiting: Mutex<BTreeMap<TenantShardId, Arc<Arrival>>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Arrived>>>,
}

impl Arrivals {
    fn get(&self, id: TenantShardId) -> Option<Arc<Arrival>> {
        self.waiting.lock().get(&id).cloned()
    }

    fn tell(&self, arrived: Arrived) {
        if let Some(listener) = &*self.listener.lock() {
            // Nobody listens any more during shutdown.
            let _ = listener.send(arrived);
        }
    }
}

impl Engine {
    /// Lists the tenants that the bucket knows, to be loaded later. Returns how many there are.
    ///
    /// # Errors
    /// Those of listing the bucket.
    pub async fn discover(&self) -> Result<usize> {
        let found = self.list_tenants().await?;
        let mut waiting = self.arrivals.waiting.lock();
        for id in &found {
            waiting.entry(*id).or_default();
        }
        Ok(found.len())
    }

    /// Who is told of each tenant that was loaded by [`Engine::open`].
    pub fn watch_arrivals(&self) -> mpsc::UnboundedReceiver<Arrived> {
        let (tx, rx) = mpsc::unbounded_channel();
        *self.arrivals.listener.lock() = Some(tx);
        rx
    }

    /// Tenants that are not loaded yet, by id.
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.arrivals.waiting.lock();
        let entry = |(id, arrival): (&TenantShardId, &Arc<Arrival>)| Waiting {
            id: *id,
            failure: arrival.failure.lock().clone(),
        };
        waiting.iter().map(entry).collect()
    }

    /// True if there is such a tenant, loaded or not.
    pub fn knows(&self, id: TenantShardId) -> bool {
        self.tenant(id).is_ok() || self.arrivals.get(id).is_some()
    }

    /// A tenant by id, loaded first if it is not yet. Those who ask at the same time wait for the
    /// same load.
    ///
    /// # Errors
    /// [`Error::TenantNotFound`]; those of loading, in which case the next call tries again.
    pub async fn open(&self, id: TenantShardId) -> Result<Arc<Tenant>> {
        if let Ok(tenant) = self.tenant(id) {
            return Ok(tenant);
        }
        let arrival = self.arrivals.get(id).ok_or(Error::TenantNotFound(id))?;
        let _loading = arrival.loading.lock().await;
        if let Ok(tenant) = self.tenant(id) {
            return Ok(tenant);
        }
        if self.cancel.is_cancelled() {
            return Err(Error::Shutdown);
        }
        let arrived = match self.attach(id).await {
            Ok(arrived) => arrived,
            Err(e) => {
                *arrival.failure.lock() = Some(e.to_string());
                return Err(e);
            }
        };
        self.arrivals.waiting.lock().remove(&id);
        let arrived = arrived.ok_or(Error::TenantNotFound(id))?;
        let tenant = Arc::clone(&arrived.tenant);
        self.arrivals.tell(arrived);
        Ok(tenant)
    }

    /// Loads all tenants that wait, [`AT_ONCE`] at a time, until none is left or it is cancelled.
    pub async fn load_waiting(&self, cancel: &CancellationToken) {
        let started = self.env.clock.monotonic();
        let mut pause = FIRST_PAUSE;
        loop {
            let waiting = self.waiting();
            if waiting.is_empty() || cancel.is_cancelled() {
                break;
            }
            let loads = futures::stream::iter(waiting).map(|w| async move {
                match self.open(w.id).await {
                    Ok(_) | Err(Error::TenantNotFound(_) | Error::Shutdown) => {}
                    Err(e) => warn!(tenant = %w.id, "cannot be loaded, tried again within {MAX_PAUSE:?}: {e}"),
                }
            });
            let all = loads.buffer_unordered(AT_ONCE).collect::<()>();
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = all => {}
            }
            if self.waiting().is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
        let took = self.env.clock.monotonic().saturating_sub(started);
        info!(tenants = self.tenants().len(), ?took, "tenants loaded");
    }
}
