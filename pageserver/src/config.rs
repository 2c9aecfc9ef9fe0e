//! Configuration of the daemon: `pageserver.toml` in the working directory, `identity.toml`, and
//! `-c KEY=VALUE` on the command line, in rising order of precedence. Unknown keys are errors.

#![expect(clippy::disallowed_methods, reason = "read before there is an engine")]

use crate::engine::DEFAULT_MEMORY_BUDGET;
use crate::engine::config::{TenantConf, edit_distance};
use crate::engine::scrubber::Schedule;
use anyhow::{Context, bail};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// Text of a new `pageserver.toml`.
const DEFAULT_FILE: &str = "\
# Settings of this pageserver. Every key is optional; the values below are the defaults.
# `pageserver --help` and docs/operations.md list all keys.

# Management API and page service. Listening beyond loopback needs authentication, or
# allow_unauthenticated_network = true.
listen_http_addr = \"127.0.0.1:9898\"
listen_pg_addr = \"127.0.0.1:64000\"

# Where all data lives. A bucket:
#   [remote_storage]
#   bucket_name = \"pages\"
#   bucket_region = \"eu-central-1\"
#   endpoint = \"https://s3.example.com\"
[remote_storage]
local_path = \"bucket\"
";

/// Keys of the file, for messages.
const KEYS: &[&str] = &[
    "allow_unauthenticated_network",
    "listen_http_addr",
    "listen_pg_addr",
    "log_format",
    "memory_budget",
    "remote_storage",
    "scrub_period",
    "scrub_rate",
    "tenant_config",
    "wait_lsn_timeout",
    "wal_redo_program",
];

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// The daemon's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of this node in `/v1/status`.
    pub id: u64,
    /// Management API.
    pub listen_http_addr: SocketAddr,
    /// Page service.
    pub listen_pg_addr: SocketAddr,
    /// How long a read waits for WAL.
    pub wait_lsn_timeout: Duration,
    /// Program that replays records of extensions; `{major}` in its path is the Postgres version.
    pub wal_redo_program: Option<String>,
    /// Most unflushed data in memory, in bytes.
    pub memory_budget: usize,
    /// Log lines.
    pub log_format: LogFormat,
    /// Settings of tenants that do not override them.
    pub tenant_config: serde_json::Map<String, serde_json::Value>,
    /// The object store.
    pub remote_storage: bucket::Config,
    /// The background scrub.
    pub scrub: Schedule,
}

