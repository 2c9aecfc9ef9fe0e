//! A store in memory.

use crate::store::{Store, StoreError};
use bytes::Bytes;
use pg_format::CheckPoint;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::directory::{DbDirectory, SlruDirectory, TwoPhaseDirectory, decode_size};
use types::{Batch, Key, Lsn, PgMajor, RelTag, SlruKind, Value};

#[derive(Default)]
struct State {
    values: BTreeMap<(Key, Lsn), Bytes>,
    last: Lsn,
    prev: Lsn,
    size: i64,
    batches: usize,
    largest: usize,
}

/// Every version of every key. A batch that breaks a rule of [`Batch`] is refused.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

fn refuse(rule: String) -> StoreError {
    StoreError(rule.into())
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A timeline of a fresh cluster without databases, published at `lsn`.
    pub fn fresh(version: PgMajor, lsn: Lsn, checkpoint: &CheckPoint) -> Self {
        let store = MemoryStore::default();
        let wide = version >= PgMajor::V17;
        store.set(Key::DB_DIR, lsn, &DbDirectory::default().encode());
        store.set(
            Key::TWO_PHASE_DIR,
            lsn,
            &TwoPhaseDirectory::default().encode(wide),
        );
        store.set(Key::CHECKPOINT, lsn, &checkpoint.encode());
        for kind in SlruKind::ALL {
            store.set(Key::slru_dir(kind), lsn, &SlruDirectory::default().encode());
        }
        store.state().last = lsn;
        store
    }

    /// Puts an image behind ingest's back.
    pub fn set(&self, key: Key, lsn: Lsn, image: &[u8]) {
        let value = Value::Image(Bytes::copy_from_slice(image)).to_bytes();
        self.state().values.insert((key, lsn), value.into());
    }

    /// Publishes an LSN behind ingest's back.
    pub fn publish(&self, lsn: Lsn) {
        self.state().last = lsn;
    }

    /// The published LSN.
    pub fn last(&self) -> Lsn {
        self.state().last
    }

    /// End of the record before the last published one, if known.
    pub fn prev(&self) -> Lsn {
        self.state().prev
    }

    /// Sum of the size changes published, in bytes.
    pub fn logical_size(&self) -> i64 {
        self.state().size
    }

    /// Batches written.
    pub fn batches(&self) -> usize {
        self.state().batches
    }

    /// Bytes of the largest batch.
    pub fn largest_batch(&self) -> usize {
        self.state().largest
    }

    /// The newest published version of a key, as stored.
    pub fn newest(&self, key: Key) -> Option<(Lsn, Value)> {
        let state = self.state();
        let (at, raw) = state
            .values
            .range((key, Lsn(0))..=(key, state.last))
            .next_back()?;
        Some((at.1, Value::decode(raw).ok()?))
    }

    /// The newest published image of a key.
    pub fn image(&self, key: Key) -> Option<Bytes> {
        match self.newest(key)? {
            (_, Value::Image(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// What exactly one LSN holds for a key, published or not.
    pub fn at(&self, key: Key, lsn: Lsn) -> Option<Value> {
        self.state()
            .values
            .get(&(key, lsn))
            .and_then(|raw| Value::decode(raw).ok())
    }

    /// Keys written at an LSN.
    pub fn keys_at(&self, lsn: Lsn) -> Vec<Key> {
        self.state()
            .values
            .keys()
            .filter(|(_, l)| *l == lsn)
            .map(|(k, _)| *k)
            .collect()
    }

    /// Every (key, LSN) and its serialized value.
    pub fn dump(&self) -> BTreeMap<(Key, Lsn), Bytes> {
        self.state().values.clone()
    }

    /// The published size of a relation fork in pages, whether or not a directory lists it.
    pub fn rel_size(&self, rel: RelTag) -> Option<u32> {
        decode_size(&self.image(Key::rel_size(rel))?).ok()
    }

    /// The published counters.
    pub fn checkpoint(&self, version: PgMajor) -> Option<CheckPoint> {
        CheckPoint::parse(&self.image(Key::CHECKPOINT)?, version).ok()
    }
}

impl Store for MemoryStore {
    async fn get(&self, key: Key) -> Result<Option<Bytes>, StoreError> {
        match self.newest(key) {
            None => Ok(None),
            Some((_, Value::Image(bytes))) => Ok(Some(bytes).filter(|b| !b.is_empty())),
            Some((lsn, _)) => Err(refuse(format!("{key} at {lsn} needs redo"))),
        }
    }

    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut newest: BTreeMap<Key, Lsn> = BTreeMap::new();
        for e in &batch.entries {
            let value = batch.bytes(e);
            let init = Value::peek_init(value).map_err(|e| refuse(e.to_string()))?;
            let order = newest
                .insert(e.key, e.lsn)
                .is_none_or(|before| before < e.lsn);
            for (good, rule) in [
                (init == e.will_init, "the flag disagrees with the value"),
                (order, "versions of a key do not ascend"),
                (e.key.is_writable(), "the key cannot be stored"),
                (e.lsn > state.last, "the LSN is published already"),
                (e.lsn.is_aligned(), "the LSN is not a multiple of 8"),
                (
                    !batch.last_lsn.is_valid() || e.lsn <= batch.last_lsn,
                    "a value lies behind the end",
                ),
            ] {
                if !good {
                    return Err(refuse(format!("{} at {}: {rule}", e.key, e.lsn)));
                }
            }
            state
                .values
                .insert((e.key, e.lsn), Bytes::copy_from_slice(value));
        }
        state.batches += 1;
        state.largest = state.largest.max(batch.raw.len());
        if batch.last_lsn.is_valid() {
            if batch.last_lsn <= state.last || batch.prev_lsn >= batch.last_lsn {
                return Err(refuse(format!(
                    "{} does not follow {}",
                    batch.last_lsn, state.last
                )));
            }
            state.prev = if batch.prev_lsn.is_valid() {
                batch.prev_lsn
            } else {
                state.last
            };
            state.last = batch.last_lsn;
            state.size += batch.size_delta;
        } else if batch.size_delta != 0 {
            return Err(refuse("a size without an LSN".into()));
        }
        Ok(())
    }
}
