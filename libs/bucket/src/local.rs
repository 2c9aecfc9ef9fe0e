//! A bucket in a directory: keys are paths below it.
//!
//! A put writes a temporary file (`….___temp`), syncs it, renames it into place and syncs the
//! directory. Conditions hold between processes on one machine: `IfAbsent` links the file into
//! place, `IfMatch` compares and renames under an exclusive lock that every other change of the
//! bucket takes shared. A crash leaves at most a temporary file, which listings do not show.
//!
//! Not supported, unlike S3: an object whose key is the directory of another (`a` and `a/b`).

use crate::error::{Error, Kind, Operation};
use crate::key::{self, TEMPORARY_SUFFIX};
use crate::{Body, Bucket, Download, ETag, Listing, MAX_GET, MAX_LISTED, Meta, Object, PutMode};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Up to this size, in bytes, the version of an object includes a checksum of its content.
const CHECKSUMMED: u64 = 1 << 20;
/// Size of the buffer when copying, in bytes.
const COPY_BUFFER: usize = 256 << 10;
/// How often a put makes its directory again when a deletion removes it in between.
const DIRECTORY_ATTEMPTS: usize = 10;
/// Deepest nesting of directories a listing follows: no key has more elements.
const MAX_DEPTH: usize = key::MAX_KEY / 2;

static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

/// A bucket in a directory.
#[derive(Debug, Clone)]
pub struct Local {
    root: Arc<PathBuf>,
}

