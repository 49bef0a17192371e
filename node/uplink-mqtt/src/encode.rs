//! PUBLISH, written straight into the out buffer.
//!
//! rumqttc's own writer wants every User Property as two owned `String`s, some thirty allocations per event; everything else about the
//! packet is as in MQTT 5.0 section 3.3, and the tests read it back with rumqttc's decoder.

use bytes::{BufMut, BytesMut};
use eventmesh_edge_core::mapping::{Mqtt5Message, VIA_PROPERTY};

/// Property identifiers (MQTT 5.0 section 2.2.2.2).
mod property {
    pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(super) const CONTENT_TYPE: u8 = 0x03;
    pub(super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(super) const CORRELATION_DATA: u8 = 0x09;
    pub(super) const USER: u8 = 0x26;
}

/// Largest Remaining Length (MQTT 5.0 section 1.5.5).
const REMAINING_MAX: usize = 268_435_455;

/// A PUBLISH of QoS 1.
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) id: u16,
    pub(crate) retain: bool,
    /// Value of [`VIA_PROPERTY`].
    pub(crate) via: &'a str,
    pub(crate) message: &'a Mqtt5Message<'a>,
}

/// Why an event does not fit into a packet; it never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("packet of {size} bytes is larger than the server's maximum of {max}")]
    TooLarge { size: usize, max: usize },
    #[error("{0} is longer than the 65,535 bytes that MQTT has room for")]
    FieldTooLong(&'static str),
}

