//! Can this server be a source? Every requirement as a finding that says what to do.
//!
//! [`check`] asks a running server; [`explain`] turns a refused login into the finding behind it,
//! because a role without REPLICATION or a missing `pg_hba.conf` line shows only there.
//! Settings are read with `SHOW`, which works on every connection; counts of slots and walsenders,
//! tablespaces and custom resource managers need database mode and are listed as unchecked
//! otherwise. Nothing is changed on the server.

use crate::commands::{identify_system, show, wal_segment_size};
use crate::connection::{Connection, Mode};
use crate::error::Error;
use std::fmt;
use std::time::Duration;
use types::PgMajor;

/// What the server is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A base backup and the stream behind it, with a new slot.
    Import,
    /// The stream only, with a slot that exists.
    Stream,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It works, with a risk or a cost.
    Warning,
    /// It does not work.
    Fatal,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// The major version is not supported.
    Version,
    /// `wal_level` is `minimal`.
    WalLevel,
    /// `max_wal_senders` leaves too few.
    WalSenders,
    /// `max_replication_slots` leaves none.
    ReplicationSlots,
    /// `max_slot_wal_keep_size` is finite.
    SlotWalKeepSize,
    /// `idle_replication_slot_timeout` (18) is set.
    IdleSlotTimeout,
    /// `full_page_writes` is off.
    FullPageWrites,
    /// `fsync` is off.
    Fsync,
    /// `block_size` or `wal_block_size` is not 8192.
    BlockSize,
    /// The server is in recovery.
    InRecovery,
    /// There are user tablespaces.
    Tablespaces,
    /// An extension writes WAL of its own kind.
    CustomResourceManagers,
    /// `wal_consistency_checking` is on.
    ConsistencyChecking,
    /// The role lacks a privilege.
    RolePrivilege,
    /// `pg_hba.conf` does not let us in.
    HostBasedAuthentication,
    /// The password is wrong or missing.
    Password,
}

/// One requirement that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// How bad.
    pub severity: Severity,
    /// What was found and why it matters.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.problem, self.remedy)
    }
}

/// What was learnt about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its version, if supported.
    pub major: Option<PgMajor>,
    /// Its version as it prints it.
    pub version: String,
    /// System identifier.
    pub system_id: u64,
    /// Size of WAL segments in bytes.
    pub wal_segment_size: u64,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Silence after which the server drops a stream; `None` for never.
    pub wal_sender_timeout: Option<Duration>,
    /// What is not as it should be, worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at on this kind of connection.
    pub unchecked: Vec<Check>,
}

impl Report {
    /// True if nothing fatal was found.
    pub fn is_usable(&self) -> bool {
        self.findings.iter().all(|f| f.severity < Severity::Fatal)
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: Check, severity: Severity, problem: String, remedy: &str) {
        self.0.push(Finding {
            check,
            severity,
            problem,
            remedy: remedy.to_owned(),
        });
    }
}

