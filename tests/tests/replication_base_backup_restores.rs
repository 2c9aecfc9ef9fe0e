//! A base backup and the WAL behind it, both taken with the replication client while the server is
//! being written to, make a data directory that the same version of Postgres opens with every
//! committed row in place.

use anyhow::{Context as _, Result, bail, ensure};
use replication::base_backup::{self, Event, Position};
use replication::commands::{SlotOptions, create_slot, identify_system, wal_segment_size};
use replication::stream::{self, Request, Started};
use replication::{BaseBackup, Connection, Conninfo, Mode, WalStream};
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Stdio;
use tests::postgres::{Cluster, Install, Options, Shutdown, for_each_major};
use types::{Lsn, PgMajor};

/// Writes each archive of a backup to a file and returns start and end.
async fn take(
    connection: Connection,
    into: &Path,
    tablespaces: usize,
) -> Result<(Position, Position)> {
    let mut backup = BaseBackup::start(connection, &base_backup::Options::default()).await?;
    let start = backup.start_position();
    ensure!(backup.tablespaces().len() == tablespaces + 1);
    ensure!(backup.estimated_bytes() > 10 << 20);
    let mut open: Option<File> = None;
    let mut archives = Vec::new();
    let mut bytes = 0;
    let end = loop {
        // Dropping the future now and then must lose nothing.
        let next = tokio::time::timeout(std::time::Duration::from_micros(200), backup.next());
        match match next.await {
            Ok(event) => event?,
            Err(_) => continue,
        } {
            Event::Archive(t) => {
                ensure!(open.is_none(), "an archive in an archive");
                open = Some(File::create(into.join(t.archive_name()))?);
                archives.push(t);
            }
            Event::Data(d) => {
                bytes += d.len() as u64;
                open.as_mut()
                    .context("data outside an archive")?
                    .write_all(&d)?;
            }
            Event::ArchiveEnd => ensure!(open.take().is_some(), "an end without a beginning"),
            Event::End(position) => break position,
        }
    };
    ensure!(open.is_none() && archives.len() == tablespaces + 1);
    ensure!(archives.iter().filter(|t| t.oid.is_none()).count() == 1);
    ensure!(bytes == backup.received_bytes());
    ensure!(backup.next().await? == Event::End(end));
    // The connection is good for more.
    let mut connection = backup.into_connection().context("the backup is not over")?;
    ensure!(identify_system(&mut connection).await?.flushed >= end.lsn);
    Ok((start, end))
}

