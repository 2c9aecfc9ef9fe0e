//! `cargo xtask oracle --recovery`: redo against Postgres's own recovery.

use anyhow::{Result, ensure};
use std::ops::Range;
use std::time::Instant;
use tests::recovery::{Outcome, Settings, run as run_seed};
use types::PgMajor;

/// Differences printed for each seed.
const PRINTED: usize = 10;

/// Runs every seed on every version, prints a line for each, and fails on any difference.
pub fn run(majors: &[PgMajor], seeds: Range<u64>, steps: u32) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut sum = Outcome::default();
    for major in majors {
        for seed in seeds.clone() {
            let begun = Instant::now();
            let outcome = runtime.block_on(run_seed(*major, Settings { seed, steps }))?;
            println!(
                "Postgres {major}, seed {seed}: {} records, {} MiB, {} pages compared, {} of them rebuilt, {} differ; {:.1} s",
                outcome.records,
                outcome.wal_bytes >> 20,
                outcome.blocks + outcome.slru_pages,
                outcome.rebuilt,
                outcome.differences.len(),
                begun.elapsed().as_secs_f64()
            );
            for difference in outcome.differences.iter().take(PRINTED) {
                println!("  {difference}");
            }
            sum.add(outcome);
        }
    }
    println!(
        "{} records, {} pages compared, {} of them rebuilt, {} differ",
        sum.records,
        sum.blocks + sum.slru_pages,
        sum.rebuilt,
        sum.differences.len()
    );
    super::print_unseen(sum.unseen());
    ensure!(
        sum.differences.is_empty(),
        "redo differs from Postgres's recovery"
    );
    ensure!(sum.rebuilt > 0, "nothing was compared");
    Ok(())
}
