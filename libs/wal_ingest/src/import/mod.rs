//! A data directory's files as keys and values (`docs/format/keys.md`, "Import").
//!
//! [`Pgdata`] is fed one file after the other, each in chunks of any size, and hands (key, value)
//! pairs to a sink as soon as a page is complete; it keeps directories, sizes and at most one page
//! or small file in memory. [`Pgdata::finish`] hands over the directories. Pages keep the bytes
//! they have in the files, their LSNs included, so that replay over an online backup can tell which
//! ones are newer than a record.
//!
//! All values belong at one LSN, which is the caller's business, as are the order of files, the
//! placement in layers, and the WAL that follows. Not kept: configuration, WAL, statistics, slots,
//! commit timestamps, temporary files. Refused: user tablespaces.

use pg_format::pgdata::{Content, classify};
use pg_format::{CheckPoint, ControlFile, RelFile, relmap, replorigin, twophase};
use std::collections::BTreeMap;
use types::directory::{DbDirectory, RelDirectory, SlruDirectory, TwoPhaseDirectory, encode_size};
use types::key::SIZE_BLOCK;
use types::rel::{BLOCKS_PER_SEGMENT, SLRU_PAGES_PER_SEGMENT};
use types::shard::ShardIdentity;
use types::{Key, Oid, PAGE_SIZE, PgMajor, RelTag, SlruKind};

/// Largest file that is kept in memory as a whole, in bytes: the state of a transaction prepared
/// with several million subtransactions.
pub const MAX_SMALL_FILE: u64 = 64 << 20;

