//! `cargo xtask bench`.

mod recovery;

use crate::run::{cargo, step};
use anyhow::Result;

/// Which benchmarks.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Filters and options for `cargo bench`, such as `-p wal_redo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Redo against Postgres's own recovery of the same WAL, in CPU time for each record
    Recovery(recovery::Arguments),
}

/// Runs the benchmarks of the packages selected, of all by default. Unit tests are left out.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Task::Recovery(arguments)) = &arguments.task {
        return recovery::run(arguments);
    }
    let mut bench = cargo(&["bench", "--locked", "--benches"])?;
    if !arguments
        .filter
        .iter()
        .any(|f| f == "-p" || f.starts_with("--package"))
    {
        bench.arg("--workspace");
    }
    step(bench.args(&arguments.filter))
}
