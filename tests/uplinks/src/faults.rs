//! What must be true after faults, and where seeded ones come from.

use crate::Node;
use std::collections::{BTreeMap, BTreeSet};

/// The same numbers for the same seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % n
    }
}

/// Every event arrived, each under one identity of its own, and nothing was given up (P2, P3). `arrived`: each arrival's number and
/// identity.
pub fn complete<I: Ord>(node: &Node, arrived: impl IntoIterator<Item = (u64, I)>) {
    let mut identities: BTreeMap<u64, BTreeSet<I>> = BTreeMap::new();
    for (n, identity) in arrived {
        identities.entry(n).or_default().insert(identity);
    }
    let missing: Vec<u64> = (0..node.published()).filter(|n| !identities.contains_key(n)).collect();
    assert_eq!(missing, [0_u64; 0], "lost");
    assert!(identities.values().all(|of_one| of_one.len() == 1), "a repetition has another identity");
    let all: BTreeSet<_> = identities.values().flatten().collect();
    assert_eq!(all.len() as u64, node.published(), "two events share an identity");
    assert_eq!(node.losses(), 0);
}

/// First arrivals of one key are in order (P4): the key is the topic, every seventh event.
pub fn in_order(arrived: impl IntoIterator<Item = u64>, seed: u64) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for n in arrived.into_iter().filter(|n| seen.insert(*n)) {
        let before = last.insert(n % 7, n);
        assert!(before.is_none_or(|before| before < n), "seed {seed}: {n} after {before:?}");
    }
}
