//! Block references: what is stored for a page.

use crate::error::Cause;
use crate::ingest::Ingest;
use crate::pending::ZERO_PAGE;
use crate::store::Store;
use pg_wal::record::{Block, rmid};
use pg_wal::rmgr::xlog;
use pg_wal::{Record, image};
use types::key::SIZE_BLOCK;
use types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use types::{Fork, Key, PAGE_SIZE, RelTag};

/// Replay of a few record types changes the page after restoring its image; those images cannot
/// stand for the record (`gistxlog.c`, `hash_xlog.c`). Extensions may do the same.
fn image_is_final(rec: &Record<'_>, block: u8) -> bool {
    match (rec.header.rmid, rec.op()) {
        (rmid::GIST, 0x00) => block != 1,
        (rmid::GIST, 0x30) => block != 0,
        (rmid::HASH, 0x40) => block != 0,
        (rmid::HASH, 0x60) => block > 1,
        (rmid::MIN_CUSTOM.., _) => false,
        _ => true,
    }
}

impl Ingest {
    pub(crate) async fn blocks<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        let op = (rec.header.rmid == rmid::XLOG).then(|| rec.op());
        for b in &rec.blocks {
            if b.image.is_none() {
                match op {
                    // Full-page writes were off: nothing changed.
                    Some(xlog::op::FPI_FOR_HINT) => continue,
                    Some(xlog::op::FPI) => {
                        return Err(Cause::NoImage {
                            rel: b.rel,
                            block: b.block,
                        });
                    }
                    _ => {}
                }
            }
            self.check_reference(b.rel, b.block)?;
            let beyond = self.grow(store, rec, b).await?;
            let key = Key::rel_block(b.rel, b.block);
            if self.cfg.shard.keeps(&key) {
                self.page(rec, b, key, beyond)?;
            }
        }
        Ok(())
    }

    fn page(
        &mut self,
        rec: &Record<'_>,
        b: &Block<'_>,
        key: Key,
        beyond: bool,
    ) -> Result<(), Cause> {
        match &b.image {
            // An empty image is an all-zero page; the record is the shorter way to say so.
            Some(img) if img.apply && !img.data.is_empty() && image_is_final(rec, b.id) => {
                let mut page = [0; PAGE_SIZE];
                image::restore_with_lsn(img, &mut page, self.lsn).map_err(|source| {
                    Cause::Image {
                        rel: b.rel,
                        block: b.block,
                        source,
                    }
                })?;
                self.counters.images += 1;
                self.out.put_image(key, &page)
            }
            _ => {
                // Maps begin their life without an image: replay starts from zeros, and nothing
                // older than the last truncation may show through.
                let from_zeros = beyond && matches!(b.rel.fork, Fork::Vm | Fork::Fsm);
                self.counters.deltas += 1;
                self.out
                    .put_record(key, b.will_init || b.applies_image() || from_zeros, rec.raw)
            }
        }
    }

    /// Fails for references that cannot be stored.
    pub(crate) fn check_reference(&self, rel: RelTag, block: u32) -> Result<(), Cause> {
        let key = Key::rel_block(rel, block);
        if rel.rel == 0 || block == SIZE_BLOCK {
            return Err(Cause::Reference { rel, block });
        }
        self.check_tablespace(rel.spc)?;
        if !key.is_writable() {
            return Err(Cause::Tablespace { spc: rel.spc });
        }
        Ok(())
    }

    /// Fails for tablespaces that cannot be kept.
    pub(crate) fn check_tablespace(&self, spc: u32) -> Result<(), Cause> {
        let builtin = matches!(spc, DEFAULT_TABLESPACE | GLOBAL_TABLESPACE);
        // Neon computes may name others; a backup with them fails later.
        if builtin || !self.vanilla() && Key::rel_map(spc, 0).is_writable() {
            Ok(())
        } else {
            Err(Cause::Tablespace { spc })
        }
    }

    /// Makes the relation reach up to the block, with empty pages in between. True if the block lay
    /// beyond the end.
    async fn grow<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        b: &Block<'_>,
    ) -> Result<bool, Cause> {
        let rel = b.rel;
        let known = match self.cache.sizes.get(&rel) {
            Some(n) => Some(*n),
            None => Box::pin(self.rel_size(store, rel)).await?,
        };
        let old = match known {
            Some(n) if b.block < n => return Ok(false),
            Some(n) => n,
            None => {
                Box::pin(self.create_relation(store, rel)).await?;
                0
            }
        };
        self.set_size(rel, old, b.block.saturating_add(1));
        if b.block > old {
            Box::pin(self.fill_gap(store, rec, rel, old, b.block)).await?;
        }
        Ok(true)
    }

    async fn fill_gap<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        rel: RelTag,
        from: u32,
        to: u32,
    ) -> Result<(), Cause> {
        let limit = self.cfg.limits.gap_blocks;
        if to - from > limit {
            return Err(Cause::Gap {
                rel,
                block: to,
                size: from,
                limit,
            });
        }
        for g in from..to {
            let key = Key::rel_block(rel, g);
            let own_value = rec.blocks.iter().any(|b| b.rel == rel && b.block == g);
            if own_value || !self.cfg.shard.keeps(&key) {
                continue;
            }
            self.out.put_bulk_image(key, &ZERO_PAGE);
            self.counters.gap_pages += 1;
            self.spill_if_full(store).await?;
        }
        Ok(())
    }
}
