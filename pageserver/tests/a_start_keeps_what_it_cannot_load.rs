//! A start removes only what it knows to be left over: local files of a branch that cannot be loaded
//! now stay, and so does what this program did not make, which keeps no tenant from loading.

#![expect(clippy::disallowed_methods, reason = "makes and looks at files")]
#![cfg(test)]

mod support;

use bucket::{Body, Bucket, PutMode};
use layer_format::path;
use pageserver::engine::{Branch, Error};
use support::{MAIN, Place, START, TENANT, first_page, page_key, timeline};
use types::{Generation, TimelineId};

const BRANCH: TimelineId = TimelineId([2; 16]);

#[tokio::test]
async fn files_of_a_branch_whose_ancestor_is_missing_stay() {
    let place = Place::default();
    let engine = place.engine();
    let made = engine.create_tenant(TENANT, Default::default(), None).await;
    let tenant = made.unwrap();
    timeline(&tenant, MAIN, 4).await;
    let request = Branch {
        id: BRANCH,
        ancestor: MAIN,
        at: Some(START),
    };
    let branch = tenant.branch(request).await.unwrap();
    let dir = place.directory.path().join(branch.directory());
    std::fs::write(dir.join("wal_source.json"), "{}").unwrap();
    let stray = dir.parent().unwrap().join("README");
    std::fs::write(&stray, "not ours").unwrap();
    let stranger = dir.parent().unwrap().join(TimelineId([9; 16]).to_string());
    std::fs::create_dir(&stranger).unwrap();
    engine.shutdown().await;

    let key = path::index_part(&TENANT, &MAIN, Generation::new(1));
    let index = place.bucket.get(&key).await.unwrap().body;
    place
        .bucket
        .delete(std::slice::from_ref(&key))
        .await
        .unwrap();
    let engine = place.engine();
    engine.discover().await.unwrap();
    let tenant = engine.open(TENANT).await.unwrap();
    assert!(matches!(
        tenant.timeline(BRANCH),
        Err(Error::TimelineNotFound { .. })
    ));
    assert!(dir.join("wal_source.json").exists() && stray.exists());
    assert!(!stranger.exists());
    engine.shutdown().await;

    let body = Body::from(index.to_vec());
    place
        .bucket
        .put(&key, body, PutMode::Overwrite)
        .await
        .unwrap();
    let engine = place.engine();
    engine.discover().await.unwrap();
    let tenant = engine.open(TENANT).await.unwrap();
    let branch = tenant.timeline(BRANCH).unwrap();
    let page = branch.get(page_key(3), START).await.unwrap();
    assert_eq!(page, first_page(3));
}
