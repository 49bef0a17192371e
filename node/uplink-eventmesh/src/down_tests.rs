//! What comes down, as the runtime delivers it.

use super::*;
use crate::options::Options;
use std::collections::HashMap;

fn value(attr: Attr) -> CloudEventAttributeValue {
    CloudEventAttributeValue { attr: Some(attr) }
}

fn event(attributes: &[(&str, &str)]) -> CloudEvent {
    let text = |(n, v): &(&str, &str)| ((*n).to_owned(), value(Attr::CeString((*v).to_owned())));
    CloudEvent {
        id: "c1".to_owned(),
        source: "/cloud".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "cmd".to_owned(),
        attributes: attributes.iter().map(text).collect::<HashMap<_, _>>(),
        data: Some(Data::TextData("open".to_owned())),
    }
}

fn take(event: CloudEvent) -> Incoming {
    incoming(event, &Options::new("plant-7", "cloud", Vec::new()).down, &LoopGuard::new("plant-7"))
}

fn message(event: CloudEvent) -> Downward {
    match take(event) {
        Incoming::Message(message) => *message,
        other => panic!("{other:?}"),
    }
}

fn user(message: &Downward) -> Vec<(String, String)> {
    let properties = message.properties.as_ref().unwrap();
    properties.user.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

#[test]
fn a_command_becomes_a_message_without_eventmeshs_own_attributes() {
    let wire = [
        "env",
        "idc",
        "ip",
        "pid",
        "sys",
        "username",
        "passwd",
        "language",
        "ttl",
        "uniqueid",
        "seqnum",
        "producergroup",
    ];
    let mut attributes: Vec<(&str, &str)> = wire.iter().map(|name| (*name, "x")).collect();
    attributes.extend([
        ("subject", "commands"),
        ("edgetopic", "valve/1"),
        ("edgeqos", "2"),
        ("edgeretain", "true"),
        ("datacontenttype", "text/plain"),
        ("reqmq2eventmeshtimestamp", "1"),
        ("reqeventmesh2ctimestamp", "2"),
        ("urgency", "high"),
        ("edgettl", "9"),
        ("responsetopic", "valve/1/done"),
        ("correlationid", "-_8"),
        ("protocoldesc", "grpc-cloud-event"),
    ]);
    let down = message(event(&attributes));
    assert_eq!(
        (&*down.topic, &down.payload[..], down.qos, down.retain),
        ("valve/1", &b"open"[..], Qos::ExactlyOnce, true)
    );
    assert_eq!(down.identity, Some((Text::from_static("/cloud"), Text::from_static("c1"))));
    let expected = [
        ("specversion", "1.0"),
        ("id", "c1"),
        ("source", "/cloud"),
        ("type", "cmd"),
        ("subject", "valve/1"),
        ("correlationid", "-_8"),
        ("edgeqos", "2"),
        ("edgeretain", "true"),
        ("responsetopic", "valve/1/done"),
        ("ttl", "9"),
        ("urgency", "high"),
    ];
    assert_eq!(user(&down), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let properties = down.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("valve/1/done"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\xfb\xff"[..]));
    assert!(properties.utf8_payload);
}

#[test]
fn what_carries_a_status_code_is_an_answer() {
    let answer = event(&[("statuscode", "0"), ("responsemessage", "subscribe success")]);
    assert_eq!(
        take(answer),
        Incoming::Control(Status { code: Some(0), message: "subscribe success".to_owned() })
    );
}

#[test]
fn what_has_passed_here_does_not_come_back() {
    assert_eq!(take(event(&[("subject", "t"), ("edgevia", "a plant-7")])), Incoming::Loop);
    let own = CloudEvent { source: "mqtt://plant-7/sensor".to_owned(), ..event(&[("subject", "t")]) };
    assert_eq!(take(own), Incoming::Loop);
    assert!(matches!(take(event(&[("subject", "t"), ("edgevia", "plant-77")])), Incoming::Message(_)));
}

#[test]
fn typed_attributes_become_canonical_text() {
    let mut typed = event(&[("subject", "t")]);
    let time = prost_types::Timestamp { seconds: 1_790_000_000, nanos: 123_000_000 };
    typed.attributes.extend([
        ("flag".to_owned(), value(Attr::CeBoolean(true))),
        ("num".to_owned(), value(Attr::CeInteger(-5))),
        ("bin".to_owned(), value(Attr::CeBytes(Bytes::from_static(&[1, 255])))),
        ("time".to_owned(), value(Attr::CeTimestamp(time))),
        ("dataschema".to_owned(), value(Attr::CeUri("http://x/y".to_owned()))),
    ]);
    let user = user(&message(typed));
    for (name, expected) in [
        ("flag", "true"),
        ("num", "-5"),
        ("bin", "Af8="),
        ("time", "2026-09-21T14:13:20.123Z"),
        ("dataschema", "http://x/y"),
    ] {
        assert!(user.contains(&(name.to_owned(), expected.to_owned())), "{name}: {user:?}");
    }
}

#[test]
fn every_data_arm_becomes_a_payload() {
    let with = |data| message(CloudEvent { data, ..event(&[("subject", "t")]) });
    assert_eq!(with(Some(Data::BinaryData(Bytes::from_static(b"\0\xff")))).payload, &b"\0\xff"[..]);
    assert_eq!(with(None).payload, &b""[..]);
    let any = prost_types::Any { type_url: "type.googleapis.com/x.Y".to_owned(), value: vec![8, 1] };
    let down = with(Some(Data::ProtoData(any)));
    assert_eq!(down.payload, &[8, 1][..]);
    assert!(user(&down).contains(&("dataschema".to_owned(), "type.googleapis.com/x.Y".to_owned())));
}

#[test]
fn what_devices_could_not_get_is_named() {
    assert!(matches!(take(event(&[])), Incoming::Unroutable(_)), "no topic");
    assert!(matches!(take(event(&[("subject", "a/#")])), Incoming::Unroutable(_)));
    let long = "x".repeat(65_536);
    assert!(matches!(take(event(&[("subject", "t"), ("note", &long)])), Incoming::Unroutable(_)));
    assert!(matches!(take(event(&[("subject", "t"), ("note", "a\0b")])), Incoming::Unroutable(_)));
    // Delivered as it came, but nobody can be told apart by it.
    let nameless = message(CloudEvent { id: String::new(), ..event(&[("subject", "t")]) });
    assert_eq!(
        (nameless.identity, user(&message(CloudEvent { id: String::new(), ..event(&[("subject", "t")]) }))),
        (None, vec![])
    );
}
