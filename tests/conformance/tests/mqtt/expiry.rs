//! Message expiry (section 3.3.2.3.3).

use eventmesh_edge_conformance::wire::{Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Publish};

fn expiry(secs: u32) -> Vec<u8> {
    props::four(property::MESSAGE_EXPIRY, secs)
}

#[tokio::test]
async fn what_waited_comes_with_the_time_that_is_left() {
    let node = Node::start().await;
    let kept = Connect::kept(V5, "a");
    let mut client = node.connect(&kept).await;
    client.subscribe("t", 2).await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("t", "now").qos(1, 0).with(expiry(50))).await;
    let now = client.take().await;
    assert_eq!(now.number(property::MESSAGE_EXPIRY), Some(50));
    client.disconnect().await;
    publisher.publish(Publish::new("t", "long").qos(2, 0).with(expiry(500))).await;
    publisher.publish(Publish::new("t", "short").qos(1, 0).with(expiry(20))).await;
    publisher.publish(Publish::new("t", "for ever").qos(1, 0)).await;
    node.advance(30).await;
    let node = node.restart().await;
    let mut back = node.connect(&kept).await;
    let long = back.take().await;
    assert_eq!((&*long.payload, long.number(property::MESSAGE_EXPIRY)), ("long", Some(470)));
    let last = back.take().await;
    assert_eq!((&*last.payload, last.number(property::MESSAGE_EXPIRY)), ("for ever", None));
    back.expect_nothing().await;
}

#[tokio::test]
async fn a_message_that_expires_at_once_reaches_who_is_there() {
    let node = Node::start().await;
    let mut away = node.connect(&Connect::kept(V5, "away")).await;
    away.subscribe("t", 1).await;
    away.disconnect().await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("t", "m").qos(1, 0).with(expiry(0))).await;
    node.advance(1).await;
    node.connect(&Connect::kept(V5, "away")).await.expect_nothing().await;
}

#[tokio::test]
async fn a_message_in_the_window_of_a_slow_client_expires_too() {
    let node = Node::start().await;
    let one = props::two(property::RECEIVE_MAXIMUM, 1);
    let mut client = node.connect(&Connect::new(V5, "a").with(one)).await;
    client.subscribe("t", 1).await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("t", "first").qos(1, 0)).await;
    publisher.publish(Publish::new("t", "second").qos(1, 0).with(expiry(10))).await;
    publisher.publish(Publish::new("t", "third").qos(1, 0)).await;
    node.advance(11).await;
    assert_eq!(client.take().await.payload, "first");
    assert_eq!(client.take().await.payload, "third", "the second had expired before it could be sent");
}
