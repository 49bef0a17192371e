//! Two addresses of one uplink, and two nodes that are each other's uplink.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::{Result, eventually};
use std::collections::BTreeSet;
use std::net::SocketAddr;

fn uplink(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let addresses = addresses.join(", ");
    format!(
        "[[uplink]]\nname = \"up\"\nkind = \"mqtt\"\naddresses = [{addresses}]\n[telemetry]\nenabled = false\n"
    )
}

/// The first hub dies by SIGKILL: events go on at the second, and nothing is missing. The hub keeps in memory what it has
/// acknowledged, so it dies when all of that is with its subscriber.
#[tokio::test]
async fn events_go_on_at_the_second_address_and_nothing_is_missing() -> Result {
    const HALF: u32 = 200;
    let (mut first, second) = (Hub::start().await?, Hub::start().await?);
    let at_first = Auditor::start(first.addr(), "#").await?;
    let at_second = Auditor::start(second.addr(), "#").await?;
    let mut node = Node::start(&uplink(&[first.addr(), second.addr()])).await?;
    let mut client = RawClient::new("device", node.mqtt());
    client.connect().await?;
    for n in 0..HALF {
        client.publish("t", n.to_string().into_bytes()).await?;
    }
    let all = || (at_first.seen().len() >= HALF as usize).then_some(());
    eventually("the first hub has handed on what it acknowledged", async || all()).await?;
    first.kill().await?;
    for n in HALF..2 * HALF {
        client.publish("t", n.to_string().into_bytes()).await?;
    }
    client.settle_all().await?;
    let arrived = || -> BTreeSet<u32> {
        let both = [at_first.seen().clone(), at_second.seen().clone()].concat();
        both.iter().filter_map(|event| String::from_utf8_lossy(&event.payload).parse().ok()).collect()
    };
    eventually("everything arrives at one of the two", async || {
        (arrived() == (0..2 * HALF).collect()).then_some(())
    })
    .await?;
    let status = node.status()?;
    assert_eq!(status["uplinks"][0]["address"], second.addr().to_string(), "{status}");
    // Told apart by identity, each event came once or as itself again (P3).
    let both = [at_first.seen().clone(), at_second.seen().clone()].concat();
    let identities: BTreeSet<_> = both.iter().map(eventmesh_edge_e2e::audit::Received::identity).collect();
    assert_eq!(identities.len(), 2 * HALF as usize);
    node.stop().await
}

/// A's uplink is B and B's is A: what a device tells A comes back to A, and ends there.
#[tokio::test]
async fn a_ring_of_two_nodes_ends_where_it_began() -> Result {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let a = Node::start(&uplink(&[free])).await?;
    let variables = [
        "env".to_owned(),
        "EVENTMESH_EDGE_NODE_NAME=b".to_owned(),
        format!("EVENTMESH_EDGE_LISTENER_0_BIND={free}"),
    ];
    let b = Node::start_under(&variables, &uplink(&[a.mqtt()])).await?;
    let mut client = RawClient::new("device", a.mqtt());
    client.connect().await?;
    for n in 0..5u32 {
        client.publish("t", n.to_string().into_bytes()).await?;
    }
    client.settle_all().await?;
    eventually("the ring is closed and at rest", async || {
        let (at_a, at_b) = (a.status().ok()?, b.status().ok()?);
        let idle = |status: &serde_json::Value| status["uplinks"][0]["backlog_events"] == 0;
        let dropped = at_a["ingress"][0]["loops_dropped"].as_u64()?;
        (dropped >= 5 && idle(&at_a) && idle(&at_b)).then_some(())
    })
    .await?;
    let (at_a, at_b) = (a.status()?, b.status()?);
    assert_eq!(at_a["ingress"][0]["published"], 5, "A stored the device's own messages and nothing else");
    assert_eq!(at_b["ingress"][0]["published"], 5);
    Ok(())
}
