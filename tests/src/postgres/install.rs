//! The programs of one Postgres version.

use crate::postgres::{Account, Pinned};
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use types::PgMajor;

/// Environment variable that names a directory with a sub-directory for each major version.
const DIRECTORY_VARIABLE: &str = "PAGESERVER_PG_DIR";

/// Where an installation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `PAGESERVER_PG_DIR`.
    Directory,
    /// `PATH`, or where Debian puts it.
    System,
    /// The pinned download.
    Download,
}

/// Server programs of one major version.
#[derive(Debug, Clone)]
pub struct Install {
    /// The version.
    pub major: PgMajor,
    /// Directory of `initdb` and `postgres`.
    pub bin: PathBuf,
    /// Where they came from.
    pub origin: Origin,
}

impl Install {
    /// Finds a server of this version: `PAGESERVER_PG_DIR/<major>`, then `PATH`, then Debian's
    /// directory, then the cache; else downloads it.
    pub fn find(major: PgMajor) -> Result<Install> {
        let found = |bin: PathBuf, origin| Install { major, bin, origin };
        if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
            let home = PathBuf::from(directory).join(major.to_string());
            let layouts = [
                home.join("bin"),
                home.join("native/bin"),
                home.join("package/native/bin"),
                home,
            ];
            if let Some(bin) = layouts.into_iter().find(|b| has_server(b, major)) {
                return Ok(found(bin, Origin::Directory));
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        if let Some(bin) = std::env::split_paths(&path)
            .chain([debian])
            .find(|b| has_server(b, major))
        {
            return Ok(found(bin, Origin::System));
        }
        let bin = Pinned::of(major)?.fetch()?.join("bin");
        ensure!(
            has_server(&bin, major),
            "{} is not a server of Postgres {major}",
            bin.display()
        );
        Ok(found(bin, Origin::Download))
    }

    /// A command for one of its programs, run under an unprivileged account.
    pub fn command(&self, program: &str, account: Account) -> Command {
        let mut command = command_in(&self.bin, program);
        account.apply(&mut command);
        // initdb and postgres look up their working directory, which may be unreadable to them.
        command.current_dir("/");
        command
    }

    /// The full version, such as "16.14".
    pub fn version(&self) -> Result<String> {
        version_in(&self.bin)
            .with_context(|| format!("asking {} for its version", self.bin.display()))
    }

    /// Names of the extensions that can be created, sorted.
    pub fn extensions(&self) -> Result<Vec<String>> {
        let home = self.bin.parent().context("bin has no parent")?;
        let layouts = [
            home.join("share/postgresql/extension"),
            home.join("share/extension"),
            PathBuf::from(format!("/usr/share/postgresql/{}/extension", self.major)),
        ];
        let directory = layouts
            .into_iter()
            .find(|d| d.is_dir())
            .context("no directory of extensions")?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "control") {
                names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }
}

fn command_in(bin: &Path, program: &str) -> Command {
    let mut command = Command::new(bin.join(program));
    // Downloaded builds carry their libraries beside them and have no run path.
    if let Some(lib) = bin
        .parent()
        .map(|h| h.join("lib"))
        .filter(|l| l.join("libpq.so.5").exists())
    {
        command.env("LD_LIBRARY_PATH", lib);
    }
    command.env("LC_ALL", "C.UTF-8").env_remove("PGDATA");
    command
}

fn version_in(bin: &Path) -> Result<String> {
    let output = command_in(bin, "postgres").arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .nth(2)
        .context("no version in the answer")?;
    Ok(version.to_owned())
}

fn has_server(bin: &Path, major: PgMajor) -> bool {
    let prefix = major.to_string();
    bin.join("postgres").is_file()
        && bin.join("initdb").is_file()
        && version_in(bin).is_ok_and(|v| {
            v.chars()
                .take_while(char::is_ascii_digit)
                .eq(prefix.chars())
        })
}
