//! Bad input in quantity, and payloads over the limit: whoever sends them is told and closed, nobody else notices.

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::raw::{RawClient, connect_packet, packet};
use eventmesh_edge_e2e::{PATIENCE, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Random numbers of a fixed seed: a failure comes again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.roll(256)).unwrap_or_default()).collect()
    }
}

/// 300 connections send packets of every type with random bodies, half of them after a good CONNECT.
#[tokio::test]
async fn a_storm_of_malformed_packets_harms_only_its_senders() -> Result {
    let mut node = Node::start("").await?;
    let mut calm = RawClient::new("calm", node.mqtt());
    calm.connect().await?;
    let mut dice = Dice(1);
    let before = node.rss_kib()?;
    for n in 0..300 {
        let mut stream = TcpStream::connect(node.mqtt()).await?;
        let mut bytes = if n % 2 == 0 { connect_packet(&format!("storm-{n}"), true, 60) } else { Vec::new() };
        for _ in 0..5 {
            let first = u8::try_from(dice.roll(256))?;
            let length = dice.roll(60);
            bytes.extend(packet(first, &dice.bytes(length)));
        }
        // Closed in the middle of it is an answer, too.
        stream.write_all(&bytes).await.ok();
        stream.shutdown().await.ok();
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await?.ok();
        if n % 20 == 0 {
            calm.publish("still/here", b"1".to_vec()).await?;
            tokio::time::timeout(PATIENCE, calm.settle_all()).await??;
        }
    }
    let status = node.status()?;
    let bad = status.pointer("/ingress/0/bad_packets").and_then(serde_json::Value::as_u64);
    assert!(bad.is_some_and(|bad| bad >= 100), "they are counted: {bad:?}");
    assert!(node.rss_kib()? < before + 8 * 1_024, "P5: nothing of it is kept");
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.stop().await
}

#[tokio::test]
async fn a_payload_over_the_limit_closes_its_connection_and_mqtt_5_says_why() -> Result {
    let mut node = Node::start("max_payload = \"1 KiB\"\n").await?;
    let v3 = connect_packet("old", true, 60);
    // The same CONNECT for version 5: its level, and an empty list of properties.
    let mut v5 = connect_packet("new", true, 60);
    if let (Some(length), Some(level)) = (v5.first_chunk::<2>().map(|[_, length]| length + 1), v5.get(8)) {
        assert_eq!((length, *level), (16, 4));
    }
    v5.splice(1..2, [16]);
    v5.splice(8..9, [5]);
    v5.insert(12, 0);
    for (connect, connack_bytes, publish_head, goodbye) in [
        (v3, 4, &[0, 1, b't', 0, 1][..], [None; 2]),
        (v5, 0, &[0, 1, b't', 0, 1, 0][..], [Some(0xE0), Some(0x95)]),
    ] {
        let mut stream = TcpStream::connect(node.mqtt()).await?;
        stream.write_all(&connect).await?;
        let [_, length] = {
            let mut head = [0; 2];
            stream.read_exact(&mut head).await?;
            head
        };
        assert!(connack_bytes == 0 || length + 2 == connack_bytes);
        stream.read_exact(&mut vec![0; length.into()]).await?;
        let body = [publish_head, &[b'x'; 2_000]].concat();
        stream.write_all(&packet(0x32, &body)).await?;
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await?.ok();
        // DISCONNECT and its reason; a Reason String may follow.
        let told = [rest.first(), rest.get(2)].map(Option::<&u8>::copied);
        assert_eq!(told, goodbye, "{rest:x?}");
    }
    let mut calm = RawClient::new("calm", node.mqtt());
    calm.connect().await?;
    calm.publish("t", vec![b'x'; 1_024]).await?;
    tokio::time::timeout(PATIENCE, calm.settle_all()).await??;
    node.stop().await
}
