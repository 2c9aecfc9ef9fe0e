//! An idle stream stays open on both sides' timeouts, and a server that hangs is noticed.

use anyhow::{Result, bail, ensure};
use replication::commands::identify_system;
use replication::stream::{self, Event, Options as Timing, Request, Started};
use replication::{Connection, Conninfo, Error, Mode, WalStream};
use std::time::{Duration, Instant};
use tests::postgres::{Cluster, Install, Options};
use types::PgMajor;

async fn open(cluster: &Cluster, timing: Timing) -> Result<WalStream> {
    let conninfo: Conninfo =
        format!("{}?options=-c%20wal_sender_timeout%3D2s", cluster.connstr()).parse()?;
    let mut connection = Connection::connect(&conninfo, Mode::Physical).await?;
    let system = identify_system(&mut connection).await?;
    let request = Request {
        slot: None,
        start: system.flushed,
        timeline: system.timeline,
    };
    match stream::start(connection, &request, timing).await? {
        Started::Streaming(s) => Ok(s),
        Started::EndOfTimeline(..) => bail!("no stream"),
    }
}

#[tokio::test]
async fn an_idle_stream_stays_open() -> Result<()> {
    let mut cluster = Cluster::init(&Install::find(PgMajor::V17)?, &Options::default())?;
    cluster.start()?;
    let quick = Timing {
        status_interval: Duration::from_millis(500),
        receive_timeout: Duration::from_secs(2),
        ..Timing::default()
    };
    // Ours are so rare that only answers to the server's questions keep the connection.
    let rare = Timing {
        status_interval: Duration::from_secs(60),
        ..Timing::default()
    };
    for timing in [quick, rare] {
        let mut stream = open(&cluster, timing).await?;
        let from = Instant::now();
        let mut keepalives = 0;
        while let Ok(event) = tokio::time::timeout(
            Duration::from_secs(7).saturating_sub(from.elapsed()),
            stream.next(),
        )
        .await
        {
            keepalives += u32::from(matches!(event?, Event::Keepalive { .. }));
        }
        ensure!(keepalives >= 3, "{keepalives} keepalives in 7 s");
    }
    Ok(())
}

#[tokio::test]
async fn a_hanging_server_is_noticed() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let conninfo: Conninfo = format!(
        "postgres://u@127.0.0.1:{}/d?connect_timeout=1&sslmode=disable",
        listener.local_addr()?.port()
    )
    .parse()?;
    let silent = tokio::spawn(async move {
        let accepted = listener.accept().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(accepted);
    });
    let error = Connection::connect(&conninfo, Mode::Physical).await.err();
    ensure!(matches!(error, Some(Error::Timeout { .. })), "{error:?}");
    silent.abort();

    let mut cluster = Cluster::init(&Install::find(PgMajor::V17)?, &Options::default())?;
    cluster.start()?;
    let timing = Timing {
        receive_timeout: Duration::from_secs(1),
        ..Timing::default()
    };
    let mut stream = open(&cluster, timing).await?;
    let pid = cluster.value("SELECT pid FROM pg_stat_replication").await?;
    ensure!(
        std::process::Command::new("kill")
            .args(["-STOP", &pid])
            .status()?
            .success()
    );
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(20), stream.next()).await? {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    ensure!(
        matches!(end, Error::Timeout { .. }) && end.is_transient(),
        "{end}"
    );
    Ok(())
}
