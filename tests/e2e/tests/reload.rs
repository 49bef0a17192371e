//! A changed file in a running node, under load: uplinks come, move and go, and no device notices (docs/adr/0009).

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::reserve;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::bin_dir;
use eventmesh_edge_e2e::{Result, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::net::TcpSocket;

const QUIET: &str = "[telemetry]\nenabled = false\n";

fn uplink(name: &str, address: SocketAddr) -> String {
    format!(
        "[[uplink]]\nname = \"{name}\"\nkind = \"mqtt\"\naddresses = [\"{address}\"]\nretry_max = \"1 s\"\n"
    )
}

/// Nobody listens there.
fn nowhere() -> Result<(SocketAddr, TcpSocket)> {
    let socket = reserve(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok((socket.local_addr()?, socket))
}

/// `eventmesh-edge reload`, as an operator asks for it: whether it was done, and the answer.
fn reload(node: &Node, words: &[&str]) -> Result<(bool, Value)> {
    let output = std::process::Command::new(bin_dir().join("eventmesh-edge"))
        .args(["reload", "--json", "--data-dir"])
        .arg(node.data_dir())
        .args(words)
        .output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.success(), answer))
}

/// The numbers that arrived.
fn numbers(auditor: &Auditor) -> BTreeSet<u32> {
    auditor.seen().iter().filter_map(|event| String::from_utf8_lossy(&event.payload).parse().ok()).collect()
}

async fn all_at(auditor: &Auditor, expected: std::ops::Range<u32>) -> Result {
    let expected: BTreeSet<u32> = expected.collect();
    eventually("all events of this part arrive", async || {
        numbers(auditor).is_superset(&expected).then_some(())
    })
    .await
}

/// A device that publishes on one connection; it never connects a second time.
struct Device(RawClient, u32);

impl Device {
    async fn connect(node: &Node) -> Result<Device> {
        let mut client = RawClient::new("device", node.mqtt());
        client.connect().await?;
        Ok(Device(client, 0))
    }

    /// The next numbers; all but some are answered, so that there are always some under way when something changes.
    async fn publish(&mut self, topic: &str, count: u32) -> Result<std::ops::Range<u32>> {
        let first = self.1;
        for n in first..first + count {
            self.0.publish(topic, n.to_string().into_bytes()).await?;
        }
        self.1 = first + count;
        self.0.settle(16).await?;
        Ok(first..self.1)
    }
}

/// An address, a route, a second uplink: one connection of one device sees it all, and everything it was answered for is
/// where it belongs.
#[tokio::test]
async fn addresses_routes_and_uplinks_change_under_one_connection() -> Result {
    let (first, second) = (Hub::start().await?, Hub::start().await?);
    let (at_first, at_second) =
        (Auditor::start(first.addr(), "#").await?, Auditor::start(second.addr(), "#").await?);
    let mut node = Node::start(&format!("{}{QUIET}", uplink("cloud", first.addr()))).await?;
    let mut device = Device::connect(&node).await?;
    let before = device.publish("t", 200).await?;
    all_at(&at_first, before.start..before.end - 16).await?;

    node.reconfigure(&format!("{}{QUIET}", uplink("cloud", second.addr())))?;
    let (done, asked) = reload(&node, &["--dry-run"])?;
    assert!(
        done && asked["applied"] == false
            && asked["changes"][0].as_str().is_some_and(|c| c.contains("addresses")),
        "{asked}"
    );
    let (done, answer) = reload(&node, &[])?;
    assert!(done && answer["applied"] == true, "{answer}");
    let moved = device.publish("t", 200).await?;

    let route = "[[stream]]\nname = \"alarms\"\n[[route]]\ntopics = [\"alarm/#\"]\nstream = \"alarms\"\nuplinks = [\"site\"]\n";
    let both = format!("{}{}{route}{QUIET}", uplink("cloud", second.addr()), uplink("site", first.addr()));
    node.reconfigure(&both)?;
    let (done, answer) = reload(&node, &[])?;
    assert!(done && answer["changes"].to_string().contains("new route"), "{answer}");
    let seen_by_first = numbers(&at_first);
    let alarms = device.publish("alarm/1", 100).await?;
    device.0.settle_all().await?;

    all_at(&at_second, moved.clone()).await?;
    all_at(&at_first, alarms.clone()).await?;
    eventually("the first part is complete, over both addresses", async || {
        let both: BTreeSet<u32> = numbers(&at_first).union(&numbers(&at_second)).copied().collect();
        before.clone().all(|n| both.contains(&n)).then_some(())
    })
    .await?;
    assert!(numbers(&at_second).is_disjoint(&alarms.clone().collect()), "alarms go to the site alone");
    // What was in the default stream before the site began is not the site's: it begins at the end.
    let older: BTreeSet<u32> = moved.collect();
    assert!(seen_by_first.is_disjoint(&older) || numbers(&at_first).intersection(&older).count() <= 16);
    assert_eq!(node.status()?["ingress"][0]["connections_accepted"], 1, "no device was disconnected");
    assert!(node.status()?["losses"].as_array().is_some_and(Vec::is_empty));
    node.stop().await
}

