//! Topics that begin with `$`: the node's own (section 4.7.2).

use eventmesh_edge_conformance::wire::{self, BOTH, PUBACK, PUBREC, PUBREL, Version::*};
use eventmesh_edge_conformance::{Connect, Node, Packet, Publish, Will};

#[tokio::test]
async fn nobody_but_the_node_publishes_to_its_own_topics() {
    let node = Node::start().await;
    let mut witness = node.client(V5, "witness").await;
    for filter in ["$SYS/#", "$edge/#", "t"] {
        assert_eq!(witness.subscribe(filter, 1).await, 1);
    }
    for version in BOTH {
        for topic in ["$SYS/broker/uptime", "$edge/clients/a/connected", "$SYS", "$edge/x"] {
            let mut client = node.client(version, "a").await;
            // A 3.1.1 client cannot be told: it is answered, and its message dropped.
            let code = if version.is_v5() { 0x87 } else { 0 };
            assert_eq!(client.publish(Publish::new(topic, "forged").retain()).await, 0);
            client.send(&Publish::new(topic, "forged").qos(1, 1).encode(version)).await;
            client.expect_ack(PUBACK, 1, code).await;
            client.send(&Publish::new(topic, "forged").qos(2, 2).encode(version)).await;
            client.expect_ack(PUBREC, 2, code).await;
            if !version.is_v5() {
                client.send(&wire::ack(PUBREL, 2)).await;
                client.next().await;
            }
            // The identifier of a refused message is new [MQTT-4.3.3-9].
            client.publish(Publish::new("t", "allowed").qos(2, 2)).await;
            assert_eq!(witness.take().await.content(), ("t", "allowed"));
            witness.expect_nothing().await;
            let mut client = node.open(version).await;
            let will = Will::new(topic, "forged");
            let answer = client.connect(&Connect::new(version, "b").will(will)).await;
            let refused = if version.is_v5() { 0x87 } else { 5 };
            assert!(matches!(answer, Some(Packet::ConnAck { code, .. }) if code == refused), "{answer:?}");
            client.expect_closed().await;
        }
        // Other topics that begin with a dollar are anybody's.
        witness.subscribe("$own/x", 1).await;
        let mut client = node.client(version, "a").await;
        assert_eq!(client.publish(Publish::new("$own/x", "m").qos(1, 0)).await, 0);
        assert_eq!(witness.take().await.content(), ("$own/x", "m"));
    }
}
