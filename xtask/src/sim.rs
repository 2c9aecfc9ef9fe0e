//! `cargo xtask sim`: the seeded simulation of the storage engine.

mod planted;

use crate::run::{cargo, step};
use anyhow::Result;
use std::process::Command;
use tests::daemon::program;

/// What to run; the program `sim` explains its options.
#[derive(clap::Args)]
pub struct Arguments {
    /// Use the program as it is
    #[arg(long)]
    no_build: bool,
    /// Plant bugs in a copy of the tree, one at a time, and see that the simulation finds each; takes
    /// half an hour for all of them, less for some: `--planted=02,11`
    #[arg(
        long,
        value_name = "NUMBERS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_delimiter = ','
    )]
    planted: Option<Vec<String>>,
    /// `--seed N` repeats a run; `--seeds N` runs that many; `--for 10m` runs fresh ones until time is
    /// out; `--every-fault` lets each operation of a fixed history fail in turn; further --jobs N,
    /// --keep-going, --loud, --log
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Builds and runs the simulation.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(numbers) = &arguments.planted {
        return planted::run(numbers);
    }
    if !arguments.no_build {
        // As the tests build it, so that nothing is compiled for a second time.
        let tests = ["test", "--workspace", "--locked", "--no-run"];
        step(cargo(&tests)?.args(["--test", "seeds", "--test", "every_crash_point"]))?;
    }
    step(Command::new(program("sim")?).args(&arguments.options))
}
