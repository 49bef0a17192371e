//! Sessions: clean, resumed, expired, resent (sections 3.1.2.4, 3.1.2.11.2, 3.14, 4.1, 4.4).

use eventmesh_edge_conformance::packet::number;
use eventmesh_edge_conformance::wire::{
    self, BOTH, PUBACK, PUBCOMP, PUBREC, PUBREL, Version::*, property, props,
};
use eventmesh_edge_conformance::{Connect, Node, Publish};

#[tokio::test]
async fn a_session_is_resumed_or_new_and_connack_says_which() {
    let node = Node::start().await;
    for version in BOTH {
        let kept = Connect::kept(version, "a");
        let mut client = node.connect(&kept).await;
        assert!(!client.session_present);
        client.subscribe("t", 1).await;
        client.disconnect().await;
        let client = node.connect(&kept).await;
        assert!(client.session_present);
        client.cut().await;
        // Clean: nothing of before is there, neither now nor later.
        let mut client = node.connect(&kept.clone().clean(true)).await;
        assert!(!client.session_present);
        client.publish(Publish::new("t", "m").qos(1, 0)).await;
        client.expect_nothing().await;
        client.disconnect().await;
        let client = node.connect(&kept).await;
        // MQTT 5 keeps what a clean start began; a clean session of 3.1.1 ends with its connection.
        assert_eq!(client.session_present, version.is_v5());
        client.disconnect().await;
        node.client(version, "a").await.disconnect().await;
    }
}

#[tokio::test]
async fn a_session_without_expiry_ends_with_its_connection() {
    let node = Node::start().await;
    for connect in [Connect::new(V311, "a"), Connect::new(V5, "a"), Connect::new(V5, "a").clean(false)] {
        let mut client = node.connect(&connect).await;
        client.subscribe("t", 1).await;
        client.cut().await;
        let resume = Connect::kept(connect.version, "a");
        let mut client = node.connect(&resume).await;
        assert!(!client.session_present, "{connect:?}");
        client.publish(Publish::new("t", "m").qos(1, 0)).await;
        client.expect_nothing().await;
        node.connect(&resume.clean(true)).await.disconnect().await;
        node.connect(&Connect::new(V5, "a")).await.disconnect().await;
    }
}

#[tokio::test]
async fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    let node = Node::start().await;
    let connect = Connect::new(V5, "a").clean(false).with(props::four(property::SESSION_EXPIRY, 100));
    let mut client = node.connect(&connect).await;
    client.subscribe("t", 1).await;
    // Connected, it does not count [MQTT-4.1.0-1].
    node.advance(1000).await;
    client.expect_nothing().await;
    client.disconnect().await;
    node.advance(98).await;
    let client = node.connect(&connect).await;
    assert!(client.session_present);
    client.cut().await;
    node.advance(102).await;
    let client = node.connect(&connect).await;
    assert!(!client.session_present, "[MQTT-4.1.0-2]");
    client.disconnect().await;
    // 0xFFFFFFFF: never, as far as the node grants it.
    let never = Connect::new(V5, "b").clean(false).with(props::four(property::SESSION_EXPIRY, u32::MAX));
    let client = node.connect(&never).await;
    let granted = number(&client.connack, property::SESSION_EXPIRY).unwrap();
    client.disconnect().await;
    node.advance(u64::from(granted) - 2).await;
    assert!(node.connect(&never).await.session_present);
}

#[tokio::test]
async fn disconnect_may_change_the_expiry() {
    let node = Node::start().await;
    let connect = Connect::kept(V5, "a");
    let goodbye = |secs| wire::disconnect_with(0, &props::four(property::SESSION_EXPIRY, secs));
    let mut client = node.connect(&connect).await;
    client.send(&goodbye(0)).await;
    client.expect_closed().await;
    let mut client = node.connect(&connect).await;
    assert!(!client.session_present);
    client.send(&goodbye(10_000)).await;
    client.expect_closed().await;
    node.advance(9_000).await;
    assert!(node.connect(&connect).await.session_present);
    // From none to some is a protocol error.
    let mut client = node.connect(&Connect::new(V5, "b")).await;
    client.send(&goodbye(10)).await;
    client.expect_end(0x82).await;
}

#[tokio::test]
async fn messages_wait_for_a_session_that_is_away() {
    let mut node = Node::start().await;
    for version in BOTH {
        let kept = Connect::kept(version, "a");
        let mut client = node.connect(&kept).await;
        client.subscribe("t", 2).await;
        client.disconnect().await;
        let mut publisher = node.client(version, "publisher").await;
        for n in 0..5u8 {
            publisher.publish(Publish::new("t", &n.to_string()).qos(1 + n % 2, 0)).await;
        }
        node = node.kill().await;
        let mut back = node.connect(&kept).await;
        assert!(back.session_present);
        for n in 0..5u8 {
            let got = back.take().await;
            assert_eq!((got.payload, got.qos, got.dup), (n.to_string(), 1 + n % 2, false));
        }
        back.disconnect().await;
        node.client(version, "a").await.disconnect().await;
    }
}

