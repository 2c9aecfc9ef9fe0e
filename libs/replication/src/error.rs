//! What can go wrong between here and a Postgres server, and which reaction it calls for.

use std::fmt;
use std::io;
use std::time::Duration;
use types::Lsn;

/// A failed operation on a replication connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TCP or Unix-socket connection could be made.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Host and port, or socket path.
        target: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An answer did not arrive in time.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit that passed.
        limit: Duration,
    },
    /// TLS could not be set up as `sslmode` and `sslrootcert` demand.
    #[error("TLS with {target}: {reason}")]
    Tls {
        /// Host and port.
        target: String,
        /// What failed, with what to do about it where known.
        reason: String,
    },
    /// The server wants a kind of authentication, or a password, that is not there.
    #[error("authentication: {0}")]
    Authentication(String),
    /// The server answered with an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The server is shutting down and ended the stream after everything was sent.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection without a reason.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent something its protocol does not allow at this point.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// A message is longer than this client accepts.
    #[error("a message of {size} bytes exceeds the limit of {limit}")]
    MessageTooLarge {
        /// Length announced by the server, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A query answered with more than [`crate::connection::MAX_ROWS`] rows or
    /// [`crate::connection::MAX_RESULT_BYTES`] bytes.
    #[error("the answer to {query:?} exceeds the limit of {limit} {unit}")]
    ResultTooLarge {
        /// The query, cut to 64 characters.
        query: String,
        /// The limit.
        limit: usize,
        /// "rows" or "bytes".
        unit: &'static str,
    },
    /// An earlier command on this connection was abandoned half-way; open a new connection.
    #[error("the connection is still busy with an abandoned command")]
    Busy,
    /// A text cannot be the name of a replication slot.
    #[error("invalid replication slot name {0:?}: expected 1 to 63 of a-z, 0-9 and '_'")]
    SlotName(String),
    /// A text cannot be the name of a setting.
    #[error("invalid setting name {0:?}")]
    SettingName(String),
    /// The command is SQL, which a connection in physical mode does not run.
    #[error("{0} needs a connection in database mode")]
    NeedsDatabaseMode(&'static str),
    /// The server's version is not supported.
    #[error(transparent)]
    Version(#[from] types::pg::Unsupported),
    /// Streamed WAL does not continue where the previous message ended.
    #[error("gap in the WAL stream: expected {expected}, received {received}")]
    Gap {
        /// End of the previous message.
        expected: Lsn,
        /// Start of this one.
        received: Lsn,
    },
}

/// An ErrorResponse of the server, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: String,
    /// Five characters, see Postgres's appendix "Error Codes".
    pub sqlstate: String,
    /// The primary message, possibly translated by the server's `lc_messages`.
    pub message: String,
    /// More about the problem, if any.
    pub detail: Option<String>,
    /// What to do about it, if the server knows.
    pub hint: Option<String>,
    /// The server's C function that raised it; empty if not told. Never translated.
    pub routine: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "server: {} {}: {}",
            self.severity, self.sqlstate, self.message
        )?;
        if let Some(d) = &self.detail {
            write!(f, " ({d})")?;
        }
        if let Some(h) = &self.hint {
            write!(f, " (hint: {h})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

/// Errors sorted by the reaction they call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Refused, reset, timed out, server starting or stopping: back off and try the next host.
    Transient,
    /// Role, password, `pg_hba.conf`, missing slot or database: a person has to act; retry slowly.
    Configuration,
    /// Another walsender still holds the slot, usually our own dead predecessor: retry for up to
    /// the server's `wal_sender_timeout`.
    SlotInUse,
    /// The WAL asked for is gone, or the slot was invalidated: stop for good, offer a new import.
    HistoryLost,
    /// The start is not in the server's history, or is ahead of what it has flushed: the server
    /// diverged or was restored from an older backup. Compare timelines before going on.
    Diverged,
    /// The server's version cannot be a source.
    Unsupported,
    /// The peer does not behave as Postgres does, or sent a gap: reconnect once, then stop.
    Protocol,
    /// Anything else the server refused.
    Refused,
}

impl Error {
    /// The server's error, if this is one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(e) => Some(e),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|e| e.sqlstate.as_str())
    }

    /// Which reaction the error calls for.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Connect { .. }
            | Error::Timeout { .. }
            | Error::ShuttingDown
            | Error::Io(_)
            | Error::Closed => Kind::Transient,
            Error::Tls { .. }
            | Error::Authentication(_)
            | Error::SlotName(_)
            | Error::SettingName(_)
            | Error::NeedsDatabaseMode(_) => Kind::Configuration,
            Error::Version(_) => Kind::Unsupported,
            Error::Protocol(_)
            | Error::MessageTooLarge { .. }
            | Error::ResultTooLarge { .. }
            | Error::Busy
            | Error::Gap { .. } => Kind::Protocol,
            Error::Server(e) => e.kind(),
        }
    }

    /// Back off and try again, perhaps on another host.
    pub fn is_transient(&self) -> bool {
        self.kind() == Kind::Transient
    }

    /// The role lacks a privilege, the password is wrong, or `pg_hba.conf` does not let us in.
    pub fn is_authentication(&self) -> bool {
        matches!(self, Error::Authentication(_))
            || self
                .sqlstate()
                .is_some_and(|s| s.starts_with("28") || s == "42501")
    }

    /// The replication slot does not exist.
    pub fn is_slot_missing(&self) -> bool {
        self.sqlstate() == Some("42704")
    }

    /// Another process holds the slot.
    pub fn is_slot_in_use(&self) -> bool {
        self.kind() == Kind::SlotInUse
    }

    /// A slot of that name exists already.
    pub fn is_slot_duplicate(&self) -> bool {
        self.sqlstate() == Some("42710")
    }

    /// The WAL asked for was removed, or the slot was invalidated.
    pub fn is_history_lost(&self) -> bool {
        self.kind() == Kind::HistoryLost
    }

    /// The requested start lies outside the server's history or ahead of its flush position.
    pub fn is_diverged(&self) -> bool {
        self.kind() == Kind::Diverged
    }

    /// The server has no free walsender, connection or slot.
    pub fn is_exhausted(&self) -> bool {
        self.sqlstate()
            .is_some_and(|s| s == "53300" || s == "53400")
    }
}

