//! Latency of `GetPage` over loopback TCP through the real listener and protocol, beside a ping-pong
//! of messages of the same sizes (what TCP and the runtime cost) and a raw `pread` of the same layer
//! file, in the same run. Clients and server share the machine. The figures are in
//! `docs/benchmarks.md`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "benchmark"
)]

mod support;

use page_protocol::client::{Connection, Options};
use page_protocol::message::{Answer, Query, Relation, Version};
use pageserver::page_service::{Service, listen};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use types::{Lsn, PAGE_SIZE, TimelineId};

/// Pages of the relation: 64 MiB.
const PAGES: u32 = 8192;
/// Threads of the server, and of the clients.
const THREADS: usize = 2;
/// Requests of a round, over all clients.
const REQUESTS: usize = 4000;
/// Rounds of everything; the best is printed.
const ROUNDS: usize = 7;
/// Requests sent ahead in the case that does so.
const AHEAD: usize = 32;
/// Bytes of a `GetPage` request of version 3 with its frame.
const REQUEST: usize = 47;
/// Bytes of its answer.
const ANSWER: usize = 5 + 42 + PAGE_SIZE;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .unwrap()
}

/// The times of single requests and the time all of them took.
struct Round {
    each: Times,
    all: Duration,
}

#[derive(Clone, Copy)]
enum Load {
    Ping,
    Pages { lsn: Lsn, ahead: usize },
}

async fn client(load: Load, to: SocketAddr, requests: usize, seed: usize) -> Times {
    let mut times = Times::default();
    match load {
        Load::Ping => {
            let mut io = TcpStream::connect(to).await.unwrap();
            io.set_nodelay(true).unwrap();
            let (out, mut back) = ([1; REQUEST], vec![0; ANSWER]);
            for _ in 0..requests {
                let start = Instant::now();
                io.write_all(&out).await.unwrap();
                io.read_exact(&mut back).await.unwrap();
                times.push(start.elapsed());
            }
        }
        Load::Pages { lsn, ahead } => {
            let options = Options {
                parameters: vec![("user".into(), "bench".into())],
                token: None,
            };
            let connection = Connection::connect(to, &options).await.unwrap();
            let id = TimelineId([1; 16]);
            let mut stream = connection
                .page_stream(Version::V3, TENANT, id)
                .await
                .unwrap();
            let rel = Relation::from(REL);
            let mut blocks = scattered(PAGES - AHEAD as u32).skip(seed * 1000);
            for _ in 0..requests / ahead {
                let block = blocks.next().unwrap();
                let start = Instant::now();
                for n in 0..ahead as u32 {
                    let block = block + n;
                    stream.ask(Query::GetPage { rel, block }, lsn, lsn);
                }
                stream.flush().await.unwrap();
                for _ in 0..ahead {
                    let (_, answer) = stream.receive().await.unwrap();
                    assert!(matches!(answer, Answer::Page(_)), "{answer:?}");
                }
                times.push(start.elapsed());
            }
            stream.close().await.unwrap();
        }
    }
    times
}

async fn round(load: Load, to: SocketAddr, clients: usize) -> Round {
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|n| tokio::spawn(client(load, to, REQUESTS / clients, n)))
        .collect();
    let mut each = Times::default();
    for task in tasks {
        each.extend(&task.await.unwrap());
    }
    Round {
        each,
        all: start.elapsed(),
    }
}

/// Answers every request with as many bytes as a page takes.
async fn pong(listener: TcpListener) {
    while let Ok((mut io, _)) = listener.accept().await {
        io.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let (mut request, answer) = ([0; REQUEST], vec![2; ANSWER]);
            while io.read_exact(&mut request).await.is_ok() {
                io.write_all(&answer).await.unwrap();
            }
        });
    }
}

fn main() {
    if !wanted("page_service") {
        return;
    }
    let (server, clients) = (runtime(), runtime());
    let world = server.block_on(World::new());
    let timeline = server.block_on(world.relation(PAGES, 0, 0, true));
    let layer = timeline.layers();
    let layer = layer.files().max_by_key(|l| l.size()).unwrap();
    let file = File::open(world.directory.path().join(layer.local_path())).unwrap();
    let bind = || server.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let (pages, pings) = (bind(), bind());
    let (pages_at, pings_at) = (pages.local_addr().unwrap(), pings.local_addr().unwrap());
    let service = Arc::new(Service::new(
        Arc::clone(&world.engine),
        Duration::from_secs(10),
    ));
    let stop = CancellationToken::new();
    let serving = server.spawn(listen(pages, service, stop.clone()));
    server.spawn(pong(pings));

    let lsn = timeline.last_record_lsn();
    let one = Load::Pages { lsn, ahead: 1 };
    let many = Load::Pages { lsn, ahead: AHEAD };
    let cases = [
        ("ping_pong", Load::Ping, pings_at, 1, 1),
        ("getpage", one, pages_at, 1, 1),
        ("ping_pong", Load::Ping, pings_at, 16, 1),
        ("getpage", one, pages_at, 16, 1),
        ("getpage, 32 sent ahead", many, pages_at, 1, AHEAD),
        ("getpage, 32 sent ahead", many, pages_at, 16, AHEAD),
    ];
    let mut raw = Times::default();
    let mut rounds: Vec<Vec<Round>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        let mut buf = [0; PAGE_SIZE];
        for n in scattered(PAGES).take(REQUESTS) {
            raw.time(|| file.read_exact_at(&mut buf, u64::from(n) * PAGE_SIZE as u64))
                .unwrap();
        }
        for ((_, load, to, n, _), rounds) in cases.iter().zip(&mut rounds) {
            rounds.push(clients.block_on(round(*load, *to, *n)));
        }
    }
    println!(
        "{:<26} {:>7} {:>9} {:>9} {:>10}   (best of {ROUNDS} rounds)",
        "us per round trip", "clients", "p50", "p99", "pages/s"
    );
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    println!(
        "{:<26} {:>7} {:>9.1} {:>9.1}",
        "raw_pread_8k",
        "",
        us(raw.quantile(0.5)),
        us(raw.quantile(0.99))
    );
    for ((name, _, _, n, ahead), rounds) in cases.iter().zip(&rounds) {
        let best = |p: f64| rounds.iter().map(|r| r.each.quantile(p)).min().unwrap();
        let rate = rounds
            .iter()
            .map(|r| (r.each.len() * ahead) as f64 / r.all.as_secs_f64())
            .fold(0.0, f64::max);
        println!(
            "{name:<26} {n:>7} {:>9.1} {:>9.1} {rate:>10.0}",
            us(best(0.5)),
            us(best(0.99))
        );
    }
    stop.cancel();
    server.block_on(serving).unwrap();
}
