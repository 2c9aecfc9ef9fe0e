//! Visibility-map bits that heap records clear without saying so in a block reference.

use crate::error::Cause;
use crate::ingest::Ingest;
use crate::store::Store;
use pg_wal::Record;
use pg_wal::rmgr::heap::{self, HEAP_BLOCKS_PER_VM_PAGE, VmClear};
use types::{Fork, Key, WalRecord};

const fn page_of(heap_block: u32) -> u32 {
    heap_block / HEAP_BLOCKS_PER_VM_PAGE
}

impl Ingest {
    pub(crate) async fn heap<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        match heap::vm_clear(rec, self.cfg.version, self.cfg.flavour)? {
            Some(clear) => Box::pin(self.clear_visibility(store, rec, clear)).await,
            None => Ok(()),
        }
    }

    async fn clear_visibility<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        clear: VmClear,
    ) -> Result<(), Cause> {
        let vm = clear.rel.with_fork(Fork::Vm);
        let references = rec.blocks.iter().any(|b| b.rel.fork == Fork::Vm);
        if clear.update && references {
            // The writer names every page it changed; bits on others were clear already.
            return Ok(());
        }
        let named = |page| rec.blocks.iter().any(|b| b.rel == vm && b.block == page);
        let new = clear.new.filter(|h| !named(page_of(*h)));
        let old = clear.old.filter(|h| !named(page_of(*h)));
        if new.is_none() && old.is_none() {
            return Ok(());
        }
        // Beyond the end of the map all bits are clear.
        let Some(size) = self.rel_size(store, vm).await? else {
            return Ok(());
        };
        let mut change = |new: Option<u32>, old: Option<u32>| -> Result<(), Cause> {
            let Some(page) = new.or(old).map(page_of).filter(|p| *p < size) else {
                return Ok(());
            };
            let key = Key::rel_block(vm, page);
            if !self.cfg.shard.keeps(&key) {
                return Ok(());
            }
            self.out.put_change(
                key,
                WalRecord::ClearVisibilityMapFlags {
                    new_heap_block: new,
                    old_heap_block: old,
                    flags: clear.mask,
                },
            )
        };
        if new.map(page_of) == old.map(page_of) {
            change(new, old)
        } else {
            change(new, None)?;
            change(None, old)
        }
    }
}
