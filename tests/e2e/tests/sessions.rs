//! P1, P3, P6 for MQTT sessions under SIGKILL, on the built binary: the same conversation goes on.
//!
//! Wills, message expiry and session expiry count over the time that the node was down; packets in flight come back both ways
//! with their identifiers, DUP and order; nothing comes twice that QoS 2 promises once; retained messages are there. What
//! is due by a time is judged by the order of packets, never by a clock.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_conformance::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Version::*, property, props};
use eventmesh_edge_conformance::{Client, Connect, Packet, Publish, Will};
use eventmesh_edge_e2e::Result;
use eventmesh_edge_e2e::node::Node;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longer than everything below that is to be over after the downtime.
const DOWNTIME: Duration = Duration::from_millis(3_500);
const SHORT_SECS: u32 = 3;
const LONG_SECS: u32 = 3_600;

async fn connect(node: &Node, connect: &Connect) -> Result<Client> {
    let stream = TcpStream::connect(node.mqtt()).await?;
    let mut client = Client::new(stream, connect.version);
    match client.connect(connect).await {
        Some(Packet::ConnAck { present, code: 0, .. }) => {
            client.session_present = present;
            Ok(client)
        }
        other => Err(format!("the connection was to be accepted, {other:?} came").into()),
    }
}

async fn kill_and_start(node: &mut Node) -> Result {
    node.kill().await?;
    node.start_again().await
}

/// Acknowledgements of a client have no answer that says that they are stored; they go with the next commit, and SUBACK says
/// that there was one.
async fn stored(client: &mut Client) {
    assert_eq!(client.subscribe("settled", 0).await, 0);
}

/// A session that ends so long after its connection.
fn kept_for(id: &str, secs: u32) -> Connect {
    Connect::new(V5, id).clean(false).with(props::four(property::SESSION_EXPIRY, secs))
}

fn delayed_will(id: &str, secs: u32) -> Connect {
    let will = Will::new(&format!("will/{id}"), id).qos(1);
    Connect::kept(V5, id).will(will.with(props::four(property::WILL_DELAY, secs)))
}

#[tokio::test]
async fn wills_and_expiry_count_over_the_time_that_the_node_was_down() -> Result {
    let mut node = Node::start("").await?;
    let reader = Connect::kept(V5, "reader");
    let mut client = connect(&node, &reader).await?;
    for filter in ["will/#", "m/#", "marker"] {
        assert_eq!(client.subscribe(filter, 1).await, 1);
    }
    client.disconnect().await;
    // Lost before the kill: their delays run.
    for (id, secs) in [("soon", SHORT_SECS), ("late", LONG_SECS)] {
        connect(&node, &delayed_will(id, secs)).await?.cut().await;
    }
    // Lost by the kill: at once, for it has no session.
    let with_will = Connect::new(V311, "lost").will(Will::new("will/lost", "lost").qos(1));
    let lost = connect(&node, &with_will).await?;
    for (id, secs) in [("short", SHORT_SECS), ("long", LONG_SECS)] {
        connect(&node, &kept_for(id, secs)).await?.cut().await;
    }
    let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
    for (payload, secs) in [("old", SHORT_SECS), ("fresh", LONG_SECS)] {
        let expiring =
            Publish::new("m/1", payload).qos(1, 0).with(props::four(property::MESSAGE_EXPIRY, secs));
        assert_eq!(publisher.publish(expiring).await, 0);
    }
    node.kill().await?;
    drop((lost, publisher));
    tokio::time::sleep(DOWNTIME).await;
    node.start_again().await?;

    // What was due at the start is published before the first client is let in: ahead of this.
    let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
    publisher.publish(Publish::new("marker", "marker").qos(1, 0)).await;
    let mut client = connect(&node, &reader).await?;
    assert!(client.session_present);
    let mut got = Vec::new();
    while got.last().map(String::as_str) != Some("marker") {
        got.push(client.take().await.payload);
    }
    stored(&mut client).await;
    got[1..3].sort_unstable();
    assert_eq!(got, ["fresh", "lost", "soon", "marker"], "the will that is due late is owed still");
    for (id, is_there) in [("short", false), ("long", true)] {
        let client = connect(&node, &kept_for(id, LONG_SECS)).await?;
        assert_eq!(client.session_present, is_there, "session {id}");
    }
    // Its delay runs over the next kill, too, and its client comes back in time [MQTT-3.1.3-9].
    kill_and_start(&mut node).await?;
    let late = connect(&node, &Connect::kept(V5, "late")).await?;
    assert!(late.session_present);
    late.disconnect().await;
    let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
    publisher.publish(Publish::new("marker", "end").qos(1, 0)).await;
    assert_eq!(connect(&node, &reader).await?.take().await.payload, "end");
    Ok(())
}

