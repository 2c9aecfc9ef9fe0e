//! Formats of a Postgres data directory, majors 14 to 18: `pg_control`, pages, SLRUs, relation
//! maps, replication origins, prepared transactions, tar archives, and the first WAL segment a
//! server is started from.
//!
//! Pure: bytes in, bytes out. No clock, no I/O, no async runtime. Malformed input is a typed
//! error, never a panic. Byte contracts are in `docs/format/pgdata.md`.

#![forbid(unsafe_code)]

pub mod backup_label;
pub mod checkpoint;
pub mod control;
pub mod page;
pub mod pgdata;
pub mod relfile;
pub mod relmap;
pub mod replorigin;
pub mod slru;
pub mod start;
pub mod tar;
pub mod twophase;
pub mod wal_segment;
pub mod xid;

mod le;

pub use checkpoint::CheckPoint;
pub use control::ControlFile;
pub use relfile::RelFile;
pub use start::{neon_start, vanilla_start};
pub use xid::{FullXid, Xid};
