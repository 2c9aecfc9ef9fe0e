//! Pagestreams.

use super::*;
use crate::client;
use crate::frontend::Frontend;
use crate::message::Answer;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const AT: Lsn = Lsn::MAX;
const SINCE: Lsn = Lsn(8);

fn get(rel_number: u32, block: u32) -> Query {
    Query::GetPage {
        rel: rel(rel_number),
        block,
    }
}

#[tokio::test]
async fn every_request_has_its_answer_in_both_versions() {
    for version in [Version::V2, Version::V3] {
        let (mut pages, running) = stream(version).await;
        assert!(pages.exists(rel(6), AT, SINCE).await.unwrap());
        assert!(!pages.exists(rel(5), AT, SINCE).await.unwrap());
        assert_eq!(pages.nblocks(rel(21), AT, SINCE).await.unwrap(), 42);
        assert_eq!(*pages.page(rel(7), 9, AT, SINCE).await.unwrap(), page(7, 9));
        assert_eq!(pages.db_size(3, AT, SINCE).await.unwrap(), 24576);
        let segment = pages.slru_segment(1, 32, AT, SINCE).await.unwrap();
        assert_eq!(segment, vec![3; 32 * PAGE_SIZE]);
        let failed = pages.page(rel(0), 1, AT, SINCE).await.unwrap_err();
        assert!(matches!(failed, client::Error::Page(text) if text == "Read error"));
        pages.ask(
            Query::Test {
                batch_key: 5,
                message: "hé".into(),
            },
            AT,
            SINCE,
        );
        pages.flush().await.unwrap();
        let (_, answer) = pages.receive().await.unwrap();
        assert_eq!(
            answer,
            Answer::Test {
                batch_key: 5,
                message: "hé".into()
            }
        );
        pages.close().await.unwrap();
        assert_eq!(running.closed().await, Closed::Terminated);
    }
}

#[tokio::test]
async fn pipelined_requests_are_batched_and_answered_in_order() {
    let (mut pages, running) = stream(Version::V3).await;
    for n in 0..300 {
        let query = match n % 50 {
            49 => Query::Nblocks(rel(n)),
            13 => get(0, n),
            _ => get(10, n),
        };
        pages.ask(query, AT, SINCE);
    }
    pages.flush().await.unwrap();
    for n in 0..300 {
        let (request, answer) = pages.receive().await.unwrap();
        assert_eq!(request.header.reqid, u64::from(n) + 1);
        match n % 50 {
            49 => assert_eq!(answer, Answer::Nblocks(n * 2)),
            13 => assert_eq!(answer, Answer::Error("Read error".into())),
            _ => assert_eq!(answer, Answer::Page(&page(10, n))),
        }
    }
    let batches = running.handler.batches.lock().unwrap().clone();
    assert_eq!(batches.iter().sum::<usize>(), 300);
    assert_eq!(batches.iter().max(), Some(&32));
    assert!(batches.contains(&1));
}

#[tokio::test]
async fn windowed_reads_return_every_page() {
    let (mut pages, _running) = stream(Version::V2).await;
    let asked: Vec<_> = (0..100)
        .map(|n| (rel(if n == 50 { 0 } else { 11 }), n))
        .collect();
    let got = pages.pages(&asked, AT, SINCE, 16).await.unwrap();
    for (n, got) in got.iter().enumerate() {
        match got {
            Ok(got) => assert_eq!(**got, page(11, u32::try_from(n).unwrap())),
            Err(text) => assert_eq!((n, text.as_str()), (50, "Read error")),
        }
    }
    assert_eq!(got.len(), 100);
}

#[tokio::test]
async fn reconnect_comes_after_earlier_answers_and_closes() {
    let (mut pages, running) = stream(Version::V3).await;
    for query in [get(10, 1), get(10, 2), get(RECONNECTS, 3), get(10, 4)] {
        pages.ask(query, AT, SINCE);
    }
    pages.flush().await.unwrap();
    assert_eq!(pages.receive().await.unwrap().1, Answer::Page(&page(10, 1)));
    assert_eq!(pages.receive().await.unwrap().1, Answer::Page(&page(10, 2)));
    let Err(client::Error::Server(report)) = pages.receive().await else {
        panic!("no error")
    };
    assert_eq!(
        (report.sqlstate.as_str(), report.message.as_str()),
        ("08006", "reconnect")
    );
    assert!(matches!(pages.receive().await, Err(client::Error::Io(_))));
    assert_eq!(running.closed().await, Closed::SentAway);
}

