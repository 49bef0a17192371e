//! Packets as bytes: what a client may send, and what it may not.

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Level 4.
    V311,
    /// Level 5.
    V5,
}

/// Both versions, for what holds in both.
pub const BOTH: [Version; 2] = [Version::V311, Version::V5];

impl Version {
    /// True for MQTT 5.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// Property identifiers (MQTT 5.0 table 2-4).
pub mod property {
    /// Payload Format Indicator, a byte.
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    /// Message Expiry Interval, four bytes.
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    /// Content Type, text.
    pub const CONTENT_TYPE: u8 = 0x03;
    /// Response Topic, text.
    pub const RESPONSE_TOPIC: u8 = 0x08;
    /// Correlation Data, binary.
    pub const CORRELATION_DATA: u8 = 0x09;
    /// Subscription Identifier, a variable byte integer.
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    /// Session Expiry Interval, four bytes.
    pub const SESSION_EXPIRY: u8 = 0x11;
    /// Assigned Client Identifier, text.
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    /// Server Keep Alive, two bytes.
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    /// Authentication Method, text.
    pub const AUTH_METHOD: u8 = 0x15;
    /// Authentication Data, binary.
    pub const AUTH_DATA: u8 = 0x16;
    /// Request Problem Information, a byte.
    pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
    /// Will Delay Interval, four bytes.
    pub const WILL_DELAY: u8 = 0x18;
    /// Request Response Information, a byte.
    pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
    /// Response Information, text.
    pub const RESPONSE_INFO: u8 = 0x1A;
    /// Server Reference, text.
    pub const SERVER_REFERENCE: u8 = 0x1C;
    /// Reason String, text.
    pub const REASON_STRING: u8 = 0x1F;
    /// Receive Maximum, two bytes.
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// Topic Alias Maximum, two bytes.
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    /// Topic Alias, two bytes.
    pub const TOPIC_ALIAS: u8 = 0x23;
    /// Maximum QoS, a byte.
    pub const MAXIMUM_QOS: u8 = 0x24;
    /// Retain Available, a byte.
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    /// User Property, two texts.
    pub const USER: u8 = 0x26;
    /// Maximum Packet Size, four bytes.
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    /// Wildcard Subscription Available, a byte.
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    /// Subscription Identifier Available, a byte.
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    /// Shared Subscription Available, a byte.
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// A length-prefixed field.
#[must_use]
pub fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a field has at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A text.
#[must_use]
pub fn text(text: &str) -> Vec<u8> {
    field(text.as_bytes())
}

/// A Variable Byte Integer.
#[must_use]
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let digit = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(digit);
            return out;
        }
        out.push(digit | 0x80);
    }
}

/// Fixed header and body.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &varint(body.len()), body].concat()
}

/// Properties with a byte, two or four bytes, a text, two texts, or anything.
pub mod props {
    use super::{field, text, varint};

    /// One byte.
    #[must_use]
    pub fn byte(id: u8, value: u8) -> Vec<u8> {
        vec![id, value]
    }

    /// Two bytes.
    #[must_use]
    pub fn two(id: u8, value: u16) -> Vec<u8> {
        [&[id][..], &value.to_be_bytes()].concat()
    }

    /// Four bytes.
    #[must_use]
    pub fn four(id: u8, value: u32) -> Vec<u8> {
        [&[id][..], &value.to_be_bytes()].concat()
    }

    /// A Variable Byte Integer.
    #[must_use]
    pub fn var(id: u8, value: usize) -> Vec<u8> {
        [&[id][..], &varint(value)].concat()
    }

    /// A text.
    #[must_use]
    pub fn string(id: u8, value: &str) -> Vec<u8> {
        [&[id][..], &text(value)].concat()
    }

    /// Binary data.
    #[must_use]
    pub fn binary(id: u8, value: &[u8]) -> Vec<u8> {
        [&[id][..], &field(value)].concat()
    }

    /// A User Property.
    #[must_use]
    pub fn user(name: &str, value: &str) -> Vec<u8> {
        [&[super::property::USER][..], &text(name), &text(value)].concat()
    }

    /// The block: length and properties.
    #[must_use]
    pub fn block(properties: &[u8]) -> Vec<u8> {
        [&varint(properties.len()), properties].concat()
    }
}

/// A will.
#[derive(Clone, Debug, Default)]
pub struct Will {
    /// Will Topic.
    pub topic: String,
    /// Will Payload.
    pub payload: Vec<u8>,
    /// Will QoS.
    pub qos: u8,
    /// Will Retain.
    pub retain: bool,
    /// Will Properties, MQTT 5 only.
    pub properties: Vec<u8>,
}

impl Will {
    /// QoS 0, not retained.
    #[must_use]
    pub fn new(topic: &str, payload: &str) -> Will {
        Will { topic: topic.to_owned(), payload: payload.as_bytes().to_vec(), ..Will::default() }
    }

    /// With this QoS.
    #[must_use]
    pub fn qos(self, qos: u8) -> Will {
        Will { qos, ..self }
    }

    /// Retained.
    #[must_use]
    pub fn retain(self) -> Will {
        Will { retain: true, ..self }
    }

    /// With one more property.
    #[must_use]
    pub fn with(mut self, property: Vec<u8>) -> Will {
        self.properties.extend(property);
        self
    }
}

