//! How one entry of the map is laid out in sled.
//!
//! ```text
//! key    0x01 | escaped key | 0x00 0x01 | part u16 BE                             while the escaped key has up to 400 bytes
//!        0x01 | escaped front of the key | 0x00 0x02 | blake2s-160 of the whole key | part u16 BE                 otherwise
//! value  version u8 = 1 | length of the content, a varint (part 0 only) | crc32c u32 LE of key, all before, and data | data
//! ```
//! *Escaped* means each 0x00 became 0x00 0xff, so that no key is a prefix of another and order stays. The *content* is
//! the value, with the whole key in front (length as varint, then bytes) where the sled key has only its hash; it is cut
//! into parts of 4,000 bytes. Both limits keep sled's pages below the size at which they become unsynced blob files
//! ([`crate::spill::sled_dir`]). Keys that share their first 400 escaped bytes are a *group*, in hash order here; the
//! scan sorts it ([`super::side`]), so callers see key order throughout.
//!
//! 0x00 alone is the key of the marker ([`super::proof`]).

use crate::spill::varint;
use blake2::digest::consts::U20;
use blake2::{Blake2s, Digest};

const VERSION: u8 = 1;
const TAG: u8 = 0x01;
const WHOLE: u8 = 0x01;
const HASHED: u8 = 0x02;

/// Escaped bytes of a key that stand in the sled key.
const KEY_MAX: usize = 400;

/// Content bytes in one part.
const PART_MAX: usize = 4000;

/// Key of the marker.
pub(super) const MARKER_KEY: &[u8] = &[0x00];

/// The sled key of an entry without its part number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    bytes: Vec<u8>,
    /// Where the hash begins.
    hash_at: Option<usize>,
}

impl Place {
    /// Of a key.
    pub(super) fn of(key: &[u8]) -> Place {
        let (mut bytes, whole) = escape(key);
        bytes.extend_from_slice(&[0x00, if whole { WHOLE } else { HASHED }]);
        let hash_at = (!whole).then_some(bytes.len());
        if !whole {
            bytes.extend_from_slice(&Blake2s::<U20>::digest(key));
        }
        Place { bytes, hash_at }
    }

    /// The sled key of a part.
    pub(super) fn part(&self, part: u16) -> Vec<u8> {
        let mut key = self.bytes.clone();
        key.extend_from_slice(&part.to_be_bytes());
        key
    }

    /// A sled key behind every part of this entry and before every other; for a hashed key, the start of its group.
    pub(super) fn seek_behind(&self) -> Vec<u8> {
        match self.hash_at {
            Some(at) => self.bytes.get(..at).unwrap_or_default().to_vec(),
            None => [self.bytes.as_slice(), &[0xff, 0xff, 0x00]].concat(),
        }
    }

    /// Whether the whole key is in the content.
    pub(super) fn is_hashed(&self) -> bool {
        self.hash_at.is_some()
    }
}

/// Escapes as much of the key as fits; whether that is all of it.
fn escape(key: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(key.len().min(KEY_MAX) + 24);
    out.push(TAG);
    for byte in key {
        let escaped: &[u8] = if *byte == 0 { &[0x00, 0xff] } else { std::slice::from_ref(byte) };
        if out.len() + escaped.len() > KEY_MAX + 1 {
            return (out, false);
        }
        out.extend_from_slice(escaped);
    }
    (out, true)
}

/// What the sled keys of all keys with `prefix` begin with (and possibly some others', if the prefix is long).
pub(super) fn lower_bound(prefix: &[u8]) -> Vec<u8> {
    escape(prefix).0
}

/// A sled key taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredKey<'a> {
    pub(super) part: u16,
    /// For a hashed key, what its group has in common.
    pub(super) group: Option<&'a [u8]>,
    escaped: &'a [u8],
}

impl<'a> StoredKey<'a> {
    /// `None` for the marker and for what we never write.
    pub(super) fn parse(key: &'a [u8]) -> Option<StoredKey<'a>> {
        let (place, part) = key.split_last_chunk::<2>()?;
        let end = terminator(place)?;
        let escaped = place.get(1..end)?;
        let (kind, hash) = place.get(end + 1..)?.split_first()?;
        let group = match (*kind, hash.len()) {
            (WHOLE, 0) => None,
            (HASHED, 20) => Some(place.get(..end + 2)?),
            _ => return None,
        };
        (place.first() == Some(&TAG)).then_some(StoredKey { part: u16::from_be_bytes(*part), group, escaped })
    }

    /// The key that is not hashed.
    pub(super) fn unescape(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.escaped.len());
        let mut bytes = self.escaped.iter();
        while let Some(byte) = bytes.next() {
            out.push(*byte);
            if *byte == 0 {
                bytes.next();
            }
        }
        out
    }
}

/// Index of the 0x00 that is not followed by 0xff.
fn terminator(place: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += place.get(at..)?.iter().position(|byte| *byte == 0)?;
        if *place.get(at + 1)? != 0xff {
            return Some(at);
        }
        at += 2;
    }
}

