//! Delays between attempts, spread so that a thousand nodes do not come back in the same instant.

use super::Backoff;
use std::time::Duration;

/// A xorshift64* generator: small, seeded, good enough to spread delays and for nothing else.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        // One round of splitmix64: neighbouring seeds begin far apart. The generator itself stands still at zero.
        let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The delay after `failures` earlier failures: between half and all of the exponential value.
    pub(super) fn delay(&mut self, backoff: Backoff, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let whole = backoff.base.saturating_mul(factor).min(backoff.cap);
        let half = whole / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.next() % span.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) };

    #[test]
    fn delays_double_up_to_the_cap_and_keep_to_the_upper_half() {
        let mut jitter = Jitter::new(7);
        for failures in 0..80 {
            let whole = Duration::from_millis(250 << failures.min(20)).min(BACKOFF.cap);
            for _ in 0..100 {
                let delay = jitter.delay(BACKOFF, failures);
                assert!(delay >= whole / 2 && delay <= whole, "{failures}: {delay:?} of {whole:?}");
            }
        }
    }

    #[test]
    fn two_seeds_spread_and_one_seed_repeats() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..8).map(|_| jitter.delay(BACKOFF, 3)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(0), draw(1));
    }
}
