//! The read path: newest values downwards to one that needs nothing older, then redo upwards.

use super::Timeline;
use super::compaction::NOT_INHERITED;
use crate::engine::error::{Error, Result};
use crate::engine::layer::{Found, Layer, Lookup};
use crate::engine::layer_map::{LayerMap, Source};
use crate::engine::memory::{self, Stored};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use types::key::Kind;
use types::{Fork, Key, KeyRange, Lsn, Value, WalRecord};
use wal_redo::PageBuf;

/// How long a reader waits for an ancestor that is still catching up after a restart.
const ANCESTOR_WAIT: std::time::Duration = std::time::Duration::from_secs(60);
/// Most keys one scan of a sparse range returns.
pub const MAX_SCAN_KEYS: usize = 1 << 20;

/// Maps of free space and visibility need no first version: their replay starts from zeros.
fn starts_from_zeros(key: &Key) -> bool {
    matches!(key.kind(), Kind::RelBlock { rel, .. } if matches!(rel.fork, Fork::Fsm | Fork::Vm))
}

/// What one read cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Layers looked into.
    pub layers: usize,
    /// Records replayed.
    pub deltas: usize,
}

#[derive(Clone, Debug)]
enum State {
    /// Older values are needed.
    Open,
    /// The oldest value found needs nothing older.
    Complete,
    /// There is nothing older.
    Exhausted,
    /// They could not be read.
    Failed(Error),
}

/// A key on its way through the layers.
struct Search {
    key: Key,
    lsn: Lsn,
    /// Where to look next: below.
    end: Lsn,
    /// What the layer asked now answers for: at and above.
    floor: Lsn,
    /// Values found, newest first.
    chain: Vec<Stored>,
    state: State,
    stats: Stats,
}

impl Search {
    fn new(key: Key, lsn: Lsn) -> Self {
        let end = lsn.saturating_add(1);
        Search {
            key,
            lsn,
            end,
            floor: end,
            chain: Vec::new(),
            state: State::Open,
            stats: Stats::default(),
        }
    }

    /// False if what was found is one whole value, or nothing.
    fn needs_replay(&self) -> bool {
        match self.chain.as_slice() {
            [] => false,
            [one] => !one.bare && !types::value::is_image(&one.bytes),
            _ => true,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// The question to the layer that is to answer from `floor` up to `end`.
    fn lookup(&mut self) -> Lookup<'_> {
        Lookup {
            key: self.key,
            lsns: self.floor..self.end,
            out: &mut self.chain,
            found: Found::Incomplete,
        }
    }

    /// Takes what a layer in memory has from `floor` up to `end`.
    fn take_from(&mut self, layer: &memory::Layer) {
        if layer.collect(&self.key, self.floor..self.end, &mut self.chain) {
            self.state = State::Complete;
        }
        self.end = self.floor;
    }

    fn answered(&mut self, found: Found) {
        self.end = self.floor;
        self.state = match found {
            Found::Complete => State::Complete,
            Found::Absent => State::Exhausted,
            Found::Incomplete => State::Open,
        };
    }
}

impl Timeline {
    /// The value of `key` at `lsn`, which must not exceed `last_record_lsn`.
    ///
    /// # Errors
    /// [`Error::MissingKey`] if there is none.
    pub async fn get(&self, key: Key, lsn: Lsn) -> Result<Bytes> {
        match self.get_counted(key, lsn).await? {
            (Some(bytes), _) => Ok(bytes),
            (None, _) => Err(self.missing(key, lsn, "")),
        }
    }

    /// The value of `key` at `lsn`, or `None` if the key does not exist there.
    pub async fn get_opt(&self, key: Key, lsn: Lsn) -> Result<Option<Bytes>> {
        Ok(self.get_counted(key, lsn).await?.0)
    }

