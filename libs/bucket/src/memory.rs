//! A bucket in memory, for tests and simulation: deterministic, never fails, keeps nothing.

use crate::error::{Error, Kind, Operation};
use crate::{
    Body, Bucket, DELETE_BATCH, Download, ETag, Listing, MAX_LISTED, Meta, Object, PutMode, key,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A bucket in memory. Times are a count of puts, in seconds since the epoch.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    puts: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} objects", self.objects.len())
    }
}

#[derive(Clone)]
struct Stored {
    body: Bytes,
    version: u64,
}

impl Stored {
    fn etag(&self) -> ETag {
        ETag(format!("\"{}\"", self.version))
    }

    fn last_modified(&self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.version))
            .unwrap_or(UNIX_EPOCH)
    }

    fn meta(&self, key: &str) -> Meta {
        Meta {
            key: key.to_owned(),
            size: self.body.len() as u64,
            etag: Some(self.etag()),
            last_modified: self.last_modified(),
        }
    }
}

impl Memory {
    /// An empty bucket.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, operation: Operation, key: &str) -> Result<Stored, Error> {
        key::check(key).map_err(|e| error(Kind::Other, operation, key, e))?;
        let found = self.state().objects.get(key).cloned();
        found.ok_or_else(|| error(Kind::NotFound, operation, key, "there is no such object"))
    }
}

fn error(kind: Kind, operation: Operation, key: &str, cause: impl Into<String>) -> Error {
    Error::new(kind, operation, "memory", key, cause.into())
}

#[async_trait]
impl Bucket for Memory {
    async fn get(&self, key: &str) -> Result<Object, Error> {
        let o = self.find(Operation::Get, key)?;
        Ok(Object {
            etag: o.etag(),
            last_modified: o.last_modified(),
            body: o.body,
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let o = self.find(Operation::Get, key)?;
        let size = o.body.len();
        let part = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok());
        match part.filter(|(from, to)| from <= to && *to <= size) {
            Some((from, to)) => Ok(o.body.slice(from..to)),
            None => {
                let cause = format!("bytes {}..{} of {size}", range.start, range.end);
                Err(error(Kind::Corrupt, Operation::Get, key, cause))
            }
        }
    }

    async fn download(&self, key: &str, to: &Path) -> Result<Download, Error> {
        let o = self.find(Operation::Download, key)?;
        let crc32c = types::crc32c::of(&o.body);
        let size = o.body.len() as u64;
        tokio::fs::write(to, &o.body).await.map_err(|e| {
            error(
                Kind::Other,
                Operation::Download,
                key,
                format!("{}: {e}", to.display()),
            )
        })?;
        Ok(Download { size, crc32c })
    }

    async fn head(&self, key: &str) -> Result<Meta, Error> {
        self.find(Operation::Head, key).map(|o| o.meta(key))
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error> {
        let fail = |kind, cause: String| error(kind, Operation::Put, key, cause);
        key::check(key).map_err(|e| fail(Kind::Other, e.to_owned()))?;
        let body = match body {
            Body::Bytes(b) => b,
            Body::File { path, len, crc32c } => {
                let read = tokio::fs::read(&path).await;
                let bytes =
                    read.map_err(|e| fail(Kind::Other, format!("{}: {e}", path.display())))?;
                if bytes.len() as u64 != len {
                    let cause = format!(
                        "{} has {} bytes, {len} expected",
                        path.display(),
                        bytes.len()
                    );
                    return Err(fail(Kind::Corrupt, cause));
                }
                let found = types::crc32c::of(&bytes);
                if crc32c.is_some_and(|c| c != found) {
                    return Err(fail(
                        Kind::Corrupt,
                        format!("{} has CRC-32C {found:08x}", path.display()),
                    ));
                }
                Bytes::from(bytes)
            }
        };
        let mut state = self.state();
        let present = state.objects.get(key).map(Stored::etag);
        match (&mode, present) {
            (PutMode::IfAbsent, Some(_)) => {
                return Err(fail(Kind::Precondition, "the object exists".into()));
            }
            (PutMode::IfMatch(want), found) if found.as_ref() != Some(want) => {
                return Err(fail(
                    Kind::Precondition,
                    format!("the object is at {found:?}, not {want:?}"),
                ));
            }
            _ => {}
        }
        state.puts += 1;
        let stored = Stored {
            body,
            version: state.puts,
        };
        let etag = stored.etag();
        state.objects.insert(key.to_owned(), stored);
        Ok(etag)
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        key::check(to).map_err(|e| error(Kind::Other, Operation::Copy, to, e))?;
        let body = self.find(Operation::Copy, from)?.body;
        let mut state = self.state();
        state.puts += 1;
        let version = state.puts;
        let stored = Stored { body, version };
        state.objects.insert(to.to_owned(), stored);
        Ok(())
    }

    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error> {
        key::check_prefix(prefix).map_err(|e| error(Kind::Other, Operation::List, prefix, e))?;
        let state = self.state();
        let mut objects = Vec::new();
        let mut prefixes = BTreeSet::new();
        let from = state.objects.range(prefix.to_owned()..);
        for (key, object) in from.take_while(|(k, _)| k.starts_with(prefix)) {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            match rest.split_once('/').filter(|_| delimiter) {
                Some((element, _)) => {
                    prefixes.insert(format!("{prefix}{element}/"));
                }
                None => objects.push(object.meta(key)),
            }
            if objects.len() + prefixes.len() > MAX_LISTED {
                return Err(error(
                    Kind::Other,
                    Operation::List,
                    prefix,
                    format!("more than {MAX_LISTED} entries"),
                ));
            }
        }
        Ok(Listing {
            objects,
            prefixes: prefixes.into_iter().collect(),
        })
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        for batch in keys.chunks(DELETE_BATCH) {
            for k in batch {
                key::check(k).map_err(|e| error(Kind::Other, Operation::Delete, k, e))?;
            }
            let mut state = self.state();
            batch.iter().for_each(|k| {
                state.objects.remove(k);
            });
        }
        Ok(())
    }
}
