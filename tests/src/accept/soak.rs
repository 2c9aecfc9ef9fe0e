//! A long load with small layers and little history, so that every mechanism of the engine turns
//! over many times: what it costs over time, and whether pages are still right.

use super::{Followed, Load, Size, follow, pages, primary};
use crate::compare::{self, Report};
use crate::daemon::Daemon;
use crate::postgres::Cluster;
use anyhow::{Context, Result, ensure};
use api_client::model::{TimelineCreate, TimelineInfo};
use page_protocol::client::{Connection, Options};
use page_protocol::message::{Relation, Version};
use rand::Rng;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use types::{Lsn, PgMajor, TimelineId};

/// Settings that make everything happen often; history is kept for three minutes.
pub const SETTINGS: &[&str] = &[
    "tenant_config.checkpoint_distance=16777216",
    "tenant_config.compaction_target_size=16777216",
    "tenant_config.compaction_threshold=5",
    "tenant_config.compaction_period=5s",
    "tenant_config.pitr_interval=3m",
    "tenant_config.gc_period=15s",
    "tenant_config.lsn_lease_length=0s",
];
/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(5);
/// Load between two retained moments.
const MOMENT_SECONDS: u64 = 8;
/// Retained moments that wait for their comparison, each with a copy of the primary's files.
const KEPT: usize = 3;
/// Reads between two samples.
const READS: usize = 200;

/// What was measured at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Since the load began.
    pub seconds: f64,
    /// Bytes of local layer files.
    pub disk: u64,
    /// Bytes in the bucket.
    pub bucket: u64,
    /// Bytes of all relations at the newest LSN.
    pub logical: u64,
    /// Resident memory of the daemon, in bytes.
    pub memory: u64,
    /// Layers of the timeline, and how many of them are L0.
    pub layers: usize,
    /// L0 layers.
    pub l0: usize,
    /// WAL since the load began, in bytes.
    pub wal: u64,
    /// Changes replayed per read since the sample before: median, 99th percentile, most (upper
    /// bounds of histogram buckets).
    pub deltas: [f64; 3],
    /// Layers visited per read, likewise.
    pub visited: [f64; 3],
    /// Latency of this campaign's own reads at random LSNs, in milliseconds: median, 99th
    /// percentile, worst.
    pub latency: [f64; 3],
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    /// Measurements, in order.
    pub samples: Vec<Sample>,
    /// Comparison of each retained moment with the primary's files as they were then.
    pub moments: Vec<(Lsn, Report)>,
    /// Comparison at the end.
    pub report: Report,
    /// Turns of the SQL workload.
    pub turns: u32,
    /// Reads at random LSNs.
    pub reads: u64,
    /// Bytes that flushes, and compaction, wrote.
    pub written: [f64; 2],
}

/// How a run goes.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Most transactions of pgbench a second.
    pub rate: Option<u32>,
    /// Moments retained at the end, each after a little more load.
    pub moments: usize,
    /// More settings of the daemon.
    pub settings: &'a [&'a str],
    /// Takes a copy of the primary's files for each moment.
    pub scratch: &'a Path,
    /// Takes the measurements as soon as the load is over; comparing takes long.
    pub watched: &'a dyn Fn(&[Sample]) -> Result<()>,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} moments)", self.moments)
    }
}

