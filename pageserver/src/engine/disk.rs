//! The local disk as the engine sees it: a tree of small operations that can be counted, failed,
//! crashed and simulated.
//!
//! Paths are relative to the working directory of the daemon and use `/`. Local files are a cache
//! of the bucket; losing all of them loses nothing that was acknowledged.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where the file system enters the engine"
)]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is being written. Dropping it without [`WriteFile::sync`] promises nothing.
pub trait WriteFile: Send {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Overwrites bytes at an offset that was appended before.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is only read.
pub trait ReadFile: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `offset`; a short file is an error.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// The `len` bytes from `offset` on; a short file is an error.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; len];
        self.read_exact_at(&mut buf, offset)?;
        Ok(buf)
    }
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True for an empty file.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Name without the directory.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
    /// Length of a file in bytes.
    pub len: u64,
}

/// The operations the engine needs of a disk.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Creates a file that must not exist.
    fn create(&self, path: &str) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>>;
    /// Reads a whole small file.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
    /// Atomically replaces `to` by `from`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes a directory and all in it; missing is fine.
    fn remove_dir_all(&self, path: &str) -> io::Result<()>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Entries of a directory, unordered; a missing directory is empty.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;
    /// Where the file is for other programs, if it is on a real disk.
    fn host_path(&self, path: &str) -> Option<PathBuf>;
}

/// Writes a small file so that after a crash it holds either the old or the new content.
pub fn write_atomically(disk: &dyn Disk, path: &str, content: &[u8]) -> io::Result<()> {
    let temp = format!("{path}.___temp");
    match disk.remove(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = disk.create(&temp)?;
    file.append(content)?;
    file.sync()?;
    drop(file);
    disk.rename(&temp, path)?;
    disk.sync_dir(parent(path))
}

/// The directory part of a path.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// A directory of the host.
#[derive(Debug, Clone)]
pub struct HostDisk {
    root: PathBuf,
}

impl HostDisk {
    /// The disk below `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        HostDisk { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn context(e: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

const WRITE_BUFFER: usize = 256 * 1024;

#[derive(Debug)]
struct HostWriter {
    file: io::BufWriter<fs::File>,
    path: PathBuf,
}

impl WriteFile for HostWriter {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| context(e, "write", &self.path))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file
            .flush()
            .map_err(|e| context(e, "write", &self.path))?;
        self.file
            .get_ref()
            .write_all_at(bytes, offset)
            .map_err(|e| context(e, "write", &self.path))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file
            .flush()
            .map_err(|e| context(e, "write", &self.path))?;
        self.file
            .get_ref()
            .sync_all()
            .map_err(|e| context(e, "fsync", &self.path))
    }
}

#[derive(Debug)]
struct HostReader {
    file: fs::File,
    path: PathBuf,
}

impl HostReader {
    fn failed(&self, e: io::Error, offset: u64, len: usize) -> io::Error {
        let what = format!("read {len} bytes at offset {offset} of");
        context(e, &what, &self.path)
    }

    /// Reads into memory that nobody has cleared before.
    fn fill(&self, buf: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<()> {
        while buf.len() < len {
            let at = offset.saturating_add(buf.len() as u64);
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(buf), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The allocator may have given more room than was asked for.
        buf.truncate(len);
        Ok(())
    }
}

impl ReadFile for HostReader {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|e| self.failed(e, offset, buf.len()))
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buf = Vec::with_capacity(len);
        let filled = self.fill(&mut buf, offset, len);
        filled.map_err(|e| self.failed(e, offset, len))?;
        Ok(buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .file
            .metadata()
            .map_err(|e| context(e, "stat", &self.path))?
            .len())
    }
}

impl Disk for HostDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn WriteFile>> {
        let path = self.at(path);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| context(e, "create", &path))?;
        Ok(Box::new(HostWriter {
            file: io::BufWriter::with_capacity(WRITE_BUFFER, file),
            path,
        }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        let path = self.at(path);
        let file = fs::File::open(&path).map_err(|e| context(e, "open", &path))?;
        Ok(Arc::new(HostReader { file, path }))
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let path = self.at(path);
        fs::read(&path).map_err(|e| context(e, "read", &path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let from = self.at(from);
        fs::rename(&from, self.at(to)).map_err(|e| context(e, "rename", &from))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        fs::remove_file(&path).map_err(|e| context(e, "remove", &path))
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(context(e, "remove", &path)),
            _ => Ok(()),
        }
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        fs::create_dir_all(&path).map_err(|e| context(e, "create directory", &path))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        fs::File::open(&path)
            .and_then(|f| f.sync_all())
            .map_err(|e| context(e, "fsync directory", &path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let path = self.at(path);
        let dir = match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| context(e, "list", &path))?,
        };
        dir.map(|entry| {
            let entry = entry?;
            let meta = entry.metadata()?;
            Ok(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: meta.is_dir(),
                len: meta.len(),
            })
        })
        .collect()
    }

    fn host_path(&self, path: &str) -> Option<PathBuf> {
        Some(self.at(path))
    }
}
