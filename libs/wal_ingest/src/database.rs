//! Databases, tablespaces, relation maps, logical messages.

use crate::aux_file;
use crate::error::Cause;
use crate::ingest::Ingest;
use crate::pending::ZERO_PAGE;
use crate::store::Store;
use bytes::Bytes;
use pg_wal::Record;
use pg_wal::rmgr::dbase::Dbase;
use pg_wal::rmgr::logicalmsg::Message;
use pg_wal::rmgr::relmap::Update;
use pg_wal::rmgr::tblspc::Tblspc;
use types::{Fork, Key, Oid, RelTag};

/// Prefix by which a Neon compute ships a file.
const NEON_FILE: &[u8] = b"neon-file:";

impl Ingest {
    pub(crate) async fn dbase<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        match Dbase::parse(rec, self.cfg.version)? {
            Dbase::CopyFiles {
                db,
                spc,
                src_db,
                src_spc,
            } => {
                self.copy_database(store, rec, (spc, db), (src_spc, src_db))
                    .await
            }
            Dbase::CreateEmpty { db, spc } => {
                if !self.create_database(store, spc, db).await? {
                    self.counters.created_twice += 1;
                }
                Ok(())
            }
            Dbase::Drop { db, tablespaces } => {
                for spc in tablespaces.iter() {
                    if !self.drop_database(store, spc, db).await? {
                        self.counters.missing += 1;
                    }
                }
                Ok(())
            }
        }
    }

    /// Removes a database's directory. False if it did not exist.
    async fn drop_database<S: Store>(
        &mut self,
        store: &S,
        spc: Oid,
        db: Oid,
    ) -> Result<bool, Cause> {
        let sizes_matter = self.cfg.shard.index.is_zero();
        let Some(dir) = self.relations(store, spc, db).await? else {
            return Ok(false);
        };
        if sizes_matter {
            let rels: Vec<_> = dir.value.rels.iter().copied().collect();
            let mut pages = 0i64;
            for (rel, fork) in rels {
                let size = self.rel_size(store, RelTag { spc, db, rel, fork }).await?;
                pages += i64::from(size.unwrap_or(0));
            }
            self.out.count_pages(-pages);
        }
        self.cache.forget_database(spc, db);
        self.databases(store).await?.edit().dbs.remove(&(spc, db));
        Ok(true)
    }

    /// Copies a database's directory as files were copied on the primary. Pages already pending
    /// are written first, since they are read back here.
    async fn copy_database<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
        (spc, db): (Oid, Oid),
        (src_spc, src_db): (Oid, Oid),
    ) -> Result<(), Cause> {
        if let Some(b) = rec.blocks.first() {
            return Err(Cause::Reference {
                rel: b.rel,
                block: b.block,
            });
        }
        self.check_tablespace(spc)?;
        self.check_tablespace(src_spc)?;
        if (spc, db) == (src_spc, src_db) {
            return Ok(());
        }
        self.publish_before_open_record(store).await?;
        self.drop_database(store, spc, db).await?;
        self.create_database(store, spc, db).await?;
        let rels: Vec<(Oid, Fork)> = match self.relations(store, src_spc, src_db).await? {
            Some(dir) => dir.value.rels.iter().copied().collect(),
            None => {
                self.counters.missing += 1;
                return Ok(());
            }
        };
        let has_map = self
            .databases(store)
            .await?
            .value
            .dbs
            .get(&(src_spc, src_db))
            == Some(&true);
        if has_map {
            let map = self.must(store, Key::rel_map(src_spc, src_db)).await?;
            self.out.put(Key::rel_map(spc, db), map);
            self.databases(store)
                .await?
                .edit()
                .dbs
                .insert((spc, db), true);
        }
        for (rel, fork) in rels {
            let from = RelTag {
                spc: src_spc,
                db: src_db,
                rel,
                fork,
            };
            let to = RelTag { spc, db, rel, fork };
            let size = self.rel_size(store, from).await?.unwrap_or(0);
            self.create_relation(store, to).await?;
            self.set_size(to, 0, size);
            self.copy_blocks(store, from, to, size).await?;
        }
        Ok(())
    }

    async fn copy_blocks<S: Store>(
        &mut self,
        store: &S,
        from: RelTag,
        to: RelTag,
        size: u32,
    ) -> Result<(), Cause> {
        for block in 0..size {
            // Placement follows relation and block only, so source and copy share a shard.
            let key = Key::rel_block(from, block);
            if !self.cfg.shard.keeps(&key) {
                continue;
            }
            match store.get(key).await? {
                Some(page) => self.out.put_bulk_image(Key::rel_block(to, block), &page),
                None if matches!(from.fork, Fork::Fsm | Fork::Vm) => {
                    self.out
                        .put_bulk_image(Key::rel_block(to, block), &ZERO_PAGE);
                }
                None => return Err(Cause::Missing { key }),
            }
            self.spill_if_full(store).await?;
        }
        Ok(())
    }

    async fn publish_before_open_record<S: Store>(&mut self, store: &S) -> Result<(), Cause> {
        let (changed, lsn) = (self.checkpoint_changed, self.lsn);
        if let Some(batch) = self.out.take() {
            store.write(batch).await?;
        }
        self.checkpoint_changed = changed;
        self.out.begin(lsn);
        Ok(())
    }

    pub(crate) fn tblspc(&self, rec: &Record<'_>) -> Result<(), Cause> {
        match Tblspc::parse(rec, self.cfg.version)? {
            Tblspc::Create { spc, .. } if self.vanilla() => Err(Cause::Tablespace { spc }),
            Tblspc::Create { .. } | Tblspc::Drop { .. } => Ok(()),
        }
    }

    pub(crate) async fn relmap<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        let Update { db, spc, map } = Update::parse(rec, self.cfg.version)?;
        self.create_database(store, spc, db).await?;
        let dbs = self.databases(store).await?;
        if dbs.value.dbs.get(&(spc, db)) != Some(&true) {
            dbs.edit().dbs.insert((spc, db), true);
        }
        self.out
            .put(Key::rel_map(spc, db), Bytes::copy_from_slice(map));
        Ok(())
    }

    /// Files that a Neon compute ships. Any user of an unmodified Postgres can write such
    /// messages, so there they mean nothing.
    pub(crate) async fn logical_message<S: Store>(
        &mut self,
        store: &S,
        rec: &Record<'_>,
    ) -> Result<(), Cause> {
        let message = Message::parse(rec, self.cfg.version)?;
        if self.vanilla() || !self.cfg.shard.index.is_zero() {
            return Ok(());
        }
        let Some(path) = message.prefix.strip_prefix(NEON_FILE) else {
            return Ok(());
        };
        let path = String::from_utf8_lossy(path);
        let key = aux_file::key(&path);
        let old = self.meta(store, key).await?.unwrap_or_default();
        let mut files = aux_file::decode(&old).map_err(|source| Cause::Value { key, source })?;
        files.retain(|(p, _)| *p != path);
        if !message.content.is_empty() {
            files.push((path.into_owned(), Bytes::copy_from_slice(message.content)));
        }
        self.out.put(key, aux_file::encode(&files));
        Ok(())
    }
}
