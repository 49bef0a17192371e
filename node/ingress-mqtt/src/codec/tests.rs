//! Golden packets, good and bad, of all versions; and bytes of every kind.

use super::encode::{self, AckKind, Alias, ConnAck, EncodeError, Outgoing, Words};
use super::*;
use crate::testing::wire::{self, Connect as C};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Properties, Qos, Timestamp, Via};
use proptest::prelude::*;

fn decoder(version: Version) -> Decoder {
    let mut decoder = Decoder::new(300_000);
    let connect = C { version, ..C::default() }.encode();
    decoder.decode(BytesMut::from(&connect[..])).unwrap();
    decoder
}

fn decode(version: Version, bytes: &[u8]) -> Result<Packet, DecodeError> {
    let mut decoder = decoder(version);
    match decoder.frame(bytes)? {
        Frame::Whole(whole) => {
            assert_eq!(whole, bytes.len());
            decoder.decode(BytesMut::from(bytes))
        }
        Frame::Partial(_) => panic!("not a whole packet: {bytes:?}"),
    }
}

fn connect(bytes: &[u8]) -> Result<Connect, DecodeError> {
    match Decoder::new(300_000).decode(BytesMut::from(bytes))? {
        Packet::Connect(connect) => Ok(*connect),
        packet => panic!("{packet:?}"),
    }
}

const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[test]
fn a_connect_of_each_version_is_read() {
    for version in ALL {
        let sent = C {
            version,
            client_id: "sensor/é#🚀+",
            clean: false,
            keep_alive: 0,
            username: Some("ü/#"),
            password: Some(b"\0\xFF"),
            will: Some(("last/é", "gone", 2, true)),
            ..C::default()
        };
        let got = connect(&sent.encode()).unwrap();
        assert_eq!(got.version, version);
        assert_eq!(&*got.client_id, "sensor/é#🚀+");
        assert_eq!((got.clean_start, got.keep_alive_secs), (false, 0));
        assert_eq!(got.username.as_deref(), Some("ü/#"));
        assert_eq!(got.password.as_deref(), Some(&b"\0\xFF"[..]));
        let will = got.will.unwrap();
        assert_eq!((&*will.topic, will.qos, will.retain), ("last/é", Qos::ExactlyOnce, true));
        assert_eq!(got.session_expiry_secs, if version.is_v5() { 0 } else { u32::MAX });
    }
}

#[test]
fn a_v5_connect_carries_its_properties() {
    let properties = [
        wire::session_expiry(100),
        vec![0x21, 0, 10],
        vec![0x27, 0, 0, 4, 0],
        vec![0x22, 0, 7],
        [vec![0x15], wire::text("SCRAM")].concat(),
    ]
    .concat();
    let will_properties = [vec![0x18, 0, 0, 0, 5], vec![0x02, 0, 0, 0, 0], vec![0x01, 1]].concat();
    let sent = C {
        version: Version::V5,
        properties,
        will: Some(("w", "x", 1, false)),
        will_properties,
        ..C::default()
    };
    let got = connect(&sent.encode()).unwrap();
    assert_eq!(got.session_expiry_secs, 100);
    assert_eq!(got.receive_maximum, 10);
    assert_eq!(got.maximum_packet_bytes, Some(1024));
    assert_eq!(got.topic_alias_maximum, 7);
    assert!(got.wants_enhanced_auth);
    let will = got.will.unwrap();
    assert_eq!((will.delay_secs, will.expiry_secs), (5, Some(0)));
    assert!(will.properties.unwrap().utf8_payload);
}

#[test]
fn unknown_versions_want_an_answer_and_unknown_names_do_not() {
    let with = |name: &str, level: u8| {
        wire::packet(0x10, &[wire::text(name), vec![level, 2, 0, 60], wire::text("c")].concat())
    };
    for (level, wants_v5) in [(0, false), (3, false), (6, true), (0x84, false), (255, false)] {
        let error = connect(&with("MQTT", level)).unwrap_err();
        assert_eq!(error, DecodeError::UnsupportedVersion { level, wants_v5 });
    }
    assert!(matches!(connect(&with("MQIsdp", 4)), Err(DecodeError::UnsupportedVersion { .. })));
    assert!(matches!(connect(&with("HTTP", 4)), Err(DecodeError::Malformed(_))));
}

