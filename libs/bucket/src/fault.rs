//! Faults on purpose: a decorator that makes a bucket slow, unreliable and forgetful of its
//! replies, from a seed, so that a failing run can be repeated.

use crate::error::{Error, Kind, Operation};
use crate::{Body, Bucket, Download, ETag, Listing, Meta, Object, PutMode};
use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often what goes wrong; probabilities from 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// The operation fails without effect.
    pub error: f64,
    /// A put or delete takes effect, then fails: the reply was lost. Of a deletion, a part of the
    /// keys.
    pub lost_reply: f64,
    /// A read returns one wrong bit.
    pub flipped_bit: f64,
    /// Time added before each operation, drawn evenly from here.
    pub latency: Option<Range<Duration>>,
}

/// A bucket with faults. Without any it behaves like the one inside.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Bucket>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    faults: Faults,
    /// Operations that are to fail once each, whatever the probabilities.
    ordered: Vec<(Operation, Kind)>,
    injected: u64,
}

/// What happens to one operation.
struct Fate {
    delay: Duration,
    fail: Option<Kind>,
    lose_reply: bool,
    /// Position of a bit to flip, to be taken modulo the length.
    flip: Option<u64>,
    /// Share of a batch that a failing deletion still does.
    part: f64,
}

impl Faulty {
    /// Wraps a bucket; no faults yet.
    pub fn new(inner: Arc<dyn Bucket>, seed: u64) -> Faulty {
        let random = StdRng::seed_from_u64(seed);
        let state = State {
            random,
            faults: Faults::default(),
            ordered: Vec::new(),
            injected: 0,
        };
        Faulty {
            inner,
            state: Mutex::new(state),
        }
    }

    /// Changes the faults from now on.
    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Makes the next operation of a kind fail, without effect; repeated calls queue up.
    pub fn fail_next(&self, operation: Operation, kind: Kind) {
        self.state().ordered.push((operation, kind));
    }

    /// Number of faults injected so far; latency not counted.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws an operation's fate. The same numbers are drawn for every operation, so that the
    /// sequence depends on the seed and the order of operations only.
    fn draw(&self, operation: Operation) -> Fate {
        let mut state = self.state();
        let State {
            random,
            faults,
            ordered,
            injected,
        } = &mut *state;
        let [error, reply, bit, slow, part] = std::array::from_fn(|_| random.random::<f64>());
        let timeout: bool = random.random();
        let position: u64 = random.random();

        let delay = faults.latency.as_ref().map_or(Duration::ZERO, |l| {
            l.start + l.end.saturating_sub(l.start).mul_f64(slow)
        });
        let by_order = ordered
            .iter()
            .position(|(o, _)| *o == operation)
            .map(|i| ordered.remove(i).1);
        let by_chance = (error < faults.error).then_some(if timeout {
            Kind::Timeout
        } else {
            Kind::Throttled
        });
        let fail = by_order.or(by_chance);
        let changes = matches!(
            operation,
            Operation::Put | Operation::Copy | Operation::Delete
        );
        let lose_reply = fail.is_none() && changes && reply < faults.lost_reply;
        let reads = matches!(operation, Operation::Get);
        let flip = (fail.is_none() && reads && bit < faults.flipped_bit).then_some(position);
        *injected += u64::from(fail.is_some() || lose_reply || flip.is_some());
        Fate {
            delay,
            fail,
            lose_reply,
            flip,
            part,
        }
    }

    async fn begin(&self, operation: Operation, key: &str) -> Result<Fate, Error> {
        let fate = self.draw(operation);
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        match fate.fail {
            Some(kind) => Err(injected(kind, operation, key, "injected fault")),
            None => Ok(fate),
        }
    }
}

fn injected(kind: Kind, operation: Operation, key: &str, cause: &str) -> Error {
    Error::new(kind, operation, "with faults", key, cause.to_owned())
}

fn flip(bytes: Bytes, position: Option<u64>) -> Bytes {
    let bits = bytes.len() as u64 * 8;
    let Some(bit) = position.and_then(|p| p.checked_rem(bits)) else {
        return bytes;
    };
    let mut bytes = Vec::from(bytes);
    if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|i| bytes.get_mut(i)) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}

#[async_trait]
impl Bucket for Faulty {
    async fn get(&self, key: &str) -> Result<Object, Error> {
        let fate = self.begin(Operation::Get, key).await?;
        let object = self.inner.get(key).await?;
        Ok(Object {
            body: flip(object.body, fate.flip),
            ..object
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let fate = self.begin(Operation::Get, key).await?;
        self.inner
            .get_range(key, range)
            .await
            .map(|b| flip(b, fate.flip))
    }

    async fn download(&self, key: &str, to: &Path) -> Result<Download, Error> {
        self.begin(Operation::Download, key).await?;
        self.inner.download(key, to).await
    }

    async fn head(&self, key: &str) -> Result<Meta, Error> {
        self.begin(Operation::Head, key).await?;
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<ETag, Error> {
        let fate = self.begin(Operation::Put, key).await?;
        let etag = self.inner.put(key, body, mode).await?;
        if fate.lose_reply {
            return Err(injected(
                Kind::Timeout,
                Operation::Put,
                key,
                "injected loss of the reply",
            ));
        }
        Ok(etag)
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let fate = self.begin(Operation::Copy, from).await?;
        self.inner.copy(from, to).await?;
        if fate.lose_reply {
            let cause = "injected loss of the reply";
            return Err(injected(Kind::Timeout, Operation::Copy, from, cause));
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, delimiter: bool) -> Result<Listing, Error> {
        self.begin(Operation::List, prefix).await?;
        self.inner.list(prefix, delimiter).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        let first = keys.first().map_or("", String::as_str);
        let fate = self.begin(Operation::Delete, first).await?;
        if !fate.lose_reply {
            return self.inner.delete(keys).await;
        }
        let wanted = ((keys.len() + 1) as f64 * fate.part) as usize;
        self.inner
            .delete(keys.get(..wanted).unwrap_or(keys))
            .await?;
        Err(injected(
            Kind::Timeout,
            Operation::Delete,
            first,
            "injected loss of the reply",
        ))
    }
}
