//! A data directory and the WAL after it as keys and values in memory.

use crate::oracle::segments;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use pg_wal::record::Header;
use pg_wal::stream::{Config, segment};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::shard::ShardIdentity;
use types::{Batch, Flavour, Key, Lsn, PgMajor, Value, WalRecord};
use wal_ingest::import::Pgdata;
use wal_ingest::{Ingest, Store, StoreError};
use wal_redo::{Dialect, PageBuf};

/// WAL in memory, from a checkpoint record on.
#[derive(Debug)]
pub struct Wal {
    start: Lsn,
    bytes: Vec<u8>,
    cfg: Config,
}

impl Wal {
    /// Reads a `pg_wal` directory from the checkpoint of a replica on.
    pub fn read(directory: &Path, replica: &Replica) -> Result<Wal> {
        let start = replica.start;
        let (size, first, paths) = segments(directory)?;
        let skipped = start.segment_number(u64::from(size));
        let skipped = usize::try_from(skipped.checked_sub(first).context("WAL is missing")?)?;
        let mut bytes = Vec::new();
        for path in paths.iter().skip(skipped) {
            bytes.extend(fs::read(path)?);
        }
        bytes.drain(..usize::try_from(start.segment_offset(u64::from(size)))?.min(bytes.len()));
        let cfg = Config {
            segment_size: size,
            ..Config::new(replica.dialect.version)
        };
        Ok(Wal { start, bytes, cfg })
    }

    /// Its records.
    pub fn records(&self) -> segment::Reader<'_> {
        segment::Reader::new(self.start, &self.bytes, self.cfg)
    }

    /// Where it starts: at the checkpoint record.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Where the last record ends.
    pub fn end(&self) -> Result<Lsn> {
        let mut records = self.records();
        while records.next().is_some() {}
        ensure!(
            records.end() > self.start,
            "no WAL at {}: {:?}",
            self.start,
            records.stopped()
        );
        Ok(records.end())
    }
}

/// A value at an LSN, and whether it needs nothing older.
type Version = (Lsn, bool, Bytes);

#[derive(Debug, Default)]
struct State {
    values: HashMap<Key, Vec<Version>>,
    last: Lsn,
}

/// Every version of every key.
#[derive(Debug)]
pub struct Replica {
    start: Lsn,
    dialect: Dialect,
    state: Mutex<State>,
}

/// A page and what it was made of.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    /// The page.
    pub bytes: Bytes,
    /// Records replayed, oldest first.
    pub records: Vec<(Lsn, WalRecord)>,
}

impl Replica {
    /// Takes the files of a server that was shut down.
    pub fn import(data: &Path, version: PgMajor) -> Result<Replica> {
        let mut values = HashMap::new();
        let mut pgdata = Pgdata::new(version, ShardIdentity::UNSHARDED);
        let start = super::control(data)?.checkpoint_lsn();
        let mut sink = |key: Key, bytes: &[u8]| {
            let image = Value::Image(Bytes::copy_from_slice(bytes)).to_bytes();
            values.insert(key, vec![(start, true, Bytes::from(image))]);
        };
        for path in files_below(data, Path::new(""))? {
            let bytes = fs::read(data.join(&path))?;
            let name = path.to_string_lossy();
            if let Some(mut file) = pgdata.open(&name, bytes.len() as u64)? {
                pgdata.feed(&mut file, &bytes, &mut sink)?;
                pgdata.close(file, &mut sink)?;
            }
        }
        let control = pgdata.finish(&mut sink)?.control;
        let dialect = Dialect {
            version,
            flavour: Flavour::Vanilla,
            hint_bits_logged: control.data_checksum_version() != 0
                || control.parameters().wal_log_hints,
        };
        let last = start;
        let state = Mutex::new(State { values, last });
        Ok(Replica {
            start,
            dialect,
            state,
        })
    }

    /// The checkpoint record that the WAL begins with.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Properties of the WAL.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Ingests all records. Returns how many there are and their types: manager and high nibble
    /// of the info byte.
    pub async fn ingest(&self, wal: &Wal) -> Result<(u64, BTreeSet<(u8, u8)>)> {
        let cfg = wal_ingest::Config::new(self.dialect.version);
        let mut ingest = Ingest::load(self, cfg, self.start).await?;
        let mut records = wal.records();
        let mut seen = BTreeSet::new();
        while let Some(rec) = records.next() {
            let header = Header::parse(rec.bytes)?;
            seen.insert((header.rmid, header.info & 0xF0));
            ingest.record(self, rec.start, rec.end, rec.bytes).await?;
        }
        ingest.commit(self).await?;
        Ok((ingest.counters().records, seen))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest value of a key; `None` if it was never written or is deleted.
    ///
    /// # Errors
    /// A value is malformed or a page cannot be rebuilt.
    pub fn newest(&self, key: Key) -> Result<Option<Rebuilt>> {
        let chain: Vec<Version> = {
            let state = self.state();
            let Some(all) = state.values.get(&key) else {
                return Ok(None);
            };
            let visible = all.partition_point(|(lsn, _, _)| *lsn <= state.last);
            let visible = all.get(..visible).unwrap_or_default();
            let from = visible
                .iter()
                .rposition(|(_, init, _)| *init)
                .unwrap_or_default();
            visible.get(from..).unwrap_or_default().to_vec()
        };
        let mut base = None;
        let mut records = Vec::new();
        for (lsn, _, bytes) in &chain {
            match Value::decode(bytes)? {
                Value::Image(image) => base = Some(image),
                Value::WalRecord(rec) => records.push((*lsn, rec)),
            }
        }
        if records.is_empty() {
            let bytes = base.filter(|b| !b.is_empty());
            return Ok(bytes.map(|bytes| Rebuilt { bytes, records }));
        }
        let mut page = PageBuf::new();
        let list = records.iter().map(|(lsn, rec)| (*lsn, rec));
        wal_redo::reconstruct(&key, base.as_deref(), list, &self.dialect, &mut page)?;
        let bytes = Bytes::copy_from_slice(page.as_slice());
        Ok(Some(Rebuilt { bytes, records }))
    }
}

impl Store for Replica {
    async fn get(&self, key: Key) -> Result<Option<Bytes>, StoreError> {
        let found = self.newest(key).map_err(|e| StoreError(e.into()))?;
        Ok(found.map(|f| f.bytes))
    }

    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let raw = Bytes::from(batch.raw);
        let mut state = self.state();
        for e in &batch.entries {
            let bytes = raw.slice(e.offset..e.offset + e.len);
            let versions = state.values.entry(e.key).or_default();
            versions.push((e.lsn, e.will_init, bytes));
        }
        if batch.last_lsn.is_valid() {
            state.last = batch.last_lsn;
        }
        Ok(())
    }
}

/// Regular files below a directory, without WAL.
fn files_below(root: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()? {
            t if t.is_dir() && path != Path::new("pg_wal") => {
                found.extend(files_below(root, &path)?)
            }
            t if t.is_file() => found.push(path),
            _ => {}
        }
    }
    Ok(found)
}
