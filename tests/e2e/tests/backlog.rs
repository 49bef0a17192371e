//! A long outage ends: the link is noticed at once, and the backlog goes up over one connection.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::number_from_env;
use eventmesh_edge_e2e::{Result, eventually};
use std::net::SocketAddr;

const CLIENTS: u64 = 8;

/// Delays as they are set without a word; a short keep-alive, that a slow peer must not fall victim to.
fn config(hub: SocketAddr) -> String {
    format!(
        "[[uplink]]\nname = \"hub\"\nkind = \"mqtt\"\naddresses = [\"{hub}\"]\nkeep_alive = \"2 s\"\n\
         [telemetry]\nenabled = false\n"
    )
}

async fn publish(n: u64, node: SocketAddr, events: u64) -> Result {
    let mut client = RawClient::new(&format!("client-{n}"), node);
    client.connect().await?;
    for number in 0..events {
        let payload = format!(r#"{{"client":"client-{n}","n":{number}}}"#).into_bytes();
        client.publish(&format!("load/client-{n}/{}", number % 2), payload).await?;
        client.settle(64).await?;
    }
    client.settle_all().await
}

/// Looks so often at a link that is down, for longer than some attempts take: what the node says it waits before the next one
/// never exceeds a second.
async fn is_tried_every_second(node: &Node, mut looks: u32) -> Result {
    eventually("looked at often enough", async || {
        let status = node.status().ok()?;
        let uplink = &status["uplinks"][0];
        assert!(uplink["retry_in_s"].as_f64().unwrap_or_default() <= 1.0, "{uplink}");
        looks -= 1;
        (looks == 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_closed_port_is_tried_every_second_and_the_backlog_goes_up_over_one_connection() -> Result {
    let events = number_from_env("EDGE_BACKLOG", 4_000);
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "load/#").await?;
    let proxy = Proxy::start(hub.addr()).await?;
    proxy.set(Link::Refuses);
    let mut node = Node::start(&config(proxy.addr())).await?;
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(publish(n, node.mqtt(), events / CLIENTS))).collect();
    for client in clients {
        client.await??;
    }
    // Five seconds and more: the fourth of delays that double up to half a minute is two seconds.
    is_tried_every_second(&node, 100).await?;
    proxy.set(Link::Works);
    let mut last = 0;
    while last < events {
        last = eventually("more arrives", async || {
            let seen = auditor.seen().len() as u64;
            (seen > last).then_some(seen)
        })
        .await?;
    }
    eventually("the cursor has passed everything", async || {
        (node.status().ok()?["uplinks"][0]["backlog_events"] == 0).then_some(())
    })
    .await?;
    let uplink = &node.status()?["uplinks"][0];
    assert_eq!((&uplink["connections"], &uplink["sent_again"]), (&1.into(), &0.into()), "{uplink}");
    node.stop().await
}
