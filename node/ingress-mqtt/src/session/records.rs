//! Session state on disk: keys and values of the tables Session, Subscription, Inbound and Outbound. (Will: see
//! [`super::will`].)
//!
//! ```text
//! Session       key   client id (UTF-8)
//!               value version u8 = 2 | flags u8 (1 anonymous, 2 connected) | number u64 | expiry_secs u32 (MAX never)
//!                     | left u64 (ms since 1970 when it was last seen) | will u64 (its key in Will, 0 for none)
//!                     | sent_through u64 (when it was left: no later message was ever sent) | principal name, to the end
//!                     version 1: without will and sent_through
//!               key   0xFF (no UTF-8 starts like that)
//!               value version u8 = 1 | next number u64: no session has a number from here on
//!               key   0xFE | number u64 (of a session that has ended and was a member of shared subscriptions)
//!               value version u8 = 1 | count u16 | position u64 each: QoS 2 messages that it may have begun to receive
//! Subscription  key   number u64 | filter (UTF-8)
//!               value version u8 = 1 | options u8 (bits 0-1 QoS, 2 No Local, 3 Retain As Published, 4-5 Retain Handling,
//!                     6 retained messages are owed) | Subscription Identifier u32 | if they are owed: the topic up to which
//!                     they are not owed any more (UTF-8; nothing: all are), to the end
//! Inbound       key   number u64 | packet id u16
//!               value position u64 | version u8 = 1 | QoS u8 | content hash u64
//! Outbound      key   number u64 | packet id u16
//!               value version u8 = 1 | phase u8 (1 PUBLISH may be out, 2 PUBREC seen) | position u64 (0: in no mailbox)
//! ```
//! All numbers big-endian. A value of a later version, or one that does not decode, is skipped and counted at the start
//! (P6); it is never a reason to stop.
//!
//! **Which QoS 1 identifiers have a row.** After a kill, a row cannot tell whether its PUBACK was written. If it was, the
//! client may have used the identifier again, in what was read next and not yet stored; should the content be the same,
//! taking its resend for the old message would be a silent loss (P2). So a row is written only for clients that are known
//! to count their identifiers up further than two batches reach (see `Session::counts_up`): with those, an identifier
//! cannot come again before the commit that removes its row. All others are recognised as long as the process lives,
//! which covers every lost connection; after a kill their resend is stored again (at least once).
//!
//! A client that comes back sends again what was not answered, before anything new [MQTT-4.4.0-1]. So with its first new
//! message all QoS 1 identifiers of earlier connections that it has not sent again are free, row or not: it had their
//! PUBACK although the node could not know.
//!
//! Outbound holds the packet identifier of a QoS 2 message from before its first
//! PUBLISH, because a resend must use the same one [MQTT-4.4.0-1] and the mailbox entry is the hub's to write.

use super::will::WillNo;
use bytes::{BufMut, Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Qos, Timestamp};
use eventmesh_edge_core::ports::hub::{Principal, SubscribeOptions};
use eventmesh_edge_core::ports::store::{SessionNo, StateChange, StateValue, Table};

/// Version byte of every value written today, but of session records.
const VERSION: u8 = 1;
const SESSION_VERSION: u8 = 2;
const ANONYMOUS: u8 = 1;
const CONNECTED: u8 = 2;
const RETAINED_OWED: u8 = 0x40;

/// Key of the number mark.
pub(crate) const NUMBER_MARK: &[u8] = &[0xFF];

/// A session as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) principal: Principal,
    pub(crate) number: SessionNo,
    pub(crate) expiry_secs: u32,
    pub(crate) connected: bool,
    pub(crate) left: Timestamp,
    /// Of its connection, or of the one that was lost, as long as it is owed.
    pub(crate) will: Option<WillNo>,
    /// Messages up to here may have been sent, later ones were not. `None`: not known, for it is connected, or the record
    /// is of version 1.
    pub(crate) sent_through: Option<Position>,
}

