//! Behaviour of ingest, one topic per file.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod batches;
mod blocks;
mod checkpoints;
mod databases;
mod feed;
mod hostile;
mod model;
mod real_wal;
mod slrus;
mod transactions;
mod truncation;
mod visibility;