#[test]
fn an_empty_client_id_depends_on_version_and_flag() {
    let with = |version, clean| connect(&C { version, client_id: "", clean, ..C::default() }.encode());
    assert!(with(Version::V311, true).unwrap().client_id.is_empty());
    assert_eq!(with(Version::V311, false).unwrap_err(), DecodeError::ClientIdEmpty);
    assert_eq!(with(Version::V31, false).unwrap_err().reason(), Reason::ClientIdNotValid);
    assert!(with(Version::V5, true).unwrap().client_id.is_empty());
    assert!(with(Version::V5, false).unwrap().client_id.is_empty(), "the server assigns one [MQTT-3.1.3-6]");
}

#[test]
fn bad_connects_are_refused() {
    let flags = |version: Version, flags: u8| {
        let mut bytes = C { version, ..C::default() }.encode();
        let at = if version == Version::V31 { 11 } else { 9 };
        bytes[at] = flags;
        bytes
    };
    for version in ALL {
        for (name, f) in
            [("reserved bit", 0x03), ("will qos without will", 0x0A), ("will retain without will", 0x22)]
        {
            assert!(
                matches!(connect(&flags(version, f)), Err(DecodeError::Malformed(_))),
                "{version:?} {name}"
            );
        }
        let will = C { version, will: Some(("a/#", "x", 0, false)), ..C::default() };
        assert_eq!(connect(&will.encode()).unwrap_err().reason(), Reason::TopicNameInvalid, "{version:?}");
        let mut longer = C { version, ..C::default() }.encode();
        longer[1] += 1;
        longer.push(0);
        assert!(
            matches!(connect(&longer), Err(DecodeError::Malformed(_))),
            "{version:?}: bytes after the end"
        );
        let nul = C { version, client_id: "a\0b", ..C::default() };
        assert!(matches!(connect(&nul.encode()), Err(DecodeError::Malformed(_))), "{version:?}: U+0000");
        let mut not_utf8 = C { version, client_id: "xx", ..C::default() }.encode();
        let at = not_utf8.len() - 2;
        not_utf8[at] = 0xC3;
        assert!(matches!(connect(&not_utf8), Err(DecodeError::Malformed(_))), "{version:?}: not UTF-8");
    }
    // A password without a user name is fine in MQTT 5 only.
    let password = |version| C { version, password: Some(b"x"), ..C::default() }.encode();
    assert!(matches!(connect(&password(Version::V311)), Err(DecodeError::Malformed(_))));
    assert!(connect(&password(Version::V5)).is_ok());
}

#[test]
fn publishes_are_read() {
    for version in ALL {
        let got = decode(version, &wire::publish(version, "plänt/🚀", 1, 7, true, "21.5")).unwrap();
        let Packet::Publish(p) = got else { panic!() };
        assert_eq!((&*p.topic, p.pid, p.dup, p.qos), ("plänt/🚀", 7, true, Qos::AtLeastOnce));
        assert_eq!(&p.payload[..], b"21.5");
        let Packet::Publish(p) = decode(version, &wire::publish(version, "t", 0, 0, false, "")).unwrap()
        else {
            panic!()
        };
        assert_eq!((p.pid, p.qos, p.payload.len()), (0, Qos::AtMostOnce, 0));
    }
}

#[test]
fn a_message_expiry_of_zero_is_valid() {
    for (properties, expected) in [
        (vec![0x02, 0, 0, 0, 0], Some(0)),
        (vec![0x02, 0, 0, 0, 1], Some(1)),
        ([vec![0x26], wire::text("k"), wire::text("v"), vec![0x02, 0, 0, 0, 0]].concat(), Some(0)),
        ([vec![0x0B, 5]].concat(), None),
        ([vec![0x26], wire::text("\u{2}"), wire::text("v")].concat(), None),
    ] {
        let bytes = wire::publish_with(Version::V5, "t", 1, 1, false, "x", &properties);
        match decode(Version::V5, &bytes) {
            Ok(Packet::Publish(p)) => assert_eq!(p.expiry_secs, expected, "{properties:?}"),
            Err(DecodeError::Protocol(_)) if properties[0] == 0x0B => {}
            other => panic!("{properties:?}: {other:?}"),
        }
    }
}

