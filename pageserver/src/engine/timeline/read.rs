//! The read path: newest values downwards to one that needs nothing older, then redo upwards.

use super::Timeline;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Found;
use crate::engine::layer_map::Source;
use crate::engine::memory::Stored;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
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

    /// The values of several keys, each at its own LSN, in the order asked.
    pub async fn get_many(&self, keys: &[(Key, Lsn)]) -> Vec<Result<Bytes>> {
        let mut out = Vec::with_capacity(keys.len());
        for (key, lsn) in keys {
            out.push(self.get(*key, *lsn).await);
        }
        out
    }

    /// As [`Timeline::get_opt`], with what it cost.
    pub async fn get_counted(&self, key: Key, lsn: Lsn) -> Result<(Option<Bytes>, Stats)> {
        let mut chain = Vec::new();
        let mut stats = Stats::default();
        let complete = self.collect(&key, lsn, &mut chain, &mut stats).await?;
        if chain.is_empty() {
            return Ok((None, stats));
        }
        let bytes = self.rebuild(key, lsn, &chain, complete, &mut stats)?;
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

    /// Gathers the values of `key` at or below `lsn`, newest first, through all ancestors.
    /// True if the last one needs nothing older.
    async fn collect(
        &self,
        key: &Key,
        lsn: Lsn,
        chain: &mut Vec<Stored>,
        stats: &mut Stats,
    ) -> Result<bool> {
        let mut timeline = self;
        let mut end = lsn.saturating_add(1);
        loop {
            let map = timeline.layers();
            while let Some(found) = map.search(key, end) {
                stats.layers += 1;
                match &found.source {
                    Source::Memory(layer) => {
                        if layer.collect(key, found.floor..end, chain) {
                            return Ok(true);
                        }
                    }
                    Source::File(layer) => {
                        match layer
                            .collect(&timeline.shared, key, found.floor..end, chain)
                            .await?
                        {
                            Found::Complete => return Ok(true),
                            Found::Incomplete => {}
                            Found::Absent => return Ok(false),
                        }
                    }
                }
                end = found.floor;
            }
            let Some((ancestor, branch_point)) = &timeline.ancestor else {
                return Ok(false);
            };
            if !key.is_inherited() {
                return Ok(false);
            }
            ancestor.wait_lsn(*branch_point, ANCESTOR_WAIT).await?;
            end = end.min(branch_point.saturating_add(1));
            timeline = ancestor;
        }
    }

    fn rebuild(
        &self,
        key: Key,
        lsn: Lsn,
        chain: &[Stored],
        complete: bool,
        stats: &mut Stats,
    ) -> Result<Bytes> {
        let decode = |s: &Stored| {
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
        let dialect = self.dialect();
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
        let mut keys = BTreeSet::new();
        let mut timeline = self;
        let mut end = lsn.saturating_add(1);
        loop {
            for source in timeline.layers().overlapping(&range, Lsn::INVALID, end) {
                match source {
                    Source::Memory(m) => {
                        let span = range.start..range.end;
                        keys.extend(m.keys(span, Lsn::INVALID..end, MAX_SCAN_KEYS));
                    }
                    Source::File(l) => {
                        keys.extend(l.keys_in(&timeline.shared, &range, MAX_SCAN_KEYS).await?);
                    }
                }
                if keys.len() > MAX_SCAN_KEYS {
                    return Err(Error::Internal(format!(
                        "timeline {}/{}: more than {MAX_SCAN_KEYS} keys in a scanned range",
                        self.tenant, self.id
                    )));
                }
            }
            let Some((ancestor, branch_point)) = &timeline.ancestor else {
                break;
            };
            if !range.start.is_inherited() {
                break;
            }
            end = end.min(branch_point.saturating_add(1));
            timeline = ancestor;
        }
        let mut out = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = self.get_opt(key, lsn).await?
                && !value.is_empty()
            {
                out.push((key, value));
            }
        }
        Ok(out)
    }
}
