//! Golden tables of the binding, and properties over any message: whatever leaves is a valid CloudEvent.

use super::*;
use crate::Text;
use crate::event::{Event, LogId, Position, Properties, Qos, Sequence, StoredEvent, Timestamp, Via};
use bytes::Bytes;
use eventmesh_edge_wire::Frame;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::LazyLock;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value =
        serde_json::from_str(include_str!("../../tests/data/cloudevents-1.0.2.schema.json")).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
});

fn assert_valid(json: &[u8]) -> Value {
    let value: Value =
        serde_json::from_slice(json).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(json)));
    let errors: Vec<_> = SCHEMA.iter_errors(&value).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}: {value}");
    value
}

fn text(t: &str) -> Text {
    Text::from(t.to_owned())
}

fn properties(content_type: Option<&str>, user: &[(&str, &str)]) -> Option<Box<Properties>> {
    let user = user.iter().map(|(n, v)| (text(n), text(v))).collect();
    Some(Box::new(Properties { content_type: content_type.map(text), user, ..Properties::default() }))
}

fn admit_one(via: Via, payload: &[u8], properties: Option<Box<Properties>>) -> Event {
    admit(Admission {
        via,
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: text("plant/7/temp"),
        payload: Bytes::copy_from_slice(payload),
        properties,
        expiry: None,
        source: &mqtt_source("plant-7", "sensor-12"),
        received: NOW,
    })
}

fn stored(event: Event) -> StoredEvent {
    StoredEvent {
        position: Position(Position::first_of(3).0 + 117),
        log: LogId(0x5f3a_9c01),
        sequence: Sequence { source: 42, stream: 7 },
        event,
        stored_bytes: 0,
    }
}

fn out(stored: &StoredEvent) -> CloudEvent<'_> {
    to_cloudevent(stored, "com.example.temperature.v1", None)
}

fn attributes<'a>(event: &'a CloudEvent<'_>) -> Vec<(&'a str, &'a str)> {
    event.attributes.iter().map(|(n, v)| (*n, &**v)).collect()
}

const NATIVE: [(&str, &str); 4] = [
    ("specversion", "1.0"),
    ("type", "com.example.someevent"),
    ("id", "1234-1234-1234"),
    ("source", "/mycontext/sub"),
];

#[test]
fn a_plain_mqtt_3_message_gets_everything_from_the_node() {
    let stored = stored(admit_one(Via::Mqtt3, b"{\"t\":21.5}", None));
    assert_eq!(stored.event.source, "mqtt://plant-7/sensor-12");
    assert_eq!((&stored.event.id, stored.event.time), (&None, Some(NOW)));
    let event = out(&stored);
    let expected = [
        ("specversion", "1.0"),
        ("id", "5f3a9c01.3-118"),
        ("source", "mqtt://plant-7/sensor-12"),
        ("type", "com.example.temperature.v1"),
        ("subject", "plant/7/temp"),
        ("time", "2026-09-21T14:13:20Z"),
        ("recordedtime", "2026-09-21T14:13:20Z"),
        ("sequence", "00000000000000000042"),
        ("edgeseq", "7"),
        ("partitionkey", "sensor-12"),
        ("edgeqos", "1"),
    ];
    assert_eq!(attributes(&event), expected);
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    let json = assert_valid(&to_structured_json(&event));
    assert_eq!(json["data"], serde_json::json!({"t": 21.5}));
    assert_eq!(json["datacontenttype"], "application/json");
    let message = to_mqtt5_binary(event);
    assert_eq!(message.payload, stored.event.payload);
    assert_eq!(message.user.iter().map(|(n, v)| (*n, &**v)).collect::<Vec<_>>(), expected);
}

