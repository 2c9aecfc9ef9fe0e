//! A scrub finds damaged and missing copies of layers, on disk and in the bucket, and repairs each
//! from the other; what is damaged in both places is reported and not touched.

#![expect(clippy::disallowed_methods, reason = "damages files")]
#![cfg(test)]

use bucket::{Body, Bucket, Memory, PutMode};
use bytes::Bytes;
use layer_format::Metadata;
use layer_format::index_part::IndexPart;
use pageserver::engine::disk::HostDisk;
use pageserver::engine::env::{Env, HostClock, HostEntropy};
use pageserver::engine::metrics::Metrics;
use pageserver::engine::timeline::import::Layers;
use pageserver::engine::timeline::scrub::Options;
use pageserver::engine::{Engine, Timeline};
use std::path::PathBuf;
use std::sync::Arc;
use types::{Key, Lsn, PgMajor, SlruKind, TenantId, TenantShardId, TimelineId};

const TENANT: TenantShardId = TenantShardId::unsharded(TenantId([7; 16]));
const MAIN: TimelineId = TimelineId([1; 16]);
const START: Lsn = Lsn(0x1000);
const ALL: Options = Options {
    local: true,
    bucket: true,
    rate: u64::MAX,
};

struct World {
    directory: tempfile::TempDir,
    bucket: Arc<Memory>,
    timeline: Arc<Timeline>,
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let bucket = Arc::new(Memory::new());
        let env = Env {
            disk: Arc::new(HostDisk::new(directory.path())),
            bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
            clock: Arc::new(HostClock),
            entropy: Arc::new(HostEntropy),
        };
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Arc::new(Metrics::new(&mut registry));
        let settings = serde_json::Map::new();
        let engine = Engine::new(env, 1 << 30, metrics, settings.clone()).0;
        let tenant = engine.create_tenant(TENANT, settings, None).await.unwrap();
        let index = IndexPart::new(Metadata {
            disk_consistent_lsn: Lsn::INVALID,
            prev_record_lsn: None,
            ancestor_timeline: None,
            ancestor_lsn: Lsn::INVALID,
            latest_gc_cutoff_lsn: START,
            initdb_lsn: START,
            pg_version: PgMajor::V17,
        });
        let timeline = tenant
            .create_for_import(MAIN, PgMajor::V17, index)
            .await
            .unwrap();
        let mut layers = Layers::new(&timeline, START);
        for n in 0..8 {
            let key = Key::slru_block(SlruKind::MultiXactOffsets, 0, n);
            layers.put(key, Bytes::from(vec![n as u8; 8192])).unwrap();
        }
        let mut control =
            include_bytes!("../../libs/pg_format/tests/data/pg_control_17.bin").to_vec();
        control.resize(8192, 0);
        layers.put(Key::CONTROL_FILE, control.into()).unwrap();
        timeline
            .adopt_import(layers.finish().unwrap(), START)
            .await
            .unwrap();
        timeline.finish_import().await.unwrap();
        World {
            directory,
            bucket,
            timeline,
        }
    }

    /// The only layer: its file and its object.
    fn layer(&self) -> (PathBuf, String) {
        let map = self.timeline.layers();
        let layer = map.files().next().unwrap();
        assert_eq!(map.file_count(), 1);
        (
            self.directory.path().join(layer.local_path()),
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
        let mut bytes = self.bucket.get(&key).await.unwrap().body.to_vec();
        bytes[30_000] ^= 1;
        let body = Body::from(bytes);
        self.bucket
            .put(&key, body, PutMode::Overwrite)
            .await
            .unwrap();
    }

    async fn copies_are_equal(&self) -> bool {
        let (path, key) = self.layer();
        std::fs::read(path).unwrap() == self.bucket.get(&key).await.unwrap().body
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
    let before = w.bucket.get(&w.layer().1).await.unwrap().body;
    w.damage_file();
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!((report.local_repaired.len(), report.lost.len()), (1, 0));
    assert!(w.copies_are_equal().await);
    assert_eq!(w.bucket.get(&w.layer().1).await.unwrap().body, before);
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
    w.bucket.delete(&[w.layer().1]).await.unwrap();
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
    let object = w.bucket.get(&key).await.unwrap().body;
    let report = w.timeline.scrub(ALL).await.unwrap();
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert!(report.lost[0].contains("CRC-32C"), "{report:?}");
    assert!(report.local_repaired.is_empty() && report.bucket_repaired.is_empty());
    assert_eq!(std::fs::read(&path).unwrap(), file);
    assert_eq!(w.bucket.get(&key).await.unwrap().body, object);
}
