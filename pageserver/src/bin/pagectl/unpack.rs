//! Unpacking a data directory from a tar stream that a server sends.
//!
//! The archive is not trusted: only regular files and directories below the target are made, nothing
//! is overwritten or followed, and whatever else it names is an error. It is complete only with the
//! end marker of tar. A target that is not completed is removed again.

use pg_format::pgdata::{CONTROL_FILE, VERSION_FILE};
use pg_format::tar::{self, Ending, Event, Kind, Parser};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who is to own what is unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Unpacking failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is something in the way.
    #[error("{0} is not empty; name another directory, or empty it first")]
    NotEmpty(PathBuf),
    /// The target is no directory.
    #[error("{0} exists and is not a directory")]
    NotDirectory(PathBuf),
    /// The file system refuses.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The archive is damaged.
    #[error("the archive from the server is damaged: {0}")]
    Tar(#[from] tar::Error),
    /// The archive holds something a data directory must not hold.
    #[error("the archive from the server holds {path:?}, which is {what}; refusing to unpack it")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The archive stops before its end marker.
    #[error("the archive from the server ends too early; its log may say why")]
    Truncated,
    /// The archive is not one of a data directory.
    #[error("the archive from the server has no {0}; it is not a data directory")]
    Incomplete(&'static str),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// What was unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A directory being filled; removed on drop unless it was finished.
#[derive(Debug)]
struct Target {
    root: PathBuf,
    created: bool,
    keep: bool,
}

/// Fails unless a directory is empty or not there; true if it is there.
pub fn check_target(root: &Path) -> Result<bool, Error> {
    let metadata = match fs::metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata.map_err(io_error("look at", root))?,
    };
    if !metadata.is_dir() {
        return Err(Error::NotDirectory(root.to_owned()));
    }
    let mut entries = fs::read_dir(root).map_err(io_error("read", root))?;
    match entries.next() {
        None => Ok(true),
        Some(_) => Err(Error::NotEmpty(root.to_owned())),
    }
}

impl Target {
    fn prepare(root: &Path) -> Result<Target, Error> {
        let created = !check_target(root)?;
        if created {
            if let Some(parent) = root.parent() {
                fs::create_dir_all(parent).map_err(io_error("create", parent))?;
            }
            let made = DirBuilder::new().mode(0o700).create(root);
            made.map_err(io_error("create", root))?;
        }
        let target = Target {
            root: root.to_owned(),
            created,
            keep: false,
        };
        fs::set_permissions(root, Permissions::from_mode(0o700))
            .map_err(io_error("protect", root))?;
        Ok(target)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let removed = if self.created {
            fs::remove_dir_all(&self.root)
        } else {
            empty(&self.root)
        };
        if let Err(e) = removed {
            let root = self.root.display();
            eprintln!("what was unpacked to {root} cannot be removed: {e}");
        }
    }
}

fn empty(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks an archive that arrives in pieces.
#[derive(Debug)]
pub struct Unpacker {
    target: Target,
    owner: Option<Owner>,
    parser: Parser,
    file: Option<(File, PathBuf)>,
    summary: Summary,
    has_version: bool,
    has_control: bool,
}

impl Unpacker {
    /// Into a directory that is empty or does not exist; it gets mode 0700.
    pub fn new(root: &Path, owner: Option<Owner>) -> Result<Unpacker, Error> {
        let unpacker = Unpacker {
            target: Target::prepare(root)?,
            owner,
            parser: Parser::new(),
            file: None,
            summary: Summary::default(),
            has_version: false,
            has_control: false,
        };
        unpacker.give(root)?;
        Ok(unpacker)
    }

    fn give(&self, path: &Path) -> Result<(), Error> {
        match self.owner {
            None => Ok(()),
            Some(Owner { uid, gid }) => std::os::unix::fs::lchown(path, Some(uid), Some(gid))
                .map_err(io_error("change the owner of", path)),
        }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        while let Some(event) = self.parser.next(&mut piece)? {
            match event {
                Event::Entry(entry) => self.begin(&entry)?,
                Event::Data(data) => {
                    if let Some((file, path)) = &mut self.file {
                        let written = file.write_all(data);
                        written.map_err(io_error("write", path))?;
                        self.summary.bytes += data.len() as u64;
                    }
                }
                Event::EntryEnd => self.file = None,
                Event::ArchiveEnd => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, entry: &tar::Entry) -> Result<(), Error> {
        let refuse = |what| {
            let path = entry.path.clone();
            Err(Error::Entry { path, what })
        };
        let path = self.target.root.join(&entry.path);
        match &entry.kind {
            Kind::Directory if entry.path.is_empty() => Ok(()),
            Kind::Directory => self.directory(&path),
            Kind::File if entry.path.is_empty() => refuse("a file without a name"),
            Kind::File => {
                if let Some(parent) = path.parent() {
                    self.directory(parent)?;
                }
                let opened = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path);
                let file = opened.map_err(io_error("create", &path))?;
                self.give(&path)?;
                self.has_version |= entry.path == VERSION_FILE;
                self.has_control |= entry.path == CONTROL_FILE;
                self.summary.files += 1;
                self.file = Some((file, path));
                Ok(())
            }
            Kind::Symlink(_) => refuse("a symbolic link"),
            Kind::Link(_) => refuse("a hard link"),
            Kind::Other(_) => refuse("neither a file nor a directory"),
        }
    }

    /// Makes a directory and those above it, up to the root.
    fn directory(&self, path: &Path) -> Result<(), Error> {
        if path == self.target.root {
            return Ok(());
        }
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_dir() => return Ok(()),
            Ok(_) => return Err(Error::NotDirectory(path.to_owned())),
            Err(_) => {}
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let made = DirBuilder::new().mode(0o700).create(path);
        made.map_err(io_error("create", path))?;
        self.give(path)
    }

    /// Call when the archive has ended and the sender said so. With `sync`, waits until everything
    /// is on disk.
    pub fn finish(mut self, sync: bool) -> Result<Summary, Error> {
        self.feed(&[])?;
        match self.parser.finish() {
            Ok(Ending::Marked) => {}
            Ok(_) | Err(tar::Error::Truncated { .. }) => return Err(Error::Truncated),
            Err(e) => return Err(e.into()),
        }
        if !self.has_version {
            return Err(Error::Incomplete(VERSION_FILE));
        }
        if !self.has_control {
            return Err(Error::Incomplete(CONTROL_FILE));
        }
        if sync {
            sync_tree(&self.target.root)?;
            if let Some(parent) = self
                .target
                .root
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
            {
                sync_one(parent)?;
            }
        }
        self.target.keep = true;
        Ok(self.summary)
    }
}

fn sync_one(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|f| f.sync_all());
    synced.map_err(io_error("flush", path))
}

fn sync_tree(path: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let entry = entry.map_err(io_error("read", path))?;
        let kind = entry.file_type().map_err(io_error("look at", path))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync_one(&entry.path())?;
        }
    }
    sync_one(path)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
