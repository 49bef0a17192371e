//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK (sections 3.8 to 3.11), overlapping subscriptions, No Local, identifiers.

use eventmesh_edge_conformance::packet::{Packet, Value};
use eventmesh_edge_conformance::wire::{self, BOTH, PUBCOMP, PUBREC, PUBREL, Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Publish, Published};

const NO_LOCAL: u8 = 0x04;

fn identifiers(message: &Published) -> Vec<u32> {
    let ids = message.properties.iter().filter_map(|(id, value)| match value {
        Value::Number(n) if *id == property::SUBSCRIPTION_ID => Some(*n),
        _ => None,
    });
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn suback_has_the_identifier_and_one_code_per_filter_in_order() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        let filters = [("a", 2), ("b/#/c", 1), ("c", 0), ("d+", 1), ("#", 1), ("$share/x", 1), ("e", 1)];
        client.send(&wire::subscribe(version, 65_000, &[], &filters)).await;
        let bad = if version.is_v5() { 0x8F } else { 0x80 };
        let Some(Packet::SubAck { pid, codes, .. }) = client.next().await else { panic!("SUBACK") };
        assert_eq!((pid, codes), (65_000, vec![2, bad, 0, bad, 1, bad, 1]));
    }
}

#[tokio::test]
async fn several_filters_in_one_packet_are_several_subscriptions() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        client.publish(Publish::new("b", "kept").retain()).await;
        client.send(&wire::subscribe(version, 1, &[], &[("a", 1), ("b", 0), ("a", 0)])).await;
        let Some(Packet::SubAck { codes, .. }) = client.next().await else { panic!("SUBACK") };
        assert_eq!(codes, [1, 0, 0]);
        assert_eq!(client.take().await.content(), ("b", "kept"));
        client.send(&Publish::new("a", "m").qos(1, 5).encode(version)).await;
        // The later subscription to `a` took the place of the earlier one.
        let (mut qos, mut acked) = (None, false);
        for _ in 0..2 {
            match client.next().await.unwrap() {
                Packet::Publish(message) => qos = Some(message.qos),
                Packet::Ack { pid: 5, .. } => acked = true,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((qos, acked), (Some(0), true));
        client.send(&wire::unsubscribe(version, 9, &["b", "never", "a"])).await;
        let Some(Packet::UnsubAck { pid: 9, codes, .. }) = client.next().await else { panic!("UNSUBACK") };
        let expected: &[u8] = if version.is_v5() { &[0, 0x11, 0] } else { &[] };
        assert_eq!(codes, expected);
        client.publish(Publish::new("a", "m")).await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_second_subscription_replaces_the_first_and_loses_nothing() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        let mut publisher = node.client(version, "publisher").await;
        client.subscribe("t", 0).await;
        for n in 0..20 {
            publisher.publish(Publish::new("t", &n.to_string()).qos(2, 0)).await;
            if n == 9 {
                client.send(&wire::subscribe(version, 3, &[], &[("t", 1)])).await;
            }
        }
        let (mut got, mut qos) = (Vec::new(), Vec::new());
        while got.len() < 20 {
            match client.next().await.unwrap() {
                Packet::Publish(message) => {
                    got.push(message.payload.parse::<u32>().unwrap());
                    qos.push(message.qos);
                }
                Packet::SubAck { pid: 3, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, (0..20).collect::<Vec<_>>());
        assert_eq!((qos[0], qos[19]), (0, 1));
        assert!(qos.is_sorted(), "replaced once: {qos:?}");
        client.unsubscribe("t").await;
        publisher.publish(Publish::new("t", "m")).await;
        // One UNSUBSCRIBE is enough: there was one subscription.
        client.send(&wire::PINGREQ).await;
        while let Some(Packet::Publish(_)) = client.next().await {}
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_with_the_highest_qos() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        for (filter, qos) in [("a/b", 0), ("a/+", 2), ("#", 1)] {
            client.subscribe(filter, qos).await;
        }
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("a/b", "m").qos(2, 0)).await;
        assert_eq!(client.take().await.qos, 2);
        publisher.publish(Publish::new("a", "m").qos(2, 0)).await;
        assert_eq!(client.take().await.qos, 1);
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn all_matching_subscription_identifiers_are_sent() {
    let node = Node::start().await;
    let kept = Connect::kept(V5, "a");
    let mut client = node.connect(&kept).await;
    for (filter, id) in [("a/b", 1), ("a/+", 300), ("#", 268_435_455), ("other", 7)] {
        client.subscribe_with(filter, 1, &props::var(property::SUBSCRIPTION_ID, id)).await;
    }
    client.subscribe("+/b", 1).await; // without an identifier
    let mut publisher = node.client(V311, "publisher").await;
    publisher.publish(Publish::new("a/b", "m").qos(1, 0)).await;
    assert_eq!(identifiers(&client.take().await), [1, 300, 268_435_455]);
    // A replaced subscription has the identifier of the later SUBSCRIBE, or none.
    client.subscribe_with("a/b", 1, &props::var(property::SUBSCRIPTION_ID, 2)).await;
    client.subscribe("a/+", 1).await;
    client.disconnect().await;
    publisher.publish(Publish::new("a/b", "m").qos(1, 0)).await;
    let node = node.restart().await;
    let mut back = node.connect(&kept).await;
    assert_eq!(identifiers(&back.take().await), [2, 268_435_455]);
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("a/b", "m").qos(1, 0)).await;
    assert_eq!(identifiers(&back.take().await), [2, 268_435_455]);
}

#[tokio::test]
async fn no_local_keeps_a_clients_own_messages_away() {
    let node = Node::start().await;
    let connect = Connect::kept(V5, "a");
    let mut client = node.connect(&connect).await;
    client.subscribe("t", 2 | NO_LOCAL).await;
    let mut other = node.client(V5, "other").await;
    other.subscribe("t", 2).await;
    for qos in 0..3 {
        client.publish(Publish::new("t", "mine").qos(qos, 0)).await;
        assert_eq!(other.take().await.payload, "mine");
    }
    client.expect_nothing().await;
    other.publish(Publish::new("t", "theirs").qos(1, 0)).await;
    // Its own, without No Local.
    let message = loop {
        let message = other.take().await;
        if message.payload == "theirs" {
            break message;
        }
    };
    assert_eq!(message.payload, "theirs");
    assert_eq!(client.take().await.payload, "theirs");
    client.disconnect().await;
    // The same client id on its next connection is the same client.
    let mut back = node.connect(&connect).await;
    back.publish(Publish::new("t", "mine").qos(1, 0)).await;
    back.expect_nothing().await;
    // Replaced without the option, they come.
    back.subscribe("t", 0).await;
    back.send(&Publish::new("t", "mine now").encode(V5)).await;
    assert_eq!(back.take().await.payload, "mine now");
}

#[tokio::test]
async fn a_subscription_is_removed_by_exactly_its_own_filter() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        client.subscribe("a/+", 1).await;
        let none = if version.is_v5() { 0x11 } else { 0 };
        for other in ["a/b", "a/#", "A/+", "a/+/", "#"] {
            assert_eq!(client.unsubscribe(other).await, none);
        }
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("a/b", "m").qos(1, 0)).await;
        client.take().await;
        assert_eq!(client.unsubscribe("a/+").await, 0);
        assert_eq!(client.unsubscribe("a/+").await, none);
        publisher.publish(Publish::new("a/b", "m").qos(1, 0)).await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn what_was_started_is_finished_after_unsubscribe() {
    let node = Node::start().await;
    for version in BOTH {
        let connect = Connect::kept(version, "a");
        let mut client = node.connect(&connect).await;
        client.subscribe("t", 2).await;
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("t", "one").qos(2, 0)).await;
        publisher.publish(Publish::new("t", "two").qos(1, 0)).await;
        let (one, two) = (client.message().await, client.message().await);
        client.unsubscribe("t").await;
        publisher.publish(Publish::new("t", "three").qos(2, 0)).await;
        client.send(&wire::ack(PUBREC, one.pid)).await;
        client.expect_ack(PUBREL, one.pid, 0).await;
        client.cut().await;
        // Also on the next connection.
        let mut back = node.connect(&connect).await;
        back.expect_ack(PUBREL, one.pid, 0).await;
        let again = back.take().await;
        assert_eq!((again.pid, again.payload, again.dup), (two.pid, "two".to_owned(), true));
        back.send(&wire::ack(PUBCOMP, one.pid)).await;
        back.expect_nothing().await;
        back.disconnect().await;
        node.client(version, "a").await.disconnect().await;
    }
}

