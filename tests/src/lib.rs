//! End-to-end test harness: real Postgres servers of every supported major version, and what the
//! tests under `tests/tests/` share. One behaviour per file there.

pub mod accept;
pub mod compare;
pub mod daemon;
pub mod oracle;
pub mod port;
pub mod postgres;
pub mod recovery;
pub mod workload;