#[test]
fn while_the_clock_is_unset_no_time_is_invented() {
    let admit_at = |received, time: Option<&str>| {
        admit(Admission {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: text("t"),
            payload: Bytes::new(),
            properties: properties(None, time.map(|t| ("time", t)).as_slice()),
            expiry: Some(Duration::from_secs(60)),
            source: &mqtt_source("n", "d"),
            received: Timestamp(received),
        })
    };
    let unset = stored(admit_at(5_000, None));
    assert_eq!((unset.event.time, unset.event.expires), (None, None));
    let event = out(&unset);
    assert_eq!((event.get("time"), event.get("recordedtime"), event.get("expirytime")), (None, None, None));
    assert_valid(&to_structured_json(&event));

    // The device may know better than an unset node; a set node knows better than a device that is far off.
    let device = "2026-01-02T03:04:05Z";
    assert_eq!(admit_at(5_000, Some(device)).time, parse_rfc3339(device));
    assert_eq!(admit_at(NOW.0, Some(device)).time, parse_rfc3339(device));
    assert_eq!(admit_at(NOW.0, Some("1970-01-01T00:00:09Z")).time, Some(NOW));
    assert_eq!(admit_at(NOW.0, Some("2031-01-01T00:00:00Z")).time, Some(NOW));
    assert_eq!(admit_at(NOW.0, Some("yesterday")).time, Some(NOW));
    assert_eq!(admit_at(NOW.0, None).expires, Some(Timestamp(NOW.0 + 60_000)));
}

/// MQTT binding section 3.1.4.
#[test]
fn a_native_binary_event_passes_untouched() {
    let more = [
        ("time", "2018-04-05T03:56:24+02:00"),
        ("datacontenttype", "text/xml"),
        ("myext", "äö"),
        ("Bad-Name", "kept"),
    ];
    let user: Vec<_> = NATIVE.into_iter().chain(more).collect();
    let stored = stored(admit_one(Via::Mqtt5, b"<a/>", properties(Some("text/xml; charset=utf-8"), &user)));
    assert_eq!(stored.event.source, "/mycontext/sub");
    assert_eq!(stored.event.id.as_deref(), Some("1234-1234-1234"));
    assert_eq!(stored.event.time, Some(NOW), "2018 is before any set clock");
    let event = out(&stored);
    assert_eq!(event.content_type.as_deref(), Some("text/xml; charset=utf-8"));
    assert_eq!(event.get("type"), Some("com.example.someevent"));
    assert_eq!(event.get("time"), Some("2018-04-05T03:56:24+02:00"));
    assert_eq!((event.get("subject"), event.get("partitionkey"), event.get("edgeqos")), (None, None, None));
    assert_eq!(event.get("sequence"), Some("00000000000000000042"));
    let json = assert_valid(&to_structured_json(&event));
    assert_eq!(json["data"], "<a/>");
    assert_eq!(json["myext"], "äö");
    assert_eq!(json["time"], "2018-04-05T03:56:24+02:00");
    let message = to_mqtt5_binary(event);
    assert!(message.user.contains(&("Bad-Name", "kept".into())));
    assert!(!message.user.iter().any(|(n, _)| *n == "datacontenttype"));
}

#[test]
fn sequence_of_a_native_event_is_its_own() {
    let user: Vec<_> =
        NATIVE.into_iter().chain([("sequence", "a1"), ("recordedtime", "2020-01-01T00:00:00Z")]).collect();
    let stored = stored(admit_one(Via::Mqtt5, b"", properties(None, &user)));
    let event = out(&stored);
    assert_eq!(event.get("sequence"), Some("a1"));
    assert_eq!(event.get("recordedtime"), Some("2020-01-01T00:00:00Z"));
    assert_eq!(event.get("edgeseq"), Some("7"));
}

const STRUCTURED: &str = r#" { "specversion" : "1.0", "type" : "com.example.someevent", "id" : "1234", "source" : "/mycontext",
  "answer": 42, "yes": true, "none": null, "time":"2026-01-02T03:04:05.678901Z", "data" : { "b": 1.10, "a": 123456789012345678901234567890 } }"#;

