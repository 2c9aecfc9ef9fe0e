//! Several delta layers as one ascending stream of values, with bounded memory.

use crate::engine::error::Result;
use crate::engine::layer::Layer;
use crate::engine::memory::Stored;
use crate::engine::shared::Shared;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use types::{Key, Lsn};

/// Bytes read of one layer at a time.
const RUN_BYTES: usize = 512 << 10;

struct Source {
    layer: Arc<Layer>,
    values: VecDeque<(Key, Stored)>,
    next: Option<(Key, Lsn)>,
}

impl Source {
    /// Position of the next value, reading on if need be.
    async fn head(&mut self, shared: &Shared) -> Result<Option<(Key, Lsn)>> {
        if self.values.is_empty()
            && let Some(from) = self.next.take()
        {
            let chunk = self.layer.scan(shared, from, RUN_BYTES).await?;
            self.values = chunk.values.into();
            self.next = chunk.next;
        }
        Ok(self.values.front().map(|(key, s)| (*key, s.lsn)))
    }
}

/// The values of all layers by key and LSN; of two at one (key, LSN) only one that needs nothing
/// older, if there is one.
pub struct Merge<'a> {
    shared: &'a Shared,
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Key, Lsn, usize)>>,
}

impl<'a> Merge<'a> {
    /// A stream over `layers`, all of them delta layers. Holds about half a megabyte of each.
    pub async fn new(shared: &'a Shared, layers: &[Arc<Layer>]) -> Result<Self> {
        let mut merge = Merge {
            shared,
            sources: Vec::with_capacity(layers.len()),
            heads: BinaryHeap::with_capacity(layers.len()),
        };
        for (at, layer) in layers.iter().enumerate() {
            let mut source = Source {
                layer: Arc::clone(layer),
                values: VecDeque::new(),
                next: Some((layer.keys().start, Lsn::INVALID)),
            };
            if let Some((key, lsn)) = source.head(shared).await? {
                merge.heads.push(Reverse((key, lsn, at)));
            }
            merge.sources.push(source);
        }
        Ok(merge)
    }

    /// The next value; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(Key, Stored)>> {
        let Some((key, mut value)) = self.pop().await? else {
            return Ok(None);
        };
        while self
            .heads
            .peek()
            .is_some_and(|Reverse((k, l, _))| *k == key && *l == value.lsn)
        {
            match self.pop().await? {
                Some((_, twin)) if twin.will_init && !value.will_init => value = twin,
                _ => {}
            }
        }
        Ok(Some((key, value)))
    }

    async fn pop(&mut self) -> Result<Option<(Key, Stored)>> {
        let Some(Reverse((_, _, at))) = self.heads.pop() else {
            return Ok(None);
        };
        let Some(source) = self.sources.get_mut(at) else {
            return Ok(None);
        };
        let value = source.values.pop_front();
        if let Some((key, lsn)) = source.head(self.shared).await? {
            self.heads.push(Reverse((key, lsn, at)));
        }
        Ok(value)
    }
}