/// Streams WAL into segment files until `until` is passed.
async fn stream_to_files(
    mut stream: WalStream,
    segment_size: u64,
    timeline: u32,
    directory: &Path,
    until: Lsn,
) -> Result<()> {
    while stream.position() < until {
        let stream::Event::XLogData { start, data, .. } = stream.next().await? else {
            continue;
        };
        let mut at = start;
        let mut rest = data.as_ref();
        while !rest.is_empty() {
            let room = (segment_size - at.segment_offset(segment_size)) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            let number = at.segment_number(segment_size);
            let per_id = 0x1_0000_0000 / segment_size;
            let name = format!(
                "{timeline:08X}{:08X}{:08X}",
                number / per_id,
                number % per_id
            );
            let mut file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(name))?;
            file.set_len(segment_size)?;
            file.seek(SeekFrom::Start(at.segment_offset(segment_size)))?;
            file.write_all(now)?;
            at = at.saturating_add(now.len() as u64);
            rest = later;
        }
    }
    stream.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_under_load_and_its_wal_open_as_a_server() -> Result<()> {
    for_each_major(async |major| {
        let install = Install::find(major)?;
        let mut primary = Cluster::init(&install, &Options::default().initdb("--wal-segsize=4"))?;
        primary.start()?;
        primary.pgbench(&["-i", "-q", "-s", "2"])?;
        let mut load = primary.tool("pgbench")?;
        load.args(["-n", "-c", "2", "-T", "120"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut load = load.spawn()?;

        let conninfo: Conninfo = primary.connstr().parse()?;
        // 14 and 15 in physical mode, the others in database mode: both must do.
        let mode = if major <= PgMajor::V15 { Mode::Physical } else { Mode::Database };
        let mut control = Connection::connect(&conninfo, mode).await?;
        create_slot(&mut control, "ps", SlotOptions { reserve_wal: true, temporary: false }).await?;
        let segment_size = wal_segment_size(&mut control).await?;

        let restored = Cluster::empty(&install)?;
        fs::create_dir(restored.data())?;
        let backup = Connection::connect(&conninfo, mode).await?;
        let (start, end) = take(backup, &restored.data(), 0).await?;
        ensure!(start.lsn < end.lsn && start.timeline == 1 && end.timeline == 1);
        let archive = restored.data().join("base.tar");
        tar::Archive::new(File::open(&archive)?).unpack(restored.data())?;
        fs::remove_file(archive)?;

        load.kill()?;
        load.wait()?;
        // Sessions of the killed pgbench may still commit.
        primary.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'").await?;
        let digest = "SELECT (SELECT sum(abalance) FROM pgbench_accounts)::text || '/' || \
                      (SELECT count(*) FROM pgbench_history)::text || '/' || (SELECT sum(delta) FROM pgbench_history)::text";
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
        while primary.value(sessions).await? != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let expected = primary.value(digest).await?;
        let last = identify_system(&mut control).await?.flushed;

        let wal = Connection::connect(&conninfo, mode).await?;
        let segment_start = Lsn(start.lsn.0 - start.lsn.segment_offset(segment_size));
        let request = Request { slot: Some("ps".into()), start: segment_start, timeline: start.timeline };
        let Started::Streaming(stream) = stream::start(wal, &request, stream::Options::default()).await? else {
            bail!("no stream");
        };
        let directory = restored.data().join("pg_wal");
        stream_to_files(stream, segment_size, start.timeline, &directory, last).await?;
        primary.stop(Shutdown::Fast)?;

        let mut restored = restored;
        restored.adopt()?;
        restored.start()?;
        ensure!(restored.value(digest).await? == expected, "the restored server differs");
        restored.psql("CREATE EXTENSION amcheck; SELECT bt_index_check('pgbench_accounts_pkey', true)").await?;
        restored.stop(Shutdown::Fast)
    })
    .await
}

#[tokio::test]
async fn each_tablespace_is_an_archive_of_its_own() -> Result<()> {
    for_each_major(async |major| {
        let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
        cluster.start()?;
        let space = cluster.scratch("space")?;
        cluster
            .psql(&format!(
                "CREATE TABLESPACE s LOCATION '{}'",
                space.display()
            ))
            .await?;
        cluster
            .psql("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 1000) AS a")
            .await?;
        let oid = cluster
            .value("SELECT oid FROM pg_tablespace WHERE spcname = 's'")
            .await?;
        let into = cluster.scratch("archives")?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        take(
            Connection::connect(&conninfo, Mode::Physical).await?,
            &into,
            1,
        )
        .await?;
        let mut archive = tar::Archive::new(File::open(into.join(format!("{oid}.tar")))?);
        let prefix = format!("PG_{major}_");
        for entry in archive.entries()? {
            let entry = entry?;
            let path = entry.path()?.into_owned();
            ensure!(
                path.to_string_lossy().starts_with(&prefix),
                "{}",
                path.display()
            );
        }
        let main = fs::read(into.join("base.tar"))?;
        ensure!(main.starts_with(b"backup_label\0"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_abandoned_backup_leaves_the_server_ready_for_the_next() -> Result<()> {
    for major in [PgMajor::V14, PgMajor::V18] {
        let mut cluster = Cluster::init(&Install::find(major)?, &Options::default())?;
        cluster.start()?;
        let conninfo: Conninfo = cluster.connstr().parse()?;
        let slow = base_backup::Options {
            max_rate: Some(32),
            ..base_backup::Options::default()
        };
        let mut backup =
            BaseBackup::start(Connection::connect(&conninfo, Mode::Physical).await?, &slow).await?;
        while !matches!(backup.next().await?, Event::Data(_)) {}
        drop(backup);
        let into = cluster.scratch("archives")?;
        take(
            Connection::connect(&conninfo, Mode::Physical).await?,
            &into,
            0,
        )
        .await?;
    }
    Ok(())
}