#[tokio::test]
async fn what_is_unanswered_is_resent_in_order_with_its_identifiers() {
    let node = Node::start().await;
    for version in BOTH {
        let kept = Connect::kept(version, "a");
        let mut client = node.connect(&kept).await;
        client.subscribe("t", 2).await;
        let mut publisher = node.client(version, "publisher").await;
        for n in 0..6u8 {
            publisher.publish(Publish::new("t", &n.to_string()).qos(1 + n % 2, 0)).await;
        }
        let mut sent = Vec::new();
        for _ in 0..6 {
            sent.push(client.message().await);
        }
        // Of the QoS 1 messages the first is done, of the QoS 2 messages one is released, one done.
        client.send(&wire::ack(PUBACK, sent[0].pid)).await;
        for n in [1, 3] {
            client.send(&wire::ack(PUBREC, sent[n].pid)).await;
            client.expect_ack(PUBREL, sent[n].pid, 0).await;
        }
        client.send(&wire::ack(PUBCOMP, sent[1].pid)).await;
        client.expect_nothing().await;
        client.cut().await;
        let mut back = node.connect(&kept).await;
        back.expect_ack(PUBREL, sent[3].pid, 0).await;
        for n in [2, 4, 5] {
            let got = back.message().await;
            assert_eq!(
                (got.pid, &got.payload, got.qos, got.dup),
                (sent[n].pid, &sent[n].payload, sent[n].qos, true)
            );
        }
        back.expect_nothing().await;
        // A new one is not a resend.
        publisher.publish(Publish::new("t", "new").qos(1, 0)).await;
        let new = back.message().await;
        assert!(!new.dup && !sent[2..].iter().any(|old| old.pid == new.pid));
        back.cut().await;
        node.client(version, "a").await.disconnect().await;
    }
}

#[tokio::test]
async fn a_message_that_was_sent_does_not_expire() {
    let node = Node::start().await;
    let kept = Connect::kept(V5, "a");
    let mut client = node.connect(&kept).await;
    client.subscribe("t", 2).await;
    let mut publisher = node.client(V5, "publisher").await;
    let expiry = props::four(property::MESSAGE_EXPIRY, 5);
    publisher.publish(Publish::new("t", "m").qos(2, 0).with(expiry)).await;
    let sent = client.message().await;
    client.cut().await;
    node.advance(60).await;
    let mut back = node.connect(&kept).await;
    let again = back.message().await;
    assert_eq!((again.pid, again.dup), (sent.pid, true), "[MQTT-4.3.3-7]");
    back.send(&wire::ack(PUBREC, sent.pid)).await;
    back.expect_ack(PUBREL, sent.pid, 0).await;
}

#[tokio::test]
async fn ping_is_answered() {
    let node = Node::start().await;
    for version in BOTH {
        node.client(version, "a").await.expect_nothing().await;
    }
}

#[tokio::test]
async fn after_disconnect_nothing_is_heard_and_nothing_sent() {
    let node = Node::start().await;
    for version in BOTH {
        let mut witness = node.client(version, "witness").await;
        witness.subscribe("t", 0).await;
        let mut client = node.client(version, "a").await;
        client.subscribe("t", 1).await;
        let last = [
            wire::DISCONNECT.to_vec(),
            Publish::new("t", "too late").encode(version),
            wire::PINGREQ.to_vec(),
        ];
        client.send(&last.concat()).await;
        client.expect_closed().await;
        witness.expect_nothing().await;
    }
}

#[tokio::test]
async fn disconnect_is_checked() {
    let node = Node::start().await;
    for version in BOTH {
        for first in [0xE1, 0xE8] {
            let mut client = node.client(version, "a").await;
            client.send(&[first, 0]).await;
            client.expect_end(0x81).await;
        }
    }
    let mut client = node.client(V311, "a").await;
    client.send(&[0xE0, 1, 0]).await;
    client.expect_closed().await;
    let twice = props::four(property::SESSION_EXPIRY, 0).repeat(2);
    for bytes in [
        wire::disconnect_with(0, &twice),
        wire::disconnect_with(0, &props::string(property::SERVER_REFERENCE, "x")),
        wire::disconnect_with(0, &props::two(property::TOPIC_ALIAS, 1)),
        vec![0xE0, 1, 0x33],
    ] {
        let mut client = node.connect(&Connect::kept(V5, "a")).await;
        client.send(&bytes).await;
        assert!(matches!(
            client.next().await,
            Some(eventmesh_edge_conformance::Packet::Disconnect { reason: 0x81 | 0x82, .. })
        ));
        client.expect_closed().await;
    }
    // Good ones with much to say.
    let said = [props::string(property::REASON_STRING, "tired"), props::user("why", "tired")].concat();
    for bytes in [vec![0xE0, 1, 0], wire::disconnect_with(0, &said)] {
        let mut client = node.connect(&Connect::kept(V5, "a")).await;
        client.send(&bytes).await;
        client.expect_closed().await;
    }
}
