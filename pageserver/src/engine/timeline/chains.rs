//! How many changes lie above the last whole page of each key in data that is not compacted yet.
//!
//! Counted while values are written, so that a page can be put into the midst of a chain before
//! any reader meets one that is too long. Keys are kept as 32-bit hashes: two keys that share one
//! are given a page too early, never too late.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use types::{Key, Lsn};

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    fn write_u32(&mut self, n: u32) {
        // The table takes its tag from the upper bits and its place from the lower ones.
        self.0 = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Mixes the fields of a key, word by word.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Counts = HashMap<u32, u16, BuildHasherDefault<Identity>>;

/// Counts of one timeline.
#[derive(Debug, Default)]
pub struct Chains {
    current: Counts,
    /// Earlier ones, oldest first, with the LSN up to which each counts.
    earlier: VecDeque<(Lsn, Counts)>,
}

fn hash(key: &Key) -> u32 {
    let mut mixer = Mixer::default();
    key.hash(&mut mixer);
    (mixer.finish() >> 32) as u32
}

impl Chains {
    /// Counts a value. True if it is a change that makes the chain longer than `limit`; the count
    /// then starts anew, as the change is about to become a page.
    pub fn count(&mut self, key: &Key, will_init: bool, limit: usize) -> bool {
        let hash = hash(key);
        if will_init {
            let known = self.current.contains_key(&hash)
                || self.earlier.iter().any(|(_, c)| c.contains_key(&hash));
            if known {
                self.current.insert(hash, 0);
            }
            return false;
        }
        let earlier = &self.earlier;
        let n = self.current.entry(hash).or_insert_with(|| {
            let newest = earlier.iter().rev().find_map(|(_, c)| c.get(&hash));
            newest.copied().unwrap_or(0)
        });
        *n = n.saturating_add(1);
        let long = usize::from(*n) > limit;
        if long {
            *n = 0;
        }
        long
    }

    /// What is counted from now on is told apart from what was counted up to `last`.
    pub fn rotate(&mut self, last: Lsn) {
        if !self.current.is_empty() {
            let counts = std::mem::take(&mut self.current);
            self.earlier.push_back((last, counts));
        }
    }

    /// Everything below `end` is compacted: what was counted there only is forgotten.
    pub fn forget_below(&mut self, end: Lsn) {
        while self.earlier.front().is_some_and(|(last, _)| *last < end) {
            self.earlier.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Fork, RelTag};

    fn key(block: u32) -> Key {
        let rel = RelTag {
            spc: 1663,
            db: 5,
            rel: 16384,
            fork: Fork::Main,
        };
        Key::rel_block(rel, block)
    }

    #[test]
    fn a_chain_is_cut_after_as_many_changes_as_allowed() {
        let mut chains = Chains::default();
        let cuts: Vec<bool> = (0..7).map(|_| chains.count(&key(1), false, 2)).collect();
        assert_eq!(cuts, [false, false, true, false, false, true, false]);
        assert!(!chains.count(&key(2), false, 2));
    }

    #[test]
    fn a_whole_page_starts_the_count_anew_whenever_the_chain_began() {
        let mut chains = Chains::default();
        assert!(!chains.count(&key(1), false, 2));
        assert!(!chains.count(&key(1), false, 2));
        chains.rotate(Lsn(8));
        assert!(!chains.count(&key(1), true, 2));
        assert!(!chains.count(&key(1), false, 2));
        assert!(!chains.count(&key(1), false, 2));
        assert!(chains.count(&key(1), false, 2));
    }

    #[test]
    fn counts_are_carried_on_until_what_they_count_is_compacted() {
        let mut chains = Chains::default();
        chains.count(&key(1), false, 2);
        chains.count(&key(1), false, 2);
        chains.rotate(Lsn(80));
        chains.forget_below(Lsn(80));
        assert!(
            chains.count(&key(1), false, 2),
            "LSN 80 itself is not compacted"
        );
        chains.count(&key(3), false, 2);
        chains.count(&key(3), false, 2);
        chains.rotate(Lsn(160));
        chains.forget_below(Lsn(161));
        assert!(chains.current.is_empty() && chains.earlier.is_empty());
        assert!(!chains.count(&key(3), false, 2));
    }

    #[test]
    fn neighbouring_keys_have_different_hashes() {
        let distinct: std::collections::HashSet<u32> =
            (0..100_000).map(|n| hash(&key(n))).collect();
        // Of 100,000 random 32-bit numbers about one pair is equal.
        assert!(distinct.len() > 99_980, "{}", distinct.len());
    }
}
