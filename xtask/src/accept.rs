//! `cargo xtask accept`: the acceptance campaigns, with figures.

mod plot;

use crate::run::{cargo, step};
use anyhow::{Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;
use tests::accept::{Size, exports, kills, pages, soak};
use tests::daemon::Daemon;
use types::PgMajor;

/// Which campaigns, how large.
#[derive(Args)]
pub struct Arguments {
    /// Only this major version
    #[arg(long, value_name = "N")]
    major: Option<u32>,
    /// Use the programs as they are
    #[arg(long)]
    no_build: bool,
    /// Only this campaign: pages, exports, kills or soak (which is left out otherwise)
    #[arg(long)]
    only: Option<String>,
    /// pgbench scale
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Seconds of load
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How often the daemon is killed
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Most transactions of pgbench a second in a soak
    #[arg(long)]
    rate: Option<u32>,
    /// Moments that a soak retains and compares
    #[arg(long, default_value_t = 10)]
    moments: usize,
    /// Where a soak draws its plot, with the figures beside it as CSV
    #[arg(long, value_name = "FILE", default_value = "docs/soak.svg")]
    plot: PathBuf,
    /// Setting of the daemon; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Runs the campaigns.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.no_build {
        // As the tests build it, so that nothing is compiled for a second time.
        step(&mut cargo(&["test", "--workspace", "--no-run"])?)?;
    }
    let majors = match arguments.major {
        Some(n) => vec![PgMajor::try_from(n)?],
        None => PgMajor::ALL.to_vec(),
    };
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|o| o == name);
    let size = Size {
        scale: arguments.scale,
        seconds: arguments.seconds,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut wrong = 0u64;
    let settings: Vec<&str> = arguments.settings.iter().map(String::as_str).collect();
    runtime.block_on(async {
        for major in majors {
            if wanted("pages") {
                let started = Instant::now();
                let daemon = Daemon::start(&settings).await?;
                let o = pages::run(major, size, &daemon).await?;
                println!(
                    "pages {major}: {} relation forks, {} pages and {} SLRU pages compared, {} mismatches; {} turns, {} MiB of WAL, lag {:.2} s; {:.0} s in all",
                    o.report.relations, o.report.blocks, o.report.slru_pages, o.report.mismatches,
                    o.turns, o.wal >> 20, o.lag, started.elapsed().as_secs_f64()
                );
                o.report.described.iter().for_each(|d| println!("  {d}"));
                wrong += o.report.mismatches;
            }
            if wanted("exports") {
                let started = Instant::now();
                let daemon = Daemon::start(&settings).await?;
                let o = exports::run(major, size, 5, &daemon).await?;
                println!(
                    "exports {major}: {} moments, {} tables compared, {} differences, {} relations clean; {:.0} s in all",
                    o.moments, o.tables, o.differences.len(), o.checked, started.elapsed().as_secs_f64()
                );
                o.differences.iter().take(20).for_each(|d| println!("  {d}"));
                wrong += o.differences.len() as u64;
            }
        }
        if wanted("kills") {
            let major = arguments.major.map_or(Ok(PgMajor::V17), PgMajor::try_from)?;
            for lose_every in [0, arguments.kills.max(1)] {
                let kills = if lose_every == 0 { arguments.kills } else { 1 };
                let lose_every = lose_every.min(kills);
                let lose_every = if kills == 1 { 1 } else { lose_every };
                let mut settings = settings.clone();
                settings.insert(0, "tenant_config.checkpoint_distance=8388608");
                let o = kills::run(major, size, kills, lose_every, &settings).await?;
                println!(
                    "kills {major}: {} kills, local data lost {} times, {} pages compared, {} mismatches, slowest start {:.2} s",
                    o.kills, o.losses, o.report.blocks, o.report.mismatches, o.slowest_start
                );
                o.report.described.iter().for_each(|d| println!("  {d}"));
                wrong += o.report.mismatches;
            }
        }
        if arguments.only.as_deref() == Some("soak") {
            wrong += run_soak(arguments, size, &settings).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(wrong == 0, "{wrong} mismatches");
    Ok(())
}

/// Runs a soak, draws it, and returns the number of mismatches.
async fn run_soak(arguments: &Arguments, size: Size, settings: &[&str]) -> Result<u64> {
    let major = arguments
        .major
        .map_or(Ok(PgMajor::V17), PgMajor::try_from)?;
    let scratch = tempfile::tempdir()?;
    let plan = soak::Plan {
        rate: arguments.rate,
        moments: arguments.moments,
        settings,
        scratch: scratch.path(),
        watched: &|samples| {
            plot::draw(samples, &arguments.plot)?;
            println!("plot in {}", arguments.plot.display());
            Ok(())
        },
    };
    let o = soak::run(major, size, plan).await?;
    let wal = o.samples.last().map_or(0, |s| s.wal);
    println!(
        "soak {major}: {} s of load, {} turns, {} MiB of WAL, {} reads at random LSNs; flushed {:.0} MiB, compaction wrote {:.0} MiB",
        size.seconds,
        o.turns,
        wal >> 20,
        o.reads,
        o.written[0] / f64::from(1 << 20),
        o.written[1] / f64::from(1 << 20),
    );
    let worst = |of: fn(&soak::Sample) -> f64| o.samples.iter().map(of).fold(0.0, f64::max);
    println!(
        "  most in any 5 s: {} deltas per read, {} layers per read, read {:.1} ms, {} L0 layers, {} layers, disk {:.0} MiB, memory {:.0} MiB",
        worst(|s| s.deltas[2]),
        worst(|s| s.visited[2]),
        worst(|s| s.latency[2]),
        worst(|s| s.l0 as f64),
        worst(|s| s.layers as f64),
        worst(|s| s.disk as f64) / f64::from(1 << 20),
        worst(|s| s.memory as f64) / f64::from(1 << 20),
    );
    let mut wrong = o.report.mismatches;
    for (lsn, report) in &o.moments {
        println!(
            "  retained {lsn}: {} pages compared, {} mismatches",
            report.blocks, report.mismatches
        );
        report.described.iter().for_each(|d| println!("    {d}"));
        wrong += report.mismatches;
    }
    println!(
        "  at the end: {} pages compared, {} mismatches",
        o.report.blocks, o.report.mismatches
    );
    o.report.described.iter().for_each(|d| println!("    {d}"));
    Ok(wrong)
}