#[test]
fn v5_publish_properties_travel() {
    let properties = [
        vec![0x01, 1],
        [vec![0x03], wire::text("application/json")].concat(),
        [vec![0x08], wire::text("answer/é")].concat(),
        [vec![0x09], wire::bytes(b"\0\x01")].concat(),
        [vec![0x26], wire::text("b"), wire::text("2")].concat(),
        [vec![0x26], wire::text("a"), wire::text("1")].concat(),
        vec![0x23, 0, 3],
    ]
    .concat();
    let bytes = wire::publish_with(Version::V5, "t", 0, 0, false, "x", &properties);
    let Packet::Publish(p) = decode(Version::V5, &bytes).unwrap() else { panic!() };
    assert_eq!(p.alias, Some(3));
    let carried = p.properties.unwrap();
    assert!(carried.utf8_payload);
    assert_eq!(carried.content_type.as_deref(), Some("application/json"));
    assert_eq!(carried.response_topic.as_deref(), Some("answer/é"));
    let user: Vec<_> = carried.user.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(user, [("b", "2"), ("a", "1")]);
    let Packet::Publish(bare) =
        decode(Version::V5, &wire::publish(Version::V5, "t", 0, 0, false, "x")).unwrap()
    else {
        panic!()
    };
    assert!(bare.properties.is_none(), "no properties, no allocation");
}

#[test]
fn bad_packets_are_refused() {
    use Reason::{Malformed, Protocol, TopicNameInvalid};
    let both = [Version::V311, Version::V5];
    for version in both {
        let v5 = version.is_v5();
        let p = |topic, qos, pid| wire::publish(version, topic, qos, pid, false, "x");
        let mut qos3 = p("t", 1, 1);
        qos3[0] |= 0x06;
        let mut dup0 = p("t", 0, 0);
        dup0[0] |= 0x08;
        let mut not_utf8 = p("tt", 0, 0);
        not_utf8[4] = 0xC3;
        for (name, bytes, reason) in [
            ("qos 3", qos3, Malformed),
            ("dup with qos 0", dup0, Malformed),
            ("packet id 0", p("t", 1, 0), Malformed),
            ("empty topic", p("", 0, 0), Protocol),
            ("wildcard in topic", p("a/+", 0, 0), TopicNameInvalid),
            ("null in topic", p("a\0", 0, 0), TopicNameInvalid),
            ("topic not UTF-8", not_utf8, Malformed),
            ("second connect", C { version, ..C::default() }.encode(), Protocol),
            ("connack", if v5 { vec![0x20, 3, 0, 0, 0] } else { vec![0x20, 2, 0, 0] }, Protocol),
            ("suback", if v5 { vec![0x90, 4, 0, 1, 0, 0] } else { vec![0x90, 3, 0, 1, 0] }, Protocol),
            ("unsuback", if v5 { vec![0xB0, 4, 0, 1, 0, 0] } else { vec![0xB0, 2, 0, 1] }, Protocol),
            ("pingresp", vec![0xD0, 0], Protocol),
            ("pingreq with a body", vec![0xC0, 1, 0], Malformed),
            ("pingreq with flags", vec![0xC1, 0], Malformed),
            ("packet type 0", vec![0x00, 0], Malformed),
            ("pubrel without its flag", vec![0x60, 2, 0, 1], Malformed),
            ("subscribe without its flag", vec![0x80, 6, 0, 1, 0, 1, b'a', 0], Malformed),
            ("puback of one byte", vec![0x40, 1, 0], Malformed),
            ("subscribe without filters", wire::subscribe(version, 1, &[]), Protocol),
            ("unsubscribe without filters", wire::unsubscribe(version, 1, &[]), Protocol),
            ("subscribe with reserved bits", wire::subscribe(version, 1, &[("a", 0xC0)]), Malformed),
            ("subscribe with qos 3", wire::subscribe(version, 1, &[("a", 3)]), Malformed),
            (
                "no local on a share",
                wire::subscribe(version, 1, &[("$share/g/a", 4)]),
                if v5 { Protocol } else { Malformed },
            ),
        ] {
            let error = decode(version, &bytes).expect_err(name);
            assert_eq!(error.reason(), reason, "{version:?} {name}: {error}");
        }
    }
    assert_eq!(
        decode(Version::V311, &[0xE0, 1, 0]).unwrap_err().reason(),
        Malformed,
        "3.1.1 DISCONNECT with a body"
    );
    assert_eq!(
        decode(Version::V311, &[0xF0, 0]).unwrap_err().reason(),
        Malformed,
        "AUTH is reserved in 3.1.1"
    );
    assert_eq!(decode(Version::V5, &[0xF0, 0]), Ok(Packet::Auth));
    let alias0 = wire::publish_with(Version::V5, "t", 0, 0, false, "x", &[0x23, 0, 0]);
    assert!(decode(Version::V5, &alias0).is_err());
    let wildcard_answer = [vec![0x08], wire::text("a/#")].concat();
    let answer = wire::publish_with(Version::V5, "t", 0, 0, false, "x", &wildcard_answer);
    assert_eq!(decode(Version::V5, &answer).unwrap_err().reason(), TopicNameInvalid);
}

