//! A disk in memory that knows what would survive a power cut.
//!
//! Per file it keeps what was synced and the writes since; per directory the entries that
//! [`Disk::sync_dir`] made durable and the changes since. [`SimDisk::after_crash`] is a disk as
//! the next start finds it: of the changes to a directory a random number, from the first on; of
//! the writes to a file none, all, the first few with the last of them torn, or the right length
//! filled with zeros. A directory whose parent was never synced may be gone with all in it, and one
//! that was removed may be back. A failed sync loses what it should have written for good.

use crate::faults::Faults;
use crate::plan::{Fault, Plan};
use crate::power::{Power, Step};
use crate::random::Random;
use crate::trace::Trace;
use pageserver::engine::disk::{Disk, Entry, ReadFile, WriteFile, parent};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;

type Inode = Arc<Mutex<File>>;

#[derive(Debug, Default, Clone)]
struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

fn overwrite(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(part) = content.get_mut(at..end) {
        part.copy_from_slice(bytes);
    }
}

impl File {
    /// What a power cut leaves.
    fn after_crash(&self, random: &mut Random) -> Vec<u8> {
        let mut left = self.durable.clone();
        let n = self.unsynced.len() as u64;
        if n == 0 {
            return left;
        }
        match random.below(4) {
            0 => {}
            1 => left.clone_from(&self.content),
            2 => {
                left.resize(self.content.len().max(left.len()), 0);
            }
            _ => {
                let kept = random.below(n) as usize;
                for (at, bytes) in self.unsynced.iter().take(kept) {
                    overwrite(&mut left, *at, bytes);
                }
                if let Some((at, bytes)) = self.unsynced.get(kept) {
                    let torn = random.below(bytes.len() as u64 + 1) as usize;
                    overwrite(&mut left, *at, bytes.get(..torn).unwrap_or_default());
                }
            }
        }
        left
    }
}

#[derive(Debug, Clone)]
enum Change {
    Link(String, Inode),
    Unlink(String),
    Rename(String, String),
}

#[derive(Debug, Default, Clone)]
struct Directory {
    entries: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    unsynced: Vec<Change>,
    /// The parent was synced since it was created.
    safe: bool,
}

