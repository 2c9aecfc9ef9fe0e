//! Sizes of relations, cached for readers of the present.

use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use types::{BlockNumber, Lsn, RelTag};

/// Most entries kept; the cache starts over when it is full.
const CAPACITY: usize = 64 * 1024;

/// Relation → (LSN, size): valid for reads at that LSN and above.
#[derive(Debug, Default)]
pub struct SizeCache {
    sizes: RwLock<HashMap<RelTag, (Lsn, BlockNumber)>>,
    changes: AtomicU64,
}

/// Taken before a size is read from the layers, shown when it is offered to the cache.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

impl SizeCache {
    /// The size at `lsn`, if known.
    pub fn get(&self, rel: &RelTag, lsn: Lsn) -> Option<BlockNumber> {
        self.sizes
            .read()
            .get(rel)
            .filter(|(from, _)| *from <= lsn)
            .map(|(_, n)| *n)
    }

    /// Marks the start of a read.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.changes.load(Ordering::Acquire))
    }

    /// Offers a size read at `lsn`, which was the newest LSN when `ticket` was taken. Ignored if
    /// any size changed since.
    pub fn offer(&self, rel: RelTag, lsn: Lsn, size: BlockNumber, ticket: Ticket) {
        let mut sizes = self.sizes.write();
        if self.changes.load(Ordering::Acquire) == ticket.0 {
            insert(&mut sizes, rel, lsn, size);
        }
    }

    /// Records a change that is about to become readable at `lsn`.
    pub fn changed(&self, rel: RelTag, lsn: Lsn, size: Option<BlockNumber>) {
        let mut sizes = self.sizes.write();
        self.changes.fetch_add(1, Ordering::AcqRel);
        match size {
            Some(n) => insert(&mut sizes, rel, lsn, n),
            None => {
                sizes.remove(&rel);
            }
        }
    }
}

fn insert(
    sizes: &mut HashMap<RelTag, (Lsn, BlockNumber)>,
    rel: RelTag,
    lsn: Lsn,
    size: BlockNumber,
) {
    if sizes.len() >= CAPACITY && !sizes.contains_key(&rel) {
        sizes.clear();
    }
    sizes.insert(rel, (lsn, size));
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Fork;

    #[test]
    fn a_size_read_before_a_change_is_not_cached_after_it() {
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 1,
            fork: Fork::Main,
        };
        let cache = SizeCache::default();
        let ticket = cache.ticket();
        cache.changed(rel, Lsn(16), Some(2));
        cache.offer(rel, Lsn(8), 1, ticket);
        assert_eq!(cache.get(&rel, Lsn(16)), Some(2));
        assert_eq!(cache.get(&rel, Lsn(8)), None);
    }
}
