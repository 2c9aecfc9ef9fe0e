//! Server programs of one Postgres version on this machine.

use super::{Account, Record};
use anyhow::{Context as _, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use types::PgMajor;

/// Names a directory with a sub-directory for each major version.
const DIRECTORY_VARIABLE: &str = "PAGESERVER_PG_DIR";
/// Cache of downloaded servers for root.
const ROOT_CACHE: &str = "/var/cache/pageserver";

/// `pg_ctl` and `postgres` of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// Looks in `given`; without it, in `PAGESERVER_PG_DIR/<major>`, on `PATH`, where Debian puts them,
    /// and in the cache of downloaded servers.
    pub fn find(major: PgMajor, given: Option<&Path>) -> Result<Programs> {
        if let Some(bin) = given {
            let programs = Programs {
                bin: std::path::absolute(bin)?,
            };
            let version = programs
                .version()
                .with_context(|| format!("{} has no usable Postgres programs", bin.display()))?;
            if !is_of(&version, major) {
                bail!(
                    "{} is Postgres {version}; the branch needs {major}",
                    bin.display()
                );
            }
            return Ok(programs);
        }
        let places = places(major);
        let found = places
            .iter()
            .map(|bin| Programs { bin: bin.clone() })
            .find(|p| p.version().is_ok_and(|v| is_of(&v, major)));
        found.with_context(|| {
            format!(
                "no Postgres {major} found on this machine; install it (Debian: postgresql-{major}), or say where it is with --pg-bin DIR or {DIRECTORY_VARIABLE}"
            )
        })
    }

    /// Those of a server that was started before, or others if they are gone or others are given.
    pub fn of(record: &Record, given: Option<&Path>) -> Result<Programs> {
        let before = Programs {
            bin: record.bin.clone(),
        };
        if given.is_none() && before.version().is_ok() {
            return Ok(before);
        }
        let file = record.directory.join("PG_VERSION");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let major: u32 = text
            .trim()
            .parse()
            .with_context(|| format!("{} is damaged", file.display()))?;
        Programs::find(PgMajor::try_from(major)?, given)
    }

    /// Their directory.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // Downloaded builds carry their libraries beside them and have no run path.
        let lib = self.bin.parent().map(|h| h.join("lib"));
        if let Some(lib) = lib.filter(|l| l.join("libpq.so.5").exists()) {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command.env("LC_MESSAGES", "C");
        for name in ["PGDATA", "PGPORT", "PGOPTIONS", "PG_COLOR"] {
            command.env_remove(name);
        }
        command
    }

    /// A command for one of them, run under an account.
    pub fn command(&self, program: &str, account: Account) -> Command {
        let mut command = self.bare(program);
        account.apply(&mut command);
        command
    }

    /// The version, such as `17.5`.
    pub fn version(&self) -> Result<String> {
        if !self.bin.join("pg_ctl").is_file() {
            bail!("there is no pg_ctl in {}", self.bin.display());
        }
        let output = self.bare("postgres").arg("--version").output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace()
            .nth(2)
            .map(str::to_owned)
            .with_context(|| format!("not a Postgres version: {text:?}"))
    }
}

fn is_of(version: &str, major: PgMajor) -> bool {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits == major.to_string()
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

fn places(major: PgMajor) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(directory) = set(DIRECTORY_VARIABLE) {
        let home = directory.join(major.to_string());
        let layouts = ["bin", "native/bin", "package/native/bin", ""];
        places.extend(layouts.iter().map(|l| home.join(l)));
    }
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.push(format!("/usr/lib/postgresql/{major}/bin").into());
    let caches = [
        set("XDG_CACHE_HOME").map(|d| d.join("pageserver")),
        set("HOME").map(|d| d.join(".cache/pageserver")),
        Some(ROOT_CACHE.into()),
    ];
    for cache in caches.into_iter().flatten() {
        places.extend(cached(&cache.join("postgres"), major));
    }
    places
}

/// Downloaded servers of a version, the newest first.
fn cached(directory: &Path, major: PgMajor) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| is_of(n, major)))
        .map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            let numbers = name.split(|c: char| !c.is_ascii_digit());
            let numbers = numbers.filter_map(|n| n.parse().ok()).collect();
            (numbers, e.path().join("native/bin"))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake(bin: &Path, version: &str) {
        fs::create_dir_all(bin).unwrap();
        for program in ["postgres", "pg_ctl"] {
            let path = bin.join(program);
            let text = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn programs_of_another_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), "16.4 (Debian 16.4-1)");
        let found = Programs::find(PgMajor::V16, Some(dir.path())).unwrap();
        assert_eq!(found.version().unwrap(), "16.4");
        let e = Programs::find(PgMajor::V17, Some(dir.path())).unwrap_err();
        assert!(e.to_string().contains("Postgres 16.4"), "{e}");
        let e = Programs::find(PgMajor::V17, Some(&dir.path().join("no"))).unwrap_err();
        assert!(e.to_string().contains("no usable"), "{e}");
    }

    #[test]
    fn the_newest_downloaded_server_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "17.9.0-beta.17",
            "17.10.0-beta.17",
            "16.14.0",
            "17.9.0.lock",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = cached(dir.path(), PgMajor::V17);
        assert!(found[0].ends_with("17.10.0-beta.17/native/bin"));
        assert_eq!(found.len(), 3);
        assert_eq!(
            cached(&dir.path().join("none"), PgMajor::V17),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_of("17.10", PgMajor::V17) && is_of("17beta1", PgMajor::V17));
        assert!(!is_of("170.1", PgMajor::V17) && !is_of("", PgMajor::V17));
    }
}
