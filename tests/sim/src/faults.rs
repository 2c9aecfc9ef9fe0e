//! How often what goes wrong.

use crate::random::Random;
use std::time::Duration;

/// Probabilities from 0 to 1, per operation, and delays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// A write to disk fails for lack of space, perhaps after a part of it.
    pub no_space: f64,
    /// A disk operation fails.
    pub disk_error: f64,
    /// A bucket operation fails without effect.
    pub bucket_error: f64,
    /// A put or delete takes effect, then its reply is lost.
    pub lost_reply: f64,
    /// Longest ordinary delay of a bucket operation.
    pub delay: Duration,
    /// A bucket operation takes up to 100 times as long.
    pub slow: f64,
}

impl Faults {
    /// Nothing fails, and each request to the bucket takes up to `delay`.
    pub fn slow(delay: Duration) -> Faults {
        Faults {
            delay,
            ..Faults::none()
        }
    }

    /// A peaceful world with quick replies.
    pub fn none() -> Faults {
        Faults::default()
    }

    /// Whatever a phase of a run brings.
    pub fn draw(random: &mut Random) -> Faults {
        let scale = match random.below(4) {
            0 => 0.0,
            1 => 0.01,
            2 => 0.05,
            _ => 0.2,
        };
        let mut some = || {
            if random.chance(0.5) {
                scale * (random.below(100) as f64) / 100.0
            } else {
                0.0
            }
        };
        let (no_space, disk_error) = (some() / 4.0, some() / 8.0);
        let (bucket_error, lost_reply) = (some(), some());
        Faults {
            no_space,
            disk_error,
            bucket_error,
            lost_reply,
            delay: Duration::from_millis(random.between(0, 100)),
            slow: if random.chance(0.3) { 0.02 } else { 0.0 },
        }
    }
}
