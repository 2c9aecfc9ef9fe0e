//! Garbage on either port is refused with an error that names what is wrong, and the daemon lives.

use anyhow::{Context, Result, ensure};
use page_protocol::client::{self, Connection, Error, Form, PageStream};
use page_protocol::command::FullBackup;
use page_protocol::message::{Relation, Version};
use rand::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::accept::{Followed, follow};
use tests::daemon::Daemon;
use tests::postgres::{Cluster, Install, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use types::{Lsn, PgMajor, TenantId, TimelineId};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and returns what comes back until the server closes.
async fn send(daemon: &Daemon, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect(daemon.pages()).await?;
    let mut answer = Vec::new();
    // The server may close before it has read, or while we read.
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    read.map_or(Ok(()), |_| Ok::<(), anyhow::Error>(()))?;
    Ok(answer)
}

async fn lives(daemon: &mut Daemon) -> Result<()> {
    ensure!(daemon.is_running()?, "{}", daemon.log());
    ensure!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.client().status().await?;
    let mut c = Connection::connect(daemon.pages(), &client::Options::default()).await?;
    c.query("show neon.anything", Form::Simple).await.err();
    Ok(())
}

fn startup() -> Vec<u8> {
    let body = b"user\0nobody\0\0";
    let mut packet = u32::try_from(body.len() + 8)
        .unwrap_or(0)
        .to_be_bytes()
        .to_vec();
    packet.extend(196_608u32.to_be_bytes());
    packet.extend(body);
    packet
}

#[tokio::test]
async fn garbage_on_the_page_port() -> Result<()> {
    let mut daemon = Daemon::start(&[]).await?;
    let mut random = rand::rngs::StdRng::seed_from_u64(20_260);
    for length in [1usize, 4, 7, 8, 9, 100, 8192, 200_000] {
        let mut bytes = vec![0u8; length];
        random.fill_bytes(&mut bytes);
        send(&daemon, &bytes).await?;
        // And behind a proper start.
        let opened: Vec<u8> = startup().into_iter().chain(bytes).collect();
        let answer = send(&daemon, &opened).await?;
        ensure!(answer.first() == Some(&b'R'), "{answer:?}");
    }
    send(&daemon, b"GET / HTTP/1.1\r\n\r\n").await?;
    // A start packet, and then a message, that claim to be huge.
    send(&daemon, &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]).await?;
    let mut huge = startup();
    huge.extend([b'Q', 0x7f, 0xff, 0xff, 0xff]);
    let answer = String::from_utf8_lossy(&send(&daemon, &huge).await?).into_owned();
    ensure!(answer.contains("08P01"), "{answer:?}");
    lives(&mut daemon).await
}

#[tokio::test]
async fn commands_that_make_no_sense() -> Result<()> {
    let mut daemon = Daemon::start(&[]).await?;
    let mut c = Connection::connect(daemon.pages(), &client::Options::default()).await?;
    let unknown = "0123456789abcdef0123456789abcdef";
    for (command, says) in [
        ("make me a sandwich", "make"),
        ("pagestream_v3", "pagestream_v3"),
        ("pagestream_v3 zz yy", "zz"),
        (
            &format!("basebackup {unknown} {unknown} 0/zzz")[..],
            "0/zzz",
        ),
        (&format!("basebackup {unknown} {unknown}")[..], "not found"),
        (&format!("fullbackup {unknown} {unknown}")[..], "not found"),
    ] {
        for form in [Form::Simple, Form::Extended] {
            let error = match c.query(command, form).await {
                Err(Error::Server(report)) => report,
                other => anyhow::bail!("{command}: {other:?}"),
            };
            let text = error.message.to_lowercase();
            ensure!(text.contains(says), "{command}: {error:?}");
        }
    }
    // The connection is still good.
    let again = c.query("make me a sandwich", Form::Simple).await;
    ensure!(matches!(again, Err(Error::Server(_))), "{again:?}");
    lives(&mut daemon).await
}

#[tokio::test]
async fn requests_over_http_that_make_no_sense() -> Result<()> {
    let mut daemon = Daemon::start(&[]).await?;
    let id = "0123456789abcdef0123456789abcdef";
    let tenant = format!("/v1/tenant/{id}");
    let branch = format!("{tenant}/timeline");
    let long = format!("\"{}\"", "x".repeat(4 << 20));
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/", "", 404, "page not found"),
        ("GET", "/v1/nothing", "", 404, "page not found"),
        ("PATCH", "/v1/tenant", "", 404, "page not found"),
        ("GET", "/v1/tenant/xyz", "", 400, "tenant_shard_id"),
        ("GET", "/v1/tenant/%ff%fe", "", 400, ""),
        ("GET", &tenant, "", 404, id),
        (
            "GET",
            &format!("{tenant}/timeline/xyz"),
            "",
            400,
            "timeline_id",
        ),
        ("GET", &format!("{tenant}/timeline/{id}"), "", 404, id),
        ("POST", &branch, "{}", 404, id),
        ("POST", "/v1/tenant", "{\"new_tenant_id\":", 400, "EOF"),
        (
            "POST",
            "/v1/tenant",
            "[1, 2",
            400,
            "failed to parse request body",
        ),
        (
            "POST",
            "/v1/tenant",
            "{\"new_tenant_id\": \"zz\"}",
            400,
            "failed to parse request body",
        ),
        (
            "POST",
            "/v1/tenant",
            "{\"checkpoint_distanse\": 1000000}",
            400,
            "checkpoint_distance",
        ),
        (
            "POST",
            "/v1/tenant",
            "{\"checkpoint_distance\": \"big\"}",
            400,
            "checkpoint_distance",
        ),
        (
            "POST",
            "/v1/tenant",
            "\u{0}\u{1}\u{2}",
            400,
            "failed to parse request body",
        ),
        ("POST", "/v1/tenant", &long, 413, ""),
        ("POST", "/v1/import", "", 400, "missing request body"),
        ("POST", "/v1/import", "{}", 400, "connstr"),
        (
            "POST",
            "/v1/import",
            "{\"connstr\": \"http://x\"}",
            400,
            "connstr",
        ),
        (
            "GET",
            &format!("/v1/import/{id}/{id}"),
            "",
            404,
            "no such import",
        ),
        ("DELETE", &tenant, "", 404, id),
        (
            "DELETE",
            &format!("{tenant}/timeline/{id}"),
            "",
            412,
            "Requested tenant is missing",
        ),
    ];
    for (method, path, body, status, says) in cases {
        let what = format!("{method} {path}");
        let (code, answer) = daemon.http(method, path, body).await?;
        ensure!(code == *status, "{what}: {code} {answer}");
        let json: Value =
            serde_json::from_str(&answer).with_context(|| format!("{what}: {answer:?}"))?;
        let msg = json["msg"].as_str().context(what.clone())?;
        ensure!(!msg.is_empty() && msg.contains(says), "{what}: {msg}");
    }
    lives(&mut daemon).await
}