impl Config {
    /// Reads the configuration of a working directory, creating a default one in an empty one.
    pub fn load(dir: &Path, overrides: &[String]) -> anyhow::Result<Config> {
        let path = dir.join("pageserver.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::write(&path, DEFAULT_FILE)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                DEFAULT_FILE.to_owned()
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut table: Table = text
            .parse()
            .with_context(|| format!("{} is not valid TOML", path.display()))?;
        for item in overrides {
            apply(&mut table, item)?;
        }
        let id = identity(dir)?;
        Config::from_table(table, id, dir).with_context(|| format!("in {}", path.display()))
    }

    fn from_table(table: Table, id: u64, dir: &Path) -> anyhow::Result<Config> {
        let mut config = Config {
            id,
            listen_http_addr: SocketAddr::from(([127, 0, 0, 1], 9898)),
            listen_pg_addr: SocketAddr::from(([127, 0, 0, 1], 64000)),
            wait_lsn_timeout: Duration::from_secs(300),
            wal_redo_program: None,
            memory_budget: DEFAULT_MEMORY_BUDGET,
            log_format: LogFormat::Plain,
            tenant_config: serde_json::Map::new(),
            remote_storage: bucket::Config::local(dir.join("bucket")),
            scrub: Schedule::default(),
        };
        let mut open_network = false;
        for (key, value) in table {
            match key.as_str() {
                "allow_unauthenticated_network" => open_network = boolean(&key, &value)?,
                "listen_http_addr" => config.listen_http_addr = address(&key, &value)?,
                "listen_pg_addr" => config.listen_pg_addr = address(&key, &value)?,
                "log_format" => {
                    config.log_format = match value.as_str() {
                        Some("plain") => LogFormat::Plain,
                        Some("json") => LogFormat::Json,
                        _ => bail!("log_format = {value}: expected \"plain\" or \"json\""),
                    }
                }
                "memory_budget" => {
                    config.memory_budget = value
                        .as_integer()
                        .and_then(|n| usize::try_from(n).ok())
                        .filter(|n| *n >= 16 << 20)
                        .with_context(|| format!("memory_budget = {value}: expected a number of bytes of at least 16 MiB"))?;
                }
                "remote_storage" => {
                    let mut storage: bucket::Config = value.try_into().context("remote_storage")?;
                    storage.local_path = storage.local_path.map(|p| dir.join(p));
                    config.remote_storage = storage;
                }
                "tenant_config" => {
                    let json = serde_json::to_value(&value).context("tenant_config")?;
                    let table = json
                        .as_object()
                        .cloned()
                        .context("tenant_config is not a table")?;
                    TenantConf::new(&table, &serde_json::Map::new()).context("tenant_config")?;
                    config.tenant_config = table;
                }
                "scrub_period" => config.scrub.period = duration(&key, &value)?,
                "scrub_rate" => {
                    config.scrub.rate = value
                        .as_integer()
                        .and_then(|n| u64::try_from(n).ok())
                        .filter(|n| *n > 0)
                        .with_context(|| {
                            format!(
                                "scrub_rate = {value}: expected a number of bytes a second above 0"
                            )
                        })?;
                }
                "wait_lsn_timeout" => config.wait_lsn_timeout = duration(&key, &value)?,
                "wal_redo_program" => {
                    let path = value.as_str().filter(|p| Path::new(p).is_absolute());
                    let path = path.with_context(|| {
                        format!(
                            "wal_redo_program = {value}: expected the absolute path of a program"
                        )
                    })?;
                    config.wal_redo_program = Some(path.to_owned());
                }
                other => {
                    let near = KEYS
                        .iter()
                        .min_by_key(|k| edit_distance(k, other))
                        .copied()
                        .unwrap_or_default();
                    bail!(
                        "unknown key {other:?}; did you mean {near:?}? Known keys: {}",
                        KEYS.join(", ")
                    );
                }
            }
        }
        for (key, addr) in [
            ("listen_http_addr", config.listen_http_addr),
            ("listen_pg_addr", config.listen_pg_addr),
        ] {
            if !is_loopback(addr.ip()) && !open_network {
                bail!(
                    "{key} = {addr} would let the network in without authentication. Listen on 127.0.0.1, or, if something else protects this port, say so with allow_unauthenticated_network = true"
                );
            }
        }
        Ok(config)
    }
}

fn duration(key: &str, value: &Value) -> anyhow::Result<Duration> {
    value
        .as_str()
        .and_then(|s| humantime::parse_duration(s).ok())
        .with_context(|| format!("{key} = {value}: expected a duration such as \"300s\""))
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

fn identity(dir: &Path) -> anyhow::Result<u64> {
    let path = dir.join("identity.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&path, "id = 1\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(1);
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let table: Table = text
        .parse()
        .with_context(|| format!("{} is not valid TOML", path.display()))?;
    table
        .get("id")
        .and_then(Value::as_integer)
        .and_then(|n| u64::try_from(n).ok())
        .with_context(|| format!("{}: expected `id = <number>`", path.display()))
}

fn apply(table: &mut Table, item: &str) -> anyhow::Result<()> {
    let (key, text) = item
        .split_once('=')
        .with_context(|| format!("-c {item}: expected KEY=VALUE"))?;
    let (key, text) = (key.trim(), text.trim());
    // A bare word is taken for a string, so that -c listen_pg_addr=127.0.0.1:1 works unquoted.
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            return Ok(());
        }
        at = at
            .entry(part.to_owned())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .with_context(|| format!("-c {item}: {part} is not a table"))?;
    }
    bail!("-c {item}: the key is empty")
}

fn boolean(key: &str, value: &Value) -> anyhow::Result<bool> {
    value
        .as_bool()
        .with_context(|| format!("{key} = {value}: expected true or false"))
}

fn address(key: &str, value: &Value) -> anyhow::Result<SocketAddr> {
    value
        .as_str()
        .and_then(|s| s.parse().ok())
        .with_context(|| format!("{key} = {value}: expected \"ip:port\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        Config::from_table(text.parse().unwrap(), 1, Path::new("/d"))
    }

    #[test]
    fn the_default_file_parses() {
        assert_eq!(parse(DEFAULT_FILE).unwrap().listen_pg_addr.port(), 64000);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let e = parse("listen_http_adr = \"127.0.0.1:1\"").unwrap_err();
        assert!(format!("{e:#}").contains("listen_http_addr"), "{e:#}");
    }

    #[test]
    fn the_network_stays_out_unless_told_so() {
        assert!(parse("listen_pg_addr = \"0.0.0.0:64000\"").is_err());
        assert!(
            parse("allow_unauthenticated_network = true\nlisten_pg_addr = \"0.0.0.0:64000\"")
                .is_ok()
        );
    }

    #[test]
    fn the_redo_program_has_an_absolute_path() {
        assert!(parse("wal_redo_program = \"redo\"").is_err());
        let c = parse("wal_redo_program = \"/opt/pg{major}/redo\"").unwrap();
        assert_eq!(c.wal_redo_program.as_deref(), Some("/opt/pg{major}/redo"));
    }

    #[test]
    fn command_line_values_need_no_quotes() {
        let mut t = Table::new();
        apply(&mut t, "listen_pg_addr=127.0.0.1:1").unwrap();
        apply(&mut t, "memory_budget = 33554432").unwrap();
        apply(&mut t, "remote_storage.local_path=/x").unwrap();
        let c = Config::from_table(t, 1, Path::new("/d")).unwrap();
        assert_eq!((c.listen_pg_addr.port(), c.memory_budget), (1, 32 << 20));
    }
}
