//! The record body on disk: one [`Event`] with its [`Sequence`], postcard, version byte first.
//!
//! ```text
//! version u8 = 1 | postcard of BodyV1
//! ```
//! The body is written without any knowledge of who will read it; a reader of a later version keeps `BodyV1` as it is
//! and adds a `BodyV2`. Position and stream stand outside, in the journal's record header or the generation's key.

use super::{Event, Properties, Qos, Sequence, Timestamp, Via};
use crate::Text;
use bytes::Bytes;
use serde::Deserialize;
#[cfg(test)]
use serde::Serialize;

/// Version byte of the body written today.
pub const VERSION: u8 = 1;

/// Why a record body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No bytes at all.
    #[error("record is empty")]
    Empty,
    /// Written by a later version of the node.
    #[error(
        "record has version {0}, this program reads up to {VERSION}; use the version that wrote it, or a later one"
    )]
    Version(u8),
    /// The bytes are not a record although their checksum held.
    #[error("record body does not decode: {0}")]
    Body(#[from] postcard::Error),
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct BodyV1<'a> {
    via: Via,
    qos: Qos,
    retain: bool,
    sequence: Sequence,
    #[serde(borrow)]
    source: &'a str,
    id: Option<&'a str>,
    time: TimeV1,
    received: u64,
    expires: Option<u64>,
    topic: &'a str,
    properties: Option<PropertiesV1<'a>>,
    payload: &'a [u8],
}

/// Nearly always the receipt time: one byte instead of seven.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
enum TimeV1 {
    None,
    Received,
    At(u64),
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct PropertiesV1<'a> {
    utf8_payload: bool,
    #[serde(borrow)]
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation_data: Option<&'a [u8]>,
    user: Vec<(&'a str, &'a str)>,
}

/// Appends version and body to `out`. By hand, because every event passes here once: the same bytes as postcard writes for
/// `BodyV1`, in a quarter of its time.
pub fn encode(event: &Event, sequence: Sequence, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, event.via as u8, event.qos as u8, u8::from(event.retain)]);
    put_number(out, sequence.source);
    put_number(out, sequence.stream);
    put_bytes(out, event.source.as_bytes());
    put_option(out, event.id.as_ref(), |out, id| put_bytes(out, id.as_bytes()));
    match event.time {
        None => out.push(0),
        Some(t) if t == event.received => out.push(1),
        Some(t) => {
            out.push(2);
            put_number(out, t.0);
        }
    }
    put_number(out, event.received.0);
    put_option(out, event.expires, |out, at| put_number(out, at.0));
    put_bytes(out, event.topic.as_bytes());
    put_option(out, event.properties.as_deref(), put_properties);
    put_bytes(out, &event.payload);
}

