//! A stream goes on across a promotion: it ends at the switch position, names the next timeline, and
//! continues there on the same connection.

use anyhow::{Context as _, Result, bail, ensure};
use replication::commands::{identify_system, timeline_history};
use replication::stream::{self, Event, Request, Started};
use replication::{Connection, Conninfo, Mode};
use tests::postgres::{Cluster, Install, Options, Shutdown, for_each_major};

#[tokio::test]
async fn a_stream_continues_on_the_next_timeline() -> Result<()> {
    for_each_major(async |major| {
        let install = Install::find(major)?;
        let mut primary = Cluster::init(&install, &Options::default())?;
        primary.start()?;
        let mut standby = primary.standby().await?;
        standby.start()?;
        primary
            .psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
            .await?;

        let conninfo: Conninfo = standby.connstr().parse()?;
        let mut connection = Connection::connect(&conninfo, Mode::Physical).await?;
        let before = identify_system(&mut connection).await?;
        ensure!(before.timeline == 1);
        let request = Request {
            slot: None,
            start: before.flushed,
            timeline: 1,
        };
        let Started::Streaming(mut old) =
            stream::start(connection, &request, stream::Options::default()).await?
        else {
            bail!("no stream");
        };
        primary.stop(Shutdown::Fast)?;
        standby.value("SELECT pg_promote()").await?;
        let next = loop {
            if let Event::EndOfTimeline(next) = old.next().await? {
                break next;
            }
        };
        ensure!(
            next.timeline == 2 && next.start == old.position(),
            "{next:?} at {}",
            old.position()
        );
        ensure!(old.next().await? == Event::EndOfTimeline(next));
        let mut connection = old.into_connection().context("not at the end")?;
        let now = identify_system(&mut connection).await?;
        ensure!(now.timeline == 2 && now.id == before.id);
        let history = timeline_history(&mut connection, 2).await?;
        ensure!(
            history.len() == 1 && (history[0].timeline, history[0].switch) == (1, next.start),
            "{history:?}"
        );

        // From exactly the switch position there is nothing to stream on the old timeline.
        let request = Request {
            slot: None,
            start: next.start,
            timeline: 1,
        };
        let answer = stream::start(connection, &request, stream::Options::default()).await?;
        let Started::EndOfTimeline(again, connection) = answer else {
            bail!("a stream beyond the switch")
        };
        ensure!(again == next);

        let request = Request {
            slot: None,
            start: next.start,
            timeline: next.timeline,
        };
        let Started::Streaming(mut new) =
            stream::start(connection, &request, stream::Options::default()).await?
        else {
            bail!("no stream on the new timeline");
        };
        standby.psql("INSERT INTO t VALUES (1)").await?;
        let target = standby
            .value("SELECT pg_current_wal_flush_lsn()")
            .await?
            .parse()?;
        while new.position() < target {
            new.next().await?;
        }
        Ok(())
    })
    .await
}
