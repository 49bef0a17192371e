//! CoAP on the wire, datagram by datagram, against the built node: copies after a SIGKILL, floods from addresses that do not
//! answer.

#![allow(clippy::indexing_slicing, reason = "a test may stop on a surprise")]

use eventmesh_edge_e2e::audit::Auditor;
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::{PATIENCE, Result, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

const LISTENER: &str = "[[listener]]\nkind = \"coap\"\nbind = \"127.0.0.1:0\"\nauth = \"anonymous\"\n";

const GET: u8 = 1;
const POST: u8 = 2;
const OBSERVE: u16 = 6;
const URI_PATH: u16 = 11;
const BLOCK1: u16 = 27;
const REQUEST_TAG: u16 = 292;

/// A request as RFC 7252 section 3 draws it; options in the order of their numbers.
fn request(confirmable: bool, code: u8, id: u16, options: &[(u16, &[u8])], payload: &[u8]) -> Vec<u8> {
    let token = id.to_be_bytes();
    let first = if confirmable { 0x42 } else { 0x52 };
    let mut datagram = vec![first, code];
    datagram.extend(token);
    datagram.extend(token);
    let mut last = 0;
    for (number, value) in options {
        let delta = number - last;
        last = *number;
        let length = u8::try_from(value.len()).unwrap_or(u8::MAX).min(12);
        let value = value.get(..usize::from(length)).unwrap_or_default();
        match delta {
            0..=12 => datagram.push((u8::try_from(delta).unwrap_or_default() << 4) | length),
            13..=268 => {
                datagram.extend([0xd0 | length, u8::try_from(delta - 13).unwrap_or_default()]);
            }
            _ => {
                datagram.push(0xe0 | length);
                datagram.extend((delta - 269).to_be_bytes());
            }
        }
        datagram.extend(value);
    }
    if !payload.is_empty() {
        datagram.push(0xff);
        datagram.extend(payload);
    }
    datagram
}

fn post(id: u16, payload: &[u8]) -> Vec<u8> {
    request(true, POST, id, &[(URI_PATH, b"ps"), (URI_PATH, b"once")], payload)
}

/// A device that sends until it is answered, as section 4.2 has it, but in the times of a test.
struct Device {
    socket: UdpSocket,
}

impl Device {
    async fn new() -> Result<Device> {
        Ok(Device { socket: UdpSocket::bind("127.0.0.1:0").await? })
    }

    /// The code of the response with the token of this request.
    async fn ask(&self, node: SocketAddr, datagram: &[u8]) -> Result<u8> {
        let answered = async {
            loop {
                self.socket.send_to(datagram, node).await?;
                let answer = self.response_to(datagram);
                if let Ok(answer) = tokio::time::timeout(Duration::from_secs(2), answer).await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await?
    }

    async fn response_to(&self, datagram: &[u8]) -> Result<u8> {
        let mut buffer = [0; 2_048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            let answer = buffer.get(..length).unwrap_or_default();
            let [first, code, high, low, ..] = *answer else { continue };
            if first >> 4 & 3 == 0 {
                // Confirmable: an acknowledgement for a response, a reset for a ping.
                let kind = if code == 0 { 0x70 } else { 0x60 };
                self.socket.send_to(&[kind, 0, high, low], from).await?;
            }
            if code != 0 && answer.get(4..6) == datagram.get(4..6) {
                return Ok(code);
            }
        }
    }
}

/// Where the node takes CoAP, from its log.
fn coap(node: &Node) -> Result<SocketAddr> {
    let log = node.log();
    let (_, rest) = log.split_once("coap://").ok_or("no CoAP listener in the log")?;
    Ok(rest.split([' ', '"', '\n', ',']).next().unwrap_or_default().parse()?)
}

/// RFC 7252 section 4.5 over a SIGKILL: what was stored is answered when it comes again, and not stored again; what was not
/// is stored now. Answered or not when the node died.
#[tokio::test]
async fn a_copy_after_a_sigkill_is_stored_exactly_once() -> Result {
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "#").await?;
    let uplink = format!("[[uplink]]\nname = \"cloud\"\nkind = \"mqtt\"\naddresses = [\"{}\"]\n", hub.addr());
    let mut node = Node::start(&format!("{LISTENER}{uplink}")).await?;
    let device = Device::new().await?;
    let rounds = 6u16;
    for round in 0..rounds {
        let datagram = post(100 + round, format!("round {round}").as_bytes());
        let at = coap(&node)?;
        if round % 2 == 0 {
            assert_eq!(device.ask(at, &datagram).await?, 0x44, "2.04");
        } else {
            device.socket.send_to(&datagram, at).await?;
        }
        node.kill().await?;
        node.start_again().await?;
        assert_eq!(device.ask(coap(&node)?, &datagram).await?, 0x44, "2.04 after the kill");
    }
    let block = |id: u16, number: u8, more: u8| {
        let options: [(u16, &[u8]); 4] = [
            (URI_PATH, b"ps"),
            (URI_PATH, b"once"),
            (BLOCK1, &[number << 4 | more << 3]),
            (REQUEST_TAG, b"t1"),
        ];
        request(true, POST, id, &options, b"sixteen bytes...")
    };
    for first in [200, 300] {
        assert_eq!(device.ask(coap(&node)?, &block(first, 0, 1)).await?, 0x5f, "2.31");
        assert_eq!(device.ask(coap(&node)?, &block(first + 1, 1, 0)).await?, 0x44, "2.04");
        node.kill().await?;
        node.start_again().await?;
    }
    device.ask(coap(&node)?, &post(900, b"end")).await?;
    let stored = eventually("everything arrives upstream", async || {
        // An uplink hands on what it was not told of once more, under the same identity.
        let mut stored: BTreeMap<Vec<u8>, BTreeSet<_>> = BTreeMap::new();
        for event in auditor.seen().iter().filter(|event| event.attribute("source").starts_with("coap://")) {
            stored.entry(event.payload.to_vec()).or_default().insert(event.identity());
        }
        stored.contains_key(&b"end"[..]).then_some(stored)
    })
    .await?;
    for (payload, identities) in &stored {
        assert_eq!(identities.len(), 1, "{:?}: {identities:?}", String::from_utf8_lossy(payload));
    }
    assert_eq!(stored.len(), usize::from(rounds) + 2, "all of them");
    node.stop().await
}

/// What an attacker sends from addresses of which none answers.
fn flood(number: u16) -> [Vec<u8>; 4] {
    let name = number.to_be_bytes();
    let topic: [(u16, &[u8]); 2] = [(URI_PATH, b"ps"), (URI_PATH, &name)];
    // The first block of a body that never goes on.
    let options: [(u16, &[u8]); 3] = [topic[0], topic[1], (BLOCK1, &[0x0e])];
    let first_block = request(true, POST, number, &options, &[7; 1_024]);
    let observer = request(false, GET, number, &[(OBSERVE, b""), (URI_PATH, b"ps"), (URI_PATH, b"t")], b"");
    let mailbox = request(true, GET, number, &[(URI_PATH, b"d"), (URI_PATH, &name), (URI_PATH, b"cmd")], b"");
    let ping = vec![0x40, 0, name[0], name[1]];
    [first_block, observer, mailbox, ping]
}

/// P5: first blocks, observers, requests for mailboxes, pings from invented addresses: memory stays bounded, nothing becomes
/// durable, and a device is served all the while.
#[tokio::test]
async fn floods_from_invented_addresses_take_no_memory_and_nobody_s_turn() -> Result {
    let mut node = Node::start(LISTENER).await?;
    let at = coap(&node)?;
    let device = Device::new().await?;
    device.ask(at, &post(1, b"before")).await?;
    let before = node.rss_kib()?;
    for wave in 0..8u8 {
        for number in 0..2_000u16 {
            let [high, low] = number.to_be_bytes();
            // Every address of 127.0.0.0/8 is this machine's.
            let from = SocketAddr::from((Ipv4Addr::new(127, 10 + wave, high, low.max(1)), 0));
            let invented = UdpSocket::bind(from).await?;
            for datagram in flood(number) {
                // The socket buffers of the attacker are its own matter.
                drop(invented.try_send_to(&datagram, at));
            }
        }
        let id = 1_000 + u16::from(wave);
        assert_eq!(device.ask(at, &post(id, b"meanwhile")).await?, 0x44, "wave {wave}");
    }
    let status = node.status()?;
    let grown = node.rss_kib()?.saturating_sub(before);
    assert!(grown < 24 * 1_024, "{grown} KiB");
    assert_eq!(status["sessions"]["persistent"], 0, "no mailbox for a stranger: {status}");
    node.stop().await
}
