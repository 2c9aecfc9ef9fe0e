//! A bucket in a store that speaks S3.
//!
//! Requests are limited in number and time. Those that can be repeated (all but conditional puts)
//! are, with growing, jittered pauses, after failures that may pass; the SDK's own repetition is
//! off so that there is one place that decides. Puts carry a CRC-32C where the caller knows it or
//! the content is in memory, and whole reads are checked against the stored one.

mod client;
mod failure;

use crate::config::S3Settings;
use crate::error::{Error, Kind, Operation};
use crate::{
    Body, Bucket, DELETE_BATCH, Download, ETag, Listing, MAX_GET, MAX_LISTED, Meta, Object,
    PutMode, key,
};
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, Length};
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier, StorageClass};
use bytes::{Bytes, BytesMut};
use failure::Failure;
use rand::Rng;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

/// How often an operation is attempted.
const ATTEMPTS: u32 = 8;
/// Pause after the first failed attempt; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Most requests of one listing.
const MAX_LIST_REQUESTS: usize = MAX_LISTED;

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.access_key)
    }
}

/// A bucket in a store that speaks S3.
pub struct S3 {
    client: Client,
    settings: S3Settings,
    permits: Semaphore,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.settings.bucket)
    }
}

impl S3 {
    /// Prepares access; no request is made, so that errors come with the first operation.
    pub(crate) async fn connect(settings: S3Settings, credentials: Option<Credentials>) -> S3 {
        let client = client::build(&settings, credentials).await;
        let permits = Semaphore::new(settings.concurrency);
        S3 {
            client,
            settings,
            permits,
        }
    }

    /// The key within the bucket, checked.
    fn full(&self, operation: Operation, key: &str) -> Result<String, Error> {
        key::check(key).map_err(|e| self.error(operation, key, Failure::other(e)))?;
        Ok(format!("{}{key}", self.settings.prefix))
    }

    fn error(&self, operation: Operation, key: &str, failure: Failure) -> Error {
        Error::new(
            failure.kind,
            operation,
            &self.settings.bucket,
            key,
            failure.cause,
        )
    }

    /// Time for one attempt at an operation.
    const fn limit(&self, operation: Operation) -> Duration {
        match operation {
            Operation::Get | Operation::Download | Operation::Put | Operation::Copy => {
                self.settings.timeout
            }
            Operation::Head | Operation::List | Operation::Delete => self.settings.small_timeout,
        }
    }

    /// Attempts an operation until it succeeds, fails for good or has failed too often.
    async fn attempt<T, F>(
        &self,
        operation: Operation,
        key: &str,
        attempts: u32,
        mut work: impl FnMut() -> F + Send,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let limit = self.limit(operation);
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let done = {
                let _permit = self.permits.acquire().await;
                tokio::time::timeout(limit, work()).await
            };
            let failure = match done {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::timeout(limit),
            };
            if !failure.transient || attempt >= attempts {
                return Err(self.error(operation, key, failure));
            }
            let wait = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tracing::debug!(%operation, key, attempt, cause = failure.cause, ?wait, "attempt failed, trying again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempt += 1;
        }
    }

    async fn get_once(&self, full: &str) -> Result<Object, Failure> {
        let output = self
            .request(full)
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let mut output = output.map_err(Failure::of_service)?;
        let (etag, last_modified) = (etag(output.e_tag.take())?, time(output.last_modified)?);
        let body = collect(output, MAX_GET).await?;
        Ok(Object {
            body,
            etag,
            last_modified,
        })
    }

    async fn range_once(&self, full: &str, range: &Range<u64>) -> Result<Bytes, Failure> {
        let want = range.end - range.start;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let output = self
            .request(full)
            .range(header)
            .send()
            .await
            .map_err(Failure::of_service)?;
        let body = collect(output, want).await?;
        if body.len() as u64 != want {
            let cause = format!(
                "{} bytes of the range {}..{}",
                body.len(),
                range.start,
                range.end
            );
            return Err(Failure::corrupt(cause));
        }
        Ok(body)
    }

