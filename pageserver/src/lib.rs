//! The pageserver: takes in write-ahead log, keeps every page readable at every LSN, branches,
//! and keeps everything in a bucket. `docs/architecture.md` has the map.

pub mod backup;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod http;
pub mod import;
pub mod page_service;
pub mod redo_process;
pub mod walreceiver;
