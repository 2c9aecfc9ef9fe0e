//! `cargo xtask bench`.

use crate::run::{cargo, step};
use anyhow::Result;

/// Which benchmarks.
#[derive(clap::Args)]
pub struct Arguments {
    /// Filters and options for `cargo bench`, such as `-p wal_redo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

/// Runs the benchmarks of the packages selected, of all by default. Unit tests are left out.
pub fn run(arguments: &Arguments) -> Result<()> {
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
