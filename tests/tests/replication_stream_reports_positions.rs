//! Reported positions reach the server: commits wait for them, the slot follows them, and a fast
//! shutdown is held up until everything sent is confirmed.

use anyhow::{Result, bail, ensure};
use replication::commands::{SlotOptions, create_slot, identify_system, read_slot};
use replication::stream::{self, Event, Request, Started, Status};
use replication::{Connection, Conninfo, Error, Mode, WalStream};
use std::time::Duration;
use tests::postgres::{Cluster, Install, Options, Shutdown, for_each_major};
use types::Lsn;

async fn open(conninfo: &Conninfo, start: Lsn) -> Result<WalStream> {
    let request = Request {
        slot: Some("ps".into()),
        start,
        timeline: 1,
    };
    let connection = Connection::connect(conninfo, Mode::Physical).await?;
    match stream::start(connection, &request, stream::Options::default()).await? {
        Started::Streaming(s) => Ok(s),
        Started::EndOfTimeline(next, _) => bail!("timeline ends: {next:?}"),
    }
}

fn all(lsn: Lsn) -> Status {
    Status {
        write: lsn,
        flush: lsn,
        apply: lsn,
    }
}

#[tokio::test]
async fn synchronous_commits_wait_for_reported_positions_and_the_slot_follows() -> Result<()> {
    for_each_major(async |major| {
        let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
        cluster.start()?;
        let conninfo: Conninfo = format!("{}?application_name=ps_sync", cluster.connstr()).parse()?;
        let mut control = Connection::connect(&conninfo, Mode::Database).await?;
        create_slot(&mut control, "ps", SlotOptions { reserve_wal: true, temporary: false }).await?;
        let start = identify_system(&mut control).await?.flushed;
        let mut stream = open(&conninfo, start).await?;
        stream.report(all(start));
        cluster.psql("CREATE TABLE t (a int)").await?;
        let set = "ALTER SYSTEM SET synchronous_standby_names = 'ps_sync'";
        cluster.psql(set).await?;
        cluster.psql("SELECT pg_reload_conf()").await?;

        // Catch up, so that the standby counts as streaming.
        let caught_up = identify_system(&mut control).await?.flushed;
        while stream.position() < caught_up {
            stream.next().await?;
        }
        stream.report(all(stream.position()));
        let drain = async |stream: &mut WalStream, time: Duration| -> Result<(), Error> {
            let deadline = tokio::time::Instant::now() + time;
            while let Ok(event) = tokio::time::timeout_at(deadline, stream.next()).await {
                event?;
            }
            Ok(())
        };
        drain(&mut stream, Duration::from_millis(500)).await?;

        let client = cluster.client("postgres").await?;
        let insert = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
        drain(&mut stream, Duration::from_millis(700)).await?;
        ensure!(!insert.is_finished(), "the commit did not wait");
        stream.report(all(stream.position()));
        // An older position must not undo the newer one.
        stream.report(all(start));
        drain(&mut stream, Duration::from_millis(700)).await?;
        ensure!(insert.is_finished(), "the commit still waits");
        insert.await??;

        let slot = read_slot(&mut control, "ps").await?.and_then(|s| s.restart_lsn);
        ensure!(slot == Some(stream.position()), "slot at {slot:?}, stream at {}", stream.position());
        let row = control.query("SELECT application_name, state, sync_state, reply_time > now() - interval '1 min' FROM pg_stat_replication WHERE state = 'streaming'").await?.single()?;
        ensure!((row.text(0)?, row.text(1)?, row.text(2)?) == ("ps_sync", "streaming", "sync"), "{row:?}");
        ensure!(row.text(3)? == "t", "the time in status messages is off");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_fast_shutdown_waits_for_what_was_sent_to_be_confirmed() -> Result<()> {
    for_each_major(async |major| {
        let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let mut control = Connection::connect(&conninfo, Mode::Physical).await?;
        create_slot(
            &mut control,
            "ps",
            SlotOptions {
                reserve_wal: true,
                temporary: false,
            },
        )
        .await?;
        let start = identify_system(&mut control).await?.flushed;
        control.close().await?;
        let mut stream = open(&conninfo, start).await?;
        stream.report(all(start));
        cluster.psql("CREATE TABLE t (a int)").await?;
        cluster.signal(Shutdown::Fast)?;
        let mut asked = 0;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(event) = tokio::time::timeout_at(deadline, stream.next()).await {
            asked += u32::from(matches!(event?, Event::Keepalive { reply: true, .. }));
        }
        ensure!(!cluster.has_stopped()?, "the server did not wait");
        ensure!(asked > 0, "the server did not ask for a confirmation");
        let end = loop {
            stream.report(all(stream.position()));
            match tokio::time::timeout(Duration::from_secs(20), stream.next()).await? {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        ensure!(matches!(end, Error::ShuttingDown | Error::Closed), "{end}");
        cluster.wait_stopped()
    })
    .await
}
