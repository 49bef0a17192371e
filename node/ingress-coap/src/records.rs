//! What is durable of CoAP devices: rows of the table Node, behind a common prefix.
//!
//! ```text
//! coap/n                      version u8 = 1 | u64: no device has a number from here on
//! coap/d/<device>             version u8 = 2 | number u64: its mailbox | heard u64: when the device was last heard of, about
//!                             (ms since 1970, 0 if the clock was not set). Version 1 has no `heard`.
//! coap/r/<slot>               version u8 = 1 | code u8 | at u64 | fingerprint u64 | fingerprint u64 or nothing: a request that was
//!                             answered, with what it stored. Slots are u16, below [`SLOTS`], used in turn
//! coap/o/<address><token>     version u8 = 1 | flags u8 (1 with Accept) | Accept u16 | target: topic name or filter
//!                             address: u8 4 or 6 | octets | port u16
//! ```
//! Numbers are big-endian. A value of a later version, or one that does not decode, is skipped at the start (P6).
//!
//! Mailboxes of devices have session numbers with the highest bit set; those of MQTT sessions count from 1.

use bytes::{BufMut, Bytes, BytesMut};
use eventmesh_edge_coap::{Code, Fingerprint, Identity, Token};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::store::{SessionNo, StateChange, StateValue, Table};
use std::net::{IpAddr, SocketAddr};

/// In front of every key.
pub const PREFIX: &[u8] = b"coap/";

const VERSION: u8 = 1;
const DEVICE_VERSION: u8 = 2;
const MARK: &[u8] = b"coap/n";
const DEVICE: &[u8] = b"coap/d/";
const OBSERVER: &[u8] = b"coap/o/";
const ANSWERED: &[u8] = b"coap/r/";
/// Requests that are known after a restart: the newest ones of all devices.
pub const SLOTS: u16 = 8_192;
const DEVICE_BIT: u64 = 1 << 63;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Mark(u64),
    Device { name: Text, number: u64, heard: Timestamp },
    Observer(Kept),
    Answered(Answered),
}

/// A request that was stored and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) slot: u16,
    pub(crate) code: Code,
    pub(crate) at: Timestamp,
    pub(crate) identity: Identity,
}

impl Answered {
    pub(crate) fn put(&self) -> StateChange {
        let mut value = BytesMut::with_capacity(26);
        value.put_u8(VERSION);
        value.put_u8(self.code.0);
        value.put_u64(self.at.0);
        value.put_u64(self.identity.message.0);
        if let Some(body) = self.identity.body {
            value.put_u64(body.0);
        }
        put([ANSWERED, &self.slot.to_be_bytes()].concat().into(), value.freeze())
    }

    fn read(slot: &[u8], value: &[u8]) -> Option<Answered> {
        let slot = u16::from_be_bytes(slot.try_into().ok()?);
        let (code, value) = value.split_first()?;
        let (at, value) = value.split_first_chunk()?;
        let (message, body) = value.split_first_chunk()?;
        let body = match body {
            [] => None,
            body => Some(Fingerprint(u64::from_be_bytes(body.try_into().ok()?))),
        };
        let message = Fingerprint(u64::from_be_bytes(*message));
        let at = Timestamp(u64::from_be_bytes(*at));
        Some(Answered { slot, code: Code(*code), at, identity: Identity { message, body } })
    }
}

/// An observation that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) peer: SocketAddr,
    pub(crate) token: Token,
    pub(crate) accept: Option<u16>,
    /// Topic name, or filter with `is_filter`.
    pub(crate) target: Text,
    pub(crate) is_filter: bool,
}

/// The mailbox of a device.
pub(crate) fn session(number: u64) -> SessionNo {
    SessionNo(DEVICE_BIT | number)
}

/// What [`session`] was made of.
pub(crate) fn number(session: SessionNo) -> u64 {
    session.0 & !DEVICE_BIT
}

pub(crate) fn put_mark(next: u64) -> StateChange {
    let mut value = BytesMut::with_capacity(9);
    value.put_u8(VERSION);
    value.put_u64(next);
    put(Bytes::from_static(MARK), value.freeze())
}

pub(crate) fn put_device(name: &str, number: u64, heard: Timestamp) -> StateChange {
    let mut value = BytesMut::with_capacity(17);
    value.put_u8(DEVICE_VERSION);
    value.put_u64(number);
    value.put_u64(if heard.is_plausible() { heard.0 } else { 0 });
    put(device_key(name), value.freeze())
}

pub(crate) fn delete_device(name: &str) -> StateChange {
    StateChange::Delete { table: Table::Node, key: device_key(name) }
}

fn device_key(name: &str) -> Bytes {
    [DEVICE, name.as_bytes()].concat().into()
}

