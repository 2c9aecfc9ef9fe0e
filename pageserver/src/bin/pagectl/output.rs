//! Standard output.

use serde::Serialize;
use std::io::{self, Write};

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output: {0}")]
pub struct Error(#[from] pub io::Error);

/// Prints text and a line end.
pub fn line(text: impl std::fmt::Display) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints an object as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    line(text)
}

/// Text without characters that would steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

/// An error with its causes, without those that the text before them tells already.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn causes_are_told_once() {
        let refused = io::Error::other("refused");
        let e = anyhow::Error::from(refused).context("connection failed: refused");
        assert_eq!(chain(&e), "connection failed: refused");
        let e = Err::<(), _>(e).context("no export").unwrap_err();
        assert_eq!(chain(&e), "no export: connection failed: refused");
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(plain("a\u{1b}[1mb"), "a\u{FFFD}[1mb");
    }
}
