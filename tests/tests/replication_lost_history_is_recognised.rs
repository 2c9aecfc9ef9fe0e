//! Requests the server cannot serve are told apart: removed WAL, an invalidated slot, a start ahead
//! of the server, and a start off its history.

use anyhow::{Context as _, Result, ensure};
use replication::commands::{SlotOptions, create_slot, identify_system, read_slot};
use replication::stream::{self, Request, Started};
use replication::{Connection, Conninfo, Error, Kind, Mode};
use tests::postgres::{Cluster, Install, Options, for_each_major};
use types::Lsn;

/// The error a request ends in.
async fn refusal(conninfo: &Conninfo, request: Request) -> Result<Error> {
    let connection = Connection::connect(conninfo, Mode::Physical).await?;
    match stream::start(connection, &request, stream::Options::default()).await {
        Err(e) => Ok(e),
        Ok(Started::EndOfTimeline(..)) => anyhow::bail!("end of timeline"),
        Ok(Started::Streaming(mut s)) => loop {
            if let Err(e) = s.next().await {
                return Ok(e);
            }
        },
    }
}

#[tokio::test]
async fn lost_and_diverged_history_are_told_apart() -> Result<()> {
    for_each_major(async |major| {
        let options = Options::default()
            .initdb("--wal-segsize=1")
            .set("max_slot_wal_keep_size", "1MB")
            .set("max_wal_size", "2MB")
            .set("min_wal_size", "2MB");
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let mut control = Connection::connect(&conninfo, Mode::Database).await?;
        create_slot(&mut control, "ps", SlotOptions { reserve_wal: true, temporary: false }).await?;
        let early = identify_system(&mut control).await?.flushed;
        for _ in 0..6 {
            cluster.psql("CREATE TABLE IF NOT EXISTS t (a text); INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 20000)").await?;
            cluster.psql("CHECKPOINT").await?;
        }
        ensure!(read_slot(&mut control, "ps").await?.context("no slot")?.lost == Some(true));

        let slotless = Request { slot: None, start: early, timeline: 1 };
        let removed = refusal(&conninfo, slotless.clone()).await?;
        ensure!(removed.is_history_lost(), "{removed:?}");
        let invalidated = refusal(&conninfo, Request { slot: Some("ps".into()), ..slotless.clone() }).await?;
        ensure!(invalidated.is_history_lost(), "{invalidated:?}");

        let ahead = Lsn(identify_system(&mut control).await?.flushed.0 + (1 << 30));
        let ahead = refusal(&conninfo, Request { start: ahead, ..slotless.clone() }).await?;
        ensure!(ahead.is_diverged(), "{ahead:?}");
        let elsewhere = refusal(&conninfo, Request { timeline: 7, ..slotless }).await?;
        ensure!(elsewhere.is_diverged(), "{elsewhere:?}");
        ensure!(elsewhere.kind() == Kind::Diverged);
        Ok(())
    })
    .await
}
