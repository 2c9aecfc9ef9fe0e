//! When each timeline is to be looked at next. A timeline that has nothing to do costs one look in
//! [`LONGEST`]; whoever gives it something to do says when.

use super::timeline::Timeline;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use types::{TenantShardId, TimelineId};

/// Longest time between two looks at a timeline.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Keys by the time at which each is due.
#[derive(Debug)]
struct Schedule<K> {
    due: BTreeMap<K, Duration>,
    /// The same, by time.
    order: BTreeSet<(Duration, K)>,
}

impl<K: Ord + Copy> Default for Schedule<K> {
    fn default() -> Self {
        Schedule {
            due: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy> Schedule<K> {
    fn set(&mut self, key: K, due: Duration) {
        self.remove(&key);
        self.due.insert(key, due);
        self.order.insert((due, key));
    }

    /// Has a known key due at `due` at the latest.
    fn hasten(&mut self, key: K, due: Duration) {
        if self.due.get(&key).is_some_and(|known| *known > due) {
            self.set(key, due);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(due) = self.due.remove(key) {
            self.order.remove(&(due, *key));
        }
    }

    /// The key that is due first, if it is at `now`.
    fn first(&self, now: Duration) -> Option<K> {
        let (due, key) = self.order.first()?;
        (*due <= now).then_some(*key)
    }
}

type Id = (TenantShardId, TimelineId);

#[derive(Debug, Default)]
struct Inner {
    timelines: BTreeMap<Id, Weak<Timeline>>,
    schedule: Schedule<Id>,
}

/// The loaded timelines by the monotonic time of their next look.
#[derive(Debug, Default)]
pub struct Timers {
    inner: Mutex<Inner>,
}

impl Timers {
    /// Adds a loaded timeline, first looked at at `due`.
    pub fn add(&self, timeline: &Arc<Timeline>, due: Duration) {
        let id = (timeline.tenant, timeline.id);
        let mut inner = self.inner.lock();
        inner.timelines.insert(id, Arc::downgrade(timeline));
        inner.schedule.set(id, due);
    }

    /// Has a timeline looked at by `due` at the latest.
    pub fn look_by(&self, tenant: TenantShardId, timeline: TimelineId, due: Duration) {
        self.inner.lock().schedule.hasten((tenant, timeline), due);
    }

    /// The timelines whose time has come. Each comes again in [`LONGEST`], unless it is asked for
    /// earlier. Dropped ones are forgotten.
    pub fn due(&self, now: Duration) -> Vec<Arc<Timeline>> {
        let mut inner = self.inner.lock();
        let mut due = Vec::new();
        while let Some(id) = inner.schedule.first(now) {
            match inner.timelines.get(&id).and_then(Weak::upgrade) {
                Some(timeline) => {
                    inner.schedule.set(id, now + LONGEST);
                    due.push(timeline);
                }
                None => {
                    inner.timelines.remove(&id);
                    inner.schedule.remove(&id);
                }
            }
        }
        due
    }

    /// All loaded timelines.
    pub fn live(&self) -> Vec<Arc<Timeline>> {
        let inner = self.inner.lock();
        let timelines = inner.timelines.values();
        timelines.filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, u64),
        Hasten(u8, u64),
        Remove(u8),
        Take(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || 0u8..8;
        prop_oneof![
            (key(), 0u64..100).prop_map(|(k, t)| Step::Set(k, t)),
            (key(), 0u64..100).prop_map(|(k, t)| Step::Hasten(k, t)),
            key().prop_map(Step::Remove),
            (0u64..100).prop_map(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn a_schedule_equals_a_plain_map(steps in proptest::collection::vec(step(), 0..60)) {
            let mut schedule = Schedule::default();
            let mut model: BTreeMap<u8, u64> = BTreeMap::new();
            let at = Duration::from_secs;
            for step in steps {
                match step {
                    Step::Set(k, t) => {
                        schedule.set(k, at(t));
                        model.insert(k, t);
                    }
                    Step::Hasten(k, t) => {
                        schedule.hasten(k, at(t));
                        model.entry(k).and_modify(|known| *known = t.min(*known));
                    }
                    Step::Remove(k) => {
                        schedule.remove(&k);
                        model.remove(&k);
                    }
                    Step::Take(now) => {
                        let earliest = model.iter().map(|(k, t)| (*t, *k)).min();
                        let expected = earliest.filter(|(t, _)| *t <= now).map(|(_, k)| k);
                        prop_assert_eq!(schedule.first(at(now)), expected);
                        if let Some(k) = expected {
                            schedule.remove(&k);
                            model.remove(&k);
                        }
                    }
                }
                prop_assert_eq!(schedule.due.len(), model.len());
                prop_assert_eq!(schedule.order.len(), model.len());
            }
        }
    }
}