fn put_properties(out: &mut Vec<u8>, properties: &Properties) {
    out.push(u8::from(properties.utf8_payload));
    put_option(out, properties.content_type.as_ref(), |out, text| put_bytes(out, text.as_bytes()));
    put_option(out, properties.response_topic.as_ref(), |out, text| put_bytes(out, text.as_bytes()));
    put_option(out, properties.correlation_data.as_ref(), |out, data| put_bytes(out, data));
    put_number(out, properties.user.len() as u64);
    for (key, value) in &properties.user {
        put_bytes(out, key.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

/// postcard's varint: unsigned LEB128.
fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while let Some(high) = value.checked_shr(7).filter(|high| *high > 0) {
        out.push(value.to_le_bytes()[0] | 0x80);
        value = high;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Reads what [`encode`] wrote. The event's text and payload are slices of `record`, nothing is copied.
///
/// # Errors
/// [`RecordError`] if the bytes are empty, of a later version, or not a body.
pub fn decode(record: &Bytes) -> Result<(Event, Sequence), RecordError> {
    let (version, body) = record.split_first().ok_or(RecordError::Empty)?;
    if *version != VERSION {
        return Err(RecordError::Version(*version));
    }
    let body: BodyV1<'_> = postcard::from_bytes(body)?;
    let text = |s: &str| share(record, s);
    let received = Timestamp(body.received);
    let event = Event {
        via: body.via,
        qos: body.qos,
        retain: body.retain,
        source: text(body.source),
        id: body.id.map(text),
        time: match body.time {
            TimeV1::None => None,
            TimeV1::Received => Some(received),
            TimeV1::At(t) => Some(Timestamp(t)),
        },
        received,
        expires: body.expires.map(Timestamp),
        topic: text(body.topic),
        payload: record.slice_ref(body.payload),
        properties: body.properties.map(|p| {
            Box::new(Properties {
                utf8_payload: p.utf8_payload,
                content_type: p.content_type.map(text),
                response_topic: p.response_topic.map(text),
                correlation_data: p.correlation_data.map(|b| record.slice_ref(b)),
                user: p.user.iter().map(|(k, v)| (text(k), text(v))).collect(),
            })
        }),
    };
    Ok((event, body.sequence))
}

/// The front of a record body: what the journal needs at a start without decoding the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// CloudEvents `source`.
    pub source: &'a str,
    /// The numbers given at the commit.
    pub sequence: Sequence,
    /// Receipt.
    pub received: Timestamp,
}

/// The fields of [`BodyV1`] up to `received`, in its order: postcard has no framing, so a prefix decodes by itself.
#[derive(Deserialize)]
struct HeadV1<'a> {
    #[serde(rename = "via")]
    _via: Via,
    #[serde(rename = "qos")]
    _qos: Qos,
    #[serde(rename = "retain")]
    _retain: bool,
    sequence: Sequence,
    #[serde(borrow)]
    source: &'a str,
    #[serde(rename = "id", borrow)]
    _id: Option<&'a str>,
    #[serde(rename = "time")]
    _time: TimeV1,
    received: u64,
}

/// Reads the front of what [`encode`] wrote.
///
/// # Errors
/// As [`decode`].
pub fn head(record: &[u8]) -> Result<Head<'_>, RecordError> {
    let (version, body) = record.split_first().ok_or(RecordError::Empty)?;
    if *version != VERSION {
        return Err(RecordError::Version(*version));
    }
    let (head, _) = postcard::take_from_bytes::<HeadV1<'_>>(body)?;
    Ok(Head { source: head.source, sequence: head.sequence, received: Timestamp(head.received) })
}

/// `part`, which lies inside `whole`, as text that shares its bytes.
fn share(whole: &Bytes, part: &str) -> Text {
    // An empty slice may point anywhere, `slice_ref` wants it inside.
    if part.is_empty() {
        return Text::new();
    }
    Text::try_from(whole.slice_ref(part.as_bytes())).expect("it was a str a moment ago")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Text> {
        "\\PC{0,12}".prop_map(Text::from)
    }

    prop_compose! {
        fn properties()(
            utf8_payload: bool,
            content_type in proptest::option::of(text()),
            response_topic in proptest::option::of(text()),
            correlation_data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)),
            user in proptest::collection::vec((text(), text()), 0..4),
        ) -> Properties {
            Properties { utf8_payload, content_type, response_topic, correlation_data, user }
        }
    }

    prop_compose! {
        fn event()(
            via in prop_oneof![Just(Via::Mqtt3), Just(Via::Mqtt5), Just(Via::Coap), Just(Via::Uplink), Just(Via::Node)],
            qos in (0u8..3).prop_map(|q| Qos::from_u8(q).unwrap()),
            retain: bool,
            source in text(),
            id in proptest::option::of(text()),
            time in proptest::option::of(any::<u64>().prop_map(Timestamp)),
            received in any::<u64>().prop_map(Timestamp),
            expires in proptest::option::of(any::<u64>().prop_map(Timestamp)),
            topic in text(),
            payload in proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
            properties in proptest::option::of(properties().prop_map(Box::new)),
        ) -> Event {
            Event { via, qos, retain, source, id, time, received, expires, topic, payload, properties }
        }
    }

    /// What postcard itself makes of an event: the reference of [`encode`].
    fn by_postcard(event: &Event, sequence: Sequence) -> Vec<u8> {
        let body = BodyV1 {
            via: event.via,
            qos: event.qos,
            retain: event.retain,
            sequence,
            source: &event.source,
            id: event.id.as_deref(),
            time: match event.time {
                None => TimeV1::None,
                Some(t) if t == event.received => TimeV1::Received,
                Some(t) => TimeV1::At(t.0),
            },
            received: event.received.0,
            expires: event.expires.map(|t| t.0),
            topic: &event.topic,
            properties: event.properties.as_deref().map(|p| PropertiesV1 {
                utf8_payload: p.utf8_payload,
                content_type: p.content_type.as_deref(),
                response_topic: p.response_topic.as_deref(),
                correlation_data: p.correlation_data.as_deref(),
                user: p.user.iter().map(|(k, v)| (&**k, &**v)).collect(),
            }),
            payload: &event.payload,
        };
        let mut out = vec![VERSION];
        out.extend(postcard::to_stdvec(&body).unwrap());
        out
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_postcard(event in event(), at_receipt: bool, source: u64, stream: u64) {
            let event = if at_receipt { Event { time: Some(event.received), ..event } } else { event };
            let sequence = Sequence { source, stream };
            let mut out = Vec::new();
            encode(&event, sequence, &mut out);
            prop_assert_eq!(out, by_postcard(&event, sequence));
        }

        #[test]
        fn what_is_written_is_read_back(event in event(), source: u64, stream: u64) {
            let sequence = Sequence { source, stream };
            let mut out = Vec::new();
            encode(&event, sequence, &mut out);
            let head = head(&out).unwrap();
            prop_assert_eq!((head.source, head.sequence, head.received), (&*event.source, sequence, event.received));
            prop_assert_eq!(decode(&Bytes::from(out)), Ok((event, sequence)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            drop(decode(&Bytes::from(bytes)));
        }
    }

    #[test]
    fn a_later_version_is_named_in_the_error() {
        let error = decode(&Bytes::from_static(&[9, 1, 2])).unwrap_err();
        assert_eq!(error, RecordError::Version(9));
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn the_bytes_on_disk_are_those_of_version_1() {
        let event = Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: true,
            source: Text::from_static("mqtt://n/s"),
            id: None,
            time: Some(Timestamp(300)),
            received: Timestamp(300),
            expires: Some(Timestamp(5)),
            topic: Text::from_static("t"),
            payload: Bytes::from_static(&[0, 200, 255]),
            properties: Some(Box::new(Properties {
                correlation_data: Some(Bytes::from_static(&[128, 1])),
                ..Properties::default()
            })),
        };
        let mut out = Vec::new();
        encode(&event, Sequence { source: 7, stream: 130 }, &mut out);
        let expected = b"\x01\x01\x01\x01\x07\x82\x01\x0amqtt://n/s\x00\x01\xac\x02\x01\x05\x01t\x01\x00\x00\x00\x01\x02\x80\x01\x00\x03\x00\xc8\xff";
        assert_eq!(out, expected);
    }

    #[test]
    fn telemetry_pays_about_sixty_bytes_beside_its_payload() {
        let event = Event {
            via: Via::Mqtt3,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: Text::from_static("mqtt://plant-7/sensor-12"),
            id: None,
            time: Some(Timestamp(1_790_000_000_000)),
            received: Timestamp(1_790_000_000_000),
            expires: None,
            topic: Text::from_static("plant/7/temp"),
            payload: Bytes::from(vec![b'x'; 200]),
            properties: None,
        };
        let mut out = Vec::new();
        encode(&event, Sequence { source: 100_000, stream: 100_000 }, &mut out);
        assert!(out.len() <= 200 + 64, "{}", out.len());
    }
}
