//! Timestamps of the documents in the bucket: ISO-8601 without zone, meaning UTC, with up to nine
//! fractional digits (`2024-05-01T12:34:56.123456789`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// An instant, to the nanosecond, in years 0 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

/// A text is not a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp {0:?}: expected a form like 2024-05-01T12:34:56.123")]
pub struct ParseError(String);

impl Timestamp {
    /// Seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// From seconds and nanoseconds since the Unix epoch; `None` outside years 0 to 9999.
    pub fn from_unix(seconds: i64, nanos: u32) -> Option<Timestamp> {
        let (year, _, _) = date(seconds.div_euclid(DAY));
        ((0..10_000).contains(&year) && nanos < 1_000_000_000)
            .then_some(Timestamp { seconds, nanos })
    }
}

/// Days since the epoch of a date of the proleptic Gregorian calendar. Years begin in March here
/// so that the leap day is the last; a cycle of 400 years has 146097 days.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (cycle, yoc) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * m + 2) / 5 + day - 1;
    cycle * 146_097 + yoc * 365 + yoc / 4 - yoc / 100 + doy - 719_468
}

/// Date of a day since the epoch: the inverse of [`days`].
const fn date(day: i64) -> (i64, i64, i64) {
    let d = day + 719_468;
    let (cycle, doc) = (d.div_euclid(146_097), d.rem_euclid(146_097));
    let yoc = (doc - doc / 1_460 + doc / 36_524 - doc / 146_096) / 365;
    let doy = doc - (365 * yoc + yoc / 4 - yoc / 100);
    let m = (5 * doy + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (
        cycle * 400 + yoc + (month <= 2) as i64,
        month,
        doy - (153 * m + 2) / 5 + 1,
    )
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (y, mo, d) = date(self.seconds.div_euclid(DAY));
        let s = self.seconds.rem_euclid(DAY);
        write!(
            f,
            "{y:04}-{mo:02}-{d:02}T{:02}:{:02}:{:02}",
            s / 3600,
            s / 60 % 60,
            s % 60
        )?;
        match self.nanos {
            0 => Ok(()),
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, ".{:06}", n / 1_000),
            n => write!(f, ".{n:09}"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number in a fixed count of digits.
fn digits(t: &str, count: usize) -> Option<i64> {
    (t.len() == count && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse().ok())?
}

fn parse(s: &str) -> Option<Timestamp> {
    let (d, t) = s.split_once('T')?;
    let mut parts = d.splitn(3, '-');
    let year = digits(parts.next()?, 4)?;
    let (month, day) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (t, fraction) = match t.split_once('.') {
        None => (t, ""),
        Some((_, "")) => return None,
        Some(pair) => pair,
    };
    let mut parts = t.splitn(3, ':');
    let (h, m, s) = (
        digits(parts.next()?, 2)?,
        digits(parts.next()?, 2)?,
        digits(parts.next()?, 2)?,
    );
    if h > 23 || m > 59 || s > 59 || fraction.len() > 9 {
        return None;
    }
    let number = days(year, month, day);
    if date(number) != (year, month, day) {
        return None;
    }
    let nanos = digits(&format!("{fraction:0<9}"), 9)?;
    Timestamp::from_unix(
        number * DAY + h * 3600 + m * 60 + s,
        u32::try_from(nanos).ok()?,
    )
}

impl FromStr for Timestamp {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        parse(s).ok_or_else(|| ParseError(s.chars().take(64).collect()))
    }
}

impl TryFrom<SystemTime> for Timestamp {
    type Error = ParseError;

    fn try_from(t: SystemTime) -> Result<Self, ParseError> {
        let made = match t.duration_since(UNIX_EPOCH) {
            Ok(d) => i64::try_from(d.as_secs())
                .ok()
                .and_then(|s| Timestamp::from_unix(s, d.subsec_nanos())),
            Err(e) => {
                let d = e.duration();
                let up = i64::from(d.subsec_nanos() > 0);
                let nanos = (1_000_000_000 - d.subsec_nanos()) % 1_000_000_000;
                i64::try_from(d.as_secs())
                    .ok()
                    .and_then(|s| Timestamp::from_unix(-s - up, nanos))
            }
        };
        made.ok_or_else(|| ParseError("a time beyond year 9999".to_owned()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> SystemTime {
        let whole = Duration::from_secs(t.seconds.unsigned_abs());
        let base = if t.seconds < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        base.and_then(|b| b.checked_add(Duration::from_nanos(u64::from(t.nanos))))
            .unwrap_or(UNIX_EPOCH)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00", 0),
            ("2000-02-29T23:59:59", 951_868_799),
            ("2024-05-01T12:34:56.123", 1_714_566_896),
            ("1969-12-31T23:59:59.5", -1),
            ("2024-07-19T09:00:00.123456789", 1_721_379_600),
        ] {
            let t: Timestamp = text.parse().unwrap();
            assert_eq!(t.unix_seconds(), seconds, "{text}");
            assert!(t.to_string().starts_with(text), "{t}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "2024-05-01",
            "2024-05-01T12:34",
            "2024-05-01T12:34:60",
            "2023-02-29T00:00:00",
            "2024-13-01T00:00:00",
            "2024-05-01T12:34:56.",
            "2024-05-01T12:34:56.1234567890",
            "2024-05-01T12:34:56Z",
            "2024-05-00T00:00:00",
            "-024-05-01T00:00:00",
            "2024-05-01T12:34:56.-1",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_system_time_round_trip(s in -62_167_219_200i64..253_402_300_800, n in 0u32..1_000_000_000) {
            let t = Timestamp::from_unix(s, n).unwrap();
            prop_assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
            prop_assert_eq!(Timestamp::try_from(SystemTime::from(t)).unwrap(), t);
        }

        #[test]
        fn arbitrary_text_never_panics(s in "\\PC{0,40}", t in "[0-9T:.-]{0,32}") {
            let _ = s.parse::<Timestamp>();
            let _ = t.parse::<Timestamp>();
        }
    }
}
