//! Topics that begin with `$`: the node's own (section 4.7.2).

use eventmesh_edge_conformance::packet::Value;
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

#[tokio::test]
async fn figures_are_published_and_kept_in_memory() {
    let node = Node::start().await;
    let mut all = node.client(V5, "all").await;
    all.subscribe("#", 0).await;
    all.subscribe("$SYS/broker/heap/current", 0).await;
    node.publish_sys();
    // The last of the first round: when it is here, all of them are there. Of the others `#` shows nothing.
    assert_eq!(all.take().await.topic, "$SYS/broker/heap/current");
    all.expect_nothing().await;
    let mut client = node.client(V5, "a").await;
    client.subscribe("$SYS/broker/version", 0).await;
    let version = client.take().await;
    assert_eq!(
        (version.content(), version.retain),
        (("$SYS/broker/version", "eventmesh-edge version 9.9.9"), true)
    );
    client.subscribe("$SYS/broker/clients/connected", 0).await;
    assert_eq!(client.take().await.payload, "1", "as of the last interval");
    node.advance(11).await;
    let connected = client.take().await;
    assert_eq!((connected.content(), connected.retain), (("$SYS/broker/clients/connected", "2"), false));
    client.expect_nothing().await;
    // What is not on disk cannot be wrong after a start.
    let node = node.kill().await;
    let mut client = node.client(V5, "a").await;
    client.subscribe("$SYS/#", 0).await;
    client.expect_nothing().await;
}

fn told(message: &eventmesh_edge_conformance::Published) -> (&str, String) {
    let attribute = message.properties.iter().find_map(|(_, value)| match value {
        Value::Pair(name, value) if name == "type" => Some(value.clone()),
        _ => None,
    });
    (&message.topic, attribute.unwrap_or_default())
}

#[tokio::test]
async fn what_happens_to_clients_is_told_and_can_be_routed() {
    let node = Node::with(|setup| {
        setup.sessions.client_events = true;
        setup.routes = vec!["$edge/clients/+/disconnected".to_owned()];
    })
    .await;
    let mut watcher = node.client(V5, "watcher").await;
    watcher.subscribe("$edge/clients/#", 1).await;
    let mut watched = watcher.take().await;
    while told(&watched).0 != "$edge/clients/watcher/subscribed" {
        watched = watcher.take().await;
    }
    let mut device = node.connect(&Connect::kept(V311, "plant/7").keep_alive(30)).await;
    let got = watcher.take().await;
    assert_eq!(
        told(&got),
        ("$edge/clients/plant%2F7/connected", "io.eventmesh.edge.client.connected".into())
    );
    for part in
        [r#""client_id":"plant/7""#, r#""protocol":"MQTT 3.1.1""#, r#""keep_alive_s":30"#, r#""user":null"#]
    {
        assert!(got.payload.contains(part), "{part} in {}", got.payload);
    }
    device.send(&wire::subscribe(V311, 1, &[], &[("a/+", 1), ("bad#", 0), ("b", 2)])).await;
    let got = watcher.take().await;
    assert_eq!(told(&got).0, "$edge/clients/plant%2F7/subscribed");
    assert!(got.payload.contains(r#"[{"filter":"a/+","qos":1},{"filter":"b","qos":2}]"#), "{}", got.payload);
    assert!(matches!(device.next().await, Some(Packet::SubAck { .. })));
    device.unsubscribe("b").await;
    let got = watcher.take().await;
    assert_eq!(
        (told(&got).0, got.payload.contains(r#"["b"]"#)),
        ("$edge/clients/plant%2F7/unsubscribed", true)
    );
    // Nothing changed, nothing to tell.
    device.unsubscribe("b").await;
    watcher.expect_nothing().await;
    node.advance(46).await;
    device.expect_end(0x8D).await;
    let got = watcher.take().await;
    assert_eq!(told(&got).0, "$edge/clients/plant%2F7/disconnected");
    assert!(got.payload.contains(r#""reason":"keep alive timeout""#), "{}", got.payload);
    for (version, reason) in [(V5, "disconnect"), (V311, "connection lost")] {
        let client = node.client(version, "b").await;
        if version.is_v5() {
            client.disconnect().await
        } else {
            client.cut().await
        }
        assert_eq!(told(&watcher.take().await).0, "$edge/clients/b/connected");
        let got = watcher.take().await;
        assert!(got.payload.contains(&format!(r#""reason":"{reason}""#)), "{}", got.payload);
    }
    let topics = [
        "$edge/clients/plant%2F7/disconnected",
        "$edge/clients/b/disconnected",
        "$edge/clients/b/disconnected",
    ];
    assert_eq!(node.streamed(), topics, "what a route names goes upstream, and nothing else");
}
