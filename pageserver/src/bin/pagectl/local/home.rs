//! What is remembered of local servers: a directory with a JSON file for each.
//!
//! `PAGECTL_HOME`; else `/var/lib/pagectl` for root, whose servers run as somebody else; else
//! `pagectl` under `XDG_DATA_HOME` or `~/.local/share`; else under the temporary directory. Records
//! are in `servers/<timeline>.json`; data directories, unless named with `--to`, in
//! `<tenant>/<branch>`. Commands that start or stop a server of the same branch wait for each other.

use super::{Programs, SETTINGS};
use crate::catalog::{self, Found};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::env;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use types::{Lsn, TenantShardId, TimelineId};

/// A server that was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Tenant of the branch.
    pub tenant: TenantShardId,
    /// The branch.
    pub timeline: TimelineId,
    /// What the branch was called then.
    pub branch: String,
    /// The data is a copy from here.
    pub lsn: Lsn,
    /// Data directory.
    pub directory: PathBuf,
    /// Directory of the server programs.
    pub bin: PathBuf,
    /// TCP port; 0 before the first start.
    pub port: u16,
    /// A role that can log in.
    pub user: String,
    /// A database that exists.
    pub dbname: String,
    /// False while the data is being downloaded.
    pub complete: bool,
}

impl Record {
    /// For libpq.
    pub fn connstr(&self) -> String {
        let part = |text: &str| {
            let mut out = String::new();
            for b in text.bytes() {
                if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                    out.push(char::from(b));
                } else {
                    out.push_str(&format!("%{b:02X}"));
                }
            }
            out
        };
        format!(
            "postgres://{}@127.0.0.1:{}/{}",
            part(&self.user),
            self.port,
            part(&self.dbname)
        )
    }

    #[cfg(test)]
    pub fn example() -> Record {
        Record {
            tenant: TenantShardId::unsharded(types::TenantId([1; 16])),
            timeline: TimelineId([2; 16]),
            branch: "shop/test".to_owned(),
            lsn: Lsn(0x0100_0028),
            directory: "/srv/test".into(),
            bin: "/usr/bin".into(),
            port: 5433,
            user: "postgres".to_owned(),
            dbname: "postgres".to_owned(),
            complete: true,
        }
    }
}

/// Where records are.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

impl Home {
    /// The home of this user; created if missing.
    pub fn open() -> Result<Home> {
        let root = rustix::process::geteuid();
        let path = if let Some(path) = set("PAGECTL_HOME") {
            std::path::absolute(path)?
        } else if root.is_root() {
            PathBuf::from("/var/lib/pagectl")
        } else if let Some(data) = set("XDG_DATA_HOME") {
            data.join("pagectl")
        } else if let Some(home) = set("HOME") {
            home.join(".local/share/pagectl")
        } else {
            env::temp_dir().join(format!("pagectl-{}", root.as_raw()))
        };
        Home::at(path)
    }

    fn at(path: PathBuf) -> Result<Home> {
        // Others must get through to a data directory that is theirs.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder
            .create(path.join("servers"))
            .with_context(|| format!("cannot create {}", path.display()))?;
        let owner = fs::metadata(&path)
            .with_context(|| format!("cannot look at {}", path.display()))?
            .uid();
        if owner != rustix::process::geteuid().as_raw() {
            bail!(
                "{} belongs to another user; set PAGECTL_HOME to a directory of your own",
                path.display()
            );
        }
        Ok(Home(path))
    }

    fn file(&self, timeline: TimelineId) -> PathBuf {
        self.0.join(format!("servers/{timeline}.json"))
    }

    /// Keeps other commands from starting or stopping the branch's server while it is held.
    pub fn lock(&self, timeline: TimelineId) -> Result<File> {
        let path = self.0.join(format!("servers/{timeline}.lock"));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    fn read(path: &Path) -> Result<Option<Record>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let record: Record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; delete it", path.display()))?;
        Ok(Some(record))
    }

    /// The server of a branch; none if its data directory is gone. Removes what a download left
    /// behind that was killed. To be called under the [`lock`](Home::lock).
    pub fn record(&self, timeline: TimelineId) -> Result<Option<Record>> {
        match Home::read(&self.file(timeline))? {
            Some(r) if !r.complete => {
                self.forget(&r)?;
                Ok(None)
            }
            record => Ok(record.filter(|r| r.directory.join("PG_VERSION").exists())),
        }
    }

