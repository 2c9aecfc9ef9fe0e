//! An object store in memory that all machines of a run share, seen through a network.
//!
//! The store itself is correct and survives everything. The network to it delays requests and
//! replies, drops requests, loses replies, and goes on delivering what a machine sent before its
//! power was cut. As every bucket promises, reads and listings see a finished put or delete at
//! once, and of several conditional puts of one version at most one succeeds.

use crate::faults::Faults;
use crate::plan::{Fault, Plan};
use crate::power::{Power, Step};
use crate::random::Random;
use crate::trace::Trace;
use async_trait::async_trait;
use bucket::{
    Body, Bucket, Download, ETag, Error, Kind, Listing, Meta, Object, Operation, PutMode,
};
use bytes::Bytes;
use layer_format::index_part::IndexPart;
use layer_format::path;
use pageserver::engine::generation::{Record, standalone};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use types::{TenantShardId, TimelineId};

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    etag: ETag,
}

impl Stored {
    /// The same content has the same tag, as in S3.
    fn new(body: Bytes) -> Stored {
        let crc = types::crc32c::of(&body);
        let etag = ETag(format!("{:x}-{crc:08x}", body.len()));
        Stored { body, etag }
    }

    fn etag(&self) -> ETag {
        self.etag.clone()
    }
}

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Stored>,
    puts: u64,
    violation: Option<String>,
}

impl Objects {
    /// The newest index of the timeline that a key belongs to, and its key.
    fn newest_index(&self, key: &str) -> Option<(String, IndexPart)> {
        let directory = key.rsplit_once('/')?.0;
        let prefix = format!("{directory}/{}", path::INDEX_PART);
        let indexes = self.by_key.range(prefix.clone()..);
        let (_, key, stored) = indexes
            .take_while(|(k, _)| k.starts_with(&prefix))
            .filter_map(|(k, o)| Some((path::index_part_generation(k)?, k, o)))
            .max_by_key(|(generation, _, _)| *generation)?;
        Some((key.clone(), IndexPart::from_json(&stored.body).ok()?))
    }

    /// Whoever reads the newest index finds every layer it names, at every moment.
    fn audit(&mut self, changed: &str) {
        if self.violation.is_some() || !changed.contains("/timelines/") {
            return;
        }
        let Some((key, index)) = self.newest_index(changed) else {
            return;
        };
        if index.deleted_at.is_some() {
            return;
        }
        let Some((tenant, timeline)) = path_ids(&key) else {
            return;
        };
        // What a superseded node puts there is removed at the next start.
        let record = self.by_key.get(&standalone(&tenant));
        let record: Option<Record> = record.and_then(|r| serde_json::from_slice(&r.body).ok());
        if record.is_some_and(|r| r.deleted_timelines.contains(&timeline)) {
            return;
        }
        for (name, entry) in &index.layer_metadata {
            let layer = path::layer(&tenant.tenant, &timeline, name, entry);
            let size = self.by_key.get(&layer).map(|o| o.body.len() as u64);
            if size != Some(entry.file_size) {
                self.violation = Some(format!(
                    "after {changed} changed, {key} names {layer} with {} bytes, which has {size:?}",
                    entry.file_size
                ));
            }
        }
    }
}

/// Tenant and timeline of `tenants/<tenant>/timelines/<timeline>/…`.
pub fn path_ids(key: &str) -> Option<(TenantShardId, TimelineId)> {
    let mut parts = key.split('/').skip(1);
    let tenant = parts.next()?.parse().ok()?;
    let timeline = parts.nth(1)?.parse().ok()?;
    Some((tenant, timeline))
}

/// The content of a bucket; clones are the same bucket.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<Objects>>);

fn error(kind: Kind, operation: Operation, key: &str, cause: &str) -> Error {
    Error::new(kind, operation, "simulated", key, cause.to_owned())
}

