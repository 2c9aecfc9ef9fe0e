//! A compaction that is dropped in its midst, at whatever point, takes with it what it has written.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "test")]

mod support;

use pageserver::engine::disk::{Disk as _, HostDisk};
use pageserver::engine::timeline::compaction::Force;
use std::collections::BTreeSet;
use std::future::Future;
use std::task::{Context, Poll, Waker};
use support::*;
use types::{Batch, Lsn};

/// Pages, each of them written in every layer: several times what is done between two stops.
const PAGES: u32 = 2000;
/// L0 layers.
const LAYERS: u64 = 2;

#[tokio::test]
async fn a_compaction_given_up_leaves_no_file() {
    let place = Place::default();
    let engine = place.engine();
    let tenant = engine.create_tenant(TENANT, Default::default(), None).await;
    let tenant = tenant.unwrap();
    let timeline = timeline(&tenant, MAIN, PAGES).await;
    let page = |layer: u64, n: u32| vec![(layer as u8).wrapping_add(n as u8); 8192];
    for layer in 1..=LAYERS {
        let mut batch = Batch::new();
        let lsn = Lsn(START.0 + layer * 8);
        for n in 0..PAGES {
            batch.put_image(page_key(n), lsn, &page(layer, n));
        }
        batch.last_lsn = lsn;
        timeline.write(batch).await.unwrap();
        timeline.freeze_and_flush().await.unwrap();
    }
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
    // What is replaced goes once an index says so, which none does here.
    let mut ever = known();
    let strange = |ever: &BTreeSet<String>| on_disk().difference(ever).count();

    let force = Force {
        l0: true,
        images: true,
    };
    let (mut stops, mut with_files) = (0, 0);
    let outcome = loop {
        stops += 1;
        let mut compaction = Box::pin(timeline.compact(force));
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0..stops;
        let done = polls.find_map(|_| match compaction.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => Some(outcome.unwrap()),
            Poll::Pending => None,
        });
        if let Some(outcome) = done {
            break outcome;
        }
        ever.extend(known());
        with_files += usize::from(strange(&ever) > 0);
        drop(compaction);
        assert_eq!(strange(&ever), 0, "stop {stops}: {:?}", on_disk());
    };
    assert!(outcome.images > 0, "{outcome:?}");
    assert!(with_files > 3, "{with_files} of {stops} stops met a file");
    for n in 0..PAGES {
        let read = timeline.get(page_key(n), timeline.last_record_lsn()).await;
        assert_eq!(read.unwrap()[..], page(LAYERS, n)[..], "page {n}");
    }
}
