//! A small MQTT 3.1.1 client that keeps its own books: what it sent, what was acknowledged, in which order.
//!
//! Written for the tests because the point is to know exactly which PUBACK was seen before a connection died; it shares
//! no code with the node. It resends what was not acknowledged with DUP and the same packet identifier, in order
//! [MQTT-4.4.0-1], as a correct device does.

use crate::Result;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One message in flight.
#[derive(Clone, Debug)]
struct InFlight {
    packet_id: u16,
    topic: String,
    payload: Vec<u8>,
    /// Its number among everything this client sent, from 0.
    number: u64,
}

/// The client. One connection at a time; its books outlive connections.
pub struct RawClient {
    client_id: String,
    addr: SocketAddr,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    /// Bytes that the socket has not taken yet: a node that withholds answers stops reading.
    output: Vec<u8>,
    flight: VecDeque<InFlight>,
    next_packet_id: u16,
    next_number: u64,
    /// Numbers that were acknowledged, in the order of the PUBACKs.
    pub acknowledged: Vec<u64>,
    /// How often each message was sent again on a new connection.
    pub resent: HashMap<u64, usize>,
}

impl RawClient {
    /// A client that is not connected yet.
    #[must_use]
    pub fn new(client_id: &str, addr: SocketAddr) -> RawClient {
        RawClient {
            client_id: client_id.to_owned(),
            addr,
            stream: None,
            input: Vec::new(),
            output: Vec::new(),
            flight: VecDeque::new(),
            next_packet_id: 1,
            next_number: 0,
            acknowledged: Vec::new(),
            resent: HashMap::new(),
        }
    }

    /// Where to connect from now on (the node may come back on another port).
    pub fn set_addr(&mut self, addr: SocketAddr) {
        self.addr = addr;
    }

    /// The number that the next message will have.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// How many are sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Connects with Clean Session 0 and resends everything unacknowledged. Returns Session Present.
    ///
    /// # Errors
    /// If the connection cannot be made or is refused.
    pub async fn connect(&mut self) -> Result<bool> {
        self.stream = None;
        self.input.clear();
        self.output.clear();
        let mut stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&connect_packet(&self.client_id, false, 60)).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        let [0x20, 2, present, 0] = connack else { return Err(format!("CONNACK {connack:?}").into()) };
        let again: Vec<u8> = self.flight.iter().flat_map(|m| publish_packet(m, true)).collect();
        for message in &self.flight {
            *self.resent.entry(message.number).or_default() += 1;
        }
        stream.write_all(&again).await?;
        self.stream = Some(stream);
        Ok(present == 1)
    }

    /// Sends one QoS 1 message; waits for the socket only. Cancel safe: the message is in the books and what the socket did
    /// not take goes out with the next call. Even when this fails it is sent again by the next [`RawClient::connect`].
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn publish(&mut self, topic: &str, payload: Vec<u8>) -> Result<u64> {
        let number = self.next_number;
        let message = InFlight { packet_id: self.next_packet_id, topic: topic.to_owned(), payload, number };
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.next_number += 1;
        let packet = publish_packet(&message, false);
        self.flight.push_back(message);
        self.output.extend_from_slice(&packet);
        while !self.output.is_empty() {
            let stream = self.stream.as_mut().ok_or("not connected")?;
            let taken = stream.write(&self.output).await?;
            self.output.drain(..taken);
        }
        Ok(number)
    }

    /// Reads until fewer than `window` messages are unacknowledged.
    ///
    /// # Errors
    /// If the connection ends first, or something other than a PUBACK comes.
    pub async fn settle(&mut self, window: usize) -> Result {
        while self.flight.len() >= window.max(1) {
            self.read_some().await?;
        }
        Ok(())
    }

    /// Reads until everything is acknowledged.
    ///
    /// # Errors
    /// As [`RawClient::settle`].
    pub async fn settle_all(&mut self) -> Result {
        self.settle(1).await
    }

    /// Reads what is there within `wait`, if anything.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn read_for(&mut self, wait: Duration) -> Result {
        match tokio::time::timeout(wait, self.read_some()).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    }

    async fn read_some(&mut self) -> Result {
        let stream = self.stream.as_mut().ok_or("not connected")?;
        let mut buffer = [0; 4096];
        let (mut from, mut to) = stream.split();
        let n = tokio::select! {
            read = from.read(&mut buffer) => read?,
            taken = to.write(&self.output), if !self.output.is_empty() => {
                self.output.drain(..taken?);
                return Ok(());
            }
        };
        if n == 0 {
            self.stream = None;
            return Err("connection closed".into());
        }
        self.input.extend_from_slice(buffer.get(..n).unwrap_or_default());
        while let Some([kind, length, high, low]) = self.input.first_chunk::<4>().copied() {
            if (kind, length) != (0x40, 2) {
                return Err(format!("PUBACK expected, got {kind:#x} with {length} bytes").into());
            }
            self.input.drain(..4);
            self.acknowledge(u16::from_be_bytes([high, low]))?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, packet_id: u16) -> Result {
        let at = self.flight.iter().position(|m| m.packet_id == packet_id);
        let message = at.and_then(|at| self.flight.remove(at));
        let message =
            message.ok_or_else(|| format!("PUBACK for packet id {packet_id}, which is not in flight"))?;
        self.acknowledged.push(message.number);
        Ok(())
    }
}

/// A CONNECT packet of MQTT 3.1.1 without will and user name.
#[must_use]
pub fn connect_packet(client_id: &str, clean_session: bool, keep_alive_s: u16) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, if clean_session { 2 } else { 0 }];
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    string(&mut body, client_id);
    packet(0x10, &body)
}

fn publish_packet(message: &InFlight, again: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.payload.len() + message.topic.len() + 8);
    string(&mut body, &message.topic);
    body.extend_from_slice(&message.packet_id.to_be_bytes());
    body.extend_from_slice(&message.payload);
    packet(if again { 0x3a } else { 0x32 }, &body)
}

fn string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("test strings are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Fixed header, remaining length, body.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let digit = u8::try_from(left % 128).expect("below 128");
        left /= 128;
        out.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}
