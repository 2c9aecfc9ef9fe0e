//! Running other programs from the root of the workspace.

use anyhow::{Context as _, Result, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the workspace.
pub fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here
        .parent()
        .context("xtask has no parent directory")?
        .to_owned())
}

/// A command for the cargo that runs this program.
pub fn cargo(arguments: &[&str]) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()?);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_this_package) {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// True for a variable that cargo set for this program and that means nothing to another cargo. Build
/// scripts that name one as an input would run again, and all above them be compiled again, each
/// time a build is started now by hand and now from here.
fn is_of_this_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// True if `cargo <name>` exists.
pub fn has_cargo_command(name: &str) -> bool {
    let Ok(mut command) = cargo(&[name, "--version"]) else {
        return false;
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Says what runs, runs it, and fails if it does.
pub fn step(command: &mut Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let line = format!("{program} {}", words.join(" "));
    eprintln!("==> {line}");
    let status = command
        .status()
        .with_context(|| format!("running {line}"))?;
    ensure!(status.success(), "{line} failed");
    Ok(())
}
