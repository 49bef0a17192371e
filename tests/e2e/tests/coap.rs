//! CoAP clients of several makes against the built node: coap-client (libcoap with GnuTLS, OpenSSL or neither) and aiocoap;
//! values, bodies in blocks, observation, events upstream, a SIGKILL.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::tools::foreign;
use eventmesh_edge_e2e::{PATIENCE, Result, eventually};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

const LISTENER: &str = "[[listener]]\nkind = \"coap\"\nbind = \"127.0.0.1:0\"\nauth = \"anonymous\"\n";

/// What every client does here: method, payload, URL; the body of the answer.
#[derive(Clone)]
enum Client {
    Libcoap(PathBuf),
    Aiocoap(PathBuf),
}

impl Client {
    /// Those that are on this machine.
    fn all() -> Vec<Client> {
        let libcoap = ["coap-client-notls", "coap-client-gnutls", "coap-client-openssl"];
        let mut found: Vec<Client> = libcoap
            .into_iter()
            .filter_map(|name| foreign(name, "libcoap (package libcoap3-bin)"))
            .map(Client::Libcoap)
            .collect();
        found.extend(foreign("aiocoap-client", "aiocoap (Python package)").map(Client::Aiocoap));
        found
    }

    fn name(&self) -> String {
        let (Client::Libcoap(path) | Client::Aiocoap(path)) = self;
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn command(&self, method: &str, url: &str, payload: Option<&Path>) -> Command {
        match self {
            Client::Libcoap(program) => {
                let mut command = Command::new(program);
                command.args(["-B", "30", "-m", &method.to_lowercase()]);
                if let Some(path) = payload {
                    command.arg("-f").arg(path);
                }
                command.arg(url);
                command
            }
            Client::Aiocoap(program) => {
                let mut command = Command::new(program);
                command.args(["-q", "-m", method]);
                if let Some(path) = payload {
                    command.arg("--payload").arg(format!("@{}", path.display()));
                }
                command.arg(url);
                command
            }
        }
    }

    /// What is on standard output and standard error.
    async fn run(&self, method: &str, url: &str, payload: Option<&Path>) -> Result<(Vec<u8>, String)> {
        let mut command = self.command(method, url, payload);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await??;
        Ok((output.stdout, String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Where the node takes CoAP, from its log.
fn url(node: &Node) -> Result<String> {
    let log = node.log();
    let (_, rest) = log.split_once("coap://").ok_or("no CoAP listener in the log")?;
    let address = rest.split([' ', '"', '\n']).next().unwrap_or_default();
    Ok(format!("coap://{address}"))
}

fn uplink(hub: std::net::SocketAddr) -> String {
    format!("[[uplink]]\nname = \"cloud\"\nkind = \"mqtt\"\naddresses = [\"{hub}\"]\n")
}

#[tokio::test]
async fn clients_write_and_read_values_small_and_in_blocks() -> Result {
    let mut node = Node::start(LISTENER).await?;
    let url = url(&node)?;
    let dir = tempfile::tempdir()?;
    let small = dir.path().join("small");
    std::fs::write(&small, "21.5")?;
    let large = dir.path().join("large");
    let body: Vec<u8> = (0..6_000u32).map(|n| b'a' + u8::try_from(n % 26).unwrap_or_default()).collect();
    std::fs::write(&large, &body)?;
    for client in Client::all() {
        let name = client.name();
        let (core, _) = client.run("GET", &format!("{url}/.well-known/core"), None).await?;
        assert!(String::from_utf8_lossy(&core).contains("</ps>;rt=\"core.ps\""), "{name}: {core:?}");
        for (topic, file, bytes) in [("temp", &small, &b"21.5"[..]), ("image", &large, &body[..])] {
            let target = format!("{url}/ps/{name}/{topic}");
            client.run("PUT", &target, Some(file)).await?;
            let (got, errors) = client.run("GET", &target, None).await?;
            let got = got.strip_suffix(b"\n").unwrap_or(&got);
            assert_eq!(got, bytes, "{name} {topic}: {errors}");
        }
        let target = format!("{url}/ps/{name}/temp");
        client.run("DELETE", &target, None).await?;
        let (_, errors) = client.run("GET", &target, None).await?;
        assert!(errors.contains("4.04"), "{name}: {errors}");
    }
    node.stop().await
}

#[tokio::test]
async fn a_post_becomes_a_cloudevent_upstream() -> Result {
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let mut node = Node::start(&format!("{LISTENER}{}", uplink(hub.addr()))).await?;
    let url = url(&node)?;
    let dir = tempfile::tempdir()?;
    let payload = dir.path().join("payload");
    std::fs::write(&payload, "{\"t\":21.5}")?;
    let clients = Client::all();
    for client in &clients {
        client.run("POST", &format!("{url}/ps/plant/temp?ep={}", client.name()), Some(&payload)).await?;
    }
    let expected = clients.len();
    eventually("all events arrive upstream", async || {
        let coap = |event: &&_| is_coap(event);
        (auditor.seen().iter().filter(coap).count() >= expected).then_some(())
    })
    .await?;
    for event in auditor.seen().iter().filter(|event| is_coap(event)) {
        assert_eq!(event.attribute("type"), "io.eventmesh.edge.coap.post");
        assert_eq!(event.attribute("subject"), "plant/temp");
    }
    node.stop().await
}

fn is_coap(event: &eventmesh_edge_e2e::audit::Received) -> bool {
    event.attribute("source").starts_with("coap://")
}

#[tokio::test]
async fn an_observer_sees_what_an_mqtt_device_publishes() -> Result {
    let Some(publish) = foreign("mosquitto_pub", "mosquitto clients") else { return Ok(()) };
    let Some(observe) = foreign("coap-client-notls", "libcoap (package libcoap3-bin)") else { return Ok(()) };
    let mut node = Node::start(LISTENER).await?;
    let url = url(&node)?;
    let observer = Command::new(observe)
        .args(["-s", "8", "-B", "8", "-m", "get", &format!("{url}/ps/plant/temp")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    eventually("the observation is there", async || {
        (node.status().ok()?["sessions"]["subscriptions"].as_u64()? > 0).then_some(())
    })
    .await?;
    let port = node.mqtt().port().to_string();
    let mut command = Command::new(publish);
    command.args(["-p", &port, "-t", "plant/temp", "-q", "1", "-m", "21.5"]);
    assert!(command.status().await?.success());
    let output = tokio::time::timeout(PATIENCE, observer.wait_with_output()).await??;
    assert!(String::from_utf8_lossy(&output.stdout).contains("21.5"), "{output:?}");
    node.stop().await
}

/// P1: what was answered is there after a SIGKILL.
#[tokio::test]
async fn what_was_answered_survives_a_sigkill() -> Result {
    let mut node = Node::start(LISTENER).await?;
    let dir = tempfile::tempdir()?;
    let payload = dir.path().join("payload");
    std::fs::write(&payload, "42")?;
    let Some(client) = Client::all().pop() else { return Ok(()) };
    client.run("PUT", &format!("{}/ps/kept", url(&node)?), Some(&payload)).await?;
    node.kill().await?;
    node.start_again().await?;
    let (got, errors) = client.run("GET", &format!("{}/ps/kept", url(&node)?), None).await?;
    assert_eq!(String::from_utf8_lossy(&got).trim(), "42", "{errors}");
    node.stop().await
}
