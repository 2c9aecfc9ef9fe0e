//! `cargo xtask bench recovery`: the CPU time of redo against that of Postgres's own recovery.
//!
//! A server without full-page writes runs pgbench and the random workload of the recovery test. Its
//! WAL is then replayed over a copy of its files from before: by a server in crash recovery, whose
//! startup process reports its CPU time, and here, over the same files. Both start with the pages in
//! the operating system's cache and have memory for all of them. What Postgres does beyond redo of
//! pages (commit log, locks, free-space map, invalidations) is in its figure; so is the visibility
//! map, whose unnamed changes are left out here.

use crate::run::{cargo, step};
use anyhow::{Context as _, Result, ensure};
use pg_wal::record::Record;
use rand::SeedableRng as _;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::recovery::workload::Workload;
use tests::recovery::{Recording, Replica, Wal, compare, quiet};
use types::{BlockNumber, Key, Lsn, PAGE_SIZE, PgMajor, RelTag};
use wal_redo::{Dialect, PageBuf, apply_postgres};

/// Each figure is the best of so many runs.
const RUNS: usize = 3;
/// Large enough for every page.
const SHARED_BUFFERS: &str = "1GB";

/// How much WAL.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this major version, 14 to 18; may be repeated
    #[arg(long, value_name = "N", default_values_t = [17, 18])]
    major: Vec<u32>,
    /// pgbench scale
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// pgbench transactions
    #[arg(long, default_value_t = 100_000)]
    transactions: u32,
    /// Steps of the random workload, which uses every kind of index
    #[arg(long, default_value_t = 200)]
    steps: u32,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    if cfg!(debug_assertions) {
        return optimised(arguments);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    println!(
        "ns of CPU time a record, best of {RUNS}; redo also in records a second of wall time\n"
    );
    for n in &arguments.major {
        let major = PgMajor::try_from(*n)?;
        runtime
            .block_on(one(major, arguments))
            .with_context(|| format!("on Postgres {major}"))?;
    }
    Ok(())
}

/// The same in a release build.
fn optimised(arguments: &Arguments) -> Result<()> {
    let mut again = cargo(&["run", "--release", "--locked", "-q", "-p", "xtask", "--"])?;
    again.args(["bench", "recovery"]);
    let mut option = |name: &str, n: u32| {
        again.args([name, &n.to_string()]);
    };
    arguments.major.iter().for_each(|n| option("--major", *n));
    option("--scale", arguments.scale);
    option("--transactions", arguments.transactions);
    option("--steps", arguments.steps);
    step(&mut again)
}

async fn one(major: PgMajor, arguments: &Arguments) -> Result<()> {
    let options = quiet().set("shared_buffers", SHARED_BUFFERS);
    let mut recording = Recording::begin(major, &options)?;
    let rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut workload = Workload::new(rng).in_one_database();
    workload.prepare(recording.primary()).await?;
    let scale = arguments.scale.to_string();
    recording
        .primary()
        .pgbench(&["-i", "-q", "-s", &scale])
        .context("pgbench -i")?;
    let replica = recording.copy()?;
    let each = (arguments.transactions / 2).to_string();
    recording
        .primary()
        .pgbench(&["-n", "-c", "2", "-j", "2", "-t", &each])
        .context("pgbench")?;
    workload.run(recording.primary(), arguments.steps).await?;
    let wal = recording.finish(&replica)?;

    let mut postgres = Duration::MAX;
    let mut recovered = None;
    for _ in 0..RUNS {
        let server = recording.recover(&[("log_min_messages", "log")])?;
        postgres = postgres.min(redo_time(&server.log())?);
        recovered = Some(server);
    }

    let mut replayed = Replayed::default();
    let mut all_in = Duration::MAX;
    for _ in 0..RUNS {
        let begun = cpu_time()?;
        replayed = replay(&recording, &replica)?;
        all_in = all_in.min(cpu_time()?.saturating_sub(begun));
    }
    let chains = chains(&wal, &replica, &recording.copied(), &replayed)?;
    let changes: usize = chains.iter().map(|c| c.records.len()).sum();
    let records = replayed.records;
    println!(
        "Postgres {major}: {records} records, {} MiB of WAL, {changes} changes of {} pages",
        wal.end()?.bytes_since(wal.start()) >> 20,
        chains.len()
    );
    let line = |what: &str, time: Duration| {
        println!(
            "  {what:<44} {:>7.0} ns",
            time.as_nanos() as f64 / records as f64
        );
    };
    line("Postgres recovery", postgres);
    line("here: read, decode, look up, redo", all_in);
    let cores = std::thread::available_parallelism()?.get();
    let mut alone = None;
    for threads in 1..=cores {
        let (cpu, wall) = (0..RUNS)
            .map(|_| redo(&chains, threads, replica.dialect()))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .min_by_key(|(_, wall)| *wall)
            .unwrap_or_default();
        let one = *alone.get_or_insert(wall);
        println!(
            "  redo alone, threads: {threads}                        {:>7.0} ns, {:.2} million records a second, {:.2} times one thread's",
            cpu.as_nanos() as f64 / records as f64,
            records as f64 / wall.as_secs_f64() / 1e6,
            one.as_secs_f64() / wall.as_secs_f64(),
        );
    }
    let recovered = recovered.context("no recovery")?;
    let outcome = compare(&replica, &wal, &recovered, "the same run").await?;
    println!(
        "  {} pages compared with the recovered files, {} differ\n",
        outcome.blocks,
        outcome.differences.len()
    );
    ensure!(
        outcome.differences.is_empty(),
        "{}",
        outcome.differences.join("\n")
    );
    Ok(())
}

