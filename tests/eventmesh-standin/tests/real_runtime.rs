//! The uplink against a real EventMesh runtime, where one runs: `EVENTMESH_GRPC_PORT` says at which port of this machine. With standalone
//! storage a topic lives as long as its first subscription, so every run has a topic and a consumer group of its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::{Driver, acked, options, outgoing, subscribing};
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;

#[tokio::test]
async fn what_one_uplink_publishes_another_one_gets() {
    let Ok(port) = std::env::var("EVENTMESH_GRPC_PORT") else {
        // Not `eprintln`, which the test runner keeps to itself.
        let mut stderr = std::io::stderr();
        stderr
            .write_all(b"SKIPPED (77): a real EventMesh runtime: EVENTMESH_GRPC_PORT names none\n")
            .unwrap();
        return;
    };
    let runtime = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let own = format!("edge-{}", std::process::id());
    let mut consumer = subscribing(&[runtime]);
    consumer.node = "other".into();
    consumer.down.topics = vec![own.clone()];
    consumer.down.group.clone_from(&own);
    consumer.down.receipts = None;
    let mut consumer = Driver::new(consumer);
    consumer.up().await;
    let mut producer = options(&[runtime]);
    producer.topic.clone_from(&own);
    let mut producer = Driver::new(producer);
    producer.up().await;
    // Until the subscription is there the topic refuses events: they are held, and offered again.
    let mut waiting: BTreeSet<u64> = (1..=200).collect();
    let sent = async {
        while !waiting.is_empty() {
            let events = producer.deliver(waiting.iter().copied().map(outgoing)).await;
            acked(&events).iter().for_each(|n| assert!(waiting.remove(n)));
        }
    };
    consumer.while_waiting(sent).await;
    let is_message = |e: &&UplinkEvent| matches!(e, UplinkEvent::Downward(_));
    let mut ids = BTreeSet::new();
    while ids.len() < 200 {
        let events = consumer.until(|events| events.iter().any(|e| is_message(&e))).await;
        for event in events {
            if let UplinkEvent::Downward(message) = event {
                consumer.uplink.confirm(message.token);
                ids.insert(message.identity.unwrap().1.to_string());
            }
        }
    }
    let expected: BTreeSet<String> = (1..=200).map(|n| outgoing(n).event.id().to_string()).collect();
    assert_eq!(ids, expected);
}