/// Each is malformed or a protocol error, and ends the connection.
#[tokio::test]
async fn bad_subscribe_and_unsubscribe_packets_end_the_connection() {
    let node = Node::start().await;
    let id = |n: usize| props::var(property::SUBSCRIPTION_ID, n);
    for version in BOTH {
        let v5 = version.is_v5();
        let good = wire::subscribe(version, 1, &[], &[("t", 0)]);
        let bye = wire::unsubscribe(version, 1, &["t"]);
        let flags = |first: u8, bytes: &[u8]| [&[first][..], &bytes[1..]].concat();
        let bad_text = |bytes: &[u8]| {
            let at = bytes.iter().position(|b| *b == b't').unwrap();
            [&bytes[..at], &[0xFF], &bytes[at + 1..]].concat()
        };
        let null = |bytes: &[u8]| {
            let at = bytes.iter().position(|b| *b == b't').unwrap();
            [&bytes[..at], &[0], &bytes[at + 1..]].concat()
        };
        let mut cases = vec![
            ("flags of SUBSCRIBE", flags(0x80, &good)),
            ("flags of SUBSCRIBE", flags(0x83, &good)),
            ("flags of SUBSCRIBE", flags(0x8A, &good)),
            ("flags of UNSUBSCRIBE", flags(0xA0, &bye)),
            ("flags of UNSUBSCRIBE", flags(0xA6, &bye)),
            ("no filter to subscribe", wire::subscribe(version, 1, &[], &[])),
            ("no filter to unsubscribe", wire::unsubscribe(version, 1, &[])),
            ("QoS 3", wire::subscribe(version, 1, &[], &[("t", 3)])),
            ("reserved bits", wire::subscribe(version, 1, &[], &[("t", 0x40)])),
            ("reserved bits", wire::subscribe(version, 1, &[], &[("t", 0x80)])),
            ("packet identifier 0", wire::subscribe(version, 0, &[], &[("t", 0)])),
            ("packet identifier 0", wire::unsubscribe(version, 0, &["t"])),
            ("filter that is not UTF-8", bad_text(&good)),
            ("filter that is not UTF-8", bad_text(&bye)),
            ("filter with U+0000", null(&good)),
            ("filter with U+0000", null(&bye)),
            ("options that are not there", wire::packet(0x82, &good[2..good.len() - 1])),
        ];
        if v5 {
            cases.extend([
                ("Retain Handling 3", wire::subscribe(V5, 1, &[], &[("t", 0x30)])),
                ("identifier 0", wire::subscribe(V5, 1, &id(0), &[("t", 0)])),
                ("two identifiers", wire::subscribe(V5, 1, &[id(1), id(2)].concat(), &[("t", 0)])),
                (
                    "identifier of five bytes",
                    wire::subscribe(V5, 1, &[0x0B, 0x80, 0x80, 0x80, 0x80, 1], &[("t", 0)]),
                ),
                ("No Local shared", wire::subscribe(V5, 1, &[], &[("$share/g/t", NO_LOCAL)])),
                (
                    "a foreign property",
                    wire::subscribe(V5, 1, &props::two(property::TOPIC_ALIAS, 1), &[("t", 0)]),
                ),
            ]);
        } else {
            cases.push(("options of MQTT 5", wire::subscribe(version, 1, &[], &[("t", NO_LOCAL)])));
        }
        for (what, bytes) in cases {
            let mut client = node.client(version, "a").await;
            client.send(&bytes).await;
            let end = client.next().await;
            let told = matches!(end, Some(Packet::Disconnect { reason: 0x81 | 0x82 | 0x8F, .. }) if v5);
            assert!(told || (end.is_none() && !v5), "{version:?} {what}: {end:?}");
            if told {
                client.expect_closed().await;
            }
        }
    }
}

#[tokio::test]
async fn a_session_has_a_bound_of_subscriptions() {
    let node = Node::with(|setup| setup.listener.limits.subscriptions_max = 2).await;
    for (version, full) in [(V311, 0x80), (V5, 0x97)] {
        let mut client = node.client(version, "a").await;
        for (filter, code) in [("a", 1), ("b", 1), ("c", full), ("a", 1)] {
            assert_eq!(client.subscribe(filter, 1).await, code);
        }
        client.unsubscribe("b").await;
        assert_eq!(client.subscribe("c", 1).await, 1);
    }
}
