//! The will (sections 3.1.2.5 to 3.1.2.7, 3.1.3.2).

use eventmesh_edge_conformance::packet::Value;
use eventmesh_edge_conformance::wire::{self, BOTH, Version::*, property, props};
use eventmesh_edge_conformance::{Client, Connect, Node, Publish, Will};

async fn watcher(node: &Node) -> Client {
    let mut watcher = node.client(V5, "watcher").await;
    watcher.subscribe("w/#", 2 | 0x08).await;
    watcher
}

#[tokio::test]
async fn a_lost_client_leaves_its_will() {
    let node = Node::start().await;
    let mut watcher = watcher(&node).await;
    for version in BOTH {
        for (qos, retain) in [(0, false), (1, false), (2, false), (1, true)] {
            let will = Will { retain, ..Will::new("w/a", "gone").qos(qos) };
            let client = node.connect(&Connect::new(version, "a").will(will)).await;
            watcher.expect_nothing().await;
            client.cut().await;
            let got = watcher.take().await;
            assert_eq!((got.content(), got.qos, got.retain), (("w/a", "gone"), qos, retain));
            // Published, so it is no longer there.
            watcher.expect_nothing().await;
        }
        let mut late = node.client(version, "late").await;
        late.subscribe("w/a", 1).await;
        assert!(late.take().await.retain, "a retained will is a retained message");
        late.publish(Publish::new("w/a", "").retain()).await;
        watcher.take().await;
    }
}

#[tokio::test]
async fn every_end_but_a_normal_disconnect_leaves_it() {
    let node = Node::start().await;
    let mut watcher = watcher(&node).await;
    let connect = |version| Connect::new(version, "a").will(Will::new("w", "gone"));
    for version in BOTH {
        node.connect(&connect(version)).await.disconnect().await;
        watcher.expect_nothing().await;
        // A protocol error, take-over.
        let mut client = node.connect(&connect(version)).await;
        client.send(&[0xF0, 0]).await;
        while client.next().await.is_some() {}
        assert_eq!(watcher.take().await.payload, "gone");
        let mut client = node.connect(&connect(version)).await;
        node.client(version, "a").await.disconnect().await;
        client.expect_end(0x8E).await;
        assert_eq!(watcher.take().await.payload, "gone");
    }
    // Disconnect with Will Message, and any other reason that is not 0.
    for reason in [0x04, 0x80] {
        let mut client = node.connect(&connect(V5)).await;
        client.send(&wire::disconnect_with(reason, &[])).await;
        client.expect_closed().await;
        assert_eq!(watcher.take().await.payload, "gone", "{reason:#x}");
    }
}

#[tokio::test]
async fn without_a_will_nothing_is_published() {
    let node = Node::start().await;
    let mut watcher = node.client(V5, "watcher").await;
    watcher.subscribe("#", 0).await;
    for version in BOTH {
        // Not even the will of an earlier connection of this session.
        let kept = Connect::kept(version, "a");
        node.connect(&kept.clone().will(Will::new("w", "gone"))).await.disconnect().await;
        node.connect(&kept).await.cut().await;
        watcher.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_will_waits_for_its_delay_or_for_the_end_of_the_session() {
    let node = Node::start().await;
    let mut watcher = watcher(&node).await;
    let connect = |delay, expiry| {
        Connect::new(V5, "a")
            .with(props::four(property::SESSION_EXPIRY, expiry))
            .will(Will::new("w", "gone").with(props::four(property::WILL_DELAY, delay)))
    };
    node.connect(&connect(20, 100)).await.cut().await;
    node.advance(18).await;
    watcher.expect_nothing().await;
    node.advance(3).await;
    assert_eq!(watcher.take().await.payload, "gone");
    // The session ends first.
    node.connect(&connect(500, 50)).await.cut().await;
    node.advance(48).await;
    watcher.expect_nothing().await;
    node.advance(3).await;
    assert_eq!(watcher.take().await.payload, "gone");
    // There is no session to wait for.
    node.connect(&connect(500, 0)).await.cut().await;
    assert_eq!(watcher.take().await.payload, "gone");
    // A clean start ends the session.
    node.connect(&connect(50, 100)).await.cut().await;
    let new = node.client(V5, "a").await;
    assert_eq!(watcher.take().await.payload, "gone");
    new.disconnect().await;
}

#[tokio::test]
async fn who_comes_back_within_the_delay_has_no_will() {
    let node = Node::start().await;
    let mut watcher = watcher(&node).await;
    let will = Will::new("w", "gone").with(props::four(property::WILL_DELAY, 20));
    let kept = Connect::kept(V5, "a");
    node.connect(&kept.clone().will(will)).await.cut().await;
    node.advance(10).await;
    let mut back = node.connect(&kept).await;
    assert!(back.session_present);
    node.advance(100).await;
    back.expect_nothing().await;
    watcher.expect_nothing().await;
    back.cut().await;
    node.advance(100).await;
    watcher.expect_nothing().await;
}

#[tokio::test]
async fn a_will_carries_its_properties_in_order() {
    let node = Node::start().await;
    let mut watcher = watcher(&node).await;
    let will = Will::new("w", "{}")
        .with(props::byte(property::PAYLOAD_FORMAT, 1))
        .with(props::four(property::MESSAGE_EXPIRY, 60))
        .with(props::string(property::CONTENT_TYPE, "application/json"))
        .with(props::string(property::RESPONSE_TOPIC, "answers"))
        .with(props::binary(property::CORRELATION_DATA, b"\x00\x01"))
        .with(props::user("b", "1"))
        .with(props::user("a", "2"))
        .with(props::user("b", "1"));
    node.connect(&Connect::new(V5, "a").will(will)).await.cut().await;
    let got = watcher.take().await;
    let user: Vec<_> = got.properties.iter().filter(|(id, _)| *id == property::USER).cloned().collect();
    let pair = |name: &str, value: &str| (property::USER, Value::Pair(name.into(), value.into()));
    assert_eq!(user, [pair("b", "1"), pair("a", "2"), pair("b", "1")]);
    assert_eq!(got.number(property::PAYLOAD_FORMAT), Some(1));
    assert_eq!(got.number(property::MESSAGE_EXPIRY), Some(60));
    for (id, value) in [
        (property::CONTENT_TYPE, Value::Text("application/json".into())),
        (property::RESPONSE_TOPIC, Value::Text("answers".into())),
        (property::CORRELATION_DATA, Value::Binary(vec![0, 1])),
    ] {
        assert!(got.properties.contains(&(id, value)), "{id:#x}");
    }
}

#[tokio::test]
async fn a_will_topic_is_a_topic_name() {
    let node = Node::start().await;
    for version in BOTH {
        for topic in ["w/#", "w/+/x", ""] {
            let mut client = node.open(version).await;
            let answer = client.connect(&Connect::new(version, "a").will(Will::new(topic, "gone"))).await;
            let refused = matches!(
                answer,
                None | Some(eventmesh_edge_conformance::Packet::ConnAck { code: 0x80.., .. })
            );
            assert!(refused, "{topic:?}: {answer:?}");
        }
    }
}