impl Local {
    /// Opens the bucket in `root`, creating the directory if it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Local> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Local {
            root: Arc::new(root.canonicalize()?),
        })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&Local, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let (this, owned) = (self.clone(), key.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&this, &owned)).await;
        let done = done.unwrap_or_else(|e| Err(Failure::other(e.to_string())));
        done.map_err(|f| Error::new(f.kind, operation, self.root.display(), key, f.cause))
    }

    fn path(&self, key: &str) -> Result<PathBuf, Failure> {
        key::check(key).map_err(Failure::other)?;
        Ok(self.root.join(key))
    }

    /// Takes the lock that orders changes; it is released with the file.
    fn lock(&self, exclusive: bool) -> io::Result<File> {
        let path = self.root.join(format!("lock{TEMPORARY_SUFFIX}"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        if exclusive {
            file.lock()?
        } else {
            file.lock_shared()?
        }
        Ok(file)
    }

    fn put_blocking(&self, key: &str, body: &Body, mode: &PutMode) -> Result<ETag, Failure> {
        let target = self.path(key)?;
        let (directory, temporary) = self.temporary(&target);

        let mut file = self.create(&directory, &temporary.0)?;
        write_body(&mut file, body)?;
        file.sync_all()?;
        let etag = etag(&file)?;
        match mode {
            PutMode::Overwrite => {
                let _lock = self.lock(false)?;
                fs::rename(&temporary.0, &target)?;
            }
            PutMode::IfAbsent => {
                let _lock = self.lock(false)?;
                match fs::hard_link(&temporary.0, &target) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                        return Err(Failure::new(Kind::Precondition, "the object exists"));
                    }
                    linked => linked?,
                }
                fs::remove_file(&temporary.0)?;
            }
            PutMode::IfMatch(want) => {
                let _lock = self.lock(true)?;
                let found = match File::open(&target) {
                    Ok(f) => Some(self::etag(&f)?),
                    Err(e) if e.kind() == ErrorKind::NotFound => None,
                    Err(e) => return Err(e.into()),
                };
                if found.as_ref() != Some(want) {
                    let cause = format!("the object is at {found:?}, not {want:?}");
                    return Err(Failure::new(Kind::Precondition, cause));
                }
                fs::rename(&temporary.0, &target)?;
            }
        }
        self.sync_directories(&directory)?;
        Ok(etag)
    }

    /// Files of a bucket never change, so that two objects can be one.
    fn copy_blocking(&self, from: &str, to: &str) -> Result<(), Failure> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let (mut original, _) = open(&source)?;
        let (directory, temporary) = self.temporary(&target);
        // A directory that the deletion of its last object removes is made again by this.
        drop(self.create(&directory, &temporary.0)?);
        fs::remove_file(&temporary.0)?;
        if fs::hard_link(&source, &temporary.0).is_err() {
            let mut file = self.create(&directory, &temporary.0)?;
            copy(&mut original, &mut file)?;
            file.sync_all()?;
        }
        let _lock = self.lock(false)?;
        fs::rename(&temporary.0, &target)?;
        self.sync_directories(&directory)?;
        Ok(())
    }

    /// Where an object is written before it gets its name.
    fn temporary(&self, target: &Path) -> (PathBuf, Temporary) {
        let directory = target.parent().unwrap_or(&self.root).to_owned();
        let n = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{n}{TEMPORARY_SUFFIX}", std::process::id()));
        let temporary = Temporary(directory.join(name));
        (directory, temporary)
    }

    /// Creates the temporary file, and its directory as often as a deletion removes it.
    fn create(&self, directory: &Path, temporary: &Path) -> io::Result<File> {
        let open = || {
            fs::create_dir_all(directory)?;
            File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(temporary)
        };
        let mut attempt = 0;
        loop {
            match open() {
                Err(e) if e.kind() == ErrorKind::NotFound && attempt < DIRECTORY_ATTEMPTS => {
                    attempt += 1
                }
                opened => return opened,
            }
        }
    }

    /// Syncs a directory and those above it, which may be new as well.
    fn sync_directories(&self, directory: &Path) -> io::Result<()> {
        for dir in directory
            .ancestors()
            .take_while(|d| d.starts_with(self.root.as_path()))
        {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn delete_blocking(&self, keys: &[String]) -> Result<(), Failure> {
        let mut changed = BTreeSet::new();
        for key in keys {
            let path = self.path(key)?;
            {
                let _lock = self.lock(false)?;
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(e)
                        if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                    {
                        continue;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            let mut above = path.ancestors().skip(1);
            // Removing succeeds only for an empty directory.
            let kept = above.find(|d| *d == self.root.as_path() || fs::remove_dir(d).is_err());
            changed.insert(kept.unwrap_or(&self.root).to_owned());
        }
        for directory in changed {
            match File::open(directory) {
                Ok(d) => d.sync_all()?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn list_blocking(&self, prefix: &str, delimiter: bool) -> Result<Listing, Failure> {
        key::check_prefix(prefix).map_err(Failure::other)?;
        let (directory, start) = prefix
            .rsplit_once('/')
            .map_or(("", prefix), |(d, s)| (d, s));
        let above = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        let mut listing = Listing::default();
        let mut todo = vec![(self.root.join(directory), above, start.to_owned(), 0)];
        while let Some((path, above, start, depth)) = todo.pop() {
            for entry in read_dir(&path)? {
                let entry = entry?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                if !name.starts_with(&start) || name.ends_with(TEMPORARY_SUFFIX) {
                    continue;
                }
                let key = format!("{above}{name}");
                match fs::metadata(entry.path()) {
                    Ok(m) if m.is_dir() && depth >= MAX_DEPTH => {
                        return Err(Failure::other("directories are nested too deeply"));
                    }
                    Ok(m) if m.is_dir() && delimiter => {
                        if holds_object(&entry.path(), depth)? {
                            listing.prefixes.push(format!("{key}/"));
                        }
                    }
                    Ok(m) if m.is_dir() => {
                        todo.push((entry.path(), format!("{key}/"), String::new(), depth + 1))
                    }
                    Ok(m) => listing.objects.push(Meta {
                        key,
                        size: m.len(),
                        etag: None,
                        last_modified: m.modified()?,
                    }),
                    // Deleted meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(e.into()),
                }
                if listing.objects.len() + listing.prefixes.len() > MAX_LISTED {
                    return Err(Failure::other(format!("more than {MAX_LISTED} entries")));
                }
            }
        }
        listing.objects.sort_by(|a, b| a.key.cmp(&b.key));
        listing.prefixes.sort();
        Ok(listing)
    }
}

/// Entries of a directory; none if it is missing.
fn read_dir(path: &Path) -> Result<Vec<io::Result<fs::DirEntry>>, Failure> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.collect()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e.into()),
    }
}

/// True if there is an object anywhere below a directory.
fn holds_object(path: &Path, depth: usize) -> Result<bool, Failure> {
    let mut todo = vec![(path.to_owned(), depth)];
    while let Some((path, depth)) = todo.pop() {
        for entry in read_dir(&path)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_str()
                .is_none_or(|n| n.ends_with(TEMPORARY_SUFFIX))
            {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(m) if !m.is_dir() => return Ok(true),
                Ok(_) if depth < MAX_DEPTH => todo.push((entry.path(), depth + 1)),
                Ok(_) => return Err(Failure::other("directories are nested too deeply")),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(false)
}

/// A file that is removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Failure {
    kind: Kind,
    cause: String,
}

impl Failure {
    fn new(kind: Kind, cause: impl Into<String>) -> Failure {
        Failure {
            kind,
            cause: cause.into(),
        }
    }

    fn other(cause: impl Into<String>) -> Failure {
        Failure::new(Kind::Other, cause)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        let kind = match e.kind() {
            // A directory, or something below a file, is no object.
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                Kind::NotFound
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Kind::Denied,
            _ => Kind::Other,
        };
        Failure::new(kind, e.to_string())
    }
}

fn open(path: &Path) -> Result<(File, fs::Metadata), Failure> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(Failure::new(Kind::NotFound, "it is a directory"));
    }
    Ok((file, meta))
}

/// Version of a file: identity and time of change, and for small files, the ones that are put
/// conditionally, a checksum, because an inode can come back within one tick of the clock.
fn etag(mut file: &File) -> io::Result<ETag> {
    let m = file.metadata()?;
    let crc = if m.len() <= CHECKSUMMED {
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.take(CHECKSUMMED).read_to_end(&mut bytes)?;
        file.seek(SeekFrom::Start(0))?;
        types::crc32c::of(&bytes)
    } else {
        0
    };
    Ok(ETag(format!(
        "\"{:x}-{:x}.{:x}-{:x}-{crc:08x}\"",
        m.ino(),
        m.mtime(),
        m.mtime_nsec(),
        m.len()
    )))
}

fn write_body(file: &mut File, body: &Body) -> Result<(), Failure> {
    match body {
        Body::Bytes(b) => file.write_all(b)?,
        Body::File { path, len, crc32c } => {
            let unreadable = |e: io::Error| Failure::other(format!("{}: {e}", path.display()));
            let mut from = File::open(path).map_err(unreadable)?;
            let copied = copy(&mut from, file).map_err(unreadable)?;
            if copied.size != *len {
                let cause = format!(
                    "{} has {} bytes, {len} expected",
                    path.display(),
                    copied.size
                );
                return Err(Failure::new(Kind::Corrupt, cause));
            }
            if crc32c.is_some_and(|c| c != copied.crc32c) {
                let cause = format!("{} has CRC-32C {:08x}", path.display(), copied.crc32c);
                return Err(Failure::new(Kind::Corrupt, cause));
            }
        }
    }
    Ok(())
}

fn copy(from: &mut File, to: &mut File) -> io::Result<Download> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut done = Download { size: 0, crc32c: 0 };
    loop {
        let n = match from.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            n => n?,
        };
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else {
            return Ok(done);
        };
        to.write_all(part)?;
        done.size += n as u64;
        done.crc32c = types::crc32c::append(done.crc32c, part);
    }
}

