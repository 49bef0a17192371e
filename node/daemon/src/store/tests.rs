//! Export, import, export: the same events.

use super::import::with_remembered;
use super::line::{self, LineError};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{
    Event, LogId, Position, Properties, Qos, Sequence, StoredEvent, Timestamp, Via,
};
use eventmesh_edge_core::mapping::{Admission, admit, default_kind};
use eventmesh_edge_core::ports::store::{
    Commit, NewEvent, Store, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_store::inspect::{InspectOptions, Inspection};
use eventmesh_edge_store::{JournalStore, StoreOptions};
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, mpsc};

const NOW: Timestamp = Timestamp(1_790_000_000_123);

fn spec(streams: &[&str]) -> StoreSpec {
    let stream = |name: &&str| StreamSpec {
        name: Text::from((*name).to_owned()),
        uplinks: vec![UplinkId(0)],
        max_bytes: 64 << 20,
        max_age: None,
        when_full: WhenFull::Refuse,
    };
    StoreSpec {
        streams: streams.iter().map(stream).collect(),
        uplinks: vec!["up".into()],
        disk_max: 1 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 100,
        mailboxes_max_bytes: 1 << 30,
    }
}

fn store_in(dir: &Path, events: &[(u16, Event)]) {
    let options = StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() };
    let spec = spec(&["first", "second"]);
    let (store, _) = JournalStore::open(dir, spec, &options, Arc::new(SystemClock::new())).unwrap();
    let new = |(stream, event): &(u16, Event)| NewEvent {
        stream: Some(StreamId(*stream)),
        event: event.clone(),
        mailboxes: Vec::new(),
    };
    let commit = Commit { events: events.iter().map(new).collect(), ..Commit::default() };
    let (into, answer) = mpsc::channel();
    store.submit(commit, Box::new(move |done| into.send(done).unwrap()));
    answer.recv().unwrap().unwrap();
    store.close();
}

/// Every event of a directory as its line, in the order of their positions.
fn exported(dir: &Path) -> Vec<Vec<u8>> {
    let inspection = Inspection::open(dir, &InspectOptions::default()).unwrap();
    let mut lines = Vec::new();
    for stream in inspection.report().streams {
        let mut after = Position::ZERO;
        loop {
            let page = inspection.read_stream(stream.number, after, 5, 1 << 20).unwrap();
            assert!(page.lost.is_empty());
            let line = |event: &StoredEvent| {
                (event.position, line::write(&stream.name, event, default_kind(event.event.via)))
            };
            lines.extend(page.events.iter().map(line));
            after = page.through;
            if page.at_end {
                break;
            }
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// A line without the place of its event, which is another in every log.
fn placeless(line: &[u8]) -> String {
    let text = String::from_utf8(line.to_vec()).unwrap();
    let at = text.find("\"edgeposition\":\"").unwrap();
    let end = text[at..].find(',').unwrap() + at;
    format!("{}{}", &text[..at], &text[end..])
}

fn plain_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9/]{1,12}", "[ -~]{1,20}", "\\PC{1,10}"]
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        Just(Bytes::from_static(b"{\"t\": 21.5, \"big\": 123456789012345678901234567890}")),
        Just(Bytes::from_static(b"plain text\nwith two lines")),
        Just(Bytes::from_static(
            b"{\n \"specversion\":\"1.0\", \"id\":\"own-1\",\r\n \"source\":\"/dev\", \"type\":\"t\", \"data\": {\"a\":[1,2]}}"
        )),
        Just(Bytes::from_static(
            b"{\"specversion\":\"1.0\",\"id\":\"own-2\",\"source\":\"/dev\",\"edgestream\":\"x\",\"type\":\"t\",\"data_base64\":\"AAEC\"}"
        )),
    ]
}

fn properties() -> impl Strategy<Value = Option<Box<Properties>>> {
    let user = proptest::collection::vec(("[a-z]{1,8}", plain_text()), 0..4);
    let content = prop_oneof![
        Just(None),
        Just(Some("text/plain")),
        Just(Some("application/json")),
        Just(Some("application/cloudevents+json"))
    ];
    let made = (user, content, any::<bool>()).prop_map(|(user, content, native)| {
        let mut user: Vec<(Text, Text)> = user.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        if native {
            for (name, value) in [("specversion", "1.0"), ("id", "u-1"), ("source", "urn:x"), ("type", "t.x")]
            {
                user.push((name.into(), value.into()));
            }
        }
        Box::new(Properties { content_type: content.map(Text::from_static), user, ..Properties::default() })
    });
    prop_oneof![Just(None), made.prop_map(Some)]
}