/// Hands the parts of an entry to `put`, in order. `Err(None)` if there would be more than 65,536.
pub(super) fn write_parts<E>(
    place: &Place,
    key: &[u8],
    value: &[u8],
    mut put: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<u16, Option<E>> {
    let with_key;
    let content = if place.is_hashed() {
        let mut content = Vec::with_capacity(varint::MAX_LEN + key.len() + value.len());
        varint::put(&mut content, key.len() as u64);
        content.extend_from_slice(key);
        content.extend_from_slice(value);
        with_key = content;
        with_key.as_slice()
    } else {
        value
    };
    let parts = parts_of(content.len() as u64).ok_or(None)?;
    let mut slices = content.chunks(PART_MAX);
    for part in 0..parts {
        let sled_key = place.part(part);
        let mut stored = vec![VERSION];
        if part == 0 {
            varint::put(&mut stored, content.len() as u64);
        }
        let data = slices.next().unwrap_or_default();
        let checksum = checksum(&[&sled_key, &stored, data]);
        stored.extend_from_slice(&checksum.to_le_bytes());
        stored.extend_from_slice(data);
        put(&sled_key, &stored).map_err(Some)?;
    }
    Ok(parts)
}

/// Parts that a content of this length has; at least one.
fn parts_of(content: u64) -> Option<u16> {
    u16::try_from(content.div_ceil(PART_MAX as u64).max(1)).ok()
}

/// A part whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) checksum: u32,
    pub(super) data: &'a [u8],
    /// Length of the whole content and number of parts; part 0 only.
    pub(super) total: Option<(usize, u16)>,
}

/// `None` if the part is damaged or of another version.
pub(super) fn read_part<'a>(key: &[u8], part: u16, stored: &'a [u8]) -> Option<Part<'a>> {
    let (&VERSION, mut rest) = stored.split_first()? else { return None };
    let total = match part {
        0 => {
            let content = varint::take(&mut rest)?;
            Some((usize::try_from(content).ok()?, parts_of(content)?))
        }
        _ => None,
    };
    let covered = stored.get(..stored.len() - rest.len())?;
    let found = varint::take_u32(&mut rest)?;
    (found == checksum(&[key, covered, rest])).then_some(Part { checksum: found, data: rest, total })
}

/// Takes the key off the front of a hashed entry's content.
pub(super) fn split_key(content: &[u8]) -> Option<(&[u8], usize)> {
    let mut rest = content;
    let len = varint::take_len(&mut rest)?;
    let key = varint::take_bytes(&mut rest, len)?;
    Some((key, content.len() - rest.len()))
}

fn checksum(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// Keys around the limit and with many zeroes, where escaping could go wrong.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()];
        prop_oneof![vec(byte.clone(), 0..12), vec(Just(0u8), 195..205), vec(byte, 0..450)]
    }

    proptest! {
        #[test]
        fn order_of_keys_is_order_of_places_except_within_a_group(a in keys(), b in keys()) {
            let (x, y) = (Place::of(&a), Place::of(&b));
            let (key_a, key_b) = (x.part(0), y.part(0));
            let (stored_a, stored_b) = (StoredKey::parse(&key_a).unwrap(), StoredKey::parse(&key_b).unwrap());
            prop_assert_eq!(a == b, x == y);
            if stored_a.group.is_none() || stored_a.group != stored_b.group {
                prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
            }
            if stored_a.group.is_none() {
                prop_assert_eq!(stored_a.unescape(), a);
            }
            prop_assert!(key_a.len() <= 1 + KEY_MAX + 2 + 20 + 2);
        }

        #[test]
        fn a_prefix_bounds_its_keys(prefix in keys(), rest in keys()) {
            let key = [prefix.as_slice(), &rest].concat();
            prop_assert!(Place::of(&key).part(0).starts_with(&lower_bound(&prefix)));
        }

        #[test]
        fn seeking_behind_a_key_passes_its_parts_and_nothing_else(key in keys(), other in keys()) {
            let (place, other_place) = (Place::of(&key), Place::of(&other));
            let behind = place.seek_behind();
            if place.is_hashed() {
                prop_assert!(behind <= place.part(0));
            } else {
                prop_assert!(place.part(u16::MAX) < behind);
                prop_assert_eq!(other > key, other_place.part(0) >= behind);
            }
        }

        #[test]
        fn parts_come_back_and_flipped_bits_do_not(key in vec(any::<u8>(), 0..900), value in vec(any::<u8>(), 0..9000), bit: prop::sample::Index) {
            let place = Place::of(&key);
            let mut parts = Vec::new();
            write_parts(&place, &key, &value, |key, stored| {
                parts.push((key.to_vec(), stored.to_vec()));
                Ok::<(), Infallible>(())
            }).unwrap();
            let mut content = Vec::new();
            for (number, (sled_key, stored)) in (0u16..).zip(&parts) {
                prop_assert_eq!(StoredKey::parse(sled_key).unwrap().part, number);
                let part = read_part(sled_key, number, stored).unwrap();
                prop_assert!(number > 0 || part.total.unwrap().1 as usize == parts.len());
                content.extend_from_slice(part.data);
                prop_assert!(stored.len() <= PART_MAX + 20);
                let mut damaged = stored.clone();
                let bit = bit.index(damaged.len() * 8);
                damaged[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(read_part(sled_key, number, &damaged).is_none());
            }
            let skip = if place.is_hashed() { split_key(&content).unwrap().1 } else { 0 };
            prop_assert_eq!(&content[skip..], value.as_slice());
        }

        #[test]
        fn any_bytes_are_read_or_refused(key: Vec<u8>, stored: Vec<u8>, part: u16) {
            let _key = StoredKey::parse(&key).map(|key| key.unescape());
            let _part = read_part(&key, part, &stored);
            let _split = split_key(&stored);
        }
    }
}