impl ServerError {
    /// Sorts by SQLSTATE; where one code covers several situations, by the raising routine, which
    /// unlike the message is not translated.
    fn kind(&self) -> Kind {
        let says = |t: &str| self.message.contains(t);
        match self.sqlstate.as_str() {
            "58P01" if self.routine == "WalSndSegmentOpen" || says("has already been removed") => {
                Kind::HistoryLost
            }
            // Raised while acquiring a slot whose WAL was let go: by StartReplication up to 17,
            // by the slot module from 18 on.
            "55000"
                if says("replication slot")
                    || matches!(
                        self.routine.as_str(),
                        "StartReplication" | "ReplicationSlotAcquire"
                    ) =>
            {
                Kind::HistoryLost
            }
            "XX000" if matches!(self.routine.as_str(), "StartReplication" | "tliSwitchPoint") => {
                Kind::Diverged
            }
            "55006" => Kind::SlotInUse,
            "42704" | "42501" | "3D000" => Kind::Configuration,
            s if s.starts_with("28") => Kind::Configuration,
            // Connection exceptions, resources, administrator shutdown, crash shutdown, cannot
            // connect now.
            s if s.starts_with("08") || s.starts_with("53") || s.starts_with("57P") => {
                Kind::Transient
            }
            _ => Kind::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str, routine: &str, message: &str) -> Error {
        Error::Server(Box::new(ServerError {
            severity: "ERROR".into(),
            sqlstate: sqlstate.into(),
            message: message.into(),
            routine: routine.into(),
            ..ServerError::default()
        }))
    }

    #[test]
    fn each_symptom_has_its_reaction() {
        let cases = [
            (
                server("58P01", "WalSndSegmentOpen", "translated"),
                Kind::HistoryLost,
            ),
            (
                server(
                    "58P01",
                    "",
                    "requested WAL segment 1 has already been removed",
                ),
                Kind::HistoryLost,
            ),
            (
                server("58P01", "SendTimeLineHistory", "could not open file"),
                Kind::Refused,
            ),
            (
                server(
                    "55006",
                    "ReplicationSlotAcquire",
                    "slot is active for PID 1",
                ),
                Kind::SlotInUse,
            ),
            (
                server("42704", "ReplicationSlotAcquire", "does not exist"),
                Kind::Configuration,
            ),
            (
                server("28P01", "auth_failed", "password"),
                Kind::Configuration,
            ),
            (server("57P03", "", "starting up"), Kind::Transient),
            (server("53300", "", "too many"), Kind::Transient),
            (
                server(
                    "XX000",
                    "StartReplication",
                    "ahead of the WAL flush position",
                ),
                Kind::Diverged,
            ),
            (Error::Closed, Kind::Transient),
            (
                Error::Gap {
                    expected: Lsn(1),
                    received: Lsn(2),
                },
                Kind::Protocol,
            ),
        ];
        for (e, kind) in cases {
            assert_eq!(e.kind(), kind, "{e}");
        }
    }
}