    async fn download_once(&self, full: &str, to: &Path) -> Result<Download, Failure> {
        let output = self
            .request(full)
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let mut output = output.map_err(Failure::of_service)?;
        let expected = length(&output);
        let local = |e: std::io::Error| Failure::other(format!("{}: {e}", to.display()));
        let mut file = tokio::fs::File::create(to).await.map_err(local)?;
        let mut done = Download { size: 0, crc32c: 0 };
        while let Some(part) = output.body.try_next().await.map_err(Failure::of_stream)? {
            file.write_all(&part).await.map_err(local)?;
            done.size += part.len() as u64;
            done.crc32c = types::crc32c::append(done.crc32c, &part);
        }
        if expected.is_some_and(|n| n != done.size) {
            return Err(Failure::interrupted(format!(
                "{} of {expected:?} bytes",
                done.size
            )));
        }
        file.flush().await.map_err(local)?;
        file.sync_all().await.map_err(local)?;
        Ok(done)
    }

    async fn put_once(&self, full: &str, body: &Body, mode: &PutMode) -> Result<ETag, Failure> {
        let (stream, crc32c) = match body {
            Body::Bytes(b) => (ByteStream::from(b.clone()), Some(types::crc32c::of(b))),
            Body::File { path, len, crc32c } => {
                let local = |e: String| Failure::other(format!("{}: {e}", path.display()));
                let meta = tokio::fs::metadata(path)
                    .await
                    .map_err(|e| local(e.to_string()))?;
                if meta.len() != *len {
                    let cause = format!(
                        "{} has {} bytes, {len} expected",
                        path.display(),
                        meta.len()
                    );
                    return Err(Failure::corrupt(cause));
                }
                let stream = ByteStream::read_from()
                    .path(path)
                    .length(Length::Exact(*len))
                    .build()
                    .await;
                (stream.map_err(|e| local(e.to_string()))?, *crc32c)
            }
        };
        let length =
            i64::try_from(body.len()).map_err(|_| Failure::other("the object is too large"))?;
        let mut request = self
            .client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(full)
            .content_length(length)
            .set_checksum_crc32_c(crc32c.map(|c| client::base64(&c.to_be_bytes())))
            .set_storage_class(
                self.settings
                    .storage_class
                    .as_deref()
                    .map(StorageClass::from),
            )
            .body(stream);
        request = match mode {
            PutMode::Overwrite => request,
            PutMode::IfAbsent => request.if_none_match("*"),
            PutMode::IfMatch(etag) => request.if_match(&etag.0),
        };
        let output = request.send().await.map_err(Failure::of_service)?;
        etag(output.e_tag)
    }

    async fn copy_once(&self, source: &str, full: &str) -> Result<(), Failure> {
        let source = format!("{}/{}", self.settings.bucket, percent_encoded(source));
        let class = self.settings.storage_class.as_deref();
        let request = self
            .client
            .copy_object()
            .bucket(&self.settings.bucket)
            .copy_source(source)
            .key(full)
            .set_storage_class(class.map(StorageClass::from));
        let output = request.send().await.map_err(Failure::of_service)?;
        match output.copy_object_result {
            Some(_) => Ok(()),
            None => Err(Failure::other("the store does not say that it copied")),
        }
    }

    fn request(
        &self,
        full: &str,
    ) -> aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder {
        self.client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(full)
    }