    /// The values of several keys, each at its own LSN, in the order asked. Layers are asked for
    /// all keys that meet there at once.
    pub async fn get_many(&self, keys: &[(Key, Lsn)]) -> Vec<Result<Bytes>> {
        let mut searches: Vec<Search> = keys.iter().map(|(k, lsn)| Search::new(*k, *lsn)).collect();
        self.collect(&mut searches).await;
        self.learn_for(&mut searches).await;
        let finish = |search: &Search| match self.finish(search)? {
            (Some(bytes), _) => Ok(bytes),
            (None, _) => Err(self.missing(search.key, search.lsn, "")),
        };
        searches.iter().map(finish).collect()
    }

    /// As [`Timeline::get_opt`], with what it cost.
    pub async fn get_counted(&self, key: Key, lsn: Lsn) -> Result<(Option<Bytes>, Stats)> {
        let mut search = [Search::new(key, lsn)];
        self.collect(&mut search).await;
        self.learn_for(&mut search).await;
        let [search] = search;
        self.finish(&search)
    }

    /// The value of a key that is only ever stored whole.
    pub(super) async fn get_whole(&self, key: Key, lsn: Lsn) -> Result<Bytes> {
        let mut search = [Search::new(key, lsn)];
        self.collect(&mut search).await;
        let [search] = search;
        match self.finish(&search)? {
            (Some(bytes), _) => Ok(bytes),
            (None, _) => Err(self.missing(key, lsn, "")),
        }
    }

    /// Learns what replay depends on, if any of the searches needs replay.
    async fn learn_for(&self, searches: &mut [Search]) {
        if self.cluster.get().is_some() {
            return;
        }
        let needed = searches.iter().filter(|s| s.needs_replay());
        let Some(lsn) = needed.map(|s| s.lsn).min() else {
            return;
        };
        if let Err(e) = self.learn_cluster(lsn).await {
            for search in searches.iter_mut().filter(|s| s.needs_replay()) {
                search.state = State::Failed(e.clone());
            }
        }
    }

    /// The value that a search leads to.
    fn finish(&self, search: &Search) -> Result<(Option<Bytes>, Stats)> {
        let mut stats = search.stats;
        if let State::Failed(e) = &search.state {
            return Err(e.clone());
        }
        if search.chain.is_empty() {
            return Ok((None, stats));
        }
        let bytes = self.rebuild(search, &mut stats)?;
        self.shared.metrics.read(&stats);
        Ok((Some(bytes), stats))
    }

    fn missing(&self, key: Key, lsn: Lsn, detail: &str) -> Error {
        let (tenant, timeline) = (self.tenant, self.id);
        Error::MissingKey {
            tenant,
            timeline,
            key,
            lsn,
            detail: detail.to_owned(),
        }
    }

    /// Gathers for each search its values, newest first, through all ancestors, until none is open.
    /// Again if meanwhile a timeline got another ancestor, as the former one holds nothing for it.
    async fn collect(&self, searches: &mut [Search]) {
        loop {
            let epoch = self.shared.lineages.epoch();
            self.collect_once(searches).await;
            if self.shared.lineages.epoch() == epoch {
                return;
            }
            for search in searches.iter_mut() {
                *search = Search::new(search.key, search.lsn);
            }
        }
    }

    async fn collect_once(&self, searches: &mut [Search]) {
        let mut below: Option<Arc<Timeline>> = None;
        loop {
            let timeline = below.as_deref().unwrap_or(self);
            // Before the layers: what takes the ancestor's place is among them first.
            let origin = timeline.ancestor();
            let map = timeline.layers();
            while timeline.collect_step(&map, searches).await {}
            // Stopping drops what is in memory: the newest values may have been missed.
            if timeline.stopped.load(Ordering::Acquire) {
                for search in searches.iter_mut() {
                    search.state = State::Failed(Error::Shutdown);
                }
                return;
            }
            let Some((ancestor, branch_point)) = origin else {
                break;
            };
            let mut newest = None;
            for search in searches.iter_mut().filter(|s| s.is_open()) {
                if search.key.is_inherited() {
                    search.end = search.end.min(branch_point.saturating_add(1));
                    newest = newest.max(Some(search.end.saturating_sub(1)));
                } else {
                    search.state = State::Exhausted;
                }
            }
            let Some(newest) = newest else {
                break;
            };
            // Not for the branch point: what was durable is readable at once, also while the
            // ancestor catches up.
            if let Err(e) = ancestor.wait_lsn(newest, ANCESTOR_WAIT).await {
                for search in searches.iter_mut().filter(|s| s.is_open()) {
                    search.state = State::Failed(e.clone());
                }
                return;
            }
            below = Some(ancestor);
        }
        for search in searches.iter_mut().filter(|s| s.is_open()) {
            search.state = State::Exhausted;
        }
    }

