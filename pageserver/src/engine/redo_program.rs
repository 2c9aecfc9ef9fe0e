//! Redo by a program outside, for records of extensions' resource managers.
//!
//! Native redo replays every built-in manager; a record of an extension that carries no image of
//! the page can be replayed only by the extension's own code. [`Fallback`] lets a program do that
//! part of a page's history, if the operator configured one, and says so if not. Records before and
//! after are replayed natively, and the program is asked only where native redo refused.
//!
//! The program is not trusted: its answer must be a page no newer than the records it was given,
//! it has [`TIME_LIMIT`] for it, and it is ended and started anew after any failure. At most
//! [`PROCESSES_PER_VERSION`] run for each Postgres version; requests that find all of them busy
//! wait. The engine starts no process itself: a [`Launcher`] is handed in.
//! Messages: `docs/format/redo.md`, "Redo program".

use parking_lot::{Mutex, MutexGuard};
use pg_wal::record::{Header, rmid};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use types::key::Kind;
use types::{BlockNumber, Flavour, Key, Lsn, PAGE_SIZE, PgMajor, RelTag, WalRecord};
use wal_redo::{Dialect, PageBuf, Stats};

/// How long the program may take for one request, and a request may wait for a process.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Most processes at once for each Postgres version.
pub const PROCESSES_PER_VERSION: usize = 2;
/// Records of more bytes are handed over in several requests.
pub const MAX_REQUEST: usize = 16 << 20;

const BEGIN: u8 = b'B';
const PUSH: u8 = b'P';
const APPLY: u8 = b'A';
const GET: u8 = b'G';

/// A page that could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Native redo failed, and a program would not help.
    #[error(transparent)]
    Native(#[from] wal_redo::Error),
    /// A record of an extension, and no program for it.
    #[error(
        "{0}. Its resource manager is an extension's: set wal_redo_program to a program that replays its records"
    )]
    NoProgram(wal_redo::Error),
    /// The program failed.
    #[error(
        "page {key}: wal_redo_program for Postgres {version}, given {records} records of which the last ends at {lsn}: {source}"
    )]
    Program {
        /// The page.
        key: Key,
        /// Version of the records.
        version: PgMajor,
        /// Records handed over.
        records: usize,
        /// End of the last one.
        lsn: Lsn,
        /// What went wrong.
        source: io::Error,
    },
    /// The program answered with something that cannot be the page.
    #[error(
        "page {key}: wal_redo_program for Postgres {version} made no page of the records up to {lsn}: {rule}"
    )]
    Answer {
        /// The page.
        key: Key,
        /// Version of the records.
        version: PgMajor,
        /// End of the last record handed over.
        lsn: Lsn,
        /// The rule broken.
        rule: &'static str,
    },
}

/// Starts redo programs.
pub trait Launcher: Send + Sync + fmt::Debug {
    /// Starts one for records of this version.
    fn launch(&self, version: PgMajor) -> io::Result<Box<dyn Process>>;
}

/// A running redo program. Dropping it ends it.
pub trait Process: Send + fmt::Debug {
    /// Writes a request and reads the page that answers it, all within `limit`. After an error the
    /// process is dropped.
    fn exchange(
        &mut self,
        request: &[u8],
        page: &mut [u8; PAGE_SIZE],
        limit: Duration,
    ) -> io::Result<()>;
}

/// Where redo turns when it cannot go on; without a program, an error that names the setting.
#[derive(Debug, Default)]
pub struct Fallback(OnceLock<Programs>);

#[derive(Debug)]
struct Programs {
    launcher: Arc<dyn Launcher>,
    /// Those of one version stand together.
    slots: Vec<Mutex<Option<Box<dyn Process>>>>,
    turn: AtomicUsize,
}

impl Fallback {
    /// Configures the program. Only the first call counts.
    pub fn configure(&self, launcher: Arc<dyn Launcher>) {
        let slots = PgMajor::ALL.len() * PROCESSES_PER_VERSION;
        let _ = self.0.set(Programs {
            launcher,
            slots: (0..slots).map(|_| Mutex::default()).collect(),
            turn: AtomicUsize::new(0),
        });
    }

    /// Rebuilds a page again after native redo failed with `failed`, as [`wal_redo::reconstruct`]
    /// would if it knew the extension. Blocks while the program works.
    pub fn reconstruct(
        &self,
        failed: wal_redo::Error,
        key: &Key,
        base: Option<&[u8]>,
        records: &[(Lsn, WalRecord)],
        dialect: &Dialect,
        out: &mut PageBuf,
    ) -> Result<Stats, Error> {
        let extension = matches!(&failed, wal_redo::Error::Unsupported { rmid, .. }
            if is_extension(*rmid, dialect.flavour));
        let Kind::RelBlock { rel, block } = key.kind() else {
            return Err(failed.into());
        };
        if !extension {
            return Err(failed.into());
        }
        let Some(programs) = self.0.get() else {
            return Err(Error::NoProgram(failed));
        };
        out.clear();
        if base.is_some_and(|base| base.len() != PAGE_SIZE || !out.set(base)) {
            return Err(failed.into());
        }
        let mut stats = Stats::default();
        let mut left = records;
        while let Some(((lsn, rec), rest)) = left.split_first() {
            let before = of_extension(rec, dialect).then(|| out.clone());
            match (wal_redo::apply(out, key, *lsn, rec, dialect), before) {
                (Ok(outcome), _) => {
                    stats.count(outcome);
                    left = rest;
                }
                (Err(wal_redo::Error::Unsupported { .. }), Some(before)) => {
                    let (now, later) = left.split_at(run_length(left, dialect));
                    let page = programs.replay(key, (rel, block), before.page(), now, dialect)?;
                    let _ = out.set(&page);
                    stats.changed += now.len() as u64;
                    left = later;
                }
                (Err(e), _) => return Err(e.into()),
            }
        }
        Ok(stats)
    }
}