#[test]
fn mqtt_3_1_may_set_dup_where_3_1_1_reserved_the_bit() {
    let mut subscribe = wire::subscribe(Version::V31, 1, &[("a", 1)]);
    subscribe[0] |= 0x08;
    assert!(decode(Version::V31, &subscribe).is_ok());
    assert!(decode(Version::V311, &subscribe).is_err());
}

#[test]
fn packets_are_measured_before_they_are_kept() {
    let fresh = Decoder::new(1000);
    assert_eq!(fresh.frame(b""), Ok(Frame::Partial(None)));
    assert_eq!(fresh.frame(&[0x10]), Ok(Frame::Partial(None)));
    assert_eq!(fresh.frame(&[0x10, 20]), Ok(Frame::Partial(Some(22))));
    assert_eq!(fresh.frame(b"GET / HTTP/1.1").unwrap_err().reason(), Reason::Protocol);
    assert!(matches!(fresh.frame(&[0x10, 0xFF, 0x7F]), Err(DecodeError::TooLarge { max: 1000, .. })));
    assert!(matches!(fresh.frame(&[0x10, 0xFF, 0xFF, 0xFF, 0xFF]), Err(DecodeError::Malformed(_))));
    // Before anybody has logged in, a CONNECT is the largest thing there is.
    let large = Decoder::new(10_000_000);
    assert!(matches!(
        large.frame(&[0x10, 0x80, 0x80, 0x40]),
        Err(DecodeError::TooLarge { max: CONNECT_MAX_BYTES, .. })
    ));
    let known = decoder(Version::V5);
    assert_eq!(known.frame(&[0x30, 0xD0, 0x0F, 0]), Ok(Frame::Partial(Some(2003))));
    assert_eq!(known.frame(&[0xC0, 0, 0x30]), Ok(Frame::Whole(2)));
}

fn event(topic: &str, payload: &[u8], properties: Option<Properties>) -> Event {
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: Text::from_static("mqtt://n/d"),
        id: None,
        time: None,
        received: Timestamp(0),
        expires: None,
        topic: Text::from(topic),
        payload: Bytes::copy_from_slice(payload),
        properties: properties.map(Box::new),
    }
}

fn outgoing(event: &Event) -> Outgoing<'_> {
    Outgoing {
        event,
        qos: Qos::AtLeastOnce,
        retain: true,
        dup: true,
        pid: 9,
        expiry_secs: Some(3),
        identifiers: &[],
        alias: Alias::None,
    }
}

fn words(max_bytes: usize) -> Words<'static> {
    Words { reason: Some("why"), server: Some("elsewhere"), max_bytes }
}

