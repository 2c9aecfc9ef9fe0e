//! A scrub finds damaged and missing copies of layers, on disk and in the bucket, and repairs each
//! from the other; what is damaged in both places is reported and not touched.

#![expect(clippy::disallowed_methods, reason = "damages files")]
#![cfg(test)]

mod support;

use bucket::{Body, Bucket, Faults, Faulty, PutMode};
use pageserver::engine::timeline::scrub::Options;
use pageserver::engine::{Engine, Timeline};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use support::{MAIN, Place, START, TENANT, timeline};
use types::{TenantId, TenantShardId};

const ALL: Options = Options {
    local: true,
    bucket: true,
    rate: u64::MAX,
};

struct World {
    place: Place,
    faulty: Arc<Faulty>,
    engine: Arc<Engine>,
    timeline: Arc<Timeline>,
}

impl World {
    async fn new() -> World {
        let place = Place::default();
        let faulty = Arc::new(Faulty::new(Arc::clone(&place.bucket) as Arc<dyn Bucket>, 1));
        let engine = place.engine_on(Arc::clone(&faulty) as Arc<dyn Bucket>).0;
        let made = engine.create_tenant(TENANT, Default::default(), None).await;
        World {
            timeline: timeline(&made.unwrap(), MAIN, 8).await,
            place,
            faulty,
            engine,
        }
    }

    /// The only layer: its file and its object.
    fn layer(&self) -> (PathBuf, String) {
        let map = self.timeline.layers();
        let layer = map.files().next().unwrap();
        assert_eq!(map.file_count(), 1);
        (
            self.place.directory.path().join(layer.local_path()),
            layer.object_key(&TENANT.tenant, &MAIN),
        )
    }

    fn damage_file(&self) {
        let (path, _) = self.layer();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    async fn damage_object(&self) {
        let (_, key) = self.layer();
        let mut bytes = self.place.bucket.get(&key).await.unwrap().body.to_vec();
        bytes[30_000] ^= 1;
        let body = Body::from(bytes);
        self.place
            .bucket
            .put(&key, body, PutMode::Overwrite)
            .await
            .unwrap();
    }

    async fn copies_are_equal(&self) -> bool {
        let (path, key) = self.layer();
        std::fs::read(path).unwrap() == self.place.bucket.get(&key).await.unwrap().body
    }
}

#[tokio::test]
async fn what_is_right_stays() {
    let w = World::new().await;
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!((report.layers, report.without_digest), (1, 0));
    assert!(report.bytes > 2 * 8 * 8192, "{report:?}");
    assert!(report.local_repaired.is_empty() && report.bucket_repaired.is_empty());
    assert!(report.lost.is_empty());
}

#[tokio::test]
async fn a_damaged_file_is_fetched_again() {
    let w = World::new().await;
    let before = w.place.bucket.get(&w.layer().1).await.unwrap().body;
    w.damage_file();
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!((report.local_repaired.len(), report.lost.len()), (1, 0));
    assert!(w.copies_are_equal().await);
    assert_eq!(w.place.bucket.get(&w.layer().1).await.unwrap().body, before);
    assert!(
        w.timeline
            .scrub(ALL)
            .await
            .unwrap()
            .local_repaired
            .is_empty()
    );
}

#[tokio::test]
async fn a_damaged_or_missing_object_is_written_again() {
    let w = World::new().await;
    let before = std::fs::read(w.layer().0).unwrap();
    w.damage_object().await;
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!((report.bucket_repaired.len(), report.lost.len()), (1, 0));
    assert!(w.copies_are_equal().await);
    w.place.bucket.delete(&[w.layer().1]).await.unwrap();
    let only_bucket = Options {
        local: false,
        ..ALL
    };
    let report = w.timeline.scrub(only_bucket).await.unwrap();
    assert_eq!((report.bucket_repaired.len(), report.lost.len()), (1, 0));
    assert!(w.copies_are_equal().await);
    assert_eq!(std::fs::read(w.layer().0).unwrap(), before);
}

#[tokio::test]
async fn damage_in_both_places_is_reported_and_not_spread() {
    let w = World::new().await;
    w.damage_file();
    w.damage_object().await;
    let (path, key) = w.layer();
    let file = std::fs::read(&path).unwrap();
    let object = w.place.bucket.get(&key).await.unwrap().body;
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert!(report.lost[0].contains("CRC-32C"), "{report:?}");
    assert!(report.local_repaired.is_empty() && report.bucket_repaired.is_empty());
    assert_eq!(std::fs::read(&path).unwrap(), file);
    assert_eq!(w.place.bucket.get(&key).await.unwrap().body, object);
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_is_no_loss() {
    let w = World::new().await;
    w.faulty.set(Faults {
        error: 1.0,
        ..Faults::default()
    });
    let report = w.timeline.scrub(ALL).await.unwrap();
    // The layer, and the list of what may be left over.
    assert_eq!((report.unchecked.len(), report.lost.len()), (2, 0));
    let list = report.unchecked.last().unwrap();
    assert!(list.starts_with("objects of older generations: "), "{list}");
    // Nor is a file that cannot be fetched again right now.
    w.damage_file();
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!(report.unchecked.len(), 3, "{:?}", report.unchecked);
    w.faulty.set(Faults::default());
    w.timeline.scrub(ALL).await.unwrap();
    let key = support::page_key(3);
    let page = w.timeline.get(key, START).await.unwrap();
    assert_eq!(page, support::first_page(3));
    assert!(w.copies_are_equal().await);
}

#[tokio::test]
async fn a_pass_reaches_all_tenants_at_a_bounded_rate() {
    let w = World::new().await;
    let other = TenantShardId::unsharded(TenantId([8; 16]));
    let made = w.engine.create_tenant(other, Default::default(), None);
    timeline(&made.await.unwrap(), MAIN, 8).await;
    w.damage_file();
    let rate = 1 << 20;
    let started = std::time::Instant::now();
    let report = w.engine.scrub_all(rate).await;
    assert_eq!((report.layers, report.local_repaired.len()), (2, 1));
    let least = Duration::from_secs_f64(report.bytes as f64 / rate as f64);
    assert!(report.bytes > 4 * 8 * 8192, "{report:?}");
    assert!(started.elapsed() >= least, "{report:?}");
    assert!(w.copies_are_equal().await);
}