impl SessionRecord {
    pub(crate) fn put(&self, client_id: &Text) -> StateChange {
        let value = StateValue::Bytes(self.encode());
        StateChange::Put { table: Table::Session, key: client_id.as_bytes().clone(), value }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(38 + self.principal.name.len());
        out.put_u8(SESSION_VERSION);
        let anonymous = if self.principal.anonymous { ANONYMOUS } else { 0 };
        out.put_u8(anonymous | if self.connected { CONNECTED } else { 0 });
        out.put_u64(self.number.0);
        out.put_u32(self.expiry_secs);
        out.put_u64(self.left.0);
        out.put_u64(self.will.map_or(0, |will| will.0));
        out.put_u64(self.sent_through.map_or(0, |position| position.0));
        out.put_slice(self.principal.name.as_bytes());
        out.freeze()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<SessionRecord> {
        let mut r = Reader(value);
        let version = r.u8().filter(|version| (1..=SESSION_VERSION).contains(version))?;
        let flags = r.u8()?;
        let connected = flags & CONNECTED != 0;
        let number = SessionNo(r.u64()?);
        let expiry_secs = r.u32()?;
        let left = Timestamp(r.u64()?);
        let (mut will, mut sent_through) = (None, None);
        if version > 1 {
            will = Some(WillNo(r.u64()?)).filter(|will| will.0 > 0);
            sent_through = Some(Position(r.u64()?)).filter(|_| !connected);
        }
        let name = std::str::from_utf8(r.0).ok()?;
        let principal = Principal { name: Text::from(name), anonymous: flags & ANONYMOUS != 0 };
        Some(SessionRecord { principal, number, expiry_secs, connected, left, will, sent_through })
    }
}

/// First byte of the keys of sessions that have ended.
pub(crate) const ENDED: u8 = 0xFE;

pub(crate) fn ended_key(number: SessionNo) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(ENDED);
    out.put_u64(number.0);
    out.freeze()
}

pub(crate) fn put_ended(number: SessionNo, begun: &[Position]) -> StateChange {
    let mut out = BytesMut::with_capacity(3 + 8 * begun.len());
    out.put_u8(VERSION);
    let begun = begun.get(..usize::from(u16::MAX)).unwrap_or(begun);
    out.put_u16(u16::try_from(begun.len()).unwrap_or(u16::MAX));
    begun.iter().for_each(|position| out.put_u64(position.0));
    StateChange::Put { table: Table::Session, key: ended_key(number), value: StateValue::Bytes(out.freeze()) }
}

/// Number and begun messages of a session that has ended; `None` if they do not decode.
pub(crate) fn decode_ended(key: &[u8], value: &[u8]) -> Option<(SessionNo, Vec<Position>)> {
    let number = key.strip_prefix(&[ENDED])?.try_into().ok().map(u64::from_be_bytes)?;
    let mut r = Reader(value);
    r.version(VERSION)?;
    let count = r.u16()?;
    let begun = (0..count).map(|_| r.u64().map(Position)).collect::<Option<_>>()?;
    Some((SessionNo(number), begun))
}

pub(crate) fn encode_number_mark(next: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(VERSION);
    out.put_u64(next);
    out.freeze()
}

pub(crate) fn decode_number_mark(value: &[u8]) -> Option<u64> {
    let mut r = Reader(value);
    r.version(VERSION)?;
    r.u64()
}

pub(crate) fn subscription_key(number: SessionNo, filter: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + filter.len());
    out.put_u64(number.0);
    out.put_slice(filter.as_bytes());
    out.freeze()
}

/// Session number and what follows it, of a key of Subscription, Inbound or Outbound.
pub(crate) fn split_key(key: &[u8]) -> Option<(SessionNo, &[u8])> {
    let mut r = Reader(key);
    Some((SessionNo(r.u64()?), r.0))
}

/// From which topic on a subscription's retained messages are owed: behind this one, or all of them.
pub(crate) type Owed = Option<Text>;

/// `owed`: retained messages of QoS 1 and 2 that are not in the mailbox yet.
pub(crate) fn encode_subscription(options: SubscribeOptions, owed: Option<&Owed>) -> Bytes {
    let mut out = BytesMut::with_capacity(6);
    out.put_u8(VERSION);
    out.put_u8(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | (options.retain_handling & 3) << 4
            | if owed.is_some() { RETAINED_OWED } else { 0 },
    );
    out.put_u32(options.identifier);
    out.put_slice(owed.and_then(Option::as_ref).map_or(&[][..], |after| after.as_bytes()));
    out.freeze()
}

