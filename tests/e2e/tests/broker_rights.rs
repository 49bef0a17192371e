//! A broker of another make (mosquitto) as the upstream, whose access list is wrong first and mended later: the refusals
//! (PUBACK 0x87, not authorized) cost time, not events (docs/adr/0006).

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::{Auditor, Received};
use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::foreign;
use eventmesh_edge_e2e::{Result, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A mosquitto with an access list; killed when dropped.
struct Mosquitto {
    dir: TempDir,
    child: Child,
    addr: SocketAddr,
}

impl Mosquitto {
    async fn start(program: &Path, rights: &str) -> Result<Mosquitto> {
        Mosquitto::start_with(program, rights, 100_000).await
    }

    /// `queue`: `max_queued_messages`. 0 (no limit): mosquitto 2.0 closes the connection behind each refusal.
    async fn start_with(program: &Path, rights: &str, queue: u32) -> Result<Mosquitto> {
        let dir = tempfile::tempdir()?;
        // Started by root it becomes the user `mosquitto`, who reads the access list again later.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        // It cannot report a port that it chose: take a free one and let go of it.
        let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (config, list) = (dir.path().join("mosquitto.conf"), dir.path().join("rights"));
        std::fs::write(&list, rights)?;
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nacl_file {}\nmax_queued_messages {queue}\n",
            addr.port(),
            list.display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        eventually("mosquitto listens", async || tokio::net::TcpStream::connect(addr).await.ok()).await?;
        Ok(Mosquitto { dir, child, addr })
    }

    /// Another access list, read by the running broker while nothing comes from the node: mosquitto takes the signal up
    /// behind the next packet, and would refuse one of a sequence and take those behind it.
    async fn grant(&self, node: &Node, rights: &str) -> Result {
        std::fs::write(self.dir.path().join("rights"), rights)?;
        signal(node.pid()?, Signal::STOP)?;
        self.has_turned_round().await?;
        signal(self.child.id().ok_or("mosquitto has ended")?.try_into()?, Signal::HUP)?;
        self.has_turned_round().await?;
        signal(node.pid()?, Signal::CONT)
    }

    /// Waits until its loop has gone round a few times: what had come in before is answered, and signals are taken up.
    async fn has_turned_round(&self) -> Result {
        for _ in 0..10 {
            RawClient::new("visitor", self.addr).connect().await?;
        }
        Ok(())
    }
}

fn signal(pid: i32, signal: Signal) -> Result {
    let pid = Pid::from_raw(pid).ok_or("pid 0")?;
    Ok(kill_process(pid, signal)?)
}

const NO_TELEMETRY: &str = "[telemetry]\nenabled = false\n";

/// Short delays between attempts: a test waits for the next one.
fn uplink(addr: SocketAddr) -> String {
    format!("[[uplink]]\nname = \"broker\"\nkind = \"mqtt\"\naddresses = [\"{addr}\"]\nretry_max = \"1 s\"\n")
}

async fn publish(client: &mut RawClient, topic: &str, numbers: std::ops::Range<u32>) -> Result {
    for n in numbers {
        client.publish(topic, n.to_string().into_bytes()).await?;
        client.settle(64).await?;
    }
    client.settle_all().await
}

fn numbers(events: &[Received], topic: &str) -> Vec<u32> {
    let number = |event: &Received| String::from_utf8_lossy(&event.payload).parse().unwrap_or(u32::MAX);
    events.iter().filter(|event| event.topic == topic).map(number).collect()
}

/// Nothing given up, nothing waiting.
fn assert_nothing_lost(status: &serde_json::Value) {
    assert_eq!(status["losses"], serde_json::json!([]), "{status}");
    let uplink = &status["uplinks"][0];
    assert_eq!(uplink["dropped"], serde_json::json!({}), "{uplink}");
    assert_eq!((&uplink["backlog_events"], &uplink["refused_for_good"]), (&0.into(), &0.into()), "{uplink}");
}

/// More than the forwarder looks at (its gap bound, 4,096): refused, over a SIGKILL too, and all there in order once the
/// list is mended, without anybody touching the node.
#[tokio::test]
async fn a_broker_that_takes_nothing_costs_time_and_no_event() -> Result {
    const EVENTS: u32 = 5_000;
    let Some(mosquitto) = foreign("mosquitto", "an upstream whose access list is wrong") else {
        return Ok(());
    };
    let broker = Mosquitto::start(&mosquitto, "topic read #\n").await?;
    let auditor = Auditor::start(broker.addr, "#").await?;
    let mut node = Node::start(&format!("{}{NO_TELEMETRY}", uplink(broker.addr))).await?;
    let mut client = RawClient::new("device", node.mqtt());
    client.connect().await?;
    publish(&mut client, "plant/temp", 0..EVENTS / 2).await?;
    refused(&node, 3).await?;
    node.kill().await?;
    node.start_again().await?;
    client.set_addr(node.mqtt());
    client.connect().await?;
    publish(&mut client, "plant/temp", EVENTS / 2..EVENTS).await?;
    refused(&node, 3).await?;
    assert_eq!(auditor.seen().len(), 0);
    assert_eq!(node.status()?["uplinks"][0]["backlog_events"], EVENTS);

    broker.grant(&node, "topic readwrite #\n").await?;
    let distinct = |seen: &[Received]| seen.iter().map(Received::identity).collect::<BTreeSet<_>>().len();
    eventually("everything arrives", async || (distinct(&auditor.seen()) == EVENTS as usize).then_some(()))
        .await
        .map_err(|error| {
            format!("{error}: {} of {EVENTS}, {:?}", distinct(&auditor.seen()), node.status())
        })?;
    eventually("the cursor has passed everything", async || {
        (node.status().ok()?["uplinks"][0]["backlog_events"] == 0).then_some(())
    })
    .await?;
    assert_eq!(
        numbers(&auditor.seen(), "plant/temp"),
        (0..EVENTS).collect::<Vec<_>>(),
        "each once, in order (P4)"
    );
    assert_nothing_lost(&node.status()?);
    node.stop().await
}

/// One topic is refused and others are taken: they go on, and what was refused arrives late.
#[tokio::test]
async fn a_topic_that_is_refused_arrives_late_and_others_do_not_wait() -> Result {
    one_topic_is_refused(100_000, "strict").await
}

/// The same with a broker that closes the connection for it, on everybody. Each close costs what was under way a repetition;
/// so repetitions there are, and the order is that of the first arrivals.
#[tokio::test]
async fn a_topic_for_which_the_broker_closes_the_connection_does_not_stop_the_others() -> Result {
    one_topic_is_refused(0, "strict").await
}

#[tokio::test]
async fn nor_does_it_where_no_order_is_asked_for() -> Result {
    one_topic_is_refused(0, "sequence").await
}

async fn one_topic_is_refused(queue: u32, order: &str) -> Result {
    const EVENTS: u32 = 200;
    let Some(mosquitto) = foreign("mosquitto", "an upstream that refuses one topic") else { return Ok(()) };
    let rights = "topic read #\ntopic readwrite allowed/#\n";
    let broker = Mosquitto::start_with(&mosquitto, rights, queue).await?;
    let auditor = Auditor::start(broker.addr, "#").await?;
    let mut node =
        Node::start(&format!("{}order = \"{order}\"\n{NO_TELEMETRY}", uplink(broker.addr))).await?;
    let mut client = RawClient::new("device", node.mqtt());
    client.connect().await?;
    for n in 0..EVENTS {
        publish(&mut client, "forbidden/temp", n..n + 1).await?;
        publish(&mut client, "allowed/temp", n..n + 1).await?;
    }
    all_arrive(&auditor, &node, "allowed/temp", EVENTS).await?;
    refused(&node, 3).await?;
    assert!(numbers(&auditor.seen(), "forbidden/temp").is_empty());

    broker.grant(&node, "topic readwrite #\n").await?;
    all_arrive(&auditor, &node, "forbidden/temp", EVENTS).await?;
    eventually("the cursor has passed everything", async || {
        (node.status().ok()?["uplinks"][0]["backlog_events"] == 0).then_some(())
    })
    .await?;
    for topic in ["allowed/temp", "forbidden/temp"] {
        let mut arrived = numbers(&auditor.seen(), topic);
        if queue == 0 {
            let mut seen = BTreeSet::new();
            arrived.retain(|n| seen.insert(*n));
        }
        if order == "sequence" {
            arrived.sort_unstable();
        }
        assert_eq!(arrived, (0..EVENTS).collect::<Vec<_>>(), "{topic}: each, in order");
    }
    assert_nothing_lost(&node.status()?);
    node.stop().await
}

async fn all_arrive(auditor: &Auditor, node: &Node, topic: &str, events: u32) -> Result {
    let distinct = |seen: &[Received]| numbers(seen, topic).into_iter().collect::<BTreeSet<_>>().len();
    let arrived = eventually("everything on the topic arrives", async || {
        (distinct(&auditor.seen()) >= events as usize).then_some(())
    });
    arrived.await.map_err(|error| {
        let (seen, status) = (distinct(&auditor.seen()), node.status());
        format!("{error} ({topic}): {seen} of {events}, auditor {}, {status:?}", auditor.state()).into()
    })
}

/// Waits until the broker has refused so many sendings, and the operator can see why.
async fn refused(node: &Node, sendings: u64) -> Result {
    eventually("the broker refuses, and status says so", async || {
        let status = node.status().ok()?;
        let uplink = &status["uplinks"][0];
        let said = uplink["last_refusal"].as_str().is_some_and(|said| said.contains("0x87 not authorized"));
        (said && uplink["refused_for_now"].as_u64()? >= sendings).then_some(())
    })
    .await
}