    /// The server of a branch that was called so when it was started, or has this id, if exactly one
    /// was and its programs are still there.
    pub fn find(&self, text: &str) -> Result<Option<(Record, Programs)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.0.join("servers"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Some(record) = Home::read(&path)? else {
                continue;
            };
            let short = record.branch.split_once('/').map(|(_, b)| b);
            let named =
                record.branch == text || short == Some(text) || text == record.timeline.to_string();
            if named && record.complete && record.directory.join("PG_VERSION").exists() {
                found.push(record);
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(record), true) => {
                let programs = Programs::of(&record, None)?;
                Ok(Some((record, programs)))
            }
            _ => Ok(None),
        }
    }

    /// Remembers a server.
    pub fn save(&self, record: &Record) -> Result<()> {
        let path = self.file(record.timeline);
        let scratch = path.with_extension("new");
        fs::write(&scratch, serde_json::to_vec_pretty(record)?)
            .and_then(|()| fs::rename(&scratch, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Deletes a server's data and forgets it.
    pub fn forget(&self, record: &Record) -> Result<()> {
        let marked = ["PG_VERSION", SETTINGS]
            .iter()
            .any(|f| record.directory.join(f).exists());
        if marked || !record.complete && record.directory.exists() {
            fs::remove_dir_all(&record.directory)
                .with_context(|| format!("cannot delete {}", record.directory.display()))?;
        }
        self.unrecord(record)
    }

    /// Forgets a server without touching its data.
    pub fn unrecord(&self, record: &Record) -> Result<()> {
        let path = self.file(record.timeline);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Where the data of a branch goes unless the user says something else.
    pub fn data_directory(&self, found: &Found<'_>) -> Result<PathBuf> {
        let (tenant, id) = (found.tenant_id().to_string(), found.id().to_string());
        let parent = self.0.join(component(&found.tenant.label(), &tenant));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder
            .create(&parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        let name = component(&found.tenant.name_of(found.timeline), &id);
        let path = parent.join(name);
        // Another branch may have had this name before.
        Ok(if path.exists() { parent.join(id) } else { path })
    }
}

/// A name as one component of a path; the id if the name does not lend itself to that.
fn component(name: &str, id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fit = name.chars().all(plain)
        && !name.is_empty()
        && name.len() <= catalog::MAX_NAME
        && !name.starts_with('.')
        && name != "servers";
    if fit { name } else { id }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &Path) -> (Home, Record) {
        let home = Home::at(dir.join("home")).unwrap();
        let mut record = Record::example();
        record.directory = dir.join("data");
        fs::create_dir(&record.directory).unwrap();
        fs::write(record.directory.join("PG_VERSION"), "17\n").unwrap();
        (home, record)
    }

    #[test]
    fn a_server_is_remembered_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (home, record) = home(dir.path());
        assert_eq!(home.record(record.timeline).unwrap(), None);
        home.save(&record).unwrap();
        assert_eq!(home.record(record.timeline).unwrap(), Some(record.clone()));
        home.forget(&record).unwrap();
        assert_eq!(home.record(record.timeline).unwrap(), None);
        assert!(!record.directory.exists());
    }

    #[test]
    fn what_a_killed_download_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (home, mut record) = home(dir.path());
        fs::remove_file(record.directory.join("PG_VERSION")).unwrap();
        record.complete = false;
        home.save(&record).unwrap();
        assert_eq!(home.record(record.timeline).unwrap(), None);
        assert!(!record.directory.exists());
    }

    #[test]
    fn a_directory_that_is_no_data_directory_is_not_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (home, record) = home(dir.path());
        home.save(&record).unwrap();
        fs::remove_file(record.directory.join("PG_VERSION")).unwrap();
        fs::write(record.directory.join("precious"), "x").unwrap();
        home.forget(&record).unwrap();
        assert!(record.directory.join("precious").exists());
    }

    #[test]
    fn names_that_are_no_file_names_are_replaced_by_ids() {
        assert_eq!(component("release-1.2", "id"), "release-1.2");
        for odd in ["", "..", ".x", "a/b", "a b", "ä", "servers"] {
            assert_eq!(component(odd, "id"), "id", "{odd:?}");
        }
    }

    #[test]
    fn connection_strings_are_escaped() {
        let mut r = Record::example();
        assert_eq!(r.connstr(), "postgres://postgres@127.0.0.1:5433/postgres");
        r.user = "a@b/c".to_owned();
        assert_eq!(r.connstr(), "postgres://a%40b%2Fc@127.0.0.1:5433/postgres");
    }
}
