//! While a scrub is under way, which may take days, what compaction replaces is deleted as ever.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "test: the scrub is a task of its own"
)]

mod support;

use pageserver::engine::disk::{Disk as _, HostDisk};
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::timeline::scrub::Options;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use support::*;
use types::Batch;

const PAGES: u32 = 20;
const LAYERS: usize = 5;

#[tokio::test]
async fn a_scrub_holds_nothing_back() {
    let place = Place::with(&serde_json::json!({ "compaction_threshold": 1000 }));
    let engine = place.engine();
    let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
    let timeline = timeline(&tenant.unwrap(), MAIN, PAGES).await;
    for _ in 0..LAYERS {
        let mut batch = Batch::new();
        batch.last_lsn = timeline.last_record_lsn().saturating_add(8);
        for n in 0..PAGES {
            batch.put_image(page_key(n), batch.last_lsn, &[n as u8; 8192]);
        }
        timeline.write(batch).await.unwrap();
        timeline.freeze_and_flush().await.unwrap();
    }
    timeline.checkpoint().await.unwrap();
    let disk = HostDisk::new(place.directory.path());
    let on_disk = || -> BTreeSet<String> {
        let entries = disk.list(&format!("tenants/{TENANT}/timelines/{MAIN}"));
        let names = entries.unwrap().into_iter().map(|e| e.name);
        names.filter(|n| !n.ends_with(".json")).collect()
    };
    let known = || -> BTreeSet<String> {
        let layers = timeline.layers();
        layers.files().map(|l| l.local_name()).collect()
    };
    assert_eq!(on_disk(), known());
    let slowly = Options {
        local: true,
        bucket: false,
        rate: 1,
    };
    let scrubbed = Arc::clone(&timeline);
    let scrub = tokio::spawn(async move { scrubbed.scrub(slowly).await });
    // Long enough for it to have read the first layer and to wait.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = known();
    let l0 = Force {
        l0: true,
        images: false,
    };
    assert_eq!(timeline.compact(l0).await.unwrap().l0, LAYERS);
    timeline.checkpoint().await.unwrap();
    assert!(!scrub.is_finished());
    let gone = before.difference(&known()).count();
    assert_eq!(gone, LAYERS);
    let left = on_disk().difference(&known()).count();
    assert!(
        left <= 1,
        "{left} of {gone} replaced layers are still there"
    );
    scrub.abort();
}
