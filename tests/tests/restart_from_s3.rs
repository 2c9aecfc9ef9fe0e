//! The bucket behind the S3 protocol: after a stop and the loss of local data everything is there.
//!
//! The server is s3s, which checks signatures and checksums as the real ones do, over objects in
//! memory: its own store of files has no room for keys as long as those of layers.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    CommonPrefix, DeleteObjectsInput, DeleteObjectsOutput, ETag, ETagCondition, GetObjectInput,
    GetObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
    PutObjectOutput, StreamingBlob, Timestamp,
};
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tests::accept::{Load, Size, follow, insert_lsn, pages, primary};
use tests::daemon::Daemon;
use tokio::net::TcpListener;
use types::PgMajor;

/// An object: what tells its versions apart, and its content.
type Stored = (u64, Bytes);

/// One bucket.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<BTreeMap<String, Stored>>>);

impl Store {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tag(version: u64) -> ETag {
    ETag::Strong(version.to_string())
}

fn now() -> Option<Timestamp> {
    Some(Timestamp::from(SystemTime::now()))
}

fn length(n: usize) -> Option<i64> {
    i64::try_from(n).ok()
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let mut content = BytesMut::new();
        if let Some(mut body) = input.body {
            while let Some(part) = body
                .try_next()
                .await
                .map_err(|e| s3_error!(IncompleteBody, "{e}"))?
            {
                content.extend_from_slice(&part);
            }
        }
        let mut objects = self.objects();
        let present = objects.get(&input.key).map(|o| o.0);
        let allowed = match (input.if_match, input.if_none_match) {
            (Some(ETagCondition::ETag(wanted)), _) => {
                present.is_some_and(|v| tag(v).strong_cmp(&wanted))
            }
            (Some(ETagCondition::Any), _) => present.is_some(),
            (None, Some(ETagCondition::Any)) => present.is_none(),
            _ => true,
        };
        if !allowed {
            return Err(s3_error!(PreconditionFailed));
        }
        let version = objects.values().map(|o| o.0).max().unwrap_or(0) + 1;
        objects.insert(input.key, (version, content.freeze()));
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(tag(version)),
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let found = self.objects().get(&request.input.key).cloned();
        let (version, content) = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        let content = match request.input.range {
            None => content,
            Some(range) => {
                let range = range.check(content.len() as u64)?;
                let end = usize::try_from(range.end).unwrap_or(content.len());
                content.slice(usize::try_from(range.start).unwrap_or(end)..end)
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: length(content.len()),
            e_tag: Some(tag(version)),
            last_modified: now(),
            body: Some(StreamingBlob::from(Body::from(content))),
            ..GetObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let prefix = request.input.prefix.unwrap_or_default();
        let mut contents = Vec::new();
        let mut prefixes = BTreeSet::new();
        for (key, (version, content)) in self.objects().iter() {
            let Some(rest) = key.strip_prefix(&prefix) else {
                continue;
            };
            let folder = request.input.delimiter.as_ref().and_then(|d| {
                let end = rest.find(d.as_str())? + d.len();
                Some(format!("{prefix}{}", rest.get(..end)?))
            });
            match folder {
                Some(folder) => drop(prefixes.insert(folder)),
                None => contents.push(Object {
                    key: Some(key.clone()),
                    size: length(content.len()),
                    e_tag: Some(tag(*version)),
                    last_modified: now(),
                    ..Object::default()
                }),
            }
        }
        let prefixes = prefixes
            .into_iter()
            .map(|p| CommonPrefix { prefix: Some(p) });
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(contents),
            common_prefixes: Some(prefixes.collect()),
            is_truncated: Some(false),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        for object in request.input.delete.objects {
            self.objects().remove(&object.key);
        }
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }
}

/// Serves a bucket; the address is the endpoint.
async fn serve(store: Store) -> Result<String> {
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A client that goes away is no failure of the server.
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    Ok(endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeline_comes_back_from_s3() -> Result<()> {
    let store = Store::default();
    let endpoint = serve(store.clone()).await?;
    let storage = format!(
        "remote_storage={{bucket_name = \"data\", endpoint = \"{endpoint}\", prefix_in_bucket = \"some/where\"}}"
    );
    let environment = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let settings = [
        storage.as_str(),
        "tenant_config.checkpoint_distance=4194304",
    ];
    let mut daemon = Daemon::start_with(&settings, &environment).await?;
    let size = Size {
        scale: 1,
        seconds: 2,
    };
    let cluster = Arc::new(primary(PgMajor::V16, size, &[]).await?);
    let followed = follow(&daemon, &cluster).await?;
    Load::start(&cluster, size.seconds)?.finish().await?;
    let end = insert_lsn(&cluster).await?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, end)
        .await?;
    daemon.stop().await?;
    ensure!(
        !daemon.path().join("bucket").exists(),
        "there is a local bucket as well"
    );
    ensure!(
        store
            .objects()
            .keys()
            .all(|k| k.starts_with("some/where/tenants/"))
    );
    daemon.lose_local_data()?;
    daemon.launch().await?;

    // The stop has made everything durable: it is readable before the primary is asked.
    let now = daemon.timeline(followed.shard(), followed.timeline).await?;
    ensure!(now.last_record_lsn >= end, "{now:?}");
    let layers = daemon
        .client()
        .layers(followed.shard(), followed.timeline)
        .await?;
    ensure!(
        layers.historic_layers.iter().any(|l| l.remote),
        "nothing was left to fetch: {layers:?}"
    );
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    pages::settle(&daemon, followed, &mut cluster)
        .await?
        .check()
}
