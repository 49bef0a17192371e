//! How the options of a mailbox entry are written.
//!
//! ```text
//! flags u8: bits 0-1 QoS | bit 2 RETAIN | bits 4-7 version = 1
//! count: LEB128 | identifiers: LEB128 each | nothing, or the shared subscriptions that it is delivered for:
//! count: LEB128 | each: length LEB128, UTF-8 | nothing (what stands there is left alone)
//! ```
//! Two bytes for nearly every entry. The hub writes them at the commit, and nobody changes them.

use crate::Text;
use crate::event::Qos;
use crate::ports::hub::MailboxOptions;
use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
const RETAIN: u8 = 0b100;
/// More than any client sends; keeps a damaged count from asking for memory.
const MAX_IDENTIFIERS: u32 = 4096;

impl MailboxOptions {
    /// The bytes for [`MailboxEntry::options`](crate::ports::store::MailboxEntry::options).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let flags = (VERSION << 4) | if self.retain { RETAIN } else { 0 } | self.qos as u8;
        if self.identifiers.is_empty() && self.shares.is_empty() {
            return plain(flags);
        }
        let count = u32::try_from(self.identifiers.len()).unwrap_or(MAX_IDENTIFIERS).min(MAX_IDENTIFIERS);
        let mut out = BytesMut::with_capacity(3 + 5 * self.identifiers.len());
        out.put_u8(flags);
        put_varint(&mut out, count);
        for identifier in self.identifiers.iter().take(count as usize) {
            put_varint(&mut out, *identifier);
        }
        if !self.shares.is_empty() {
            put_varint(&mut out, length(self.shares.len()));
            for share in &self.shares {
                put_varint(&mut out, length(share.len()));
                out.put_slice(share.as_bytes());
            }
        }
        out.freeze()
    }

    /// Reads what [`MailboxOptions::encode`] wrote; `None` if the bytes are something else.
    #[must_use]
    pub fn decode(options: &Bytes) -> Option<MailboxOptions> {
        let mut at = 1;
        let flags = *options.first()?;
        if flags >> 4 != VERSION {
            return None;
        }
        let qos = Qos::from_u8(flags & 0b11)?;
        let count = take_varint(options, &mut at)?;
        if count > MAX_IDENTIFIERS {
            return None;
        }
        let identifiers = (0..count).map(|_| take_varint(options, &mut at)).collect::<Option<Vec<_>>>()?;
        let shares = take_shares(options, &mut at).unwrap_or_default();
        Some(MailboxOptions { qos, retain: flags & RETAIN != 0, identifiers, shares })
    }
}

/// The usual two bytes, without an allocation: a message for a thousand sessions has a thousand of them.
fn plain(flags: u8) -> Bytes {
    const TABLE: [[u8; 2]; 8] = [
        [VERSION << 4, 0],
        [(VERSION << 4) | 1, 0],
        [(VERSION << 4) | 2, 0],
        [(VERSION << 4) | 3, 0],
        [(VERSION << 4) | 4, 0],
        [(VERSION << 4) | 5, 0],
        [(VERSION << 4) | 6, 0],
        [(VERSION << 4) | 7, 0],
    ];
    static PLAIN: [[u8; 2]; 8] = TABLE;
    PLAIN.get(usize::from(flags & 0b111)).map_or_else(Bytes::new, |two| Bytes::from_static(two))
}

/// Of a text that came in one MQTT packet, or of a list of those.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// What an earlier version did not write is not missing.
fn take_shares(options: &Bytes, at: &mut usize) -> Option<Vec<Text>> {
    let count = take_varint(options, at)?;
    let mut shares = Vec::new();
    for _ in 0..count {
        let end = take_varint(options, at)? as usize + *at;
        shares.push(Text::from(std::str::from_utf8(options.get(*at..end)?).ok()?));
        *at = end;
    }
    Some(shares)
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while let (low, 1..) = ((value & 0x7f) as u8, value >> 7) {
        out.put_u8(low | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn options()(
            qos in 0u8..3,
            retain: bool,
            identifiers in prop::collection::vec(any::<u32>(), 0..5),
            shares in prop::collection::vec("\\PC{0,200}", 0..3),
        ) -> MailboxOptions {
            let shares = shares.into_iter().map(Text::from).collect();
            MailboxOptions { qos: Qos::from_u8(qos).unwrap(), retain, identifiers, shares }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(options in options()) {
            prop_assert_eq!(MailboxOptions::decode(&options.encode()), Some(options));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            drop(MailboxOptions::decode(&Bytes::from(bytes)));
        }
    }

    #[test]
    fn an_ordinary_entry_has_two_bytes() {
        let options =
            MailboxOptions { qos: Qos::AtLeastOnce, retain: false, identifiers: vec![], shares: vec![] };
        assert_eq!(&options.encode()[..], [0x11, 0]);
    }

    #[test]
    fn other_versions_and_a_damaged_count_are_not_options() {
        assert_eq!(MailboxOptions::decode(&Bytes::from_static(&[0x21, 0])), None);
        assert_eq!(MailboxOptions::decode(&Bytes::from_static(&[0x11, 0xff, 0xff, 0xff, 0xff, 0x0f])), None);
        assert_eq!(MailboxOptions::decode(&Bytes::new()), None);
    }
}