/// True for managers that only an extension's own code knows.
fn is_extension(rm: u8, flavour: Flavour) -> bool {
    rm >= rmid::MIN_CUSTOM && !(rm == rmid::NEON && flavour == Flavour::Neon)
}

fn of_extension(rec: &WalRecord, dialect: &Dialect) -> bool {
    match rec {
        WalRecord::Postgres { rec, .. } => {
            Header::parse(rec).is_ok_and(|h| is_extension(h.rmid, dialect.flavour))
        }
        _ => false,
    }
}

/// How many of the records go into one request: those of extensions, up to the limit, at least one.
fn run_length(records: &[(Lsn, WalRecord)], dialect: &Dialect) -> usize {
    let mut bytes = 0usize;
    let fits = |(_, rec): &&(Lsn, WalRecord)| {
        let WalRecord::Postgres { rec: raw, .. } = rec else {
            return false;
        };
        bytes = bytes.saturating_add(raw.len());
        bytes <= MAX_REQUEST && of_extension(rec, dialect)
    };
    records.iter().take_while(fits).count().max(1)
}

impl Programs {
    fn replay(
        &self,
        key: &Key,
        page: (RelTag, BlockNumber),
        base: Option<&[u8; PAGE_SIZE]>,
        records: &[(Lsn, WalRecord)],
        dialect: &Dialect,
    ) -> Result<[u8; PAGE_SIZE], Error> {
        let version = dialect.version;
        let lsn = records.last().map_or(Lsn::INVALID, |(lsn, _)| *lsn);
        let mut answer = [0; PAGE_SIZE];
        self.exchange(version, &request(page, base, records), &mut answer)
            .map_err(|source| Error::Program {
                key: *key,
                version,
                records: records.len(),
                lsn,
                source,
            })?;
        let refuse = |rule| Error::Answer {
            key: *key,
            version,
            lsn,
            rule,
        };
        if !pg_format::page::is_new(&answer) && !pg_format::page::header(&answer).is_valid() {
            return Err(refuse("its header contradicts itself"));
        }
        if pg_format::page::lsn(&answer) > lsn {
            return Err(refuse("its LSN lies behind the records"));
        }
        Ok(answer)
    }

    fn exchange(
        &self,
        version: PgMajor,
        request: &[u8],
        answer: &mut [u8; PAGE_SIZE],
    ) -> io::Result<()> {
        let mut slot = self.slot(version)?;
        loop {
            // Out of its slot while it works, so that it is ended whatever happens.
            let (mut process, waited) = match slot.take() {
                Some(process) => (process, true),
                None => (self.launcher.launch(version)?, false),
            };
            match process.exchange(request, answer, TIME_LIMIT) {
                Ok(()) => {
                    *slot = Some(process);
                    return Ok(());
                }
                // One that had been waiting may have died meanwhile; a new one gets a chance.
                Err(e) if waited && e.kind() != io::ErrorKind::TimedOut => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A slot of the version, a free one if there is one.
    fn slot(&self, version: PgMajor) -> io::Result<MutexGuard<'_, Option<Box<dyn Process>>>> {
        let index = PgMajor::ALL.iter().position(|v| *v == version);
        let first = index.unwrap_or_default() * PROCESSES_PER_VERSION;
        let slots = self.slots.iter().skip(first).take(PROCESSES_PER_VERSION);
        // One that runs already before one to be started.
        let free: Vec<_> = slots.clone().filter_map(Mutex::try_lock).collect();
        if let Some(slot) = free.into_iter().max_by_key(|slot| slot.is_some()) {
            return Ok(slot);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % PROCESSES_PER_VERSION;
        slots
            .clone()
            .nth(turn)
            .and_then(|slot| slot.try_lock_for(TIME_LIMIT))
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("all its processes were busy for {TIME_LIMIT:?}"),
                )
            })
    }
}

/// Begin, perhaps a base, the records, get.
fn request(
    page: (RelTag, BlockNumber),
    base: Option<&[u8; PAGE_SIZE]>,
    records: &[(Lsn, WalRecord)],
) -> Vec<u8> {
    let tag = tag(page);
    let mut out = Vec::new();
    message(&mut out, BEGIN, &[&tag]);
    if let Some(base) = base {
        message(&mut out, PUSH, &[&tag, base]);
    }
    for (lsn, rec) in records {
        if let WalRecord::Postgres { rec, .. } = rec {
            message(&mut out, APPLY, &[&lsn.0.to_be_bytes(), rec]);
        }
    }
    message(&mut out, GET, &[&tag]);
    out
}

fn tag((rel, block): (RelTag, BlockNumber)) -> [u8; 17] {
    let mut out = [0; 17];
    let numbers = [rel.spc, rel.db, rel.rel, block].map(u32::to_be_bytes);
    let bytes = [rel.fork as u8]
        .into_iter()
        .chain(numbers.into_iter().flatten());
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    out
}

/// A type byte, then a length that counts itself and what follows. A record is below 1 GiB.
fn message(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len = 4 + parts.iter().map(|p| p.len()).sum::<usize>();
    out.push(kind);
    out.extend((len as u32).to_be_bytes());
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

#[cfg(test)]
mod tests;
