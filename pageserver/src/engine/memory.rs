//! The in-memory layer: values that are not in a delta layer yet.
//!
//! A batch's bytes are kept as they came, as one chunk; an ordered index points into the chunks.
//! Open until frozen; immutable afterwards. Nothing here survives a crash: WAL is fetched again.

use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;
use types::{Batch, Key, Lsn};

/// Rough cost of an index entry in bytes, for the memory budget.
const ENTRY_OVERHEAD: usize = 48;

#[derive(Clone, Copy, Debug)]
struct Slot {
    lsn: Lsn,
    chunk: u32,
    offset: u32,
    len: u32,
    will_init: bool,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: Vec<Bytes>,
    index: BTreeMap<Key, Vec<Slot>>,
    bytes: usize,
    entries: usize,
    max_lsn: Lsn,
}

/// One serialized value with its position.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where it stands.
    pub lsn: Lsn,
    /// Nothing older is needed.
    pub will_init: bool,
    /// Serialized `Value`; the value itself if `bare`.
    pub bytes: Bytes,
    /// True for the content of an image layer, which is stored without a tag.
    pub bare: bool,
}

/// Values by key and LSN, in memory.
#[derive(Debug)]
pub struct Layer {
    start: Lsn,
    end: OnceLock<Lsn>,
    created: Duration,
    inner: RwLock<Inner>,
}

/// A batch cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// A value stands below one that the key has already.
    #[error("key {key}: value at LSN {lsn} arrives after one at LSN {newest}")]
    Order {
        /// The key.
        key: Key,
        /// LSN of the late value.
        lsn: Lsn,
        /// LSN of the value that is there.
        newest: Lsn,
    },
    /// A chunk is larger than its index can address.
    #[error("batch of {0} bytes is larger than 4 GiB")]
    TooLarge(usize),
}

impl Layer {
    /// An empty layer that accepts values at `start` and above; `now` is monotonic time.
    pub fn new(start: Lsn, now: Duration) -> Self {
        Layer {
            start,
            end: OnceLock::new(),
            created: now,
            inner: RwLock::default(),
        }
    }

    /// First LSN it may hold.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// First LSN behind it, once frozen.
    pub fn end(&self) -> Option<Lsn> {
        self.end.get().copied()
    }

    /// End for searches: open layers reach to infinity.
    pub fn search_end(&self) -> Lsn {
        self.end().unwrap_or(Lsn::MAX)
    }

    /// Monotonic time of creation.
    pub fn created(&self) -> Duration {
        self.created
    }

    /// Bytes held, index included (estimate).
    pub fn size(&self) -> usize {
        let i = self.inner.read();
        i.bytes + i.entries * ENTRY_OVERHEAD
    }

