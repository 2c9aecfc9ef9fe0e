//! What the engine may touch of the outside world, handed in: disk, bucket, clock, randomness.

use super::disk::Disk;
use bucket::Bucket;
use std::sync::Arc;
use std::time::Duration;

/// Time, monotonic and of the day.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;
    /// Time of day since 1970-01-01 UTC.
    fn wall(&self) -> Duration;
}

/// A source of random numbers.
pub trait Entropy: Send + Sync + std::fmt::Debug {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// The world of one engine.
#[derive(Clone, Debug)]
pub struct Env {
    /// Local disk.
    pub disk: Arc<dyn Disk>,
    /// Object store: the only source of truth.
    pub bucket: Arc<dyn Bucket>,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Env {
    /// Runs work that blocks on the disk for long. On a multi-threaded runtime other tasks go on
    /// meanwhile; on a single-threaded one (simulation) it simply runs.
    pub fn blocking<T>(&self, work: impl FnOnce() -> T) -> T {
        match tokio::runtime::Handle::try_current().map(|h| h.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
            _ => work(),
        }
    }

    /// Microseconds since 2000-01-01 UTC, the epoch of Postgres timestamps.
    pub fn postgres_now(&self) -> i64 {
        const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;
        let us = i64::try_from(self.clock.wall().as_micros()).unwrap_or(i64::MAX);
        us.saturating_sub(POSTGRES_EPOCH_SECONDS * 1_000_000)
    }

    /// Sixteen random bytes.
    pub fn random_id(&self) -> [u8; 16] {
        let (a, b) = (self.entropy.next_u64(), self.entropy.next_u64());
        ((u128::from(a) << 64) | u128::from(b)).to_be_bytes()
    }
}

/// The machine's own clock.
#[derive(Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the ambient clock enters"
    )]
    fn monotonic(&self) -> Duration {
        static START: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the ambient clock enters"
    )]
    fn wall(&self) -> Duration {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// The machine's own randomness.
#[derive(Debug, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where ambient randomness enters"
    )]
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}
