//! A way that drops every packet and says nothing, for each kind of uplink at once: the node in a network namespace of its own, two
//! cables out of it, and the one to its upstreams is pulled at the far end. Where this machine allows no namespaces the test says so.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::bodies::Bodies;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::Proxy;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::bin_dir;
use eventmesh_edge_e2e::{Result, eventually};
use eventmesh_edge_standin::StandIn;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// `keep_alive` and `probe_interval`.
const INTERVAL: Duration = Duration::from_secs(4);
const EVENTS: u64 = 60;

/// Runs a line of shell.
fn sh(line: &str) -> Result {
    let output = Command::new("sh").args(["-c", line]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

#[tokio::test]
async fn dropped_packets_are_noticed_within_two_intervals_and_cost_nothing() -> Result {
    let cables = "ip link set lo up && ip link add u0 type veth peer name u1";
    let works = Command::new("unshare").args(["-n", "sh", "-c", cables]).output();
    if !works.is_ok_and(|o| o.status.success()) {
        println!("SKIPPED black hole with dropped packets: this machine allows no network namespaces");
        return Ok(());
    }
    // In a network of its own: whatever becomes of the test, nothing of it stays on the machine.
    let inner = ["--exact", "in_a_network_of_its_own", "--ignored", "--nocapture"];
    let mut test = tokio::process::Command::new("unshare");
    test.arg("-n").arg(std::env::current_exe()?).args(inner).env("EDGE_BIN_DIR", bin_dir());
    match test.kill_on_drop(true).status().await?.success() {
        true => Ok(()),
        false => Err("the test in its own network failed, see above".into()),
    }
}

/// The wrapper of a node that waits in its own namespace until both cables are there.
fn wrapper(pid_file: &Path) -> Vec<String> {
    let script = format!(
        "echo $$ > {}; until ip link show u1 && ip link show d1; do sleep 0.05; done >/dev/null 2>&1
         ip link set lo up; ip addr add 10.77.0.2/24 dev u1; ip link set u1 up
         ip addr add 10.78.0.2/24 dev d1; ip link set d1 up; exec \"$@\"",
        pid_file.display()
    );
    ["unshare", "-n", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

async fn plug_in(pid_file: &Path) -> Result {
    let pid = eventually("the node's namespace", async || {
        std::fs::read_to_string(pid_file).ok()?.trim().parse::<u32>().ok()
    })
    .await?;
    sh(&format!("ip link set u1 netns {pid} && ip link set d1 netns {pid}"))
}

fn config(mqtt: SocketAddr, mesh: SocketAddr, http: SocketAddr) -> String {
    let seconds = INTERVAL.as_secs();
    let quick = "connect_timeout = \"1 s\"\nretry_max = \"1 s\"\norder = \"strict\"";
    format!(
        "[[listener]]\nkind = \"mqtt\"\nbind = \"0.0.0.0:1883\"\nauth = \"anonymous\"\n[telemetry]\nenabled = false\n\
         [[uplink]]\nname = \"mqtt\"\nkind = \"mqtt\"\naddresses = [\"{mqtt}\"]\nkeep_alive = \"{seconds} s\"\n{quick}\n\
         [[uplink]]\nname = \"mesh\"\nkind = \"eventmesh\"\naddresses = [\"{mesh}\"]\nkeep_alive = \"{seconds} s\"\n{quick}\n\
         [[uplink]]\nname = \"http\"\nkind = \"http\"\nurls = [\"http://{http}/\"]\nmode = \"structured\"\n\
         probe_interval = \"{seconds} s\"\n{quick}\n"
    )
}

async fn publish(numbers: std::ops::Range<u64>) -> Result {
    let mut client = RawClient::new(&format!("device-{}", numbers.start), "10.78.0.2:1883".parse()?);
    client.connect().await?;
    for n in numbers {
        client.publish("load/t", format!("{{\"n\":{n}}}").into_bytes()).await?;
    }
    client.settle_all().await
}

/// The numbers in the events that came, each with its identities.
fn complete(way: &str, arrived: impl IntoIterator<Item = (Vec<u8>, String, String)>) -> bool {
    let mut identities: BTreeMap<Vec<u8>, BTreeSet<(String, String)>> = BTreeMap::new();
    for (data, source, id) in arrived {
        identities.entry(data).or_default().insert((source, id));
    }
    assert!(identities.values().all(|of_one| of_one.len() == 1), "{way}: another identity");
    (0..EVENTS).all(|n| identities.contains_key(format!("{{\"n\":{n}}}").as_bytes()))
}

#[tokio::test]
#[ignore = "started by the other one, in a network namespace"]
async fn in_a_network_of_its_own() -> Result {
    sh("ip link set lo up
        ip link add u0 type veth peer name u1 && ip addr add 10.77.0.1/24 dev u0 && ip link set u0 up
        ip link add d0 type veth peer name d1 && ip addr add 10.78.0.1/24 dev d0 && ip link set d0 up")?;
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "load/#").await?;
    let mqtt = Proxy::start_at("10.77.0.1:0".parse()?, hub.addr()).await?;
    let mesh = StandIn::start_at("10.77.0.1:10205".parse()?);
    let http = Bodies::start("10.77.0.1:8080".parse()?).await?;
    let dir = tempfile::tempdir()?;
    let pid_file = dir.path().join("pid");
    let (wrapper, config) = (wrapper(&pid_file), config(mqtt.addr(), mesh.addr(), http.addr()));
    let (node, plugged) = tokio::join!(Node::start_under(&wrapper, &config), plug_in(&pid_file));
    plugged?;
    let mut node = node?;
    publish(0..EVENTS / 3).await?;
    all_have(&node, "up", |uplink| uplink["backlog_events"] == 0 && uplink["state"] == "up").await?;

    sh("ip link set u0 down")?;
    let begun = Instant::now();
    publish(EVENTS / 3..EVENTS * 2 / 3).await?;
    all_have(&node, "down, and why", |uplink| uplink["cause"].is_string()).await?;
    let noticed = begun.elapsed();
    let status = node.status()?;
    let causes: Vec<_> = (0..3).map(|n| status["uplinks"][n]["cause"].to_string()).collect();
    println!(
        "black hole: noticed by all three after {noticed:?} with intervals of {INTERVAL:?}: {causes:#?}"
    );
    // One second for the slowness of a shared machine, and for the time between two looks.
    assert!(noticed <= 2 * INTERVAL + Duration::from_secs(1), "{noticed:?}");
    publish(EVENTS * 2 / 3..EVENTS).await?;

    sh("ip link set u0 up")?;
    all_have(&node, "everything handed on", |uplink| uplink["backlog_events"] == 0).await?;
    let mqtt_arrived = auditor.seen().iter().map(|r| (r.payload.clone(), r.identity())).collect::<Vec<_>>();
    assert!(complete("mqtt", mqtt_arrived.into_iter().map(|(data, (source, id))| (data, source, id))));
    let mesh_arrived = mesh.stored().into_iter().map(|e| (data(&e), e.source, e.id));
    assert!(complete("mesh", mesh_arrived));
    assert!(complete("http", http.events()));
    assert_eq!(node.status()?["losses"], serde_json::json!([]));
    node.kill().await
}

fn data(event: &eventmesh_edge_standin::proto::CloudEvent) -> Vec<u8> {
    use eventmesh_edge_standin::proto::cloud_event::Data;
    match &event.data {
        Some(Data::BinaryData(bytes)) => bytes.to_vec(),
        Some(Data::TextData(text)) => text.clone().into_bytes(),
        _ => Vec::new(),
    }
}

async fn all_have(node: &Node, what: &str, has: impl Fn(&serde_json::Value) -> bool) -> Result {
    let all = eventually(what, async || {
        let status = node.status().ok()?;
        (0..3).all(|n| has(&status["uplinks"][n])).then_some(())
    });
    all.await.map_err(|e| format!("{e}; {:?}\n{}", node.status(), node.log()).into())
}
