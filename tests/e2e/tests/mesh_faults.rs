//! Faults of the network between the built node and its upstream that only a real network has: a name that moves or cannot be resolved, a
//! black hole that no FIN ends. Each in a namespace of its own; where this machine allows none the tests say so.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::{Result, eventually};
use eventmesh_edge_standin::{StandIn, text};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const NAME: &str = "upstream.invalid";

/// A wrapper that gives a program an /etc/hosts of its own.
fn with_hosts(hosts: &Path) -> Vec<String> {
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// False, and a line that says so, where namespaces are not allowed.
fn allowed(test: &str) -> bool {
    let works = Command::new("unshare").args(["-m", "-n", "true"]).output().is_ok_and(|o| o.status.success());
    if !works {
        println!("SKIPPED {test}: this machine allows no namespaces");
    }
    works
}

async fn says(node: &Node, words: &str) -> Result {
    eventually(words, async || {
        let status = node.status().ok()?;
        status["uplinks"][0]["cause"].as_str()?.contains(words).then_some(())
    })
    .await
    .map_err(|e| format!("{e}; {:?}", node.status()).into())
}

async fn publish(node: &Node, name: &str, events: u64) -> Result {
    let mut client = RawClient::new(name, node.mqtt());
    client.connect().await?;
    for n in 0..events {
        client.publish("load/t", format!("{{\"n\":{n}}}").into_bytes()).await?;
    }
    client.settle_all().await
}

/// Everything that a source published, whichever stand-in got it.
fn of_source(standins: &[&StandIn], source: &str) -> usize {
    let all = standins.iter().flat_map(|s| s.stored());
    let ids: std::collections::BTreeSet<String> = all.filter(|e| e.source == source).map(|e| e.id).collect();
    ids.len()
}

#[tokio::test]
async fn a_name_that_is_gone_and_then_leads_elsewhere() -> Result {
    if !allowed("a_name_that_is_gone_and_then_leads_elsewhere") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let hosts = dir.path().join("hosts");
    let first = StandIn::start();
    let second = StandIn::start_at(SocketAddr::from(([127, 0, 0, 2], first.addr().port())));
    // Written in place: the bind mount is of this file, not of its name.
    let lead = |to: &str| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{to} {NAME}\n"));
    std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
    let config = format!(
        "[[uplink]]\nname = \"up\"\nkind = \"eventmesh\"\naddresses = [\"{NAME}:{}\"]\nretry_max = \"500 ms\"\n",
        first.addr().port()
    );
    let mut node = Node::start_under(&with_hosts(&hosts), &config).await?;
    publish(&node, "a", 50).await?;
    says(&node, &format!("resolve {NAME}")).await?;
    lead("127.0.0.1")?;
    eventually("a arrives", async || (of_source(&[&first], "mqtt://e2e/a") == 50).then_some(())).await?;
    // The address moves: nobody listens at the old one, the name leads to the new one.
    first.shut();
    publish(&node, "b", 50).await?;
    says(&node, "connect: ").await?;
    lead("127.0.0.2")?;
    eventually("b arrives", async || (of_source(&[&first, &second], "mqtt://e2e/b") == 50).then_some(()))
        .await?;
    assert!(second.stored().iter().any(|e| text(e, "edgetopic") == Some("load/t")));
    node.kill().await
}

/// Takes requests and remembers their bodies; at an address, until dropped.
async fn receiver(addr: SocketAddr, bodies: Arc<Mutex<String>>) -> Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(addr).await?;
    Ok(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let bodies = Arc::clone(&bodies);
            connections.spawn(async move {
                let mut buffer = Vec::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&buffer).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .to_ascii_lowercase()
                        .lines()
                        .find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        bodies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(body);
                        buffer.clear();
                        drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
                    }
                }
            });
        }
    }))
}

#[tokio::test]
async fn an_http_receiver_that_moves() -> Result {
    if !allowed("an_http_receiver_that_moves") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let hosts = dir.path().join("hosts");
    let bodies = Arc::new(Mutex::new(String::new()));
    let free = std::net::TcpListener::bind("127.0.0.2:0")?.local_addr()?;
    let old = SocketAddr::from(([127, 0, 0, 1], free.port()));
    let first = receiver(old, Arc::clone(&bodies)).await?;
    std::fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n"))?;
    let config = format!(
        "[[uplink]]\nname = \"up\"\nkind = \"http\"\nurls = [\"http://{NAME}:{}/\"]\nmode = \"structured\"\nretry_max = \"500 ms\"\n",
        free.port()
    );
    let mut node = Node::start_under(&with_hosts(&hosts), &config).await?;
    let arrived = |source: &str| {
        let all = bodies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (0..20).all(|n| all.contains(&format!("{{\"n\":{n}}}")))
            && all.contains(&format!("mqtt://e2e/{source}\""))
    };
    publish(&node, "a", 20).await?;
    eventually("a arrives", async || arrived("a").then_some(())).await?;
    first.abort();
    bodies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    publish(&node, "b", 20).await?;
    says(&node, "connect: ").await?;
    let _second = receiver(free, Arc::clone(&bodies)).await?;
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n127.0.0.2 {NAME}\n"))?;
    eventually("b arrives", async || arrived("b").then_some(())).await?;
    node.kill().await
}
