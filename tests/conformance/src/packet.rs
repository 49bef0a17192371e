//! What the node sends, read strictly.

use crate::wire::Version;
use std::collections::BTreeMap;

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One, two, four bytes, or a variable byte integer.
    Number(u32),
    /// Text.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// A User Property.
    Pair(String, String),
}

/// Properties in their order.
pub type Properties = Vec<(u8, Value)>;

/// A PUBLISH from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Topic name; empty where an alias stands for it.
    pub topic: String,
    /// Payload, which all tests choose to be text.
    pub payload: String,
    /// QoS.
    pub qos: u8,
    /// Packet identifier, 0 with QoS 0.
    pub pid: u16,
    /// DUP flag.
    pub dup: bool,
    /// RETAIN flag.
    pub retain: bool,
    /// Properties.
    pub properties: Properties,
}

impl Published {
    /// The number of a property.
    #[must_use]
    pub fn number(&self, id: u8) -> Option<u32> {
        number(&self.properties, id)
    }

    /// Topic and payload.
    #[must_use]
    pub fn content(&self) -> (&str, &str) {
        (&self.topic, &self.payload)
    }
}

/// The number of a property.
#[must_use]
pub fn number(properties: &Properties, id: u8) -> Option<u32> {
    properties.iter().find_map(|(known, value)| match value {
        Value::Number(n) if *known == id => Some(*n),
        _ => None,
    })
}

/// The text of a property.
#[must_use]
pub fn text_of(properties: &Properties, id: u8) -> Option<&str> {
    properties.iter().find_map(|(known, value)| match value {
        Value::Text(text) if *known == id => Some(&**text),
        _ => None,
    })
}

/// A packet from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK.
    ConnAck {
        /// Session Present.
        present: bool,
        /// Reason Code or return code.
        code: u8,
        /// Properties.
        properties: Properties,
    },
    /// PUBLISH.
    Publish(Published),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP by their first byte.
    Ack {
        /// First byte.
        first: u8,
        /// Packet identifier.
        pid: u16,
        /// Reason Code.
        reason: u8,
        /// Properties.
        properties: Properties,
    },
    /// SUBACK.
    SubAck {
        /// Packet identifier.
        pid: u16,
        /// One per filter.
        codes: Vec<u8>,
        /// Properties.
        properties: Properties,
    },
    /// UNSUBACK.
    UnsubAck {
        /// Packet identifier.
        pid: u16,
        /// One per filter; none in 3.1.1.
        codes: Vec<u8>,
        /// Properties.
        properties: Properties,
    },
    /// PINGRESP.
    PingResp,
    /// DISCONNECT.
    Disconnect {
        /// Reason Code.
        reason: u8,
        /// Properties.
        properties: Properties,
    },
}

/// Reason codes that MQTT 5 lists for each packet (tables 3-1 and 3-4 to 3-13), by the packet's type.
fn reasons(kind: u8) -> &'static [u8] {
    match kind {
        2 => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        4 | 5 => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        6 | 7 => &[0x00, 0x92],
        9 => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        11 => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        // Without those that only clients send, 0x04 among them.
        14 => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
            0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        _ => panic!("packet type {kind} has no reason codes"),
    }
}

/// Properties that MQTT 5 allows in each packet from a server (table 2-4).
fn allowed(kind: u8, id: u8) -> bool {
    match kind {
        2 => matches!(
            id,
            0x11 | 0x12 | 0x13 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F | 0x21 | 0x22 | 0x24 | 0x25 | 0x26..=0x2A
        ),
        3 => matches!(id, 0x01 | 0x02 | 0x03 | 0x08 | 0x09 | 0x0B | 0x23 | 0x26),
        4..=7 | 9 | 11 => matches!(id, 0x1F | 0x26),
        14 => matches!(id, 0x1C | 0x1F | 0x26),
        _ => false,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        assert!(self.0.len() >= n, "the node sent a packet that ends within a field");
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }

    fn varint(&mut self) -> u32 {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8();
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                assert!(index == 0 || byte != 0, "more bytes than the number needs [MQTT-1.5.5-1]");
                return value;
            }
        }
        panic!("a variable byte integer of more than four bytes");
    }

    fn text(&mut self) -> String {
        let length = self.u16().into();
        let text = String::from_utf8(self.take(length).to_vec()).expect("text is UTF-8 [MQTT-1.5.4-1]");
        assert!(!text.contains('\0'), "[MQTT-1.5.4-2]");
        text
    }

    fn properties(&mut self, kind: u8) -> Properties {
        let length = self.varint() as usize;
        let mut block = Reader(self.take(length));
        let (mut out, mut times) = (Vec::new(), BTreeMap::<u8, u32>::new());
        while !block.0.is_empty() {
            let id = u8::try_from(block.varint()).unwrap();
            assert!(allowed(kind, id), "property {id:#x} in packet type {kind}");
            *times.entry(id).or_default() += 1;
            assert!(times[&id] == 1 || id == 0x26 || id == 0x0B, "property {id:#x} twice");
            out.push((id, block.value(id)));
        }
        out
    }

    fn value(&mut self, id: u8) -> Value {
        match id {
            0x01 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => {
                let byte = self.u8();
                assert!(byte <= 1, "property {id:#x} is 0 or 1");
                Value::Number(byte.into())
            }
            0x13 | 0x21 | 0x22 | 0x23 => Value::Number(self.u16().into()),
            0x02 | 0x11 | 0x27 => Value::Number(self.u32()),
            0x0B => Value::Number(self.varint()),
            0x03 | 0x08 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Text(self.text()),
            0x09 | 0x16 => {
                let length = self.u16().into();
                Value::Binary(self.take(length).to_vec())
            }
            0x26 => Value::Pair(self.text(), self.text()),
            _ => panic!("unknown property {id:#x}"),
        }
    }
}