/// A CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Protocol.
    pub version: Version,
    /// Client identifier.
    pub client_id: String,
    /// Clean Start, Clean Session.
    pub clean: bool,
    /// Keep Alive in seconds.
    pub keep_alive: u16,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Will.
    pub will: Option<Will>,
    /// Properties, MQTT 5 only.
    pub properties: Vec<u8>,
}

impl Connect {
    /// Clean, without Keep Alive.
    #[must_use]
    pub fn new(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 0,
            username: None,
            password: None,
            will: None,
            properties: Vec::new(),
        }
    }

    /// A session that is kept for an hour (MQTT 5) or for ever (3.1.1); resumed, if there is one.
    #[must_use]
    pub fn kept(version: Version, client_id: &str) -> Connect {
        let connect = Connect { clean: false, ..Connect::new(version, client_id) };
        if version.is_v5() { connect.with(props::four(property::SESSION_EXPIRY, 3600)) } else { connect }
    }

    /// With one more property.
    #[must_use]
    pub fn with(mut self, property: Vec<u8>) -> Connect {
        self.properties.extend(property);
        self
    }

    /// With Clean Start or Clean Session set so.
    #[must_use]
    pub fn clean(self, clean: bool) -> Connect {
        Connect { clean, ..self }
    }

    /// With a Keep Alive.
    #[must_use]
    pub fn keep_alive(self, secs: u16) -> Connect {
        Connect { keep_alive: secs, ..self }
    }

    /// With a will.
    #[must_use]
    pub fn will(self, will: Will) -> Connect {
        Connect { will: Some(will), ..self }
    }

    /// With user name and password.
    #[must_use]
    pub fn login(self, username: &str, password: &str) -> Connect {
        let password = Some(password.as_bytes().to_vec());
        Connect { username: Some(username.to_owned()), password, ..self }
    }

    /// The Connect Flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |w| 4 | w.qos << 3 | u8::from(w.retain) << 5);
        let login = u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7;
        u8::from(self.clean) << 1 | will | login
    }

    /// The packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(self.flags())
    }

    /// The packet with other Connect Flags than its fields say.
    #[must_use]
    pub fn encode_with(&self, flags: u8) -> Vec<u8> {
        let mut body = text("MQTT");
        body.push(if self.version.is_v5() { 5 } else { 4 });
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version.is_v5() {
            body.extend(props::block(&self.properties));
        }
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                body.extend(props::block(&will.properties));
            }
            body.extend(text(&will.topic));
            body.extend(field(&will.payload));
        }
        body.extend(self.username.iter().flat_map(|name| text(name)));
        body.extend(self.password.iter().flat_map(|password| field(password)));
        packet(0x10, &body)
    }
}

/// A PUBLISH.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Packet identifier, left out with QoS 0.
    pub pid: u16,
    /// DUP flag.
    pub dup: bool,
    /// RETAIN flag.
    pub retain: bool,
    /// Properties, MQTT 5 only.
    pub properties: Vec<u8>,
}

impl Publish {
    /// QoS 0.
    #[must_use]
    pub fn new(topic: &str, payload: &str) -> Publish {
        Publish {
            topic: topic.to_owned(),
            payload: payload.as_bytes().to_vec(),
            qos: 0,
            pid: 0,
            dup: false,
            retain: false,
            properties: Vec::new(),
        }
    }

    /// With this QoS and packet identifier.
    #[must_use]
    pub fn qos(self, qos: u8, pid: u16) -> Publish {
        Publish { qos, pid, ..self }
    }

    /// Retained.
    #[must_use]
    pub fn retain(self) -> Publish {
        Publish { retain: true, ..self }
    }

    /// Sent again.
    #[must_use]
    pub fn dup(self) -> Publish {
        Publish { dup: true, ..self }
    }

    /// With one more property.
    #[must_use]
    pub fn with(mut self, property: Vec<u8>) -> Publish {
        self.properties.extend(property);
        self
    }

    /// The packet.
    #[must_use]
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = text(&self.topic);
        if self.qos > 0 {
            body.extend(self.pid.to_be_bytes());
        }
        if version.is_v5() {
            body.extend(props::block(&self.properties));
        }
        body.extend(&self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// SUBSCRIBE, filters with their options; `properties` in MQTT 5 only.
#[must_use]
pub fn subscribe(version: Version, pid: u16, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    if version.is_v5() {
        body.extend(props::block(properties));
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
#[must_use]
pub fn unsubscribe(version: Version, pid: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    body.extend(filters.iter().flat_map(|filter| text(filter)));
    packet(0xA2, &body)
}

/// PUBACK 0x40, PUBREC 0x50, PUBREL 0x62 or PUBCOMP 0x70 with success.
#[must_use]
pub fn ack(first: u8, pid: u16) -> Vec<u8> {
    packet(first, &pid.to_be_bytes())
}

/// The same with a Reason Code, MQTT 5.
#[must_use]
pub fn ack_with(first: u8, pid: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&pid.to_be_bytes()[..], &[reason]].concat())
}

/// First byte of PUBACK.
pub const PUBACK: u8 = 0x40;
/// First byte of PUBREC.
pub const PUBREC: u8 = 0x50;
/// First byte of PUBREL.
pub const PUBREL: u8 = 0x62;
/// First byte of PUBCOMP.
pub const PUBCOMP: u8 = 0x70;
/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT with nothing to say: Normal disconnection.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// DISCONNECT with a Reason Code and properties, MQTT 5.
#[must_use]
pub fn disconnect_with(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xE0, &[&[reason][..], &props::block(properties)].concat())
}
