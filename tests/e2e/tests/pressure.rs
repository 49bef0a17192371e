//! P5 and P2 under pressure: a publish storm against a full `refuse` stream, and a dead uplink beside a healthy one.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::{Result, eventually};
use std::time::Duration;

const PAYLOAD: usize = 2_000;

#[tokio::test]
async fn a_full_refuse_stream_withholds_answers_and_harms_nobody_else() -> Result {
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let proxy = Proxy::start(hub.addr()).await?;
    proxy.set(Link::Refuses);
    let mut node = Node::start(&format!(
        r#"
        [[stream]]
        name = "small"
        when_full = "refuse"
        max_bytes = "1 MiB"
        [[stream]]
        name = "other"
        [[route]]
        topics = ["storm/#"]
        stream = "small"
        uplinks = ["dead"]
        [[route]]
        topics = ["calm/#"]
        stream = "other"
        uplinks = ["alive"]
        [[uplink]]
        name = "dead"
        kind = "mqtt"
        addresses = ["{}"]
        [[uplink]]
        name = "alive"
        kind = "mqtt"
        addresses = ["{}"]
        "#,
        proxy.addr(),
        hub.addr()
    ))
    .await?;

    let mut stormers: Vec<_> = (0..4).map(|n| RawClient::new(&format!("storm-{n}"), node.mqtt())).collect();
    let mut storms = Vec::new();
    for client in &mut stormers {
        client.connect().await?;
    }
    for (n, mut client) in stormers.into_iter().enumerate() {
        storms.push(tokio::spawn(async move {
            // 4 × 20 MB into a stream of 1 MiB: ends early when the socket takes no more for a second.
            for _ in 0..10_000 {
                let topic = format!("storm/{n}");
                let sent = client.publish(&topic, vec![b'x'; PAYLOAD]);
                if tokio::time::timeout(Duration::from_secs(1), sent).await.is_err() {
                    break;
                }
                client.read_for(Duration::from_micros(1)).await.ok();
            }
            client
        }));
    }
    let mut stormers = Vec::new();
    for storm in storms {
        stormers.push(storm.await?);
    }
    let acknowledged: usize = stormers.iter().map(|c| c.acknowledged.len()).sum();
    assert!(acknowledged * PAYLOAD <= 1 << 20, "{acknowledged} answers for a stream of 1 MiB");
    for client in &mut stormers {
        let before = client.acknowledged.len();
        client.read_for(Duration::from_millis(300)).await?;
        assert_eq!(client.acknowledged.len(), before, "P5: an answer came although the stream is full");
    }
    let full = node.rss_kib()?;

    // Others are served meanwhile.
    let mut calm = RawClient::new("calm", node.mqtt());
    calm.connect().await?;
    for n in 0..200 {
        calm.publish("calm/topic", format!("{n}").into_bytes()).await?;
        calm.settle_all().await?;
    }
    eventually("the other stream reaches its uplink", async || {
        (auditor.seen().iter().filter(|r| r.topic == "calm/topic").count() >= 200).then_some(())
    })
    .await?;
    assert!(node.rss_kib()? < full + 4 * 1024, "P5: memory grew from {full} KiB to {} KiB", node.rss_kib()?);

    // Room returns: everything that was withheld is answered and arrives.
    proxy.set(Link::Works);
    let mut sent = 0;
    for client in &mut stormers {
        client.settle_all().await?;
        sent += client.acknowledged.len();
    }
    eventually("the withheld messages arrive", async || {
        (auditor.seen().iter().filter(|r| r.topic.starts_with("storm/")).count() >= sent).then_some(())
    })
    .await?;
    println!(
        "storm: {acknowledged} answered while full, {sent} after room returned, {full} KiB RSS while full"
    );
    node.stop().await
}

#[tokio::test]
async fn a_dead_uplink_does_not_slow_a_healthy_one() -> Result {
    const MESSAGES: usize = 3_000;
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let dead = Proxy::start(hub.addr()).await?;
    dead.set(Link::Hangs);
    let mut node = Node::start(&format!(
        r#"
        [[uplink]]
        name = "dead"
        kind = "mqtt"
        addresses = ["{}"]
        topic = "dead/{{topic}}"
        connect_timeout = "1 s"
        [[uplink]]
        name = "alive"
        kind = "mqtt"
        addresses = ["{}"]
        "#,
        dead.addr(),
        hub.addr()
    ))
    .await?;
    let mut client = RawClient::new("both", node.mqtt());
    client.connect().await?;
    for n in 0..MESSAGES {
        client.publish("both/ways", format!("{n}").into_bytes()).await?;
        client.settle(16).await?;
    }
    client.settle_all().await?;
    // Everything reaches the healthy one while the other has not moved at all.
    eventually("the healthy uplink has everything", async || {
        (auditor.seen().iter().filter(|r| r.topic == "both/ways").count() >= MESSAGES).then_some(())
    })
    .await?;
    let status = node.status()?;
    assert_eq!(
        backlog(&status, "dead").saturating_sub(own_events(&status)),
        MESSAGES as u64,
        "P2: the dead uplink keeps its own backlog: {status}"
    );
    eventually("the healthy backlog is gone", async || {
        (backlog(&node.status().ok()?, "alive") == 0).then_some(())
    })
    .await?;
    // And the dead one gets all of it when it is back, without a new publish.
    dead.set(Link::Works);
    eventually("the dead uplink drains", async || {
        (auditor.seen().iter().filter(|r| r.topic == "dead/both/ways").count() >= MESSAGES).then_some(())
    })
    .await?;
    node.stop().await
}

fn backlog(status: &serde_json::Value, uplink: &str) -> u64 {
    status["uplinks"]
        .as_array()
        .and_then(|u| u.iter().find(|u| u["name"] == uplink))
        .and_then(|u| u["backlog_events"].as_u64())
        .unwrap_or(u64::MAX)
}

/// The node's own events, which wait for the dead uplink beside the devices' messages.
fn own_events(status: &serde_json::Value) -> u64 {
    let streams = status["streams"].as_array().into_iter().flatten();
    let own = streams
        .filter(|s| s["name"] == "node-events")
        .flat_map(|s| s["backlogs"].as_array().into_iter().flatten());
    own.filter(|b| b["uplink"] == "dead").filter_map(|b| b["events"].as_u64()).sum()
}