    /// One page of a listing, added to what is there; the token of the next page.
    async fn list_once(
        &self,
        full: &str,
        delimiter: bool,
        token: Option<&str>,
    ) -> Result<(Listing, Option<String>), Failure> {
        let output = self
            .client
            .list_objects_v2()
            .bucket(&self.settings.bucket)
            .prefix(full)
            .set_delimiter(delimiter.then(|| "/".to_owned()))
            .set_max_keys(self.settings.max_keys)
            .set_continuation_token(token.map(str::to_owned))
            .send()
            .await
            .map_err(Failure::of_service)?;
        let strip = |key: Option<String>| {
            key.and_then(|k| k.strip_prefix(&self.settings.prefix).map(str::to_owned))
                .ok_or_else(|| Failure::other("the store listed a key that was not asked for"))
        };
        let mut page = Listing::default();
        for object in output.contents.unwrap_or_default() {
            page.objects.push(Meta {
                key: strip(object.key)?,
                size: u64::try_from(object.size.unwrap_or(-1))
                    .map_err(|_| Failure::other("the store listed an object without a size"))?,
                etag: object.e_tag.map(ETag),
                last_modified: time(object.last_modified)?,
            });
        }
        for prefix in output.common_prefixes.unwrap_or_default() {
            page.prefixes.push(strip(prefix.prefix)?);
        }
        let next = output
            .next_continuation_token
            .filter(|_| output.is_truncated == Some(true));
        if next.is_some() && next.as_deref() == token {
            return Err(Failure::other("the store repeats a page of the listing"));
        }
        Ok((page, next))
    }

    async fn delete_once(&self, batch: &[String]) -> Result<(), Failure> {
        let mut objects = Vec::with_capacity(batch.len());
        for key in batch {
            let object = ObjectIdentifier::builder().key(key).build();
            objects.push(object.map_err(|e| Failure::other(e.to_string()))?);
        }
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build();
        let delete = delete.map_err(|e| Failure::other(e.to_string()))?;
        let request = self
            .client
            .delete_objects()
            .bucket(&self.settings.bucket)
            .delete(delete);
        let output = request.send().await.map_err(Failure::of_service)?;
        let errors = output.errors.unwrap_or_default();
        let count = errors.len();
        match errors.into_iter().find(|e| e.code() != Some("NoSuchKey")) {
            None => Ok(()),
            Some(e) => Err(Failure::of_code(
                e.code().unwrap_or_default(),
                0,
                format!(
                    "{count} keys failed, {:?}: {}",
                    e.key,
                    e.message().unwrap_or_default()
                ),
            )),
        }
    }
}

/// A key as a header can carry it.
fn percent_encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn etag(tag: Option<String>) -> Result<ETag, Failure> {
    tag.map(ETag)
        .ok_or_else(|| Failure::other("the store gave no ETag"))
}

fn time(time: Option<DateTime>) -> Result<SystemTime, Failure> {
    let time = time.map_or(Ok(UNIX_EPOCH), SystemTime::try_from);
    time.map_err(|e| Failure::other(format!("the store gave an impossible time: {e}")))
}

fn length(output: &GetObjectOutput) -> Option<u64> {
    output.content_length.and_then(|n| u64::try_from(n).ok())
}

/// The body, if it has at most `limit` bytes and as many as announced.
async fn collect(mut output: GetObjectOutput, limit: u64) -> Result<Bytes, Failure> {
    let expected = length(&output);
    if let Some(n) = expected.filter(|n| *n > limit) {
        return Err(Failure::corrupt(format!(
            "{n} bytes, at most {limit} expected"
        )));
    }
    let capacity = expected.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut body = BytesMut::with_capacity(capacity);
    while let Some(part) = output.body.try_next().await.map_err(Failure::of_stream)? {
        if (body.len() + part.len()) as u64 > limit {
            return Err(Failure::corrupt(format!(
                "more than the {limit} bytes expected"
            )));
        }
        body.extend_from_slice(&part);
    }
    if expected.is_some_and(|n| n != body.len() as u64) {
        return Err(Failure::interrupted(format!(
            "{} of {expected:?} bytes",
            body.len()
        )));
    }
    Ok(body.freeze())
}