#[test]
fn a_structured_event_passes_as_the_text_it_came_as() {
    for (via, properties) in [
        (Via::Mqtt3, None),
        (Via::Mqtt5, properties(Some("application/cloudevents+json; charset=utf-8"), &[])),
        (Via::Mqtt5, properties(Some("Application/CloudEvents"), &[])),
    ] {
        let stored = stored(admit_one(via, STRUCTURED.as_bytes(), properties));
        assert_eq!((stored.event.id.as_deref(), &*stored.event.source), (Some("1234"), "/mycontext"));
        assert_eq!(stored.event.time, Some(Timestamp(1_767_323_045_678)));
        let event = out(&stored);
        let json = to_structured_json(&event);
        assert_valid(&json);
        let json = String::from_utf8(json).unwrap();
        assert!(json.ends_with(STRUCTURED.split_once('{').unwrap().1), "{json}");
        assert!(json.starts_with(
            r#" {"recordedtime":"2026-09-21T14:13:20Z","sequence":"00000000000000000042","edgeseq":"7","#
        ));

        let message = to_mqtt5_binary(event);
        assert_eq!(
            message.content_type.as_deref(),
            Some("application/json"),
            "implied by the format, said in binary mode"
        );
        assert_eq!(message.payload, br#"{ "b": 1.10, "a": 123456789012345678901234567890 }"#.as_slice());
        assert!(
            message.user.contains(&("answer", "42".into())) && message.user.contains(&("yes", "true".into()))
        );
        assert!(!message.user.iter().any(|(n, _)| *n == "none"));
    }
}

#[test]
fn a_member_that_is_null_is_not_written_a_second_time() {
    let text =
        r#"{"specversion":"1.0","type":"t","id":"1","source":"/s","sequence":null,"datacontenttype":null}"#;
    let stored = stored(admit_one(Via::Mqtt3, text.as_bytes(), None));
    let event = out(&stored);
    assert_eq!((event.get("sequence"), event.get("edgeseq")), (None, Some("7")));
    let json = String::from_utf8(to_structured_json(&event)).unwrap();
    assert_eq!(json.matches("\"sequence\"").count(), 1);
    assert_valid(json.as_bytes());
}

#[test]
fn what_only_resembles_a_cloudevent_is_plain() {
    let json = |t: &str| (Via::Mqtt3, t.as_bytes().to_vec(), None);
    let v5 = |content_type, user: &[(&str, &str)], payload: &str| {
        (Via::Mqtt5, payload.as_bytes().to_vec(), properties(content_type, user))
    };
    let head = r#"{"specversion":"1.0","type":"t","id":"1","source":"s""#;
    let padding = " ".repeat(SNIFF_HEAD_BYTES);
    let many: String = (0..100).map(|i| format!(",\"x{i}\":\"\"")).collect();
    let cases = [
        json(""),
        json("{}"),
        json(r#"{"specversion":"0.3","type":"t","id":"1","source":"s"}"#),
        json(r#"{"specversion":"1.0","type":"t","id":"","source":"s"}"#),
        json(r#"{"specversion":"1.0","type":"t","source":"s"}"#),
        json(r#"{"specversion":"1.0","type":"t","id":1,"id":2,"source":"s"}"#),
        json(&format!("{head},\"source\":\"z\"}}")),
        json(&format!("{head},\"\\u0069d\":\"2\"}}")),
        json(&format!("{head},\"time\":\"now\"}}")),
        json(&format!("{head},\"dataschema\":\"/relative\"}}")),
        json(&format!("{head},\"ext\":{{}}}}")),
        json(&format!("{head},\"sequence\":\"\\u0000\"}}")),
        json(&format!("{head},\"data\":1,\"data_base64\":\"AA==\"}}")),
        json(&format!("{head},\"data_base64\":\"*\"}}")),
        json(&format!("{head},\"data\":\"\\ud800\"}}")),
        json(&format!("{head},\"data\":1e999}}")),
        json(&format!("{head},\"data\":{}{}}}", "[".repeat(200), "]".repeat(200))),
        json(&format!("{head}}} x")),
        json(&format!("{head}{many}}}")),
        json(&format!("{{{padding}{}}}", &head[1..])),
        json(r#"{"specversion":"1.0","type":"t","id":"1","source":"not a uri"}"#),
        json(r#"[{"specversion":"1.0","type":"t","id":"1","source":"s"}]"#),
        v5(Some("application/json"), &[], &format!("{head}}}")),
        v5(Some("application/cloudevents-batch+json"), &[], &format!("{head}}}")),
        v5(Some("application/cloudevents+avro"), &[], &format!("{head}}}")),
        v5(None, &NATIVE[1..], ""),
        v5(None, &[NATIVE[0], NATIVE[1], NATIVE[2], ("source", "%")], ""),
        v5(None, &[NATIVE[0], NATIVE[0], NATIVE[1], NATIVE[2], NATIVE[3]], ""),
    ];
    for (via, payload, properties) in cases {
        let stored = stored(admit_one(via, &payload, properties));
        let shown = String::from_utf8_lossy(&payload).chars().take(80).collect::<String>();
        assert_eq!(stored.event.source, "mqtt://plant-7/sensor-12", "{shown}");
        assert_eq!(stored.event.payload, payload);
        let event = out(&stored);
        assert_eq!(event.get("type"), Some("com.example.temperature.v1"), "{shown}");
        assert!(
            !event.content_type.as_deref().unwrap_or_default().starts_with("application/cloudevents"),
            "{shown}"
        );
        assert_valid(&to_structured_json(&event));
    }
}

#[test]
fn a_user_property_id_alone_is_the_senders_id() {
    let event = |id: &str| stored(admit_one(Via::Mqtt5, b"x", properties(None, &[("id", id)])));
    let good = event("my-own-1");
    assert_eq!(
        (out(&good).get("id"), out(&good).get("source")),
        (Some("my-own-1"), Some("mqtt://plant-7/sensor-12"))
    );
    for bad in ["", "a\u{1}b", "x".repeat(2_000).as_str()] {
        assert_eq!(out(&event(bad)).get("id"), Some("5f3a9c01.3-118"));
    }
}

#[test]
fn a_frame_brings_its_id_its_time_and_its_type() {
    let frame =
        Frame { boot: 0xab, counter: 9, time_ms: Some(NOW.0 - 5_000), kind: "com.example.v1", data: b"21.5" };
    let mut buf = [0; 64];
    let bytes = eventmesh_edge_wire::encode(&frame, &mut buf).unwrap();
    let stored_frame =
        stored(admit_one(Via::Mqtt5, bytes, properties(Some(eventmesh_edge_wire::CONTENT_TYPE), &[])));
    assert_eq!(stored_frame.event.id.as_deref(), Some("ab-9"));
    let event = out(&stored_frame);
    assert_eq!(event.get("type"), Some("com.example.v1"));
    assert_eq!(event.get("time"), Some("2026-09-21T14:13:15Z"));
    assert_eq!(
        (event.data.as_ref(), event.content_type.as_deref()),
        (&b"21.5"[..], Some("application/json"))
    );

    let broken =
        stored(admit_one(Via::Mqtt5, &bytes[..9], properties(Some(eventmesh_edge_wire::CONTENT_TYPE), &[])));
    let event = out(&broken);
    assert_eq!((broken.event.id.as_deref(), event.data.as_ref()), (None, &bytes[..9]));
    assert_eq!(event.content_type.as_deref(), Some(eventmesh_edge_wire::CONTENT_TYPE));
}

#[test]
fn content_type_is_declared_then_the_routes_then_looked_at() {
    let of = |declared: Option<&str>, route: Option<&'static str>, payload: &[u8]| {
        let stored = stored(admit_one(Via::Mqtt5, payload, properties(declared, &[("a", "b")])));
        to_cloudevent(&stored, "t", route).content_type.map(|t| t.into_owned())
    };
    for (declared, route, payload, expected) in [
        (Some("text/csv"), Some("x/y"), &b"{}"[..], Some("text/csv")),
        (Some("nonsense"), Some("x/y"), b"{}", Some("x/y")),
        (None, Some("x/y"), b"{}", Some("x/y")),
        (None, None, b"{}", Some("application/json")),
        (None, None, b" 21.5 ", Some("application/json")),
        (None, None, b"true", Some("application/json")),
        (None, None, b"21,5", Some("application/octet-stream")),
        (None, None, b"\xff", Some("application/octet-stream")),
        (None, None, b"\"\\ud800\"", Some("application/octet-stream")),
        (None, None, b"", None),
        (Some("application/cloudevents+json"), None, b"{}", Some("application/json")),
    ] {
        assert_eq!(of(declared, route, payload).as_deref(), expected, "{declared:?} {route:?} {payload:?}");
    }
}

/// JSON format section 3.1.1.
#[test]
fn data_is_a_value_a_string_or_base64() {
    let json = |content_type: &str, payload: &[u8]| {
        let stored = stored(admit_one(Via::Mqtt5, payload, properties(Some(content_type), &[])));
        let mut value = assert_valid(&to_structured_json(&out(&stored)));
        (value["data"].take(), value["data_base64"].take())
    };
    let (data, base64) = (|v: Value| (v, Value::Null), |t: &str| (Value::Null, Value::from(t)));
    assert_eq!(
        json("application/json; charset=utf-8", b"[1,\"\xc3\xa4\"]"),
        data(serde_json::json!([1, "ä"]))
    );
    assert_eq!(json("application/senml+json", b"{}"), data(serde_json::json!({})));
    assert_eq!(json("application/json", b"{broken"), base64("e2Jyb2tlbg=="));
    assert_eq!(json("text/plain", b"{\"a\":1}"), data("{\"a\":1}".into()));
    assert_eq!(json("text/plain", b"\xff"), base64("/w=="));
    assert_eq!(json("application/octet-stream", b"abc"), base64("YWJj"));
    assert_eq!(json("text/plain", b""), (Value::Null, Value::Null));
}

#[test]
fn trace_request_and_reply_are_carried_if_they_are_valid() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut with =
        properties(Some("text/plain"), &[("traceparent", parent), ("tracestate", "a=b"), ("unit", "C")])
            .unwrap();
    with.response_topic = Some(text("reply/7"));
    with.correlation_data = Some(Bytes::from_static(&[0xff, 0xfe]));
    let stored_one = stored(admit_one(Via::Mqtt5, b"x", Some(with)));
    let event = out(&stored_one);
    for (name, value) in [
        ("traceparent", parent),
        ("tracestate", "a=b"),
        ("responsetopic", "reply/7"),
        ("correlationid", "__4"),
        ("unit", "C"),
    ] {
        assert_eq!(event.get(name), Some(value));
    }
    let message = to_mqtt5_binary(event);
    assert_eq!(
        (message.response_topic, message.correlation_data),
        (Some("reply/7"), Some(&[0xff, 0xfe][..]))
    );

    for bad in ["", "00-0-0-0", &parent.to_uppercase(), &parent.replace('b', "g"), &format!("{parent}-x")] {
        let user = [("traceparent", bad), ("tracestate", "a=b")];
        let stored_one = stored(admit_one(Via::Mqtt5, b"x", properties(None, &user)));
        let event = out(&stored_one);
        assert_eq!((event.get("traceparent"), event.get("tracestate")), (None, None), "{bad}");
    }
}

#[test]
fn user_properties_that_cannot_be_extensions_stay_behind() {
    let long = "a".repeat(21);
    let user = [
        ("Unit", "C"),
        ("un it", "C"),
        ("", "C"),
        (long.as_str(), "C"),
        ("type", "x"),
        ("source", "x"),
        ("subject", "x"),
        ("data", "x"),
        ("sequence", "x"),
        ("edgevia", "x"),
        ("control", "\u{7}"),
        ("empty", ""),
        ("twice", "1"),
        ("twice", "2"),
    ];
    let stored = stored(admit_one(Via::Mqtt5, b"x", properties(None, &user)));
    let event = out(&stored);
    assert_eq!(event.attributes.last(), Some(&("twice", "1".into())));
    assert_eq!(event.attributes.len(), 12);
    assert_eq!(event.get("type"), Some("com.example.temperature.v1"));
    assert_eq!(to_mqtt5_binary(event).user.len(), 12);
}

#[test]
fn a_huge_packet_of_properties_is_cut_not_compared_for_ever() {
    let names: Vec<String> = (0..30_000).map(|i| format!("n{i}")).collect();
    let user: Vec<_> = NATIVE.into_iter().chain(names.iter().map(|n| (n.as_str(), "v"))).collect();
    let native = stored(admit_one(Via::Mqtt5, b"x", properties(None, &user)));
    let event = out(&native);
    assert!(event.attributes.len() <= 67);
    let plain = stored(admit_one(Via::Mqtt5, b"x", properties(None, &user[1..])));
    assert!(out(&plain).attributes.len() <= 11 + 64);
}

#[test]
fn commands_are_unwrapped_for_devices() {
    let binary = properties(Some("text/plain"), &NATIVE);
    let plain = properties(Some("text/plain"), &[("a", "b")]);
    let got = from_mqtt5(Bytes::from_static(b"go"), binary.clone());
    assert_eq!((got.payload.as_ref(), &got.properties), (&b"go"[..], &binary));
    assert_eq!(got.identity, Some((text("/mycontext/sub"), text("1234-1234-1234"))));
    let got = from_mqtt5(Bytes::from_static(b"go"), plain.clone());
    assert_eq!((got.identity, got.properties), (None, plain));
    assert_eq!(from_mqtt5(Bytes::from_static(b"go"), None).properties, None);

    let structured = r#"{"specversion":"1.0","type":"t","id":"c-1","source":"/cloud","subject":"valve","datacontenttype":"text/plain","data":"open \"it\""}"#;
    let beside = [("edgevia", "hub"), ("id", "other")];
    let got = from_mqtt5(Bytes::from_static(structured.as_bytes()), properties(Some(JSON_FORMAT), &beside));
    assert_eq!(got.payload, b"open \"it\"".as_slice());
    assert_eq!(got.identity, Some((text("/cloud"), text("c-1"))));
    let properties = got.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    let user: Vec<_> = properties.user.iter().map(|(n, v)| (&**n, &**v)).collect();
    let expected = [
        ("specversion", "1.0"),
        ("type", "t"),
        ("id", "c-1"),
        ("source", "/cloud"),
        ("subject", "valve"),
        ("edgevia", "hub"),
    ];
    assert_eq!(user, expected);
    // Published locally and sent up another way, it is the same event still.
    let again = stored(admit_one(Via::Uplink, &got.payload, Some(properties)));
    assert_eq!((again.event.id.as_deref(), &*again.event.source), (Some("c-1"), "/cloud"));
    assert_eq!(out(&again).get("type"), Some("t"));
}

#[test]
fn an_event_admitted_as_plain_stays_plain_though_it_could_be_read_otherwise() {
    let mut event = admit_one(Via::Mqtt5, b"x", properties(None, &NATIVE));
    event.id = None;
    event.source = text("mqtt://plant-7/sensor-12");
    let stored = stored(event);
    assert_eq!(out(&stored).get("id"), Some("5f3a9c01.3-118"));
    assert_eq!(out(&stored).get("type"), Some("com.example.temperature.v1"));
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{1,8}",
        "\\PC{0,12}",
        proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter)
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "id",
        "source",
        "specversion",
        "type",
        "time",
        "subject",
        "data",
        "dataschema",
        "datacontenttype",
        "data_base64",
        "sequence",
        "recordedtime",
        "traceparent",
        "edgevia",
        "partitionkey",
    ];
    prop_oneof![proptest::sample::select(KNOWN).prop_map(str::to_owned), any_text()]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1.0".to_owned()),
        Just("2026-01-02T03:04:05Z".to_owned()),
        "(https?:)?(//)?[a-z]{0,3}[:@/?#%\\[\\]]{0,3}[a-z0-9]{0,4}",
        any_text(),
    ]
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let json = any_text()
        .prop_map(|t| serde_json::to_vec(&serde_json::json!({"v": t, "n": [1, 2.5, null]})).unwrap());
    let structured = (any_name(), any_value(), any_value(), any_text()).prop_map(|(name, value, source, data)| {
        let mut object = serde_json::json!({"specversion": "1.0", "type": "t", "id": "1", "source": source, "data": data});
        object[name] = Value::from(value);
        serde_json::to_vec(&object).unwrap()
    });
    prop_oneof![Just(Vec::new()), json, structured, proptest::collection::vec(any::<u8>(), 0..60)]
}

prop_compose! {
    fn any_properties()(
        utf8_payload: bool,
        content_type in proptest::option::of(prop_oneof![
            proptest::sample::select(&["application/json", "text/plain", "application/cloudevents+json", "a/b+json;c",
                eventmesh_edge_wire::CONTENT_TYPE, "application/cloudevents+avro"][..]).prop_map(str::to_owned),
            any_text(),
        ]),
        response_topic in proptest::option::of(any_text()),
        correlation_data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        native: bool,
        user in proptest::collection::vec((any_name(), any_value()), 0..8),
    ) -> Properties {
        let required = NATIVE.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).filter(|_| native);
        Properties {
            utf8_payload,
            content_type: content_type.map(Text::from),
            response_topic: response_topic.map(Text::from),
            correlation_data: correlation_data.map(Bytes::from),
            user: required.chain(user).map(|(n, v)| (Text::from(n), Text::from(v))).collect(),
        }
    }
}

prop_compose! {
    fn any_event()(
        v5 in proptest::option::of(any_properties()),
        retain: bool,
        topic in any_text().prop_map(|t| format!("t{t}")),
        payload in any_payload(),
        device in any_text(),
        received in prop_oneof![Just(0), Just(NOW.0), any::<u64>()],
        expiry in proptest::option::of(any::<u32>()),
    ) -> Event {
        admit(Admission {
            via: if v5.is_some() { Via::Mqtt5 } else { Via::Mqtt3 },
            qos: Qos::AtLeastOnce,
            retain,
            topic: Text::from(topic),
            payload: Bytes::from(payload),
            properties: v5.map(Box::new),
            expiry: expiry.map(|s| Duration::from_secs(s.into())),
            source: &mqtt_source("plant-7", &device),
            received: Timestamp(received),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The specification's schema, the specification's text, and the official SDK agree with what leaves, in both modes.
    #[test]
    fn whatever_leaves_is_a_valid_cloudevent(event in any_event()) {
        let stored = stored(event);
        let event = out(&stored);
        let json = to_structured_json(&event);
        let value = assert_valid(&json);
        prop_assert_eq!(value["id"].as_str(), Some(&*stored.id()), "identity is the stored one (P3)");
        prop_assert_eq!(value["source"].as_str(), Some(&*stored.event.source));
        let mut names = std::collections::HashSet::new();
        for (name, attribute) in &event.attributes {
            prop_assert!(attribute::is_name(name) && attribute::is_text(attribute), "{} {}", name, attribute);
            prop_assert!(names.insert(*name), "{} twice", name);
        }
        // Where the SDK is narrower than the specification: it reads `dataschema` as a WHATWG URL (`http::` is none), and
        // takes `a/b+json;c` for no JSON type.
        let narrower = event.get("dataschema").is_some()
            || event.content_type.as_deref().is_some_and(|t| t.contains(';'));
        prop_assert!(narrower || serde_json::from_slice::<cloudevents::Event>(&json).is_ok());

        // Binary mode says the same as the structured one, read back by the same rules.
        let message = to_mqtt5_binary(event.clone());
        let user = message.user.iter().map(|(n, v)| (text(n), text(v))).collect();
        let properties = Properties {
            content_type: message.content_type.as_deref().map(text),
            utf8_payload: message.utf8_payload,
            user,
            ..Properties::default()
        };
        let back = from_mqtt5(message.payload.clone(), Some(Box::new(properties)));
        prop_assert_eq!(back.identity, Some((stored.event.source.clone(), stored.id())));
        let structured = to_mqtt5_structured(&event);
        let properties = Properties { content_type: structured.content_type.as_deref().map(text), ..Properties::default() };
        let unwrapped = from_mqtt5(structured.payload, Some(Box::new(properties)));
        prop_assert_eq!(&unwrapped.identity, &Some((stored.event.source.clone(), stored.id())));
        prop_assert_eq!(unwrapped.payload, message.payload);
    }

    #[test]
    fn admission_keeps_the_bytes(payload in any_payload(), properties in proptest::option::of(any_properties())) {
        let properties = properties.map(Box::new);
        let event = admit_one(Via::Mqtt5, &payload, properties.clone());
        prop_assert_eq!(event.payload, payload);
        prop_assert_eq!(event.properties, properties);
    }

    /// Our reading of RFC 3986 is never wider than the validator's.
    #[test]
    fn a_uri_reference_of_ours_is_one_for_the_schema(uri in any_value()) {
        let json = serde_json::json!({"specversion": "1.0", "id": "1", "type": "t", "source": uri});
        prop_assert!(!attribute::is_uri_reference(&uri) || SCHEMA.is_valid(&json), "{}", uri);
        let json = serde_json::json!({"specversion": "1.0", "id": "1", "type": "t", "source": "s", "dataschema": uri});
        prop_assert!(!attribute::is_uri(&uri) || SCHEMA.is_valid(&json), "{}", uri);
    }
}