fn apply(entries: &mut BTreeMap<String, Inode>, change: &Change) {
    match change {
        Change::Link(name, inode) => {
            entries.insert(name.clone(), Arc::clone(inode));
        }
        Change::Unlink(name) => {
            entries.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = entries.remove(from) {
                entries.insert(to.clone(), inode);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    directories: BTreeMap<String, Directory>,
    /// Removed, but the removal is not durable.
    removed: BTreeMap<String, Directory>,
    random: Random,
    faults: Faults,
    /// Every change of a path that contains this fails.
    broken: Option<String>,
    /// The change under way is to fail for lack of space.
    full: bool,
    /// Directories that the last power cut took, as their parents were never synced.
    lost: Vec<String>,
}

/// A simulated disk; clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
    power: Arc<Power>,
    trace: Trace,
    plan: Arc<Plan>,
}

fn no_space() -> Error {
    Error::new(ErrorKind::StorageFull, "injected lack of space")
}

fn dead() -> Error {
    Error::other("no power")
}

impl SimDisk {
    /// An empty disk.
    pub fn new(name: &str, power: Arc<Power>, trace: Trace, random: Random) -> SimDisk {
        let root = Directory {
            safe: true,
            ..Directory::default()
        };
        let state = State {
            directories: [(String::new(), root)].into(),
            removed: BTreeMap::new(),
            random,
            faults: Faults::none(),
            broken: None,
            full: false,
            lost: Vec::new(),
        };
        SimDisk {
            name: name.into(),
            state: Arc::new(Mutex::new(state)),
            power,
            trace,
            plan: Arc::default(),
        }
    }

    /// The same disk with a planned fault.
    pub fn with_plan(self, plan: Arc<Plan>) -> SimDisk {
        SimDisk { plan, ..self }
    }

    /// The fault that is planned for this machine.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    /// Changes the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Makes every change of a path that contains `part` fail.
    pub fn break_path(&self, part: &str) {
        self.state.lock().broken = Some(part.to_owned());
    }

    /// The disk as a machine with new power finds it after this one's was cut.
    pub fn after_crash(&self, name: &str, power: Arc<Power>, mut random: Random) -> SimDisk {
        let next = SimDisk::new(name, power, self.trace.clone(), random.clone());
        let old = self.state.lock();
        let mut lost: Vec<String> = Vec::new();
        let mut left = BTreeMap::new();
        let back = old
            .removed
            .iter()
            .filter(|(p, _)| !old.directories.contains_key(*p));
        let all: BTreeMap<&String, &Directory> = old.directories.iter().chain(back).collect();
        for (path, directory) in all {
            let was_removed = !old.directories.contains_key(path);
            let gone = lost.iter().any(|l| path.starts_with(l.as_str()))
                || (!path.is_empty() && (was_removed || !directory.safe) && random.chance(0.5));
            if gone {
                lost.push(format!("{path}/"));
                continue;
            }
            let mut entries = directory.durable.clone();
            let kept = random.below(directory.unsynced.len() as u64 + 1) as usize;
            for change in directory.unsynced.iter().take(kept) {
                apply(&mut entries, change);
            }
            let entries: BTreeMap<String, Inode> = entries
                .into_iter()
                .map(|(name, inode)| {
                    let content = inode.lock().after_crash(&mut random);
                    let file = File {
                        durable: content.clone(),
                        content,
                        unsynced: Vec::new(),
                    };
                    (name, Arc::new(Mutex::new(file)))
                })
                .collect();
            left.insert(
                path.clone(),
                Directory {
                    durable: entries.clone(),
                    entries,
                    unsynced: Vec::new(),
                    safe: true,
                },
            );
        }
        drop(old);
        {
            let mut state = next.state.lock();
            state.directories = left;
            state.lost = lost;
        }
        next
    }

    /// The same content on a machine with new power: an orderly restart.
    pub fn after_restart(&self, name: &str, power: Arc<Power>, random: Random) -> SimDisk {
        let next = SimDisk::new(name, power, self.trace.clone(), random);
        {
            let old = self.state.lock();
            let mut new = next.state.lock();
            new.directories.clone_from(&old.directories);
            new.removed.clone_from(&old.removed);
        }
        next
    }

    /// Paths of all files, with their lengths.
    pub fn files(&self) -> BTreeMap<String, u64> {
        let state = self.state.lock();
        let mut out = BTreeMap::new();
        for (path, directory) in &state.directories {
            for (name, inode) in &directory.entries {
                out.insert(format!("{path}/{name}"), inode.lock().content.len() as u64);
            }
        }
        out
    }

    /// Changes a file behind the engine's back, and what a crash would leave of it. False if there is
    /// no such file.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Ok(inode) = self.state.lock().inode(path) else {
            return false;
        };
        let mut file = inode.lock();
        change(&mut file.content);
        file.durable = file.content.clone();
        file.unsynced.clear();
        true
    }

    /// A file's content.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let inode = self.state.lock().inode(path).ok()?;
        Some(inode.lock().content.clone())
    }

    /// Directories that the power cut before this disk took whole, each with a slash.
    pub fn lost_directories(&self) -> Vec<String> {
        self.state.lock().lost.clone()
    }

    /// Paths of all directories.
    pub fn directories(&self) -> Vec<String> {
        self.state.lock().directories.keys().cloned().collect()
    }

    /// Runs one operation with an effect: power, faults, trace.
    fn step<T>(
        &self,
        what: &str,
        path: &str,
        detail: u64,
        effect: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let step = self.power.step();
        if step == Step::Dead {
            return Err(dead());
        }
        self.trace.io();
        let kinds = [Fault::NoSpace, Fault::DiskError];
        let planned = self.plan.step(&kinds, || format!("{what} {path}"));
        let mut state = self.state.lock();
        let chance = state.faults.disk_error;
        let broken = state.broken.as_ref().is_some_and(|b| path.contains(b));
        state.full = planned == Some(Fault::NoSpace);
        let result = if state.random.chance(chance) || broken || planned == Some(Fault::DiskError) {
            self.trace.fault();
            Err(Error::other("injected I/O error"))
        } else if state.full && what != "write" {
            self.trace.fault();
            Err(no_space())
        } else {
            effect(&mut state)
        };
        state.full = false;
        drop(state);
        let outcome = match &result {
            Ok(_) => "",
            Err(e) if e.kind() == ErrorKind::NotFound => ": not found",
            Err(_) => ": failed",
        };
        self.trace
            .event(format!("{} {what} {path} {detail:x}{outcome}", self.name));
        if step == Step::Last {
            self.power.cut();
            return Err(dead());
        }
        result
    }

    fn look<T>(&self, path: &str, read: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        if self.power.is_dead() {
            return Err(dead());
        }
        self.trace.io();
        let mut state = self.state.lock();
        let chance = state.faults.disk_error;
        let planned = self
            .plan
            .step(&[Fault::ReadError], || format!("read {path}"));
        if state.random.chance(chance) || planned.is_some() {
            self.trace.fault();
            self.trace
                .event(format!("{} read {path}: failed", self.name));
            return Err(Error::other("injected I/O error"));
        }
        read(&state)
    }
}

