//! Ingest of the WAL of a real server into an engine: decode, ingest, in-memory layer; and the flush
//! of what came out to an L0 layer. Beside it, in the same run, a CRC-32C and a copy of the same
//! bytes, and a write and fsync of as many bytes as the flush writes. The figures are in
//! `docs/benchmarks.md`.
//!
//! The WAL is recorded when the benchmark starts: `load` is `pgbench -i`, `oltp` the standard
//! transactions of `pgbench` with full-page writes after a checkpoint, `oltp_no_fpi` the same without
//! them. Every repetition imports the files of the empty cluster into a new timeline and feeds it as
//! the WAL receiver does, 128 KiB at a time.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "benchmark"
)]

mod support;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pageserver::engine::Timeline;
use pageserver::walreceiver::TimelineStore;
use pg_format::control::ControlFile;
use pg_wal::stream::{Config as DecoderConfig, Decoder};
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use support::*;
use tests::postgres::{Cluster, Install, Options, Shutdown};
use types::shard::ShardIdentity;
use types::{Key, Lsn, PgMajor};
use wal_ingest::import::Pgdata;
use wal_ingest::{Config as IngestConfig, Ingest};

/// Version of the server.
const MAJOR: PgMajor = PgMajor::V17;
/// Segment size of its WAL.
const SEGMENT: u64 = 16 << 20;
/// Bytes handed to the decoder at once: what a walsender sends.
const CHUNK: usize = 128 * 1024;
/// Scale of the `pgbench` tables, a hundred thousand rows each.
const SCALE: &str = "5";
/// Transactions of each of four clients.
const TRANSACTIONS: &str = "4000";
/// Repetitions; the best is printed.
const ROUNDS: usize = 5;

/// WAL of a server, and the state it applies to.
struct Recording {
    base: Vec<(Key, Bytes)>,
    system_identifier: u64,
    start: Lsn,
    /// Names and ends of the parts.
    parts: Vec<(&'static str, Lsn)>,
    wal: Bytes,
}

/// Everything in a data directory that an import keeps.
fn import(data: &Path) -> Result<(Vec<(Key, Bytes)>, ControlFile)> {
    fn files(dir: &Path, out: &mut Vec<std::path::PathBuf>) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => files(&path, out)?,
                false => out.push(path),
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    files(data, &mut paths)?;
    paths.sort();
    let mut pgdata = Pgdata::new(MAJOR, ShardIdentity::UNSHARDED);
    let mut values = Vec::new();
    let mut sink = |key: Key, value: &[u8]| values.push((key, Bytes::copy_from_slice(value)));
    for path in paths {
        let name = path.strip_prefix(data)?.to_str().context("path")?;
        if name.starts_with("pg_wal/") {
            continue;
        }
        let content = fs::read(&path)?;
        if let Some(mut file) = pgdata.open(name, content.len() as u64)? {
            pgdata.feed(&mut file, &content, &mut sink)?;
            pgdata.close(file, &mut sink)?;
        }
    }
    let done = pgdata.finish(&mut sink)?;
    Ok((values, done.control))
}

async fn record() -> Result<Recording> {
    let options = Options::default()
        .set("fsync", "off")
        .set("autovacuum", "off")
        .set("max_wal_size", "8GB")
        .set("wal_keep_size", "8GB")
        .set("checkpoint_timeout", "1h");
    let mut cluster = Cluster::init(&Install::find(MAJOR)?, &options)?;
    let (base, control) = import(&cluster.data())?;
    let start = control.checkpoint_lsn();
    cluster.start()?;
    let mut parts = Vec::new();
    let position = "SELECT pg_current_wal_insert_lsn()";
    cluster.pgbench(&["-i", "-q", "-s", SCALE])?;
    parts.push(("load", cluster.value(position).await?.parse()?));
    cluster.psql("CHECKPOINT").await?;
    let transactions = ["-n", "-c", "4", "-t", TRANSACTIONS];
    cluster.pgbench(&transactions)?;
    parts.push(("oltp", cluster.value(position).await?.parse()?));
    cluster
        .psql("ALTER SYSTEM SET full_page_writes = off")
        .await?;
    cluster.psql("SELECT pg_reload_conf()").await?;
    cluster.pgbench(&transactions)?;
    parts.push(("oltp_no_fpi", cluster.value(position).await?.parse()?));
    cluster.stop(Shutdown::Fast)?;

    let end = parts.last().map_or(start, |(_, end)| *end);
    let mut wal = Vec::new();
    for segment in start.segment_number(SEGMENT)..=end.segment_number(SEGMENT) {
        let per_id = (1u64 << 32) / SEGMENT;
        let name = format!("{:08X}{:08X}{:08X}", 1, segment / per_id, segment % per_id);
        wal.extend(fs::read(cluster.data().join("pg_wal").join(name))?);
    }
    let first = start.0 % SEGMENT;
    ensure!(end > start, "no WAL");
    Ok(Recording {
        base,
        system_identifier: control.system_identifier(),
        start,
        wal: Bytes::from(wal).slice(first as usize..(first + end.0 - start.0) as usize),
        parts,
    })
}

impl Recording {
    fn decoder(&self) -> Decoder {
        let config = DecoderConfig {
            segment_size: SEGMENT as u32,
            system_identifier: Some(self.system_identifier),
            ..DecoderConfig::new(MAJOR)
        };
        Decoder::new(self.start, config)
    }