#[async_trait]
impl Bucket for Local {
    async fn get(&self, key: &str) -> Result<Object, Error> {
        self.run(Operation::Get, key, |this, key| {
            let (mut file, meta) = open(&this.path(key)?)?;
            if meta.len() > MAX_GET {
                return Err(Failure::other(format!(
                    "{} bytes are too many to hold in memory",
                    meta.len()
                )));
            }
            let etag = etag(&file)?;
            let mut body = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
            file.read_to_end(&mut body)?;
            Ok(Object {
                body: body.into(),
                etag,
                last_modified: meta.modified()?,
            })
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        self.run(Operation::Get, key, move |this, key| {
            let (mut file, meta) = open(&this.path(key)?)?;
            let size = range
                .end
                .checked_sub(range.start)
                .filter(|_| range.end <= meta.len());
            let size = size
                .filter(|s| *s <= MAX_GET)
                .and_then(|s| usize::try_from(s).ok());
            let Some(size) = size else {
                let cause = format!("bytes {}..{} of {}", range.start, range.end, meta.len());
                return Err(Failure::new(Kind::Corrupt, cause));
            };
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = vec![0; size];
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    async fn download(&self, key: &str, to: &Path) -> Result<Download, Error> {
        let to = to.to_owned();
        self.run(Operation::Download, key, move |this, key| {
            let (mut from, meta) = open(&this.path(key)?)?;
            let local = |e: io::Error| Failure::other(format!("{}: {e}", to.display()));
            let mut file = File::create(&to).map_err(local)?;
            let done = copy(&mut from, &mut file).map_err(local)?;
            file.sync_all().map_err(local)?;
            if done.size != meta.len() {
                return Err(Failure::new(
                    Kind::Corrupt,
                    format!("{} of {} bytes", done.size, meta.len()),
                ));
            }
            Ok(done)
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Meta, Error> {
        self.run(Operation::Head, key, |this, key| {
            let (file, meta) = open(&this.path(key)?)?;
            let last_modified: SystemTime = meta.modified()?;
            Ok(Meta {
                key: key.to_owned(),
                size: meta.len(),
                etag: Some(etag(&file)?),
                last_modified,
            })
        })
        .await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error> {
        self.run(Operation::Put, key, move |this, key| {
            // What is missing or in the way here is not the object.
            this.put_blocking(key, &body, &mode)
                .map_err(|f| match f.kind {
                    Kind::NotFound => Failure::other(f.cause),
                    _ => f,
                })
        })
        .await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let to = to.to_owned();
        self.run(Operation::Copy, from, move |this, from| {
            this.copy_blocking(from, &to)
        })
        .await
    }

    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error> {
        self.run(Operation::List, prefix, move |this, prefix| {
            this.list_blocking(prefix, delimiter)
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let owned = keys.to_vec();
        self.run(Operation::Delete, first, move |this, _| {
            this.delete_blocking(&owned)
        })
        .await
    }
}