pub(crate) fn decode_subscription(value: &[u8]) -> Option<(SubscribeOptions, Option<Owed>)> {
    let mut r = Reader(value);
    r.version(VERSION)?;
    let bits = r.u8()?;
    let options = SubscribeOptions {
        qos: Qos::from_u8(bits & 3)?,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        retain_handling: bits >> 4 & 3,
        identifier: r.u32()?,
    };
    let after = std::str::from_utf8(r.0).ok().filter(|after| !after.is_empty()).map(Text::from);
    Some((options, (bits & RETAINED_OWED != 0).then_some(after)))
}

pub(crate) fn pid_key(number: SessionNo, pid: u16) -> Bytes {
    let mut out = BytesMut::with_capacity(10);
    out.put_u64(number.0);
    out.put_u16(pid);
    out.freeze()
}

pub(crate) fn decode_pid(rest: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(rest.try_into().ok()?))
}

/// A publish received whose packet identifier is not free yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    pub(crate) qos: Qos,
    pub(crate) hash: u64,
    /// It has a row.
    pub(crate) durable: bool,
    /// Of an earlier connection, and not sent again on this one so far: the client may have its answer.
    pub(crate) unsure: bool,
}

impl Inbound {
    /// `Put` that refers to publication `event` of the same submission for its position.
    pub(crate) fn put(&self, number: SessionNo, pid: u16, event: usize) -> StateChange {
        let mut suffix = BytesMut::with_capacity(10);
        suffix.put_u8(VERSION);
        suffix.put_u8(self.qos as u8);
        suffix.put_u64(self.hash);
        let value = StateValue::Position { event, suffix: suffix.freeze() };
        StateChange::Put { table: Table::Inbound, key: pid_key(number, pid), value }
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Inbound> {
        let mut r = Reader(value);
        r.u64()?; // position: for later
        r.version(VERSION)?;
        Some(Inbound { qos: Qos::from_u8(r.u8()?)?, hash: r.u64()?, durable: true, unsure: true })
    }
}

/// A QoS 2 message sent whose packet identifier is not free yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutboundRecord {
    pub(crate) released: bool,
    /// `None` for one that was in no mailbox: a retained message at SUBSCRIBE.
    pub(crate) position: Option<Position>,
}

impl OutboundRecord {
    pub(crate) fn put(&self, number: SessionNo, pid: u16) -> StateChange {
        let mut out = BytesMut::with_capacity(10);
        out.put_u8(VERSION);
        out.put_u8(if self.released { 2 } else { 1 });
        out.put_u64(self.position.map_or(0, |position| position.0));
        let value = StateValue::Bytes(out.freeze());
        StateChange::Put { table: Table::Outbound, key: pid_key(number, pid), value }
    }

    pub(crate) fn decode(value: &[u8]) -> Option<OutboundRecord> {
        let mut r = Reader(value);
        r.version(VERSION)?;
        let released = match r.u8()? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let position = Some(Position(r.u64()?)).filter(|position| *position > Position::ZERO);
        Some(OutboundRecord { released, position })
    }
}

pub(crate) fn delete(table: Table, key: Bytes) -> StateChange {
    StateChange::Delete { table, key }
}

/// 64 bits over topic and payload, to tell a resend from a new message under the same packet identifier. Its values
/// are on disk, so it is spelled out here and pinned by a test; it guards against mistakes, not against malice.
pub(crate) fn content_hash(topic: &[u8], payload: &[u8]) -> u64 {
    let seed = mix(0x9E37_79B9_7F4A_7C15, topic.len() as u64);
    absorb(absorb(seed, topic), payload)
}

