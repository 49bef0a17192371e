//! Maximum Packet Size, both ways (sections 3.1.2.11.4 and 3.2.2.3.6).

use eventmesh_edge_conformance::packet::number;
use eventmesh_edge_conformance::wire::{self, BOTH, PUBREC, PUBREL, Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Packet, Publish};

fn maximum(bytes: u32) -> Vec<u8> {
    props::four(property::MAXIMUM_PACKET_SIZE, bytes)
}

#[tokio::test]
async fn nothing_larger_than_the_client_takes_is_sent() {
    let node = Node::start().await;
    for qos in 0..3 {
        for kept in [false, true] {
            let connect = if kept { Connect::kept(V5, "a").clean(true) } else { Connect::new(V5, "a") };
            let mut client = node.connect(&connect.with(maximum(100))).await;
            client.subscribe("t", qos).await;
            let mut other = node.client(V5, "other").await;
            other.subscribe("t", qos).await;
            let mut publisher = node.client(V5, "publisher").await;
            // Fixed header 2, topic 3, identifier 2, property length 1: the payload that just fits, and one more byte.
            let fits = 100 - 2 - 3 - 1 - if qos > 0 { 2 } else { 0 };
            publisher.publish(Publish::new("t", &"x".repeat(fits)).qos(qos, 0)).await;
            publisher.publish(Publish::new("t", &"y".repeat(fits + 1)).qos(qos, 0)).await;
            publisher.publish(Publish::new("t", "z").qos(qos, 0)).await;
            assert_eq!(client.take().await.payload.len(), fits);
            // As if it had been sent, also for the window; others get it.
            assert_eq!(client.take().await.payload, "z");
            client.expect_nothing().await;
            for len in [fits, fits + 1, 1] {
                assert_eq!(other.take().await.payload.len(), len);
            }
            client.disconnect().await;
        }
    }
}

#[tokio::test]
async fn properties_count_for_the_clients_limit() {
    let node = Node::start().await;
    let mut client = node.connect(&Connect::new(V5, "a").with(maximum(60))).await;
    client.subscribe("t", 0).await;
    let mut publisher = node.client(V5, "publisher").await;
    let large = props::user("name", &"v".repeat(50));
    publisher.publish(Publish::new("t", "small").with(large)).await;
    publisher.publish(Publish::new("t", "next")).await;
    assert_eq!(client.take().await.payload, "next");
}

#[tokio::test]
async fn a_retained_message_that_is_too_large_is_left_out() {
    let node = Node::start().await;
    let mut publisher = node.client(V5, "publisher").await;
    publisher.publish(Publish::new("t/1", &"x".repeat(200)).retain()).await;
    publisher.publish(Publish::new("t/2", "small").retain()).await;
    let mut client = node.connect(&Connect::new(V5, "a").with(maximum(50))).await;
    client.subscribe("t/#", 0).await;
    assert_eq!(client.take().await.payload, "small");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_packet_larger_than_the_node_takes_ends_the_connection() {
    let node = Node::with(|setup| setup.listener.limits.payload_max_bytes = 1000).await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        if version.is_v5() {
            assert_eq!(number(&client.connack, property::MAXIMUM_PACKET_SIZE), Some(1000 + 72 * 1024));
        }
        client.publish(Publish::new("t", &"x".repeat(1000)).qos(1, 0)).await;
        client.send(&Publish::new("t", &"x".repeat(1001)).qos(1, 1).encode(version)).await;
        client.expect_end(0x95).await;
        // Told by its length alone, before its body has come.
        let mut client = node.client(version, "a").await;
        client.send(&[0x32, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        client.expect_end(0x95).await;
    }
}

/// Answers are never longer than the smallest limit that a client can set to any use.
#[tokio::test]
async fn answers_keep_to_the_clients_limit() {
    let node = Node::start().await;
    let mut client = node.connect(&Connect::new(V5, "a").with(maximum(20))).await;
    client.send(&wire::ack(PUBREC, 9)).await;
    assert!(client.expect_ack(PUBREL, 9, 0x92).await.is_empty(), "no room for a Reason String");
    client.send(&wire::subscribe(V5, 3, &[], &[("bad#", 0)])).await;
    let Some(Packet::SubAck { pid: 3, codes, properties }) = client.next().await else { panic!("SUBACK") };
    assert!(codes == [0x8F] && properties.is_empty());
    client.send(&[0xF0, 0]).await;
    assert!(client.expect_end(0x82).await.is_empty());
}
