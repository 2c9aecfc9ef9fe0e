//! Pages of what was dropped leave the disk and the bucket once nobody can read them any more, though
//! nothing is ever written there again.

#![allow(missing_docs, clippy::unwrap_used, reason = "test")]

mod support;

use bucket::Bucket as _;
use pageserver::engine::timeline::Horizon;
use pageserver::engine::timeline::compaction::Force;
use pageserver::engine::{Error, Timeline};
use std::sync::Arc;
use std::time::Duration;
use support::*;
use types::directory::{SlruDirectory, encode_size};
use types::{Batch, Key, Lsn, SlruKind};

/// Pages of a segment; the last two segments are dropped.
const PAGES: u32 = 400;
const SEGMENTS: u32 = 4;
const KIND: SlruKind = SlruKind::MultiXactMembers;

fn size(timeline: &Timeline) -> u64 {
    timeline.layers().files().map(|l| l.size()).sum()
}

async fn put(timeline: &Arc<Timeline>, values: Vec<(Key, Vec<u8>)>) {
    let mut batch = Batch::new();
    batch.last_lsn = timeline.last_record_lsn().saturating_add(8);
    for (key, value) in values {
        batch.put_image(key, batch.last_lsn, &value);
    }
    timeline.write(batch).await.unwrap();
}

fn segments(there: std::ops::Range<u32>) -> (Key, Vec<u8>) {
    let directory = SlruDirectory {
        segments: there.collect(),
    };
    (Key::slru_dir(KIND), directory.encode().to_vec())
}

/// Some WAL behind, then a collection of everything but the present, and what follows from it.
async fn pass(timeline: &Arc<Timeline>) {
    put(timeline, vec![(Key::CHECKPOINT, b"later".to_vec())]).await;
    timeline.checkpoint().await.unwrap();
    let horizon = Horizon {
        bytes: 0,
        pitr: Duration::ZERO,
    };
    timeline.gc(horizon).await.unwrap();
    let l0 = Force {
        l0: true,
        images: false,
    };
    timeline.compact(l0).await.unwrap();
    timeline.checkpoint().await.unwrap();
}

#[tokio::test]
async fn what_was_dropped_leaves_the_bucket() {
    let place = Place::with(&serde_json::json!({
        "compaction_threshold": 1000,
        "compaction_target_size": 1 << 20,
    }));
    let engine = place.engine();
    let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
    let timeline = timeline(&tenant.unwrap(), MAIN, 10).await;
    let pages = (0..SEGMENTS).flat_map(|s| {
        let page = move |n| (Key::slru_block(KIND, s, n), vec![(s + n) as u8; 8192]);
        let size = (Key::slru_segment_size(KIND, s), encode_size(PAGES).to_vec());
        (0..PAGES).map(page).chain([size])
    });
    put(&timeline, pages.chain([segments(0..SEGMENTS)]).collect()).await;
    timeline.freeze_and_flush().await.unwrap();
    let everything = Force {
        l0: true,
        images: true,
    };
    timeline.compact(everything).await.unwrap();
    for _ in 0..2 {
        pass(&timeline).await;
    }
    let all = u64::from(SEGMENTS * PAGES) * 8192;
    let before = size(&timeline);
    assert!((all..all + all / 8).contains(&before), "{before} of {all}");

    put(&timeline, vec![segments(0..SEGMENTS - 2)]).await;
    let dropped = timeline.last_record_lsn();
    let page = Key::slru_block(KIND, SEGMENTS - 1, 7);
    // Still there for readers of the past.
    let past = Lsn(dropped.0 - 8);
    let pin = timeline.pin(past).unwrap();
    pass(&timeline).await;
    assert_eq!(timeline.get(page, past).await.unwrap()[..], [10; 8192]);
    drop(pin);
    for _ in 0..3 {
        pass(&timeline).await;
    }
    let after = size(&timeline);
    assert!(after < all / 2 + all / 8, "{after} of {before}");
    let listed = place.bucket.list("tenants/", false).await.unwrap();
    let stored: u64 = listed.objects.iter().map(|o| o.size).sum();
    assert!(stored < all / 2 + all / 8, "{stored} of {before}");
    let last = timeline.last_record_lsn();
    let gone = timeline.get(page, last).await.unwrap_err();
    assert!(matches!(gone, Error::MissingKey { .. }), "{gone}");
    for (segment, n) in [(0, 3), (1, 399)] {
        let read = timeline.get(Key::slru_block(KIND, segment, n), last).await;
        assert_eq!(read.unwrap()[..], [(segment + n) as u8; 8192]);
    }
    // And that was all: nothing is written over and over again.
    let names = || -> Vec<String> {
        let layers = timeline.layers();
        let images = layers
            .files()
            .filter(|l| !l.is_delta() && l.size() > 1 << 18);
        images.map(|l| l.name().to_string()).collect()
    };
    let images = names();
    pass(&timeline).await;
    for name in names() {
        assert!(images.contains(&name), "{name} was written again");
    }
}
