//! The built node with an EventMesh uplink, against the stand-in: what MQTT devices were acknowledged arrives through outages and
//! SIGKILL (P1, P2), duplicates carry the same id (P3), and commands come down to devices through the store.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::{Result, eventually};
use eventmesh_edge_standin::proto::CloudEvent;
use eventmesh_edge_standin::proto::cloud_event::Data;
use eventmesh_edge_standin::{StandIn, text, valve_command};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

fn config(mesh: SocketAddr) -> String {
    format!(
        r#"
        [[uplink]]
        name = "mesh"
        kind = "eventmesh"
        addresses = ["{mesh}"]
        subscribe = ["commands"]
        keep_alive = "2 s"
        connect_timeout = "1 s"
        retry_max = "1 s"
        "#
    )
}

fn data(event: &CloudEvent) -> String {
    match &event.data {
        Some(Data::TextData(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn of_devices(standin: &StandIn) -> Vec<CloudEvent> {
    let is_device = |e: &CloudEvent| text(e, "edgetopic").is_some_and(|t| t.starts_with("load/"));
    standin.stored().into_iter().filter(is_device).collect()
}

#[tokio::test]
async fn what_is_acknowledged_reaches_eventmesh_through_outages_and_sigkill() -> Result {
    let standin = StandIn::start();
    let proxy = Proxy::start(standin.addr()).await?;
    let mut node = Node::start(&config(proxy.addr())).await?;
    let mut client = RawClient::new("sensor-1", node.mqtt());
    client.connect().await?;
    for (round, link) in [Link::Works, Link::Refuses, Link::Works, Link::Hangs, Link::Resets, Link::Works]
        .into_iter()
        .enumerate()
    {
        proxy.set(link);
        for _ in 0..100 {
            let payload = format!("{{\"n\":{}}}", client.next_number()).into_bytes();
            client.publish("load/temp", payload).await?;
            client.settle(16).await?;
        }
        client.settle_all().await?;
        // Killed while the way up is open, while it is closed, and while it swallows everything.
        if round % 2 == 1 {
            node.kill().await?;
            node.start_again().await?;
            client.set_addr(node.mqtt());
            client.connect().await?;
        }
    }
    assert_eq!(
        (client.acknowledged.len(), client.resent.len()),
        (600, 0),
        "all of it, nothing twice on our side"
    );
    let expected: BTreeSet<String> = client.acknowledged.iter().map(|n| format!("{{\"n\":{n}}}")).collect();
    let arrived = || of_devices(&standin).iter().map(data).collect::<BTreeSet<_>>();
    eventually("everything arrives", async || (arrived() == expected).then_some(())).await?;

    let events = of_devices(&standin);
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in &events {
        ids.entry(data(event)).or_default().insert(event.id.clone());
        assert_eq!(event.source, "mqtt://e2e/sensor-1");
        assert_eq!(text(event, "uniqueid"), Some(event.id.as_str()));
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "a duplicate has the id of the first (P3)");
    let distinct: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(distinct.len(), 600);
    let sequences: BTreeSet<&str> = events.iter().filter_map(|e| text(e, "seqnum")).collect();
    assert_eq!(sequences.len(), 600, "a consumer can restore the order");
    println!("eventmesh: 600 acknowledged, {} received, 0 lost", events.len());
    node.stop().await
}

fn command(id: &str) -> CloudEvent {
    let attributes = [
        ("protocoltype", "cloudevents"),
        ("protocoldesc", "grpc-cloud-event"),
        ("subject", "commands"),
        ("datacontenttype", "text/plain"),
        ("edgetopic", "valve/1/set"),
        ("responsetopic", "load/valve/1/done"),
        ("correlationid", "abc"),
    ];
    valve_command(id, &attributes)
}

/// The receipts of one command so far.
fn receipts(standin: &StandIn, command: &str) -> Vec<CloudEvent> {
    let is_it = |e: &CloudEvent| text(e, "commandid") == Some(command);
    standin.stored().into_iter().filter(is_it).collect()
}

#[tokio::test]
async fn commands_come_down_once_and_are_confirmed_as_often_as_asked() -> Result {
    let standin = StandIn::start();
    let mut node = Node::start(&config(standin.addr())).await?;
    let device = Auditor::start(node.mqtt(), "valve/#").await?;
    eventually("the node subscribes", async || (!standin.clients().is_empty()).then_some(())).await?;
    standin.publish(command("c1"));
    eventually("a receipt", async || (receipts(&standin, "c1").len() == 1).then_some(())).await?;
    eventually("the command", async || (device.seen().len() == 1).then_some(())).await?;
    let message = device.seen()[0].clone();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("valve/1/set", &b"open"[..]));
    assert_eq!(message.identity(), ("/cloud/app".to_owned(), "c1".to_owned()));
    // The cloud has seen no receipt, as far as it is concerned, and asks again: a receipt, and no second command.
    standin.publish(command("c1"));
    eventually("a second receipt", async || (receipts(&standin, "c1").len() == 2).then_some(())).await?;
    standin.publish(command("c2"));
    eventually("the next command", async || (device.seen().len() == 2).then_some(())).await?;
    assert_eq!(device.seen()[1].identity().1, "c2");
    // The device does what it was told and says so on the response topic: that goes up as an event like any other.
    let mut valve = RawClient::new("valve-1", node.mqtt());
    valve.connect().await?;
    valve.publish("load/valve/1/done", b"{\"ok\":true}".to_vec()).await?;
    valve.settle_all().await?;
    eventually("the device's answer", async || of_devices(&standin).pop()).await?;
    node.stop().await
}

#[tokio::test]
async fn status_says_what_the_uplink_does() -> Result {
    let standin = StandIn::start();
    standin.only_subscribed_topics();
    let mut node = Node::start(&config(standin.addr())).await?;
    let mut client = RawClient::new("sensor-1", node.mqtt());
    client.connect().await?;
    client.publish("load/temp", b"1".to_vec()).await?;
    client.settle_all().await?;
    // The topic has no consumer: the event is held, and the operator can read why.
    let held = async || {
        let status = node.status().ok()?.to_string();
        status.contains("is held for").then_some(status)
    };
    let status = eventually("status tells that the topic is held", held).await?;
    assert!(status.contains("events_held") && status.contains("code 14"), "{status}");
    assert_eq!(standin.count(), 0);
    node.stop().await
}

/// Birth, heartbeat, links, losses and death, as CloudEvents where the devices' events go (docs/node-events.md).
#[tokio::test]
async fn the_node_tells_about_itself_upstream() -> Result {
    let (standin, hub) = (StandIn::start(), Hub::start().await?);
    let proxy = Proxy::start(standin.addr()).await?;
    let watcher = Auditor::start(hub.addr(), "#").await?;
    let config = format!(
        "{}message_max = \"8 KiB\"\n[[uplink]]\nname = \"hub\"\nkind = \"mqtt\"\naddresses = [\"{}\"]\n[telemetry]\nheartbeat = \"5 s\"\n",
        config(proxy.addr()),
        hub.addr()
    );
    let mut node = Node::start(&config).await?;
    let of_mesh = |kind: &str| {
        let kind = format!("io.eventmesh.edge.node.{kind}");
        let all = standin.stored().into_iter();
        all.filter(|e| e.r#type == kind && e.source == "edge://e2e").map(|e| data(&e)).collect::<Vec<_>>()
    };
    eventually("birth", async || {
        of_mesh("birth").first().filter(|d| d.contains("\"previous_stop\":\"first\"")).cloned()
    })
    .await?;
    eventually("heartbeat with vital figures", async || {
        of_mesh("heartbeat").into_iter().find(|d| d.contains("rss_bytes") && d.contains("backlog_events"))
    })
    .await?;
    // One that never fits: given up for this uplink, and counted.
    let mut client = RawClient::new("sensor-1", node.mqtt());
    client.connect().await?;
    client.publish("load/large", vec![b'x'; 9_000]).await?;
    client.settle_all().await?;
    eventually("the ledger", async || {
        of_mesh("ledger").into_iter().find(|d| d.contains("\"reason\":\"rejected\""))
    })
    .await?;
    let told = |kind: &str| watcher.of_nodes().iter().any(|e| e.attribute("type").ends_with(kind));
    proxy.set(Link::Refuses);
    // In time only from another uplink; from itself when it is back.
    eventually("the other uplink tells", async || told(".node.uplink.down").then_some(())).await?;
    proxy.set(Link::Works);
    let about_mesh = |all: Vec<String>| all.into_iter().find(|d| d.contains("\"uplink\":\"mesh\""));
    eventually("that it was down", async || about_mesh(of_mesh("uplink.down"))).await?;
    eventually("that it is up", async || about_mesh(of_mesh("uplink.up"))).await?;
    assert!(!told(".node.death"));
    // A will, published by the broker.
    node.kill().await?;
    eventually("death", async || told(".node.death").then_some(())).await?;
    node.start_again().await?;
    eventually("the next birth", async || {
        of_mesh("birth").into_iter().find(|d| d.contains("\"previous_stop\":\"unclean\""))
    })
    .await?;
    node.stop().await
}
