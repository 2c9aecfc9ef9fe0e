//! A batch of serialized values on its way into the open in-memory layer.

use crate::key::Key;
use crate::lsn::Lsn;
use crate::value::{self, Value};
use std::ops::Range;

/// One value in a [`Batch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What is written.
    pub key: Key,
    /// End LSN of the record it came from.
    pub lsn: Lsn,
    /// Offset in [`Batch::raw`].
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
    /// Nothing older is needed to read the value.
    pub will_init: bool,
}

/// Values back to back, with an index. Per key, entries are in ascending LSN order and at most
/// one entry exists per (key, LSN). All values of one record are in one batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Serialized values.
    pub raw: Vec<u8>,
    /// Index into `raw`, in the order written.
    pub entries: Vec<Entry>,
    /// End of the newest record in the batch, also when it stored nothing.
    pub last_lsn: Lsn,
    /// End of the record before it, if the batch has one.
    pub prev_lsn: Lsn,
    /// Change of the logical size, in bytes.
    pub size_delta: i64,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Appends a value.
    pub fn put(&mut self, key: Key, lsn: Lsn, value: &Value) {
        let offset = self.raw.len();
        value.encode(&mut self.raw);
        self.push(key, lsn, offset, value.is_init());
    }

    /// Appends an image without building a [`Value`].
    pub fn put_image(&mut self, key: Key, lsn: Lsn, image: &[u8]) {
        let offset = self.raw.len();
        value::encode_image(&mut self.raw, image);
        self.push(key, lsn, offset, true);
    }

    /// Appends a Postgres record without building a [`Value`].
    pub fn put_postgres(&mut self, key: Key, lsn: Lsn, will_init: bool, rec: &[u8]) {
        let offset = self.raw.len();
        value::encode_postgres(&mut self.raw, will_init, rec);
        self.push(key, lsn, offset, will_init);
    }

    fn push(&mut self, key: Key, lsn: Lsn, offset: usize, will_init: bool) {
        let len = self.raw.len() - offset;
        self.entries.push(Entry {
            key,
            lsn,
            offset,
            len,
            will_init,
        });
    }

    /// The serialized value of an entry of this batch.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        let Range { start, end } = entry.offset..entry.offset + entry.len;
        self.raw.get(start..end).unwrap_or_default()
    }

    /// True if the batch neither stores anything nor moves the LSN.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.last_lsn.is_valid()
    }
}
