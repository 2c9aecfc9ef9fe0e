//! A physical slot is created, read, advanced and dropped on every version, on both kinds of
//! connection.

use anyhow::{Context as _, Result, ensure};
use replication::commands::{
    SlotOptions, advance_slot, create_slot, drop_slot, identify_system, read_slot, show,
    timeline_history, wal_segment_size,
};
use replication::stream::{self, Request, Started};
use replication::{Connection, Conninfo, Error, Mode};
use tests::postgres::{Cluster, Install, Options, for_each_major};
use types::{Lsn, PgMajor};

#[tokio::test]
async fn slots_are_created_read_advanced_and_dropped() -> Result<()> {
    for_each_major(async |major| {
        let options = Options::default().initdb("--wal-segsize=1");
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let mut sql = Connection::connect(&conninfo, Mode::Database).await?;
        let mut physical = Connection::connect(&conninfo, Mode::Physical).await?;

        let system = identify_system(&mut physical).await?;
        ensure!(
            system
                == replication::commands::System {
                    dbname: None,
                    ..identify_system(&mut sql).await?
                }
        );
        let control = "SELECT system_identifier FROM pg_control_system()";
        ensure!(cluster.value(control).await? == system.id.to_string() && system.timeline == 1);
        ensure!(wal_segment_size(&mut physical).await? == 1 << 20);
        ensure!(timeline_history(&mut physical, 1).await?.is_empty());

        let reserve = SlotOptions {
            reserve_wal: true,
            temporary: false,
        };
        create_slot(&mut physical, "ps_1", reserve).await?;
        let twice = create_slot(&mut sql, "ps_1", reserve)
            .await
            .err()
            .context("created twice")?;
        ensure!(twice.is_slot_duplicate(), "{twice}");
        create_slot(&mut sql, "bare", SlotOptions::default()).await?;
        create_slot(
            &mut physical,
            "brief",
            SlotOptions {
                temporary: true,
                reserve_wal: true,
            },
        )
        .await?;

        let slot = read_slot(&mut sql, "ps_1")
            .await?
            .context("slot not found")?;
        let restart = slot.restart_lsn.context("no WAL reserved")?;
        ensure!(restart.is_valid() && restart <= system.flushed);
        ensure!((slot.active, slot.lost) == (Some(false), Some(false)));
        ensure!(
            read_slot(&mut sql, "bare")
                .await?
                .context("slot not found")?
                .restart_lsn
                .is_none()
        );
        ensure!(read_slot(&mut sql, "nobody").await?.is_none());
        if major == PgMajor::V14 {
            let error = read_slot(&mut physical, "ps_1").await;
            ensure!(matches!(error, Err(Error::NeedsDatabaseMode(_))));
        } else {
            ensure!(
                read_slot(&mut physical, "ps_1")
                    .await?
                    .context("slot not found")?
                    .restart_lsn
                    == Some(restart)
            );
            ensure!(read_slot(&mut physical, "nobody").await?.is_none());
        }

        cluster
            .psql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a; CHECKPOINT")
            .await?;
        let flushed = identify_system(&mut sql).await?.flushed;
        ensure!(advance_slot(&mut sql, "ps_1", flushed).await? == flushed);
        let back = advance_slot(&mut sql, "ps_1", restart)
            .await
            .err()
            .context("the slot went back")?;
        ensure!(back.server().is_some(), "{back}");
        ensure!(
            read_slot(&mut sql, "ps_1")
                .await?
                .and_then(|s| s.restart_lsn)
                == Some(flushed)
        );

        // A server error leaves the connection usable.
        ensure!(show(&mut sql, "no_such_setting").await.is_err());
        ensure!(show(&mut sql, "max_connections").await? == "50");

        let request = Request {
            slot: Some("ps_1".into()),
            start: flushed,
            timeline: 1,
        };
        let second = Connection::connect(&conninfo, Mode::Physical).await?;
        let Started::Streaming(stream) =
            stream::start(physical, &request, stream::Options::default()).await?
        else {
            anyhow::bail!("no stream");
        };
        let busy = stream::start(second, &request, stream::Options::default())
            .await
            .err()
            .context("shared")?;
        ensure!(busy.is_slot_in_use(), "{busy}");
        ensure!(
            drop_slot(&mut sql, "ps_1", false)
                .await
                .err()
                .is_some_and(|e| e.is_slot_in_use())
        );
        stream.close().await?;
        drop_slot(&mut sql, "ps_1", true).await?;
        ensure!(read_slot(&mut sql, "ps_1").await?.is_none());
        let gone = drop_slot(&mut sql, "ps_1", false)
            .await
            .err()
            .context("dropped twice")?;
        ensure!(gone.is_slot_missing(), "{gone}");
        let third = Connection::connect(&conninfo, Mode::Physical).await?;
        let missing = stream::start(third, &request, stream::Options::default())
            .await
            .err()
            .context("no slot")?;
        ensure!(missing.is_slot_missing(), "{missing}");
        ensure!(advance_slot(&mut sql, "bare", Lsn(1)).await.is_err());
        Ok(())
    })
    .await
}
