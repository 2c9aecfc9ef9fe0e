//! Postgres versions and WAL dialects.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A supported major version of Postgres.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
#[repr(u8)]
pub enum PgMajor {
    /// Postgres 14.
    V14 = 14,
    /// Postgres 15.
    V15 = 15,
    /// Postgres 16.
    V16 = 16,
    /// Postgres 17.
    V17 = 17,
    /// Postgres 18.
    V18 = 18,
}

impl PgMajor {
    /// All supported versions, oldest first.
    pub const ALL: [PgMajor; 5] = [
        PgMajor::V14,
        PgMajor::V15,
        PgMajor::V16,
        PgMajor::V17,
        PgMajor::V18,
    ];

    /// `xlp_magic` of WAL page headers.
    pub const fn wal_magic(self) -> u16 {
        match self {
            PgMajor::V14 => 0xD10D,
            PgMajor::V15 => 0xD110,
            PgMajor::V16 => 0xD113,
            PgMajor::V17 => 0xD116,
            PgMajor::V18 => 0xD118,
        }
    }

    /// The plain number, 14 to 18.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl From<PgMajor> for u32 {
    fn from(v: PgMajor) -> u32 {
        v.number()
    }
}

/// A version outside 14 to 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unsupported Postgres major version {0}: 14, 15, 16, 17 and 18 are supported")]
pub struct Unsupported(pub u32);

impl TryFrom<u32> for PgMajor {
    type Error = Unsupported;
    fn try_from(n: u32) -> Result<Self, Unsupported> {
        PgMajor::ALL
            .into_iter()
            .find(|v| v.number() == n)
            .ok_or(Unsupported(n))
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Who wrote a timeline's WAL: a property of the timeline, never guessed from a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// An unmodified Postgres.
    #[default]
    Vanilla,
    /// A Neon compute (14 to 17) with extended heap records.
    Neon,
}