impl Packet {
    /// Reads one whole packet: its first byte, and what follows Remaining Length.
    #[must_use]
    pub fn read(first: u8, body: &[u8], version: Version) -> Packet {
        let (kind, v5) = (first >> 4, version.is_v5());
        let flags = if kind == 6 { 2 } else { 0 };
        assert!(
            kind == 3 || first & 0x0F == flags,
            "reserved flags of {first:#x} [MQTT-2.2.2-1], [MQTT-2.1.3-1]"
        );
        let mut from = Reader(body);
        let packet = match kind {
            2 => connack(&mut from, v5),
            3 => Packet::Publish(publish(first, &mut from, v5)),
            4..=7 => ack(first, &mut from, v5),
            9 | 11 => sub_or_unsuback(kind, &mut from, v5),
            13 => Packet::PingResp,
            14 => disconnect(&mut from, v5),
            _ => panic!("the node sent a packet of type {kind}"),
        };
        assert!(from.0.is_empty(), "{} bytes after {packet:?}", from.0.len());
        packet
    }
}

fn code(kind: u8, code: u8) -> u8 {
    assert!(reasons(kind).contains(&code), "reason code {code:#x} in packet type {kind}");
    code
}

fn connack(from: &mut Reader<'_>, v5: bool) -> Packet {
    let flags = from.u8();
    assert!(flags <= 1, "reserved bits of the Connect Acknowledge Flags [MQTT-3.2.2-1]");
    let byte = from.u8();
    let properties = if v5 { from.properties(2) } else { Vec::new() };
    let code = if v5 { code(2, byte) } else { byte };
    assert!(v5 || code <= 5, "return code {code} is reserved");
    assert!(code == 0 || flags == 0, "Session Present in a refusal [MQTT-3.2.2-6], 3.1.1 [MQTT-3.2.2-4]");
    Packet::ConnAck { present: flags == 1, code, properties }
}

fn publish(first: u8, from: &mut Reader<'_>, v5: bool) -> Published {
    let qos = first >> 1 & 3;
    let dup = first & 8 != 0;
    assert!(qos < 3, "QoS 3 [MQTT-3.3.1-4]");
    assert!(qos > 0 || !dup, "DUP with QoS 0 [MQTT-3.3.1-2]");
    let topic = from.text();
    assert!(!topic.contains(['+', '#']), "wildcard in a topic name [MQTT-3.3.2-2]");
    let pid = if qos > 0 { from.u16() } else { 0 };
    assert!(qos == 0 || pid > 0, "packet identifier 0 [MQTT-2.2.1-4]");
    let properties = if v5 { from.properties(3) } else { Vec::new() };
    let payload = String::from_utf8(from.take(from.0.len()).to_vec()).expect("tests send text");
    Published { topic, payload, qos, pid, dup, retain: first & 1 != 0, properties }
}

fn ack(first: u8, from: &mut Reader<'_>, v5: bool) -> Packet {
    let kind = first >> 4;
    let pid = from.u16();
    let reason = if v5 && !from.0.is_empty() { code(kind, from.u8()) } else { 0 };
    let properties = if v5 && !from.0.is_empty() { from.properties(kind) } else { Vec::new() };
    Packet::Ack { first, pid, reason, properties }
}

fn sub_or_unsuback(kind: u8, from: &mut Reader<'_>, v5: bool) -> Packet {
    let pid = from.u16();
    let properties = if v5 { from.properties(kind) } else { Vec::new() };
    let codes = from.take(from.0.len()).to_vec();
    for byte in &codes {
        assert!(!v5 || reasons(kind).contains(byte), "reason code {byte:#x} in packet type {kind}");
        assert!(v5 || matches!(byte, 0..=2 | 0x80), "return code {byte:#x} is reserved [MQTT-3.9.3-2]");
    }
    if kind == 9 {
        return Packet::SubAck { pid, codes, properties };
    }
    assert!(v5 || codes.is_empty(), "UNSUBACK of 3.1.1 has no payload");
    Packet::UnsubAck { pid, codes, properties }
}

fn disconnect(from: &mut Reader<'_>, v5: bool) -> Packet {
    assert!(v5, "a 3.1.1 server sends no DISCONNECT");
    let reason = if from.0.is_empty() { 0 } else { code(14, from.u8()) };
    let properties = if from.0.is_empty() { Vec::new() } else { from.properties(14) };
    Packet::Disconnect { reason, properties }
}