    /// Asks, for each open search, the one layer that has its next older values. False if there
    /// is none for any.
    async fn collect_step(&self, map: &LayerMap, searches: &mut [Search]) -> bool {
        if let [search] = searches {
            return self.collect_alone(map, search).await;
        }
        let mut files: Vec<(Arc<Layer>, Vec<usize>)> = Vec::new();
        let mut progress = false;
        for (at, search) in searches.iter_mut().enumerate() {
            if !search.is_open() {
                continue;
            }
            let Some(found) = map.search(&search.key, search.end) else {
                continue;
            };
            progress = true;
            search.stats.layers += 1;
            search.floor = found.floor;
            match found.source {
                Source::Memory(layer) => search.take_from(&layer),
                Source::File(layer) => match files.last_mut() {
                    Some((last, keys)) if Arc::ptr_eq(last, &layer) => keys.push(at),
                    _ => match files.iter_mut().find(|(l, _)| Arc::ptr_eq(l, &layer)) {
                        Some((_, keys)) => keys.push(at),
                        None => files.push((layer, vec![at])),
                    },
                },
            }
        }
        for (layer, members) in files {
            self.ask(&layer, &members, searches).await;
        }
        progress
    }

    /// As [`Timeline::collect_step`] for one search.
    async fn collect_alone(&self, map: &LayerMap, search: &mut Search) -> bool {
        if !search.is_open() {
            return false;
        }
        let Some(found) = map.search(&search.key, search.end) else {
            return false;
        };
        search.stats.layers += 1;
        search.floor = found.floor;
        match found.source {
            Source::Memory(layer) => search.take_from(&layer),
            Source::File(layer) => self.ask_alone(&layer, search).await,
        }
        true
    }

    async fn ask_alone(&self, layer: &Layer, search: &mut Search) {
        let mut lookup = [search.lookup()];
        let result = layer.collect(&self.shared, &mut lookup).await;
        let [Lookup { found, .. }] = lookup;
        match result {
            Ok(()) => search.answered(found),
            Err(e) => search.state = State::Failed(e),
        }
    }

    /// Asks one layer for several searches. If that fails, each is asked for by itself, so that a
    /// damaged place costs only those that need it.
    async fn ask(&self, layer: &Layer, members: &[usize], searches: &mut [Search]) {
        let mut lookups: Vec<Lookup<'_>> = Vec::with_capacity(members.len());
        let mut next = members.iter().peekable();
        for (at, search) in searches.iter_mut().enumerate() {
            if next.next_if_eq(&&at).is_some() {
                lookups.push(search.lookup());
            }
        }
        if layer.collect(&self.shared, &mut lookups).await.is_ok() {
            let founds: Vec<Found> = lookups.into_iter().map(|l| l.found).collect();
            for (at, found) in members.iter().zip(founds) {
                if let Some(search) = searches.get_mut(*at) {
                    search.answered(found);
                }
            }
            return;
        }
        for at in members {
            if let Some(search) = searches.get_mut(*at) {
                self.ask_alone(layer, search).await;
            }
        }
    }