fn event() -> impl Strategy<Value = Event> {
    let topic = prop_oneof!["[a-z]{1,5}(/[a-z0-9]{1,4}){0,3}", "[é世界]{1,4}"];
    (topic, payload(), properties(), 0u8..3, any::<bool>()).prop_map(
        |(topic, payload, properties, qos, retain)| {
            let source = Text::from_static("mqtt://edge/d1");
            admit(Admission {
                via: if properties.is_some() { Via::Mqtt5 } else { Via::Mqtt3 },
                qos: Qos::from_u8(qos).unwrap(),
                retain,
                topic: topic.into(),
                payload,
                properties,
                expiry: None,
                source: &source,
                received: NOW,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What an import stores is exported as it was, but for its place: identity, numbers, times, data.
    #[test]
    fn export_import_export_is_the_same(events in proptest::collection::vec((0u16..2, event()), 1..12)) {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        store_in(&one, &events);
        let first = exported(&one);
        prop_assert_eq!(first.len(), events.len());
        let mut again = Vec::new();
        for text in &first {
            prop_assert!(!text.contains(&b'\n') && !text.contains(&b'\r'), "one line each");
            let read = line::read(text, Timestamp(5)).unwrap();
            let stream = u16::from(read.stream.as_deref() == Some("second"));
            again.push((stream, read.event));
        }
        store_in(&two, &again);
        let second = exported(&two);
        let placeless = |lines: &[Vec<u8>]| lines.iter().map(|line| placeless(line)).collect::<Vec<_>>();
        prop_assert_eq!(placeless(&first), placeless(&second));
        // Identity and data survive what a program with its own ideas of spacing and order makes of a line.
        for text in &first {
            let value: serde_json::Value = serde_json::from_slice(text).unwrap();
            let read = line::read(text, NOW).unwrap().event;
            let other = line::read(serde_json::to_string_pretty(&value).unwrap().as_bytes(), NOW).unwrap().event;
            prop_assert_eq!((&read.id, &read.source, &read.topic, read.time), (&other.id, &other.source, &other.topic, other.time));
        }
    }

    #[test]
    fn any_line_is_read_or_refused(text in "\\PC{0,80}", bytes: Vec<u8>) {
        drop(line::read(text.as_bytes(), NOW));
        drop(line::read(&bytes, NOW));
    }
}

#[test]
fn a_line_is_the_event_behind_its_place() {
    let source = Text::from_static("mqtt://edge/d1");
    let event = admit(Admission {
        via: Via::Mqtt3,
        qos: Qos::ExactlyOnce,
        retain: true,
        topic: "a/\"b\"".into(),
        payload: Bytes::from_static(&[0, 159, 146]),
        properties: None,
        expiry: None,
        source: &source,
        received: NOW,
    });
    let position = Position(Position::first_of(3).0 + 117);
    let sequence = Sequence { source: 7, stream: 5 };
    let stored = StoredEvent { position, log: LogId(0x5f3a_9c01), sequence, event, stored_bytes: 99 };
    let text = line::write("telemetry", &stored, "com.example.t");
    let prefix = br#"{"edgestream":"telemetry","edgeposition":"3.118","edgetopic":"a/\"b\"","#;
    assert!(text.starts_with(prefix), "{}", String::from_utf8_lossy(&text));
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["id"], "5f3a9c01.3-118");
    assert_eq!(value["data_base64"], "AJ+S");
    let read = line::read(&text, Timestamp(1)).unwrap();
    assert_eq!(read.stream.as_deref(), Some("telemetry"));
    assert_eq!((read.event.qos, read.event.retain), (Qos::ExactlyOnce, true));
    assert_eq!(read.event.received, NOW, "recorded when it was, not now");
    assert_eq!(read.event.id.as_deref(), Some("5f3a9c01.3-118"));
    assert_eq!(read.event.source, source);
}

#[test]
fn what_is_no_event_is_refused_with_its_reason() {
    let read = |text: &str| line::read(text.as_bytes(), NOW).map(drop);
    assert!(matches!(read("no json"), Err(LineError::Json(_))));
    assert!(matches!(read("[1]"), Err(LineError::Json(_))));
    let whole = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a/b"}"#;
    assert_eq!(read(whole), Ok(()));
    assert_eq!(read(&whole.replace(r#""id":"1""#, r#""id":"""#)), Err(LineError::NotAnEvent));
    assert_eq!(read(&whole.replace("1.0", "0.3")), Err(LineError::NotAnEvent));
    assert_eq!(read(&whole.replace("a/b", "a/+")), Err(LineError::NoTopic));
    assert_eq!(read(&whole.replace("subject", "subjects")), Err(LineError::NoTopic));
}

#[test]
fn streams_that_the_configuration_forgot_keep_their_readers() {
    let mut remembered = spec(&["old", "first"]);
    remembered.uplinks = vec!["gone".into(), "up".into()];
    remembered.streams[0].uplinks = vec![UplinkId(0), UplinkId(1)];
    let merged = with_remembered(spec(&["first"]), &remembered);
    assert_eq!(merged.uplinks, ["up", "gone"]);
    assert_eq!(merged.streams.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["first", "old"]);
    assert_eq!(merged.streams[1].uplinks, [UplinkId(1), UplinkId(0)]);
}
