//! CONNECT and CONNACK (sections 3.1 and 3.2), keep alive, take-over.

use eventmesh_edge_conformance::packet::{Packet, number, text_of};
use eventmesh_edge_conformance::wire::{self, BOTH, Version::*, props};
use eventmesh_edge_conformance::{Connect, Node, Publish, Will, property};

fn refusal(code: u8) -> Option<Packet> {
    Some(Packet::ConnAck { present: false, code, properties: Vec::new() })
}

fn code_of(packet: Option<&Packet>) -> Option<u8> {
    match packet {
        Some(Packet::ConnAck { code, present: false, .. }) => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn the_first_packet_is_connect() {
    let node = Node::start().await;
    let early = [
        wire::PINGREQ.to_vec(),
        wire::DISCONNECT.to_vec(),
        Publish::new("t", "m").encode(V5),
        wire::subscribe(V5, 1, &[], &[("t", 0)]),
        vec![0xF0, 0],
    ];
    for bytes in early {
        let mut client = node.open(V5).await;
        client.send(&bytes).await;
        // No CONNACK, and no DISCONNECT before one [MQTT-3.14.0-1].
        client.expect_closed().await;
    }
}

#[tokio::test]
async fn a_second_connect_ends_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        let connect = Connect::new(version, "twice");
        let mut client = node.connect(&connect).await;
        client.send(&connect.encode()).await;
        // Not a second CONNACK [MQTT-3.2.0-2].
        client.expect_end(0x82).await;
    }
}

#[tokio::test]
async fn other_protocols_and_levels_are_refused() {
    let node = Node::start().await;
    let with_level = |level: u8| {
        let mut bytes = Connect::new(V311, "a").encode();
        bytes[8] = level;
        bytes
    };
    let mut wrong_name = Connect::new(V311, "a").encode();
    wrong_name[7] = b'X';
    let mut client = node.open(V311).await;
    client.send(&wrong_name).await;
    client.expect_closed().await;
    for level in [0, 1, 2, 3, 0x84] {
        let mut client = node.open(V311).await;
        client.send(&with_level(level)).await;
        assert_eq!(client.next().await, refusal(1), "level {level}");
        client.expect_closed().await;
    }
    for level in [6, 0x7F] {
        let mut client = node.open(V5).await;
        client.send(&with_level(level)).await;
        assert_eq!(code_of(client.next().await.as_ref()), Some(0x84), "level {level}");
        client.expect_closed().await;
    }
}

/// Everything that makes a CONNECT malformed; 3.1.1 wants it closed without a CONNACK [MQTT-3.1.4-1], MQTT 5 allows one.
#[tokio::test]
async fn a_malformed_connect_closes_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        let plain = Connect::new(version, "a");
        let will = plain.clone().will(Will::new("w", "gone"));
        let login = plain.clone().login("u", "p");
        let mut cases = vec![
            ("reserved flag", plain.encode_with(plain.flags() | 1)),
            ("Will QoS without a will", plain.encode_with(plain.flags() | 0x08)),
            ("Will Retain without a will", plain.encode_with(plain.flags() | 0x20)),
            ("Will QoS 3", will.encode_with(will.flags() | 0x18)),
            ("will that is not there", plain.encode_with(plain.flags() | 0x04)),
            ("will that the flags do not name", will.encode_with(plain.flags())),
            ("user name that is not there", plain.encode_with(plain.flags() | 0x80)),
            ("user name that the flags do not name", login.encode_with(plain.flags())),
            ("password that is not there", login.encode_with(login.flags()).split_at(5).0.to_vec()),
            ("password that the flags do not name", login.encode_with(plain.flags() | 0x80)),
            ("reserved bits of the fixed header", [&[0x11][..], &plain.encode()[1..]].concat()),
            ("nothing at all", vec![0x10, 0]),
        ];
        let header = if version.is_v5() { 13 } else { 12 };
        let whole = plain.encode();
        cases.push(("no client id", wire::packet(0x10, &whole[2..header])));
        let end = whole.len() - 1;
        cases.push(("half a client id", wire::packet(0x10, &whole[2..end])));
        cases.push(("bytes after the end", wire::packet(0x10, &[&whole[2..], &[0]].concat())));
        if version == V311 {
            let flags = login.flags() & !0x80;
            let only_password = Connect { username: None, ..login.clone() };
            cases.push(("password without user name", only_password.encode_with(flags)));
        }
        for (what, bytes) in cases {
            let mut client = node.open(version).await;
            client.send(&bytes).await;
            if what == "password that is not there" {
                // Half a packet, and the end of the stream.
                client.cut().await;
                continue;
            }
            let answer = client.next().await;
            let refused = code_of(answer.as_ref()).is_some_and(|code| code >= 0x80) && version.is_v5();
            assert!(answer.is_none() || refused, "{version:?} {what}: {answer:?}");
            if answer.is_some() {
                client.expect_closed().await;
            }
        }
    }
}