#[tokio::test]
async fn what_is_in_flight_to_a_client_goes_on_under_its_identifiers() -> Result {
    for version in [V311, V5] {
        let mut node = Node::start("").await?;
        let kept = Connect::kept(version, "reader");
        let mut reader = connect(&node, &kept).await?;
        assert_eq!(reader.subscribe("t/+", 2).await, 2);
        let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
        for (n, qos) in [1, 2, 1, 2, 2].into_iter().enumerate() {
            publisher.publish(Publish::new("t/1", &n.to_string()).qos(qos, 0)).await;
        }
        let mut sent = Vec::new();
        for _ in 0..5 {
            sent.push(reader.message().await);
        }
        // The second is received, and waits for its release; the rest is not answered.
        reader.send(&wire::ack(PUBREC, sent[1].pid)).await;
        reader.expect_ack(PUBREL, sent[1].pid, 0).await;
        for round in 0..2 {
            kill_and_start(&mut node).await?;
            let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
            publisher.publish(Publish::new("t/1", &format!("later {round}")).qos(1, 0)).await;
            reader = connect(&node, &kept).await?;
            assert!(reader.session_present);
            reader.expect_ack(PUBREL, sent[1].pid, 0).await;
            for before in [&sent[0], &sent[2], &sent[3], &sent[4]] {
                let again = reader.message().await;
                assert_eq!((&again.payload, again.pid, again.qos), (&before.payload, before.pid, before.qos));
                assert!(again.dup, "[MQTT-3.3.1-1]");
            }
            for n in 0..=round {
                assert_eq!(reader.message().await.payload, format!("later {n}"), "behind what was there");
            }
        }
        // Answered to its end, it does not come again.
        reader.send(&wire::ack(PUBCOMP, sent[1].pid)).await;
        for message in [&sent[3], &sent[4]] {
            reader.send(&wire::ack(PUBREC, message.pid)).await;
            reader.expect_ack(PUBREL, message.pid, 0).await;
            reader.send(&wire::ack(PUBCOMP, message.pid)).await;
        }
        stored(&mut reader).await;
        reader.disconnect().await;
        kill_and_start(&mut node).await?;
        let mut reader = connect(&node, &kept).await?;
        for expected in ["0", "2", "later 0", "later 1"] {
            assert_eq!(reader.take().await.payload, expected);
        }
        reader.expect_nothing().await;
    }
    Ok(())
}

/// A client sends with QoS 2 and the node is killed at every step of the exchange: the message is there, once.
#[tokio::test]
async fn a_qos_2_message_is_taken_once_wherever_the_kill_comes() -> Result {
    let mut node = Node::start("").await?;
    let kept_reader = Connect::kept(V5, "reader");
    let mut reader = connect(&node, &kept_reader).await?;
    assert_eq!(reader.subscribe("t", 2).await, 2);
    reader.disconnect().await;
    let kept = Connect::kept(V311, "device");
    for (pid, step) in (1..).zip(["sent", "received", "released", "completed"]) {
        let publish = Publish::new("t", step).qos(2, pid);
        let mut device = connect(&node, &kept).await?;
        device.send(&publish.encode(V311)).await;
        if step != "sent" {
            device.expect_ack(PUBREC, pid, 0).await;
        }
        if step == "released" || step == "completed" {
            device.send(&wire::ack(PUBREL, pid)).await;
        }
        if step == "completed" {
            device.expect_ack(PUBCOMP, pid, 0).await;
        }
        kill_and_start(&mut node).await?;
        let mut device = connect(&node, &kept).await?;
        // What it has no answer for it sends again [MQTT-4.4.0-1].
        match step {
            "sent" | "received" => {
                device.send(&publish.clone().dup().encode(V311)).await;
                device.expect_ack(PUBREC, pid, 0).await;
            }
            _ => {}
        }
        if step != "completed" {
            device.send(&wire::ack(PUBREL, pid)).await;
            device.expect_ack(PUBCOMP, pid, 0).await;
        }
        device.disconnect().await;
    }
    let mut reader = connect(&node, &kept_reader).await?;
    for step in ["sent", "received", "released", "completed"] {
        assert_eq!(reader.take().await.payload, step);
    }
    reader.expect_nothing().await;
    Ok(())
}

#[tokio::test]
async fn retained_messages_are_there_after_a_kill() -> Result {
    let mut node = Node::start("").await?;
    let mut publisher = connect(&node, &Connect::new(V5, "publisher")).await?;
    for (topic, payload) in [("r/1", "first"), ("r/2", "gone"), ("r/1", "kept"), ("r/2", ""), ("r/3", "also")]
    {
        publisher.publish(Publish::new(topic, payload).qos(1, 0).retain()).await;
    }
    kill_and_start(&mut node).await?;
    let kept = Connect::kept(V5, "session");
    let mut session = connect(&node, &kept).await?;
    assert_eq!(session.subscribe("r/+", 1).await, 1);
    let first = [session.message().await, session.message().await];
    assert_eq!((first[0].payload.as_str(), first[1].payload.as_str()), ("kept", "also"));
    assert!(first[0].retain && first[1].retain);
    // It has not answered: SUBACK stands for them, too (P1).
    kill_and_start(&mut node).await?;
    let mut session = connect(&node, &kept).await?;
    for before in &first {
        let again = session.message().await;
        assert_eq!((&again.payload, again.pid, again.dup), (&before.payload, before.pid, true));
        session.send(&wire::ack(PUBACK, again.pid)).await;
    }
    stored(&mut session).await;
    session.disconnect().await;
    kill_and_start(&mut node).await?;
    connect(&node, &kept).await?.expect_nothing().await;
    Ok(())
}
