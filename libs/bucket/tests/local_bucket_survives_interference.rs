//! A directory that others use as well: leftovers, concurrent puts and deletions.

use bucket::{Body, Bucket, Kind, Local, PutMode};
use std::sync::Arc;

#[tokio::test]
async fn temporary_files_and_empty_directories_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let b = Local::open(dir.path()).unwrap();
    std::fs::create_dir_all(dir.path().join("tenants/empty/timelines")).unwrap();
    std::fs::create_dir_all(dir.path().join("tenants/half")).unwrap();
    std::fs::write(
        dir.path()
            .join("tenants/half/index_part.json-00000001.___temp"),
        "half",
    )
    .unwrap();
    assert_eq!(b.list("", false).await.unwrap(), bucket::Listing::default());
    assert_eq!(
        b.list("tenants/", true).await.unwrap(),
        bucket::Listing::default()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_succeed_while_deletions_remove_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let b = Arc::new(Local::open(dir.path()).unwrap());
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let b = b.clone();
            tokio::spawn(async move {
                let key = format!("deep/er/still/{n}");
                for _ in 0..50 {
                    b.put(&key, Body::Bytes("x".into()), PutMode::Overwrite)
                        .await
                        .unwrap();
                    b.delete(std::slice::from_ref(&key)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!dir.path().join("deep").exists());
}

#[tokio::test]
async fn an_object_cannot_be_another_ones_directory() {
    let dir = tempfile::tempdir().unwrap();
    let b = Local::open(dir.path()).unwrap();
    b.put("a", Body::Bytes("x".into()), PutMode::Overwrite)
        .await
        .unwrap();
    let e = b
        .put("a/b", Body::Bytes("x".into()), PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Other, "{e}");
    b.put("c/d", Body::Bytes("x".into()), PutMode::Overwrite)
        .await
        .unwrap();
    let e = b
        .put("c", Body::Bytes("x".into()), PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Other, "{e}");
    assert_eq!(b.get("c/d").await.unwrap().body, "x");
}