/// A data directory that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file name where only certain names can be.
    #[error("{path}: not a name Postgres gives to a file there")]
    Name {
        /// The path.
        path: String,
    },
    /// A tablespace other than the built-in ones.
    #[error("{path}: user tablespaces are not supported; move their contents to pg_default first")]
    Tablespace {
        /// The path.
        path: String,
    },
    /// A file of impossible size.
    #[error("{path}: {size} bytes, expected {expected}")]
    Size {
        /// The path.
        path: String,
        /// Its size.
        size: u64,
        /// What is possible.
        expected: &'static str,
    },
    /// Fewer or more bytes arrived than announced.
    #[error("{path}: {got} bytes arrived of {size} announced")]
    Length {
        /// The path.
        path: String,
        /// Announced.
        size: u64,
        /// Arrived.
        got: u64,
    },
    /// The same file came twice.
    #[error("{path}: came twice")]
    Twice {
        /// The path.
        path: String,
    },
    /// The control file is not usable.
    #[error("global/pg_control: {0}")]
    Control(#[from] pg_format::control::Error),
    /// The control file belongs to another version.
    #[error("global/pg_control is of Postgres {found}, the timeline of {expected}")]
    Version {
        /// Of the file.
        found: PgMajor,
        /// Of the timeline.
        expected: PgMajor,
    },
    /// A small file's contents are malformed.
    #[error("{path}: {reason}")]
    Content {
        /// The path.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A required file did not come.
    #[error("{0} is missing from the data directory")]
    Missing(String),
    /// A relation lacks a segment file before its last one.
    #[error("{rel}: {pages} pages came, but its last segment ends at {end}")]
    Hole {
        /// Relation fork.
        rel: RelTag,
        /// Pages that came.
        pages: u64,
        /// End of the last segment in pages.
        end: u32,
    },
}

/// A file being fed.
#[derive(Debug)]
pub struct File {
    path: String,
    content: Content,
    size: u64,
    got: u64,
    partial: Vec<u8>,
}

impl File {
    /// The path it was opened with.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The control file.
    pub control: ControlFile,
    /// Its embedded checkpoint.
    pub checkpoint: CheckPoint,
    /// Logical size: pages of all relation forks, in bytes.
    pub logical_size: u64,
    /// Databases, one per tablespace they have files in.
    pub databases: usize,
    /// Relation forks.
    pub relations: usize,
}

#[derive(Debug, Default)]
struct Extent {
    end: u32,
    pages: u64,
}

/// Collects a data directory.
#[derive(Debug)]
pub struct Pgdata {
    version: PgMajor,
    shard: ShardIdentity,
    dbs: DbDirectory,
    rels: BTreeMap<(Oid, Oid), RelDirectory>,
    extents: BTreeMap<RelTag, Extent>,
    slrus: BTreeMap<(SlruKind, u32), u32>,
    prepared: TwoPhaseDirectory,
    control: Option<ControlFile>,
}

impl Pgdata {
    /// An empty data directory of a version, of which one shard's part is wanted.
    pub fn new(version: PgMajor, shard: ShardIdentity) -> Self {
        Pgdata {
            version,
            shard,
            dbs: DbDirectory::default(),
            rels: BTreeMap::new(),
            extents: BTreeMap::new(),
            slrus: BTreeMap::new(),
            prepared: TwoPhaseDirectory::default(),
            control: None,
        }
    }

    /// Announces a regular file: its path relative to the data directory, with `/`, and its size
    /// in bytes. `None`: the file is not kept; skip its bytes.
    pub fn open(&mut self, path: &str, size: u64) -> Result<Option<File>, Error> {
        let path = path.trim_start_matches("./");
        let content = classify(path, self.version);
        let name = path.rsplit('/').next().unwrap_or_default();
        let short = || path.chars().take(256).collect::<String>();
        if path.starts_with("pg_tblspc/") {
            return Err(Error::Tablespace { path: short() });
        }
        match content {
            Content::Relation(file) => {
                let pages = pages(
                    path,
                    size,
                    BLOCKS_PER_SEGMENT,
                    "a multiple of 8192, at most 1 GiB",
                )?;
                self.add_segment(path, file, pages)?;
            }
            Content::Slru { kind, segment } => {
                if !self.shard.index.is_zero() {
                    return Ok(None);
                }
                let expected = "a multiple of 8192, at most 32 pages";
                let pages = pages(path, size, SLRU_PAGES_PER_SEGMENT, expected)?;
                if self.slrus.insert((kind, segment), pages).is_some() {
                    return Err(Error::Twice { path: short() });
                }
            }
            Content::Control
            | Content::RelMap { .. }
            | Content::TwoPhase { .. }
            | Content::ReplOrigins => {
                if size > MAX_SMALL_FILE {
                    let path = short();
                    return Err(Error::Size {
                        path,
                        size,
                        expected: "at most 64 MiB",
                    });
                }
            }
            // Caches that every server start rebuilds, temporary and hidden files.
            Content::DatabaseOther
                if !["pg_internal.init", "pgsql_tmp", "."]
                    .iter()
                    .any(|p| name.starts_with(p)) =>
            {
                return Err(Error::Name { path: short() });
            }
            _ => return Ok(None),
        }
        Ok(Some(File {
            path: short(),
            content,
            size,
            got: 0,
            partial: Vec::new(),
        }))
    }

    fn add_segment(&mut self, path: &str, file: RelFile, pages: u32) -> Result<(), Error> {
        let rel = file.rel;
        let end = file.first_block().checked_add(pages);
        let Some(end) = end.filter(|e| *e < SIZE_BLOCK) else {
            return Err(Error::Name {
                path: path.to_owned(),
            });
        };
        self.dbs.dbs.entry((rel.spc, rel.db)).or_insert(false);
        self.rels
            .entry((rel.spc, rel.db))
            .or_default()
            .rels
            .insert((rel.rel, rel.fork));
        let extent = self.extents.entry(rel).or_default();
        // Empty files behind the end are leftovers of a truncation.
        if pages > 0 {
            extent.end = extent.end.max(end);
            extent.pages += u64::from(pages);
        }
        Ok(())
    }

    /// Feeds the next bytes of a file. `sink` gets (key, value) pairs.
    pub fn feed(
        &mut self,
        file: &mut File,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Key, &[u8]),
    ) -> Result<(), Error> {
        let first = file.got / PAGE_SIZE as u64;
        file.got = file.got.saturating_add(bytes.len() as u64);
        if file.got > file.size {
            return Err(file.wrong_length());
        }
        let mut block = first;
        match file.content {
            Content::Relation(_) | Content::Slru { .. } => {
                if !file.partial.is_empty() {
                    let missing = PAGE_SIZE - file.partial.len();
                    let (head, tail) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
                    file.partial.extend_from_slice(head);
                    bytes = tail;
                    if file.partial.len() < PAGE_SIZE {
                        return Ok(());
                    }
                    self.page(file.content, block, &file.partial, sink);
                    file.partial.clear();
                    block += 1;
                }
                let (pages, rest) = bytes.as_chunks::<PAGE_SIZE>();
                for page in pages {
                    self.page(file.content, block, page, sink);
                    block += 1;
                }
                file.partial.extend_from_slice(rest);
            }
            _ => file.partial.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn page(&self, content: Content, block: u64, page: &[u8], sink: &mut impl FnMut(Key, &[u8])) {
        // Bounded by the file's size, which was checked.
        let block = block as u32;
        let key = match content {
            Content::Relation(file) => Key::rel_block(file.rel, file.first_block() + block),
            Content::Slru { kind, segment } => Key::slru_block(kind, segment, block),
            _ => return,
        };
        if self.shard.keeps(&key) {
            sink(key, page);
        }
    }

    /// Ends a file. All its bytes must have come.
    pub fn close(&mut self, file: File, sink: &mut impl FnMut(Key, &[u8])) -> Result<(), Error> {
        if file.got != file.size {
            return Err(file.wrong_length());
        }
        match file.content {
            Content::Slru { kind, segment } => {
                let pages = (file.size / PAGE_SIZE as u64) as u32;
                sink(Key::slru_segment_size(kind, segment), &encode_size(pages));
            }
            Content::RelMap { spc, db } => self.rel_map(file, spc, db, sink)?,
            Content::Control => self.control_file(file, sink)?,
            Content::TwoPhase { xid } => self.two_phase(file, xid.0, sink)?,
            Content::ReplOrigins => {
                for (id, lsn) in replorigin::parse(&file.partial).map_err(|e| file.malformed(&e))? {
                    sink(Key::repl_origin(id), &lsn.0.to_be_bytes());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rel_map(
        &mut self,
        file: File,
        spc: Oid,
        db: Oid,
        sink: &mut impl FnMut(Key, &[u8]),
    ) -> Result<(), Error> {
        relmap::RelMap::parse(&file.partial, self.version).map_err(|e| file.malformed(&e))?;
        if self.dbs.dbs.insert((spc, db), true) == Some(true) {
            return Err(Error::Twice { path: file.path });
        }
        self.rels.entry((spc, db)).or_default();
        sink(Key::rel_map(spc, db), &file.partial);
        Ok(())
    }

    fn control_file(&mut self, file: File, sink: &mut impl FnMut(Key, &[u8])) -> Result<(), Error> {
        let control = ControlFile::parse(&file.partial)?;
        if control.major() != self.version {
            return Err(Error::Version {
                found: control.major(),
                expected: self.version,
            });
        }
        let checkpoint = control.checkpoint().encode();
        sink(Key::CHECKPOINT, &checkpoint);
        sink(Key::CONTROL_FILE, &file.partial);
        if self.control.replace(control).is_some() {
            return Err(Error::Twice { path: file.path });
        }
        Ok(())
    }

    fn two_phase(
        &mut self,
        file: File,
        xid: u64,
        sink: &mut impl FnMut(Key, &[u8]),
    ) -> Result<(), Error> {
        let state = twophase::strip_crc(&file.partial).map_err(|e| file.malformed(&e))?;
        if state.len() == file.partial.len() {
            return Err(file.malformed(&"its CRC is missing"));
        }
        if !self.prepared.xids.insert(xid) {
            return Err(Error::Twice { path: file.path });
        }
        sink(Key::two_phase_file(xid), state);
        Ok(())
    }

    /// Hands over directories and sizes. Fails if a file is missing that must be there.
    pub fn finish(self, sink: &mut impl FnMut(Key, &[u8])) -> Result<Imported, Error> {
        let control = self
            .control
            .ok_or_else(|| Error::Missing("global/pg_control".into()))?;
        if self.dbs.dbs.get(&(types::rel::GLOBAL_TABLESPACE, 0)) != Some(&true) {
            return Err(Error::Missing("global/pg_filenode.map".into()));
        }
        let mut pages = 0u64;
        for (rel, extent) in &self.extents {
            if extent.pages != u64::from(extent.end) {
                let Extent { end, pages } = *extent;
                return Err(Error::Hole {
                    rel: *rel,
                    pages,
                    end,
                });
            }
            sink(Key::rel_size(*rel), &encode_size(extent.end));
            pages += extent.pages;
        }
        for ((spc, db), dir) in &self.rels {
            sink(Key::rel_dir(*spc, *db), &dir.encode());
        }
        sink(Key::DB_DIR, &self.dbs.encode());
        sink(
            Key::TWO_PHASE_DIR,
            &self.prepared.encode(self.version >= PgMajor::V17),
        );
        if self.shard.index.is_zero() {
            for kind in SlruKind::ALL {
                let of_kind = self.slrus.keys().filter(|(k, _)| *k == kind);
                let dir = SlruDirectory {
                    segments: of_kind.map(|(_, s)| *s).collect(),
                };
                sink(Key::slru_dir(kind), &dir.encode());
            }
        }
        Ok(Imported {
            checkpoint: control.checkpoint(),
            control,
            logical_size: pages * PAGE_SIZE as u64,
            databases: self.dbs.dbs.len(),
            relations: self.extents.len(),
        })
    }
}

impl File {
    fn malformed(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Content {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn wrong_length(&self) -> Error {
        Error::Length {
            path: self.path.clone(),
            size: self.size,
            got: self.got,
        }
    }
}

/// Pages of a file of pages.
fn pages(path: &str, size: u64, max: u32, expected: &'static str) -> Result<u32, Error> {
    let whole = size.is_multiple_of(PAGE_SIZE as u64);
    u32::try_from(size / PAGE_SIZE as u64)
        .ok()
        .filter(|n| whole && *n <= max)
        .ok_or_else(|| Error::Size {
            path: path.to_owned(),
            size,
            expected,
        })
}

#[cfg(test)]
mod tests;
