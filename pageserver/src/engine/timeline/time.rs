//! From a time of day to an LSN, by the commit times kept behind clog pages.

use super::Timeline;
use crate::engine::error::{Error, Result};
use types::{Key, Lsn, PAGE_SIZE, SlruKind};

/// Answer to "which LSN was it at this time".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LsnForTimestamp {
    /// The last commit at or before the time is at this LSN.
    Present(Lsn),
    /// The time is later than every commit; the newest LSN.
    Future(Lsn),
    /// The time is before the history that is kept; the oldest LSN.
    Past(Lsn),
    /// No commit is known at all; the oldest LSN.
    NoData(Lsn),
}

impl LsnForTimestamp {
    /// The LSN of any answer.
    pub fn lsn(self) -> Lsn {
        match self {
            Self::Present(l) | Self::Future(l) | Self::Past(l) | Self::NoData(l) => l,
        }
    }

    /// `present`, `future`, `past` or `nodata`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Present(_) => "present",
            Self::Future(_) => "future",
            Self::Past(_) => "past",
            Self::NoData(_) => "nodata",
        }
    }
}

/// What the clog pages at one LSN say about a time.
enum Probe {
    Later,
    EarlierOnly,
    Nothing,
    Collected,
}

impl Timeline {
    /// The newest LSN whose commits are all earlier than `timestamp` (microseconds since
    /// 2000-01-01). Commit times need not ascend with the LSN, so the answer is approximate to
    /// the extent that they do not.
    pub async fn lsn_for_timestamp(&self, timestamp: i64) -> Result<LsnForTimestamp> {
        let oldest = self.gc_cutoff().max(self.ancestor_lsn());
        let newest = self.last_record_lsn();
        let (mut low, mut high) = (oldest.0 / 8, newest.0 / 8 + 1);
        let (mut smaller, mut larger) = (false, false);
        while low < high {
            self.check_active()?;
            let middle = low + (high - low) / 2;
            let at = Lsn(middle * 8).max(oldest).min(newest);
            match self.probe(at, timestamp).await? {
                Probe::Collected => return Ok(LsnForTimestamp::Past(oldest)),
                Probe::Later => {
                    larger = true;
                    high = middle;
                }
                Probe::EarlierOnly => {
                    smaller = true;
                    low = middle + 1;
                }
                Probe::Nothing => low = middle + 1,
            }
        }
        let found = Lsn(low.saturating_sub(1) * 8);
        Ok(match (smaller, larger) {
            (false, false) => LsnForTimestamp::NoData(oldest),
            (false, true) => LsnForTimestamp::Past(oldest),
            (true, _) if found < oldest => LsnForTimestamp::Past(oldest),
            (true, false) => LsnForTimestamp::Future(found.min(newest)),
            (true, true) => LsnForTimestamp::Present(found.min(newest)),
        })
    }

    async fn probe(&self, at: Lsn, timestamp: i64) -> Result<Probe> {
        let mut earlier = false;
        for time in ClogTimes::new(self, at).await? {
            match self.clog_time(time, at).await? {
                Some(Some(t)) if t >= timestamp => return Ok(Probe::Later),
                Some(Some(_)) => earlier = true,
                Some(None) => {}
                None => return Ok(Probe::Collected),
            }
        }
        Ok(if earlier {
            Probe::EarlierOnly
        } else {
            Probe::Nothing
        })
    }

    /// Commit time behind a clog page at `at`; `None` if the page is gone.
    async fn clog_time(&self, key: Key, at: Lsn) -> Result<Option<Option<i64>>> {
        match self.get(key, at).await {
            Ok(page) => {
                let tail = page.get(PAGE_SIZE..).and_then(|t| t.first_chunk::<8>());
                Ok(Some(tail.map(|b| i64::from_be_bytes(*b))))
            }
            Err(Error::MissingKey { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The newest commit time known at `at`, in microseconds since 2000-01-01.
    pub async fn timestamp_of_lsn(&self, at: Lsn) -> Result<Option<i64>> {
        let mut newest = None;
        for key in ClogTimes::new(self, at).await? {
            newest = newest.max(self.clog_time(key, at).await?.flatten());
        }
        Ok(newest)
    }
}

/// Keys of all clog pages at an LSN, newest page first.
struct ClogTimes {
    keys: std::vec::IntoIter<Key>,
}

impl ClogTimes {
    async fn new(timeline: &Timeline, at: Lsn) -> Result<Self> {
        let mut keys = Vec::new();
        for segment in timeline
            .slru_segments(SlruKind::Clog, at)
            .await?
            .into_iter()
            .rev()
        {
            let pages = timeline
                .slru_segment_size(SlruKind::Clog, segment, at)
                .await?;
            keys.extend(
                (0..pages)
                    .rev()
                    .map(|p| Key::slru_block(SlruKind::Clog, segment, p)),
            );
        }
        Ok(ClogTimes {
            keys: keys.into_iter(),
        })
    }
}

impl Iterator for ClogTimes {
    type Item = Key;
    fn next(&mut self) -> Option<Key> {
        self.keys.next()
    }
}
