//! Redo against the pages Postgres itself had: a real server with
//! `wal_consistency_checking = 'all'` runs a workload per resource manager (`tests/sql/redo`), and
//! its WAL is replayed into [`wal_redo::oracle`].
//!
//! Nothing but the WAL is needed for the check, so [`replay`] takes any server's `pg_wal`. All of
//! it has to be there, from some first segment on without a gap.

use crate::postgres::{Cluster, Install, Options, Shutdown};
use anyhow::{Context as _, Result, ensure};
use pg_wal::stream::{Config, Decoder, RawRecord, segment};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use types::{Flavour, Lsn, PgMajor};
use wal_redo::Dialect;
use wal_redo::oracle::{Oracle, Report};

const PREPARE: Script = ("prepare", include_str!("../sql/redo/prepare.sql"));
const LOCKS: Script = ("locks", include_str!("../sql/redo/locks.sql"));
const SCRIPTS: [Script; 9] = [
    ("heap", include_str!("../sql/redo/heap.sql")),
    ("btree", include_str!("../sql/redo/btree.sql")),
    ("hash", include_str!("../sql/redo/hash.sql")),
    ("gin", include_str!("../sql/redo/gin.sql")),
    ("gist", include_str!("../sql/redo/gist.sql")),
    ("spgist", include_str!("../sql/redo/spgist.sql")),
    ("brin", include_str!("../sql/redo/brin.sql")),
    ("generic", include_str!("../sql/redo/generic.sql")),
    ("mixed", include_str!("../sql/redo/mixed.sql")),
];
/// Sessions that contend for the same rows.
const SESSIONS: usize = 4;

type Script = (&'static str, &'static str);

/// How a campaign's server is set up and how much it does.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Rows, in percent of the full workload. Rare record types need most of it.
    pub percent: u32,
    /// Data checksums: hint bits are logged as images.
    pub checksums: bool,
    /// `full_page_writes`. Without them every first change of a page is replayed too.
    pub full_page_writes: bool,
}

/// What a replay found.
#[derive(Debug)]
pub struct Replay {
    /// Counts per record type and problems.
    pub report: Report,
    /// First record.
    pub start: Lsn,
    /// End of the last record.
    pub end: Lsn,
}

/// Runs the workload on a new server of `major` and replays its WAL.
pub async fn campaign(major: PgMajor, settings: Settings) -> Result<Replay> {
    let install = Install::find(major)?;
    let mut cluster = Cluster::init(&install, &options(major, settings))?;
    cluster.start()?;
    run_script(&cluster, settings.percent, PREPARE)?;
    for script in SCRIPTS {
        run_script(&cluster, settings.percent, script)?;
    }
    run_script(&cluster, settings.percent, LOCKS)?;
    let churn = ("churn", "call churn(); call churn();");
    std::thread::scope(|s| {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|_| s.spawn(|| run_script(&cluster, settings.percent, churn)))
            .collect();
        sessions.into_iter().try_for_each(|session| {
            session
                .join()
                .unwrap_or_else(|_| anyhow::bail!("a session panicked"))
        })
    })?;
    lock_updated_rows(&cluster).await?;
    cluster.psql("VACUUM (FREEZE)").await?;

    let hint_bits_logged = cluster
        .value("SELECT current_setting('data_checksums') = 'on' OR current_setting('wal_log_hints') = 'on'")
        .await?
        == "t";
    let written: Lsn = cluster
        .value("SELECT pg_current_wal_insert_lsn()")
        .await?
        .parse()?;
    cluster.stop(Shutdown::Fast)?;
    let dialect = Dialect {
        version: major,
        flavour: Flavour::Vanilla,
        hint_bits_logged,
    };
    let replay = replay(&cluster.data().join("pg_wal"), dialect, |_, _| Ok(()))?;
    ensure!(
        replay.end >= written,
        "WAL was read to {} only, the server wrote to {written}",
        replay.end
    );
    Ok(replay)
}

fn options(major: PgMajor, settings: Settings) -> Options {
    let on = |flag| if flag { "on" } else { "off" };
    let options = Options::default()
        .initdb("--wal-segsize=64")
        .set("wal_consistency_checking", "all")
        .set("wal_level", "logical")
        .set("full_page_writes", on(settings.full_page_writes))
        .set("track_commit_timestamp", "on")
        .set("max_prepared_transactions", "20")
        // Every segment stays, and checkpoints come only where a script asks for one.
        .set("max_wal_size", "100GB")
        .set("wal_keep_size", "100GB")
        .set("checkpoint_timeout", "1d")
        .set("autovacuum", "off")
        .set("fsync", "off")
        .set("shared_buffers", "128MB");
    match (settings.checksums, major) {
        (true, _) => options.initdb("--data-checksums"),
        (false, PgMajor::V18) => options.initdb("--no-data-checksums"),
        (false, _) => options,
    }
}

