//! Creation and truncation of relations.

use crate::error::Cause;
use crate::ingest::Ingest;
use crate::pending::ZERO_PAGE;
use crate::store::Store;
use pg_wal::Record;
use pg_wal::rmgr::heap::HEAP_BLOCKS_PER_VM_PAGE;
use pg_wal::rmgr::smgr::{Smgr, TRUNCATE_FSM, TRUNCATE_HEAP, TRUNCATE_VM};
use types::{Fork, Key, RelTag, WalRecord};

/// Heap pages that one free-space map page describes.
const SLOTS_PER_FSM_PAGE: u32 = 4069;
/// Heap blocks per byte of a visibility map.
const HEAP_BLOCKS_PER_BYTE: u32 = 4;

/// Block of the free-space map that holds the slot of a heap block: leaf pages follow the pages
/// above them, depth first, in a tree of three levels.
pub(crate) const fn fsm_block(heap_block: u32) -> u32 {
    let leaf = heap_block / SLOTS_PER_FSM_PAGE;
    leaf + 1 + leaf / SLOTS_PER_FSM_PAGE + 1 + leaf / (SLOTS_PER_FSM_PAGE * SLOTS_PER_FSM_PAGE)
}

impl Ingest {
    pub(crate) async fn smgr<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        match Smgr::parse(rec, self.cfg.version)? {
            Smgr::Create(rel) => {
                if !self.create_relation(store, rel).await? {
                    self.counters.created_twice += 1;
                }
                Ok(())
            }
            Smgr::Truncate { rel, blocks, flags } => {
                self.check_reference(rel, 0)?;
                if flags & TRUNCATE_HEAP != 0 {
                    // Unknown here means that its removal follows.
                    self.create_relation(store, rel).await?;
                    self.shrink(store, rel, blocks).await?;
                }
                if flags & TRUNCATE_FSM != 0 {
                    self.truncate_fsm(store, rel.with_fork(Fork::Fsm), blocks)
                        .await?;
                }
                if flags & TRUNCATE_VM != 0 {
                    self.truncate_vm(store, rel.with_fork(Fork::Vm), blocks)
                        .await?;
                }
                Ok(())
            }
        }
    }

    /// Cuts a fork to `blocks` pages, never extends it. The size before, if the fork exists.
    async fn shrink<S: Store>(
        &mut self,
        store: &S,
        rel: RelTag,
        blocks: u32,
    ) -> Result<Option<u32>, Cause> {
        let old = self.rel_size(store, rel).await?;
        if let Some(old) = old.filter(|n| *n > blocks) {
            self.set_size(rel, old, blocks);
        }
        Ok(old)
    }

    async fn truncate_fsm<S: Store>(
        &mut self,
        store: &S,
        fsm: RelTag,
        blocks: u32,
    ) -> Result<(), Cause> {
        let Some(old) = self.rel_size(store, fsm).await? else {
            return Ok(());
        };
        let mut keep = fsm_block(blocks);
        if !blocks.is_multiple_of(SLOTS_PER_FSM_PAGE) && keep < old {
            // The map is advisory: forgetting the whole page is as good as its tail.
            let key = Key::rel_block(fsm, keep);
            if self.cfg.shard.keeps(&key) {
                self.out.put_image(key, &ZERO_PAGE)?;
            }
            keep += 1;
        }
        self.shrink(store, fsm, keep).await.map(drop)
    }

    async fn truncate_vm<S: Store>(
        &mut self,
        store: &S,
        vm: RelTag,
        blocks: u32,
    ) -> Result<(), Cause> {
        let Some(old) = self.rel_size(store, vm).await? else {
            return Ok(());
        };
        let mut keep = blocks / HEAP_BLOCKS_PER_VM_PAGE;
        let byte = blocks % HEAP_BLOCKS_PER_VM_PAGE / HEAP_BLOCKS_PER_BYTE;
        let bit = blocks % HEAP_BLOCKS_PER_BYTE * 2;
        if (byte, bit) != (0, 0) && keep < old {
            let key = Key::rel_block(vm, keep);
            if self.cfg.shard.keeps(&key) {
                let (trunc_byte, trunc_offs) = (u64::from(byte), u64::from(bit));
                self.out.put_change(
                    key,
                    WalRecord::TruncateVisibilityMap {
                        trunc_byte,
                        trunc_offs,
                    },
                )?;
            }
            keep += 1;
        }
        self.shrink(store, vm, keep).await?;
        // When the map grows again its pages must not come back with their old bits.
        for block in keep..old {
            let key = Key::rel_block(vm, block);
            if self.cfg.shard.keeps(&key) {
                self.out.put_bulk_image(key, &ZERO_PAGE);
                self.spill_if_full(store).await?;
            }
        }
        Ok(())
    }
}
