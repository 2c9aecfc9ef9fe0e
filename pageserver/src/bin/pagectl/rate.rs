//! Transfer rates on the command line.

use std::str::FromStr;

/// Smallest rate a server accepts, in KiB a second.
const MIN: u64 = 32;
/// Largest rate a server accepts, in KiB a second.
const MAX: u64 = 1 << 20;

/// A transfer rate in KiB a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(pub u32);

/// A text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a rate from 32k to 1024M bytes a second, such as 20M; plain numbers are KiB")]
pub struct ParseError;

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Rate, ParseError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor = match text.strip_prefix(digits) {
            Some("" | "k" | "K" | "kB" | "KiB") => 1,
            Some("m" | "M" | "MB" | "MiB") => 1 << 10,
            Some("g" | "G" | "GB" | "GiB") => 1 << 20,
            _ => return Err(ParseError),
        };
        let number: u64 = digits.parse().map_err(|_| ParseError)?;
        let rate = number.checked_mul(factor).ok_or(ParseError)?;
        match u32::try_from(rate) {
            Ok(r) if (MIN..=MAX).contains(&rate) => Ok(Rate(r)),
            _ => Err(ParseError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_and_kib_is_the_default() {
        let rate = |t: &str| t.parse::<Rate>().map(|r| r.0);
        assert_eq!(rate("100"), Ok(100));
        assert_eq!(rate("20M"), Ok(20 << 10));
        assert_eq!(rate("1G"), Ok(1 << 20));
        for bad in [
            "",
            "M",
            "31",
            "2G",
            "-5",
            "20X",
            "1.5M",
            "99999999999999999999G",
        ] {
            assert_eq!(rate(bad), Err(ParseError), "{bad}");
        }
    }
}
