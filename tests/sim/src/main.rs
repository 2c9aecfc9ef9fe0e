//! Runs seeds of the simulation: one, a number of them, or fresh ones until time is out.

use anyhow::{Result, bail};
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