impl State {
    fn directory(&mut self, path: &str) -> Result<&mut Directory> {
        self.directories
            .get_mut(path)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no directory {path:?}")))
    }

    fn inode(&self, path: &str) -> Result<Inode> {
        let inode = self
            .directories
            .get(parent(path))
            .and_then(|d| d.entries.get(file_name(path)));
        inode
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no file {path:?}")))
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

struct Writer {
    disk: SimDisk,
    path: String,
    inode: Inode,
}

impl Writer {
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let inode = Arc::clone(&self.inode);
        let sum = u64::from(types::crc32c::of(bytes)) << 32 | bytes.len() as u64;
        self.disk.step("write", &self.path, sum, move |state| {
            let full = state.random.chance(state.faults.no_space) || state.full;
            let part = if full {
                state.random.below(bytes.len() as u64 + 1) as usize
            } else {
                bytes.len()
            };
            let part = bytes.get(..part).unwrap_or_default();
            let mut file = inode.lock();
            overwrite(&mut file.content, at, part);
            file.unsynced.push((at, part.to_vec()));
            if full { Err(no_space()) } else { Ok(()) }
        })
    }
}

impl WriteFile for Writer {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let at = self.inode.lock().content.len();
        self.write(at, bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(offset).map_err(Error::other)?;
        self.write(at, bytes)
    }

