//! What can go wrong, for programs ([`Kind`]) and for people (bucket, key, operation, cause).

use std::fmt;

/// Coarse class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is no such object.
    NotFound,
    /// The condition of a put does not hold; nothing was stored.
    Precondition,
    /// The store asks to come back later; nothing was done.
    Throttled,
    /// No answer in time; the operation may have taken effect.
    Timeout,
    /// Not allowed: credentials or permissions.
    Denied,
    /// The object is not what it should be: damaged, or shorter than expected.
    Corrupt,
    /// Anything else; a put or delete may have taken effect.
    Other,
}

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read an object, or a range of it.
    Get,
    /// Read an object to a file.
    Download,
    /// Ask for size and version.
    Head,
    /// Store an object.
    Put,
    /// Store an object again under another key.
    Copy,
    /// List objects.
    List,
    /// Delete objects.
    Delete,
}

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 7] = [
        Operation::Get,
        Operation::Download,
        Operation::Head,
        Operation::Put,
        Operation::Copy,
        Operation::List,
        Operation::Delete,
    ];

    /// Name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Download => "download",
            Operation::Head => "head",
            Operation::Put => "put",
            Operation::Copy => "copy",
            Operation::List => "list",
            Operation::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {key:?} in bucket {bucket}: {cause}")]
pub struct Error {
    kind: Kind,
    operation: Operation,
    bucket: String,
    key: String,
    cause: Cause,
}

impl Error {
    /// An error of an operation on `key` (or on what begins with it) in `bucket`.
    pub fn new(
        kind: Kind,
        operation: Operation,
        bucket: impl fmt::Display,
        key: impl Into<String>,
        cause: impl Into<Cause>,
    ) -> Error {
        Error {
            kind,
            operation,
            bucket: bucket.to_string(),
            key: key.into(),
            cause: cause.into(),
        }
    }

    /// Its class.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What was attempted.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The key, or prefix, or first of several keys.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// True if there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// True if the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Throttled | Kind::Timeout | Kind::Other)
    }
}