#[tokio::test]
async fn other_failures_return_to_commands() {
    let bad_requests = [
        (vec![], "failed to fill whole buffer"),
        (vec![2, 0, 0], "failed to fill whole buffer"),
        (vec![77; 60], "invalid tag 77"),
    ];
    let mut cases: Vec<(BytesMut, &str)> = Vec::new();
    for (bytes, text) in &bad_requests {
        let mut buf = BytesMut::new();
        Frontend::CopyData(bytes).encode(&mut buf);
        cases.push((buf, text));
    }
    for (message, text) in [
        (
            Frontend::CopyDone,
            "unexpected message: CopyDone during COPY",
        ),
        (
            Frontend::CopyFail(b"x"),
            "unexpected message: CopyFail during COPY",
        ),
        (
            Frontend::Query(b"set x"),
            "unexpected message: Query during COPY",
        ),
    ] {
        let mut buf = BytesMut::new();
        message.encode(&mut buf);
        cases.push((buf, text));
    }
    for (bytes, text) in cases {
        let (mut pages, running) = stream(Version::V3).await;
        pages.ask(get(10, 1), AT, SINCE);
        pages.connection_output().extend_from_slice(&bytes);
        pages.ask_nothing();
        pages.flush().await.unwrap();
        assert_eq!(pages.receive().await.unwrap().1, Answer::Page(&page(10, 1)));
        let Err(client::Error::Server(report)) = pages.receive().await else {
            panic!("no error")
        };
        assert!(report.message.starts_with(text), "{}", report.message);
        assert_eq!(report.sqlstate, "XX000");
        let mut connection = pages.into_connection().await.unwrap();
        connection
            .query("set x", client::Form::Simple)
            .await
            .unwrap();
        connection.close().await.unwrap();
        assert_eq!(running.closed().await, Closed::Terminated);
    }
}

#[tokio::test]
async fn requests_behind_a_failed_stream_close_the_connection() {
    let (mut pages, running) = stream(Version::V3).await;
    pages.ask(get(NOT_FOUND, 1), AT, SINCE);
    pages.ask(Query::Nblocks(rel(1)), AT, SINCE);
    pages.flush().await.unwrap();
    let Err(client::Error::Server(report)) = pages.receive().await else {
        panic!("no error")
    };
    assert_eq!(
        (report.sqlstate.as_str(), report.message.as_str()),
        ("XX000", "not found")
    );
    assert!(matches!(
        running.failed().await,
        Failure::OutOfPlace { tag: b'd', .. }
    ));
}

#[tokio::test]
async fn a_handler_that_forgets_an_answer_fails_the_stream() {
    let (mut pages, _running) = stream(Version::V3).await;
    pages.ask(get(FORGETS, 1), AT, SINCE);
    pages.flush().await.unwrap();
    let Err(client::Error::Server(report)) = pages.receive().await else {
        panic!("no error")
    };
    assert_eq!(report.message, "0 of 1 requests answered");
}

#[tokio::test]
async fn a_half_closed_client_gets_all_its_answers() {
    let (mut pages, running) = stream(Version::V3).await;
    for n in 0..100 {
        pages.ask(get(10, n), AT, SINCE);
    }
    pages.half_close().await.unwrap();
    for n in 0..100 {
        assert_eq!(pages.receive().await.unwrap().1, Answer::Page(&page(10, n)));
    }
    pages.ask_nothing();
    let end = pages.receive().await;
    assert!(
        matches!(end, Err(client::Error::Unexpected(_))),
        "ReadyForQuery expected"
    );
    assert_eq!(running.closed().await, Closed::Eof);
}

#[tokio::test(start_paused = true)]
async fn work_for_a_client_that_left_is_given_up() {
    let (mut pages, running) = stream(Version::V3).await;
    pages.ask(get(HANGS, 1), AT, SINCE);
    pages.flush().await.unwrap();
    drop(pages);
    assert_eq!(running.closed().await, Closed::Abandoned);
}