const PG_CLASS: Relation = Relation {
    spc: 1663,
    db: 1,
    rel: 1259,
    fork: 0,
};

async fn stream(
    daemon: &Daemon,
    tenant: TenantId,
    timeline: TimelineId,
) -> Result<PageStream<TcpStream>> {
    let c = Connection::connect(daemon.pages(), &client::Options::default()).await?;
    Ok(c.page_stream(Version::V3, tenant, timeline).await?)
}

async fn refusal(
    s: &mut PageStream<TcpStream>,
    rel: Relation,
    block: u32,
    at: Lsn,
    since: Lsn,
) -> Result<String> {
    match s.page(rel, block, at, since).await {
        Err(Error::Page(text)) => Ok(text),
        other => anyhow::bail!("{rel:?} block {block} at {at}: {other:?}"),
    }
}

#[tokio::test]
async fn pages_that_cannot_be_had() -> Result<()> {
    let mut daemon = Daemon::start(&["wait_lsn_timeout=1s"]).await?;
    let mut cluster = Cluster::init(&Install::find(PgMajor::V15)?, &Options::default())?;
    cluster.start()?;
    let Followed { tenant, timeline } = follow(&daemon, &cluster).await?;
    let shard = types::TenantShardId::unsharded(tenant);
    let info = daemon.timeline(shard, timeline).await?;
    let (cutoff, last) = (info.min_readable_lsn, info.last_record_lsn);
    let mut s = stream(&daemon, tenant, timeline).await?;

    let below = Lsn(cutoff.0 - 8);
    let text = refusal(&mut s, PG_CLASS, 0, below, below).await?;
    ensure!(
        text.contains(&below.to_string()) && text.contains(&cutoff.to_string()),
        "{text}"
    );
    let far = Lsn(last.0 + (1 << 40));
    let started = Instant::now();
    let text = refusal(&mut s, PG_CLASS, 0, far, far).await?;
    ensure!(
        started.elapsed() < Duration::from_secs(10),
        "took {:?}",
        started.elapsed()
    );
    ensure!(
        text.contains(&far.to_string()) && text.contains("last_record_lsn"),
        "{text}"
    );
    // A moment ahead, but what is wanted is older: answered at once.
    s.page(PG_CLASS, 0, far, last).await?;
    let text = refusal(&mut s, PG_CLASS, 0, last, far).await?;
    ensure!(text.contains("not_modified_since"), "{text}");
    let text = refusal(&mut s, PG_CLASS, 0, Lsn(0), Lsn(0)).await?;
    ensure!(text.contains("LSN"), "{text}");
    // Behind the end of a relation are zeros: a server that extends it asks before its WAL is here.
    let behind = s.page(PG_CLASS, 1_000_000, last, last).await?;
    ensure!(behind.iter().all(|b| *b == 0));
    for (rel, block) in [
        (Relation { rel: 4, ..PG_CLASS }, 0),
        (Relation { rel: 0, ..PG_CLASS }, 0),
        (
            Relation {
                fork: 77,
                ..PG_CLASS
            },
            0,
        ),
        (
            Relation {
                db: 999_999,
                ..PG_CLASS
            },
            0,
        ),
    ] {
        refusal(&mut s, rel, block, last, last).await?;
    }
    ensure!(s.slru_segment(9, 0, last, last).await.is_err());
    ensure!(s.slru_segment(0, 0xffff, last, last).await.is_err());
    // None of that has disturbed the stream.
    s.page(PG_CLASS, 0, last, last).await?;

    let mut nowhere = stream(&daemon, tenant, TimelineId([7; 16])).await?;
    let text = refusal(&mut nowhere, PG_CLASS, 0, last, last).await?;
    ensure!(
        text.contains("not found") && text.contains("07070707"),
        "{text}"
    );

    for lsn in [below, far] {
        let mut c = Connection::connect(daemon.pages(), &client::Options::default()).await?;
        let command = FullBackup {
            tenant,
            timeline,
            lsn: Some(lsn),
            prev_lsn: None,
        };
        let outcome = match c.full_backup(&command, Form::Simple).await {
            Ok(mut copy) => copy.read_to_end(1 << 30).await.map(drop),
            Err(e) => Err(e),
        };
        let text = outcome.err().context("a backup of nothing")?.to_string();
        ensure!(text.contains(&lsn.to_string()), "{text}");
    }
    lives(&mut daemon).await
}
