//! Receive Maximum, both ways (sections 3.3.4, 4.9).

use eventmesh_edge_conformance::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Packet, Publish};

fn receive_maximum(n: u16) -> Vec<u8> {
    props::two(property::RECEIVE_MAXIMUM, n)
}

#[tokio::test]
async fn the_node_keeps_to_the_clients_receive_maximum() {
    let node = Node::start().await;
    for kept in [false, true] {
        let connect = if kept { Connect::kept(V5, "a").clean(true) } else { Connect::new(V5, "a") };
        let mut client = node.connect(&connect.with(receive_maximum(3))).await;
        client.subscribe("t", 2).await;
        let mut publisher = node.client(V5, "publisher").await;
        for n in 0..8u8 {
            publisher.publish(Publish::new("t", &n.to_string()).qos(1 + n % 2, 0)).await;
        }
        let first = [client.message().await, client.message().await, client.message().await];
        // No more of them; everything else goes on [MQTT-3.3.4-10], [MQTT-4.9.0-3].
        client.expect_nothing().await;
        assert_eq!(client.subscribe("zero", 0).await, 0);
        client.publish(Publish::new("other", "m").qos(2, 0)).await;
        publisher.publish(Publish::new("zero", "free").qos(0, 0)).await;
        // An answer makes room for one: PUBACK, PUBCOMP, PUBREC with a failure.
        client.send(&wire::ack(PUBACK, first[0].pid)).await;
        let mut fourth = client.message().await;
        if fourth.topic == "zero" {
            fourth = client.message().await;
        }
        assert_eq!(fourth.payload, "3");
        let next = client.next_message_of("t").await;
        assert_eq!(next, None, "still three");
        client.send(&wire::ack(PUBREC, first[1].pid)).await;
        client.expect_ack(PUBREL, first[1].pid, 0).await;
        assert_eq!(client.next_message_of("t").await, None, "PUBREC alone makes no room");
        client.send(&wire::ack(PUBCOMP, first[1].pid)).await;
        assert_eq!(client.message().await.payload, "4");
        client.send(&wire::ack_with(PUBREC, fourth.pid, 0x80)).await;
        assert_eq!(client.message().await.payload, "5");
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_client_that_exceeds_the_nodes_receive_maximum_is_cut_off() {
    let node = Node::with(|setup| setup.listener.limits.receive_maximum = 5).await;
    let mut client = node.client(V5, "a").await;
    let burst =
        |n: u16| (1..=n).flat_map(|id| Publish::new("t", "m").qos(2, id).encode(V5)).collect::<Vec<u8>>();
    client.send(&burst(5)).await;
    for id in 1..=5 {
        client.expect_ack(PUBREC, id, 0).await;
    }
    // QoS 0 does not count, an exchange that is over neither.
    client.send(&Publish::new("t", "m").encode(V5)).await;
    client.send(&wire::ack(PUBREL, 3)).await;
    client.expect_ack(PUBCOMP, 3, 0).await;
    client.send(&Publish::new("t", "m").qos(2, 3).encode(V5)).await;
    client.expect_ack(PUBREC, 3, 0).await;
    client.send(&Publish::new("t", "m").qos(2, 6).encode(V5)).await;
    client.expect_end(0x93).await;
    let mut client = node.client(V5, "a").await;
    client.send(&burst(6)).await;
    loop {
        match client.next().await {
            Some(Packet::Ack { first: PUBREC, .. }) => {}
            Some(Packet::Disconnect { reason: 0x93, .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    client.expect_closed().await;
}

#[tokio::test]
async fn a_resumed_session_keeps_to_the_new_receive_maximum() {
    let node = Node::start().await;
    let kept = Connect::kept(V5, "a");
    let mut client = node.connect(&kept).await;
    client.subscribe("t", 1).await;
    let mut publisher = node.client(V5, "publisher").await;
    for n in 0..5 {
        publisher.publish(Publish::new("t", &n.to_string()).qos(1, 0)).await;
    }
    for _ in 0..5 {
        client.message().await;
    }
    client.cut().await;
    let mut back = node.connect(&kept.with(receive_maximum(2))).await;
    let (first, second) = (back.message().await, back.message().await);
    assert_eq!((&*first.payload, &*second.payload), ("0", "1"));
    back.expect_nothing().await;
    back.send(&wire::ack(PUBACK, first.pid)).await;
    assert_eq!(back.message().await.payload, "2");
    back.expect_nothing().await;
}
