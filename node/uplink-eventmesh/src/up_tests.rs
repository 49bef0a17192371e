//! Mapping of events, read back through the generated types.

use super::*;
use crate::proto::cloud_event::Data;
use crate::wire::PREFIX_BYTES;
use eventmesh_edge_core::event::{Event, LogId, Position, Qos, Sequence, Timestamp, Via};
use eventmesh_edge_core::mapping::{Admission, admit};
use proptest::prelude::*;
use prost::Message as _;

fn stored(payload: &[u8], properties: Option<Properties>) -> StoredEvent {
    let source = mqtt_source("plant-7", "sensor-12");
    let event = admit(Admission {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: Text::from_static("plant/7/temp"),
        payload: Bytes::copy_from_slice(payload),
        properties: properties.map(Box::new),
        expiry: None,
        source: &source,
        received: Timestamp(1_790_000_000_000),
    });
    let sequence = Sequence { source: 41, stream: 9 };
    StoredEvent { position: Position(5), log: LogId(7), sequence, event, stored_bytes: 0 }
}

fn with(content_type: &str, user: &[(&str, &str)]) -> Properties {
    Properties {
        content_type: Some(Text::from(content_type.to_owned())).filter(|t| !t.is_empty()),
        user: user.iter().map(|(n, v)| (Text::from((*n).to_owned()), Text::from((*v).to_owned()))).collect(),
        ..Properties::default()
    }
}

fn map(stored: &StoredEvent) -> Result<crate::proto::CloudEvent, Refused> {
    let mapper = Mapper::new(&Options::new("plant-7", "cloud", Vec::new())).unwrap();
    let mut topic = String::new();
    mapper.topic(stored, "t", &mut topic)?;
    let frame = mapper.event(stored, "com.example.t.v1", &topic, &mut BytesMut::new())?;
    Ok(crate::proto::CloudEvent::decode(frame.slice(PREFIX_BYTES..)).unwrap())
}

fn text(data: &str) -> Option<Data> {
    Some(Data::TextData(data.to_owned()))
}

fn binary(data: &'static [u8]) -> Option<Data> {
    Some(Data::BinaryData(Bytes::from_static(data)))
}

