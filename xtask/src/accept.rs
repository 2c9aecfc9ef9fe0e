//! `cargo xtask accept`: the acceptance campaigns, with figures.

use crate::run::{cargo, step};
use anyhow::{Result, ensure};
use clap::Args;
use std::time::Instant;
use tests::accept::{Size, exports, kills, pages};
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
    /// Only this campaign: pages, exports or kills
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
    runtime.block_on(async {
        for major in majors {
            if wanted("pages") {
                let started = Instant::now();
                let daemon = Daemon::start(&[]).await?;
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
                let daemon = Daemon::start(&[]).await?;
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
                let settings = ["tenant_config.checkpoint_distance=8388608"];
                let o = kills::run(major, size, kills, lose_every, &settings).await?;
                println!(
                    "kills {major}: {} kills, local data lost {} times, {} pages compared, {} mismatches, slowest start {:.2} s",
                    o.kills, o.losses, o.report.blocks, o.report.mismatches, o.slowest_start
                );
                o.report.described.iter().for_each(|d| println!("  {d}"));
                wrong += o.report.mismatches;
            }
        }
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(wrong == 0, "{wrong} mismatches");
    Ok(())
}
