//! A seeded simulation of the storage engine (`docs/simulation.md`).
//!
//! The whole engine runs on one thread, with virtual time, a disk and a bucket in memory, and
//! randomness from one seed. Users read, write, branch and delete at random; disks and networks
//! fail; nodes crash, lose their disks, and are taken over while they still run. An oracle knows
//! what every read must answer. The same seed gives the same run, event by event.
//!
//! Not simulated: real parallelism (data races), the front ends, the WAL receiver, redo of
//! Postgres records.

#![forbid(unsafe_code)]

pub mod bucket;
pub mod check;
pub mod clock;
pub mod crash_points;
pub mod disk;
pub mod fault_points;
pub mod faults;
pub mod history;
pub mod node;
pub mod oracle;
mod panics;
pub mod plan;
pub mod power;
pub mod random;
pub mod run;
pub mod site;
pub mod trace;
pub mod user;
pub mod world;

pub use run::{Figures, Options, Outcome, Wrong, import, run};
