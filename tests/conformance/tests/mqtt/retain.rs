//! Retained messages (section 3.3.1.3) and the subscription options about them (3.8.3.1).

use eventmesh_edge_conformance::wire::{BOTH, Version, Version::*, property, props};
use eventmesh_edge_conformance::{Client, Connect, Node, Publish};

/// Subscription options beside the QoS.
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const HANDLING_1: u8 = 0x10;
const HANDLING_2: u8 = 0x20;

async fn retained(node: &Node, version: Version, filter: &str, options: u8) -> Vec<(String, String, u8)> {
    let mut client = node.client(version, "reader").await;
    client.subscribe(filter, options).await;
    collect(&mut client).await
}

/// What is there, up to a marker.
async fn collect(client: &mut Client) -> Vec<(String, String, u8)> {
    client.subscribe("end", 0).await;
    client.send(&Publish::new("end", "").encode(client.version())).await;
    let mut out = Vec::new();
    loop {
        let message = client.take().await;
        if message.topic == "end" {
            return out;
        }
        assert!(message.retain, "sent because of a new subscription [MQTT-3.3.1-8]");
        out.push((message.topic, message.payload, message.qos));
    }
}

fn all(expected: &[(&str, &str, u8)]) -> Vec<(String, String, u8)> {
    expected.iter().map(|(topic, payload, qos)| (topic.to_string(), payload.to_string(), *qos)).collect()
}

#[tokio::test]
async fn the_last_retained_message_is_kept_with_its_qos() {
    let node = Node::start().await;
    for version in BOTH {
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("r/1", "old").qos(2, 0).retain()).await;
        publisher.publish(Publish::new("r/1", "new").qos(1, 0).retain()).await;
        publisher.publish(Publish::new("r/2", "zero").retain()).await;
        publisher.publish(Publish::new("r/3", "two").qos(2, 0).retain()).await;
        let expected = all(&[("r/1", "new", 1), ("r/2", "zero", 0), ("r/3", "two", 2)]);
        let mut got = retained(&node, version, "r/+", 2).await;
        got.sort();
        assert_eq!(got, expected);
        // The lower QoS holds for them, too.
        let got = retained(&node, version, "r/3", 0).await;
        assert_eq!(got, all(&[("r/3", "two", 0)]));
        // A QoS 0 message takes the place of what was there [3.1.1 MQTT-3.3.1-7].
        publisher.publish(Publish::new("r/3", "now zero").retain()).await;
        assert_eq!(retained(&node, version, "r/3", 2).await, all(&[("r/3", "now zero", 0)]));
    }
}

#[tokio::test]
async fn an_empty_payload_removes_and_is_not_kept() {
    let node = Node::start().await;
    for version in BOTH {
        let mut publisher = node.client(version, "publisher").await;
        let mut watcher = node.client(version, "watcher").await;
        publisher.publish(Publish::new("r", "here").qos(1, 0).retain()).await;
        watcher.subscribe("r", 1).await;
        assert_eq!(watcher.take().await.payload, "here");
        publisher.publish(Publish::new("r", "").qos(1, 0).retain()).await;
        // It goes to subscribers like any other message.
        let got = watcher.take().await;
        assert_eq!((got.content(), got.retain), (("r", ""), false));
        assert!(retained(&node, version, "r", 1).await.is_empty());
        publisher.publish(Publish::new("never", "").qos(1, 0).retain()).await;
        assert!(retained(&node, version, "#", 1).await.is_empty());
    }
}

#[tokio::test]
async fn a_message_without_retain_changes_nothing() {
    let node = Node::start().await;
    for version in BOTH {
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("r", "kept").qos(1, 0).retain()).await;
        publisher.publish(Publish::new("r", "passing").qos(1, 0)).await;
        publisher.publish(Publish::new("r", "").qos(1, 0)).await;
        publisher.publish(Publish::new("other", "passing").qos(1, 0)).await;
        assert_eq!(retained(&node, version, "#", 1).await, all(&[("r", "kept", 1)]));
    }
}

#[tokio::test]
async fn retain_is_cleared_for_who_subscribed_before() {
    let node = Node::start().await;
    for version in BOTH {
        let mut watcher = node.client(version, "watcher").await;
        watcher.subscribe("r/#", 1).await;
        let mut publisher = node.client(version, "publisher").await;
        for qos in 0..3 {
            publisher.publish(Publish::new("r/1", "m").qos(qos, 0).retain()).await;
            assert!(!watcher.take().await.retain);
        }
        publisher.publish(Publish::new("r/1", "").retain()).await;
    }
}