/// Without a word nothing is taken away; --drain hands on what waits, --drop counts it; and the next start, after SIGKILL, is
/// the same node.
#[tokio::test]
async fn an_uplink_goes_only_with_a_word_about_its_backlog() -> Result {
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let alone = format!("{}{QUIET}", uplink("cloud", hub.addr()));
    let ((dead, _dead), (later, _later)) = (nowhere()?, nowhere()?);
    let three =
        format!("{}{}{}{QUIET}", uplink("cloud", hub.addr()), uplink("dead", dead), uplink("late", later));
    let mut node = Node::start(&three).await?;
    let mut device = Device::connect(&node).await?;
    device.publish("t", 50).await?;
    device.0.settle_all().await?;

    node.reconfigure(&alone)?;
    let (done, answer) = reload(&node, &[])?;
    let refused = answer["refused"].to_string();
    assert!(!done && answer["applied"] == false, "{answer}");
    for name in ["dead", "late"] {
        let line = format!("uplink \\\"{name}\\\" is not in the file and 50 events wait for it");
        assert!(refused.contains(&line), "{refused}");
    }
    node.signal(rustix::process::Signal::HUP)?;
    eventually("SIGHUP says what it does not do", async || {
        node.log().contains("the changed file is not applied").then_some(())
    })
    .await?;
    let (done, answer) = reload(&node, &["--drop", "dead", "--drain", "late"])?;
    assert!(done && answer["applied"] == true, "{answer}");
    device.publish("t", 50).await?;
    device.0.settle_all().await?;
    all_at(&auditor, 0..100).await?;
    let status = node.status()?;
    let removed = |status: &Value| {
        let losses = status["losses"].as_array().cloned().unwrap_or_default();
        losses
            .iter()
            .filter(|l| l["reason"] == "stream_removed")
            .filter_map(|l| l["events"].as_u64())
            .sum::<u64>()
    };
    assert_eq!(removed(&status), 50, "{status}");
    let late = &status["uplinks"][1];
    assert_eq!(
        (&late["name"], &late["draining"], &late["backlog_events"]),
        (&"late".into(), &true.into(), &50.into())
    );

    // Its upstream comes back after all: it gets what waited for it, nothing of what came later, and is gone.
    let variables = [
        "env".to_owned(),
        "EVENTMESH_EDGE_NODE_NAME=site".to_owned(),
        format!("EVENTMESH_EDGE_LISTENER_0_BIND={later}"),
    ];
    let site = Node::start_under(&variables, QUIET).await?;
    eventually("the drained uplink is gone", async || {
        (node.status().ok()?["uplinks"].as_array()?.len() == 1).then_some(())
    })
    .await?;
    assert_eq!(site.status()?["ingress"][0]["published"], 50);
    assert_eq!(node.status()?["ingress"][0]["connections_accepted"], 1, "no device was disconnected");

    node.kill().await?;
    node.start_again().await?;
    let status = node.status()?;
    assert_eq!((removed(&status), status["uplinks"].as_array().map(Vec::len)), (50, Some(1)), "{status}");
    let mut device = Device(RawClient::new("again", node.mqtt()), 100);
    device.0.connect().await?;
    device.publish("t", 20).await?;
    device.0.settle_all().await?;
    all_at(&auditor, 0..120).await?;
    node.stop().await
}

/// What needs a restart is said, all of it, and nothing is changed.
#[tokio::test]
async fn what_needs_a_restart_stands_against_everything() -> Result {
    let hub = Hub::start().await?;
    let mut node = Node::start(&format!("{}{QUIET}", uplink("cloud", hub.addr()))).await?;
    let more =
        "[session]\nsessions_max = 7\n[[uplink]]\nname = \"new\"\nkind = \"mqtt\"\naddresses = [\"h\"]\n";
    node.reconfigure(&format!("{}{more}{QUIET}", uplink("cloud", hub.addr())))?;
    let (done, answer) = reload(&node, &["--drain", "nobody"])?;
    let refused = answer["refused"].to_string();
    assert!(
        !done && refused.contains("session.sessions_max") && refused.contains("--drain nobody"),
        "{answer}"
    );
    assert_eq!(node.status()?["uplinks"].as_array().map(Vec::len), Some(1));
    node.reconfigure("this is no file")?;
    let (done, answer) = reload(&node, &[])?;
    assert!(!done && answer["refused"].to_string().contains("node.toml:"), "{answer}");
    node.stop().await
}