/// Looks at a server through an open connection. Errors are those of the connection; what is wrong
/// with the server's settings is in the report.
pub async fn check(c: &mut Connection, purpose: Purpose) -> Result<Report, Error> {
    use Severity::{Fatal, Warning};
    let mut found = Findings(Vec::new());
    let version = show(c, "server_version").await?;
    let major = c.major().ok();
    if major.is_none() {
        found.add(
            Check::Version,
            Fatal,
            format!("the server runs Postgres {version}; 14 to 18 are supported"),
            "Upgrade the server with pg_upgrade, or use a server of a supported version",
        );
    }

    let wal_level = show(c, "wal_level").await?;
    if wal_level == "minimal" {
        found.add(
            Check::WalLevel,
            Fatal,
            "wal_level is minimal: bulk changes are missing from the WAL and streaming is refused"
                .into(),
            "Set wal_level = replica in postgresql.conf and restart the server",
        );
    }
    for name in ["block_size", "wal_block_size"] {
        let size = show(c, name).await?;
        if size != "8192" {
            found.add(
                Check::BlockSize,
                Fatal,
                format!("{name} is {size}; only 8192 is supported"),
                "Dump and restore into a server built with the default block size",
            );
        }
    }
    if show(c, "full_page_writes").await? == "off" {
        found.add(
            Check::FullPageWrites,
            Warning,
            "full_page_writes is off: pages are rebuilt from longer chains of changes, and the primary itself cannot \
             repair torn pages"
                .into(),
            "Set full_page_writes = on and reload",
        );
    }
    if show(c, "fsync").await? == "off" {
        found.add(
            Check::Fsync,
            Warning,
            "fsync is off: after a crash of its machine the primary may continue from before what was streamed".into(),
            "Set fsync = on and reload",
        );
    }
    let consistency = show(c, "wal_consistency_checking").await?;
    if !consistency.is_empty() {
        found.add(
            Check::ConsistencyChecking,
            Warning,
            format!("wal_consistency_checking is {consistency:?}: the WAL is several times larger than it need be"),
            "Set wal_consistency_checking = '' and reload",
        );
    }
    let keep = show(c, "max_slot_wal_keep_size").await?;
    if keep != "-1" {
        found.add(
            Check::SlotWalKeepSize,
            Warning,
            format!("max_slot_wal_keep_size is {keep}: if the pageserver lags by more, its slot is invalidated and history ends"),
            "Set max_slot_wal_keep_size = -1, or larger than the WAL of the longest outage to survive, and reload",
        );
    }
    if major == Some(PgMajor::V18) {
        let timeout = show(c, "idle_replication_slot_timeout").await?;
        if parse_time(&timeout) != Some(Duration::ZERO) {
            found.add(
                Check::IdleSlotTimeout,
                Warning,
                format!("idle_replication_slot_timeout is {timeout}: if the pageserver is away for longer, its slot is invalidated"),
                "Set idle_replication_slot_timeout = 0 and reload",
            );
        }
    }

    let in_recovery = show(c, "in_hot_standby").await? == "on";
    if in_recovery {
        found.add(
            Check::InRecovery,
            if purpose == Purpose::Import { Fatal } else { Warning },
            "the server is a standby: it can be an asynchronous source only, and a backup taken from it does not mark \
             its end in the WAL"
                .into(),
            "Import from the primary",
        );
    }

    let senders = show(c, "max_wal_senders").await?;
    let slots = show(c, "max_replication_slots").await?;
    let mut unchecked = Vec::new();
    if c.mode() == Mode::Physical {
        unchecked.extend([
            Check::WalSenders,
            Check::ReplicationSlots,
            Check::Tablespaces,
            Check::CustomResourceManagers,
            Check::RolePrivilege,
        ]);
    } else {
        check_free(c, purpose, &senders, &slots, &mut found).await?;
        check_role(c, &mut found).await?;
        check_contents(c, major, purpose, &mut found).await?;
    }

    // IDENTIFY_SYSTEM is a replication command; SQL has the same answer in a function.
    let system_id = if c.mode() == Mode::Sql {
        c.query("SELECT system_identifier FROM pg_catalog.pg_control_system()")
            .await?
            .single()?
            .parse(0)?
    } else {
        identify_system(c).await?.id
    };
    let timeout = show(c, "wal_sender_timeout").await?;
    found.0.sort_by_key(|f| std::cmp::Reverse(f.severity));
    Ok(Report {
        major,
        version,
        system_id,
        wal_segment_size: wal_segment_size(c).await?,
        data_checksums: show(c, "data_checksums").await? == "on",
        in_recovery,
        wal_sender_timeout: parse_time(&timeout).filter(|t| !t.is_zero()),
        findings: found.0,
        unchecked,
    })
}

