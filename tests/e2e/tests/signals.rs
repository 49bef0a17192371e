//! The second signal, and SIGHUP.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::{RawClient, connect_packet};
use eventmesh_edge_e2e::{Result, eventually};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An upstream that lets the node in and never answers a PUBLISH, so that a graceful stop waits for it.
async fn silent_upstream() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // CONNACK of MQTT 5, no properties.
            if stream.write_all(&[0x20, 3, 0, 0, 0]).await.is_ok() {
                kept.push(stream);
            }
        }
    });
    Ok(addr)
}

#[tokio::test]
async fn a_second_signal_ends_the_node_at_once_with_its_own_exit_code() -> Result {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let upstream = silent_upstream().await?;
        let mut node = Node::start(&format!(
            "[[uplink]]\nname = \"silent\"\nkind = \"mqtt\"\naddresses = [\"{upstream}\"]\nanswer_timeout = \"1 h\"\n\
             [telemetry]\nenabled = false\n"
        ))
        .await?;
        let mut client = RawClient::new("c", node.mqtt());
        client.connect().await?;
        client.publish("t", b"1".to_vec()).await?;
        client.settle_all().await?;
        eventually("the event is on its way up", async || {
            (node.status().ok()?["uplinks"][0]["in_flight"].as_u64()? > 0).then_some(())
        })
        .await?;
        node.signal(Signal::TERM)?;
        eventually("the node is stopping", async || node.log().contains("\"stopping\"").then_some(()))
            .await?;
        node.signal(second)?;
        assert_eq!(node.ended().await?, Some(code));
        // Nothing acknowledged was lost by that.
        node.start_again().await?;
        eventually("the event is there", async || {
            (node.status().ok()?["uplinks"][0]["backlog_events"].as_u64()? == 1).then_some(())
        })
        .await?;
        node.kill().await?;
    }
    Ok(())
}

#[tokio::test]
async fn sighup_takes_a_changed_password_file_up_and_ends_nothing() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("passwords");
    std::fs::write(&file, Node::password_line("anna", "first").await?)?;
    let mut node = Node::start_with_listeners(&format!(
        "[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:0\"\nauth = \"password\"\npassword_file = \"{}\"\n",
        file.display()
    ))
    .await?;
    assert_eq!(login(node.mqtt(), "anna", "first").await?, 0);
    std::fs::write(&file, "no such line")?;
    node.signal(Signal::HUP)?;
    eventually("a bad file is told", async || node.log().contains("the earlier one stays").then_some(()))
        .await?;
    assert_eq!(login(node.mqtt(), "anna", "first").await?, 0, "and changes nothing");
    std::fs::write(&file, Node::password_line("otto", "second").await?)?;
    node.signal(Signal::HUP)?;
    eventually("a good one is told", async || node.log().contains("in use from now on").then_some(()))
        .await?;
    assert_eq!(login(node.mqtt(), "otto", "second").await?, 0);
    assert_eq!(login(node.mqtt(), "anna", "first").await?, 4, "P7");
    node.stop().await
}

/// The return code of a CONNECT of MQTT 3.1.1 with user name and password.
async fn login(addr: std::net::SocketAddr, user: &str, password: &str) -> Result<u8> {
    let mut packet = connect_packet(user, true, 60);
    packet[9] |= 0xC0;
    for text in [user, password] {
        packet.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
        packet.extend_from_slice(text.as_bytes());
    }
    packet[1] = u8::try_from(packet.len() - 2)?;
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&packet).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    Ok(connack[3])
}
