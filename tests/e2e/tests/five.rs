//! Clients of five makes in one scenario: mosquitto, paho (Python), MQTT.js, paho (Go) and rumqttc, of both versions of the
//! protocol. Each subscribes to everything, each publishes with QoS 0, 1 and 2, each sees all of it, with its QoS.
//!
//! The programs are in `clients`; `cargo xtask test` makes what they need (`xtask/src/clients.rs`).

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::tools::{bin_dir, foreign};
use eventmesh_edge_e2e::{PATIENCE, Result, eventually};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

const MAKES: [&str; 5] = ["mosquitto", "paho-python", "mqtt-js", "paho-go", "rumqttc"];

/// What every one of them has to see.
fn everything() -> BTreeSet<String> {
    let of = |name: &str| {
        (0..3).map(|qos| format!("five/{name}/{qos} {name} says {qos} {qos}")).collect::<Vec<_>>()
    };
    MAKES.iter().flat_map(|name| of(name)).collect()
}

#[tokio::test]
async fn clients_of_five_makes_play_one_scenario() -> Result {
    let Some(programs) = programs().await else { return Ok(()) };
    let mut node = Node::start("").await?;
    let port = node.mqtt().port().to_string();
    let expected = everything().len().to_string();
    let mut actors = Vec::new();
    for (program, first, name, version) in [
        (&programs.python, Some(clients().join("paho_five.py")), "paho-python", "5"),
        (&programs.node, Some(programs.js.clone()), "mqtt-js", "5"),
        (&programs.go, None, "paho-go", "4"),
    ] {
        let mut command = Command::new(program);
        command.args(first).args([&port, name, version, &expected]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        actors.push((name, command.spawn()?));
    }
    let mosquitto = Command::new(&programs.sub)
        .args(["-p", &port, "-V", "mqttv311", "-i", "mosquitto", "-t", "five/#", "-q", "2", "-F", "%t %p %q"])
        .args(["-C", &expected, "-W", "60"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (rumqttc, seen) = rumqttc(node.mqtt().port()).await?;
    eventually("five makes have subscribed", async || {
        (node.status().ok()?["sessions"]["subscriptions"].as_u64()? == 5).then_some(())
    })
    .await?;
    for (_, actor) in &mut actors {
        let stdin = actor.stdin.as_mut().ok_or("no stdin")?;
        stdin.write_all(b"go\n").await?;
    }
    for qos in ["0", "1", "2"] {
        let (topic, payload) = (format!("five/mosquitto/{qos}"), format!("mosquitto says {qos}"));
        let args = ["-p", &port, "-V", "mqttv5", "-q", qos, "-t", &topic, "-m", &payload];
        assert!(Command::new(&programs.publish).args(args).status().await?.success());
    }
    for (level, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        rumqttc.publish(format!("five/rumqttc/{level}"), qos, false, format!("rumqttc says {level}")).await?;
    }
    for (name, actor) in actors {
        assert_eq!(lines_of(actor).await?, everything(), "{name}");
    }
    assert_eq!(lines_of(mosquitto).await?, everything(), "mosquitto");
    assert_eq!(tokio::time::timeout(PATIENCE, seen).await??, everything(), "rumqttc");
    node.stop().await
}

/// What a program has seen, when it has ended well; `ready` is no message.
async fn lines_of(mut actor: Child) -> Result<BTreeSet<String>> {
    let output = actor.stdout.take().ok_or("no stdout")?;
    let reading = async {
        let (mut lines, mut seen) = (BufReader::new(output).lines(), BTreeSet::new());
        while let Some(line) = lines.next_line().await? {
            seen.extend((line != "ready").then_some(line));
        }
        assert!(actor.wait().await?.success(), "saw {seen:?}");
        Ok(seen)
    };
    tokio::time::timeout(PATIENCE, reading).await?
}

/// rumqttc, in this process: the client, and what it has seen once it has seen everything.
async fn rumqttc(port: u16) -> Result<(AsyncClient, tokio::task::JoinHandle<BTreeSet<String>>)> {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("rumqttc", "127.0.0.1", port), 100);
    client.subscribe("five/#", QoS::ExactlyOnce).await?;
    let seeing = tokio::spawn(async move {
        let (mut seen, all) = (BTreeSet::new(), everything().len());
        while seen.len() < all {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::Publish(message))) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let (topic, payload) = (text(&message.topic), text(&message.payload));
                    seen.insert(format!("{topic} {payload} {}", message.qos as u8));
                }
                Ok(_) => {}
                Err(error) => panic!("rumqttc: {error}"),
            }
        }
        seen
    });
    Ok((client, seeing))
}

struct Programs {
    python: PathBuf,
    node: PathBuf,
    js: PathBuf,
    go: PathBuf,
    sub: PathBuf,
    publish: PathBuf,
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// `None`, said loudly, where one is missing.
async fn programs() -> Option<Programs> {
    const TEST: &str = "clients of five makes";
    let made = bin_dir().parent()?.join("receivers");
    let programs = Programs {
        python: foreign("python3", TEST)?,
        node: foreign("node", TEST)?,
        js: made.join("mqtt-js/five.js"),
        go: made.join("go-five"),
        sub: foreign("mosquitto_sub", TEST)?,
        publish: foreign("mosquitto_pub", TEST)?,
    };
    for path in [&programs.js, &programs.go] {
        if !path.is_file() {
            println!("SKIPPED {TEST}: {} is not there, `cargo xtask test` makes it", path.display());
            return None;
        }
    }
    let paho = Command::new(&programs.python).args(["-c", "import paho.mqtt.client"]).output().await.ok()?;
    if !paho.status.success() {
        println!("SKIPPED {TEST}: the Python package paho-mqtt is not on this machine");
        return None;
    }
    Some(programs)
}