    /// Bytes of values.
    pub fn value_bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.inner.read().entries == 0
    }

    /// Highest LSN of any value.
    pub fn max_lsn(&self) -> Lsn {
        self.inner.read().max_lsn
    }

    /// Closes the layer; `end` is the first LSN of the next one.
    pub fn freeze(&self, end: Lsn) {
        // A second freeze would be a bug in the caller; the first one stands.
        let _ = self.end.set(end);
    }

    /// Adds a batch, taking its bytes. A second value for one (key, LSN) replaces the first.
    pub fn add(&self, batch: Batch) -> Result<(), AddError> {
        if u32::try_from(batch.raw.len()).is_err() {
            return Err(AddError::TooLarge(batch.raw.len()));
        }
        let mut guard = self.inner.write();
        let inner = &mut *guard;
        let chunk = inner.chunks.len() as u32;
        inner.bytes += batch.raw.len();
        inner.chunks.push(Bytes::from(batch.raw));
        for e in &batch.entries {
            let slot = Slot {
                lsn: e.lsn,
                chunk,
                offset: e.offset as u32,
                len: e.len as u32,
                will_init: e.will_init,
            };
            let slots = inner.index.entry(e.key).or_default();
            match slots.last_mut() {
                Some(last) if last.lsn == e.lsn => *last = slot,
                Some(last) if last.lsn > e.lsn => {
                    return Err(AddError::Order {
                        key: e.key,
                        lsn: e.lsn,
                        newest: last.lsn,
                    });
                }
                _ => {
                    slots.push(slot);
                    inner.entries += 1;
                }
            }
            inner.max_lsn = inner.max_lsn.max(e.lsn);
        }
        Ok(())
    }

    /// Appends the values of `key` with LSN in `lsns` to `out`, newest first, down to the first
    /// that needs nothing older. True if such a value was met.
    pub fn collect(&self, key: &Key, lsns: Range<Lsn>, out: &mut Vec<Stored>) -> bool {
        let inner = self.inner.read();
        let Some(slots) = inner.index.get(key) else {
            return false;
        };
        for slot in slots.iter().rev() {
            if slot.lsn >= lsns.end {
                continue;
            }
            if slot.lsn < lsns.start {
                return false;
            }
            out.push(inner.stored(slot));
            if slot.will_init {
                return true;
            }
        }
        false
    }

    /// Number of values that [`Layer::collect`] would append before one that needs nothing older,
    /// and whether it would meet such a one.
    pub fn count(&self, key: &Key, lsns: Range<Lsn>) -> (usize, bool) {
        let inner = self.inner.read();
        let mut n = 0;
        for slot in inner.index.get(key).into_iter().flatten().rev() {
            if slot.lsn >= lsns.end {
                continue;
            }
            if slot.lsn < lsns.start {
                break;
            }
            if slot.will_init {
                return (n, true);
            }
            n += 1;
        }
        (n, false)
    }

    /// Replaces the value at exactly `lsn` by one that means the same. False if there is none.
    pub fn replace(&self, key: &Key, value: &Stored) -> bool {
        let mut guard = self.inner.write();
        let inner = &mut *guard;
        let Ok(len) = u32::try_from(value.bytes.len()) else {
            return false;
        };
        let slots = inner.index.get_mut(key);
        let Some(slot) = slots.and_then(|s| s.iter_mut().rev().find(|s| s.lsn == value.lsn)) else {
            return false;
        };
        slot.chunk = inner.chunks.len() as u32;
        slot.offset = 0;
        slot.len = len;
        slot.will_init = value.will_init;
        inner.bytes += value.bytes.len();
        inner.chunks.push(value.bytes.clone());
        true
    }

    /// Keys in `[start, end)` that have a value with LSN in `lsns`, ascending, at most `limit`.
    pub fn keys(&self, keys: Range<Key>, lsns: Range<Lsn>, limit: usize) -> Vec<Key> {
        let inner = self.inner.read();
        inner
            .index
            .range(keys)
            .filter(|(_, slots)| slots.iter().any(|s| lsns.contains(&s.lsn)))
            .map(|(k, _)| *k)
            .take(limit)
            .collect()
    }

    /// Hands every value in (key, LSN) order to `visit`.
    pub fn for_each<E>(
        &self,
        mut visit: impl FnMut(&Key, &Stored) -> Result<(), E>,
    ) -> Result<(), E> {
        let inner = self.inner.read();
        for (key, slots) in &inner.index {
            for slot in slots {
                visit(key, &inner.stored(slot))?;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn stored(&self, slot: &Slot) -> Stored {
        let chunk = self.chunks.get(slot.chunk as usize);
        let start = slot.offset as usize;
        let end = start + slot.len as usize;
        let bytes = match chunk {
            Some(c) if end <= c.len() => c.slice(start..end),
            _ => Bytes::new(),
        };
        Stored {
            lsn: slot.lsn,
            will_init: slot.will_init,
            bytes,
            bare: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{RelTag, Value, WalRecord};

    fn key(n: u32) -> Key {
        Key::rel_block(
            RelTag {
                spc: 1663,
                db: 5,
                rel: 1,
                fork: types::Fork::Main,
            },
            n,
        )
    }

    fn delta() -> Value {
        Value::WalRecord(WalRecord::ClogSetAborted { xids: vec![1] })
    }

    #[test]
    fn collects_newest_first_down_to_an_image() {
        let layer = Layer::new(Lsn(8), Duration::ZERO);
        let mut b = Batch::new();
        b.put(key(1), Lsn(8), &Value::Image(Bytes::from_static(b"a")));
        b.put(key(1), Lsn(16), &Value::Image(Bytes::from_static(b"b")));
        b.put(key(1), Lsn(24), &delta());
        b.put(key(2), Lsn(24), &delta());
        layer.add(b).unwrap();
        let mut out = Vec::new();
        assert!(layer.collect(&key(1), Lsn(0)..Lsn(25), &mut out));
        assert_eq!(out.iter().map(|s| s.lsn.0).collect::<Vec<_>>(), [24, 16]);
        out.clear();
        assert!(!layer.collect(&key(2), Lsn(0)..Lsn(24), &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn a_late_value_is_refused_and_an_equal_lsn_replaces() {
        let layer = Layer::new(Lsn(8), Duration::ZERO);
        let mut b = Batch::new();
        b.put(key(1), Lsn(16), &delta());
        b.put(key(1), Lsn(16), &Value::Image(Bytes::from_static(b"x")));
        layer.add(b).unwrap();
        let mut out = Vec::new();
        assert!(layer.collect(&key(1), Lsn(0)..Lsn(17), &mut out));
        assert_eq!(out.len(), 1);
        let mut b = Batch::new();
        b.put(key(1), Lsn(8), &delta());
        assert!(matches!(layer.add(b), Err(AddError::Order { .. })));
    }
}
