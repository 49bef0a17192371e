//! MQTT 5 and 3.1.1 with each other: what can be carried is carried.

use eventmesh_edge_conformance::packet::Value;
use eventmesh_edge_conformance::wire::{Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Publish, Will};

fn rich(topic: &str, payload: &str) -> Publish {
    Publish::new(topic, payload)
        .with(props::byte(property::PAYLOAD_FORMAT, 1))
        .with(props::four(property::MESSAGE_EXPIRY, 1000))
        .with(props::string(property::CONTENT_TYPE, "text/plain"))
        .with(props::string(property::RESPONSE_TOPIC, "answers"))
        .with(props::binary(property::CORRELATION_DATA, b"7"))
        .with(props::user("a", "1"))
}

#[tokio::test]
async fn a_v5_message_reaches_a_3_1_1_subscriber_without_its_properties() {
    let node = Node::start().await;
    let kept = Connect::kept(V311, "old");
    let mut old = node.connect(&kept).await;
    old.subscribe("t/+", 2).await;
    let mut new = node.client(V5, "new").await;
    let alias = props::two(property::TOPIC_ALIAS, 1);
    for qos in 0..3 {
        // The alias is undone: the subscriber does not know what it stands for.
        for publish in [rich("t/1", "first").with(alias.clone()), rich("", "second").with(alias.clone())] {
            let payload = String::from_utf8(publish.payload.clone()).unwrap();
            new.publish(publish.qos(qos, 0)).await;
            let got = old.take().await;
            assert_eq!((got.content(), got.qos, got.retain), (("t/1", &*payload), qos, false));
            assert!(got.properties.is_empty());
        }
    }
    // Through the mailbox and the retained store.
    old.disconnect().await;
    new.publish(rich("t/2", "kept").qos(2, 0).retain()).await;
    let mut back = node.connect(&kept).await;
    assert_eq!(back.take().await.content(), ("t/2", "kept"));
    back.subscribe("t/2", 1).await;
    let got = back.take().await;
    assert_eq!((got.content(), got.qos, got.retain), (("t/2", "kept"), 1, true));
    // Its expiry holds for who cannot see it.
    new.publish(Publish::new("t/2", "").retain()).await;
    back.take().await;
    back.disconnect().await;
    new.publish(rich("t/3", "short").qos(1, 0).with(vec![])).await;
    node.advance(2000).await;
    node.connect(&kept).await.expect_nothing().await;
}

#[tokio::test]
async fn a_3_1_1_message_reaches_a_v5_subscriber_with_what_the_subscription_adds() {
    let node = Node::start().await;
    let mut new = node.connect(&Connect::kept(V5, "new")).await;
    new.subscribe_with("t/#", 2 | 0x08, &props::var(property::SUBSCRIPTION_ID, 9)).await;
    let mut old = node.client(V311, "old").await;
    for qos in 0..3 {
        old.publish(Publish::new("t/1", "m").qos(qos, 0).retain()).await;
        let got = new.take().await;
        assert_eq!((got.content(), got.qos, got.retain), (("t/1", "m"), qos, true));
        assert_eq!(got.properties, [(property::SUBSCRIPTION_ID, Value::Number(9))]);
    }
}

#[tokio::test]
async fn wills_cross_too() {
    let node = Node::start().await;
    let mut new = node.client(V5, "new").await;
    let mut old = node.client(V311, "old").await;
    for client in [&mut new, &mut old] {
        client.subscribe("w", 1).await;
    }
    let will = Will::new("w", "gone").qos(1).with(props::user("a", "1"));
    node.connect(&Connect::new(V5, "a").will(will)).await.cut().await;
    assert_eq!(old.take().await.content(), ("w", "gone"));
    let pair = Value::Pair("a".into(), "1".into());
    assert_eq!(new.take().await.properties, [(property::USER, pair)]);
    node.connect(&Connect::new(V311, "a").will(Will::new("w", "gone").qos(1))).await.cut().await;
    assert_eq!(old.take().await.content(), ("w", "gone"));
    assert!(new.take().await.properties.is_empty());
}

#[tokio::test]
async fn a_session_goes_on_in_the_other_version() {
    let node = Node::start().await;
    let (old, new) = (Connect::kept(V311, "device"), Connect::kept(V5, "device"));
    let mut publisher = node.client(V5, "publisher").await;
    let mut device = node.connect(&old).await;
    device.subscribe("t", 2).await;
    device.disconnect().await;
    for (connect, payload) in [(&new, "to new"), (&old, "to old"), (&new, "to new again")] {
        publisher.publish(rich("t", payload).qos(2, 0)).await;
        let mut device = node.connect(connect).await;
        assert!(device.session_present);
        let got = device.take().await;
        assert_eq!((got.content(), got.properties.is_empty()), (("t", payload), connect.version == V311));
        device.disconnect().await;
    }
}
