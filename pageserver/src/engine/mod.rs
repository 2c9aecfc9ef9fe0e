//! The storage engine: tenants, their timelines, layers, and the work in the background.
//!
//! The engine knows no network and no ambient clock, randomness or disk: those are handed in as
//! [`env::Env`]. Its truth is the bucket; everything on local disk can be lost.

pub mod arrivals;
pub mod config;
mod damage;
pub mod disk;
pub mod env;
pub mod error;
pub mod generation;
pub mod jobs;
pub mod layer;
pub mod layer_map;
pub mod memory;
pub mod metrics;
pub mod open_layers;
pub mod redo_program;
pub mod scrubber;
pub mod shared;
pub mod synthetic_size;
pub mod tenant;
pub mod timeline;
pub mod timers;

pub use env::Env;
pub use error::{Error, ErrorKind, Result};
pub use tenant::{Branch, Detach, Levels, Tenant};
pub use timeline::{LsnForTimestamp, State, Timeline};

use arc_swap::ArcSwap;
use arrivals::{Arrivals, Arrived};
use config::TenantConf;
use generation::{Lease, Record};
use jobs::{Jobs, Runner, Turns};
use layer_format::index_part::IndexPart;
use metrics::Metrics;
use open_layers::OpenLayers;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use shared::{Budget, Collection, Shared};
use std::collections::BTreeMap;
use std::sync::Arc;
use timeline::Lineages;
use timers::Timers;
use tokio_util::sync::CancellationToken;
use tracing::info;
use types::{TenantShardId, TimelineId};

/// Default limit of unflushed data in memory, over all tenants, in bytes.
pub const DEFAULT_MEMORY_BUDGET: usize = 1 << 30;

/// A timeline whose creation or deletion was interrupted, found while loading.
#[derive(Debug)]
pub struct Unfinished {
    /// Its tenant.
    pub tenant: Arc<Tenant>,
    /// Its id.
    pub timeline: TimelineId,
    /// Its newest index.
    pub index: IndexPart,
}

/// All tenants of one daemon.
#[derive(Debug)]
pub struct Engine {
    env: Env,
    budget: Arc<Budget>,
    open_layers: Arc<OpenLayers>,
    jobs: Jobs,
    timers: Arc<Timers>,
    metrics: Arc<Metrics>,
    redo: Arc<redo_program::Fallback>,
    defaults: Map<String, Value>,
    cancel: CancellationToken,
    tenants: RwLock<BTreeMap<TenantShardId, Arc<Tenant>>>,
    arrivals: Arrivals,
}

impl Engine {
    /// An engine without tenants, and the runner of its background work. `defaults` are settings
    /// of tenants that do not override them.
    pub fn new(
        env: Env,
        memory_budget: usize,
        metrics: Arc<Metrics>,
        defaults: Map<String, Value>,
    ) -> (Arc<Engine>, Runner) {
        let budget = Arc::new(Budget::new(memory_budget));
        let (jobs, runner) = Jobs::new(Arc::clone(&env.clock), Arc::clone(&budget));
        let engine = Engine {
            env,
            budget,
            open_layers: OpenLayers::new(open_layers::DEFAULT_BYTES, open_layers::DEFAULT_FILES),
            jobs,
            timers: Arc::default(),
            metrics,
            redo: Arc::default(),
            defaults,
            cancel: CancellationToken::new(),
            tenants: RwLock::default(),
            arrivals: Arrivals::default(),
        };
        (Arc::new(engine), runner)
    }

