//! Layer names: the rectangle of keys and LSNs a layer covers, as text.
//!
//! ```text
//! image:  <key start>-<key end>__<LSN>
//! delta:  <key start>-<key end>__<LSN start>-<LSN end>
//! ```
//!
//! Keys are 36 and LSNs 16 upper-case hex digits; ranges are half-open. Object and local file
//! names append the generation. Parsing accepts those suffixes and drops them (the generation to
//! use is the index's); [`Name::parse_object`] returns it. Names of temporary files never parse.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use types::{Generation, Key, KeyRange, Lsn};

/// Digits of a key in a name.
const KEY_DIGITS: usize = 36;
/// Digits of an LSN in a name.
const LSN_DIGITS: usize = 16;
/// Marker between name and generation in local file names.
const LOCAL_VERSION: &str = "v1";

/// Identity of a layer within a timeline; with shard and generation it names immutable content.
///
/// Ordered by key start, key end, LSN start, LSN end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// Every existing key of the range, at one LSN.
    Image {
        /// Keys covered.
        keys: KeyRange,
        /// The LSN.
        lsn: Lsn,
    },
    /// Every change to the keys in the range of LSNs.
    Delta {
        /// Keys covered.
        keys: KeyRange,
        /// LSNs covered, end exclusive.
        lsns: Range<Lsn>,
    },
}

impl Name {
    /// Keys covered.
    pub const fn keys(&self) -> KeyRange {
        match self {
            Name::Image { keys, .. } | Name::Delta { keys, .. } => *keys,
        }
    }

    /// LSNs covered; one LSN wide for an image.
    pub fn lsn_range(&self) -> Range<Lsn> {
        match self {
            Name::Image { lsn, .. } => *lsn..lsn.saturating_add(1),
            Name::Delta { lsns, .. } => lsns.clone(),
        }
    }

    /// True for a delta layer.
    pub const fn is_delta(&self) -> bool {
        matches!(self, Name::Delta { .. })
    }

    /// True for a layer written by a flush: a delta over the full key range.
    pub fn is_l0(&self) -> bool {
        self.is_delta() && self.keys() == KeyRange::FULL
    }

    /// True if the layer was left behind by an upload that no index covers: it must not be used
    /// by a timeline whose loaded index says `disk_consistent_lsn`.
    pub fn is_future(&self, disk_consistent_lsn: Lsn) -> bool {
        match self {
            Name::Image { lsn, .. } => *lsn > disk_consistent_lsn,
            Name::Delta { lsns, .. } => lsns.end > disk_consistent_lsn.saturating_add(1),
        }
    }

    /// Last path element of the object: name and `-<generation>`.
    pub fn object_name(&self, generation: Generation) -> String {
        format!("{self}{}", generation.suffix())
    }

    /// File name in a local timeline directory: name and `-v1-<generation>`.
    pub fn local_name(&self, generation: Generation) -> String {
        match generation.0 {
            None => self.to_string(),
            Some(_) => format!("{self}-{LOCAL_VERSION}{}", generation.suffix()),
        }
    }

    /// Parses an object or local file name into layer name and generation.
    pub fn parse_object(text: &str) -> Result<(Name, Generation), ParseError> {
        let fail = |reason| ParseError {
            text: text.chars().take(160).collect(),
            reason,
        };
        let (keys, rest) = text
            .split_once("__")
            .ok_or_else(|| fail("no `__` separator"))?;
        let (start, end) = keys.split_once('-').ok_or_else(|| fail("no key range"))?;
        let key = |t: &str| -> Result<Key, ParseError> {
            if t.len() != KEY_DIGITS || !is_upper_hex(t) {
                return Err(fail("keys are 36 upper-case hexadecimal digits"));
            }
            t.parse()
                .map_err(|_| fail("keys are 36 upper-case hexadecimal digits"))
        };
        let keys = KeyRange {
            start: key(start)?,
            end: key(end)?,
        };
        if keys.is_empty() {
            return Err(fail("the key range is empty"));
        }
        let lsn = |t: &str| -> Result<Lsn, ParseError> {
            if t.len() != LSN_DIGITS || !is_upper_hex(t) {
                return Err(fail("LSNs are 16 upper-case hexadecimal digits"));
            }
            u64::from_str_radix(t, 16)
                .map(Lsn)
                .map_err(|_| fail("LSNs are 16 upper-case hexadecimal digits"))
        };
        let (first, rest) = match rest.split_once('-') {
            None => (rest, None),
            Some((f, r)) => (f, Some(r)),
        };
        let from = lsn(first)?;
        let (second, suffix) = match rest {
            None => return Ok((Name::Image { keys, lsn: from }, Generation::NONE)),
            Some(r) => match r.split_once('-') {
                None => (r, None),
                Some((s, t)) => (s, Some(t)),
            },
        };
        let suffix_of = |t: Option<&str>| match t {
            None => Ok(Generation::NONE),
            Some(t) => generation(t).ok_or_else(|| fail("the generation suffix is malformed")),
        };
        if second.len() == LSN_DIGITS {
            let to = lsn(second)?;
            if from >= to {
                return Err(fail("the LSN range is empty"));
            }
            return Ok((
                Name::Delta {
                    keys,
                    lsns: from..to,
                },
                suffix_of(suffix)?,
            ));
        }
        let generation = match suffix {
            None => suffix_of(Some(second))?,
            Some(t) if is_version(second) => suffix_of(Some(t))?,
            Some(_) => return Err(fail("neither an LSN nor a suffix follows the LSN")),
        };
        Ok((Name::Image { keys, lsn: from }, generation))
    }
}

