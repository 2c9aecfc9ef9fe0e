//! Generations: who wrote an object (`docs/format/identifiers.md`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// The number under which a tenant shard was attached, or none for data older than
/// generations. Order: none < 0 < 1 < …
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub Option<u32>);

impl Generation {
    /// No generation: objects without a suffix.
    pub const NONE: Generation = Generation(None);

    /// A numbered generation.
    pub const fn new(n: u32) -> Self {
        Generation(Some(n))
    }

    /// True when there is no number.
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The next lower generation; none below 0, `None` below none.
    pub const fn previous(self) -> Option<Generation> {
        match self.0 {
            None => None,
            Some(0) => Some(Generation(None)),
            Some(n) => Some(Generation(Some(n - 1))),
        }
    }

    /// The next higher generation (1 after none), or `None` at the end of the range.
    pub const fn next(self) -> Option<Generation> {
        match self.0 {
            None => Some(Generation(Some(1))),
            Some(n) => match n.checked_add(1) {
                Some(m) => Some(Generation(Some(m))),
                None => None,
            },
        }
    }

    /// `-` and eight lower-case hex digits, or nothing.
    pub fn suffix(self) -> String {
        self.0.map_or_else(String::new, |n| format!("-{n:08x}"))
    }

    /// Parses the eight hex digits of a suffix (without the `-`).
    pub fn parse_suffix(s: &str) -> Option<Generation> {
        if s.len() != 8 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(s, 16).ok().map(|n| Generation(Some(n)))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(n) => write!(f, "{n:08x}"),
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_neighbours() {
        assert!(Generation::NONE < Generation::new(0));
        assert_eq!(Generation::new(0).previous(), Some(Generation::NONE));
        assert_eq!(Generation::NONE.next(), Some(Generation::new(1)));
        assert_eq!(Generation::NONE.previous(), None);
        assert_eq!(Generation::new(u32::MAX).next(), None);
        assert_eq!(Generation::new(26).suffix(), "-0000001a");
        assert_eq!(
            Generation::parse_suffix("0000001a"),
            Some(Generation::new(26))
        );
    }
}