    fn rebuild(&self, search: &Search, stats: &mut Stats) -> Result<Bytes> {
        let (key, lsn, chain) = (search.key, search.lsn, &search.chain);
        if let ([whole], State::Complete) = (chain.as_slice(), &search.state)
            && whole.bare
        {
            return Ok(whole.bytes.clone());
        }
        let complete = matches!(search.state, State::Complete);
        let decode = |s: &Stored| {
            if s.bare {
                return Ok(Value::Image(s.bytes.clone()));
            }
            Value::decode(&s.bytes).map_err(|source| Error::Value {
                key,
                lsn: s.lsn,
                source,
            })
        };
        let mut base: Option<Bytes> = None;
        let mut records: Vec<(Lsn, WalRecord)> = Vec::with_capacity(chain.len());
        for stored in chain.iter().rev() {
            match decode(stored)? {
                Value::Image(bytes) if records.is_empty() && base.is_none() => base = Some(bytes),
                Value::Image(_) => {
                    return Err(self.missing(key, lsn, ": an image stands above older values"));
                }
                Value::WalRecord(rec) => records.push((stored.lsn, rec)),
            }
        }
        if !complete && !starts_from_zeros(&key) {
            return Err(self.missing(
                key,
                lsn,
                &format!(": {} records without a base", records.len()),
            ));
        }
        if records.is_empty() {
            return Ok(base.unwrap_or_default());
        }
        stats.deltas = records.len();
        let dialect = self.cluster()?.dialect;
        let mut page = PageBuf::new();
        wal_redo::reconstruct(
            &key,
            base.as_deref(),
            records.iter().map(|(lsn, rec)| (*lsn, rec)),
            &dialect,
            &mut page,
        )
        .or_else(|failed| {
            let (base, redo) = (base.as_deref(), &self.shared.redo);
            let again = || redo.reconstruct(failed, &key, base, &records, &dialect, &mut page);
            self.shared.env.blocking(again)
        })
        .map_err(|source| Error::Redo {
            tenant: self.tenant,
            timeline: self.id,
            key,
            lsn,
            source: Arc::new(source),
        })?;
        Ok(Bytes::copy_from_slice(page.as_slice()))
    }

    /// All existing keys of a sparse range at `lsn` with their values; tombstones left out.
    pub async fn scan(&self, range: KeyRange, lsn: Lsn) -> Result<Vec<(Key, Bytes)>> {
        loop {
            let epoch = self.shared.lineages.epoch();
            let keys = self.keys_below(&range, lsn).await;
            if self.shared.lineages.epoch() != epoch {
                continue;
            }
            let mut out = Vec::new();
            for key in keys? {
                if let Some(value) = self.get_opt(key, lsn).await?
                    && !value.is_empty()
                {
                    out.push((key, value));
                }
            }
            return Ok(out);
        }
    }

    /// All keys of a sparse range that had a value at or below `lsn`.
    pub(super) async fn keys_below(&self, range: &KeyRange, lsn: Lsn) -> Result<BTreeSet<Key>> {
        let mut keys = BTreeSet::new();
        let mut below: Option<Arc<Timeline>> = None;
        let mut end = lsn.saturating_add(1);
        loop {
            let timeline = below.as_deref().unwrap_or(self);
            let origin = timeline.ancestor();
            for source in timeline.layers().overlapping(range, Lsn::INVALID, end) {
                match source {
                    Source::Memory(m) => {
                        let span = range.start..range.end;
                        keys.extend(m.keys(span, Lsn::INVALID..end, MAX_SCAN_KEYS));
                    }
                    Source::File(l) => {
                        keys.extend(l.keys_in(&timeline.shared, range, MAX_SCAN_KEYS).await?);
                    }
                }
                if keys.len() > MAX_SCAN_KEYS {
                    return Err(Error::Internal(format!(
                        "timeline {}/{}: more than {MAX_SCAN_KEYS} keys in a scanned range",
                        self.tenant, self.id
                    )));
                }
            }
            // Stopping drops what is in memory: keys may have been missed.
            if timeline.stopped.load(Ordering::Acquire) {
                return Err(Error::Shutdown);
            }
            let Some((ancestor, branch_point)) = origin else {
                break;
            };
            // A range may begin among keys that are not inherited and end among those that are.
            if NOT_INHERITED.start <= range.start && range.end <= NOT_INHERITED.end {
                break;
            }
            end = end.min(branch_point.saturating_add(1));
            // It may have to catch up after a crash.
            ancestor
                .wait_lsn(end.saturating_sub(1), ANCESTOR_WAIT)
                .await?;
            below = Some(ancestor);
        }
        Ok(keys)
    }
}