fn is_upper_hex(t: &str) -> bool {
    t.bytes()
        .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

fn is_version(t: &str) -> bool {
    t.strip_prefix('v')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A suffix: `<8 digits>`, `v1` or `v1-<8 digits>`.
fn generation(t: &str) -> Option<Generation> {
    match t.split_once('-') {
        Some((v, g)) if is_version(v) => Generation::parse_suffix(g),
        Some(_) => None,
        None if is_version(t) => Some(Generation::NONE),
        None => Generation::parse_suffix(t),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        write!(f, "{}-{}__", keys.start, keys.end)?;
        match self {
            Name::Image { lsn, .. } => write!(f, "{:016X}", lsn.0),
            Name::Delta { lsns, .. } => write!(f, "{:016X}-{:016X}", lsns.start.0, lsns.end.0),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |n: &Name| {
            let lsns = n.lsn_range();
            (n.keys(), lsns.start, lsns.end, n.is_delta())
        };
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text is not a layer name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid layer name {text:?}: {reason}")]
pub struct ParseError {
    /// The text, cut to 160 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Name::parse_object(s).map(|(name, _)| name)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a layer name")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Name, E> {
                v.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "000000067F00000005000040000000000000";
    const B: &str = "000000067F00000005000040000000000001";

    fn parse(tail: &str) -> Result<(Name, Generation), ParseError> {
        Name::parse_object(&format!("{A}-{B}__{tail}"))
    }

    #[test]
    fn every_form_of_suffix_is_recognised_and_dropped() {
        let g = Generation::new(0x1a);
        let lsn = "0000000001000028";
        for (suffix, generation) in [
            ("", Generation::NONE),
            ("-0000001a", g),
            ("-v1-0000001a", g),
            ("-v1", Generation::NONE),
        ] {
            let (image, got) = parse(&format!("{lsn}{suffix}")).unwrap();
            assert_eq!((image.is_delta(), got), (false, generation), "{suffix}");
            let (delta, got) = parse(&format!("{lsn}-0000000001000081{suffix}")).unwrap();
            assert_eq!((delta.is_delta(), got), (true, generation), "{suffix}");
            assert_eq!(delta.lsn_range(), Lsn(0x1000028)..Lsn(0x1000081));
            assert_eq!(image.lsn_range(), Lsn(0x1000028)..Lsn(0x1000029));
        }
    }

    #[test]
    fn names_of_temporary_files_and_nonsense_do_not_parse() {
        for tail in [
            "",
            "0000000001000028-0000000001000081-v1-00000001.ab12.temp_download",
            "0000000001000028.ab12.___temp",
            "0000000001000028-0000000001000028",
            "0000000001000081-0000000001000028",
            "000000000100002",
            "000000000100002a",
            "0000000001000028-xyz",
            "0000000001000028-0000001",
            "0000000001000028-0000000g",
            "0000000001000028-abc-00000001",
        ] {
            assert!(parse(tail).is_err(), "{tail}");
        }
        assert!(
            format!("{A}-XXX__0000000001000028")
                .parse::<Name>()
                .is_err()
        );
        assert!(
            format!("{B}-{A}__0000000001000028")
                .parse::<Name>()
                .is_err()
        );
        assert!(format!("{A}__0000000001000028").parse::<Name>().is_err());
    }

    #[test]
    fn l0_is_a_delta_over_every_key() {
        let full = "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF";
        let delta: Name = format!("{full}__0000000001696070-00000000016960E9")
            .parse()
            .unwrap();
        let image: Name = format!("{full}__0000000001696070").parse().unwrap();
        assert!(delta.is_l0() && !image.is_l0());
        assert!(!delta.is_future(Lsn(0x16960E8)) && delta.is_future(Lsn(0x16960E7)));
        assert!(!image.is_future(Lsn(0x1696070)) && image.is_future(Lsn(0x169606F)));
        assert_eq!(
            delta.object_name(Generation::new(5)),
            format!("{delta}-00000005")
        );
        assert_eq!(
            delta.local_name(Generation::new(5)),
            format!("{delta}-v1-00000005")
        );
        assert_eq!(delta.local_name(Generation::NONE), delta.to_string());
    }

    proptest! {
        #[test]
        fn text_round_trips(a: u32, b: u32, l: u64, w in 1u64..1000, delta: bool, g in proptest::option::of(any::<u32>())) {
            prop_assume!(a != b);
            let key = |field6| Key { field6, ..Key::MIN };
            let keys = KeyRange { start: key(a.min(b)), end: key(a.max(b)) };
            let l = l >> 1;
            let name = if delta {
                Name::Delta { keys, lsns: Lsn(l)..Lsn(l + w) }
            } else {
                Name::Image { keys, lsn: Lsn(l) }
            };
            let g = Generation(g);
            prop_assert_eq!(Name::parse_object(&name.object_name(g)).unwrap(), (name.clone(), g));
            prop_assert_eq!(Name::parse_object(&name.local_name(g)).unwrap(), (name.clone(), g));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
        }

        #[test]
        fn arbitrary_text_never_panics(s in "\\PC{0,80}", t in "[0-9A-Fv_-]{0,130}") {
            let _ = Name::parse_object(&s);
            let _ = Name::parse_object(&t);
        }
    }
}
