//! Servers on this machine, started on copies of branches.
//!
//! One server for a branch at a time. Everything of it is in its data directory: settings in
//! `pagectl.conf`, the log in `pagectl.log`, its socket. It listens on 127.0.0.1 only. What it
//! must not do, because the server it is a copy of does that already, is off: archiving, and logical
//! replication from elsewhere. [`Home`] remembers which server belongs to which branch.

mod account;
mod home;
mod programs;

pub use account::Account;
pub use home::{Home, Record};
pub use programs::Programs;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// Settings of ours, in the data directory.
pub const SETTINGS: &str = "pagectl.conf";
/// Log of the server, in the data directory.
const LOG: &str = "pagectl.log";
/// Wait for a server to start or stop, in seconds.
const PATIENCE: u32 = 120;
/// Ports to choose from.
const PORTS: std::ops::RangeInclusive<u16> = 5433..=5999;
/// Longest directory of a Unix socket, in bytes; what is longer does without one.
const MAX_SOCKET_DIRECTORY: usize = 90;
/// Bytes of a log shown when a start fails.
const LOG_TAIL: u64 = 4000;

/// A server that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// What is known of it.
    pub record: Record,
    /// Version of its programs, such as 17.5.
    pub version: String,
}

impl Running {
    /// A server that was found running.
    pub fn of(record: Record, programs: &Programs) -> Result<Running> {
        Ok(Running {
            record,
            version: programs.version()?,
        })
    }

    /// Its programs.
    pub fn programs(&self) -> Result<Programs> {
        Programs::of(&self.record, None)
    }

    /// As JSON.
    pub fn describe(&self) -> Value {
        let r = &self.record;
        json!({
            "tenant_id": r.tenant, "timeline_id": r.timeline, "branch": r.branch, "lsn": r.lsn,
            "connstr": r.connstr(), "port": r.port, "directory": r.directory, "version": self.version,
        })
    }
}

fn pg_ctl(record: &Record, programs: &Programs, account: Account) -> Command {
    let mut command = programs.command("pg_ctl", account);
    command.arg("-D").arg(&record.directory);
    command
}

/// True if the server runs.
pub fn is_running(record: &Record, programs: &Programs, account: Account) -> Result<bool> {
    if !record.directory.join("postmaster.pid").exists() {
        return Ok(false);
    }
    let output = pg_ctl(record, programs, account)
        .arg("status")
        .output()
        .context("running pg_ctl")?;
    // 3: no server runs; 4: no data directory there, or none that we may read.
    Ok(output.status.success())
}

/// Starts a server and waits until it accepts connections. The record comes back with its port.
pub fn start(
    mut record: Record,
    programs: &Programs,
    account: Account,
    port: Option<u16>,
) -> Result<Running> {
    record.port = match port {
        Some(port) => {
            check_free(port)?;
            port
        }
        None => free_port(record.port)?,
    };
    configure(&record, account)?;
    let log = record.directory.join(LOG);
    let output = pg_ctl(&record, programs, account)
        .arg("-l")
        .arg(&log)
        .args(["-w", "-s", "-t", &PATIENCE.to_string(), "start"])
        .output()
        .context("running pg_ctl")?;
    if !output.status.success() {
        bail!(
            "Postgres does not start: {}\n{}",
            String::from_utf8_lossy(&output.stderr).trim(),
            tail(&log)
        );
    }
    Running::of(record, programs)
}

/// Stops a server, ending its sessions, and waits for it.
pub fn stop(record: &Record, programs: &Programs, account: Account) -> Result<()> {
    let output = pg_ctl(record, programs, account)
        .args([
            "-m",
            "fast",
            "-w",
            "-s",
            "-t",
            &PATIENCE.to_string(),
            "stop",
        ])
        .output()
        .context("running pg_ctl")?;
    if !output.status.success() {
        bail!(
            "Postgres in {} does not stop: {}",
            record.directory.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn check_free(port: u16) -> Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(drop)
        .with_context(|| format!("port {port} cannot be used; choose another --port"))
}

/// The port it had before, if that is free, else the first that is.
fn free_port(before: u16) -> Result<u16> {
    let again = (before != 0).then_some(before);
    again
        .into_iter()
        .chain(PORTS)
        .find(|p| check_free(*p).is_ok())
        .with_context(|| {
            format!(
                "no free port from {} to {}; choose one with --port",
                PORTS.start(),
                PORTS.end()
            )
        })
}

/// A value for a configuration file.
fn quoted(value: &str) -> String {
    let value: String = value.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn settings(record: &Record) -> String {
    let directory = record.directory.to_string_lossy();
    let socket = if directory.len() <= MAX_SOCKET_DIRECTORY {
        directory.as_ref()
    } else {
        ""
    };
    let lines = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &record.port.to_string()),
        ("unix_socket_directories", socket),
        ("archive_mode", "off"),
        ("max_logical_replication_workers", "0"),
    ];
    let mut text = String::from("# Written by pagectl at every start.\n");
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
    text
}

fn configure(record: &Record, account: Account) -> Result<()> {
    let own = record.directory.join(SETTINGS);
    fs::write(&own, settings(record)).with_context(|| format!("cannot write {}", own.display()))?;
    account.own(&own)?;
    let main = record.directory.join("postgresql.conf");
    let include = format!("include = '{SETTINGS}'");
    let opened = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&main);
    let mut file = opened.with_context(|| format!("cannot write {}", main.display()))?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", main.display()))?;
    if !text.lines().any(|l| l == include) {
        writeln!(file, "\n{include}")
            .with_context(|| format!("cannot write {}", main.display()))?;
    }
    account.own(&main)
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut end = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut end)?;
        Ok(end)
    };
    match read() {
        Ok(bytes) => format!("{}:\n{}", log.display(), String::from_utf8_lossy(&bytes)),
        Err(e) => format!("{} cannot be read: {e}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_a_configuration_file() {
        assert_eq!(quoted("a'b\\c\n"), "'a''b\\\\c'");
    }

    #[test]
    fn a_copy_does_not_archive_or_subscribe() {
        let text = settings(&Record::example());
        assert!(text.contains("archive_mode = 'off'"));
        assert!(text.contains("max_logical_replication_workers = '0'"));
        assert!(text.contains("listen_addresses = '127.0.0.1'"));
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_left_out() {
        let mut record = Record::example();
        record.directory = format!("/{}", "x".repeat(120)).into();
        assert!(settings(&record).contains("unix_socket_directories = ''\n"));
    }

    #[test]
    fn settings_are_included_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::example();
        record.directory = dir.path().to_owned();
        fs::write(dir.path().join("postgresql.conf"), "wal_level = replica").unwrap();
        for _ in 0..2 {
            configure(&record, Account::Own).unwrap();
        }
        let text = fs::read_to_string(dir.path().join("postgresql.conf")).unwrap();
        assert_eq!(text, "wal_level = replica\ninclude = 'pagectl.conf'\n");
    }

    #[test]
    fn a_port_in_use_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(check_free(port).is_err());
        assert_ne!(free_port(port).unwrap(), port);
    }
}