/// Imports a primary, loads it for `size.seconds`, retains some more moments, and compares.
pub async fn run(major: PgMajor, size: Size, plan: Plan<'_>) -> Result<Outcome> {
    let Plan {
        rate,
        moments,
        settings,
        scratch,
        watched: tell,
    } = plan;
    let settings: Vec<&str> = SETTINGS.iter().chain(settings).copied().collect();
    let daemon = Daemon::start(&settings).await?;
    let cluster = Arc::new(primary(major, size, &[]).await?);
    let followed = follow(&daemon, &cluster).await?;
    let accounts = Relation {
        spc: 1663,
        db: number(
            &cluster,
            "SELECT oid FROM pg_database WHERE datname = 'postgres'",
        )
        .await?,
        rel: number(&cluster, "SELECT pg_relation_filenode('pgbench_accounts')").await?,
        fork: 0,
    };
    let load = Load::start_at(&cluster, size.seconds, rate, 0)?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = Watch {
        daemon: &daemon,
        followed,
        accounts,
        over: Arc::clone(&over),
    };
    let finish = async {
        let turns = load.finish().await;
        over.store(true, Ordering::Release);
        turns
    };
    let (turns, watched) = tokio::join!(finish, watch.run());
    let (mut turns, (samples, reads)) = (turns?, watched?);
    tell(&samples)?;
    let mut cluster = Arc::into_inner(cluster).context("the load still uses the primary")?;
    let mut retained = VecDeque::new();
    let mut compared = Vec::new();
    for n in 0..moments {
        let shared = Arc::new(cluster);
        let load = Load::start_at(&shared, MOMENT_SECONDS, rate, turns)?;
        turns = load.finish().await?;
        cluster = Arc::into_inner(shared).context("the load still uses the primary")?;
        retained.push_back(
            retain(
                &daemon,
                followed,
                &mut cluster,
                &scratch.join(n.to_string()),
                n,
            )
            .await?,
        );
        cluster.start()?;
        // Not at once: history is to be collected around the branch first.
        if retained.len() > KEPT
            && let Some(moment) = retained.pop_front()
        {
            compared.push(moment.compare(&daemon, followed, major).await?);
        }
    }
    let report = pages::settle(&daemon, followed, &mut cluster).await?;
    for moment in retained {
        compared.push(moment.compare(&daemon, followed, major).await?);
    }
    let written = [
        daemon.metric("pageserver_flushed_bytes_total").await?,
        daemon.metric("pageserver_compacted_bytes_total").await?,
    ];
    Ok(Outcome {
        samples,
        moments: compared,
        report,
        turns,
        reads,
        written,
    })
}

async fn number(cluster: &Cluster, sql: &str) -> Result<u32> {
    Ok(cluster.value(sql).await?.parse()?)
}

/// Stops the primary, branches where it stopped, and keeps a copy of its files.
async fn retain(
    daemon: &Daemon,
    followed: Followed,
    cluster: &mut Cluster,
    copy: &Path,
    n: usize,
) -> Result<Moment> {
    let last = pages::stop(cluster)?;
    daemon
        .wait_lsn(followed.shard(), followed.timeline, last)
        .await?;
    let mut id = [0xB5; 16];
    if let Some(byte) = id.last_mut() {
        *byte = u8::try_from(n)?;
    }
    let id = TimelineId(id);
    let request = TimelineCreate {
        new_timeline_id: Some(id),
        ancestor_timeline_id: Some(followed.timeline),
        ancestor_start_lsn: Some(last),
        ..TimelineCreate::default()
    };
    daemon
        .client()
        .create_timeline(followed.shard(), &request)
        .await?;
    std::fs::create_dir_all(copy)?;
    for entry in std::fs::read_dir(cluster.data())? {
        let entry = entry?;
        // As large as all the rest, and not compared.
        if entry.file_name() == "pg_wal" {
            continue;
        }
        let status = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(entry.path())
            .arg(copy)
            .status()?;
        ensure!(status.success(), "copying the primary's files: {status}");
    }
    Ok(Moment {
        branch: id,
        lsn: last,
        files: copy.to_owned(),
    })
}

/// A moment retained as a branch, and the primary's files as they were.
struct Moment {
    branch: TimelineId,
    lsn: Lsn,
    files: PathBuf,
}

impl Moment {
    async fn compare(
        self,
        daemon: &Daemon,
        followed: Followed,
        major: PgMajor,
    ) -> Result<(Lsn, Report)> {
        let Moment { branch, lsn, files } = self;
        let tenant = followed.tenant;
        let found = compare::with_files(daemon, tenant, branch, lsn, &files, major).await?;
        std::fs::remove_dir_all(&files)?;
        Ok((lsn, found))
    }
}

/// Samples a daemon and reads from it.
struct Watch<'a> {
    daemon: &'a Daemon,
    followed: Followed,
    accounts: Relation,
    over: Arc<AtomicBool>,
}

