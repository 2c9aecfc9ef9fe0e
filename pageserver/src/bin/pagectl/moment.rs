//! Moments of history as people write them.
//!
//! An LSN (`0/16B9188`); `now`; a time back (`10m ago`, `1h 30m ago`); or a date with an optional
//! time, fraction and offset, in RFC 3339 (`2026-11-20T12:34:56.789+01:00`) or as Postgres prints it
//! (`2026-11-20 12:34:56.789+01`). Without an offset it is UTC. Fractions finer than a microsecond
//! are cut off. Years 1970 to 9999; no leap seconds.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use types::Lsn;

/// Seconds of a day.
const DAY: i64 = 86_400;
/// Largest offset from UTC, in minutes.
const MAX_OFFSET: i64 = 16 * 60;

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A position.
    Lsn(Lsn),
    /// A time.
    Time(Time),
    /// So long before now.
    Ago(Duration),
}

/// A time in microseconds since 1970, UTC; prints as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Time(pub u64);

impl Time {
    /// So long before `now`; not before 1970.
    pub fn before(now: SystemTime, ago: Duration) -> Time {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let micros = since.saturating_sub(ago).as_micros();
        Time(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let days = i64::try_from(seconds).unwrap_or(i64::MAX) / DAY;
        let (year, month, day) = civil(days);
        let s = seconds % DAY.unsigned_abs();
        write!(f, "{year:04}-{month:02}-{day:02}T")?;
        write!(f, "{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)?;
        if micros != 0 {
            write!(f, ".{micros:06}")?;
        }
        f.write_str("Z")
    }
}

/// A text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// None of the forms.
    #[error(
        "expected an LSN such as 0/16B9188, a time such as '2026-11-20 12:34:56+00' or 2026-11-20T12:34:56Z, or '10m ago'"
    )]
    Form,
    /// A field of a date or time that does not exist.
    #[error("there is no {field} {value} in that date or time")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// What is before `ago`.
    #[error("'… ago' wants a span of time such as 10m, 2h 30m or 3days: {0}")]
    Span(String),
    /// An LSN that is none.
    #[error(transparent)]
    Lsn(#[from] types::lsn::ParseError),
}

impl FromStr for Moment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Moment, ParseError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("now") {
            return Ok(Moment::Ago(Duration::ZERO));
        }
        if let Some(span) = text.strip_suffix("ago") {
            let span = humantime::parse_duration(span.trim());
            return span
                .map(Moment::Ago)
                .map_err(|e| ParseError::Span(e.to_string()));
        }
        if text.contains('/') {
            return Ok(Moment::Lsn(text.parse()?));
        }
        time(text).map(Moment::Time)
    }
}

/// Reads a text from the front.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    fn take(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<(), ParseError> {
        if self.take(c) {
            Ok(())
        } else {
            Err(ParseError::Form)
        }
    }

    /// Exactly `n` digits.
    fn number(&mut self, n: usize) -> Result<i64, ParseError> {
        let (digits, rest) = self.0.split_at_checked(n).ok_or(ParseError::Form)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Form);
        }
        self.0 = rest;
        digits.parse().map_err(|_| ParseError::Form)
    }

    /// Digits behind a decimal point, as microseconds.
    fn fraction(&mut self) -> Result<i64, ParseError> {
        let end = self.0.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        if digits.is_empty() {
            return Err(ParseError::Form);
        }
        self.0 = rest;
        let padded = digits.bytes().chain(std::iter::repeat(b'0')).take(6);
        Ok(padded.fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    }
}

fn within(
    field: &'static str,
    value: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, ParseError> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(ParseError::Field { field, value })
    }
}

fn time(text: &str) -> Result<Time, ParseError> {
    let mut s = Scanner(text);
    let year = within("year", s.number(4)?, 1970..=9999)?;
    s.expect('-')?;
    let month = within("month", s.number(2)?, 1..=12)?;
    s.expect('-')?;
    let day = within("day", s.number(2)?, 1..=days_of(year, month))?;
    let mut seconds = days(year, month, day) * DAY;
    let mut micros = 0;
    if !s.0.is_empty() {
        if !(s.take('T') || s.take('t')) {
            s.expect(' ')?;
        }
        seconds += within("hour", s.number(2)?, 0..=23)? * 3600;
        s.expect(':')?;
        seconds += within("minute", s.number(2)?, 0..=59)? * 60;
        if s.take(':') {
            seconds += within("second", s.number(2)?, 0..=59)?;
            if s.take('.') {
                micros = s.fraction()?;
            }
        }
        seconds -= offset(s.0.trim_start())? * 60;
    }
    let total = seconds * 1_000_000 + micros;
    u64::try_from(total)
        .map(Time)
        .map_err(|_| ParseError::Field {
            field: "year",
            value: 1969,
        })
}

