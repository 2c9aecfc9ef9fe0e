//! Injected faults depend on the seed alone, and are what they claim to be.

use bucket::{Body, Bucket, Faults, Faulty, Kind, Memory, Operation, PutMode};
use std::sync::Arc;
use std::time::Duration;

async fn put(b: &dyn Bucket, key: &str, mode: PutMode) -> Result<(), Kind> {
    b.put(key, Body::Bytes(key.to_owned().into()), mode)
        .await
        .map(|_| ())
        .map_err(|e| e.kind())
}

async fn outcomes(seed: u64) -> Vec<String> {
    let b = Faulty::new(Arc::new(Memory::new()), seed);
    b.set(Faults {
        error: 0.3,
        lost_reply: 0.2,
        flipped_bit: 0.2,
        latency: None,
    });
    let mut log = Vec::new();
    for i in 0..100 {
        let key = format!("k/{}", i % 10);
        log.push(format!("{:?}", put(&b, &key, PutMode::IfAbsent).await));
        log.push(format!(
            "{:?}",
            b.get(&key).await.map(|o| o.body).map_err(|e| e.kind())
        ));
        log.push(format!(
            "{:?}",
            b.delete(&[key]).await.map_err(|e| e.kind())
        ));
    }
    assert!(b.injected() > 50);
    log
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    assert_eq!(outcomes(7).await, outcomes(7).await);
    assert_ne!(outcomes(7).await, outcomes(8).await);
}

#[tokio::test]
async fn a_lost_reply_is_an_effect_without_an_answer() {
    let inner = Arc::new(Memory::new());
    let b = Faulty::new(inner.clone(), 1);
    b.set(Faults {
        lost_reply: 1.0,
        ..Faults::default()
    });
    assert_eq!(put(&b, "k", PutMode::IfAbsent).await, Err(Kind::Timeout));
    assert_eq!(inner.get("k").await.unwrap().body, "k");
    assert_eq!(
        put(&b, "k", PutMode::IfAbsent).await,
        Err(Kind::Precondition)
    );
    let keys: Vec<String> = (0..50).map(|i| format!("many/{i}")).collect();
    for key in &keys {
        put(inner.as_ref(), key, PutMode::Overwrite).await.unwrap();
    }
    assert_eq!(b.delete(&keys).await.unwrap_err().kind(), Kind::Timeout);
    let left = inner.list("many/", false).await.unwrap().objects.len();
    assert!(left > 0 && left < 50, "{left}");
}

#[tokio::test]
async fn an_error_has_no_effect_and_can_be_ordered() {
    let inner = Arc::new(Memory::new());
    let b = Faulty::new(inner.clone(), 1);
    b.fail_next(Operation::Put, Kind::Denied);
    b.fail_next(Operation::Put, Kind::Throttled);
    assert_eq!(b.get("k").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(put(&b, "k", PutMode::Overwrite).await, Err(Kind::Denied));
    assert_eq!(put(&b, "k", PutMode::Overwrite).await, Err(Kind::Throttled));
    assert!(inner.list("", false).await.unwrap().objects.is_empty());
    put(&b, "k", PutMode::Overwrite).await.unwrap();
    b.set(Faults {
        error: 1.0,
        ..Faults::default()
    });
    assert!(b.get("k").await.unwrap_err().is_transient());
    assert_eq!(b.injected(), 3);
}

#[tokio::test]
async fn a_flipped_bit_is_one_bit() {
    let inner = Arc::new(Memory::new());
    let b = Faulty::new(inner.clone(), 3);
    b.set(Faults {
        flipped_bit: 1.0,
        ..Faults::default()
    });
    inner
        .put("k", vec![0u8; 64].into(), PutMode::Overwrite)
        .await
        .unwrap();
    let ones = |bytes: &[u8]| bytes.iter().map(|b| b.count_ones()).sum::<u32>();
    assert_eq!(ones(&b.get("k").await.unwrap().body), 1);
    assert_eq!(ones(&b.get_range("k", 8..24).await.unwrap()), 1);
    assert!(b.get_range("k", 8..8).await.unwrap().is_empty());
    assert_eq!(ones(&inner.get("k").await.unwrap().body), 0);
}

#[tokio::test]
async fn latency_is_added_to_every_operation() {
    let b = Faulty::new(Arc::new(Memory::new()), 3);
    let slow = Duration::from_millis(10)..Duration::from_millis(20);
    b.set(Faults {
        latency: Some(slow),
        ..Faults::default()
    });
    let before = tokio::time::Instant::now();
    put(&b, "k", PutMode::Overwrite).await.unwrap();
    b.get("k").await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(20));
}
