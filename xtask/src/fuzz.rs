//! `cargo xtask fuzz`.

use crate::run::{cargo, has_cargo_command, root, step};
use anyhow::{Result, bail, ensure};
use std::time::Duration;

/// What to fuzz.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fuzz target; without one, the targets are listed
    target: Option<String>,
    /// How long, such as 60s or 10min
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// Runs one fuzz target for a while, or lists them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    let Some(target) = &arguments.target else {
        println!("{}", known.join("\n"));
        return Ok(());
    };
    ensure!(
        known.contains(target),
        "no fuzz target {target:?}; there are: {}",
        known.join(", ")
    );
    if !has_cargo_command("fuzz") {
        bail!("cargo-fuzz is not installed; run `cargo install --locked cargo-fuzz`");
    }
    let seconds = arguments.time.as_secs().max(1);
    // The decoders hold no unsafe code, so fuzzing needs no sanitizer and with that no nightly
    // compiler, only its flags for coverage.
    let mut fuzz = cargo(&["fuzz", "run", "--sanitizer", "none", target])?;
    step(
        fuzz.env("RUSTC_BOOTSTRAP", "1")
            .args(["--", &format!("-max_total_time={seconds}")]),
    )
}

/// One file of `fuzz/fuzz_targets` for each target.
fn targets() -> Result<Vec<String>> {
    let directory = root()?.join("fuzz/fuzz_targets");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