fn absorb(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0u8; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    mix(mix(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// Folded multiplication: high and low half of the product, XORed.
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word) * u128::from(0xA076_1D64_78BD_642F_u64);
    let [low, high] = [product, product >> 64].map(|half| {
        let [a, b, c, d, e, f, g, h, ..] = half.to_le_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    });
    low ^ high ^ hash.rotate_left(23)
}

/// Takes numbers off the front of a value.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn version(&mut self, known: u8) -> Option<()> {
        (self.u8()? == known).then_some(())
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_session_record_is_read_back(
            name in "\\PC{0,20}", anonymous: bool, connected: bool, number: u64, expiry_secs: u32, left: u64,
            will: u64, sent_through: u64,
        ) {
            let record = SessionRecord {
                principal: Principal { name: Text::from(name), anonymous },
                number: SessionNo(number), expiry_secs, connected, left: Timestamp(left),
                will: Some(WillNo(will)).filter(|will| will.0 > 0),
                sent_through: Some(Position(sent_through)).filter(|_| !connected),
            };
            prop_assert_eq!(SessionRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn a_subscription_is_read_back(
            qos in 0u8..3, no_local: bool, retain_as_published: bool, retain_handling in 0u8..3, identifier: u32,
            owed in proptest::option::of(proptest::option::of("[a-z]{1,20}")),
        ) {
            let options = SubscribeOptions {
                qos: Qos::from_u8(qos).unwrap(), no_local, retain_as_published, retain_handling, identifier,
            };
            let owed = owed.map(|after| after.map(Text::from));
            let value = encode_subscription(options, owed.as_ref());
            prop_assert_eq!(decode_subscription(&value), Some((options, owed)));
        }

        #[test]
        fn no_value_makes_a_reader_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let found = (
                SessionRecord::decode(&value), decode_subscription(&value), Inbound::decode(&value),
                OutboundRecord::decode(&value), decode_number_mark(&value), split_key(&value).is_some(),
                decode_ended(&ended_key(SessionNo(1)), &value), decode_ended(&value, &value),
            );
            drop(found);
        }

        #[test]
        fn different_messages_have_different_hashes(
            a in proptest::collection::vec(any::<u8>(), 0..40), b in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(content_hash(b"t", &a) == content_hash(b"t", &b), a == b);
        }
    }

    /// The values of today's versions, byte for byte: what the next version of the node has to read.
    #[test]
    fn the_layout_is_what_the_module_says() {
        let record = SessionRecord {
            principal: Principal { name: Text::from_static("é"), anonymous: true },
            number: SessionNo(7),
            expiry_secs: 3600,
            connected: false,
            left: Timestamp(258),
            will: Some(WillNo(5)),
            sent_through: Some(Position(6)),
        };
        let fixed = b"\x01\0\0\0\0\0\0\0\x07\0\0\x0E\x10\0\0\0\0\0\0\x01\x02";
        let new = b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06";
        let name = "é".as_bytes();
        assert_eq!(record.encode(), [b"\x02", &fixed[..], new, name].concat());
        let earlier = SessionRecord::decode(&[b"\x01", &fixed[..], name].concat());
        assert_eq!(earlier, Some(SessionRecord { will: None, sent_through: None, ..record }));
        let options = SubscribeOptions {
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: 1,
            identifier: 5,
        };
        assert_eq!(&encode_subscription(options, None)[..], b"\x01\x16\0\0\0\x05");
        let owed = Some(Text::from_static("a/b"));
        assert_eq!(&encode_subscription(options, Some(&owed))[..], b"\x01\x56\0\0\0\x05a/b");
        assert_eq!(&pid_key(SessionNo(1), 513)[..], b"\0\0\0\0\0\0\0\x01\x02\x01");
        let begun = vec![Position(2), Position(258)];
        let StateChange::Put { key, value: StateValue::Bytes(value), .. } = put_ended(SessionNo(7), &begun)
        else {
            panic!()
        };
        assert_eq!(&key[..], b"\xFE\0\0\0\0\0\0\0\x07");
        assert_eq!(&value[..], b"\x01\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x01\x02");
        assert_eq!(decode_ended(&key, &value), Some((SessionNo(7), begun)));
        let out = OutboundRecord { released: true, position: Some(Position(9)) };
        let StateChange::Put { value: StateValue::Bytes(value), .. } = out.put(SessionNo(1), 1) else {
            panic!()
        };
        assert_eq!(&value[..], b"\x01\x02\0\0\0\0\0\0\0\x09");
        assert_eq!(OutboundRecord::decode(&value), Some(out));
    }

    #[test]
    fn the_hash_is_pinned() {
        assert_eq!(content_hash(b"plant/7/temp", b"21.5"), PINNED);
        assert_ne!(content_hash(b"a", b"bc"), content_hash(b"ab", b"c"), "the border counts");
        assert_ne!(content_hash(b"a", b""), content_hash(b"a", b"\0"), "trailing zeros count");
    }
    const PINNED: u64 = 1_435_196_930_128_283_984;
}
