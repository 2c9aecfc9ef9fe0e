//! `cargo xtask`: the front door for developers. Run it without arguments for the list.
//!
//! Everything here sets up what it needs first; continuous integration runs the same commands.

mod accept;
mod bench;
mod demo;
mod fuzz;
mod lint;
mod oracle;
mod postgres;
mod run;
mod sim;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Everything a developer can do here", version = None)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Import a real Postgres, lose its rows by accident, and get them back from a branch of the moment
    /// before; stays running for a look, unless --once
    Demo(demo::Arguments),
    /// Lint, then run all tests, also those against real Postgres servers; with a filter, only the
    /// tests it selects
    Test(test::Arguments),
    /// The acceptance campaigns against real servers, with figures; takes long
    Accept(accept::Arguments),
    /// Formatting, clippy and dependency policy
    Lint,
    /// Find or fetch a vanilla Postgres server and print its directory of programs
    Postgres(postgres::Arguments),
    /// Replay the WAL of real servers and compare every page with the one Postgres had
    Oracle(oracle::Arguments),
    /// The seeded simulation of the storage engine: crashes, faults, takeovers, and an oracle
    Sim(sim::Arguments),
    /// Run the benchmarks
    Bench(bench::Arguments),
    /// Fuzz one decoder, or list the fuzz targets
    Fuzz(fuzz::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Demo(a) => demo::run(&a),
        Task::Test(a) => test::run(&a),
        Task::Accept(a) => accept::run(&a),
        Task::Lint => lint::run(),
        Task::Postgres(a) => postgres::run(&a),
        Task::Oracle(a) => oracle::run(&a),
        Task::Sim(a) => sim::run(&a),
        Task::Bench(a) => bench::run(&a),
        Task::Fuzz(a) => fuzz::run(&a),
    }
}
