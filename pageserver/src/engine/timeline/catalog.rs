//! Directories and sizes as Postgres sees them: which databases, relations, SLRU segments and
//! prepared transactions exist at an LSN, and how large they are.

use super::Timeline;
use crate::engine::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use layer_format::index_part::RelSizeMigration;
use pg_format::checkpoint::CheckPoint;
use pg_format::control::ControlFile;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use types::directory::{DbDirectory, RelDirectory, SlruDirectory, TwoPhaseDirectory, decode_size};
use types::rel::DEFAULT_TABLESPACE;
use types::{BlockNumber, Fork, Key, KeyRange, Lsn, Oid, PAGE_SIZE, PgMajor, RelTag, SlruKind};

impl Timeline {
    fn malformed(key: Key, lsn: Lsn) -> impl FnOnce(types::be::Error) -> Error {
        move |source| Error::Value { key, lsn, source }
    }

    /// All databases at `lsn`.
    pub async fn databases(&self, lsn: Lsn) -> Result<DbDirectory> {
        let key = Key::DB_DIR;
        DbDirectory::decode(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))
    }

    /// True if relations are listed one key each at `lsn`, not in one value per database.
    fn lists_relations_sparsely(&self, lsn: Lsn) -> bool {
        self.sparse_relations_from.is_some_and(|from| lsn >= from)
    }

    /// The form of the directories of relations, as an index has it.
    pub fn relation_directory(&self) -> (Option<RelSizeMigration>, Option<Lsn>) {
        let migrated = self.sparse_relations_from;
        let form = migrated.map(|_| RelSizeMigration::Migrated);
        (form, migrated.filter(|from| from.is_valid()))
    }

    /// All relation forks of a database in a tablespace at `lsn`.
    pub async fn relations(&self, spc: Oid, db: Oid, lsn: Lsn) -> Result<BTreeSet<RelTag>> {
        if self.lists_relations_sparsely(lsn) {
            let entries = self.scan(KeyRange::rel_dir_entries(spc, db), lsn).await?;
            return Ok(entries
                .into_iter()
                .filter_map(|(k, _)| match k.kind() {
                    types::key::Kind::RelDirEntry { rel } => Some(rel),
                    _ => None,
                })
                .collect());
        }
        let key = Key::rel_dir(spc, db);
        let dir =
            RelDirectory::decode(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))?;
        Ok(dir
            .rels
            .into_iter()
            .map(|(rel, fork)| RelTag { spc, db, rel, fork })
            .collect())
    }

    /// True if the relation fork exists at `lsn`.
    pub async fn relation_exists(&self, rel: RelTag, lsn: Lsn) -> Result<bool> {
        if !self
            .databases(lsn)
            .await?
            .dbs
            .contains_key(&(rel.spc, rel.db))
        {
            return Ok(false);
        }
        if self.lists_relations_sparsely(lsn) {
            let entry = self.get_opt(Key::rel_dir_entry(rel), lsn).await?;
            return Ok(entry.is_some_and(|v| !v.is_empty()));
        }
        let key = Key::rel_dir(rel.spc, rel.db);
        let dir =
            RelDirectory::decode(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))?;
        Ok(dir.rels.contains(&(rel.rel, rel.fork)))
    }

    /// Size of a relation fork at `lsn`, in pages. A missing map fork has size 0.
    pub async fn relation_size(&self, rel: RelTag, lsn: Lsn) -> Result<BlockNumber> {
        if let Some(size) = self.sizes.get(&rel, lsn) {
            return Ok(size);
        }
        if matches!(rel.fork, Fork::Fsm | Fork::Vm) && !self.relation_exists(rel, lsn).await? {
            return Ok(0);
        }
        let ticket = self.sizes.ticket();
        let newest = self.last_record_lsn();
        let key = Key::rel_size(rel);
        let size = decode_size(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))?;
        if lsn >= newest {
            self.sizes.offer(rel, lsn, size, ticket);
        }
        Ok(size)
    }

    /// A page of a relation at `lsn`; all zeros behind the end of the relation. Its checksum is
    /// right if the cluster has checksums.
    pub async fn page(&self, rel: RelTag, block: BlockNumber, lsn: Lsn) -> Result<Bytes> {
        if block >= self.relation_size(rel, lsn).await? {
            return Ok(Bytes::from_static(&[0u8; PAGE_SIZE]));
        }
        let page = self.get(Key::rel_block(rel, block), lsn).await?;
        self.learn_cluster(lsn).await?;
        self.finish_page(page, rel, block, lsn)
    }

    /// As [`Timeline::page`] for several pages, read together.
    pub async fn page_batch(&self, asked: &[(RelTag, BlockNumber, Lsn)]) -> Vec<Result<Bytes>> {
        let zeros = || Ok(Bytes::from_static(&[0u8; PAGE_SIZE]));
        let mut answers: Vec<Result<Bytes>> = Vec::with_capacity(asked.len());
        let mut keys = Vec::with_capacity(asked.len());
        let mut places = Vec::with_capacity(asked.len());
        for (at, (rel, block, lsn)) in asked.iter().enumerate() {
            answers.push(match self.relation_size(*rel, *lsn).await {
                Ok(size) if *block < size => {
                    keys.push((Key::rel_block(*rel, *block), *lsn));
                    places.push(at);
                    zeros()
                }
                Ok(_) => zeros(),
                Err(e) => Err(e),
            });
        }
        let pages = self.get_many(&keys).await;
        let known = match asked.first() {
            Some((_, _, lsn)) => self.learn_cluster(*lsn).await,
            None => Ok(()),
        };
        for (at, page) in places.into_iter().zip(pages) {
            if let (Some(answer), Some((rel, block, lsn))) = (answers.get_mut(at), asked.get(at)) {
                *answer = page
                    .and_then(|page| known.clone().map(|()| page))
                    .and_then(|page| self.finish_page(page, *rel, *block, *lsn));
            }
        }
        answers
    }

    fn finish_page(&self, page: Bytes, rel: RelTag, block: BlockNumber, lsn: Lsn) -> Result<Bytes> {
        let key = Key::rel_block(rel, block);
        if page.len() != PAGE_SIZE {
            return Err(Error::Internal(format!(
                "timeline {}/{}: page of key {key} at LSN {lsn} has {} bytes",
                self.tenant,
                self.id,
                page.len()
            )));
        }
        if !self.cluster()?.checksums {
            return Ok(page);
        }
        // Copies only a page that others hold as well.
        let mut page = BytesMut::from(page);
        if let Some(bytes) = page.first_chunk_mut() {
            pg_format::page::set_checksum(bytes, block);
        }
        Ok(page.freeze())
    }

    /// Consecutive pages of a relation at `lsn`, all of them within its size.
    pub async fn pages(
        &self,
        rel: RelTag,
        blocks: std::ops::Range<BlockNumber>,
        lsn: Lsn,
    ) -> Vec<Result<Bytes>> {
        let keys: Vec<(Key, Lsn)> = blocks.map(|b| (Key::rel_block(rel, b), lsn)).collect();
        self.get_many(&keys).await
    }

    /// Logical size in bytes, and whether it is exact. The first call counts; later ones add what
    /// ingest reported since.
    pub async fn logical_size(&self) -> (u64, bool) {
        let known = *self.logical_size.lock();
        let base = match known {
            Some(base) => base,
            None => {
                // What was reported up to an LSN, and the size there, belong together.
                let Some((lsn, before)) = self.size_delta_at().await else {
                    return (0, false);
                };
                let Ok(size) = self.exact_logical_size(lsn).await else {
                    return (0, false);
                };
                let base = i64::try_from(size)
                    .unwrap_or(i64::MAX)
                    .saturating_sub(before);
                *self.logical_size.lock() = Some(base);
                base
            }
        };
        let size = base.saturating_add(self.size_delta.load(Ordering::Acquire));
        (u64::try_from(size).unwrap_or(0), true)
    }

    /// Size of a database in the default tablespace at `lsn`, all forks, in bytes.
    pub async fn database_size(&self, db: Oid, lsn: Lsn) -> Result<u64> {
        self.directory_size(DEFAULT_TABLESPACE, db, lsn).await
    }

    async fn directory_size(&self, spc: Oid, db: Oid, lsn: Lsn) -> Result<u64> {
        let mut blocks = 0u64;
        for rel in self.relations(spc, db, lsn).await? {
            blocks += u64::from(self.relation_size(rel, lsn).await?);
        }
        Ok(blocks * PAGE_SIZE as u64)
    }

    /// Exact logical size at `lsn`: all relation forks of all databases, in bytes.
    pub async fn exact_logical_size(&self, lsn: Lsn) -> Result<u64> {
        let mut total = 0;
        for (spc, db) in self.databases(lsn).await?.dbs.into_keys() {
            total += self.directory_size(spc, db, lsn).await?;
        }
        Ok(total)
    }

    /// Segments of an SLRU at `lsn`.
    pub async fn slru_segments(&self, kind: SlruKind, lsn: Lsn) -> Result<BTreeSet<u32>> {
        let key = Key::slru_dir(kind);
        let dir =
            SlruDirectory::decode(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))?;
        Ok(dir.segments)
    }

    /// Size of an SLRU segment at `lsn`, in pages.
    pub async fn slru_segment_size(&self, kind: SlruKind, segment: u32, lsn: Lsn) -> Result<u32> {
        let key = Key::slru_segment_size(kind, segment);
        decode_size(&self.get(key, lsn).await?).map_err(Self::malformed(key, lsn))
    }

    /// All pages of an SLRU segment at `lsn`, without the time tails of clog pages.
    pub async fn slru_segment(&self, kind: SlruKind, segment: u32, lsn: Lsn) -> Result<Bytes> {
        let pages = self.slru_segment_size(kind, segment, lsn).await?;
        let mut out = BytesMut::with_capacity(pages as usize * PAGE_SIZE);
        for block in 0..pages {
            let key = Key::slru_block(kind, segment, block);
            let page = self.get(key, lsn).await?;
            match page.get(..PAGE_SIZE) {
                Some(bytes) if page.len() == PAGE_SIZE || page.len() == PAGE_SIZE + 8 => {
                    out.extend_from_slice(bytes);
                }
                _ => {
                    return Err(Error::Internal(format!(
                        "timeline {}/{}: SLRU page of key {key} at LSN {lsn} has {} bytes",
                        self.tenant,
                        self.id,
                        page.len()
                    )));
                }
            }
        }
        Ok(out.freeze())
    }

    /// Prepared transactions at `lsn`.
    pub async fn prepared(&self, lsn: Lsn) -> Result<BTreeSet<u64>> {
        let key = Key::TWO_PHASE_DIR;
        let wide = self.version >= PgMajor::V17;
        let dir = TwoPhaseDirectory::decode(&self.get(key, lsn).await?, wide)
            .map_err(Self::malformed(key, lsn))?;
        Ok(dir.xids)
    }

    /// State of a prepared transaction, without its CRC.
    pub async fn prepared_state(&self, xid: u64, lsn: Lsn) -> Result<Bytes> {
        self.get(Key::two_phase_file(xid), lsn).await
    }

    /// Replication origins at `lsn`: (id, remote LSN), dropped ones left out.
    pub async fn replication_origins(&self, lsn: Lsn) -> Result<Vec<(u16, Lsn)>> {
        let range = KeyRange {
            start: Key::repl_origin(0),
            end: Key::repl_origin(u16::MAX).next(),
        };
        let mut out = Vec::new();
        for (key, value) in self.scan(range, lsn).await? {
            if let (types::key::Kind::ReplOrigin { id }, Some(b)) =
                (key.kind(), value.first_chunk::<8>())
                && u64::from_be_bytes(*b) != 0
            {
                out.push((id, Lsn(u64::from_be_bytes(*b))));
            }
        }
        Ok(out)
    }

    /// The control file at `lsn`.
    pub async fn control_file(&self, lsn: Lsn) -> Result<ControlFile> {
        let raw = self.get(Key::CONTROL_FILE, lsn).await?;
        ControlFile::parse(&raw).map_err(|e| Error::layer("pg_control", e))
    }

    /// The checkpoint structure at `lsn`.
    pub async fn checkpoint_struct(&self, lsn: Lsn) -> Result<CheckPoint> {
        let raw = self.get(Key::CHECKPOINT, lsn).await?;
        CheckPoint::parse(&raw, self.version).map_err(|e| Error::layer("CheckPoint", e))
    }
}
