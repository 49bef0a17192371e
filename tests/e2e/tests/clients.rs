//! Clients of several makes against the built node: mosquitto_pub and mosquitto_sub, paho (Python), rumqttc; over TCP and
//! TLS, with and without password; wildcard subscriptions between devices; commands down from the hub; persistent sessions
//! over a SIGKILL.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::raw::{RawClient, connect_packet, packet};
use eventmesh_edge_e2e::tools::foreign;
use eventmesh_edge_e2e::{PATIENCE, Result, eventually};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

#[tokio::test]
async fn mosquitto_clients_talk_to_each_other_and_to_the_cloud() -> Result {
    let Some(publish) = foreign("mosquitto_pub", "mosquitto clients") else { return Ok(()) };
    let Some(subscribe) = foreign("mosquitto_sub", "mosquitto clients") else { return Ok(()) };
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let mut node = Node::start(&uplink(hub.addr())).await?;
    let port = node.mqtt().port().to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let subscriber = Command::new(&subscribe)
            .args(["-p", &port, "-V", version, "-t", "plant/+/temp", "-q", "2", "-C", "3", "-F", "%t %p %q"])
            .args(["-i", &format!("sub-{version}"), "-W", "60"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        eventually("the subscription is there", async || {
            (node.status().ok()?["sessions"]["subscriptions"].as_u64()? > 0).then_some(())
        })
        .await?;
        for qos in ["0", "1", "2"] {
            let topic = format!("plant/{version}-é/temp");
            let payload = format!("{{\"q\":{qos}}}");
            run(Command::new(&publish)
                .args(["-p", &port, "-V", version, "-t", &topic, "-m", &payload, "-q", qos]))
            .await?;
        }
        let output = tokio::time::timeout(PATIENCE, subscriber.wait_with_output()).await??;
        let lines = String::from_utf8(output.stdout)?;
        assert_eq!(lines.lines().count(), 3, "{version}: {lines}");
        for qos in 0..3 {
            assert!(
                lines.contains(&format!("plant/{version}-é/temp {{\"q\":{qos}}} {qos}")),
                "{version}: {lines}"
            );
        }
    }
    eventually("nine CloudEvents arrive upstream", async || (auditor.seen().len() >= 9).then_some(()))
        .await?;
    for received in auditor.seen().iter() {
        assert_eq!(received.attribute("specversion"), "1.0");
        assert_eq!(received.attribute("subject"), received.topic);
        assert_eq!(received.attribute("type"), "io.eventmesh.edge.mqtt.publish");
        assert_eq!(received.content_type.as_deref(), Some("application/json"));
        assert!(received.attribute("source").starts_with("mqtt://e2e/"), "{received:?}");
    }
    node.stop().await
}

#[tokio::test]
async fn paho_publishes_and_subscribes_with_both_versions() -> Result {
    let Some(python) = foreign("python3", "paho") else { return Ok(()) };
    let there = Command::new(&python).args(["-c", "import paho.mqtt.client"]).output().await?;
    if !there.status.success() {
        println!("SKIPPED paho: the Python package paho-mqtt is not on this machine");
        return Ok(());
    }
    let mut node = Node::start("").await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/paho_roundtrip.py");
    run(Command::new(&python).arg(script).arg(node.mqtt().port().to_string())).await?;
    node.stop().await
}

#[tokio::test]
async fn a_command_comes_down_and_waits_for_a_device_that_is_away() -> Result {
    let Some(publish) = foreign("mosquitto_pub", "commands") else { return Ok(()) };
    let Some(subscribe) = foreign("mosquitto_sub", "commands") else { return Ok(()) };
    let hub = Hub::start().await?;
    let config = format!(
        r#"{}
        subscribe = ["cmd/#"]
        "#,
        uplink(hub.addr())
    );
    let mut node = Node::start(&config).await?;
    let port = node.mqtt().port().to_string();
    let device = ["-i", "device-1", "-c", "-q", "1", "-t", "cmd/device-1", "-F", "%t %p"];
    // The device makes its session, then sleeps.
    run(Command::new(&subscribe).args(["-p", &port]).args(device).args(["-E"])).await?;
    eventually("the uplink is up", async || {
        (node.status().ok()?["uplinks"][0]["state"] == "up").then_some(())
    })
    .await?;
    let hub_port = hub.addr().port().to_string();
    for n in 0..3 {
        let payload = format!("open valve {n}");
        run(Command::new(&publish).args([
            "-p",
            &hub_port,
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-t",
            "cmd/device-1",
            "-m",
            &payload,
            "-k",
            "30",
        ]))
        .await?;
    }
    eventually("the commands wait in the mailbox", async || {
        (node.status().ok()?["sessions"]["mailbox_events"].as_u64()? == 3).then_some(())
    })
    .await?;
    node.kill().await?;
    node.start_again().await?;
    let port = node.mqtt().port().to_string();
    let output = tokio::time::timeout(
        PATIENCE,
        Command::new(&subscribe).args(["-p", &port]).args(device).args(["-C", "3", "-W", "30"]).output(),
    )
    .await??;
    let lines = String::from_utf8(output.stdout)?;
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        ["cmd/device-1 open valve 0", "cmd/device-1 open valve 1", "cmd/device-1 open valve 2"],
        "P1: commands survive SIGKILL, in order"
    );
    node.stop().await
}

