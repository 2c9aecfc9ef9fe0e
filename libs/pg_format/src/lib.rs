//! Formats of a Postgres data directory, majors 14 to 18: `pg_control`, pages, SLRUs, relation
//! maps, replication origins, prepared transactions, tar archives, and the first WAL segment a
//! server is started from.
//!
//! Pure: bytes in, bytes out. No clock, no I/O, no async runtime. Malformed input is a typed
//! error, never a panic. Byte contracts are in `docs/format/pgdata.md`.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod control;
pub mod xid;

mod le;

pub use checkpoint::CheckPoint;
pub use control::ControlFile;
pub use xid::{FullXid, Xid};
