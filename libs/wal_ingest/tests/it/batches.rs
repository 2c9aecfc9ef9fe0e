//! Batches: limits, what a reader sees when, what a failure leaves.

use crate::feed::{Feed, START, T, page};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use types::{Batch, Key, Lsn, PgMajor};
use wal_ingest::testing::MemoryStore;
use wal_ingest::{Cause, Config, Event, Ingest, Limits, Store, StoreError};

#[test]
fn nothing_is_visible_before_the_commit_and_everything_after() {
    let mut f = Feed::new(PgMajor::V16);
    let mut ends = vec![START];
    for b in 0..5 {
        let rec = f.rec(0, 0xB0).block(0, T, b).image(&page(1), None, true);
        ends.push(f.try_push(rec).unwrap().0);
        assert_eq!(
            (f.store.last(), f.ingest.pending()),
            (START, b as usize + 1)
        );
    }
    f.commit();
    assert_eq!((f.store.last(), f.store.prev()), (ends[5], ends[4]));
    assert_eq!(f.ingest.pending(), 0);
    let rec = f.rec(0, 0x20);
    f.push(rec);
    assert_eq!(
        f.store.prev(),
        ends[5],
        "a batch of one record follows the one before"
    );
}

#[test]
fn batches_are_cut_by_records_and_by_bytes() {
    let limits = Limits {
        batch_records: 3,
        ..Limits::default()
    };
    let mut f = Feed::with(Config {
        limits,
        ..Config::new(PgMajor::V16)
    });
    for _ in 0..7 {
        let rec = f.rec(0, 0x20);
        f.try_push(rec).unwrap();
    }
    assert_eq!((f.store.batches(), f.ingest.pending()), (2, 1));
    let limits = Limits {
        batch_bytes: 20_000,
        ..Limits::default()
    };
    let mut f = Feed::with(Config {
        limits,
        ..Config::new(PgMajor::V16)
    });
    for b in 0..6 {
        let rec = f.rec(0, 0xB0).block(0, T, b).image(&page(1), None, true);
        f.try_push(rec).unwrap();
    }
    assert_eq!(f.store.batches(), 2);
}

#[test]
fn records_that_were_ingested_already_are_ignored() {
    let mut f = Feed::new(PgMajor::V16);
    let raw = f.rec(0, 0x20).build();
    for end in [START, Lsn(START.0 - 8)] {
        let event = pollster::block_on(f.ingest.record(&f.store, Lsn(8), end, &raw)).unwrap();
        assert_eq!(event, Event::AlreadyIngested);
    }
    let odd = pollster::block_on(f.ingest.record(&f.store, START, Lsn(START.0 + 5), &raw));
    assert!(matches!(odd.unwrap_err().cause, Cause::Position { .. }));
}

#[test]
fn a_timeline_without_a_checkpoint_cannot_be_loaded() {
    let store = MemoryStore::default();
    let error = pollster::block_on(Ingest::load(&store, Config::new(PgMajor::V16), START))
        .err()
        .unwrap();
    assert!(matches!(
        error.cause,
        Cause::Missing {
            key: Key::CHECKPOINT
        }
    ));
}

/// Fails or hangs when told to.
struct Faulty {
    inner: MemoryStore,
    hang: std::sync::atomic::AtomicBool,
}

impl Store for Faulty {
    async fn get(&self, key: Key) -> Result<Option<bytes::Bytes>, StoreError> {
        self.inner.get(key).await
    }
    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        if self.hang.load(std::sync::atomic::Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let _ = batch;
        Err(StoreError("disk full".into()))
    }
}

#[test]
fn after_a_failed_or_abandoned_write_nothing_can_follow() {
    for hang in [false, true] {
        let inner = MemoryStore::fresh(PgMajor::V16, START, &crate::feed::fresh_checkpoint());
        let store = Faulty {
            inner,
            hang: hang.into(),
        };
        let cfg = Config::new(PgMajor::V16);
        let mut ingest = pollster::block_on(Ingest::load(&store, cfg, START)).unwrap();
        let raw = wal_ingest::testing::RecordBuilder::new(PgMajor::V16, 0, 0x20).build();
        pollster::block_on(ingest.record(&store, START, Lsn(START.0 + 24), &raw)).unwrap();
        {
            let mut commit = pin!(ingest.commit(&store));
            let polled = commit
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(matches!(polled, Poll::Pending), hang);
        }
        let next =
            pollster::block_on(ingest.record(&store, Lsn(START.0 + 24), Lsn(START.0 + 48), &raw));
        assert!(matches!(next.unwrap_err().cause, Cause::Stopped));
    }
}

#[test]
fn futures_can_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    let mut f = Feed::new(PgMajor::V16);
    assert_send(f.ingest.record(&f.store, START, Lsn(START.0 + 24), &[]));
    assert_send(f.ingest.commit(&f.store));
}
