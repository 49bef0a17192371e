//! Seeded faults under the real forwarder, over real sockets: a broker that does what a script says. Nothing is lost, what comes
//! twice comes with the same identity, and it recovers by itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use bytes::BytesMut;
use common::options;
use eventmesh_edge_core::forward::Order;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::uplink::Downward;
use eventmesh_edge_runtime::forward::{DownwardSink, Kept};
use eventmesh_edge_uplink_mqtt::{MqttUplink, Options};
use eventmesh_edge_uplink_testing::{Node, Random, complete, in_order, quick};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PingResp, PubAck, PubAckReason,
    Publish,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the broker does instead of taking an event over.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Closes, with and without having taken it.
    Close {
        taken: bool,
    },
    Reset,
    Disconnect,
    /// Says nothing any more, with the connection open.
    Hang,
    /// Takes it and never says so; later ones are answered.
    Silence,
    Refuse(PubAckReason),
    /// Refuses and closes.
    RefuseAndClose,
    /// What is no packet.
    Garbage,
    /// The next attempts to connect are not let in.
    Unavailable,
}

fn any_fault(random: &mut Random) -> Fault {
    match random.below(12) {
        0 | 1 => Fault::Close { taken: false },
        2 | 3 => Fault::Close { taken: true },
        4 => Fault::Reset,
        5 => Fault::Disconnect,
        6 => Fault::Hang,
        7 => Fault::Silence,
        8 => Fault::Refuse(PubAckReason::QuotaExceeded),
        9 => Fault::RefuseAndClose,
        10 => Fault::Garbage,
        _ => Fault::Unavailable,
    }
}

/// The script, and what came of it.
struct Script {
    random: Random,
    left: u64,
    met: u64,
    turned_away: u64,
    taken: Vec<(u64, (String, String))>,
}

impl Script {
    /// One event in six meets a fault, until there were enough.
    fn next(&mut self) -> Option<Fault> {
        if self.left == 0 || self.random.below(6) > 0 {
            return None;
        }
        self.left -= 1;
        self.met += 1;
        Some(any_fault(&mut self.random))
    }

    fn take(&mut self, publish: &Publish) {
        let user = &publish.properties.as_ref().unwrap().user_properties;
        let value = |name| user.iter().find(|(n, _)| n == name).unwrap().1.clone();
        let data: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        self.taken.push((data["n"].as_u64().unwrap(), (value("source"), value("id"))));
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&script)));
    }
}

async fn read(stream: &mut TcpStream, buf: &mut BytesMut) -> Option<Packet> {
    loop {
        if !buf.is_empty()
            && let Ok(packet) = Packet::read(buf, None)
        {
            return Some(packet);
        }
        if stream.read_buf(buf).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn write(stream: &mut TcpStream, packet: Packet) {
    let mut out = BytesMut::new();
    packet.write(&mut out, None).unwrap();
    drop(stream.write_all(&out).await);
}

async fn connection(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut buf = BytesMut::new();
    let Some(Packet::Connect(..)) = read(&mut stream, &mut buf).await else { return };
    let turned_away = {
        let mut script = script.lock().unwrap();
        let away = script.turned_away > 0;
        script.turned_away = script.turned_away.saturating_sub(1);
        away
    };
    let code = if turned_away { ConnectReturnCode::ServerUnavailable } else { ConnectReturnCode::Success };
    write(&mut stream, Packet::ConnAck(ConnAck { session_present: false, code, properties: None })).await;
    if turned_away {
        return;
    }
    loop {
        match read(&mut stream, &mut buf).await {
            Some(Packet::Publish(publish)) => {
                if !published(&mut stream, &publish, &script).await {
                    return;
                }
            }
            Some(Packet::PingReq(_)) => write(&mut stream, Packet::PingResp(PingResp)).await,
            _ => return,
        }
    }
}

/// Answers one event as the script wants it; false if the connection ends with it.
async fn published(stream: &mut TcpStream, publish: &Publish, script: &Mutex<Script>) -> bool {
    let fault = {
        let mut script = script.lock().unwrap();
        let fault = script.next();
        let taken = matches!(fault, None | Some(Fault::Close { taken: true } | Fault::Silence));
        if taken {
            script.take(publish);
        }
        if let Some(Fault::Unavailable) = fault {
            script.turned_away = script.random.below(3);
        }
        fault
    };
    let refusal = |reason| {
        let ack = PubAck { pkid: publish.pkid, reason, properties: None };
        Packet::PubAck(ack)
    };
    match fault {
        None => write(stream, Packet::PubAck(PubAck::new(publish.pkid, None))).await,
        Some(Fault::Silence) => {}
        Some(Fault::Refuse(reason)) => write(stream, refusal(reason)).await,
        Some(Fault::RefuseAndClose) => {
            write(stream, refusal(PubAckReason::NotAuthorized)).await;
            return false;
        }
        Some(Fault::Disconnect) => {
            write(stream, Packet::Disconnect(Disconnect::new(DisconnectReasonCode::ServerBusy))).await;
            return false;
        }
        Some(Fault::Garbage) => {
            drop(stream.write_all(&[0xff; 40]).await);
            return false;
        }
        // Until the other side has had enough.
        Some(Fault::Hang) => {
            let mut swallowed = BytesMut::new();
            while stream.read_buf(&mut swallowed).await.unwrap_or(0) > 0 {
                swallowed.clear();
            }
            return false;
        }
        Some(Fault::Reset) => {
            stream.set_zero_linger().unwrap();
            return false;
        }
        Some(Fault::Close { .. } | Fault::Unavailable) => return false,
    }
    true
}

/// Nothing comes down.
struct Nowhere;

impl DownwardSink for Nowhere {
    fn accept(&self, message: Downward, _: Completion<Kept>) {
        panic!("{message:?}");
    }
}

/// One storm, until there were enough faults. Returns how many there were.
async fn storm(seed: u64, faults: u64) -> u64 {
    let order = if seed.is_multiple_of(2) { Order::Strict } else { Order::Sequence };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (random, taken) = (Random(seed), Vec::new());
    let script = Arc::new(Mutex::new(Script { random, left: faults, met: 0, turned_away: 0, taken }));
    let server = tokio::spawn(serve(listener, Arc::clone(&script)));
    let uplink = MqttUplink::new(Options { keep_alive: Duration::from_secs(1), ..options(port) }).unwrap();
    let rules = eventmesh_edge_core::forward::Options {
        answer_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(500),
        ..quick(order, seed)
    };
    let mut node = Node::start(Box::new(uplink), rules, Arc::new(Nowhere), PATIENCE);
    while script.lock().unwrap().met < faults {
        node.publish(50);
        node.drained().await;
    }
    let taken = script.lock().unwrap().taken.clone();
    complete(&node, taken.clone());
    if order == Order::Strict {
        in_order(taken.into_iter().map(|(n, _)| n), seed);
    }
    node.stop().await;
    server.abort();
    script.lock().unwrap().met
}

/// Twenty storms at once; `MQTT_FAULTS` asks for more faults, `MQTT_SEED` for other storms.
#[tokio::test]
async fn a_thousand_seeded_faults_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let (all, first): (u64, u64) = (number("MQTT_FAULTS", 1_000), number("MQTT_SEED", 1));
    let storms: Vec<_> = (first..first + 20).map(|seed| tokio::spawn(storm(seed, all / 20))).collect();
    let mut met = 0;
    for storm in storms {
        met += storm.await.unwrap();
    }
    assert_eq!(met, all / 20 * 20);
    println!("mqtt: {met} faults, seeds {first} to {}, 0 lost", first + 19);
}
