//! Values on their way into the store.
//!
//! A record is opened, adds values, and is sealed or rolled back as a whole. Metadata of the open
//! record sits in a map, so that a second write replaces the first; pages go straight into the
//! batch, each key once.

use crate::error::Cause;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use types::batch::Entry;
use types::{Batch, Key, Lsn, PAGE_SIZE, Value, WalRecord};

/// A page of zeros.
pub(crate) static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Keys of one record that are searched in a list.
const FEW_PAGES: usize = 40;

#[derive(Default)]
pub(crate) struct Pending {
    values: Batch,
    /// Metadata of the open record.
    meta: BTreeMap<Key, Bytes>,
    /// Metadata of sealed records not committed yet.
    written: HashMap<Key, Bytes>,
    /// Page keys of the open record that could come up again: the first few, and the rest.
    pages: Vec<Key>,
    more_pages: HashSet<Key>,
    /// Lengths of `values.raw` and `values.entries` without the open record.
    mark: (usize, usize),
    lsn: Lsn,
    open: bool,
    last: Lsn,
    prev: Lsn,
    records: usize,
    size_delta: i64,
    open_size_delta: i64,
}

impl Pending {
    /// Opens the record that ends at `lsn`.
    pub fn begin(&mut self, lsn: Lsn) {
        self.rollback();
        self.mark = (self.values.raw.len(), self.values.entries.len());
        self.lsn = lsn;
        self.open = true;
    }

    /// Closes the open record.
    pub fn seal(&mut self) {
        for (key, value) in std::mem::take(&mut self.meta) {
            self.values.put_image(key, self.lsn, &value);
            self.written.insert(key, value);
        }
        self.clear_pages();
        self.size_delta = self
            .size_delta
            .saturating_add(std::mem::take(&mut self.open_size_delta));
        if self.records > 0 {
            self.prev = self.last;
        }
        self.last = self.lsn;
        self.records += 1;
        self.open = false;
    }

    /// Forgets the open record, if there is one.
    pub fn rollback(&mut self) {
        if self.open {
            let (raw, entries) = self.mark;
            self.values.raw.truncate(raw);
            self.values.entries.truncate(entries);
            self.meta.clear();
            self.clear_pages();
            self.open_size_delta = 0;
            self.open = false;
        }
    }

    /// Newest metadata value that is not committed.
    pub fn get(&self, key: &Key) -> Option<&Bytes> {
        self.meta.get(key).or_else(|| self.written.get(key))
    }

    /// Writes metadata.
    pub fn put(&mut self, key: Key, value: Bytes) {
        self.meta.insert(key, value);
    }

    /// Writes a page.
    pub fn put_image(&mut self, key: Key, page: &[u8]) -> Result<(), Cause> {
        self.claim(key)?;
        self.values.put_image(key, self.lsn, page);
        Ok(())
    }

    /// Writes a page whose key cannot come up again in this record.
    pub fn put_bulk_image(&mut self, key: Key, page: &[u8]) {
        self.values.put_image(key, self.lsn, page);
    }

    /// Writes a Postgres record.
    pub fn put_record(&mut self, key: Key, will_init: bool, rec: &[u8]) -> Result<(), Cause> {
        self.claim(key)?;
        self.values.put_postgres(key, self.lsn, will_init, rec);
        Ok(())
    }

    /// Writes an internal record.
    pub fn put_change(&mut self, key: Key, rec: WalRecord) -> Result<(), Cause> {
        self.claim(key)?;
        self.values.put(key, self.lsn, &Value::WalRecord(rec));
        Ok(())
    }

    /// Counts pages that came (positive) or went (negative).
    pub fn count_pages(&mut self, pages: i64) {
        self.open_size_delta = self
            .open_size_delta
            .saturating_add(pages.saturating_mul(PAGE_SIZE as i64));
    }

    fn clear_pages(&mut self) {
        self.pages.clear();
        self.more_pages.clear();
    }

    fn claim(&mut self, key: Key) -> Result<(), Cause> {
        let first = if self.pages.contains(&key) {
            false
        } else if self.pages.len() < FEW_PAGES {
            self.pages.push(key);
            true
        } else {
            self.more_pages.insert(key)
        };
        if first {
            Ok(())
        } else {
            Err(Cause::Duplicate { key })
        }
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.values.raw.len() + self.values.entries.len() * size_of::<Entry>()
    }

    /// Sealed records waiting.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Everything sealed, as a batch that publishes its last record. `None` if nothing is.
    pub fn take(&mut self) -> Option<Batch> {
        self.rollback();
        if self.records == 0 {
            return None;
        }
        let mut batch = std::mem::take(&mut self.values);
        batch.last_lsn = self.last;
        batch.prev_lsn = self.prev;
        batch.size_delta = self.size_delta;
        *self = Pending::default();
        Some(batch)
    }

    /// All page values so far, those of the open record included, as a batch that publishes
    /// nothing.
    pub fn take_values(&mut self) -> Batch {
        self.mark = (0, 0);
        std::mem::take(&mut self.values)
    }
}
