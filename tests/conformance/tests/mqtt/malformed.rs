//! Packets that are none, or not in this place (sections 1.5, 2.1, 2.2, 4.13; 3.1.1: 4.8).

use eventmesh_edge_conformance::wire::{self, BOTH, Version, Version::*, property, props};
use eventmesh_edge_conformance::{Client, Node, Packet, Publish};

/// The connection ends: in MQTT 5 with one of these reasons.
async fn ends(client: &mut Client, reasons: &[u8], what: &str) {
    match client.next().await {
        None if client.version() == V311 => {}
        Some(Packet::Disconnect { reason, .. }) if reasons.contains(&reason) => client.expect_closed().await,
        other => panic!("{:?} {what}: {reasons:x?} was expected, {other:?} came", client.version()),
    }
}

const MALFORMED: &[u8] = &[0x81];
const PROTOCOL: &[u8] = &[0x82];
/// Where the standard leaves open which of the two it is.
const EITHER: &[u8] = &[0x81, 0x82];

#[tokio::test]
async fn packets_of_unknown_type_or_with_bad_flags_end_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        for first in [
            0x00,
            0x0F, // reserved type 0
            0x41,
            0x42,
            0x50 | 4,
            0x60,
            0x63,
            0x6A,
            0x71, // PUBACK, PUBREC, PUBREL, PUBCOMP
            0xC1,
            0xC8,
            0xD1, // PINGREQ, PINGRESP
        ] {
            let mut client = node.client(version, "a").await;
            let body: &[u8] = if first >> 4 > 3 && first >> 4 < 8 { &[0, 1] } else { &[] };
            client.send(&wire::packet(first, body)).await;
            ends(&mut client, EITHER, &format!("{first:#x}")).await;
        }
        let reserved = if version.is_v5() { 0xF1 } else { 0xF0 };
        let mut client = node.client(version, "a").await;
        client.send(&[reserved, 0]).await;
        ends(&mut client, EITHER, "type 15").await;
    }
}

#[tokio::test]
async fn packets_that_only_servers_send_end_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        let mut suback = vec![0, 1];
        suback.extend(if version.is_v5() { &[0, 0][..] } else { &[0][..] });
        for (first, body) in
            [(0x20, &[0, 0, 0][..usize::from(version.is_v5()) + 2]), (0x90, &suback), (0xD0, &[])]
        {
            let mut client = node.client(version, "a").await;
            client.send(&wire::packet(first, body)).await;
            ends(&mut client, EITHER, &format!("{first:#x}")).await;
        }
    }
}