fn run_script(cluster: &Cluster, percent: u32, (name, sql): Script) -> Result<()> {
    let mut psql = cluster.tool("psql")?;
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"])
        .env(
            "PGOPTIONS",
            format!("-c redo.percent={percent} -c client_min_messages=error"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = psql.spawn().context("starting psql")?;
    let input = child.stdin.take();
    let output = std::thread::scope(|s| {
        s.spawn(move || input.map(|mut i| i.write_all(sql.as_bytes())));
        child.wait_with_output()
    })?;
    ensure!(
        output.status.success(),
        "script {name} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Locks rows whose newer versions are not committed yet, which locks those as well
/// (LOCK_UPDATED).
async fn lock_updated_rows(cluster: &Cluster) -> Result<()> {
    let [reader, writer, locker] = [
        cluster.client("postgres").await?,
        cluster.client("postgres").await?,
        cluster.client("postgres").await?,
    ];
    let rows = "FROM contended WHERE id BETWEEN 1 AND 12 FOR KEY SHARE";
    reader
        .batch_execute(&format!("BEGIN; SELECT 1 {rows}"))
        .await?;
    writer
        .batch_execute("BEGIN; UPDATE contended SET v = v + 1 WHERE id BETWEEN 1 AND 12")
        .await?;
    locker
        .batch_execute(&format!("BEGIN; SELECT 1 {rows}; COMMIT"))
        .await?;
    writer.batch_execute("COMMIT").await?;
    reader.batch_execute("COMMIT").await?;
    Ok(())
}

/// Replays a `pg_wal` directory. `before` sees each record, and the pages as they are before it.
pub fn replay(
    directory: &Path,
    dialect: Dialect,
    mut before: impl FnMut(&Oracle, &RawRecord<'_>) -> Result<()>,
) -> Result<Replay> {
    let (size, first, paths) = segments(directory)?;
    let cfg = Config {
        segment_size: size,
        ..Config::new(dialect.version)
    };
    let begin = Lsn(first * u64::from(size));
    let mut paths = paths.iter();
    let bytes = fs::read(paths.next().context("no WAL segments here")?)?;
    let start = segment::Reader::from_page(begin, &bytes, cfg)
        .context("no record begins in the first segment")?
        .end();
    let behind = usize::try_from(start.0 - begin.0)?;
    let mut decoder = Decoder::new(start, cfg);
    let mut oracle = Oracle::new(dialect);
    let mut bytes = bytes.get(behind..).unwrap_or_default().to_vec();
    loop {
        // The first thing that is not WAL is its end: a segment is as long when it is not full.
        if decoder.feed(decoder.position(), &bytes).is_err() {
            break;
        }
        let end = loop {
            match decoder.next() {
                Ok(Some(rec)) => {
                    before(&oracle, &rec)?;
                    oracle
                        .record(rec.end, rec.bytes)
                        .with_context(|| format!("record at {}", rec.start))?;
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        match paths.next() {
            Some(path) if !end => bytes = fs::read(path)?,
            _ => break,
        }
    }
    Ok(Replay {
        report: oracle.into_report(),
        start,
        end: decoder.decoded(),
    })
}

/// Segment size, number of the first segment, and the files in order.
pub(crate) fn segments(directory: &Path) -> Result<(u32, u64, Vec<PathBuf>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("{}", directory.display()))? {
        let entry = entry?;
        let size = u32::try_from(entry.metadata()?.len()).unwrap_or(0);
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((_, number)) = segment::parse_file_name(&name, size) {
            found.push((number, size, entry.path()));
        }
    }
    found.sort();
    let (first, size) = found
        .first()
        .map(|(number, size, _)| (*number, *size))
        .with_context(|| format!("no WAL segments in {}", directory.display()))?;
    for (want, (number, other, path)) in (first..).zip(&found) {
        ensure!(
            (want, size) == (*number, *other),
            "segment {want} is missing before {}",
            path.display()
        );
    }
    Ok((size, first, found.into_iter().map(|(_, _, p)| p).collect()))
}