impl Publish<'_> {
    /// Appends the packet.
    pub(crate) fn write(&self, max: Option<u32>, out: &mut BytesMut) -> Result<(), EncodeError> {
        let properties = self.properties_len()?;
        let remaining = string_len("topic", self.topic.len())?
            + 2
            + varint_len(properties)
            + properties
            + self.message.payload.len();
        let size = 1 + varint_len(remaining) + remaining;
        let max = max.map_or(REMAINING_MAX, |m| usize::try_from(m).unwrap_or(REMAINING_MAX));
        if size > max || remaining > REMAINING_MAX {
            return Err(EncodeError::TooLarge { size, max });
        }
        out.reserve(size);
        // Type 3, DUP 0, QoS 1. DUP is about a packet identifier of this session [MQTT-3.3.1-1], and this one is new.
        out.put_u8(0b0011_0010 | u8::from(self.retain));
        put_varint(out, remaining);
        put_bytes(out, self.topic.as_bytes());
        out.put_u16(self.id);
        put_varint(out, properties);
        self.put_properties(out);
        out.put_slice(&self.message.payload);
        Ok(())
    }

    fn properties_len(&self) -> Result<usize, EncodeError> {
        let m = self.message;
        let mut len = if m.utf8_payload { 2 } else { 0 };
        for (name, field) in [
            ("content type", m.content_type.as_deref().map(str::len)),
            ("response topic", m.response_topic.map(str::len)),
            ("correlation data", m.correlation_data.map(<[u8]>::len)),
        ] {
            len += field.map(|f| string_len(name, f)).transpose()?.map_or(0, |l| 1 + l);
        }
        for (name, value) in &m.user {
            len += 1 + string_len("attribute name", name.len())? + string_len("attribute", value.len())?;
        }
        Ok(len + 1 + string_len("name", VIA_PROPERTY.len())? + string_len("list of hops", self.via.len())?)
    }

    fn put_properties(&self, out: &mut BytesMut) {
        let m = self.message;
        if m.utf8_payload {
            out.put_slice(&[property::PAYLOAD_FORMAT, 1]);
        }
        for (kind, field) in [
            (property::CONTENT_TYPE, m.content_type.as_deref().map(str::as_bytes)),
            (property::RESPONSE_TOPIC, m.response_topic.map(str::as_bytes)),
            (property::CORRELATION_DATA, m.correlation_data),
        ] {
            if let Some(field) = field {
                out.put_u8(kind);
                put_bytes(out, field);
            }
        }
        let user = m.user.iter().map(|(name, value)| (*name, &**value));
        for (name, value) in user.chain([(VIA_PROPERTY, self.via)]) {
            out.put_u8(property::USER);
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
}

fn string_len(field: &'static str, len: usize) -> Result<usize, EncodeError> {
    if len > 65_535 { Err(EncodeError::FieldTooLong(field)) } else { Ok(2 + len) }
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// Variable Byte Integer (MQTT 5.0 section 1.5.5).
fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    // `properties_len` and `write` have refused longer ones.
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};

    fn message(payload: &'static [u8]) -> Mqtt5Message<'static> {
        Mqtt5Message {
            payload: Bytes::from_static(payload),
            content_type: None,
            utf8_payload: false,
            response_topic: None,
            correlation_data: None,
            user: Vec::new(),
        }
    }

    fn write(message: &Mqtt5Message<'_>, max: Option<u32>) -> Result<BytesMut, EncodeError> {
        let mut out = BytesMut::new();
        Publish { topic: "t", id: 7, retain: false, via: "n", message }.write(max, &mut out)?;
        Ok(out)
    }

    #[test]
    fn golden_bytes() {
        let bytes = write(&message(b"x"), None).unwrap();
        assert_eq!(&bytes[..], b"\x32\x14\x00\x01t\x00\x07\x0d\x26\x00\x07edgevia\x00\x01nx");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_a_byte_is_written() {
        let size = u32::try_from(write(&message(b"x"), None).unwrap().len()).unwrap();
        assert!(write(&message(b"x"), Some(size)).is_ok());
        let error = write(&message(b"x"), Some(size - 1)).unwrap_err();
        assert_eq!(error.to_string(), "packet of 22 bytes is larger than the server's maximum of 21");
        let long = "x".repeat(65_536);
        let mut with = message(b"");
        with.user.push(("a", long.as_str().into()));
        assert_eq!(write(&with, None).unwrap_err(), EncodeError::FieldTooLong("attribute"));
    }

    proptest! {
        #[test]
        fn rumqttc_reads_what_is_written(
            topic in "\\PC{1,300}", id in 1..=u16::MAX, retain: bool, utf8_payload: bool,
            content_type in proptest::option::of("\\PC{0,20}"), response in proptest::option::of("\\PC{1,20}"),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            user in proptest::collection::vec(("\\PC{0,9}", "\\PC{0,200}"), 0..6),
            payload in proptest::collection::vec(any::<u8>(), 0..300), via in "[a-z ]{0,9}",
        ) {
            let message = Mqtt5Message {
                payload: Bytes::from(payload.clone()),
                content_type: content_type.as_deref().map(Into::into),
                utf8_payload,
                response_topic: response.as_deref(),
                correlation_data: correlation.as_deref(),
                user: user.iter().map(|(n, v)| (n.as_str(), v.as_str().into())).collect(),
            };
            let mut out = BytesMut::new();
            Publish { topic: &topic, id, retain, via: &via, message: &message }.write(None, &mut out).unwrap();
            let Packet::Publish(read) = Packet::read(&mut out, None).unwrap() else { panic!("another packet") };
            prop_assert!(out.is_empty());
            prop_assert_eq!((&read.topic[..], read.pkid, read.retain, read.dup, read.qos),
                (topic.as_bytes(), id, retain, false, QoS::AtLeastOnce));
            prop_assert_eq!(&read.payload[..], &payload[..]);
            let mut user = user;
            user.push((VIA_PROPERTY.to_owned(), via));
            prop_assert_eq!(read.properties, Some(PublishProperties {
                payload_format_indicator: utf8_payload.then_some(1),
                response_topic: response,
                correlation_data: correlation.map(Bytes::from),
                content_type,
                user_properties: user,
                ..PublishProperties::default()
            }));
        }
    }
}