impl Kept {
    pub(crate) fn put(&self) -> StateChange {
        let mut value = BytesMut::new();
        value.put_u8(VERSION);
        value.put_u8(u8::from(self.accept.is_some()) | u8::from(self.is_filter) << 1);
        value.put_u16(self.accept.unwrap_or_default());
        value.put_slice(self.target.as_bytes());
        put(observer_key(self.peer, self.token), value.freeze())
    }
}

pub(crate) fn delete_observer(peer: SocketAddr, token: Token) -> StateChange {
    StateChange::Delete { table: Table::Node, key: observer_key(peer, token) }
}

fn put(key: Bytes, value: Bytes) -> StateChange {
    StateChange::Put { table: Table::Node, key, value: StateValue::Bytes(value) }
}

fn observer_key(peer: SocketAddr, token: Token) -> Bytes {
    let mut key = BytesMut::from(OBSERVER);
    match peer.ip() {
        IpAddr::V4(ip) => {
            key.put_u8(4);
            key.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            key.put_u8(6);
            key.put_slice(&ip.octets());
        }
    }
    key.put_u16(peer.port());
    key.put_slice(token.as_bytes());
    key.freeze()
}

/// Reads a row; `None` for one that is not understood.
pub(crate) fn read(key: &[u8], value: &[u8]) -> Option<Row> {
    let (version, value) = value.split_first()?;
    if let Some(name) = key.strip_prefix(DEVICE) {
        return device(name, *version, value);
    }
    if *version != VERSION {
        return None;
    }
    if key == MARK {
        return Some(Row::Mark(u64::from_be_bytes(value.try_into().ok()?)));
    }
    if let Some(slot) = key.strip_prefix(ANSWERED) {
        return Answered::read(slot, value).map(Row::Answered);
    }
    let (peer, token) = observer(key.strip_prefix(OBSERVER)?)?;
    let (head, target) = value.split_at_checked(3)?;
    let [flags, high, low] = *head else { return None };
    Some(Row::Observer(Kept {
        peer,
        token,
        accept: (flags & 1 != 0).then(|| u16::from_be_bytes([high, low])),
        target: Text::from(std::str::from_utf8(target).ok()?),
        is_filter: flags & 2 != 0,
    }))
}

fn device(name: &[u8], version: u8, value: &[u8]) -> Option<Row> {
    let name = Text::from(std::str::from_utf8(name).ok()?);
    let (number, heard) = value.split_first_chunk::<8>()?;
    let heard = match (version, heard) {
        (VERSION, []) => 0,
        (DEVICE_VERSION, heard) => u64::from_be_bytes(heard.try_into().ok()?),
        _ => return None,
    };
    Some(Row::Device { name, number: u64::from_be_bytes(*number), heard: Timestamp(heard) })
}

fn observer(key: &[u8]) -> Option<(SocketAddr, Token)> {
    let (family, rest) = key.split_first()?;
    let (ip, rest) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        _ => return None,
    };
    let (port, token) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), Token::new(token)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(change: StateChange) -> Option<Row> {
        let StateChange::Put { key, value: StateValue::Bytes(value), .. } = change else { return None };
        read(&key, &value)
    }

    #[test]
    fn rows_are_read_back() {
        assert_eq!(back(put_mark(7)), Some(Row::Mark(7)));
        let device = |heard| Row::Device { name: Text::from_static("pump/3"), number: 9, heard };
        let heard = Timestamp(1_790_000_000_000);
        assert_eq!(back(put_device("pump/3", 9, heard)), Some(device(heard)));
        assert_eq!(
            back(put_device("pump/3", 9, Timestamp(5))),
            Some(device(Timestamp(0))),
            "a clock at 1970"
        );
        let first = [&[1u8][..], &9u64.to_be_bytes()].concat();
        assert_eq!(read(&device_key("pump/3"), &first), Some(device(Timestamp(0))), "as version 1 had it");
        for body in [None, Some(Fingerprint(5))] {
            let identity = Identity { message: Fingerprint(4), body };
            let answered = Answered { slot: 8_191, code: Code::CHANGED, at: heard, identity };
            assert_eq!(back(answered.put()), Some(Row::Answered(answered)));
        }
        for peer in ["192.0.2.1:5683", "[2001:db8::1]:1"] {
            let kept = Kept {
                peer: peer.parse().unwrap(),
                token: Token::new(&[1, 2, 3]).unwrap(),
                accept: Some(50),
                target: Text::from_static("a/+"),
                is_filter: true,
            };
            assert_eq!(back(kept.put()), Some(Row::Observer(kept)));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(any::<u8>(), 0..40)) {
            read(&key, &value);
            for prefix in [DEVICE, OBSERVER, MARK, ANSWERED] {
                read(&[prefix, &key].concat(), &value);
            }
        }
    }
}
