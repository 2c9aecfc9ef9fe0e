//! `cargo xtask lint`.

use crate::run::{cargo, has_cargo_command, step};
use anyhow::Result;

/// Formatting, clippy with warnings as errors, and `deny.toml` where cargo-deny is installed.
pub fn run() -> Result<()> {
    step(&mut cargo(&["fmt", "--all", "--check"])?)?;
    step(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?)?;
    if has_cargo_command("deny") {
        step(&mut cargo(&["deny", "--locked", "check"])?)
    } else {
        eprintln!(
            "==> skipped: licences, advisories and bans (deny.toml); run `cargo install --locked cargo-deny` to check them"
        );
        Ok(())
    }
}
