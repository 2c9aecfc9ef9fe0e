//! `cargo xtask oracle`.

mod cases;
mod recovery;
mod table;

use anyhow::{Context as _, Result, ensure};
use cases::Cases;
use pg_wal::record::rmgr_name;
use std::path::PathBuf;
use std::time::Instant;
use table::Table;
use tests::oracle::{Replay, Settings, campaign, replay};
use types::{Flavour, PgMajor};
use wal_redo::oracle::Report;
use wal_redo::{Dialect, name};

/// Which servers, or which WAL.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this major version, 14 to 18; may be repeated
    #[arg(long, value_name = "N")]
    major: Vec<u32>,
    /// Rows, in percent of the full workload
    #[arg(long, default_value_t = 100)]
    percent: u32,
    /// Run the servers with data checksums; with --dir, the server had them or wal_log_hints
    #[arg(long)]
    checksums: bool,
    /// Run the servers without full-page writes
    #[arg(long)]
    no_full_page_writes: bool,
    /// Replay this pg_wal of a server that ran with wal_consistency_checking = 'all'; needs --major
    #[arg(long, value_name = "PG_WAL_DIR")]
    dir: Option<PathBuf>,
    /// Write what was covered, by record type and version, as a Markdown table
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "recovery"])]
    table: Option<PathBuf>,
    /// Compare with Postgres's own recovery of a random workload instead
    #[arg(long, conflicts_with_all = ["dir", "checksums", "no_full_page_writes", "percent"])]
    recovery: bool,
    /// With --recovery: how many seeds for each version
    #[arg(long, default_value_t = 5, requires = "recovery")]
    seeds: u64,
    /// With --recovery: the first seed
    #[arg(long, default_value_t = 1, requires = "recovery")]
    first_seed: u64,
    /// With --recovery: steps of the workload for each seed
    #[arg(long, default_value_t = 200, requires = "recovery")]
    steps: u32,
    /// With --dir: write one record of each variant, with its pages, as a golden file
    #[arg(long, value_name = "FILE", requires = "dir")]
    cases: Option<PathBuf>,
}

/// Replays, prints the counts, and fails on any difference.
pub fn run(arguments: &Arguments) -> Result<()> {
    let majors = arguments.major.iter().map(|n| PgMajor::try_from(*n));
    let mut majors = majors.collect::<Result<Vec<_>, _>>()?;
    if arguments.recovery {
        let majors = if majors.is_empty() {
            PgMajor::ALL.to_vec()
        } else {
            majors
        };
        let last = arguments.first_seed.saturating_add(arguments.seeds);
        return recovery::run(&majors, arguments.first_seed..last, arguments.steps);
    }
    let mut sum = Report::default();
    if let Some(dir) = &arguments.dir {
        ensure!(majors.len() == 1, "--dir needs one --major");
        for version in majors {
            let dialect = Dialect {
                version,
                flavour: Flavour::Vanilla,
                hint_bits_logged: arguments.checksums,
            };
            let mut cases = Cases::default();
            let found = replay(dir, dialect, |oracle, rec| {
                if arguments.cases.is_some() {
                    cases.offer(oracle, rec.end, &rec.parse(version)?);
                }
                Ok(())
            })?;
            print(version, &found);
            sum.add(&found.report);
            if let Some(path) = &arguments.cases {
                std::fs::write(path, zstd::encode_all(cases.bytes().as_slice(), 19)?)
                    .with_context(|| format!("writing {}", path.display()))?;
            }
        }
        return verdict(&sum);
    }
    if majors.is_empty() {
        majors = PgMajor::ALL.to_vec();
    }
    let settings = Settings {
        percent: arguments.percent,
        checksums: arguments.checksums,
        full_page_writes: !arguments.no_full_page_writes,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let mut table = Table::default();
    for major in majors {
        let begun = Instant::now();
        let found = runtime
            .block_on(campaign(major, settings))
            .with_context(|| format!("on Postgres {major}"))?;
        print(major, &found);
        println!("{:.0} s\n", begun.elapsed().as_secs_f64());
        sum.add(&found.report);
        table.add(major, &found.report);
    }
    if let Some(file) = &arguments.table {
        let words = std::env::args().skip(1).collect::<Vec<_>>();
        table.write(file, &format!("cargo xtask {}", words.join(" ")))?;
    }
    verdict(&sum)
}

fn print(major: PgMajor, found: &Replay) {
    println!(
        "Postgres {major}: WAL from {} to {}, {} MiB",
        found.start,
        found.end,
        found.end.bytes_since(found.start) >> 20
    );
    print!("{}", found.report);
    for finding in found.report.findings.iter().take(20) {
        println!("{finding}");
    }
}

fn print_unseen(types: impl Iterator<Item = (u8, u8)>) {
    let unseen: Vec<_> = types
        .map(|(rm, op)| format!("{} {}", rmgr_name(rm), name::record(rm, op)))
        .collect();
    if unseen.is_empty() {
        println!("every record type that changes pages was seen");
    } else {
        println!("never seen: {}", unseen.join(", "));
    }
}

fn verdict(sum: &Report) -> Result<()> {
    print_unseen(sum.unseen());
    let total = sum.total();
    let wrong = total.mismatched + total.strict + total.errors;
    println!(
        "{} records, {} pages compared, {wrong} wrong",
        total.records, total.compared
    );
    ensure!(wrong == 0, "redo differs from Postgres");
    ensure!(
        total.compared > 0,
        "nothing was compared: the server ran without wal_consistency_checking"
    );
    Ok(())
}