    /// The chunks of a part, as they come from a walsender.
    fn chunks(&self, part: usize) -> Vec<(Lsn, Bytes)> {
        let from = part.checked_sub(1).map_or(self.start, |p| self.parts[p].1);
        let (from, to) = (from.0 - self.start.0, self.parts[part].1.0 - self.start.0);
        (from..to)
            .step_by(CHUNK)
            .map(|at| {
                let bytes = self
                    .wal
                    .slice(at as usize..to.min(at + CHUNK as u64) as usize);
                (self.start.saturating_add(at), bytes)
            })
            .collect()
    }
}

/// What a part took.
#[derive(Default)]
struct Part {
    floor: Times,
    decode: Times,
    ingest: Times,
    flush: Times,
    write: Times,
    bytes: u64,
    records: u64,
    values: u64,
    file: u64,
}

async fn replay(rec: &Recording, world: &World, id: u8, out: &mut [Part]) -> Arc<Timeline> {
    let timeline = world
        .timeline(id, MAJOR, rec.start, rec.base.iter().cloned())
        .await;
    let store = TimelineStore(Arc::clone(&timeline));
    let mut ingest = Ingest::load(&store, IngestConfig::new(MAJOR), rec.start)
        .await
        .unwrap();
    let (mut decoder, mut only) = (rec.decoder(), rec.decoder());
    let mut copy = vec![0u8; CHUNK];
    for (n, part) in out.iter_mut().enumerate() {
        let chunks = rec.chunks(n);
        part.bytes = chunks.iter().map(|(_, b)| b.len() as u64).sum();
        part.floor.time(|| {
            for (_, bytes) in &chunks {
                let to = &mut copy[..bytes.len()];
                to.copy_from_slice(bytes);
                black_box(types::crc32c::of(to));
            }
        });
        part.decode.time(|| {
            for (at, bytes) in &chunks {
                only.feed_shared(*at, bytes.clone()).unwrap();
                while let Some(record) = only.next().unwrap() {
                    black_box(record.bytes);
                }
            }
        });
        let before = ingest.counters().records;
        let start = Instant::now();
        for (at, bytes) in &chunks {
            decoder.feed_shared(*at, bytes.clone()).unwrap();
            while let Some(r) = decoder.next().unwrap() {
                ingest
                    .record(&store, r.start, r.end, r.bytes)
                    .await
                    .unwrap();
            }
            ingest.commit(&store).await.unwrap();
        }
        part.ingest.push(start.elapsed());
        part.records = ingest.counters().records - before;

        timeline.freeze().await;
        part.values = timeline
            .layers()
            .frozen()
            .iter()
            .map(|f| f.value_bytes() as u64)
            .sum();
        let before: u64 = timeline.layers().files().map(|l| l.size()).sum();
        let start = Instant::now();
        timeline.flush_frozen().await.unwrap();
        part.flush.push(start.elapsed());
        part.file = timeline.layers().files().map(|l| l.size()).sum::<u64>() - before;
        let block = vec![5u8; 256 << 10];
        let path = world.directory.path().join("plain");
        part.write.time(|| {
            let mut file = File::create(&path).unwrap();
            for _ in 0..part.file / block.len() as u64 {
                file.write_all(&block).unwrap();
            }
            file.sync_all().unwrap();
        });
        fs::remove_file(&path).unwrap();
    }
    timeline
}

fn main() {
    if !wanted("ingest") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let rec = match runtime.block_on(record()) {
        Ok(rec) => rec,
        Err(e) => {
            eprintln!("no WAL could be recorded: {e:#}");
            std::process::exit(1);
        }
    };
    let mut parts: Vec<Part> = rec.parts.iter().map(|_| Part::default()).collect();
    for n in 0..ROUNDS {
        let world = runtime.block_on(World::new());
        let timeline = runtime.block_on(replay(&rec, &world, n as u8 + 1, &mut parts));
        assert!(timeline.last_record_lsn() > rec.start);
    }
    println!("MB/s, best of {ROUNDS} (median)");
    println!(
        "{:<12} {:>7} {:>8} {:>13} {:>13} {:>13} {:>9} {:>7} {:>7} {:>13} {:>13}",
        "",
        "MB",
        "records",
        "crc + copy",
        "decode",
        "ingest",
        "us/record",
        "values",
        "L0",
        "flush",
        "write, fsync"
    );
    for ((name, _), part) in rec.parts.iter().zip(&parts) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let rate = |bytes: u64, times: &Times| {
            let at = |p: f64| mb(bytes) / times.quantile(p).as_secs_f64();
            format!("{:.0} ({:.0})", at(0.0), at(0.5))
        };
        println!(
            "{name:<12} {:>7.1} {:>8} {:>13} {:>13} {:>13} {:>9.2} {:>7.1} {:>7.1} {:>13} {:>13}",
            mb(part.bytes),
            part.records,
            rate(part.bytes, &part.floor),
            rate(part.bytes, &part.decode),
            rate(part.bytes, &part.ingest),
            part.ingest.min().as_secs_f64() * 1e6 / part.records as f64,
            mb(part.values),
            mb(part.file),
            rate(part.file, &part.flush),
            rate(part.file, &part.write),
        );
    }
}