#[tokio::test]
async fn a_publish_that_is_not_one_ends_the_connection() {
    let node = Node::start().await;
    let cases = |version: Version| {
        let block = if version.is_v5() { vec![0] } else { vec![] };
        let topic = |bytes: &[u8]| [wire::field(bytes), block.clone(), b"m".to_vec()].concat();
        let topic_qos1 =
            |bytes: &[u8], pid: [u8; 2]| [wire::field(bytes), pid.to_vec(), block.clone()].concat();
        vec![
            ("QoS 3", 0x36, topic_qos1(b"t", [0, 1]), MALFORMED),
            ("QoS 3 with DUP", 0x3E, topic_qos1(b"t", [0, 1]), MALFORMED),
            ("DUP with QoS 0", 0x38, topic(b"t"), EITHER),
            ("packet identifier 0", 0x32, topic_qos1(b"t", [0, 0]), EITHER),
            ("packet identifier 0", 0x34, topic_qos1(b"t", [0, 0]), EITHER),
            ("no packet identifier", 0x32, wire::text("t"), MALFORMED),
            ("half a packet identifier", 0x32, [wire::text("t"), vec![0]].concat(), MALFORMED),
            ("no topic", 0x30, vec![], MALFORMED),
            ("half a topic", 0x30, vec![0, 5, b't'], MALFORMED),
            ("empty topic", 0x30, topic(b""), &[0x81, 0x82, 0x90]),
            ("+ in a topic", 0x30, topic(b"a/+/b"), &[0x81, 0x82, 0x90]),
            ("# in a topic", 0x30, topic(b"a/#"), &[0x81, 0x82, 0x90]),
            ("U+0000 in a topic", 0x30, topic(b"a\0b"), &[0x81, 0x90]),
            ("topic that is not UTF-8", 0x30, topic(b"a\xFF"), MALFORMED),
            ("a surrogate", 0x30, topic(b"a\xED\xA0\x80"), MALFORMED),
            ("an overlong slash", 0x30, topic(b"a\xC0\xAF"), MALFORMED),
        ]
    };
    for version in BOTH {
        for (what, first, body, reasons) in cases(version) {
            let mut client = node.client(version, "a").await;
            client.send(&wire::packet(first, &body)).await;
            ends(&mut client, reasons, what).await;
        }
    }
    for (what, body) in [
        ("no property length", wire::text("t")),
        ("property length beyond the end", [wire::text("t"), vec![9]].concat()),
        ("property length of five bytes", [wire::text("t"), vec![0x80, 0x80, 0x80, 0x80, 0]].concat()),
        ("half a property", [wire::text("t"), vec![2, property::CONTENT_TYPE, 0]].concat()),
        ("half a user property", [wire::text("t"), props::block(&props::user("a", "b")[..5])].concat()),
    ] {
        let mut client = node.client(V5, "a").await;
        client.send(&wire::packet(0x30, &body)).await;
        ends(&mut client, MALFORMED, what).await;
    }
}

#[tokio::test]
async fn acknowledgements_that_are_none_end_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        for first in [0x40, 0x50, 0x62, 0x70] {
            for (what, body) in
                [("nothing", &[][..]), ("half an identifier", &[1]), ("identifier 0", &[0, 0])]
            {
                let mut client = node.client(version, "a").await;
                client.send(&wire::packet(first, body)).await;
                ends(&mut client, EITHER, &format!("{first:#x} {what}")).await;
            }
            if version == V311 {
                let mut client = node.client(version, "a").await;
                client.send(&wire::packet(first, &[0, 1, 0])).await;
                ends(&mut client, EITHER, &format!("{first:#x} with a reason code")).await;
                continue;
            }
            for (what, body) in [
                ("unknown reason", vec![0, 1, 0x7E]),
                ("a reason of another packet", vec![0, 1, 0x8E]),
                ("half a property length", vec![0, 1, 0, 5]),
                (
                    "a foreign property",
                    [vec![0, 1, 0], props::block(&props::two(property::TOPIC_ALIAS, 1))].concat(),
                ),
                (
                    "two reason strings",
                    [vec![0, 1, 0], props::block(&props::string(property::REASON_STRING, "a").repeat(2))]
                        .concat(),
                ),
            ] {
                let mut client = node.client(V5, "a").await;
                client.send(&wire::packet(first, &body)).await;
                ends(&mut client, EITHER, &format!("{first:#x} {what}")).await;
            }
        }
    }
}

#[tokio::test]
async fn u_0000_ends_the_connection_in_every_text() {
    let node = Node::start().await;
    let block = props::block(&props::user("a", "b\0"));
    let reason = props::block(&props::string(property::REASON_STRING, "\0"));
    let acks = [0x40, 0x50, 0x62, 0x70].map(|first| wire::packet(first, &[&[0, 1, 0][..], &reason].concat()));
    let others = [
        wire::packet(0x82, &[&[0, 1][..], &block, &wire::text("t"), &[0]].concat()),
        wire::packet(0xA2, &[&[0, 1][..], &block, &wire::text("t")].concat()),
        wire::packet(0x30, &[&wire::text("t")[..], &block].concat()),
        wire::packet(0x40, &[&[0, 1, 0][..], &block].concat()),
        wire::packet(0xE0, &[&[0][..], &block].concat()),
        wire::packet(0xE0, &[&[0][..], &reason].concat()),
    ];
    for bytes in acks.into_iter().chain(others) {
        let mut client = node.client(V5, "a").await;
        client.send(&bytes).await;
        ends(&mut client, MALFORMED, &format!("{bytes:x?}")).await;
    }
}