/// Free walsenders and slots.
async fn check_free(
    c: &mut Connection,
    purpose: Purpose,
    senders: &str,
    slots: &str,
    found: &mut Findings,
) -> Result<(), Error> {
    let counts = "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE pid <> pg_catalog.pg_backend_pid()), \
                  (SELECT count(*) FROM pg_catalog.pg_replication_slots)";
    let row = c.query(counts).await?.single()?;
    let free = |limit: &str, used: i64| limit.parse::<i64>().unwrap_or(0) - used;
    // The stream and a control connection, and for an import the base backup.
    let wanted = if purpose == Purpose::Import { 3 } else { 2 };
    let free_senders = free(senders, row.parse(0)?);
    if free_senders < wanted {
        found.add(
            Check::WalSenders,
            Severity::Fatal,
            format!(
                "max_wal_senders is {senders} and {} are free; {wanted} are needed",
                free_senders.max(0)
            ),
            "Raise max_wal_senders and restart the server",
        );
    }
    if purpose == Purpose::Import && free(slots, row.parse(1)?) < 1 {
        found.add(
            Check::ReplicationSlots,
            Severity::Fatal,
            format!("max_replication_slots is {slots} and none is free"),
            "Drop a slot nobody needs (SELECT * FROM pg_replication_slots), or raise max_replication_slots and restart the server",
        );
    }
    Ok(())
}

/// Privileges of the role.
async fn check_role(c: &mut Connection, found: &mut Findings) -> Result<(), Error> {
    let query = "SELECT rolreplication OR rolsuper, rolname FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = c.query(query).await?.single()?;
    if row.text(0)? != "t" {
        found.0.push(replication_privilege(row.text(1)?));
    }
    Ok(())
}

fn replication_privilege(role: &str) -> Finding {
    Finding {
        check: Check::RolePrivilege,
        severity: Severity::Fatal,
        problem: format!("role {role:?} may not replicate"),
        remedy: format!(
            "Run as a superuser: ALTER ROLE \"{}\" REPLICATION",
            role.replace('"', "\"\"")
        ),
    }
}

/// Things in the cluster that an import cannot represent.
async fn check_contents(
    c: &mut Connection,
    major: Option<PgMajor>,
    purpose: Purpose,
    found: &mut Findings,
) -> Result<(), Error> {
    let names = |rows: crate::connection::Rows| -> Vec<String> {
        rows.rows
            .iter()
            .filter_map(|r| r.opt(0).map(str::to_owned))
            .collect()
    };
    let query = "SELECT spcname FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1 LIMIT 20";
    let tablespaces = names(c.query(query).await?);
    if !tablespaces.is_empty() {
        found.add(
            Check::Tablespaces,
            if purpose == Purpose::Import { Severity::Fatal } else { Severity::Warning },
            format!("there are user tablespaces, which are not supported: {}", tablespaces.join(", ")),
            "Move their contents (ALTER TABLE ALL IN TABLESPACE … SET TABLESPACE pg_default) and drop them",
        );
    }
    if major.is_some_and(|m| m >= PgMajor::V15) {
        let query = "SELECT rm_name FROM pg_catalog.pg_get_wal_resource_managers() WHERE NOT rm_builtin ORDER BY 1 LIMIT 20";
        let custom = names(c.query(query).await?);
        if !custom.is_empty() {
            found.add(
                Check::CustomResourceManagers,
                Severity::Warning,
                format!("extensions write WAL of their own kind, at which ingest stops: {}", custom.join(", ")),
                "Remove the extension from shared_preload_libraries, or keep its access methods unused",
            );
        }
    }
    Ok(())
}

