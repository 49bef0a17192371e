//! What the node sends, written straight into a connection's output.

use super::Version;
use bytes::{BufMut, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Properties, Qos};

/// Remaining Length can say no more [section 1.5.5].
const REMAINING_MAX: usize = 268_435_455;

/// Why a PUBLISH cannot be sent to this client. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Larger than the client's Maximum Packet Size [MQTT-3.1.2-24], or than MQTT can carry.
    #[error("packet of {bytes} bytes is larger than the client's limit of {max}")]
    TooLarge {
        /// Whole packet.
        bytes: usize,
        /// The client's limit.
        max: usize,
    },
    /// A text or binary field of more than 65,535 bytes (an event that did not come in by MQTT).
    #[error("a field is longer than an MQTT string can be")]
    FieldTooLong,
}

/// What CONNACK says beside its code. Only MQTT 5 clients see more than `session_present`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Session Present.
    pub session_present: bool,
    /// Reason Code or return code.
    pub code: u8,
    /// Session Expiry Interval, if it is not the one asked for.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum of the node.
    pub receive_maximum: u16,
    /// Maximum Packet Size of the node.
    pub maximum_packet_bytes: u32,
    /// Topic Alias Maximum of the node.
    pub topic_alias_maximum: u16,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<Text>,
    /// Server Keep Alive, if it is not the one asked for.
    pub server_keep_alive_secs: Option<u16>,
    /// Shared Subscription Available.
    pub shared_available: bool,
}

/// A CONNACK that refuses, or any for a 3.x client.
pub fn connack_bare(out: &mut BytesMut, version: Version, session_present: bool, code: u8) {
    if version.is_v5() {
        out.put_slice(&[0x20, 3, u8::from(session_present), code, 0]);
    } else {
        // MQTT 3.1 has no Session Present flag; the byte is reserved there.
        out.put_slice(&[0x20, 2, u8::from(session_present && version == Version::V311), code]);
    }
}

/// What a refusal says beside its code to an MQTT 5 client, as far as its Maximum Packet Size allows [MQTT-3.2.2-19],
/// [MQTT-3.14.2-3] and their like.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Reason String.
    pub reason: Option<&'a str>,
    /// Server Reference; CONNACK and DISCONNECT only.
    pub server: Option<&'a str>,
    /// The client's Maximum Packet Size.
    pub max_bytes: usize,
}

impl Words<'_> {
    /// A whole packet with `head` before its properties, and what of the properties fits.
    fn put(&self, out: &mut BytesMut, first: u8, head: &[u8]) {
        let mut props = BytesMut::new();
        for (id, text) in [(0x1C, self.server), (0x1F, self.reason)] {
            let Some(text) = text.filter(|text| text.len() <= usize::from(u16::MAX)) else { continue };
            let len = props.len() + 3 + text.len();
            let remaining = head.len() + varint_len(len) + len;
            if 1 + varint_len(remaining) + remaining <= self.max_bytes {
                props.put_u8(id);
                put_text(&mut props, text);
            }
        }
        out.put_u8(first);
        put_varint(out, head.len() + varint_len(props.len()) + props.len());
        out.put_slice(head);
        put_varint(out, props.len());
        out.put_slice(&props);
    }
}

/// A CONNACK that refuses an MQTT 5 client, in words.
pub fn connack_refused(out: &mut BytesMut, code: u8, words: Words<'_>) {
    words.put(out, 0x20, &[0, code]);
}