/// User and system time of the startup process, from "redo done at … system usage: CPU: user: 1.05
/// s, system: 0.10 s, elapsed: …".
fn redo_time(log: &str) -> Result<Duration> {
    let line = log.lines().rfind(|l| l.contains("redo done at"));
    let line =
        line.with_context(|| format!("the server did not say how long redo took:\n{log}"))?;
    let seconds = |label: &str| -> Option<f64> {
        let (_, rest) = line.split_once(label)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let (user, system) = seconds("user: ")
        .zip(seconds("system: "))
        .with_context(|| format!("{line:?} names no times"))?;
    Ok(Duration::from_secs_f64(user + system))
}

/// CPU time of this thread so far.
fn cpu_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")
        .context("CPU time needs /proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().context("an empty file")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

type Place = (RelTag, BlockNumber);

#[derive(Default)]
struct Replayed {
    records: u64,
    pages: HashMap<Place, Box<PageBuf>>,
}

/// Everything recovery of pages has to do, record by record.
fn replay(recording: &Recording, replica: &Replica) -> Result<Replayed> {
    let dialect = replica.dialect();
    let wal = Wal::read(&recording.wal(), replica)?;
    let mut files = Files::new(&recording.copied(), dialect.version);
    let mut out = Replayed::default();
    let mut reader = wal.records();
    while let Some(raw) = reader.next() {
        out.records += 1;
        let rec = Record::parse(raw.bytes, dialect.version)?;
        for block in &rec.blocks {
            let place = (block.rel, block.block);
            let page = match out.pages.entry(place) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) => e.insert(files.page(place)?),
            };
            apply_postgres(
                page,
                &Key::rel_block(block.rel, block.block),
                raw.end,
                raw.bytes,
                &dialect,
            )?;
        }
    }
    Ok(out)
}

/// A page's base and its records.
struct Chain {
    key: Key,
    base: Box<PageBuf>,
    records: Vec<(Lsn, Vec<u8>)>,
}

/// The records of each page, the longest chains first. Replaying them gives the pages in `replayed`.
fn chains(wal: &Wal, replica: &Replica, copied: &Path, replayed: &Replayed) -> Result<Vec<Chain>> {
    let dialect = replica.dialect();
    let mut files = Files::new(copied, dialect.version);
    let mut found: HashMap<Place, Chain> = HashMap::new();
    let mut reader = wal.records();
    while let Some(raw) = reader.next() {
        for block in &Record::parse(raw.bytes, dialect.version)?.blocks {
            let place = (block.rel, block.block);
            let chain = match found.entry(place) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) => e.insert(Chain {
                    key: Key::rel_block(block.rel, block.block),
                    base: files.page(place)?,
                    records: Vec::new(),
                }),
            };
            chain.records.push((raw.end, raw.bytes.to_vec()));
        }
    }
    for (place, chain) in &found {
        let same = replayed.pages.get(place).map(|page| page.as_slice());
        let page = chain.redo(&mut PageBuf::new(), &dialect)?.to_vec();
        ensure!(same == Some(&page), "page {} differs", chain.key);
    }
    let mut chains: Vec<Chain> = found.into_values().collect();
    chains.sort_by_key(|c| std::cmp::Reverse(c.records.len()));
    Ok(chains)
}

impl Chain {
    fn redo<'a>(&self, page: &'a mut PageBuf, dialect: &Dialect) -> Result<&'a [u8]> {
        page.clone_from(&*self.base);
        for (lsn, raw) in &self.records {
            apply_postgres(page, &self.key, *lsn, raw, dialect)?;
        }
        Ok(page.as_slice())
    }
}

/// Redo of all chains, dealt out to threads: CPU time of all of them, and wall time.
fn redo(chains: &[Chain], threads: usize, dialect: Dialect) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let cpu = std::thread::scope(|s| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                s.spawn(move || -> Result<Duration> {
                    let begun = cpu_time()?;
                    let mut page = PageBuf::new();
                    for chain in chains.iter().skip(n).step_by(threads) {
                        std::hint::black_box(chain.redo(&mut page, &dialect)?);
                    }
                    Ok(cpu_time()?.saturating_sub(begun))
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| {
                w.join()
                    .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
            })
            .sum::<Result<Duration>>()
    })?;
    Ok((cpu, begun.elapsed()))
}

/// Pages of a data directory.
struct Files {
    data: PathBuf,
    version: PgMajor,
    open: HashMap<PathBuf, Option<File>>,
}

impl Files {
    fn new(data: &Path, version: PgMajor) -> Files {
        Files {
            data: data.to_owned(),
            version,
            open: HashMap::new(),
        }
    }

    /// An empty buffer if the file has no such page.
    fn page(&mut self, (rel, block): Place) -> Result<Box<PageBuf>> {
        let mut page = Box::new(PageBuf::new());
        let segment = pg_format::RelFile::containing(rel, block);
        let path = self.data.join(segment.path(self.version));
        let file = match self.open.entry(path) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                let file = match File::open(e.key()) {
                    Err(e) if e.kind() == ErrorKind::NotFound => None,
                    opened => Some(opened?),
                };
                e.insert(file)
            }
        };
        let Some(file) = file else { return Ok(page) };
        let at = u64::from(block - segment.first_block()) * PAGE_SIZE as u64;
        match file.read_exact_at(page.zero(), at) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => page.clear(),
            read => read?,
        }
        Ok(page)
    }
}
