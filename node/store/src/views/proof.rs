//! The marker of a checkpoint: what it holds, in one small record.
//!
//! ```text
//! "EMVP" | version u8 = 1 | lsn | parts | sum | bytes, each u64 LE | crc32c u32 LE of all before
//! ```
//! It stands in sled as the entry written last, and, once the database was synced, opened anew and found to hold it, in the
//! file `<side>.proof` beside the directory. A side without that file is an unfinished checkpoint and counts for nothing.

use crate::backing::Lsn;

const MAGIC: &[u8; 5] = b"EMVP\x01";

/// Number, checksums and size of the sled entries of a side. Kept up entry by entry, so that a later count can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) parts: u64,
    /// Sum of the parts' checksums, modulo 2^64.
    pub(super) sum: u64,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, checksum: u32, bytes: usize) {
        self.parts = self.parts.wrapping_add(1);
        self.sum = self.sum.wrapping_add(u64::from(checksum));
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    pub(super) fn subtract(&mut self, checksum: u32, bytes: usize) {
        self.parts = self.parts.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(u64::from(checksum));
        self.bytes = self.bytes.wrapping_sub(bytes as u64);
    }
}

/// What a proven checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// The newest commit in it.
    pub(super) lsn: Lsn,
    pub(super) tally: Tally,
}

impl Proof {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for number in [self.lsn.0, self.tally.parts, self.tally.sum, self.tally.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// `None` if any byte is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Proof> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
            return None;
        }
        let numbers = body.strip_prefix(MAGIC)?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let lsn = Lsn(numbers.next()?);
        let tally = Tally { parts: numbers.next()?, sum: numbers.next()?, bytes: numbers.next()? };
        Some(Proof { lsn, tally })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_comes_back_unless_a_bit_is_wrong(lsn: u64, parts: u64, sum: u64, bytes: u64, bit: prop::sample::Index) {
            let proof = Proof { lsn: Lsn(lsn), tally: Tally { parts, sum, bytes } };
            let mut encoded = proof.encode();
            prop_assert_eq!(Proof::decode(&encoded), Some(proof));
            let bit = bit.index(encoded.len() * 8);
            encoded[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Proof::decode(&encoded), None);
        }
    }
}
