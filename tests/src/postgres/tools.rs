//! Client programs (`pgbench`, `pg_basebackup`, `pg_dump`, `psql`), which the downloaded servers
//! lack. Debian's version 15 works against all supported servers for what the tests do.

use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 4] = ["psql", "pgbench", "pg_basebackup", "pg_dump"];

/// A client program: the newest under Debian's directory, else the one on `PATH`.
pub fn find_tool(program: &str) -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = Vec::new();
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        for entry in entries.flatten() {
            let number = entry.file_name().to_string_lossy().parse();
            let path = entry.path().join("bin").join(program);
            if let (Ok(n), true) = (number, path.is_file()) {
                versions.push((n, path));
            }
        }
    }
    versions.sort();
    if let Some((_, path)) = versions.pop() {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|d| d.join(program))
        .find(|p| p.is_file())
        .with_context(|| format!("{program} not found; `cargo xtask test` installs it when run as root, or install your system's Postgres package"))
}

/// Installs Debian's client programs if any is missing and this is root on a Debian system. No
/// server is set up or started by that.
pub fn ensure_client_tools() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|p| find_tool(p).is_err())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "missing Postgres client programs: {}; install your system's Postgres package",
            missing.join(", ")
        );
    }
    eprintln!(
        "installing Postgres client programs ({} missing) …",
        missing.join(", ")
    );
    apt(&["update", "-q"])?;
    apt(&[
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "postgresql-common",
    ])?;
    // pgbench comes with the server package, which would set up and start a server.
    fs::create_dir_all("/etc/postgresql-common/createcluster.d")?;
    fs::write(
        "/etc/postgresql-common/createcluster.d/no-main-cluster.conf",
        "create_main_cluster = false\n",
    )?;
    apt(&[
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "postgresql",
        "postgresql-client",
    ])?;
    for program in PROGRAMS {
        find_tool(program)?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status();
    ensure!(
        status.context("running apt-get")?.success(),
        "apt-get {} failed",
        arguments.join(" ")
    );
    Ok(())
}
