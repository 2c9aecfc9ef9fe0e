//! Identifiers of tenants, timelines and tenant shards (`docs/format/identifiers.md`).

use crate::shard::ShardIndex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {text:?}: expected {expected}")]
pub struct ParseError {
    /// What the text should have been.
    pub kind: &'static str,
    /// The offending text, cut to 64 characters.
    pub text: String,
    /// The form expected.
    pub expected: &'static str,
}

pub(crate) fn parse_error(kind: &'static str, text: &str, expected: &'static str) -> ParseError {
    ParseError {
        kind,
        text: text.chars().take(64).collect(),
        expected,
    }
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0u8; 16];
                hex::decode_to_slice(s, &mut bytes)
                    .map_err(|_| parse_error($kind, s, "32 hexadecimal digits"))?;
                Ok($name(bytes))
            }
        }
        text_serde!($name);
    };
}

id16!(
    /// A tenant: 16 bytes, 32 lower-case hex digits as text.
    TenantId,
    "tenant id"
);
id16!(
    /// A timeline (branch): 16 bytes, 32 lower-case hex digits as text.
    TimelineId,
    "timeline id"
);

/// A tenant together with one of its shards. Text: the bare tenant id when unsharded,
/// otherwise `<tenant id>-NNCC`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantShardId {
    /// The tenant.
    pub tenant: TenantId,
    /// Which shard of it.
    pub shard: ShardIndex,
}

impl TenantShardId {
    /// The identity of an unsharded tenant.
    pub const fn unsharded(tenant: TenantId) -> Self {
        TenantShardId {
            tenant,
            shard: ShardIndex::UNSHARDED,
        }
    }
}

impl fmt::Display for TenantShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shard.is_unsharded() {
            write!(f, "{}", self.tenant)
        } else {
            write!(f, "{}-{}", self.tenant, self.shard)
        }
    }
}

impl fmt::Debug for TenantShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TenantShardId {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let err = || {
            parse_error(
                "tenant shard id",
                s,
                "32 hexadecimal digits, or those, '-' and NNCC",
            )
        };
        match s.split_once('-') {
            None => Ok(Self::unsharded(s.parse().map_err(|_| err())?)),
            Some((tenant, shard)) => Ok(TenantShardId {
                tenant: tenant.parse().map_err(|_| err())?,
                shard: shard.parse().map_err(|_| err())?,
            }),
        }
    }
}

text_serde!(TenantShardId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharded_and_unsharded_text_forms() {
        let t = "00112233445566778899aabbccddeeff";
        let un: TenantShardId = t.parse().unwrap();
        assert!(un.shard.is_unsharded());
        assert_eq!(un.to_string(), t);
        let sh: TenantShardId = format!("{t}-0104").parse().unwrap();
        assert_eq!((sh.shard.number, sh.shard.count), (1, 4));
        assert_eq!(sh.to_string(), format!("{t}-0104"));
        for bad in ["-0104", "0404", "0400"] {
            assert!(format!("{t}-{bad}").parse::<TenantShardId>().is_err());
        }
    }
}
