//! The text commands of the page service (`docs/format/page-service.md`, "Commands").
//!
//! A line is trimmed, then cut at its first space into a verb (ASCII case-insensitive) and
//! arguments separated by any white space. There is no quoting.

use crate::message::Version;
use std::fmt;
use std::str::FromStr;
use types::{Lsn, TenantId, TenantShardId, TimelineId};

/// Most characters of the client's text repeated in an error.
const ECHO_LIMIT: usize = 200;

/// A text that is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There is no verb followed by a space, or the text is not UTF-8.
    #[error("cannot parse query: {0}")]
    Shape(String),
    /// The verb is not known.
    #[error("unsupported command {0}")]
    Unsupported(String),
    /// Too few or too many arguments.
    #[error("invalid number of parameters for {0} command: {1}")]
    Count(&'static str, usize),
    /// Not a tenant id, or tenant shard id.
    #[error("Failed to parse tenant id from {0}")]
    Tenant(String),
    /// Not a timeline id.
    #[error("Failed to parse timeline id from {0}")]
    Timeline(String),
    /// Not an LSN.
    #[error("Failed to parse Lsn from {0}")]
    Lsn(String),
    /// A flag is given twice.
    #[error("duplicate parameter for basebackup command: {0}")]
    DuplicateFlag(String),
    /// A flag is not known.
    #[error("invalid parameter for basebackup command: {0}")]
    Flag(String),
}

/// Opens a stream of page requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageStream {
    /// Version of the messages in the stream.
    pub version: Version,
    /// The tenant; requests are routed to its shards one by one.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
}

/// Asks for what a compute needs to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseBackup {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// As of this position; the latest one if `None`.
    pub lsn: Option<Lsn>,
    /// Compress the tar with gzip.
    pub gzip: bool,
    /// The compute will be a replica.
    pub replica: bool,
}

/// Asks for a whole data directory, relations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullBackup {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// As of this position; the latest one if `None`.
    pub lsn: Option<Lsn>,
    /// Start of the record before `lsn`, if the client knows it.
    pub prev_lsn: Option<Lsn>,
}

/// Asks that pages stay readable at a position for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLsn {
    /// Exactly this shard.
    pub tenant: TenantShardId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `pagestream_v2` or `pagestream_v3`.
    PageStream(PageStream),
    /// `basebackup`.
    BaseBackup(BaseBackup),
    /// `fullbackup`.
    FullBackup(FullBackup),
    /// `lease lsn`.
    LeaseLsn(LeaseLsn),
    /// `set`: accepted so that generic drivers can connect, without effect.
    Set,
}

