//! Shard identity and the arithmetic that assigns keys to shards
//! (`docs/format/identifiers.md`).

use crate::id::{ParseError, parse_error, text_serde};
use crate::key::{Key, Kind};
use crate::rel::Fork;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Stripe size in pages of tenants created without one (legacy default, 256 MiB).
pub const LEGACY_STRIPE_SIZE: u32 = 32768;
/// Stripe size in pages of new tenants (16 MiB).
pub const DEFAULT_STRIPE_SIZE: u32 = 2048;

/// Shard number and count. Count 0 is the legacy "unsharded" identity, distinct from count 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardIndex {
    /// Number of this shard, below `count` unless both are 0.
    pub number: u8,
    /// How many shards the tenant has; 0 when unsharded.
    pub count: u8,
}

impl ShardIndex {
    /// The identity of an unsharded tenant.
    pub const UNSHARDED: ShardIndex = ShardIndex {
        number: 0,
        count: 0,
    };

    /// True for the legacy unsharded identity.
    pub const fn is_unsharded(self) -> bool {
        self.count == 0
    }

    /// True for the shard that keeps all metadata.
    pub const fn is_zero(self) -> bool {
        self.number == 0
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}", self.number, self.count)
    }
}

impl fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ShardIndex {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut b = [0u8; 2];
        hex::decode_to_slice(s, &mut b)
            .map_err(|_| parse_error("shard index", s, "four hexadecimal digits NNCC"))?;
        let [number, count] = b;
        if number >= count && (number, count) != (0, 0) {
            return Err(parse_error("shard index", s, "a number below the count"));
        }
        Ok(ShardIndex { number, count })
    }
}

text_serde!(ShardIndex);

/// A shard's identity with its stripe size: enough to say which keys it owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardIdentity {
    /// Number and count.
    pub index: ShardIndex,
    /// Stripe size in pages; never 0.
    pub stripe_size: u32,
}

impl ShardIdentity {
    /// The identity of an unsharded tenant.
    pub const UNSHARDED: ShardIdentity = ShardIdentity {
        index: ShardIndex::UNSHARDED,
        stripe_size: DEFAULT_STRIPE_SIZE,
    };

    /// Number of the shard that owns `key`.
    pub fn owner(&self, key: &Key) -> u8 {
        owner(key, self.index.count, self.stripe_size)
    }

    /// True if this shard owns `key` or the key is kept on every shard.
    pub fn keeps(&self, key: &Key) -> bool {
        self.index.count < 2 || is_global(key) || self.owner(key) == self.index.number
    }
}

fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

fn join(a: u32, b: u32) -> u32 {
    let b = b
        .wrapping_add(0x9e37_79b9)
        .wrapping_add(a << 6)
        .wrapping_add(a >> 2);
    a ^ b
}

fn hash(rel: u32, block: u32, stripe: u32) -> u32 {
    join(mix(rel), mix(block / stripe.max(1)))
}

/// Number of the shard, of `count`, that owns `key`.
pub fn owner(key: &Key, count: u8, stripe: u32) -> u8 {
    if count < 2 {
        return 0;
    }
    match key.kind() {
        Kind::RelBlock { rel, block } if rel.fork != Fork::Init => {
            let n = hash(rel.rel, block, stripe) % u32::from(count);
            u8::try_from(n).unwrap_or(0)
        }
        _ => 0,
    }
}

/// True if the key is kept on every shard of a sharded tenant.
pub fn is_global(key: &Key) -> bool {
    !matches!(
        key.kind(),
        Kind::RelBlock { .. }
            | Kind::SlruDir { .. }
            | Kind::SlruBlock { .. }
            | Kind::SlruSegmentSize { .. }
            | Kind::AuxFile
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rel::RelTag;

    #[test]
    fn published_hash_vectors() {
        assert_eq!(mix(0), 0);
        assert_eq!(join(0xb1ff_3b40, 0), 0xfb79_23c9);
        for (rel, block, stripe, count, h, shard) in [
            (0x400c, 0x7d06, 32768, 10u8, 0x6586_4a36u32, 8u8),
            (16384, 0, 2048, 4, 0x2607_364c, 0),
            (16384, 2048, 2048, 4, 0x9555_de87, 3),
            (16384, 4096, 2048, 4, 0xf50c_7356, 2),
            (16384, 0, 32768, 8, 0x2607_364c, 4),
            (16385, 100_000, 2048, 8, 0x2e9d_9561, 1),
            (74565, 32006, 8192, 10, 0x87e1_e954, 2),
        ] {
            assert_eq!(hash(rel, block, stripe), h);
            let key = Key::rel_block(
                RelTag {
                    spc: 1663,
                    db: 5,
                    rel,
                    fork: Fork::Main,
                },
                block,
            );
            assert_eq!(owner(&key, count, stripe), shard);
        }
    }
}