#[tokio::test]
async fn only_who_knows_a_password_gets_in_over_tls() -> Result {
    let Some(publish) = foreign("mosquitto_pub", "tls and passwords") else { return Ok(()) };
    let Some(openssl) = foreign("openssl", "tls and passwords") else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    run(Command::new(openssl)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", &at("key.pem"), "-out", &at("cert.pem")]))
    .await?;
    let line = Node::password_line("anna", "correct horse").await?;
    std::fs::write(dir.path().join("passwords"), line)?;
    let mut node = Node::start_with_listeners(&format!(
        r#"
        [[listener]]
        kind = "mqtt"
        bind = "127.0.0.1:0"
        auth = "password"
        password_file = "{}"
        tls = {{ cert = "{}", key = "{}" }}
        "#,
        at("passwords"),
        at("cert.pem"),
        at("key.pem")
    ))
    .await?;
    let port = node.mqtt().port().to_string();
    let ca = at("cert.pem");
    let with = async |user: &[&str]| {
        let base = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-t", "t", "-m", "m", "-q", "1"];
        Command::new(&publish).args(base).args(user).output().await
    };
    assert!(with(&["-u", "anna", "-P", "correct horse"]).await?.status.success());
    assert!(!with(&["-u", "anna", "-P", "wrong"]).await?.status.success(), "P7");
    assert!(!with(&["-u", "otto", "-P", "correct horse"]).await?.status.success(), "P7");
    assert!(!with(&[]).await?.status.success(), "P7");
    let log = node.log();
    assert!(!log.contains("correct horse") && !log.contains("wrong\""), "P7: a password is in the log");
    node.stop().await
}

/// Each of these is answered or closed as the standard says; a well-behaved client beside it never notices.
#[tokio::test]
async fn malformed_packets_harm_only_their_sender() -> Result {
    let mut node = Node::start("").await?;
    let mut calm = RawClient::new("calm", node.mqtt());
    calm.connect().await?;
    let connected = connect_packet("bad", true, 60);
    let after_connect: [(&str, Vec<u8>); 7] = [
        ("second CONNECT [MQTT-3.1.0-2]", connected.clone()),
        ("reserved packet type 15 in 3.1.1", vec![0xf0, 0]),
        ("QoS 3 [MQTT-3.3.1-4]", packet(0x36, &[0, 1, b't', 0, 1])),
        ("empty topic [MQTT-4.7.3-1]", packet(0x32, &[0, 0, 0, 1])),
        ("wildcard in a topic name [MQTT-3.3.2-2]", packet(0x32, &[0, 3, b'a', b'/', b'#', 0, 1])),
        ("SUBSCRIBE with wrong flags [MQTT-3.8.1-1]", packet(0x80, &[0, 1, 0, 1, b't', 0])),
        ("remaining length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]),
    ];
    for (what, bytes) in after_connect {
        let mut stream = tokio::net::TcpStream::connect(node.mqtt()).await?;
        stream.write_all(&connected).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        stream.write_all(&bytes).await?;
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .map_err(|_| format!("{what}: the connection stays open"))?
            .ok();
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x10, 0xff, 0xff, 0xff, 0x7f], &[0x10, 0], &[0; 64]] {
        let mut stream = tokio::net::TcpStream::connect(node.mqtt()).await?;
        stream.write_all(garbage).await?;
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .map_err(|_| "garbage is waited for")?
            .ok();
    }
    // Larger than the listener's limit of 256 KiB: refused, and not buffered first.
    let before = node.rss_kib()?;
    let mut stream = tokio::net::TcpStream::connect(node.mqtt()).await?;
    stream.write_all(&connected).await?;
    stream.write_all(&[0x32, 0x80, 0x80, 0x80, 0x64]).await?;
    stream.write_all(&vec![b'x'; 1 << 20]).await.ok();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(node.rss_kib()? < before + 2_048, "P5: an oversized packet was buffered");

    calm.publish("still/here", b"1".to_vec()).await?;
    tokio::time::timeout(Duration::from_secs(30), calm.settle_all()).await??;
    node.stop().await
}

fn uplink(hub: std::net::SocketAddr) -> String {
    format!("[[uplink]]\nname = \"hub\"\nkind = \"mqtt\"\naddresses = [\"{hub}\"]\n")
}

async fn run(command: &mut Command) -> Result {
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{:?}: {} {}",
        command.as_std().get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}