impl Command {
    /// The tenant the command is about; `None` for `set`.
    pub const fn tenant(&self) -> Option<TenantId> {
        match self {
            Command::PageStream(c) => Some(c.tenant),
            Command::BaseBackup(c) => Some(c.tenant),
            Command::FullBackup(c) => Some(c.tenant),
            Command::LeaseLsn(c) => Some(c.tenant.tenant),
            Command::Set => None,
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(ECHO_LIMIT).collect()
}

fn tenant<T: FromStr>(word: &str) -> Result<T, ParseError> {
    word.parse().map_err(|_| ParseError::Tenant(shorten(word)))
}

fn timeline(word: &str) -> Result<TimelineId, ParseError> {
    word.parse()
        .map_err(|_| ParseError::Timeline(shorten(word)))
}

fn lsn(word: &str) -> Result<Lsn, ParseError> {
    word.parse().map_err(|_| ParseError::Lsn(shorten(word)))
}

impl FromStr for Command {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Command, ParseError> {
        let line = text.trim();
        let (verb, rest) = line
            .split_once(' ')
            .ok_or_else(|| ParseError::Shape(shorten(line)))?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        match verb.to_ascii_lowercase().as_str() {
            "pagestream_v2" => page_stream("pagestream_v2", Version::V2, &words),
            "pagestream_v3" => page_stream("pagestream_v3", Version::V3, &words),
            "basebackup" => base_backup(&words),
            "fullbackup" => full_backup(&words),
            "lease" => match words.split_first() {
                Some((kind, words)) if kind.eq_ignore_ascii_case("lsn") => lease_lsn(words),
                _ => Err(ParseError::Unsupported(shorten(line))),
            },
            "set" => Ok(Command::Set),
            _ => Err(ParseError::Unsupported(shorten(line))),
        }
    }
}

fn page_stream(
    verb: &'static str,
    version: Version,
    words: &[&str],
) -> Result<Command, ParseError> {
    let [t, l] = words else {
        return Err(ParseError::Count(verb, words.len()));
    };
    let command = PageStream {
        version,
        tenant: tenant(t)?,
        timeline: timeline(l)?,
    };
    Ok(Command::PageStream(command))
}

fn base_backup(words: &[&str]) -> Result<Command, ParseError> {
    let [t, l, rest @ ..] = words else {
        return Err(ParseError::Count("basebackup", words.len()));
    };
    let (position, flags) = match rest.split_first() {
        Some((word, flags)) if !word.starts_with("--") => (Some(*word), flags),
        _ => (None, rest),
    };
    let mut command = BaseBackup {
        tenant: tenant(t)?,
        timeline: timeline(l)?,
        lsn: position
            .filter(|word| *word != "latest")
            .map(lsn)
            .transpose()?,
        gzip: false,
        replica: false,
    };
    for flag in flags {
        let set = match *flag {
            "--gzip" => &mut command.gzip,
            "--replica" => &mut command.replica,
            _ => return Err(ParseError::Flag(shorten(flag))),
        };
        if std::mem::replace(set, true) {
            return Err(ParseError::DuplicateFlag(shorten(flag)));
        }
    }
    Ok(Command::BaseBackup(command))
}

fn full_backup(words: &[&str]) -> Result<Command, ParseError> {
    let (t, l, rest) = match words {
        [t, l, rest @ ..] if rest.len() <= 2 => (t, l, rest),
        _ => return Err(ParseError::Count("fullbackup", words.len())),
    };
    let position = |at: usize| rest.get(at).map(|word| lsn(word)).transpose();
    Ok(Command::FullBackup(FullBackup {
        tenant: tenant(t)?,
        timeline: timeline(l)?,
        lsn: position(0)?,
        prev_lsn: position(1)?,
    }))
}

fn lease_lsn(words: &[&str]) -> Result<Command, ParseError> {
    let [t, l, at] = words else {
        return Err(ParseError::Count("lease lsn", words.len()));
    };
    let command = LeaseLsn {
        tenant: tenant(t)?,
        timeline: timeline(l)?,
        lsn: lsn(at)?,
    };
    Ok(Command::LeaseLsn(command))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::PageStream(c) => {
                write!(
                    f,
                    "pagestream_v{} {} {}",
                    c.version.number(),
                    c.tenant,
                    c.timeline
                )
            }
            Command::BaseBackup(c) => {
                write!(f, "basebackup {} {}", c.tenant, c.timeline)?;
                c.lsn.iter().try_for_each(|lsn| write!(f, " {lsn}"))?;
                if c.gzip {
                    f.write_str(" --gzip")?;
                }
                if c.replica {
                    f.write_str(" --replica")?;
                }
                Ok(())
            }
            Command::FullBackup(c) => {
                write!(f, "fullbackup {} {}", c.tenant, c.timeline)?;
                let positions = c.lsn.iter().chain(c.lsn.and(c.prev_lsn.as_ref()));
                positions
                    .into_iter()
                    .try_for_each(|lsn| write!(f, " {lsn}"))
            }
            Command::LeaseLsn(c) => write!(f, "lease lsn {} {} {}", c.tenant, c.timeline, c.lsn),
            Command::Set => f.write_str("set nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "7c4a1f9e3bd6470c8f3e21a65bd2e980";
    const L: &str = "f08c4e9a2d5f76b1e3a7c2d8910f4b3e";

    fn parse(text: &str) -> Result<Command, ParseError> {
        text.replace('T', T).replace('L', L).parse()
    }

    #[test]
    fn commands_survive_a_round_trip_through_text() {
        for text in [
            "pagestream_v2 T L",
            "pagestream_v3 T L",
            "basebackup T L",
            "basebackup T L 0/16B5A50",
            "basebackup T L --gzip --replica",
            "basebackup T L 1/0 --replica",
            "fullbackup T L",
            "fullbackup T L 0/8",
            "fullbackup T L 0/8 0/4",
            "lease lsn T-0102 L 0/8",
            "lease lsn T L 0/8",
        ] {
            let command = parse(text).unwrap();
            assert_eq!(command.to_string(), text.replace('T', T).replace('L', L));
        }
    }

    #[test]
    fn spelling_is_lenient_where_the_grammar_says_so() {
        assert_eq!(
            parse("  PageStream_V3 T\t  L \n"),
            parse("pagestream_v3 T L")
        );
        assert_eq!(parse("basebackup T L latest"), parse("basebackup T L"));
        assert_eq!(
            parse("basebackup T L --replica --gzip"),
            parse("basebackup T L --gzip --replica")
        );
        let upper = format!("pagestream_v2 {} {L}", T.to_uppercase());
        assert_eq!(upper.parse(), parse("pagestream_v2 T L"));
        assert_eq!(parse("lease lsN T L 0/8"), parse("lease lsn T L 0/8"));
        assert_eq!("SET client_encoding TO x".parse(), Ok(Command::Set));
    }

    #[test]
    fn every_refusal_says_what_is_wrong() {
        for (text, start) in [
            ("", "cannot parse query:"),
            ("set", "cannot parse query:"),
            ("show foo", "unsupported command"),
            ("pagestream T L", "unsupported command"),
            ("import basebackup T L 0/8 0/8 15", "unsupported command"),
            ("lease page T L 0/8", "unsupported command"),
            (
                "pagestream_v3 T",
                "invalid number of parameters for pagestream_v3",
            ),
            ("pagestream_v3 T L;", "Failed to parse timeline id from"),
            ("pagestream_v3 x L", "Failed to parse tenant id from"),
            (
                "basebackup T",
                "invalid number of parameters for basebackup",
            ),
            ("basebackup T L 0-8", "Failed to parse Lsn from"),
            (
                "basebackup T L --gzip --gzip",
                "duplicate parameter for basebackup command:",
            ),
            (
                "basebackup T L --zip",
                "invalid parameter for basebackup command:",
            ),
            (
                "basebackup T L --gzip 0/8",
                "invalid parameter for basebackup command:",
            ),
            ("fullbackup T L latest", "Failed to parse Lsn from"),
            (
                "fullbackup T L 0/8 0/8 0/8",
                "invalid number of parameters for fullbackup",
            ),
            (
                "lease lsn T L",
                "invalid number of parameters for lease lsn",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(start), "{text:?}: {error}");
        }
        let long = format!("x {}", "y".repeat(100_000));
        assert!(long.parse::<Command>().unwrap_err().to_string().len() < 300);
    }
}