/// An accepting CONNACK for an MQTT 5 client.
pub fn connack_v5(out: &mut BytesMut, ack: &ConnAck) {
    let mut props = BytesMut::with_capacity(64);
    if let Some(secs) = ack.session_expiry_secs {
        props.put_u8(0x11);
        props.put_u32(secs);
    }
    props.put_u8(0x21);
    props.put_u16(ack.receive_maximum);
    props.put_u8(0x27);
    props.put_u32(ack.maximum_packet_bytes);
    if let Some(id) = &ack.assigned_client_id {
        props.put_u8(0x12);
        put_text(&mut props, id);
    }
    props.put_u8(0x22);
    props.put_u16(ack.topic_alias_maximum);
    if !ack.shared_available {
        props.put_slice(&[0x2A, 0]);
    }
    if let Some(secs) = ack.server_keep_alive_secs {
        props.put_u8(0x13);
        props.put_u16(secs);
    }
    // Wildcard subscriptions, subscription identifiers, retain and QoS 2 are available: the defaults say so.
    out.put_u8(0x20);
    put_varint(out, 2 + varint_len(props.len()) + props.len());
    out.put_slice(&[u8::from(ack.session_present), ack.code]);
    put_varint(out, props.len());
    out.put_slice(&props);
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// Type 4.
    PubAck = 0x40,
    /// Type 5.
    PubRec = 0x50,
    /// Type 6, with its reserved flag.
    PubRel = 0x62,
    /// Type 7.
    PubComp = 0x70,
}

/// An acknowledgement; the code is left out where 0 is understood.
pub fn ack(out: &mut BytesMut, kind: AckKind, version: Version, pid: u16, code: u8) {
    let [high, low] = pid.to_be_bytes();
    if version.is_v5() && code != 0 {
        out.put_slice(&[kind as u8, 3, high, low, code]);
    } else {
        out.put_slice(&[kind as u8, 2, high, low]);
    }
}

/// An acknowledgement of failure for an MQTT 5 client, in words.
pub fn ack_refused(out: &mut BytesMut, kind: AckKind, pid: u16, code: u8, words: Words<'_>) {
    let [high, low] = pid.to_be_bytes();
    words.put(out, kind as u8, &[high, low, code]);
}

/// SUBACK.
pub fn suback(out: &mut BytesMut, version: Version, pid: u16, codes: &[u8]) {
    out.put_u8(0x90);
    put_varint(out, 2 + usize::from(version.is_v5()) + codes.len());
    out.put_u16(pid);
    if version.is_v5() {
        out.put_u8(0);
    }
    out.put_slice(codes);
}

/// UNSUBACK; 3.x has no codes in it.
pub fn unsuback(out: &mut BytesMut, version: Version, pid: u16, codes: &[u8]) {
    out.put_u8(0xB0);
    if version.is_v5() {
        put_varint(out, 3 + codes.len());
        out.put_u16(pid);
        out.put_u8(0);
        out.put_slice(codes);
    } else {
        out.put_u8(2);
        out.put_u16(pid);
    }
}

/// PINGRESP.
pub fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT from the server; MQTT 5 only.
pub fn disconnect(out: &mut BytesMut, code: u8, words: Words<'_>) {
    words.put(out, 0xE0, &[code]);
}

/// One PUBLISH on its way to a client.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The event.
    pub event: &'a Event,
    /// Granted QoS.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet identifier; 0 with QoS 0.
    pub pid: u16,
    /// Message Expiry Interval left, in seconds.
    pub expiry_secs: Option<u32>,
    /// Subscription Identifiers.
    pub identifiers: &'a [u32],
    /// Topic Alias, MQTT 5 only.
    pub alias: Alias,
}

/// What stands for the topic of a PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alias {
    /// The topic.
    #[default]
    None,
    /// The topic, and an alias to remember it by.
    New(u16),
    /// An alias that was sent before, without the topic.
    Known(u16),
}

impl Alias {
    fn number(self) -> Option<u16> {
        match self {
            Alias::None => None,
            Alias::New(alias) | Alias::Known(alias) => Some(alias),
        }
    }
}