    /// The outside world.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Open layer files.
    pub fn open_layers(&self) -> &Arc<OpenLayers> {
        &self.open_layers
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What replays records that native redo cannot.
    pub fn redo(&self) -> &redo_program::Fallback {
        &self.redo
    }

    /// When each timeline is looked at next.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Cancelled when the engine stops.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Bytes of unflushed data in memory.
    pub fn unflushed(&self) -> usize {
        self.budget.used()
    }

    fn shared(&self, conf: TenantConf, lease: Lease) -> Arc<Shared> {
        Arc::new(Shared {
            env: self.env.clone(),
            conf: ArcSwap::from_pointee(conf),
            budget: Arc::clone(&self.budget),
            open_layers: Arc::clone(&self.open_layers),
            lease: Some(Arc::new(lease)),
            collection: Collection::default(),
            lineages: Lineages::default(),
            jobs: self.jobs.clone(),
            timers: Arc::clone(&self.timers),
            turns: Turns::default(),
            metrics: Arc::clone(&self.metrics),
            redo: Arc::clone(&self.redo),
            cancel: self.cancel.child_token(),
        })
    }

    async fn list_tenants(&self) -> Result<Vec<TenantShardId>> {
        let listing = self.env.bucket.list("tenants/", true).await?;
        let name = |prefix: &String| {
            let name = prefix.trim_end_matches('/').rsplit('/').next();
            name.unwrap_or_default().to_owned()
        };
        let names = listing.prefixes.iter().map(name);
        Ok(names.filter_map(|n| n.parse().ok()).collect())
    }

    /// Loads a tenant; `None` if it was not created by a daemon without a control plane.
    async fn attach(&self, id: TenantShardId) -> Result<Option<Arrived>> {
        let Some((lease, record)) = Lease::attach(&self.env, id).await? else {
            info!(tenant = %id, "in the bucket but not created by a daemon without a control plane; left alone");
            return Ok(None);
        };
        let tenant = self.assemble(id, lease, record)?;
        let found = tenant.load().await?;
        let unfinished = |(timeline, index)| Unfinished {
            tenant: Arc::clone(&tenant),
            timeline,
            index,
        };
        let unfinished = found.into_iter().map(unfinished).collect();
        self.insert(&tenant);
        Ok(Some(Arrived { tenant, unfinished }))
    }

    fn assemble(&self, id: TenantShardId, lease: Lease, record: Record) -> Result<Arc<Tenant>> {
        let conf = TenantConf::new(&self.defaults, &record.tenant_conf)
            .map_err(|e| Error::BadRequest(e.to_string()))?;
        let generation = lease.generation();
        let shared = self.shared(conf, lease);
        Ok(Tenant::assemble(id, generation, record, shared))
    }

    fn insert(&self, tenant: &Arc<Tenant>) {
        let mut tenants = self.tenants.write();
        tenants.insert(tenant.id, Arc::clone(tenant));
        self.metrics.tenants.set(tenants.len() as i64);
    }

    /// Creates a tenant.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it exists; [`Error::BadRequest`] for unknown or unusable settings.
    pub async fn create_tenant(
        &self,
        id: TenantShardId,
        conf: Map<String, Value>,
        name: Option<String>,
    ) -> Result<Arc<Tenant>> {
        TenantConf::new(&self.defaults, &conf).map_err(|e| Error::BadRequest(e.to_string()))?;
        let (lease, record) = Lease::create(&self.env, id, conf, name).await?;
        let tenant = self.assemble(id, lease, record)?;
        self.insert(&tenant);
        Ok(tenant)
    }

    /// A tenant by id, if it is loaded; see [`Engine::open`].
    pub fn tenant(&self, id: TenantShardId) -> Result<Arc<Tenant>> {
        self.tenants
            .read()
            .get(&id)
            .cloned()
            .ok_or(Error::TenantNotFound(id))
    }

    /// All loaded tenants, by id.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().values().cloned().collect()
    }

    /// A timeline by its ids, of a tenant that is loaded.
    pub fn timeline(&self, tenant: TenantShardId, timeline: TimelineId) -> Result<Arc<Timeline>> {
        self.tenant(tenant)?.timeline(timeline)
    }

    /// Deletes a tenant with all its timelines, from the bucket and from disk.
    pub async fn delete_tenant(&self, id: TenantShardId) -> Result<()> {
        let tenant = self.open(id).await?;
        tenant.stop(false).await;
        let prefix = format!("{}/", layer_format::path::tenant(&id));
        let keys: Vec<String> = self
            .env
            .bucket
            .list(&prefix, false)
            .await?
            .objects
            .into_iter()
            .map(|o| o.key)
            .collect();
        // The record goes last: as long as it is there, the tenant is found again and the
        // deletion can be repeated.
        let record = generation::standalone(&id);
        let rest: Vec<String> = keys.into_iter().filter(|k| *k != record).collect();
        self.env.bucket.delete(&rest).await?;
        self.env.bucket.delete(&[record]).await?;
        self.env.disk.remove_dir_all(&format!("tenants/{id}"))?;
        let mut tenants = self.tenants.write();
        tenants.remove(&id);
        self.metrics.tenants.set(tenants.len() as i64);
        Ok(())
    }

    /// Flushes and uploads everything, then stops.
    pub async fn shutdown(&self) {
        for tenant in self.tenants() {
            tenant.stop(true).await;
        }
        self.cancel.cancel();
    }
}