/// What a refused login says about the server's set-up; `None` if the error has another cause.
/// `user` is the role that tried.
pub fn explain(error: &Error, user: &str) -> Option<Finding> {
    let fatal = |check, problem: String, remedy: &str| {
        Some(Finding {
            check,
            severity: Severity::Fatal,
            problem,
            remedy: remedy.to_owned(),
        })
    };
    match error {
        Error::Authentication(why) => fatal(
            Check::Password,
            why.clone(),
            "Give the password in the connection string or in PGPASSWORD",
        ),
        Error::Version(v) => fatal(
            Check::Version,
            v.to_string(),
            "Use a server of a supported version",
        ),
        Error::Server(e) => match e.sqlstate.as_str() {
            "42501" => Some(replication_privilege(user)),
            "28P01" => fatal(
                Check::Password,
                e.message.clone(),
                "Give the right password in the connection string or in PGPASSWORD",
            ),
            "28000" if e.message.contains("pg_hba.conf") || e.routine == "ClientAuthentication" => {
                fatal(
                    Check::HostBasedAuthentication,
                    e.message.clone(),
                    &format!(
                        "Add a line to pg_hba.conf and reload: host replication {user} <address of the pageserver>/32 scram-sha-256"
                    ),
                )
            }
            "28000" => fatal(
                Check::RolePrivilege,
                e.message.clone(),
                &format!("Create the role: CREATE ROLE {user} LOGIN REPLICATION"),
            ),
            "53300" => fatal(
                Check::WalSenders,
                e.message.clone(),
                if e.message.contains("max_wal_senders") {
                    "Set wal_level = replica, raise max_wal_senders and restart the server"
                } else {
                    "Raise max_connections and restart the server"
                },
            ),
            // Refused by a server whose wal_level or max_wal_senders rules replication out.
            "55000" => fatal(
                Check::WalLevel,
                e.message.clone(),
                "Set wal_level = replica and max_wal_senders > 0 and restart the server",
            ),
            _ => None,
        },
        _ => None,
    }
}

/// A duration as `SHOW` prints it ("1min", "30s", "0"); a bare number other than 0 has no unit
/// and is refused.
fn parse_time(shown: &str) -> Option<Duration> {
    let unit_at = shown
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(shown.len());
    let (number, unit) = shown.split_at(unit_at);
    let n: u64 = number.parse().ok()?;
    let millis: u64 = match unit {
        "" if n == 0 => 0,
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    n.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ServerError;

    #[test]
    fn times_as_shown() {
        assert_eq!(parse_time("1min"), Some(Duration::from_secs(60)));
        assert_eq!(parse_time("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_time("0"), Some(Duration::ZERO));
        assert_eq!(parse_time("-1"), None);
        assert_eq!(parse_time("5"), None);
    }

    #[test]
    fn a_refused_login_is_explained() {
        let server = |sqlstate: &str, message: &str| {
            Error::Server(Box::new(ServerError {
                sqlstate: sqlstate.into(),
                message: message.into(),
                ..ServerError::default()
            }))
        };
        let cases = [
            (
                server("42501", "must be superuser"),
                Check::RolePrivilege,
                "ALTER ROLE \"a\"\"b\" REPLICATION",
            ),
            (server("28P01", "password"), Check::Password, "PGPASSWORD"),
            (
                server("28000", "no pg_hba.conf entry"),
                Check::HostBasedAuthentication,
                "host replication",
            ),
            (
                server("28000", "role does not exist"),
                Check::RolePrivilege,
                "CREATE ROLE",
            ),
            (
                server(
                    "53300",
                    "number of requested standby connections exceeds \"max_wal_senders\"",
                ),
                Check::WalSenders,
                "max_wal_senders",
            ),
            (
                server("53300", "sorry, too many clients already"),
                Check::WalSenders,
                "max_connections",
            ),
            (
                server("55000", "cannot replicate from this server"),
                Check::WalLevel,
                "wal_level",
            ),
        ];
        for (error, check, remedy) in cases {
            let finding = explain(&error, "a\"b").unwrap_or_else(|| panic!("{error} unexplained"));
            assert_eq!(finding.check, check);
            assert!(finding.remedy.contains(remedy), "{finding}");
        }
        assert_eq!(explain(&Error::Closed, "u"), None);
    }
}