#[async_trait]
impl Bucket for S3 {
    async fn get(&self, key: &str) -> Result<Object, Error> {
        let full = self.full(Operation::Get, key)?;
        self.attempt(Operation::Get, key, ATTEMPTS, || self.get_once(&full))
            .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let full = self.full(Operation::Get, key)?;
        if range
            .end
            .checked_sub(range.start)
            .is_none_or(|n| n > MAX_GET)
        {
            let failure = Failure::corrupt(format!("{}..{} is no range", range.start, range.end));
            return Err(self.error(Operation::Get, key, failure));
        }
        if range.is_empty() {
            // Not expressible as a request for bytes.
            let meta = self.head(key).await?;
            if range.end > meta.size {
                let failure =
                    Failure::corrupt(format!("{}..{} of {}", range.start, range.end, meta.size));
                return Err(self.error(Operation::Get, key, failure));
            }
            return Ok(Bytes::new());
        }
        self.attempt(Operation::Get, key, ATTEMPTS, || {
            self.range_once(&full, &range)
        })
        .await
    }

    async fn download(&self, key: &str, to: &Path) -> Result<Download, Error> {
        let full = self.full(Operation::Download, key)?;
        self.attempt(Operation::Download, key, ATTEMPTS, || {
            self.download_once(&full, to)
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Meta, Error> {
        let full = self.full(Operation::Head, key)?;
        self.attempt(Operation::Head, key, ATTEMPTS, || async {
            let request = self
                .client
                .head_object()
                .bucket(&self.settings.bucket)
                .key(&full);
            let output = request.send().await.map_err(Failure::of_service)?;
            let size = output.content_length.and_then(|n| u64::try_from(n).ok());
            Ok(Meta {
                key: key.to_owned(),
                size: size.ok_or_else(|| Failure::other("the store gave no size"))?,
                etag: Some(etag(output.e_tag)?),
                last_modified: time(output.last_modified)?,
            })
        })
        .await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error> {
        let full = self.full(Operation::Put, key)?;
        // A repeated conditional put could fail because the first one succeeded.
        let attempts = if mode == PutMode::Overwrite {
            ATTEMPTS
        } else {
            1
        };
        let done = self
            .attempt(Operation::Put, key, attempts, || {
                self.put_once(&full, &body, &mode)
            })
            .await;
        done.map_err(|e| match (e.kind(), &mode) {
            // What some stores answer if there is no object to match.
            (Kind::NotFound, PutMode::IfMatch(_)) => self.error(
                Operation::Put,
                key,
                Failure::precondition("there is no such object"),
            ),
            _ => e,
        })
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let source = self.full(Operation::Copy, from)?;
        let full = self.full(Operation::Copy, to)?;
        self.attempt(Operation::Copy, from, ATTEMPTS, || {
            self.copy_once(&source, &full)
        })
        .await
    }

    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error> {
        let fail = |f| self.error(Operation::List, prefix, f);
        key::check_prefix(prefix).map_err(|e| fail(Failure::other(e)))?;
        let full = format!("{}{prefix}", self.settings.prefix);
        let mut listing = Listing::default();
        let mut token: Option<String> = None;
        for _ in 0..MAX_LIST_REQUESTS {
            let page = || self.list_once(&full, delimiter, token.as_deref());
            let (page, next) = self
                .attempt(Operation::List, prefix, ATTEMPTS, page)
                .await?;
            listing.objects.extend(page.objects);
            listing.prefixes.extend(page.prefixes);
            if listing.objects.len() + listing.prefixes.len() > MAX_LISTED {
                return Err(fail(Failure::other(format!(
                    "more than {MAX_LISTED} entries"
                ))));
            }
            if next.is_none() {
                return Ok(listing);
            }
            token = next;
        }
        Err(fail(Failure::other("the listing does not end")))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        for batch in keys.chunks(DELETE_BATCH) {
            let full = batch
                .iter()
                .map(|k| self.full(Operation::Delete, k))
                .collect::<Result<Vec<_>, _>>()?;
            let first = batch.first().map_or("", String::as_str);
            self.attempt(Operation::Delete, first, ATTEMPTS, || {
                self.delete_once(&full)
            })
            .await?;
        }
        Ok(())
    }
}