#[tokio::test]
async fn text_in_connect_is_utf8_without_null() {
    let node = Node::start().await;
    for version in BOTH {
        let place = "@@@";
        let connects = [
            Connect::new(version, place),
            Connect::new(version, "a").will(Will::new(place, "gone")),
            Connect::new(version, "a").login(place, "p"),
            Connect::new(V5, "a").with(props::user("name", place)),
            Connect::new(V5, "a").with(props::user(place, "value")),
        ];
        for connect in connects {
            for bad in [&b"\xED\xA0\x80"[..], b"\xC0\xAFx", b"\xFFxx", b"x\0x", b"ab\xC3"] {
                let mut bytes = connect.encode();
                let at = bytes.windows(3).position(|w| w == place.as_bytes()).unwrap();
                bytes[at..at + 3].copy_from_slice(bad);
                let mut client = node.open(connect.version).await;
                client.send(&bytes).await;
                let answer = client.next().await;
                assert!(code_of(answer.as_ref()).is_none_or(|code| code >= 0x80), "{bad:x?}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn properties_of_connect_are_checked() {
    let node = Node::start().await;
    let twice = |one: Vec<u8>| [one.clone(), one].concat();
    let bad = [
        twice(props::four(property::SESSION_EXPIRY, 5)),
        twice(props::two(property::RECEIVE_MAXIMUM, 5)),
        twice(props::four(property::MAXIMUM_PACKET_SIZE, 500)),
        twice(props::two(property::TOPIC_ALIAS_MAXIMUM, 5)),
        twice(props::byte(property::REQUEST_PROBLEM_INFO, 1)),
        twice(props::byte(property::REQUEST_RESPONSE_INFO, 1)),
        twice(props::string(property::AUTH_METHOD, "PLAIN")),
        props::two(property::RECEIVE_MAXIMUM, 0),
        props::four(property::MAXIMUM_PACKET_SIZE, 0),
        props::byte(property::REQUEST_PROBLEM_INFO, 2),
        props::byte(property::REQUEST_RESPONSE_INFO, 2),
        props::binary(property::AUTH_DATA, b"x"),
        props::two(property::TOPIC_ALIAS, 1),
        props::string(property::REASON_STRING, "because"),
        props::byte(0x7E, 0),
        vec![property::SESSION_EXPIRY, 0, 0],
    ];
    for properties in bad {
        let mut client = node.open(V5).await;
        let answer = client.connect(&Connect::new(V5, "a").with(properties.clone())).await;
        assert!(code_of(answer.as_ref()).is_none_or(|code| code >= 0x80), "{properties:x?}: {answer:?}");
    }
    let bad_will = [
        twice(props::four(property::WILL_DELAY, 1)),
        twice(props::byte(property::PAYLOAD_FORMAT, 1)),
        props::byte(property::PAYLOAD_FORMAT, 2),
        props::string(property::RESPONSE_TOPIC, "a/#"),
        props::two(property::TOPIC_ALIAS, 1),
    ];
    for properties in bad_will {
        let mut client = node.open(V5).await;
        let will = Will::new("w", "gone").with(properties.clone());
        let answer = client.connect(&Connect::new(V5, "a").will(will)).await;
        assert!(code_of(answer.as_ref()).is_none_or(|code| code >= 0x80), "{properties:x?}: {answer:?}");
    }
}

#[tokio::test]
async fn client_ids_of_every_length_are_accepted() {
    let node = Node::start().await;
    let longest = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in BOTH {
        for id in
            ["a", &longest[..23], &longest[23..46], &longest[39..], &longest.repeat(20), "é/# \u{feff}+"]
        {
            let client = node.client(version, id).await;
            assert_eq!(text_of(&client.connack, property::ASSIGNED_CLIENT_ID), None);
            client.disconnect().await;
        }
    }
}

#[tokio::test]
async fn a_client_without_an_id_gets_one_that_nobody_has() {
    let node = Node::start().await;
    let connect = Connect::kept(V5, "");
    let first = node.connect(&connect).await;
    let second = node.connect(&connect.clone().clean(true)).await;
    let id = text_of(&first.connack, property::ASSIGNED_CLIENT_ID).unwrap().to_owned();
    let other = text_of(&second.connack, property::ASSIGNED_CLIENT_ID).unwrap();
    assert!(!id.is_empty() && id != other);
    assert!(!first.session_present);
    first.disconnect().await;
    // It is a client id like any other: its session can be resumed.
    let again = node.connect(&Connect::kept(V5, &id)).await;
    assert!(again.session_present);
    // Two clients of 3.1.1 are not one client that takes over itself.
    let mut one = node.client(V311, "").await;
    let mut two = node.client(V311, "").await;
    one.expect_nothing().await;
    two.expect_nothing().await;
}

#[tokio::test]
async fn a_3_1_1_client_without_an_id_cannot_keep_a_session() {
    let node = Node::start().await;
    let mut client = node.open(V311).await;
    assert_eq!(client.connect(&Connect::kept(V311, "")).await, refusal(2));
    client.expect_closed().await;
}

#[tokio::test]
async fn connack_comes_first_and_once() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.open(version).await;
        let eager = [
            Connect::new(version, "eager").encode(),
            wire::subscribe(version, 1, &[], &[("t", 1)]),
            Publish::new("t", "m").qos(1, 2).encode(version),
            wire::PINGREQ.to_vec(),
        ];
        client.send(&eager.concat()).await;
        assert!(matches!(client.next().await, Some(Packet::ConnAck { code: 0, present: false, .. })));
        let mut kinds = Vec::new();
        for _ in 0..4 {
            kinds.push(match client.next().await.unwrap() {
                Packet::SubAck { pid: 1, .. } => "SUBACK",
                Packet::Ack { first: wire::PUBACK, pid: 2, .. } => "PUBACK",
                Packet::Publish(message) => {
                    assert_eq!(message.content(), ("t", "m"));
                    "PUBLISH"
                }
                Packet::PingResp => "PINGRESP",
                other => panic!("{other:?}"),
            });
        }
        kinds.sort_unstable();
        assert_eq!(kinds, ["PINGRESP", "PUBACK", "PUBLISH", "SUBACK"]);
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_and_nothing_behind_is_heard() {
    let node = Node::with(|setup| setup.password = true).await;
    let mut witness = node.connect(&Connect::new(V5, "witness").login("w", "open sesame")).await;
    witness.subscribe("t", 0).await;
    for (version, wrong, none) in [(V311, 4, 5), (V5, 0x86, 0x87)] {
        for (connect, code) in
            [(Connect::new(version, "a").login("u", "guess"), wrong), (Connect::new(version, "a"), none)]
        {
            let mut client = node.open(version).await;
            client.send(&[connect.encode(), Publish::new("t", "smuggled").encode(version)].concat()).await;
            assert_eq!(code_of(client.next().await.as_ref()), Some(code));
            client.expect_closed().await;
        }
    }
    witness.expect_nothing().await;
}

#[tokio::test]
async fn enhanced_authentication_is_not_offered() {
    let node = Node::start().await;
    let mut client = node.open(V5).await;
    let connect = Connect::new(V5, "a").with(props::string(property::AUTH_METHOD, "SCRAM-SHA-1"));
    assert_eq!(code_of(client.connect(&connect).await.as_ref()), Some(0x8C));
    client.expect_closed().await;
    // Without a method there is no AUTH, from neither side.
    let mut client = node.client(V5, "a").await;
    assert_eq!(text_of(&client.connack, property::AUTH_METHOD), None);
    client.send(&[0xF0, 2, 0x19, 0]).await;
    client.expect_end(0x82).await;
    let mut client = node.client(V5, "a").await;
    client.send(&[0xF1, 0]).await;
    client.expect_end(0x81).await;
}

#[tokio::test]
async fn a_client_id_in_use_goes_to_who_asks_last() {
    let node = Node::start().await;
    for (before, after) in [(V5, V5), (V311, V311), (V5, V311), (V311, V5)] {
        let mut old = node.connect(&Connect::kept(before, "device")).await;
        assert_eq!(old.subscribe("t", 1).await, 1);
        let mut new = node.connect(&Connect::kept(after, "device")).await;
        assert!(new.session_present);
        old.expect_end(0x8E).await;
        let mut other = node.client(V5, "other").await;
        other.publish(Publish::new("t", "m").qos(1, 0)).await;
        assert_eq!(new.take().await.content(), ("t", "m"));
        new.disconnect().await;
        // The session ends with a clean start, whoever asks.
        assert!(!node.client(after, "device").await.session_present);
    }
}

#[tokio::test]
async fn a_silent_client_is_dropped_after_one_and_a_half_keep_alives() {
    let node = Node::start().await;
    for version in BOTH {
        let mut watcher = node.client(V5, "watcher").await;
        watcher.subscribe("w", 0).await;
        let connect = Connect::new(version, "silent").keep_alive(10).will(Will::new("w", "gone"));
        let mut client = node.connect(&connect).await;
        assert_eq!(number(&client.connack, property::SERVER_KEEP_ALIVE), None);
        node.advance(14).await;
        client.expect_nothing().await;
        node.advance(14).await;
        client.expect_nothing().await;
        watcher.expect_nothing().await;
        node.advance(16).await;
        client.expect_end(0x8D).await;
        // As if the network had failed.
        assert_eq!(watcher.take().await.content(), ("w", "gone"));
    }
    let mut patient = node.client(V5, "patient").await;
    node.advance(100_000).await;
    patient.expect_nothing().await;
}

#[tokio::test]
async fn the_nodes_keep_alive_holds_where_it_sets_one() {
    let node = Node::with(|setup| setup.listener.limits.keep_alive_max_secs = Some(20)).await;
    for asked in [0, 21, 600] {
        let mut client = node.connect(&Connect::new(V5, "a").keep_alive(asked)).await;
        assert_eq!(number(&client.connack, property::SERVER_KEEP_ALIVE), Some(20));
        node.advance(29).await;
        client.expect_nothing().await;
        node.advance(31).await;
        client.expect_end(0x8D).await;
    }
    let mut modest = node.connect(&Connect::new(V5, "a").keep_alive(6)).await;
    assert_eq!(number(&modest.connack, property::SERVER_KEEP_ALIVE), None);
    node.advance(10).await;
    modest.expect_end(0x8D).await;
}

#[tokio::test]
async fn connack_says_what_the_node_grants() {
    let node = Node::with(|setup| {
        setup.listener.limits.receive_maximum = 7;
        setup.listener.limits.topic_alias_maximum = 3;
        setup.sessions.expiry_max_secs = 100;
        setup.sessions.shared_subscriptions = false;
    })
    .await;
    let connect = Connect::new(V5, "a").with(props::four(property::SESSION_EXPIRY, 500));
    let client = node.connect(&connect).await;
    let said = |id| number(&client.connack, id);
    assert_eq!(said(property::RECEIVE_MAXIMUM), Some(7));
    assert_eq!(said(property::TOPIC_ALIAS_MAXIMUM), Some(3));
    assert_eq!(said(property::SESSION_EXPIRY), Some(100));
    assert_eq!(said(property::SHARED_AVAILABLE), Some(0));
    assert_eq!(said(property::MAXIMUM_PACKET_SIZE), Some(256 * 1024 + 72 * 1024));
    // QoS 2, retained messages, wildcards and identifiers are served: absent, or 1.
    for id in [property::RETAIN_AVAILABLE, property::WILDCARD_AVAILABLE, property::SUBSCRIPTION_ID_AVAILABLE]
    {
        assert_ne!(said(id), Some(0));
    }
    assert_eq!(said(property::MAXIMUM_QOS), None);
    // Not asked for, so not sent [MQTT-3.1.2-28].
    assert_eq!(text_of(&client.connack, property::RESPONSE_INFO), None);
}

#[tokio::test]
async fn one_connection_too_many_is_told_that_the_node_is_busy() {
    let node = Node::with(|setup| setup.listener.connections_max = 1).await;
    let _only = node.client(V5, "only").await;
    for (version, code) in [(V311, 3), (V5, 0x89)] {
        let mut client = node.open(version).await;
        assert_eq!(code_of(client.connect(&Connect::new(version, "more")).await.as_ref()), Some(code));
        client.expect_closed().await;
    }
}

#[tokio::test]
async fn a_node_that_stops_says_so() {
    let node = Node::start().await;
    let mut new = node.client(V5, "new").await;
    let mut old = node.client(V311, "old").await;
    let stopping = tokio::spawn(node.stop());
    new.expect_end(0x8B).await;
    old.expect_end(0).await;
    stopping.await.unwrap();
}
