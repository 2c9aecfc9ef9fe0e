//! A client for physical replication from an ordinary Postgres 14 to 18.
//!
//! What it promises: connect (with or without TLS), authenticate (trust, cleartext, MD5,
//! SCRAM-SHA-256), tell whether a server can be a source ([`preflight`]), manage physical
//! slots ([`commands`]), stream a base backup ([`base_backup`]) and stream WAL ([`stream`]).
//!
//! Limits: every message, row set and wait is bounded by a named constant or option. Nothing is
//! read from the socket unless the caller asks for the next event, so a slow caller slows the
//! server down instead of growing memory. Every `next` can be dropped and called again.
//!
//! What it does not do: decode WAL, unpack archives, retry, or decide what to do about an error.
//! [`Error::kind`] sorts errors by the reaction they call for.

#![forbid(unsafe_code)]

pub mod base_backup;
pub mod commands;
pub mod connection;
pub mod conninfo;
pub mod error;
pub mod preflight;
pub mod stream;
mod tls;
mod wire;

pub use base_backup::BaseBackup;
pub use connection::{Connection, Mode};
pub use conninfo::Conninfo;
pub use error::{Error, Kind, ServerError};
pub use stream::WalStream;
