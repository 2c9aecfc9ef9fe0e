//! Requests that failed for a passing reason are made again, unless that could do harm.

#![expect(
    clippy::unwrap_used,
    reason = "shared by tests, where a failure should panic"
)]

use bucket::{Bucket, Config, Credentials, Kind, PutMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const HANG_UP: &str = "";
const CUT: &str =
    "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello";
const GOOD: &str =
    "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const TAKEN: &str =
    "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A server that gives these answers, one per request, the last one for ever.
async fn server(answers: &'static [&'static str]) -> (Arc<dyn Bucket>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let n = count.fetch_add(1, Ordering::SeqCst);
            let answer = answers.get(n).or(answers.last()).unwrap();
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    let config = Config {
        bucket_name: Some("b".into()),
        endpoint: Some(endpoint),
        ..Config::default()
    };
    let key = Credentials {
        access_key: "k".into(),
        secret_key: "s".into(),
    };
    (config.open(Some(key)).await.unwrap(), requests)
}

#[tokio::test]
async fn a_read_succeeds_once_the_store_recovers() {
    let (bucket, requests) = server(&[BUSY, BROKEN, HANG_UP, CUT, GOOD]).await;
    assert_eq!(bucket.get("k").await.unwrap().body, "hello");
    assert_eq!(requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_plain_put_is_repeated_a_conditional_one_is_not() {
    let (bucket, requests) = server(&[BUSY, BROKEN, GOOD]).await;
    let put = async |mode| bucket.put("k", b"x".to_vec().into(), mode).await;
    put(PutMode::Overwrite).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 3);

    let (bucket, requests) = server(&[BROKEN, BUSY, TAKEN]).await;
    for kind in [Kind::Other, Kind::Throttled, Kind::Precondition] {
        let put = bucket
            .put("k", b"x".to_vec().into(), PutMode::IfAbsent)
            .await;
        assert_eq!(put.unwrap_err().kind(), kind);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_store_that_ignores_the_range_is_noticed() {
    let (bucket, requests) = server(&[GOOD]).await;
    assert_eq!(bucket.get_range("k", 0..5).await.unwrap(), "hello");
    assert_eq!(
        bucket.get_range("k", 0..3).await.unwrap_err().kind(),
        Kind::Corrupt
    );
    assert_eq!(
        bucket.get_range("k", 0..9).await.unwrap_err().kind(),
        Kind::Corrupt
    );
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}
