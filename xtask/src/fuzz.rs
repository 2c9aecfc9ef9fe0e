//! `cargo xtask fuzz`.

mod seeds;

use crate::run::{cargo, has_cargo_command, root, step};
use anyhow::{Result, ensure};
use std::time::Duration;

/// What to fuzz.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fuzz target, or `all` for one after the other; without one, the targets are listed
    target: Option<String>,
    /// How long each, such as 60s or 10min
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// Runs fuzz targets for a while, or lists them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    let targets = match arguments.target.as_deref() {
        None => {
            println!("{}", known.join("\n"));
            return Ok(());
        }
        Some("all") => known,
        Some(target) => {
            ensure!(
                known.iter().any(|k| k == target),
                "no fuzz target {target:?}; there are: {}",
                known.join(", ")
            );
            vec![target.to_owned()]
        }
    };
    if !has_cargo_command("fuzz") {
        step(&mut cargo(&["install", "cargo-fuzz", "--locked"])?)?;
    }
    let seconds = arguments.time.as_secs().max(1);
    for target in targets {
        let corpus = root()?.join("fuzz/corpus").join(&target);
        let seeds = seeds::plant(&target, &corpus)?;
        eprintln!("==> {seeds} seeds in {}", corpus.display());
        // The decoders hold no unsafe code, so fuzzing needs no sanitizer and with that no nightly
        // compiler, only its flags for coverage.
        let mut fuzz = cargo(&["fuzz", "run", "--sanitizer", "none", &target])?;
        let time = format!("-max_total_time={seconds}");
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        step(fuzz.args(["--", &time, "-timeout=30", "-print_final_stats=1"]))?;
    }
    Ok(())
}

/// One file of `fuzz/fuzz_targets` for each target.
fn targets() -> Result<Vec<String>> {
    let directory = root()?.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
