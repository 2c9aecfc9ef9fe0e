//! A layer that is evicted leaves local disk, not the timeline: the next read fetches it. One that is
//! not in the bucket yet cannot be evicted, and a file that somebody removed is fetched again.

#![expect(clippy::disallowed_methods, reason = "looks at files")]
#![cfg(test)]

mod support;

use bytes::Bytes;
use pageserver::engine::{Error, Timeline};
use std::sync::Arc;
use support::{MAIN, Place, START, TENANT, first_page, page_key, timeline};
use types::{Batch, Lsn, PAGE_SIZE, Value};

async fn new() -> (Place, Arc<Timeline>) {
    let place = Place::default();
    let engine = place.engine();
    let made = engine.create_tenant(TENANT, Default::default(), None).await;
    let timeline = timeline(&made.unwrap(), MAIN, 8).await;
    (place, timeline)
}

fn files(place: &Place, timeline: &Timeline) -> usize {
    std::fs::read_dir(place.directory.path().join(timeline.directory()))
        .unwrap()
        .count()
}

#[tokio::test]
async fn an_evicted_layer_is_fetched_by_the_next_read() {
    let (place, timeline) = new().await;
    let page = timeline.get(page_key(3), START).await.unwrap();
    assert_eq!(timeline.evict_all().await.unwrap().0, 1);
    assert_eq!(files(&place, &timeline), 0);
    let layer = timeline.layers().files().next().unwrap().clone();
    assert!(!layer.is_resident());
    assert!(!timeline.evict(&layer).await.unwrap());
    assert_eq!(timeline.get(page_key(3), START).await.unwrap(), page);
    assert!(layer.is_resident());
    assert_eq!(files(&place, &timeline), 1);
    timeline.evict_all().await.unwrap();
    assert!(layer.fetch(timeline.shared()).await.unwrap());
    assert!(!layer.fetch(timeline.shared()).await.unwrap());
}

#[tokio::test]
async fn what_is_not_in_the_bucket_stays() {
    let (place, timeline) = new().await;
    let lsn = Lsn(START.0 + 8);
    let mut batch = Batch::new();
    let page = Bytes::from(vec![0xAB; PAGE_SIZE]);
    batch.put(page_key(3), lsn, &Value::Image(page.clone()));
    batch.last_lsn = lsn;
    timeline.write(batch).await.unwrap();
    timeline.freeze_and_flush().await.unwrap();
    let map = timeline.layers();
    let fresh = map.l0().first().unwrap();
    assert!(matches!(
        timeline.evict(fresh).await,
        Err(Error::Precondition(_))
    ));
    assert_eq!(timeline.evict_all().await.unwrap().0, 1);
    assert_eq!(files(&place, &timeline), 1);
    timeline.upload().await.unwrap();
    assert_eq!(timeline.evict_all().await.unwrap().0, 1);
    assert_eq!(files(&place, &timeline), 0);
    assert_eq!(timeline.get(page_key(3), lsn).await.unwrap(), page);
    assert_eq!(timeline.get(page_key(4), lsn).await.unwrap(), first_page(4));
}

#[tokio::test]
async fn a_file_that_somebody_removed_is_fetched_again() {
    let (place, timeline) = new().await;
    timeline.evict_all().await.unwrap();
    let layer = timeline.layers().files().next().unwrap().clone();
    layer.fetch(timeline.shared()).await.unwrap();
    std::fs::remove_file(place.directory.path().join(layer.local_path())).unwrap();
    assert_eq!(
        timeline.get(page_key(3), START).await.unwrap(),
        first_page(3)
    );
    assert_eq!(files(&place, &timeline), 1);
}