#[tokio::test]
async fn retain_is_kept_as_published_where_it_was_asked_for() {
    let node = Node::start().await;
    let mut watcher = node.client(V5, "watcher").await;
    watcher.subscribe("r", 2 | RETAIN_AS_PUBLISHED).await;
    let kept = Connect::kept(V5, "kept");
    let mut client = node.connect(&kept).await;
    client.subscribe("r", 2 | RETAIN_AS_PUBLISHED).await;
    client.disconnect().await;
    let mut publisher = node.client(V5, "publisher").await;
    for qos in 0..3 {
        publisher.publish(Publish::new("r", "with").qos(qos, 0).retain()).await;
        publisher.publish(Publish::new("r", "without").qos(qos, 0)).await;
        for expected in [true, false] {
            assert_eq!(watcher.take().await.retain, expected);
        }
    }
    // Through a mailbox, too.
    let mut back = node.connect(&kept).await;
    for expected in [true, false, true, false] {
        let got = back.take().await;
        assert_eq!((got.retain, got.payload == "with"), (expected, expected));
    }
}

#[tokio::test]
async fn retain_handling_decides_who_gets_retained_messages() {
    let node = Node::start().await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("r", "m").qos(1, 0).retain()).await;
    let connect = Connect::kept(V5, "a");
    let mut client = node.connect(&connect).await;
    for (options, comes) in [
        (1 | HANDLING_2, false),
        (1 | HANDLING_1, false), // not new
        (1, true),
        (1, true), // again, as if it were new
    ] {
        assert_eq!(client.subscribe("r", options).await, 1);
        assert_eq!(collect(&mut client).await.len(), usize::from(comes), "{options:#x}");
    }
    client.unsubscribe("r").await;
    client.subscribe("r", 1 | HANDLING_1).await;
    assert_eq!(collect(&mut client).await.len(), 1, "new again");
    client.disconnect().await;
    // A resumed session has the subscription already.
    let mut back = node.connect(&connect).await;
    back.subscribe("r", 1 | HANDLING_1).await;
    assert!(collect(&mut back).await.is_empty());
}

#[tokio::test]
async fn a_3_1_1_client_gets_retained_messages_at_each_subscribe() {
    let node = Node::start().await;
    let mut client = node.client(V311, "a").await;
    client.publish(Publish::new("r", "m").qos(1, 0).retain()).await;
    for _ in 0..2 {
        client.subscribe("r", 1).await;
        assert_eq!(collect(&mut client).await, all(&[("r", "m", 1)]));
    }
}

#[tokio::test]
async fn retained_messages_belong_to_no_session() {
    let node = Node::start().await;
    for version in BOTH {
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("r", "stays").qos(1, 0).retain()).await;
        publisher.disconnect().await;
        assert_eq!(retained(&node, version, "r", 1).await, all(&[("r", "stays", 1)]));
    }
    let node = node.kill().await;
    assert_eq!(retained(&node, V5, "r", 1).await, all(&[("r", "stays", 1)]));
}

#[tokio::test]
async fn an_expired_retained_message_is_gone() {
    let node = Node::start().await;
    let mut publisher = node.client(V5, "publisher").await;
    let expiry = props::four(property::MESSAGE_EXPIRY, 100);
    publisher.publish(Publish::new("r", "m").qos(1, 0).retain().with(expiry)).await;
    node.advance(30).await;
    let mut client = node.client(V5, "a").await;
    client.subscribe("r", 1).await;
    let got = client.take().await;
    assert_eq!(got.number(property::MESSAGE_EXPIRY), Some(70));
    node.advance(71).await;
    assert!(retained(&node, V5, "r", 1).await.is_empty());
}

#[tokio::test]
async fn identifiers_come_with_retained_messages() {
    let node = Node::start().await;
    let mut client = node.client(V5, "a").await;
    client.publish(Publish::new("r", "m").retain()).await;
    client.subscribe_with("r", 0, &props::var(property::SUBSCRIPTION_ID, 268_435_455)).await;
    let got = client.take().await;
    assert_eq!(got.number(property::SUBSCRIPTION_ID), Some(268_435_455));
}

/// SUBACK of a persistent session stands for its retained messages, too: it is killed before it has answered, and the node
/// with it.
#[tokio::test]
async fn a_session_gets_its_retained_messages_after_a_kill() {
    let node = Node::start().await;
    for qos in [1, 2] {
        let topic = format!("r/{qos}");
        let mut publisher = node.client(V5, "publisher").await;
        publisher.publish(Publish::new(&topic, "kept").qos(qos, 0).retain()).await;
        publisher.disconnect().await;
    }
    let kept = Connect::kept(V5, "s");
    let mut session = node.connect(&kept).await;
    assert_eq!(session.subscribe("r/+", 2).await, 2);
    let first = [session.message().await, session.message().await];
    let node = node.kill().await;
    let mut session = node.connect(&kept).await;
    for message in first {
        let again = session.take().await;
        assert_eq!((&again.topic, again.pid, again.retain), (&message.topic, message.pid, true));
        assert!(again.dup);
    }
    session.expect_nothing().await;
    session.cut().await;
    let node = node.kill().await;
    node.connect(&kept).await.expect_nothing().await;
}