#[tokio::test]
async fn a_reason_string_and_user_properties_are_welcome() {
    let node = Node::start().await;
    let mut client = node.client(V5, "a").await;
    client.subscribe("t", 1).await;
    client.publish(Publish::new("t", "m").qos(1, 0)).await;
    let got = client.message().await;
    let said = props::block(
        &[props::string(property::REASON_STRING, "é"), props::user("a", "b"), props::user("a", "b")].concat(),
    );
    client.send(&wire::packet(0x40, &[&got.pid.to_be_bytes()[..], &[0x10], &said].concat())).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn lengths_that_are_none_end_the_connection() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        ends(&mut client, MALFORMED, "Remaining Length of five bytes").await;
        for bytes in [&[0xC0, 1, 0][..], &[0xC0, 2, 0, 0]] {
            let mut client = node.client(version, "a").await;
            client.send(bytes).await;
            ends(&mut client, MALFORMED, "PINGREQ with a body").await;
        }
    }
}

#[tokio::test]
async fn auth_without_an_authentication_method_ends_the_connection() {
    let node = Node::start().await;
    for bytes in [
        vec![0xF0, 0],
        vec![0xF0, 2, 0x18, 0],
        wire::packet(
            0xF0,
            &[&[0x19][..], &props::block(&props::string(property::AUTH_METHOD, "x"))].concat(),
        ),
    ] {
        let mut client = node.client(V5, "a").await;
        client.send(&bytes).await;
        ends(&mut client, PROTOCOL, "AUTH").await;
    }
}

/// A byte at a time, many in one piece: packets are where their lengths say, not where the network cuts.
#[tokio::test]
async fn packets_are_told_apart_however_they_arrive() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        let bytes = [
            wire::subscribe(version, 1, &[], &[("t", 0)]),
            Publish::new("t", "m").qos(1, 2).encode(version),
            wire::unsubscribe(version, 3, &["other"]),
        ]
        .concat();
        for byte in bytes {
            client.send(&[byte]).await;
        }
        assert!(matches!(client.next().await, Some(Packet::SubAck { pid: 1, .. })));
        // The message and two answers; the message may come last.
        let three =
            [client.next().await.unwrap(), client.next().await.unwrap(), client.next().await.unwrap()];
        assert!(
            three.iter().any(|packet| matches!(packet, Packet::Publish(message) if message.payload == "m"))
        );
        let answers: Vec<_> = three.iter().filter(|packet| !matches!(packet, Packet::Publish(_))).collect();
        assert!(matches!(
            answers[..],
            [Packet::Ack { first: wire::PUBACK, pid: 2, .. }, Packet::UnsubAck { pid: 3, .. }]
        ));
        assert_eq!(client.publish(Publish::new("u", "m").qos(1, 9)).await, 0);
        client.send(&wire::PINGREQ.repeat(500)).await;
        let mut pongs = 0;
        while pongs < 500 {
            pongs += usize::from(client.next().await == Some(Packet::PingResp));
        }
    }
}

/// Nobody else notices.
#[tokio::test]
async fn others_go_on_while_one_misbehaves() {
    let node = Node::start().await;
    let mut calm = node.client(V5, "calm").await;
    calm.subscribe("t", 1).await;
    for n in 0..50u8 {
        let mut wild = node.client(if n % 2 == 0 { V5 } else { V311 }, "wild").await;
        wild.send(&[n, n.wrapping_mul(7), 0, n]).await;
        wild.cut().await;
    }
    calm.publish(Publish::new("t", "m").qos(1, 0)).await;
    assert_eq!(calm.take().await.payload, "m");
}