    fn sync(&mut self) -> Result<()> {
        let synced = Arc::clone(&self.inode);
        let result = self.disk.step("sync", &self.path, 0, move |_| {
            let mut file = synced.lock();
            file.durable = file.content.clone();
            file.unsynced.clear();
            Ok(())
        });
        if result.is_err() && !self.disk.power.is_dead() {
            self.inode.lock().unsynced.clear();
        }
        result
    }
}

#[derive(Debug)]
struct Reader {
    disk: SimDisk,
    path: String,
    inode: Inode,
}

impl ReadFile for Reader {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.look(&self.path, |_| {
            let file = self.inode.lock();
            let at = usize::try_from(offset).map_err(Error::other)?;
            let part = at
                .checked_add(buf.len())
                .and_then(|end| file.content.get(at..end))
                .ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, self.path.clone()))?;
            buf.copy_from_slice(part);
            Ok(())
        })
    }

    fn len(&self) -> Result<u64> {
        self.disk
            .look(&self.path, |_| Ok(self.inode.lock().content.len() as u64))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> Result<Box<dyn WriteFile>> {
        let inode: Inode = Arc::default();
        let linked = Arc::clone(&inode);
        self.step("create", path, 0, |state| {
            let directory = state.directory(parent(path))?;
            let name = file_name(path).to_owned();
            if directory.entries.contains_key(&name) {
                return Err(Error::new(ErrorKind::AlreadyExists, path.to_owned()));
            }
            let change = Change::Link(name, linked);
            apply(&mut directory.entries, &change);
            directory.unsynced.push(change);
            Ok(())
        })?;
        Ok(Box::new(Writer {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
        }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadFile>> {
        let inode = self.look(path, |state| state.inode(path))?;
        Ok(Arc::new(Reader {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
        }))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let inode = self.look(path, |state| state.inode(path))?;
        let content = inode.lock().content.clone();
        Ok(content)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.step("rename", to, 0, |state| {
            if parent(from) != parent(to) {
                return Err(Error::new(ErrorKind::Unsupported, "between directories"));
            }
            state.inode(from)?;
            let directory = state.directory(parent(from))?;
            let change = Change::Rename(file_name(from).to_owned(), file_name(to).to_owned());
            apply(&mut directory.entries, &change);
            directory.unsynced.push(change);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.step("remove", path, 0, |state| {
            state.inode(path)?;
            let directory = state.directory(parent(path))?;
            let change = Change::Unlink(file_name(path).to_owned());
            apply(&mut directory.entries, &change);
            directory.unsynced.push(change);
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &str) -> Result<()> {
        self.step("remove_dir_all", path, 0, |state| {
            let below = format!("{path}/");
            let gone: Vec<String> = state
                .directories
                .keys()
                .filter(|p| *p == path || p.starts_with(&below))
                .cloned()
                .collect();
            for p in gone {
                if let Some(directory) = state.directories.remove(&p) {
                    state.removed.insert(p, directory);
                }
            }
            Ok(())
        })
    }

    fn create_dir_all(&self, path: &str) -> Result<()> {
        self.step("create_dir_all", path, 0, |state| {
            let mut at = path;
            while !state.directories.contains_key(at) {
                state
                    .directories
                    .insert(at.to_owned(), Directory::default());
                state.removed.remove(at);
                at = parent(at);
            }
            Ok(())
        })
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.step("sync_dir", path, 0, |state| {
            let directory = state.directory(path)?;
            directory.durable = directory.entries.clone();
            directory.unsynced.clear();
            for (p, d) in &mut state.directories {
                if !p.is_empty() && parent(p) == path {
                    d.safe = true;
                }
            }
            state.removed.retain(|p, _| parent(p) != path);
            Ok(())
        })
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.look(path, |state| {
            let Some(directory) = state.directories.get(path) else {
                return Ok(Vec::new());
            };
            let files = directory.entries.iter().map(|(name, inode)| Entry {
                name: name.clone(),
                is_dir: false,
                len: inode.lock().content.len() as u64,
            });
            let below = state
                .directories
                .keys()
                .filter(|p| !p.is_empty() && parent(p) == path)
                .map(|p| Entry {
                    name: file_name(p).to_owned(),
                    is_dir: true,
                    len: 0,
                });
            Ok(files.chain(below).collect())
        })
    }

    fn host_path(&self, _path: &str) -> Option<PathBuf> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> SimDisk {
        let random = Random::new(1, "disk");
        SimDisk::new("d", Arc::default(), Trace::new(false), random)
    }

    fn crashed(disk: &SimDisk, seed: u64) -> SimDisk {
        disk.after_crash("d2", Arc::default(), Random::new(seed, "crash"))
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        let d = disk();
        d.create_dir_all("a").unwrap();
        d.sync_dir("").unwrap();
        let mut f = d.create("a/x.tmp").unwrap();
        f.append(b"hello").unwrap();
        f.sync().unwrap();
        d.rename("a/x.tmp", "a/x").unwrap();
        d.sync_dir("a").unwrap();
        for seed in 0..50 {
            assert_eq!(crashed(&d, seed).read("a/x").unwrap(), b"hello");
        }
    }

    #[test]
    fn what_was_not_synced_may_be_lost_torn_or_kept() {
        let d = disk();
        let mut f = d.create("x").unwrap();
        f.append(b"12").unwrap();
        f.append(b"345678").unwrap();
        d.sync_dir("").unwrap();
        let seen: std::collections::BTreeSet<Vec<u8>> = (0..200)
            .map(|seed| crashed(&d, seed).read("x").unwrap())
            .collect();
        assert!(seen.contains(&b""[..]), "lost");
        assert!(seen.contains(&b"12345678"[..]), "kept");
        assert!(seen.contains(&[0u8; 8][..]), "zeros");
        assert!(seen.contains(&b"1234"[..]), "torn: {seen:?}");
    }

    #[test]
    fn a_rename_that_was_not_synced_may_be_undone() {
        let d = disk();
        let mut f = d.create("x.tmp").unwrap();
        f.sync().unwrap();
        d.sync_dir("").unwrap();
        d.rename("x.tmp", "x").unwrap();
        let names = |seed| crashed(&d, seed).files().into_keys().collect::<Vec<_>>();
        let seen: std::collections::BTreeSet<Vec<String>> = (0..50).map(names).collect();
        assert_eq!(
            seen,
            [vec!["/x".to_owned()], vec!["/x.tmp".to_owned()]].into()
        );
    }

    #[test]
    fn a_cut_before_a_step_undoes_it_and_one_after_it_does_not() {
        for (edge, there) in [
            (crate::power::Edge::Before, false),
            (crate::power::Edge::After, true),
        ] {
            let d = disk();
            d.create("a").unwrap();
            d.power.plan(1, edge);
            assert!(d.create("b").is_err());
            assert!(d.create("c").is_err());
            assert_eq!(d.files().contains_key("/b"), there);
            assert!(!d.files().contains_key("/c"));
        }
    }
}
