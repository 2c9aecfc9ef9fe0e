//! Runs seeds of the simulation: one, a number of them, or fresh ones until time is out.

use anyhow::{Result, anyhow, bail, ensure};
use clap::Parser;
use sim::{Figures, Options, Outcome};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

#[derive(Parser)]
#[command(name = "sim", about = "Seeded simulation of the storage engine", version = None)]
struct Arguments {
    /// Run this seed; with --seeds, begin with it
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Run fresh seeds until this time is out, such as 10m
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Instead, let each disk and bucket operation of a fixed history fail in turn
    #[arg(long)]
    every_fault: bool,
    /// Instead, cut the power at each I/O step of a fixed history in turn
    #[arg(long)]
    every_crash: bool,
    /// Threads, each with a run of its own
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Print every event
    #[arg(long)]
    loud: bool,
    /// Print the engine's log
    #[arg(long)]
    log: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.log {
        tracing_subscriber::fmt()
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    if arguments.every_crash {
        return every_crash(arguments.jobs.max(1));
    }
    if arguments.every_fault {
        return every_fault(arguments.jobs.max(1));
    }
    let first = match arguments.seed {
        Some(seed) => seed,
        None => fresh()?,
    };
    let count = match (arguments.seeds, arguments.time, arguments.seed) {
        (Some(n), _, _) => n,
        (None, Some(_), _) => u64::MAX,
        (None, None, Some(_)) => 1,
        (None, None, None) => 100,
    };
    let started = Instant::now();
    let deadline = arguments.time.map(|t| started + t);
    let next = Arc::new(AtomicU64::new(0));
    let total: Arc<Mutex<(Figures, Vec<u64>)>> = Arc::default();
    let workers: Vec<_> = (0..arguments.jobs.max(1))
        .map(|_| {
            let (next, total) = (Arc::clone(&next), Arc::clone(&total));
            let options = Options {
                loud: arguments.loud,
            };
            let keep_going = arguments.keep_going;
            std::thread::spawn(move || {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count || deadline.is_some_and(|d| Instant::now() >= d) {
                        return;
                    }
                    let outcome = sim::run(first.wrapping_add(n), options);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    if !total.1.is_empty() && !keep_going {
                        return;
                    }
                    total.0.add(&outcome.figures);
                    if outcome.failure.is_some() {
                        total.1.push(outcome.seed);
                        report(&outcome);
                    } else if count == 1 {
                        println!(
                            "seed {}: {:016x}, {} events",
                            outcome.seed, outcome.hash, outcome.events
                        );
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        if worker.join().is_err() {
            bail!("a worker panicked");
        }
    }
    let total = total.lock().unwrap_or_else(PoisonError::into_inner);
    summary(&total.0, started.elapsed(), total.1.len());
    match total.1.as_slice() {
        [] => Ok(()),
        failed => bail!(
            "seeds that failed: {failed:?}; repeat one with: cargo xtask sim --seed {}",
            failed.first().copied().unwrap_or(0)
        ),
    }
}

fn described((why, tail): sim::Wrong) -> anyhow::Error {
    anyhow!("{why}\n    {}", tail.join("\n    "))
}

/// Runs a history once for each point; the first failure of each thread ends it.
fn each<P: Sync + std::fmt::Debug>(
    points: &[P],
    jobs: usize,
    run: impl Fn(&P) -> Result<()> + Sync,
) -> Result<()> {
    let started = Instant::now();
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (failed, run) = (&failed, &run);
            scope.spawn(move || {
                for point in points.iter().skip(job).step_by(jobs) {
                    if let Err(e) = run(point) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{point:?} failed: {e}");
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        0 => {
            let took = started.elapsed().as_secs_f64();
            println!("{} histories in {took:.1} s", points.len());
            Ok(())
        }
        _ => bail!("histories failed"),
    }
}

fn every_crash(jobs: usize) -> Result<()> {
    let steps = sim::crash_points::run(None).map_err(described)?;
    each(&sim::crash_points::cuts(steps), jobs, |cut| {
        sim::crash_points::run(Some(*cut)).map_err(described)?;
        Ok(())
    })
}

fn every_fault(jobs: usize) -> Result<()> {
    let counts = sim::fault_points::count().map_err(described)?;
    for (fault, count) in &counts {
        println!("{count:5} operations, each with {fault:?}");
    }
    let points = counts.iter();
    let points: Vec<_> = points.flat_map(|(f, n)| (0..*n).map(|n| (*f, n))).collect();
    each(&points, jobs, |(fault, n)| {
        let (_, hit) = sim::fault_points::run(*fault, *n).map_err(described)?;
        ensure!(hit.is_some(), "hit nothing");
        Ok(())
    })
}

fn fresh() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Seeds of the same day are neighbours, far from those of another.
    Ok(now.as_secs() * 1_000_000)
}

fn report(outcome: &Outcome) {
    let Some((why, tail)) = &outcome.failure else {
        return;
    };
    println!("seed {} failed: {why}", outcome.seed);
    println!("  after {} events; the last ones:", outcome.events);
    for line in tail {
        println!("    {line}");
    }
}

fn summary(f: &Figures, took: Duration, failures: usize) {
    println!(
        "{} seeds in {:.1} s: {:.1} simulated hours, {} operations, {} WAL records, {} I/O operations",
        f.runs,
        took.as_secs_f64(),
        f.simulated.as_secs_f64() / 3600.0,
        f.operations,
        f.records,
        f.io
    );
    println!(
        "{} crashes ({} with loss of the disk), {} restarts, {} takeovers, {} faults injected; {failures} failures",
        f.crashes, f.disks_lost, f.restarts, f.takeovers, f.faults
    );
}