impl Store {
    /// Keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.0.lock().by_key.keys().cloned().collect()
    }

    /// The first moment at which the newest index of a timeline named what is not there.
    pub fn violation(&self) -> Option<String> {
        self.0.lock().violation.clone()
    }

    /// The newest index of a timeline.
    pub fn newest_index(
        &self,
        tenant: &TenantShardId,
        id: &TimelineId,
    ) -> Option<(String, IndexPart)> {
        let key = path::index_part_prefix(tenant, id);
        self.0.lock().newest_index(&key)
    }

    /// An object's content.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.0.lock().by_key.get(key).map(|o| o.body.clone())
    }

    /// Number of puts that took effect.
    pub fn puts(&self) -> u64 {
        self.0.lock().puts
    }

    /// Replaces an object's content behind everybody's back; its tag stays.
    pub fn damage(&self, key: &str, body: Bytes) {
        if let Some(object) = self.0.lock().by_key.get_mut(key) {
            object.body = body;
        }
    }

    fn find(&self, operation: Operation, key: &str) -> Result<Stored, Error> {
        let found = self.0.lock().by_key.get(key).cloned();
        found.ok_or_else(|| error(Kind::NotFound, operation, key, "there is no such object"))
    }

    fn put(&self, key: &str, body: Bytes, mode: &PutMode) -> Result<ETag, Error> {
        let mut objects = self.0.lock();
        let present = objects.by_key.get(key).map(Stored::etag);
        let held = match mode {
            PutMode::Overwrite => true,
            PutMode::IfAbsent => present.is_none(),
            PutMode::IfMatch(etag) => present.as_ref() == Some(etag),
        };
        if !held {
            let cause = format!("the object is at {present:?}");
            return Err(error(Kind::Precondition, Operation::Put, key, &cause));
        }
        // One that was given up must not land behind a newer one.
        if *mode == PutMode::Overwrite && path::index_part_generation(key).is_some() {
            objects.violation = Some(format!("{key} was put whatever version it replaces"));
        }
        objects.puts += 1;
        let stored = Stored::new(body);
        let etag = stored.etag();
        objects.by_key.insert(key.to_owned(), stored);
        objects.audit(key);
        Ok(etag)
    }

    fn list(&self, prefix: &str, delimiter: bool) -> Listing {
        let objects = self.0.lock();
        let mut listing = Listing::default();
        let mut prefixes = BTreeSet::new();
        let from = objects.by_key.range(prefix.to_owned()..);
        for (key, object) in from.take_while(|(k, _)| k.starts_with(prefix)) {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            match rest.split_once('/').filter(|_| delimiter) {
                Some((element, _)) => {
                    prefixes.insert(format!("{prefix}{element}/"));
                }
                None => listing.objects.push(Meta {
                    key: key.clone(),
                    size: object.body.len() as u64,
                    etag: Some(object.etag()),
                    last_modified: SystemTime::UNIX_EPOCH,
                }),
            }
        }
        listing.prefixes = prefixes.into_iter().collect();
        listing
    }

    fn delete(&self, keys: &[String]) {
        let mut objects = self.0.lock();
        for key in keys {
            objects.by_key.remove(key);
            objects.audit(key);
        }
    }
}

#[derive(Debug)]
struct Network {
    random: Random,
    faults: Faults,
}

/// One machine's way to the bucket.
#[derive(Debug, Clone)]
pub struct SimBucket {
    name: Arc<str>,
    store: Store,
    network: Arc<Mutex<Network>>,
    power: Arc<Power>,
    trace: Trace,
    plan: Arc<Plan>,
}

fn changes(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Put | Operation::Copy | Operation::Delete
    )
}

/// What happens to one request.
struct Fate {
    there: Duration,
    back: Duration,
    fail: Option<Kind>,
    lost_reply: bool,
    /// Delivered even if the power of the sender is cut meanwhile.
    outlives: bool,
    /// Share of a deletion that is done when its reply is lost.
    part: f64,
}

impl SimBucket {
    /// A way to `store` for one machine.
    pub fn new(
        name: &str,
        store: Store,
        power: Arc<Power>,
        trace: Trace,
        random: Random,
    ) -> SimBucket {
        let network = Network {
            random,
            faults: Faults::none(),
        };
        SimBucket {
            name: name.into(),
            store,
            network: Arc::new(Mutex::new(network)),
            power,
            trace,
            plan: Arc::default(),
        }
    }

    /// The same way with a planned fault.
    pub fn with_plan(self, plan: Arc<Plan>) -> SimBucket {
        SimBucket { plan, ..self }
    }

