//! One suite against every implementation; S3 through a real server in this process.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

mod conformance;

use bucket::{Bucket, Config, Credentials, Faulty, Local, Memory};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;

#[tokio::test]
async fn memory() {
    let dir = TempDir::new().unwrap();
    let bucket = Memory::new();
    conformance::run(&bucket, dir.path()).await;
    conformance::directories_are_not_objects(&bucket, dir.path()).await;
    conformance::damaged_uploads_leave_nothing(&bucket, dir.path()).await;
}

#[tokio::test]
async fn local_directory() {
    let dir = TempDir::new().unwrap();
    let bucket = Local::open(dir.path().join("bucket")).unwrap();
    conformance::run(&bucket, dir.path()).await;
    conformance::directories_are_not_objects(&bucket, dir.path()).await;
    conformance::damaged_uploads_leave_nothing(&bucket, dir.path()).await;
}

#[tokio::test]
async fn decorator_without_faults() {
    let dir = TempDir::new().unwrap();
    let bucket = Faulty::new(Arc::new(Memory::new()), 1);
    conformance::run(&bucket, dir.path()).await;
    assert_eq!(bucket.injected(), 0);
}

/// Serves the directories below `root` as buckets; the address is the endpoint.
async fn serve(root: &std::path::Path) -> String {
    let service = {
        let mut b = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        b.set_auth(SimpleAuth::from_single("key", "secret"));
        b.build()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    endpoint
}

fn credentials(secret: &str) -> Option<Credentials> {
    Some(Credentials {
        access_key: "key".into(),
        secret_key: secret.into(),
    })
}

async fn s3(
    dir: &TempDir,
    prefix: Option<&str>,
    max_keys: Option<i32>,
) -> (Config, Arc<dyn Bucket>) {
    std::fs::create_dir_all(dir.path().join("s3/data")).unwrap();
    let config = Config {
        bucket_name: Some("data".into()),
        endpoint: Some(serve(&dir.path().join("s3")).await),
        prefix_in_bucket: prefix.map(str::to_owned),
        max_keys_per_list_response: max_keys,
        ..Config::default()
    };
    let bucket = config.open(credentials("secret")).await.unwrap();
    (config, bucket)
}

#[tokio::test]
async fn s3_server() {
    let dir = TempDir::new().unwrap();
    let (_, bucket) = s3(&dir, None, None).await;
    conformance::run(bucket.as_ref(), dir.path()).await;
    conformance::damaged_uploads_are_refused(bucket.as_ref(), dir.path()).await;
}

#[tokio::test]
async fn s3_server_with_prefix_and_short_pages() {
    let dir = TempDir::new().unwrap();
    let (config, bucket) = s3(&dir, Some("/some/where/"), Some(2)).await;
    conformance::run(bucket.as_ref(), dir.path()).await;
    let whole = Config {
        prefix_in_bucket: None,
        ..config
    }
    .open(credentials("secret"))
    .await
    .unwrap();
    let all = whole.list("", false).await.unwrap();
    assert!(all.objects.len() > 10);
    assert!(all.objects.iter().all(|o| o.key.starts_with("some/where/")));
}

#[tokio::test]
async fn s3_errors_say_what_is_wrong() {
    use bucket::Kind;
    let dir = TempDir::new().unwrap();
    let (config, _) = s3(&dir, None, None).await;
    let denied = config
        .open(credentials("wrong"))
        .await
        .unwrap()
        .get("k")
        .await
        .unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied, "{denied}");

    let other = Config {
        bucket_name: Some("nosuch".into()),
        ..config.clone()
    };
    let missing = other
        .open(credentials("secret"))
        .await
        .unwrap()
        .list("", false)
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), Kind::Other, "{missing}");
    assert!(missing.to_string().contains("nosuch"), "{missing}");

    // A listener that accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Config {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        timeout: Some(std::time::Duration::from_millis(30)),
        ..config
    };
    let silent = silent.open(credentials("secret")).await.unwrap();
    let put = silent
        .put("k", bytes::Bytes::new().into(), bucket::PutMode::IfAbsent)
        .await
        .unwrap_err();
    assert_eq!(put.kind(), Kind::Timeout, "{put}");
}