impl Watch<'_> {
    async fn run(self) -> Result<(Vec<Sample>, u64)> {
        let started = Instant::now();
        let connection = Connection::connect(self.daemon.pages(), &Options::default()).await?;
        let (tenant, timeline) = (self.followed.tenant, self.followed.timeline);
        let mut stream = connection
            .page_stream(Version::V3, tenant, timeline)
            .await?;
        let first = self.info().await?.last_record_lsn;
        let mut samples = Vec::new();
        let mut reads = 0;
        let mut counts = [Counts::default(), Counts::default()];
        while !self.over.load(Ordering::Acquire) {
            let due = Instant::now() + SAMPLE;
            let mut times = Vec::with_capacity(READS);
            let info = self.info().await?;
            let (last, cutoff) = (info.last_record_lsn, info.latest_gc_cutoff_lsn);
            let blocks = stream.nblocks(self.accounts, last, last).await?;
            for _ in 0..READS {
                // A reader of the past stays clear of what may go while the question is on its way.
                let span = last.0.saturating_sub(cutoff.0) * 9 / 10;
                let (block, back) = {
                    let mut rng = rand::rng();
                    let old = rng.random_bool(0.5);
                    let back = if old { rng.random_range(0..=span) } else { 0 };
                    (rng.random_range(0..blocks.max(1)), back)
                };
                let lsn = Lsn((last.0 - back) & !7);
                let asked = Instant::now();
                let page = stream.page(self.accounts, block, lsn, lsn).await?;
                ensure!(!page.is_empty(), "block {block} at {lsn} is empty");
                times.push(asked.elapsed().as_secs_f64() * 1000.0);
                reads += 1;
                if Instant::now() >= due {
                    break;
                }
            }
            let metrics = self.daemon.client().metrics().await?;
            let mut sample = self.sample(&metrics, &mut counts).await?;
            sample.seconds = started.elapsed().as_secs_f64();
            sample.wal = sample.wal.saturating_sub(first.0);
            sample.latency = of_sorted(times);
            samples.push(sample);
            tokio::time::sleep_until(due.into()).await;
        }
        Ok((samples, reads))
    }

    async fn info(&self) -> Result<TimelineInfo> {
        let (shard, timeline) = (self.followed.shard(), self.followed.timeline);
        self.daemon.timeline(shard, timeline).await
    }

    async fn sample(&self, metrics: &str, counts: &mut [Counts; 2]) -> Result<Sample> {
        let layers = self
            .daemon
            .client()
            .layers(self.followed.shard(), self.followed.timeline)
            .await?;
        let l0 = layers
            .historic_layers
            .iter()
            .filter(|l| l.l0 == Some(true))
            .count();
        let info = self.info().await?;
        let pid = self.daemon.pid().context("the daemon does not run")?;
        let [deltas, visited] = counts;
        Ok(Sample {
            seconds: 0.0,
            disk: bytes_below(&self.daemon.path().join("tenants"))?,
            bucket: bytes_below(&self.daemon.path().join("bucket"))?,
            logical: info.current_logical_size,
            memory: resident(pid)?,
            layers: layers.historic_layers.len(),
            l0,
            wal: info.last_record_lsn.0,
            deltas: deltas.since(metrics, "pageserver_read_deltas_bucket"),
            visited: visited.since(metrics, "pageserver_read_layers_bucket"),
            latency: [0.0; 3],
        })
    }
}

/// Cumulative counts of a histogram: (upper bound, count).
#[derive(Default)]
struct Counts(Vec<(f64, f64)>);

impl Counts {
    /// Median, 99th percentile and greatest of what was observed since the last call, as upper
    /// bounds of buckets.
    fn since(&mut self, metrics: &str, name: &str) -> [f64; 3] {
        let now: Vec<(f64, f64)> = metrics
            .lines()
            .filter(|l| l.split('{').next() == Some(name))
            .filter_map(|l| {
                let bound = l.split("le=\"").nth(1)?.split('"').next()?;
                let bound = bound.replace("+Inf", "inf").parse().ok()?;
                Some((bound, l.rsplit(' ').next()?.parse().ok()?))
            })
            .collect();
        let new: Vec<(f64, f64)> = now
            .iter()
            .enumerate()
            .map(|(at, (bound, n))| (*bound, n - self.0.get(at).map_or(0.0, |(_, old)| *old)))
            .collect();
        self.0 = now;
        let total = new.last().map_or(0.0, |(_, n)| *n);
        [0.5, 0.99, 1.0].map(|share| {
            let reached = new.iter().find(|(_, n)| total > 0.0 && *n >= share * total);
            reached.map_or(0.0, |(bound, _)| *bound)
        })
    }
}

/// Median, 99th percentile, greatest.
fn of_sorted(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| {
        let at = (times.len() as f64 * share).ceil() as usize;
        times.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
    })
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1));
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// Bytes of all files below a directory; files that vanish meanwhile do not count.
fn bytes_below(directory: &Path) -> Result<u64> {
    let mut total = 0;
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(m) if m.is_dir() => todo.push(entry.path()),
                Ok(m) => total += m.len(),
                Err(_) => {}
            }
        }
    }
    Ok(total)
}
