//! Which databases and relations exist, and how large they are.

use crate::cache::Cached;
use crate::error::Cause;
use crate::ingest::Ingest;
use crate::store::Store;
use types::directory::{self, DbDirectory, RelDirectory};
use types::{Fork, Key, Oid, RelTag, SlruKind};

impl Ingest {
    /// The directory of databases.
    pub(crate) async fn databases<S: Store>(
        &mut self,
        store: &S,
    ) -> Result<&mut Cached<DbDirectory>, Cause> {
        if self.cache.dbs.is_none() {
            let key = Key::DB_DIR;
            let bytes = self.must(store, key).await?;
            let dir = DbDirectory::decode(&bytes).map_err(|source| Cause::Value { key, source })?;
            self.cache.dbs = Some(Cached::clean(dir));
        }
        self.cache
            .dbs
            .as_mut()
            .ok_or(Cause::Missing { key: Key::DB_DIR })
    }

    /// The relations of a database; `None` if there is no such database.
    pub(crate) async fn relations<S: Store>(
        &mut self,
        store: &S,
        spc: Oid,
        db: Oid,
    ) -> Result<Option<&mut Cached<RelDirectory>>, Cause> {
        if !self
            .databases(store)
            .await?
            .value
            .dbs
            .contains_key(&(spc, db))
        {
            return Ok(None);
        }
        if !self.cache.rels.contains_key(&(spc, db)) {
            let key = Key::rel_dir(spc, db);
            let bytes = self.must(store, key).await?;
            let dir =
                RelDirectory::decode(&bytes).map_err(|source| Cause::Value { key, source })?;
            self.cache.rels.insert((spc, db), Cached::clean(dir));
        }
        Ok(self.cache.rels.get_mut(&(spc, db)))
    }

    /// Size of a relation fork in pages; `None` if it does not exist.
    pub(crate) async fn rel_size<S: Store>(
        &mut self,
        store: &S,
        rel: RelTag,
    ) -> Result<Option<u32>, Cause> {
        if let Some(n) = self.cache.sizes.get(&rel) {
            return Ok(Some(*n));
        }
        match self.relations(store, rel.spc, rel.db).await? {
            Some(dir) if dir.value.rels.contains(&(rel.rel, rel.fork)) => {}
            _ => return Ok(None),
        }
        let key = Key::rel_size(rel);
        let bytes = self.must(store, key).await?;
        let n = directory::decode_size(&bytes).map_err(|source| Cause::Value { key, source })?;
        self.cache.sizes.insert(rel, n);
        Ok(Some(n))
    }

    /// Writes a relation's size and counts the difference.
    pub(crate) fn set_size(&mut self, rel: RelTag, old: u32, new: u32) {
        self.cache.sizes.insert(rel, new);
        self.out
            .put(Key::rel_size(rel), directory::encode_size(new));
        self.out.count_pages(i64::from(new) - i64::from(old));
    }

    /// Makes sure a database has its entry. True if it had not.
    pub(crate) async fn create_database<S: Store>(
        &mut self,
        store: &S,
        spc: Oid,
        db: Oid,
    ) -> Result<bool, Cause> {
        self.check_tablespace(spc)?;
        let dbs = self.databases(store).await?;
        if dbs.value.dbs.contains_key(&(spc, db)) {
            return Ok(false);
        }
        dbs.edit().dbs.insert((spc, db), false);
        let empty = Cached {
            value: RelDirectory::default(),
            dirty: true,
        };
        self.cache.rels.insert((spc, db), empty);
        Ok(true)
    }

    /// Creates an empty relation fork. False if it exists.
    pub(crate) async fn create_relation<S: Store>(
        &mut self,
        store: &S,
        rel: RelTag,
    ) -> Result<bool, Cause> {
        self.check_reference(rel, 0)?;
        self.create_database(store, rel.spc, rel.db).await?;
        let Some(dir) = self.relations(store, rel.spc, rel.db).await? else {
            return Err(Cause::Missing {
                key: Key::rel_dir(rel.spc, rel.db),
            });
        };
        if dir.value.rels.contains(&(rel.rel, rel.fork)) {
            return Ok(false);
        }
        dir.edit().rels.insert((rel.rel, rel.fork));
        self.set_size(rel, 0, 0);
        Ok(true)
    }

    /// Drops all forks of relations given as (tablespace, database, relation).
    pub(crate) async fn drop_relations<S: Store>(
        &mut self,
        store: &S,
        mut rels: Vec<(Oid, Oid, Oid)>,
    ) -> Result<(), Cause> {
        rels.sort_unstable();
        let sizes_matter = self.cfg.shard.index.is_zero();
        for group in rels.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some(&(spc, db, _)) = group.first() else {
                continue;
            };
            let mut gone = Vec::new();
            let Some(dir) = self.relations(store, spc, db).await? else {
                self.counters.missing += group.len() as u64;
                continue;
            };
            for &(_, _, rel) in group {
                let forks = Fork::ALL
                    .into_iter()
                    .filter(|f| dir.value.rels.contains(&(rel, *f)));
                gone.extend(forks.map(|fork| RelTag { spc, db, rel, fork }));
            }
            // A relation may be listed twice.
            gone.dedup();
            for rel in gone {
                // Sizes are read while the directory still has the fork.
                let pages = if sizes_matter {
                    self.rel_size(store, rel).await?.unwrap_or(0)
                } else {
                    0
                };
                self.out.count_pages(-i64::from(pages));
                self.cache.sizes.remove(&rel);
                if let Some(dir) = self.cache.rels.get_mut(&(spc, db)) {
                    dir.edit().rels.remove(&(rel.rel, rel.fork));
                }
            }
        }
        Ok(())
    }

    /// Writes the directories that the open record changed.
    pub(crate) fn write_directories(&mut self) {
        let wide = self.wide_xids();
        if let Some(dir) = self.cache.dbs.as_mut().and_then(Cached::changed) {
            self.out.put(Key::DB_DIR, dir.encode());
        }
        for ((spc, db), dir) in &mut self.cache.rels {
            if let Some(dir) = dir.changed() {
                self.out.put(Key::rel_dir(*spc, *db), dir.encode());
            }
        }
        for kind in SlruKind::ALL {
            if let Some(dir) = self.cache.slrus.get_mut(&kind).and_then(Cached::changed) {
                self.out.put(Key::slru_dir(kind), dir.encode());
            }
        }
        if let Some(dir) = self.cache.two_phase.as_mut().and_then(Cached::changed) {
            self.out.put(Key::TWO_PHASE_DIR, dir.encode(wide));
        }
    }
}