#[test]
fn words_are_said_as_far_as_they_fit() {
    let said = |max_bytes| {
        let mut out = BytesMut::new();
        encode::disconnect(&mut out, 0x9C, words(max_bytes));
        out.to_vec()
    };
    let both = [&[0xE0, 20, 0x9C, 18, 0x1C, 0, 9][..], b"elsewhere", &[0x1F, 0, 3], b"why"].concat();
    assert_eq!(said(22), both);
    assert_eq!(said(21), [&[0xE0, 14, 0x9C, 12, 0x1C, 0, 9][..], b"elsewhere"].concat());
    assert_eq!(said(15), [&[0xE0, 8, 0x9C, 6, 0x1F, 0, 3][..], b"why"].concat());
    assert_eq!(said(9), [0xE0, 2, 0x9C, 0]);
    let mut out = BytesMut::new();
    encode::ack_refused(&mut out, AckKind::PubRec, 1, 0x97, words(5));
    encode::connack_refused(&mut out, 0x89, Words { server: None, ..words(11) });
    assert_eq!(out[..], [&[0x50, 4, 0, 1, 0x97, 0][..], &[0x20, 9, 0, 0x89, 6, 0x1F, 0, 3], b"why"].concat());
}

#[test]
fn an_alias_stands_before_or_for_the_topic() {
    let event = event("topic/1", b"x", None);
    let written = |alias| {
        let mut out = BytesMut::new();
        encode::publish(&mut out, Version::V5, &Outgoing { alias, pid: 1, ..outgoing(&event) }, 100).unwrap();
        let Packet::Publish(p) = decode(Version::V5, &out).unwrap() else { panic!() };
        (p.topic.to_string(), p.alias)
    };
    assert_eq!(written(Alias::New(3)), ("topic/1".to_owned(), Some(3)));
    assert_eq!(written(Alias::Known(3)), (String::new(), Some(3)));
}

#[test]
fn answers_are_what_the_standard_says() {
    let written = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    let v3 = Version::V311;
    assert_eq!(written(&|o| encode::connack_bare(o, v3, true, 0)), [0x20, 2, 1, 0]);
    assert_eq!(written(&|o| encode::connack_bare(o, Version::V31, true, 0)), [0x20, 2, 0, 0]);
    assert_eq!(written(&|o| encode::connack_bare(o, Version::V5, false, 0x87)), [0x20, 3, 0, 0x87, 0]);
    assert_eq!(written(&|o| encode::ack(o, AckKind::PubAck, v3, 513, 0)), [0x40, 2, 2, 1]);
    assert_eq!(written(&|o| encode::ack(o, AckKind::PubRel, Version::V5, 1, 0)), [0x62, 2, 0, 1]);
    assert_eq!(written(&|o| encode::ack(o, AckKind::PubRec, Version::V5, 1, 0x97)), [0x50, 3, 0, 1, 0x97]);
    assert_eq!(written(&|o| encode::suback(o, v3, 1, &[0, 0x80])), [0x90, 4, 0, 1, 0, 0x80]);
    assert_eq!(written(&|o| encode::suback(o, Version::V5, 1, &[2])), [0x90, 4, 0, 1, 0, 2]);
    assert_eq!(written(&|o| encode::unsuback(o, v3, 1, &[0, 0])), [0xB0, 2, 0, 1]);
    assert_eq!(written(&|o| encode::unsuback(o, Version::V5, 1, &[0x11])), [0xB0, 4, 0, 1, 0, 0x11]);
    assert_eq!(written(&|o| encode::disconnect(o, 0x8E, words(0))), [0xE0, 2, 0x8E, 0]);
    let ack = ConnAck {
        session_present: true,
        code: 0,
        session_expiry_secs: Some(60),
        receive_maximum: 1024,
        maximum_packet_bytes: 300_000,
        topic_alias_maximum: 16,
        assigned_client_id: Some(Text::from_static("auto-1")),
        server_keep_alive_secs: Some(30),
        shared_available: false,
    };
    let bytes = written(&|o| encode::connack_v5(o, &ack));
    let golden = [
        &[0x20, 33, 1, 0, 30][..],
        &[0x11, 0, 0, 0, 60],
        &[0x21, 4, 0],
        &[0x27, 0, 4, 0x93, 0xE0],
        &[0x12, 0, 6, b'a', b'u', b't', b'o', b'-', b'1'],
        &[0x22, 0, 16],
        &[0x2A, 0],
        &[0x13, 0, 30],
    ];
    assert_eq!(bytes, golden.concat());
}

