//! Synthetic size: what a tenant is billed for, one number for data, history and branches.
//!
//! The history that must stay readable is a forest of [`Segment`]s, which [`segments()`] makes from
//! what is known of the timelines. [`calculate`] finds the cheapest way to keep it: as a whole copy
//! of the data at some LSNs, as WAL between them. Both are pure functions; whoever compares bills
//! with other servers gets the same numbers.

mod model;
mod segments;
#[cfg(test)]
mod tests;

pub use model::{Method, Segment, SegmentSize, Sizes, calculate};
pub use segments::{Kind, SegmentMeta, TimelineInput, segments};
