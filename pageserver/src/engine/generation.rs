//! Generations without a control plane: a small object in the bucket, changed only by conditional
//! writes, says who may write a tenant. Whoever attaches takes the next number.
//!
//! A daemon that was superseded writes under names that its successor never reads, and finds out
//! the next time it wants to acknowledge a position: [`Lease::validate`].

use super::env::Env;
use super::error::{Error, Result};
use bucket::{Body, PutMode};
use bytes::Bytes;
use layer_format::path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{Generation, TenantShardId, TimelineId};

/// Tries before a contended attach gives up.
const ATTACH_TRIES: u32 = 8;

/// Most deleted timelines that a tenant's record remembers.
pub const MAX_BURIED: usize = 1000;

/// Content of the object. Unknown members are kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Format version, 1.
    version: u32,
    /// Newest generation issued.
    pub generation: u32,
    /// Made up by whoever took the generation: tells a lost answer from a lost race.
    #[serde(default)]
    holder: String,
    /// Number of changes. Stores tell versions of an object apart by content: a change that was given
    /// up must not match one that came later.
    #[serde(default)]
    revision: u64,
    /// The tenant's settings.
    #[serde(default)]
    pub tenant_conf: Map<String, Value>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names of timelines for people, by timeline id.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub timeline_names: Map<String, Value>,
    /// Timelines whose deletion was decided, oldest first; see [`Record::bury`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted_timelines: Vec<TimelineId>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Record {
    /// Notes that a timeline is deleted. The note outlives the timeline's objects: a daemon that was
    /// superseded without knowing may still put an index there, and whoever loads the tenant must
    /// not take that for a timeline. The oldest of more than [`MAX_BURIED`] notes are dropped.
    pub fn bury(&mut self, timeline: TimelineId) {
        self.deleted_timelines.retain(|t| *t != timeline);
        self.deleted_timelines.push(timeline);
        let excess = self.deleted_timelines.len().saturating_sub(MAX_BURIED);
        self.deleted_timelines.drain(..excess);
    }
}

/// The right to write a tenant, as long as nobody took a newer one.
#[derive(Debug)]
pub struct Lease {
    tenant: TenantShardId,
    generation: u32,
    holder: String,
}

fn encode(record: &Record) -> Result<Body> {
    let json = serde_json::to_vec(record).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Body::Bytes(Bytes::from(json)))
}

async fn load(env: &Env, key: &str) -> Result<Option<(Record, bucket::ETag)>> {
    match env.bucket.get(key).await {
        Ok(object) => {
            let record = serde_json::from_slice(&object.body).map_err(|e| Error::layer(key, e))?;
            Ok(Some((record, object.etag)))
        }
        Err(e) if e.kind() == bucket::Kind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Puts a record under a condition. `Ok(false)` if the condition did not hold.
async fn put_if(env: &Env, key: &str, record: &Record, mode: PutMode) -> Result<bool> {
    match env.bucket.put(key, encode(record)?, mode).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == bucket::Kind::Precondition => Ok(false),
        // The answer may be lost after success: what is there decides.
        Err(e) => match load(env, key).await? {
            Some((there, _)) if there == *record => Ok(true),
            _ => Err(e.into()),
        },
    }
}

fn holder(env: &Env) -> String {
    format!("{:016x}", env.entropy.next_u64())
}

impl Lease {
    /// The generation of this attachment.
    pub fn generation(&self) -> Generation {
        Generation::new(self.generation)
    }

    /// Registers a new tenant. A [`Error::Conflict`] if it exists.
    pub async fn create(
        env: &Env,
        tenant: TenantShardId,
        conf: Map<String, Value>,
        name: Option<String>,
    ) -> Result<(Lease, Record)> {
        let key = standalone(&tenant);
        let record = Record {
            version: 1,
            generation: 1,
            holder: holder(env),
            revision: 0,
            tenant_conf: conf,
            name,
            timeline_names: Map::new(),
            deleted_timelines: Vec::new(),
            rest: Map::new(),
        };
        if put_if(env, &key, &record, PutMode::IfAbsent).await? {
            let lease = Lease {
                tenant,
                generation: 1,
                holder: record.holder.clone(),
            };
            Ok((lease, record))
        } else {
            Err(Error::Conflict(format!("tenant {tenant} already exists")))
        }
    }

    /// Takes the next generation of an existing tenant; `None` if there is no such tenant.
    pub async fn attach(env: &Env, tenant: TenantShardId) -> Result<Option<(Lease, Record)>> {
        let key = standalone(&tenant);
        for _ in 0..ATTACH_TRIES {
            let Some((mut record, etag)) = load(env, &key).await? else {
                return Ok(None);
            };
            record.generation = record
                .generation
                .checked_add(1)
                .ok_or_else(|| Error::Internal(format!("tenant {tenant}: no generation left")))?;
            record.holder = holder(env);
            record.revision = record.revision.wrapping_add(1);
            if put_if(env, &key, &record, PutMode::IfMatch(etag)).await? {
                let lease = Lease {
                    tenant,
                    generation: record.generation,
                    holder: record.holder.clone(),
                };
                return Ok(Some((lease, record)));
            }
        }
        Err(Error::Conflict(format!(
            "tenant {tenant}: another daemon attaches it at the same time; use one daemon per bucket"
        )))
    }

    /// Changes the record if this lease is still the newest.
    pub async fn update(&self, env: &Env, change: impl Fn(&mut Record)) -> Result<Record> {
        let key = standalone(&self.tenant);
        for _ in 0..ATTACH_TRIES {
            let (mut record, etag) = load(env, &key)
                .await?
                .ok_or(Error::TenantNotFound(self.tenant))?;
            self.check(&record)?;
            change(&mut record);
            record.revision = record.revision.wrapping_add(1);
            if put_if(env, &key, &record, PutMode::IfMatch(etag)).await? {
                return Ok(record);
            }
        }
        Err(Error::Conflict(format!(
            "tenant {}: changed by others at the same time",
            self.tenant
        )))
    }

    /// Fails if a newer generation was issued.
    pub async fn validate(&self, env: &Env) -> Result<()> {
        let key = standalone(&self.tenant);
        let (record, _) = load(env, &key)
            .await?
            .ok_or(Error::TenantNotFound(self.tenant))?;
        self.check(&record)
    }

    fn check(&self, record: &Record) -> Result<()> {
        if record.generation == self.generation && record.holder == self.holder {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "tenant {} was attached elsewhere: generation {} was issued after ours, {}",
            self.tenant, record.generation, self.generation
        )))
    }
}

/// The object that holds a tenant's [`Record`].
pub fn standalone(tenant: &TenantShardId) -> String {
    format!("{}/standalone.json", path::tenant(tenant))
}