/// Minutes east of UTC: nothing, `Z`, `UTC`, `+01`, `+01:30` or `+0130`.
fn offset(text: &str) -> Result<i64, ParseError> {
    if ["", "z", "utc", "gmt"].contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(0);
    }
    let mut s = Scanner(text);
    let sign = if s.take('-') {
        -1
    } else {
        s.expect('+')?;
        1
    };
    let hours = s.number(2)?;
    s.take(':');
    let minutes = if s.0.is_empty() {
        0
    } else {
        within("offset minute", s.number(2)?, 0..=59)?
    };
    if !s.0.is_empty() {
        return Err(ParseError::Form);
    }
    let total = within(
        "offset of that many minutes:",
        hours * 60 + minutes,
        0..=MAX_OFFSET,
    )?;
    Ok(sign * total)
}

const fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the years from 1 to `year`, that one included.
const fn days_through(year: i64) -> i64 {
    year * 365 + year / 4 - year / 100 + year / 400
}

/// Days from 1970-01-01 to a date from 1970 on.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let of_year: i64 = (1..month).map(|m| days_of(year, m)).sum();
    days_through(year - 1) - days_through(1969) + of_year + day - 1
}

/// The date so many days behind 1970-01-01.
fn civil(since: i64) -> (i64, i64, i64) {
    let mut year = 1970 + since / 366;
    while days(year + 1, 1, 1) <= since {
        year += 1;
    }
    let mut day = since - days(year, 1, 1);
    let mut month = 1;
    while day >= days_of(year, month) {
        day -= days_of(year, month);
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> u64 {
        match text.parse() {
            Ok(Moment::Time(t)) => t.0,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn rfc_3339_and_postgres_forms_mean_the_same() {
        let expected = 1_795_178_096_789_000;
        for text in [
            "2026-11-20T12:34:56.789Z",
            "2026-11-20t12:34:56.789z",
            "2026-11-20 12:34:56.789",
            "2026-11-20 12:34:56.789+00",
            "2026-11-20 12:34:56.789 UTC",
            "2026-11-20 13:34:56.789+01",
            "2026-11-20T13:34:56.789000+01:00",
            "2026-11-20 18:04:56.789000999+0530",
            "2026-11-20 04:34:56.789 -08",
            " 2026-11-20 12:34:56.789000 ",
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }

    #[test]
    fn seconds_time_and_offset_may_be_left_out() {
        assert_eq!(micros("2026-11-20 12:34"), micros("2026-11-20T12:34:00Z"));
        assert_eq!(micros("2026-11-20"), micros("2026-11-20T00:00:00Z"));
    }

    #[test]
    fn fractions_are_microseconds() {
        let second = micros("2026-11-20 12:34:56");
        assert_eq!(micros("2026-11-20 12:34:56.5"), second + 500_000);
        assert_eq!(micros("2026-11-20 12:34:56.000001"), second + 1);
        assert_eq!(micros("2026-11-20 12:34:56.0000019"), second + 1);
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "1969-12-31",
            "2026-01-01 24:00",
            "2026-01-01 00:60",
            "2026-01-01 00:00:60",
            "2026-01-01 00:00+17",
            "1970-01-01 00:00+01",
        ] {
            let e = text.parse::<Moment>().unwrap_err();
            assert!(matches!(e, ParseError::Field { .. }), "{text}: {e:?}");
        }
        assert_eq!(micros("2028-02-29"), micros("2028-03-01") - 86_400_000_000);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "tomorrow",
            "12:34",
            "2026-1-1",
            "2026-11-20 12",
            "2026-11-20 12:34:56.",
            "2026-11-20 12:34:56 CET",
            "2026-11-20 12:34:56+1",
            "2026-11-20 12:34:56Zulu",
            "2026-11-20T",
            "2026-11-2ö",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(ParseError::Form), "{text}");
        }
        assert!(matches!(
            "x ago".parse::<Moment>(),
            Err(ParseError::Span(_))
        ));
        assert!(matches!("0/XYZ".parse::<Moment>(), Err(ParseError::Lsn(_))));
    }

    #[test]
    fn spans_and_positions() {
        let ago = |s| Ok(Moment::Ago(Duration::from_secs(s)));
        assert_eq!("10m ago".parse(), ago(600));
        assert_eq!("1h 30m ago".parse(), ago(5400));
        assert_eq!("2 days ago".parse(), ago(172_800));
        assert_eq!("now".parse(), ago(0));
        assert_eq!("16/B374D848".parse(), Ok(Moment::Lsn(Lsn(0x16_B374_D848))));
    }

    #[test]
    fn times_print_as_they_are_read() {
        for day in (0..2_000_000u64).step_by(37) {
            let t = Time(day * 86_400_000_000 + 45_296_000_007);
            assert_eq!(micros(&t.to_string()), t.0, "{t}");
        }
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(
            Time(1_795_178_096_789_000).to_string(),
            "2026-11-20T12:34:56.789000Z"
        );
    }

    #[test]
    fn ago_counts_back_from_now_and_stops_at_1970() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(
            Time::before(now, Duration::from_secs(400)),
            Time(600_000_000)
        );
        assert_eq!(Time::before(now, Duration::from_secs(4000)), Time(0));
    }
}
