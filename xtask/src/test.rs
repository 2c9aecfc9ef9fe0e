//! `cargo xtask test`.

use crate::lint;
use crate::run::{cargo, has_cargo_command, step};
use anyhow::Result;
use tests::postgres::{Install, ensure_client_tools};
use types::PgMajor;

/// Which tests.
#[derive(clap::Args)]
pub struct Arguments {
    /// Do not lint first
    #[arg(long)]
    no_lint: bool,
    /// Filters and options for `cargo nextest run` (or `cargo test`), such as `-p types` or a part
    /// of a test's name; implies --no-lint and leaves out the doc tests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

/// Lints, sets up the Postgres servers and client programs, and runs the tests.
pub fn run(arguments: &Arguments) -> Result<()> {
    let everything = arguments.filter.is_empty();
    if everything && !arguments.no_lint {
        lint::run()?;
    }
    ensure_client_tools()?;
    for major in PgMajor::ALL {
        Install::find(major)?;
    }
    let mut tests = if has_cargo_command("nextest") {
        cargo(&["nextest", "run", "--locked", "--no-fail-fast"])?
    } else {
        cargo(&["test", "--locked", "--no-fail-fast"])?
    };
    if everything {
        step(tests.arg("--workspace"))?;
        step(&mut cargo(&["test", "--locked", "--workspace", "--doc"])?)
    } else {
        step(tests.args(&arguments.filter))
    }
}