#[test]
fn a_publish_is_read_back_by_the_decoder() {
    let properties = Properties {
        utf8_payload: true,
        content_type: Some(Text::from_static("text/plain")),
        response_topic: Some(Text::from_static("é")),
        correlation_data: Some(Bytes::from_static(b"c")),
        user: vec![(Text::from_static("k"), Text::from_static("v"))],
    };
    let event = event("a/é", &[b'x'; 300], Some(properties));
    for version in ALL {
        let mut out = BytesMut::new();
        encode::publish(&mut out, version, &outgoing(&event), usize::MAX).unwrap();
        let Packet::Publish(p) = decode(version, &out).unwrap() else { panic!() };
        assert_eq!((&*p.topic, p.pid, p.dup, p.retain), ("a/é", 9, true, true));
        assert_eq!(p.payload, event.payload);
        if version.is_v5() {
            assert_eq!(p.properties, event.properties);
            assert_eq!(p.expiry_secs, Some(3));
        }
    }
    let with_ids = Outgoing { identifiers: &[1, 300], ..outgoing(&event) };
    let mut out = BytesMut::new();
    encode::publish(&mut out, Version::V5, &with_ids, usize::MAX).unwrap();
    assert!(out.windows(5).any(|w| w == [0x0B, 1, 0x0B, 0xAC, 0x02]));
}

#[test]
fn a_publish_that_does_not_fit_writes_nothing() {
    let event = event("t", &[0; 100], None);
    let mut out = BytesMut::from(&b"before"[..]);
    let error = encode::publish(&mut out, Version::V5, &outgoing(&event), 50).unwrap_err();
    assert!(matches!(error, EncodeError::TooLarge { max: 50, .. }));
    let long =
        Properties { user: vec![(Text::from("k".repeat(70_000)), Text::new())], ..Properties::default() };
    let event = self::event("t", b"", Some(long));
    assert_eq!(
        encode::publish(&mut out, Version::V5, &outgoing(&event), usize::MAX),
        Err(EncodeError::FieldTooLong)
    );
    assert_eq!(&out[..], b"before");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        version in 0usize..3, first: u8, body in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let bytes = wire::packet(first, &body);
        if decoder(ALL[version]).frame(&bytes).is_ok() {
            drop(decode(ALL[version], &bytes));
        }
        drop(connect(&wire::packet(0x10, &body)));
    }

    /// Valid packets with a few bytes changed reach far deeper than noise.
    #[test]
    fn no_mutation_makes_the_decoder_panic(
        version in 0usize..3, kind in 0usize..6, at in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let version = ALL[version];
        let properties = [vec![0x02, 0, 0, 0, 0, 0x26], wire::text("k"), wire::text("v"), vec![0x23, 0, 1]].concat();
        let mut bytes = match kind {
            0 => C { version, will: Some(("w", "x", 1, true)), username: Some("u"), password: Some(b"p"), ..C::default() }.encode(),
            1 => wire::publish_with(version, "topic", 2, 5, false, "payload", &properties),
            2 => wire::subscribe(version, 3, &[("a/#", 1), ("$share/g/+", 2)]),
            3 => wire::unsubscribe(version, 3, &["a", "b"]),
            4 => vec![0x40, 4, 0, 1, 0x10, 0],
            _ => vec![0xE0, 7, 0x04, 5, 0x11, 0, 0, 0, 9],
        };
        for (place, byte) in at {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        let mut decoder = decoder(version);
        if let Ok(Frame::Whole(whole)) = decoder.frame(&bytes) {
            drop(decoder.decode(BytesMut::from(&bytes[..whole])));
        }
        drop(Decoder::new(300_000).decode(BytesMut::from(&bytes[..])));
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive(cut in 0usize..40) {
        let decoder = decoder(Version::V311);
        let bytes = wire::publish(Version::V311, "topic", 1, 1, false, "payload of some bytes");
        let cut = cut.min(bytes.len());
        match decoder.frame(&bytes[..cut]).unwrap() {
            Frame::Whole(whole) => prop_assert_eq!(whole, cut),
            Frame::Partial(Some(whole)) => { prop_assert!(cut >= 2); prop_assert_eq!(whole, bytes.len()); }
            Frame::Partial(None) => prop_assert!(cut < 2),
        }
    }
}
