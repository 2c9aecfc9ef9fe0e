//! `backup_label`: where replay of an online base backup starts.
//!
//! Lines `KEY: value`; keys that are not listed in [`BackupLabel`] are ignored, as servers do.

use crate::wal_segment;
use types::Lsn;

/// File name in the data directory.
pub const PATH: &str = "backup_label";
/// Longest file that is read, in bytes. A server writes a few hundred.
pub const MAX_SIZE: usize = 16 * 1024;

/// What the file can be wrong about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_SIZE`].
    #[error("backup_label of {0} bytes, at most {MAX_SIZE} are read")]
    Size(usize),
    /// Not UTF-8 text.
    #[error("backup_label is not text at offset {0}")]
    Text(usize),
    /// A needed line is missing.
    #[error("backup_label has no line {0:?}")]
    Missing(&'static str),
    /// A line's value cannot be read.
    #[error("backup_label line {line} has a malformed value for {key:?}")]
    Value {
        /// Line number, from 1.
        line: usize,
        /// Its key.
        key: &'static str,
    },
}

/// The useful lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Redo position: replay starts here.
    pub start_lsn: Lsn,
    /// Timeline id of the start.
    pub start_tli: u32,
    /// Start of the checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// True if the backup was taken from a standby.
    pub from_standby: bool,
    /// True for `BACKUP METHOD: streamed`.
    pub streamed: bool,
    /// Label given by whoever took the backup.
    pub label: String,
    /// Start of the backup this one is an increment to; such a backup is incomplete alone.
    pub incremental_from: Option<Lsn>,
}

const START: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const METHOD: &str = "BACKUP METHOD";
const FROM: &str = "BACKUP FROM";
const LABEL: &str = "LABEL";
const TIMELINE: &str = "START TIMELINE";
const INCREMENTAL: &str = "INCREMENTAL FROM LSN";

impl BackupLabel {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, Error> {
        if bytes.len() > MAX_SIZE {
            return Err(Error::Size(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Text(e.valid_up_to()))?;
        let (mut start, mut checkpoint, mut tli, mut incremental) = (None, None, None, None);
        let (mut from_standby, mut streamed, mut label) = (false, false, String::new());
        for (n, line) in text.lines().enumerate() {
            let Some((key, value)) = line.split_once(": ") else {
                continue;
            };
            let bad = |key| Error::Value { line: n + 1, key };
            match key {
                START => start = Some(start_location(value).ok_or(bad(START))?),
                CHECKPOINT => checkpoint = Some(value.parse().map_err(|_| bad(CHECKPOINT))?),
                METHOD => streamed = value == "streamed",
                FROM => from_standby = value == "standby",
                LABEL => label = value.to_owned(),
                TIMELINE => {
                    tli = Some(
                        value
                            .parse()
                            .ok()
                            .filter(|t| *t != 0)
                            .ok_or(bad(TIMELINE))?,
                    );
                }
                INCREMENTAL => incremental = Some(value.parse().map_err(|_| bad(INCREMENTAL))?),
                _ => {}
            }
        }
        let (start_lsn, file_tli) = start.ok_or(Error::Missing(START))?;
        Ok(BackupLabel {
            start_lsn,
            start_tli: tli.unwrap_or(file_tli),
            checkpoint_lsn: checkpoint.ok_or(Error::Missing(CHECKPOINT))?,
            from_standby,
            streamed,
            label,
            incremental_from: incremental,
        })
    }
}

/// `0/2000028 (file 000000010000000000000002)`: the position and the file's timeline id.
fn start_location(value: &str) -> Option<(Lsn, u32)> {
    let (lsn, file) = value.split_once(" (file ")?;
    let tli = wal_segment::timeline_of_name(file.strip_suffix(')')?)?;
    Some((lsn.parse().ok()?, tli))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-01-02 03:04:05 UTC\nLABEL: nightly: one\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_of_a_server_is_understood() {
        let label = BackupLabel::parse(REAL.as_bytes()).unwrap();
        assert_eq!(label.start_lsn, Lsn(0x200_0028));
        assert_eq!(label.checkpoint_lsn, Lsn(0x200_0060));
        assert_eq!(
            (label.start_tli, label.streamed, label.from_standby),
            (1, true, false)
        );
        assert_eq!(label.label, "nightly: one");
        assert_eq!(label.incremental_from, None);
        let more = format!("{REAL}INCREMENTAL FROM LSN: 0/1000028\n");
        let label = BackupLabel::parse(more.as_bytes()).unwrap();
        assert_eq!(label.incremental_from, Some(Lsn(0x100_0028)));
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let parse = |s: String| BackupLabel::parse(s.as_bytes()).unwrap_err();
        assert_eq!(parse(REAL.replace("START WAL", "X")), Error::Missing(START));
        assert_eq!(
            parse(REAL.replace("CHECKPOINT L", "X")),
            Error::Missing(CHECKPOINT)
        );
        assert_eq!(
            parse(REAL.replace("0/2000060", "x")),
            Error::Value {
                line: 2,
                key: CHECKPOINT
            }
        );
        assert_eq!(
            parse(REAL.replace("TIMELINE: 1", "TIMELINE: 0")),
            Error::Value {
                line: 7,
                key: TIMELINE
            }
        );
        assert_eq!(
            parse(REAL.replace("(file ", "(")),
            Error::Value {
                line: 1,
                key: START
            }
        );
        assert_eq!(parse(REAL.repeat(100)), Error::Size(REAL.len() * 100));
        assert_eq!(BackupLabel::parse(b"a\xFF"), Err(Error::Text(1)));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(s in "[A-Z :0-9/()\\n]{0,200}") {
            prop_assert!(BackupLabel::parse(s.as_bytes()).is_err());
        }
    }
}
