//! Numbers that nobody outside can foretell: message ids, retransmission times, leisure.
//!
//! An address proves itself by answering a message whose id it can only know by having received it, so ids have to come
//! from a generator that does not give its state away. This one is a keyed hash over a counter (BLAKE2s); the key is the
//! caller's secret.

use blake2::Blake2sMac;
use blake2::digest::Mac;
use blake2::digest::consts::U32;

/// Pseudo-random numbers from a secret.
#[derive(Clone)]
pub(crate) struct Rng {
    key: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}

impl Rng {
    pub(crate) fn new(key: [u8; 32]) -> Rng {
        Rng { key, counter: 0, block: [0; 32], used: 32 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let word = self.block.get(self.used..).and_then(|left| left.first_chunk::<8>()).copied();
        let Some(word) = word else {
            self.block = derive(&self.key, &self.counter.to_be_bytes());
            self.counter += 1;
            self.used = 8;
            return u64::from_be_bytes(*self.block.first_chunk().unwrap_or(&[0; 8]));
        };
        self.used += 8;
        u64::from_be_bytes(word)
    }

    pub(crate) fn next_u16(&mut self) -> u16 {
        let [low, high, ..] = self.next().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// In `0.0..1.0`.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Message ids: a keyed permutation of a counter. None comes again before all others were used, as RFC 7252 section 4.4 asks
/// for, and who does not know where a counter stands foretells none (four Feistel rounds over tables drawn at random).
#[derive(Clone)]
pub(crate) struct Ids {
    rounds: [[u8; 256]; 4],
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids")
    }
}

impl Ids {
    pub(crate) fn new(rng: &mut Rng) -> Ids {
        let mut rounds = [[0; 256]; 4];
        for bytes in rounds.iter_mut().flat_map(|table| table.as_chunks_mut::<8>().0) {
            *bytes = rng.next().to_be_bytes();
        }
        Ids { rounds }
    }

    pub(crate) fn nth(&self, counter: u16) -> u16 {
        let [left, right] = counter.to_be_bytes();
        let turn = |(left, right): (u8, u8), table: &[u8; 256]| {
            (right, left ^ table.get(usize::from(right)).copied().unwrap_or_default())
        };
        let (left, right) = self.rounds.iter().fold((left, right), turn);
        u16::from_be_bytes([left, right])
    }
}

/// A key for one purpose, from the secret that all of them come from.
pub(crate) fn derive(secret: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut mac = <Blake2sMac<U32> as Mac>::new(secret.into());
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_comes_twice_before_all_others() {
        let ids = Ids::new(&mut Rng::new([7; 32]));
        let all: std::collections::BTreeSet<u16> = (0..=u16::MAX).map(|n| ids.nth(n)).collect();
        assert_eq!(all.len(), 65_536);
        let steps: std::collections::BTreeSet<u16> =
            (0..1_000).map(|n| ids.nth(n + 1).wrapping_sub(ids.nth(n))).collect();
        assert!(steps.len() > 900, "{}", steps.len());
        assert_ne!(ids.nth(1), Ids::new(&mut Rng::new([8; 32])).nth(1));
    }

    /// The hash over key and counter, and nothing that one number tells about the next.
    #[test]
    fn numbers_are_a_keyed_hash_of_a_counter() {
        let mut rng = Rng::new([7; 32]);
        let drawn: Vec<u64> = (0..8).map(|_| rng.next()).collect();
        for (block, numbers) in drawn.chunks(4).enumerate() {
            let expected = derive(&[7; 32], &(block as u64).to_be_bytes());
            let got: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            assert_eq!(got, expected);
        }
        assert_ne!(Rng::new([8; 32]).next(), drawn[0]);
        assert_ne!(derive(&[7; 32], b"echo"), derive(&[7; 32], b"ids"));
    }
}