/// Writes a PUBLISH of at most `max_bytes`.
///
/// # Errors
/// [`EncodeError`]; nothing was written.
pub fn publish(
    out: &mut BytesMut,
    version: Version,
    message: &Outgoing<'_>,
    max_bytes: usize,
) -> Result<(), EncodeError> {
    let event = message.event;
    let properties_len = if version.is_v5() { properties_len(message)? } else { 0 };
    let pid_len = if message.qos == Qos::AtMostOnce { 0 } else { 2 };
    let topic = if matches!(message.alias, Alias::Known(_)) { "" } else { &*event.topic };
    let mut remaining = field_len(topic.len())? + pid_len + event.payload.len();
    if version.is_v5() {
        remaining += varint_len(properties_len) + properties_len;
    }
    let whole = 1 + varint_len(remaining) + remaining;
    if whole > max_bytes || remaining > REMAINING_MAX {
        return Err(EncodeError::TooLarge { bytes: whole, max: max_bytes });
    }
    out.reserve(whole);
    out.put_u8(0x30 | u8::from(message.dup) << 3 | (message.qos as u8) << 1 | u8::from(message.retain));
    put_varint(out, remaining);
    put_text(out, topic);
    if pid_len > 0 {
        out.put_u16(message.pid);
    }
    if version.is_v5() {
        put_varint(out, properties_len);
        put_properties(out, message);
    }
    out.put_slice(&event.payload);
    Ok(())
}

fn properties_len(message: &Outgoing<'_>) -> Result<usize, EncodeError> {
    let mut len = message.expiry_secs.map_or(0, |_| 5);
    len += message.alias.number().map_or(0, |_| 3);
    len += message.identifiers.iter().map(|id| 1 + varint_len(*id as usize)).sum::<usize>();
    let Some(p) = message.event.properties.as_deref() else { return Ok(len) };
    len += if p.utf8_payload { 2 } else { 0 };
    for field in [p.content_type.as_ref().map(|t| t.len()), p.response_topic.as_ref().map(|t| t.len())] {
        len += field.map(|n| field_len(n).map(|n| n + 1)).transpose()?.unwrap_or(0);
    }
    len += p.correlation_data.as_ref().map(|d| field_len(d.len()).map(|n| n + 1)).transpose()?.unwrap_or(0);
    for (name, value) in &p.user {
        len += 1 + field_len(name.len())? + field_len(value.len())?;
    }
    Ok(len)
}

fn put_properties(out: &mut BytesMut, message: &Outgoing<'_>) {
    if let Some(secs) = message.expiry_secs {
        out.put_u8(0x02);
        out.put_u32(secs);
    }
    if let Some(alias) = message.alias.number() {
        out.put_u8(0x23);
        out.put_u16(alias);
    }
    for id in message.identifiers {
        out.put_u8(0x0B);
        put_varint(out, *id as usize);
    }
    if let Some(properties) = message.event.properties.as_deref() {
        put_carried(out, properties);
    }
}

fn put_carried(out: &mut BytesMut, p: &Properties) {
    if p.utf8_payload {
        out.put_slice(&[0x01, 1]);
    }
    if let Some(content_type) = &p.content_type {
        out.put_u8(0x03);
        put_text(out, content_type);
    }
    if let Some(response_topic) = &p.response_topic {
        out.put_u8(0x08);
        put_text(out, response_topic);
    }
    if let Some(data) = &p.correlation_data {
        out.put_u8(0x09);
        put_prefixed(out, data);
    }
    for (name, value) in &p.user {
        out.put_u8(0x26);
        put_text(out, name);
        put_text(out, value);
    }
}

/// Bytes of a length-prefixed field.
fn field_len(len: usize) -> Result<usize, EncodeError> {
    if len > usize::from(u16::MAX) { Err(EncodeError::FieldTooLong) } else { Ok(2 + len) }
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_prefixed(out, text.as_bytes());
}

/// The caller has measured with [`field_len`]; what is longer than the prefix can say is cut, never miscounted.
fn put_prefixed(out: &mut BytesMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(len);
    out.put_slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.put_u8(low & 0x7F);
            return;
        }
        out.put_u8(low | 0x80);
    }
}