    /// Changes the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.network.lock().faults = faults;
    }

    fn draw(&self, operation: Operation) -> Fate {
        let mut network = self.network.lock();
        let Network { random, faults } = &mut *network;
        let slow = if random.chance(faults.slow) { 100 } else { 1 };
        let ms = u64::try_from(faults.delay.as_millis()).unwrap_or(u64::MAX);
        let there = Duration::from_millis(random.below(ms.saturating_add(1)) * slow);
        let back = Duration::from_millis(random.below(ms / 2 + 1));
        let changes = changes(operation);
        let kind = if random.chance(0.5) {
            Kind::Timeout
        } else {
            Kind::Throttled
        };
        Fate {
            there,
            back,
            fail: random.chance(faults.bucket_error).then_some(kind),
            lost_reply: changes && random.chance(faults.lost_reply),
            outlives: random.chance(0.5),
            part: random.below(1001) as f64 / 1000.0,
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        effect: impl FnOnce(&Store, Option<f64>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let no_power = || error(Kind::Other, operation, key, "no power");
        let changes = changes(operation);
        let step = match changes {
            true => self.power.step(),
            false if self.power.is_dead() => Step::Dead,
            false => Step::Go,
        };
        let mut fate = self.draw(operation);
        self.trace.io();
        let kinds = [Fault::LostRequest, Fault::LostReply];
        let kinds = if changes { &kinds[..] } else { &kinds[..1] };
        match self
            .plan
            .step(kinds, || format!("{} {key}", operation.name()))
        {
            Some(Fault::LostReply) => fate.lost_reply = true,
            Some(_) => fate.fail = Some(Kind::Timeout),
            None => {}
        }
        let log = |what: &str| {
            let op = operation.name();
            self.trace
                .event(format!("{} {op} {key}: {what}", self.name));
        };
        match step {
            Step::Dead => return Err(no_power()),
            Step::Last => {
                log("done, power cut");
                let _ = effect(&self.store, None);
                self.power.cut();
                return Err(no_power());
            }
            Step::Go => {}
        }
        if let Some(kind) = fate.fail {
            self.trace.fault();
            log("dropped");
            tokio::time::sleep(fate.there).await;
            return Err(error(kind, operation, key, "injected fault"));
        }
        let (reply, answer) = oneshot::channel();
        let delivered = self.clone();
        let name = key.to_owned();
        // The network is nobody's task: what was sent arrives although the sender went away.
        let deliver = async move {
            if !fate.there.is_zero() {
                tokio::time::sleep(fate.there).await;
            }
            let op = operation.name();
            let me = &delivered.name;
            if delivered.power.is_dead() && !fate.outlives {
                return;
            }
            let part = (fate.lost_reply && operation == Operation::Delete).then_some(fate.part);
            let result = effect(&delivered.store, part);
            let what = match &result {
                Ok(_) if fate.lost_reply => "done, reply lost",
                Ok(_) => "done",
                Err(e) if e.kind() == Kind::NotFound => "not found",
                Err(_) => "refused",
            };
            delivered.trace.event(format!("{me} {op} {name}: {what}"));
            if fate.lost_reply {
                delivered.trace.fault();
            }
            if !fate.back.is_zero() {
                tokio::time::sleep(fate.back).await;
            }
            let result = if fate.lost_reply {
                Err(error(
                    Kind::Timeout,
                    operation,
                    &name,
                    "injected loss of the reply",
                ))
            } else {
                result
            };
            // Nobody waits any more if the machine died.
            let _ = reply.send(result);
        };
        if fate.there.is_zero() && fate.back.is_zero() {
            deliver.await;
        } else {
            tokio::spawn(deliver);
        }
        let answer = answer.await.unwrap_or_else(|_| Err(no_power()));
        if self.power.is_dead() {
            return Err(no_power());
        }
        answer
    }
}

#[async_trait]
impl Bucket for SimBucket {
    async fn get(&self, key: &str) -> Result<Object, Error> {
        let k = key.to_owned();
        self.call(Operation::Get, key, move |store, _| {
            let o = store.find(Operation::Get, &k)?;
            Ok(Object {
                etag: o.etag(),
                last_modified: SystemTime::UNIX_EPOCH,
                body: o.body,
            })
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let k = key.to_owned();
        self.call(Operation::Get, key, move |store, _| {
            let o = store.find(Operation::Get, &k)?;
            let part = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok())
                .filter(|(from, to)| from <= to && *to <= o.body.len());
            match part {
                Some((from, to)) => Ok(o.body.slice(from..to)),
                None => Err(error(
                    Kind::Corrupt,
                    Operation::Get,
                    &k,
                    "shorter than the range",
                )),
            }
        })
        .await
    }

    async fn download(&self, key: &str, _to: &Path) -> Result<Download, Error> {
        // A simulated disk has no paths on the host, so nobody asks for this.
        Err(error(Kind::Other, Operation::Download, key, "no host disk"))
    }

    async fn head(&self, key: &str) -> Result<Meta, Error> {
        let k = key.to_owned();
        self.call(Operation::Head, key, move |store, _| {
            let o = store.find(Operation::Head, &k)?;
            Ok(Meta {
                size: o.body.len() as u64,
                etag: Some(o.etag()),
                last_modified: SystemTime::UNIX_EPOCH,
                key: k,
            })
        })
        .await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error> {
        let Body::Bytes(body) = body else {
            return Err(error(Kind::Other, Operation::Put, key, "no host disk"));
        };
        let sum = types::crc32c::of(&body);
        let (me, len) = (&self.name, body.len());
        self.trace
            .event(format!("{me} put {key}: {len} bytes {sum:08x}"));
        let k = key.to_owned();
        self.call(Operation::Put, key, move |store, _| {
            store.put(&k, body, &mode)
        })
        .await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let (source, target) = (from.to_owned(), to.to_owned());
        self.call(Operation::Copy, to, move |store, _| {
            let body = store.find(Operation::Copy, &source)?.body;
            store.put(&target, body, &PutMode::Overwrite).map(|_| ())
        })
        .await
    }

    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error> {
        let p = prefix.to_owned();
        self.call(Operation::List, prefix, move |store, _| {
            Ok(store.list(&p, delimiter))
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let all = keys.to_vec();
        self.call(Operation::Delete, first, move |store, part| {
            let wanted = part.map_or(all.len(), |p| ((all.len() + 1) as f64 * p) as usize);
            store.delete(all.get(..wanted).unwrap_or(&all));
            Ok(())
        })
        .await
    }
}