#[tokio::test]
async fn a_stopping_server_never_cuts_a_message() {
    let (mut pages, running) = stream(Version::V3).await;
    pages.ask(get(10, 1), AT, SINCE);
    pages.ask(Query::Nblocks(rel(4)), AT, SINCE);
    pages.ask(get(HANGS, 1), AT, SINCE);
    pages.flush().await.unwrap();
    assert_eq!(pages.receive().await.unwrap().1, Answer::Page(&page(10, 1)));
    assert_eq!(pages.receive().await.unwrap().1, Answer::Nblocks(8));
    running.stop.cancel();
    let Err(client::Error::Server(report)) = pages.receive().await else {
        panic!("no error")
    };
    assert_eq!(
        (report.sqlstate.as_str(), report.message.as_str()),
        ("57P01", "shutdown")
    );
    assert_eq!(running.closed().await, Closed::ServerStopping);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_told_and_closed() {
    let (mut pages, running) = stream(Version::V3).await;
    pages.ask_nothing();
    let Err(client::Error::Server(report)) = pages.receive().await else {
        panic!("no error")
    };
    assert_eq!(
        (report.sqlstate.as_str(), report.message.as_str()),
        ("08006", "timed out")
    );
    assert_eq!(running.closed().await, Closed::Idle);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_server_from_reading() {
    let (io, running) = start_with(Authentication::Trust, 4096);
    let mut connection = client::Connection::handshake(io, &Options::default())
        .await
        .unwrap();
    connection
        .query("set x", client::Form::Simple)
        .await
        .unwrap();
    let pages = connection
        .page_stream(Version::V2, TENANT, TIMELINE)
        .await
        .unwrap();
    let (mut reader, mut writer) = tokio::io::split(pages.into_io());
    let writing = tokio::spawn(async move {
        let mut buf = BytesMut::new();
        let header = crate::Header {
            reqid: 0,
            request_lsn: AT,
            not_modified_since: SINCE,
        };
        for n in 0..5000 {
            let mut body = BytesMut::new();
            Request {
                header,
                query: get(10, n),
            }
            .encode(Version::V2, &mut body);
            Frontend::CopyData(&body).encode(&mut buf);
        }
        writer.write_all(&buf).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let handled: usize = running.handler.batches.lock().unwrap().iter().sum();
    assert!(
        (2..=3 * 32).contains(&handled),
        "{handled} requests answered to nobody"
    );
    assert!(!writing.is_finished());
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    writing.await.unwrap();
    assert_eq!(all.len(), 5000 * 8198 + 6);
    assert_eq!(running.closed().await, Closed::Eof);
}

#[test]
fn pages_may_be_filled_in_any_order_and_fail_one_by_one() {
    for version in [Version::V2, Version::V3] {
        let header = crate::Header {
            reqid: 0,
            request_lsn: AT,
            not_modified_since: SINCE,
        };
        let requests: Vec<_> = (0..4)
            .map(|n| Request {
                header,
                query: get(10, n),
            })
            .collect();
        let mut buf = BytesMut::new();
        let mut out = Responses::new(version, &requests, &mut buf);
        drop(out.pages(2).unwrap());
        assert_eq!(out.answered(), 0);
        let mut pages = out.pages(3).unwrap();
        let mut slots: Vec<_> = pages.slots().collect();
        for n in [2u8, 0, 1] {
            fill(10, u32::from(n), slots[usize::from(n)]);
        }
        pages.finish(&[(1, "Read error")]).unwrap();
        let refused = out.page(|_| Err::<(), Error>(Error::Shutdown)).unwrap_err();
        assert_eq!(refused, Error::Shutdown);
        assert_eq!(out.answered(), 3);
        assert_eq!(
            out.answer(&Answer::Nblocks(1)),
            Err(Misuse::Kind {
                answer: "answer",
                request: "get_page_at_lsn"
            })
        );
        out.error("last").unwrap();
        assert_eq!(out.error("one too many"), Err(Misuse::NoRequest));
        assert!(matches!(out.pages(1), Err(Misuse::NoRequest)));
        let mut answers = Vec::new();
        let mut rest = &buf[..];
        while let Some((head, body)) = crate::frame::split(rest, 10_000).unwrap() {
            answers.push(crate::Response::decode(version, body).unwrap().answer);
            rest = &rest[head.total..];
        }
        assert_eq!(
            answers,
            [
                Answer::Page(&page(10, 0)),
                Answer::Error("Read error".into()),
                Answer::Page(&page(10, 2)),
                Answer::Error("last".into()),
            ]
        );
    }
}

#[tokio::test]
async fn work_for_a_broken_connection_is_given_up_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let handler = Fake {
        authentication: Authentication::Trust,
        batches: Arc::clone(&batches),
        log: Arc::default(),
    };
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let config = Config {
            half_close_grace: Duration::from_secs(3600),
            ..Config::default()
        };
        serve(socket, &handler, &config, &CancellationToken::new()).await
    });
    let connection = client::Connection::connect(address, &Options::default())
        .await
        .unwrap();
    let mut pages = connection
        .page_stream(Version::V3, TENANT, TIMELINE)
        .await
        .unwrap();
    pages.ask(get(HANGS, 1), AT, SINCE);
    pages.flush().await.unwrap();
    while batches.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    pages.into_io().set_zero_linger().unwrap();
    assert!(matches!(server.await.unwrap(), Err(Failure::Io(_))));
}
