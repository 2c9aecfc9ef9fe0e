//! Errors of the engine, with what an operator needs to find the cause.

use std::sync::Arc;
use std::time::Duration;
use types::{Key, Lsn, TenantShardId, TimelineId};

/// What kind of failure an error is; front ends map it to HTTP status and SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// The request makes no sense.
    BadRequest,
    /// The thing exists already, or is being changed by somebody else.
    Conflict,
    /// Something must be done first.
    Precondition,
    /// Can never be done as asked.
    NotAcceptable,
    /// The same is being done right now.
    Busy,
    /// Did not happen in time.
    Timeout,
    /// Not now; the same request may succeed later.
    Unavailable,
    /// Shutting down.
    Shutdown,
    /// Data failed verification.
    Corrupt,
    /// No space left.
    Full,
    /// Anything else.
    Internal,
}

/// A failed engine operation.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs, reason = "field names and messages say it")]
pub enum Error {
    #[error("tenant {0} not found")]
    TenantNotFound(TenantShardId),
    #[error("Timeline {tenant}/{timeline} was not found")]
    TimelineNotFound {
        tenant: TenantShardId,
        timeline: TimelineId,
    },
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Unavailable(String),
    #[error(
        "Timed out while waiting for WAL record at LSN {wanted} to arrive, last_record_lsn {last} disk consistent LSN={disk}, WalReceiver status: {receiver}"
    )]
    LsnTimeout {
        wanted: Lsn,
        last: Lsn,
        disk: Lsn,
        receiver: String,
    },
    #[error(
        "tried to request a page version that was garbage collected. requested at {requested} gc cutoff {cutoff}"
    )]
    BelowCutoff { requested: Lsn, cutoff: Lsn },
    #[error("timeline {tenant}/{timeline}: key {key} not found at LSN {lsn}{detail}")]
    MissingKey {
        tenant: TenantShardId,
        timeline: TimelineId,
        key: Key,
        lsn: Lsn,
        detail: String,
    },
    #[error("timeline {tenant}/{timeline}: redo of key {key} at LSN {lsn} failed: {source}")]
    Redo {
        tenant: TenantShardId,
        timeline: TimelineId,
        key: Key,
        lsn: Lsn,
        source: Arc<super::redo_program::Error>,
    },
    #[error("{file}: {source}")]
    Layer {
        file: String,
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("value of key {key} at LSN {lsn} is malformed: {source}")]
    Value {
        key: Key,
        lsn: Lsn,
        source: types::be::Error,
    },
    #[error("local disk: {0}")]
    Disk(Arc<std::io::Error>),
    #[error("bucket: {0}")]
    Bucket(Arc<bucket::Error>),
    #[error("shutting down")]
    Shutdown,
    #[error("{what} did not finish within {limit:?}")]
    Timeout { what: String, limit: Duration },
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The coarse kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::TenantNotFound(_) | Error::TimelineNotFound { .. } => ErrorKind::NotFound,
            Error::BadRequest(_) | Error::BelowCutoff { .. } => ErrorKind::BadRequest,
            Error::Conflict(_) => ErrorKind::Conflict,
            Error::Precondition(_) => ErrorKind::Precondition,
            Error::NotAcceptable(_) => ErrorKind::NotAcceptable,
            Error::Busy(_) => ErrorKind::Busy,
            Error::Unavailable(_) => ErrorKind::Unavailable,
            Error::LsnTimeout { .. } | Error::Timeout { .. } => ErrorKind::Timeout,
            Error::Shutdown => ErrorKind::Shutdown,
            Error::MissingKey { .. }
            | Error::Redo { .. }
            | Error::Layer { .. }
            | Error::Value { .. } => ErrorKind::Corrupt,
            Error::Disk(e) if e.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Full,
            Error::Disk(_) | Error::Bucket(_) | Error::Internal(_) => ErrorKind::Internal,
        }
    }

    /// A layer failed to open, read or verify.
    pub fn layer(
        file: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Error::Layer {
            file: file.into(),
            source: Arc::new(source),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Disk(Arc::new(e))
    }
}

impl From<bucket::Error> for Error {
    fn from(e: bucket::Error) -> Self {
        Error::Bucket(Arc::new(e))
    }
}

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
