//! Which keys wait behind an event that was set aside, in memory that does not grow with their number.

use std::collections::HashSet;

/// Keys that are known for certain.
const EXACT_MAX: usize = 1 << 16;
/// Bits of the filter for all others: 512 KiB. With 1,000,000 keys in it every sixth other one is mistaken for one of them.
const FILTER_BITS: u64 = 1 << 22;
/// Bits per key.
const HASHES: u64 = 4;

/// Hashes of (source, topic). Beyond [`EXACT_MAX`] a key may be taken for one that waits: its events are set aside, too, and
/// have another chance at the next pass, where the filter mixes otherwise.
#[derive(Debug)]
pub(super) struct Keys {
    exact: HashSet<u64>,
    exact_max: usize,
    /// Empty until it is needed.
    filter: Vec<u64>,
    passes: u64,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { exact: HashSet::new(), exact_max: EXACT_MAX, filter: Vec::new(), passes: 0 }
    }

    pub(super) fn insert(&mut self, key: u64) {
        if self.exact.len() < self.exact_max {
            self.exact.insert(key);
            return;
        }
        if self.exact.contains(&key) {
            return;
        }
        if self.filter.is_empty() {
            self.filter = vec![0; usize::try_from(FILTER_BITS / 64).unwrap_or(usize::MAX)];
        }
        for (word, bit) in bits(key, self.passes) {
            if let Some(word) = self.filter.get_mut(word) {
                *word |= bit;
            }
        }
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        if self.exact.is_empty() {
            return false;
        }
        self.exact.contains(&key) || self.is_in_filter(key)
    }

    fn is_in_filter(&self, key: u64) -> bool {
        let is_set = |(word, bit): (usize, u64)| self.filter.get(word).is_some_and(|word| word & bit != 0);
        self.is_inexact() && bits(key, self.passes).all(is_set)
    }

    /// True if a key may be taken for another one.
    pub(super) fn is_inexact(&self) -> bool {
        !self.filter.is_empty()
    }

    /// A pass begins: only these wait.
    pub(super) fn begin_pass(&mut self, keys: impl Iterator<Item = u64>) {
        self.passes = self.passes.wrapping_add(1);
        self.filter = Vec::new();
        self.exact = keys.collect();
    }
}

/// Words and bits of a key in the filter.
fn bits(key: u64, passes: u64) -> impl Iterator<Item = (usize, u64)> {
    // Finaliser of splitmix64.
    let mixed = key ^ passes.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mixed = mixed ^ (mixed >> 31);
    let (start, step) = (mixed, (mixed >> 32) | 1);
    (0..HASHES).map(move |n| {
        let bit = start.wrapping_add(n.wrapping_mul(step)) % FILTER_BITS;
        (usize::try_from(bit / 64).unwrap_or(usize::MAX), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hash, Hasher};

    fn hashes(seed: u64, count: u64) -> Vec<u64> {
        let hash = |n| {
            let mut hasher = DefaultHasher::new();
            (seed, n).hash(&mut hasher);
            hasher.finish()
        };
        (0..count).map(hash).collect()
    }

    #[test]
    fn those_that_wait_are_known_and_few_others_are_taken_for_them() {
        let mut keys = Keys { exact_max: 1_000, ..Keys::new() };
        let (waiting, others) = (hashes(1, 200_000), hashes(2, 10_000));
        waiting.iter().for_each(|key| keys.insert(*key));
        assert!(waiting.iter().all(|key| keys.contains(*key)));
        let mistaken: Vec<u64> = others.iter().copied().filter(|key| keys.contains(*key)).collect();
        assert!(mistaken.len() < 100, "{} of 10,000", mistaken.len());
        // At the next pass others are.
        keys.begin_pass(std::iter::empty());
        waiting.iter().for_each(|key| keys.insert(*key));
        assert!(mistaken.iter().filter(|key| keys.contains(**key)).count() < mistaken.len().max(1));
    }

    #[test]
    fn few_keys_are_known_for_certain() {
        let mut keys = Keys::new();
        let all = hashes(3, 60_000);
        let (waiting, others) = all.split_at(30_000);
        waiting.iter().for_each(|key| keys.insert(*key));
        assert!(!keys.is_inexact() && others.iter().all(|key| !keys.contains(*key)));
    }
}
