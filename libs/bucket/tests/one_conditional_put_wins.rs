//! Of several writers that saw the same version, at most one succeeds.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by tests, where a failure should panic"
)]

use bucket::{Body, Bucket, Kind, Local, Memory, PutMode};
use std::sync::Arc;

async fn race(bucket: Arc<dyn Bucket>) {
    for round in 0..20 {
        let key = format!("gen/{}", round % 2);
        let mode = match bucket.head(&key).await {
            Ok(meta) => PutMode::IfMatch(meta.etag.unwrap()),
            Err(e) if e.kind() == Kind::NotFound => PutMode::IfAbsent,
            Err(e) => panic!("{e}"),
        };
        let tasks: Vec<_> = (0..8)
            .map(|writer| {
                let (bucket, key, mode) = (bucket.clone(), key.clone(), mode.clone());
                tokio::spawn(async move {
                    let body = format!("{round}-{writer}");
                    bucket
                        .put(&key, Body::Bytes(body.clone().into()), mode)
                        .await
                        .map(|etag| (body, etag))
                })
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(winner) => won.push(winner),
                Err(e) => assert_eq!(e.kind(), Kind::Precondition, "{e}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        let object = bucket.get(&key).await.unwrap();
        assert_eq!(
            (object.body, object.etag),
            (won[0].0.clone().into(), won[0].1.clone())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_memory() {
    race(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    race(Arc::new(Local::open(&root).unwrap())).await;
    // Nothing half-written is left.
    let files = std::fs::read_dir(root.join("gen")).unwrap();
    let mut names: Vec<_> = files
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["0", "1"]);
}
