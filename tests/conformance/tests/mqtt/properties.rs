//! What a PUBLISH carries (section 3.3.2.3): payload format, content type, request and response, user properties.

use eventmesh_edge_conformance::packet::Value;
use eventmesh_edge_conformance::wire::{Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Packet, Publish};

fn everything() -> Publish {
    Publish::new("t", "{}")
        .with(props::byte(property::PAYLOAD_FORMAT, 1))
        .with(props::string(property::CONTENT_TYPE, "application/json; é"))
        .with(props::string(property::RESPONSE_TOPIC, "answers/\u{feff}1"))
        .with(props::binary(property::CORRELATION_DATA, &[0, 255, 0]))
        .with(props::user("z", "1"))
        .with(props::user("a", "\u{feff}2"))
        .with(props::user("z", ""))
}

fn expected() -> Vec<(u8, Value)> {
    let pair = |name: &str, value: &str| (property::USER, Value::Pair(name.into(), value.into()));
    vec![
        (property::PAYLOAD_FORMAT, Value::Number(1)),
        (property::CONTENT_TYPE, Value::Text("application/json; é".into())),
        (property::RESPONSE_TOPIC, Value::Text("answers/\u{feff}1".into())),
        (property::CORRELATION_DATA, Value::Binary(vec![0, 255, 0])),
        pair("z", "1"),
        pair("a", "\u{feff}2"),
        pair("z", ""),
    ]
}

#[tokio::test]
async fn properties_arrive_unaltered_and_in_order() {
    let node = Node::start().await;
    let mut client = node.client(V5, "a").await;
    client.subscribe("t", 2).await;
    let mut publisher = node.client(V5, "publisher").await;
    for qos in 0..3 {
        publisher.publish(everything().qos(qos, 0)).await;
        assert_eq!(client.take().await.properties, expected());
    }
    publisher.publish(Publish::new("t", "bare")).await;
    assert!(client.take().await.properties.is_empty());
}

#[tokio::test]
async fn they_survive_the_mailbox_retention_and_a_restart() {
    let node = Node::start().await;
    let kept = Connect::kept(V5, "a");
    let mut client = node.connect(&kept).await;
    client.subscribe("t", 2).await;
    client.disconnect().await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(everything().qos(2, 0).retain()).await;
    let node = node.kill().await;
    let mut back = node.connect(&kept).await;
    assert_eq!(back.take().await.properties, expected());
    let mut late = node.client(V5, "late").await;
    late.subscribe("t", 0).await;
    assert_eq!(late.take().await.properties, expected());
}

#[tokio::test]
async fn a_request_is_answered_on_its_response_topic() {
    let node = Node::start().await;
    let mut asker = node.client(V5, "asker").await;
    asker.subscribe("answers/asker", 1).await;
    let mut server = node.client(V5, "server").await;
    server.subscribe("requests", 1).await;
    let request = Publish::new("requests", "2 + 2")
        .qos(1, 0)
        .with(props::string(property::RESPONSE_TOPIC, "answers/asker"))
        .with(props::binary(property::CORRELATION_DATA, b"q-1"));
    asker.publish(request).await;
    let request = server.take().await;
    let Some((_, Value::Text(topic))) =
        request.properties.iter().find(|(id, _)| *id == property::RESPONSE_TOPIC)
    else {
        panic!("Response Topic")
    };
    let Some((_, Value::Binary(data))) =
        request.properties.iter().find(|(id, _)| *id == property::CORRELATION_DATA)
    else {
        panic!("Correlation Data")
    };
    server
        .publish(Publish::new(topic, "4").qos(1, 0).with(props::binary(property::CORRELATION_DATA, data)))
        .await;
    let answer = asker.take().await;
    assert_eq!(answer.content(), ("answers/asker", "4"));
    assert_eq!(answer.properties, [(property::CORRELATION_DATA, Value::Binary(b"q-1".to_vec()))]);
}

#[tokio::test]
async fn properties_of_publish_are_checked() {
    let node = Node::start().await;
    let twice = |one: Vec<u8>| one.repeat(2);
    let null = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 1;
        bytes[last] = 0;
        bytes
    };
    for (properties, reasons) in [
        (twice(props::byte(property::PAYLOAD_FORMAT, 1)), [0x82, 0x81]),
        (twice(props::four(property::MESSAGE_EXPIRY, 1)), [0x82, 0x81]),
        (twice(props::two(property::TOPIC_ALIAS, 1)), [0x82, 0x81]),
        (twice(props::string(property::RESPONSE_TOPIC, "a")), [0x82, 0x81]),
        (twice(props::binary(property::CORRELATION_DATA, b"a")), [0x82, 0x81]),
        (twice(props::string(property::CONTENT_TYPE, "a")), [0x82, 0x81]),
        (props::byte(property::PAYLOAD_FORMAT, 2), [0x82, 0x81]),
        (props::string(property::RESPONSE_TOPIC, "a/+"), [0x82, 0x90]),
        (props::string(property::RESPONSE_TOPIC, ""), [0x82, 0x90]),
        (props::var(property::SUBSCRIPTION_ID, 1), [0x82, 0x81]),
        (props::four(property::SESSION_EXPIRY, 1), [0x82, 0x81]),
        (props::byte(0x7F, 1), [0x82, 0x81]),
        (null(props::string(property::CONTENT_TYPE, "ab")), [0x82, 0x81]),
        (null(props::string(property::RESPONSE_TOPIC, "ab")), [0x90, 0x81]),
        (null(props::user("a", "b")), [0x82, 0x81]),
        (vec![property::MESSAGE_EXPIRY, 0], [0x82, 0x81]),
    ] {
        let mut client = node.client(V5, "a").await;
        client.send(&Publish::new("t", "m").qos(1, 1).with(properties.clone()).encode(V5)).await;
        match client.next().await {
            Some(Packet::Disconnect { reason, .. }) if reasons.contains(&reason) => {}
            other => panic!("{properties:x?}: {other:?}"),
        }
        client.expect_closed().await;
    }
    // The shortest that is good, and text in every place where it may be.
    let mut client = node.client(V5, "a").await;
    assert_eq!(client.publish(everything().qos(1, 0)).await, 0);
}
