//! A tenant is loaded when somebody asks for it, once however many ask, and in the background
//! otherwise; a bucket that fails for a while only delays it.

#![cfg(test)]

mod support;

use bucket::{Bucket, Faults, Faulty};
use pageserver::engine::{Engine, Error};
use std::sync::Arc;
use support::{MAIN, Place, START, first_page, page_key, timeline};
use tokio_util::sync::CancellationToken;
use types::{TenantId, TenantShardId};

const TENANTS: u8 = 20;

fn id(n: u8) -> TenantShardId {
    TenantShardId::unsharded(TenantId([n; 16]))
}

async fn place_with_tenants() -> Place {
    let place = Place::default();
    let engine = place.engine();
    for n in 1..=TENANTS {
        let made = engine.create_tenant(id(n), Default::default(), None).await;
        timeline(&made.unwrap(), MAIN, 4).await;
    }
    place
}

async fn assert_reads(engine: &Engine, n: u8) {
    let tenant = engine.open(id(n)).await.unwrap();
    let page = tenant.timeline(MAIN).unwrap().get(page_key(3), START).await;
    assert_eq!(page.unwrap(), first_page(3));
}

#[tokio::test]
async fn who_asks_is_served_before_the_others_are_loaded() {
    let place = place_with_tenants().await;
    let engine = place.engine();
    assert!(matches!(
        engine.open(id(5)).await,
        Err(Error::TenantNotFound(_))
    ));
    assert_eq!(engine.discover().await.unwrap(), usize::from(TENANTS));
    assert!(engine.tenants().is_empty());
    assert!(engine.knows(id(5)) && !engine.knows(id(99)));
    let mut arrived = engine.watch_arrivals();
    assert_reads(&engine, 5).await;
    assert_eq!(arrived.recv().await.unwrap().tenant.id, id(5));
    assert_eq!(engine.tenants().len(), 1);
    let waiting: Vec<_> = engine.waiting().iter().map(|w| w.id).collect();
    assert_eq!(waiting.len(), usize::from(TENANTS) - 1);
    assert!(!waiting.contains(&id(5)));
    engine.load_waiting(&CancellationToken::new()).await;
    assert!(engine.waiting().is_empty());
    for n in 1..=TENANTS {
        assert_reads(&engine, n).await;
    }
}

#[tokio::test]
async fn those_who_ask_at_once_share_one_load() {
    let place = place_with_tenants().await;
    let engine = place.engine();
    engine.discover().await.unwrap();
    let ask = || engine.open(id(3));
    let cancel = CancellationToken::new();
    let (a, b, c, ()) = tokio::join!(ask(), ask(), ask(), engine.load_waiting(&cancel));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
    // The first was issued when the tenant was made.
    assert_eq!(a.generation.0, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_fails_only_delays() {
    let place = place_with_tenants().await;
    let faulty = Arc::new(Faulty::new(Arc::clone(&place.bucket) as Arc<dyn Bucket>, 1));
    let (engine, _) = place.engine_on(Arc::clone(&faulty) as Arc<dyn Bucket>);
    engine.discover().await.unwrap();
    faulty.set(Faults {
        error: 1.0,
        ..Faults::default()
    });
    assert!(engine.open(id(3)).await.is_err());
    let failed: Vec<_> = engine
        .waiting()
        .into_iter()
        .filter(|w| w.failure.is_some())
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].id, id(3));
    let heal = async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        faulty.set(Faults::default());
    };
    let cancel = CancellationToken::new();
    tokio::join!(engine.load_waiting(&cancel), heal);
    assert!(engine.waiting().is_empty());
    for n in 1..=TENANTS {
        assert_reads(&engine, n).await;
    }
}