#[test]
fn everything_that_the_runtime_requires_is_there_and_not_empty() {
    let event = map(&stored(b"{\"a\":1}", None)).unwrap();
    assert_eq!((event.source.as_str(), event.spec_version.as_str()), ("mqtt://plant-7/sensor-12", "1.0"));
    assert_eq!(event.r#type, "com.example.t.v1");
    for name in [
        "env",
        "idc",
        "ip",
        "pid",
        "sys",
        "username",
        "passwd",
        "language",
        "subject",
        "producergroup",
        "ttl",
    ] {
        assert!(event.text(name).is_some_and(|v| !v.is_empty()), "{name}");
    }
    let get = |name| event.text(name).unwrap_or_default();
    assert_eq!(
        (get("protocoltype"), get("protocoldesc"), get("protocolversion")),
        ("cloudevents", "grpc-cloud-event", "1.0")
    );
    assert_eq!((get("uniqueid"), get("seqnum")), (event.id.as_str(), "00000000000000000041"));
    assert_eq!((get("subject"), get("edgetopic")), ("eventmesh-edge", "plant/7/temp"));
    assert_eq!((get("datacontenttype"), get("edgevia")), ("application/json", "plant-7"));
    assert_eq!((event.text("edgesubject"), get("time")), (None, "2026-09-21T14:13:20Z"));
    assert_eq!(event.data, text("{\"a\":1}"));
}

#[test]
fn the_data_arm_is_the_one_that_the_content_type_asks_for() {
    type Case<'a> = (&'a str, &'a [u8], Option<Data>, &'a str, Option<&'a str>);
    let table: [Case<'_>; 10] = [
        ("text/plain", b"x", text("x"), "text/plain", None),
        ("application/vnd.x+json", b"{}", text("{}"), "application/vnd.x+json", None),
        ("image/svg+xml", b"<a/>", text("<a/>"), "image/svg+xml", None),
        ("application/xml", b"<a/>", text("<a/>"), "application/xml", None),
        ("application/json; charset=utf-8", b"{}", binary(b"{}"), "application/json; charset=utf-8", None),
        ("application/cbor", b"\xa0", binary(b"\xa0"), "application/cbor", None),
        (
            "application/octet-stream",
            b"\x00\xff\x01",
            binary(b"\x00\xff\x01"),
            "application/octet-stream",
            None,
        ),
        ("text/plain", b"\xff", binary(b"\xff"), "application/octet-stream", Some("text/plain")),
        (
            "application/protobuf",
            b"\x08\x01",
            binary(b"\x08\x01"),
            "application/octet-stream",
            Some("application/protobuf"),
        ),
        ("text/plain", b"", binary(b"\0"), "application/octet-stream", Some("text/plain")),
    ];
    for (content_type, payload, data, sent, original) in table {
        let event = map(&stored(payload, Some(with(content_type, &[])))).unwrap();
        assert_eq!(
            (event.text("datacontenttype"), event.text("edgecontenttype")),
            (Some(sent), original),
            "{content_type}"
        );
        assert_eq!(
            (event.text("edgeempty").is_some(), &event.data),
            (payload.is_empty(), &data),
            "{content_type}"
        );
    }
    let event = map(&stored(b"", None)).unwrap();
    assert_eq!((event.text("datacontenttype"), event.text("edgeempty")), (None, Some("true")));
    assert_eq!(event.data, binary(b"\0"));
}

#[test]
fn attributes_that_mean_something_to_eventmesh_move_aside() {
    let user = [
        ("ttl", "7"),
        ("statuscode", "0"),
        ("site", "north"),
        ("edgeempty", "true"),
        ("edgettl", "8"),
        ("BadName", "x"),
    ];
    let event = map(&stored(b"x", Some(with("", &user)))).unwrap();
    let get = |name| event.text(name);
    assert_eq!((get("ttl"), get("edgettl"), get("edgeedgettl")), (Some("4000"), Some("7"), Some("8")));
    assert_eq!((get("statuscode"), get("edgestatuscode")), (None, Some("0")));
    assert_eq!((get("site"), get("edgeempty"), get("edgeedgeempty")), (Some("north"), None, Some("true")));
    let lower = |name: &String| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    assert!(event.attributes.keys().all(lower), "one bad name and the runtime refuses the whole event");
}

#[test]
fn a_native_event_keeps_its_identity_and_its_subject() {
    let user = [
        ("specversion", "1.0"),
        ("id", "i1"),
        ("source", "/s"),
        ("type", "t"),
        ("subject", "own"),
        ("edgevia", "n1"),
    ];
    let mut properties = with("application/json", &user);
    properties.response_topic = Some(Text::from_static("answers/1"));
    properties.correlation_data = Some(Bytes::from_static(b"\xfb\xff"));
    let event = map(&stored(b"{}", Some(properties))).unwrap();
    assert_eq!([&event.id, &event.source, &event.r#type], ["i1", "/s", "t"]);
    let get = |name| event.text(name).unwrap_or_default();
    assert_eq!(
        (get("subject"), get("edgesubject"), get("edgetopic")),
        ("eventmesh-edge", "own", "plant/7/temp")
    );
    assert_eq!((get("edgevia"), get("uniqueid")), ("n1 plant-7", "i1"));
    assert_eq!((get("responsetopic"), get("correlationid")), ("answers/1", "-_8"));
    let json = br#"{"specversion":"1.0","id":"i2","source":"/s","type":"t","edgevia":"n1","data":{"a":1}}"#;
    let event = map(&stored(json, Some(with("application/cloudevents+json", &[])))).unwrap();
    assert_eq!((event.text("edgevia"), &event.data), (Some("n1 plant-7"), &text("{\"a\":1}")));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent() {
    let options = Options { message_max_bytes: 1_000, ..Options::new("plant-7", "cloud", Vec::new()) };
    let mapper = Mapper::new(&options).unwrap();
    let size = |payload: usize| {
        let mut out = BytesMut::new();
        let frame = mapper.event(&stored(&vec![b'x'; payload], None), "k", "t", &mut out);
        assert!(frame.is_ok() || out.is_empty(), "a refused event leaves nothing in the buffer");
        frame.map(|f| f.len() - PREFIX_BYTES)
    };
    let overhead = size(200).unwrap() - 200;
    assert_eq!(size(1_000 - overhead).unwrap(), 1_000);
    assert_eq!(size(1_001 - overhead), Err(Refused::TooLarge { bytes: 1_001, max: 1_000 }));
}

#[test]
fn an_event_without_what_cloudevents_requires_is_refused() {
    let mut stored = stored(b"x", None);
    stored.event.source = Text::new();
    assert_eq!(map(&stored), Err(Refused::Missing("source")));
}

#[test]
fn a_password_is_in_the_message_and_nowhere_else() {
    let options = Options {
        credentials: Some(crate::Credentials {
            username: "u".to_owned(),
            password: Some(crate::Secret::new("hunter2")),
            password_file: None,
        }),
        ..Options::new("plant-7", "cloud", vec![crate::Address { host: "h".to_owned(), port: 1 }])
    };
    assert_eq!(options.check(), Err(OptionsError::Plaintext));
    let options = Options { allow_plaintext_credentials: true, ..options };
    options.check().unwrap();
    assert!(!format!("{options:?}").contains("hunter2"), "P7");
    let mapper = Mapper::new(&options).unwrap();
    let frame = mapper.event(&stored(b"x", None), "k", "t", &mut BytesMut::new()).unwrap();
    let event = crate::proto::CloudEvent::decode(frame.slice(PREFIX_BYTES..)).unwrap();
    assert_eq!((event.text("username"), event.text("passwd")), (Some("u"), Some("hunter2")));
}

proptest! {
    /// Whatever a device sends is either refused or comes back whole on the way down.
    #[test]
    fn nothing_is_lost_between_up_and_down(
        content_type in proptest::option::of(proptest::sample::select(
            vec!["text/plain", "application/json", "application/json; charset=utf-8", "application/protobuf", "image/png", "a/b+xml"])),
        payload in proptest::collection::vec(any::<u8>(), 0..40), ascii: bool,
        user in proptest::collection::btree_map(
            proptest::sample::select(vec!["site", "ttl", "ip", "statuscode", "edgettl", "edgetopic", "edgeempty", "edgesubject", "a1"]),
            "[ -~]{1,12}", 0..6),
        native: bool,
    ) {
        let payload: Vec<u8> = if ascii { payload.iter().map(|b| b'0' + b % 10).collect() } else { payload };
        let mut all: Vec<(&str, &str)> = user.iter().map(|(n, v)| (*n, v.as_str())).collect();
        if native {
            all.extend([("specversion", "1.0"), ("id", "i1"), ("source", "/s"), ("type", "t")]);
        }
        let stored = stored(&payload, Some(with(content_type.unwrap_or_default(), &all)));
        let sent = map(&stored).unwrap();
        // Another node gets it.
        let down = Options::new("other", "cloud", Vec::new()).down;
        let crate::down::Incoming::Message(message) = crate::down::incoming(sent, &down, &LoopGuard::new("other")) else {
            panic!("not a message")
        };
        prop_assert_eq!(&message.payload[..], &payload[..]);
        prop_assert_eq!(&*message.topic, "plant/7/temp");
        let properties = message.properties.unwrap();
        if let Some(declared) = content_type {
            prop_assert_eq!(properties.content_type.as_deref(), Some(declared));
        }
        let event = to_cloudevent(&stored, "com.example.t.v1", None);
        prop_assert_eq!(message.identity.unwrap(), (stored.event.source.clone(), stored.id()));
        for (name, value) in event.attributes.iter().filter(|(n, _)| *n != VIA_PROPERTY) {
            let found = properties.user.iter().filter(|(n, _)| **n == **name).map(|(_, v)| &**v).collect::<Vec<_>>();
            prop_assert_eq!(found, vec![&**value], "{}", name);
        }
    }

    #[test]
    fn no_event_makes_it_panic(event in any_event()) {
        let stored = StoredEvent { position: Position(1), log: LogId(1), sequence: Sequence::default(), event, stored_bytes: 0 };
        drop(map(&stored));
    }
}

prop_compose! {
    fn any_event()(
        topic in "\\PC{1,200}", source in "\\PC{0,9}", payload in proptest::collection::vec(any::<u8>(), 0..60),
        content_type in proptest::option::of("\\PC{0,20}"), user in proptest::collection::vec(("\\PC{0,9}", "\\PC{0,9}"), 0..9),
    ) -> Event {
        Event {
            via: Via::Mqtt5, qos: Qos::AtMostOnce, retain: true, source: Text::from(source), id: None, time: None,
            received: Timestamp(0), expires: None, topic: Text::from(topic), payload: Bytes::from(payload),
            properties: Some(Box::new(Properties {
                content_type: content_type.map(Text::from),
                user: user.into_iter().map(|(n, v)| (Text::from(n), Text::from(v))).collect(),
                ..Properties::default()
            })),
        }
    }
}
