//! A socket that speaks packets, and the steps that all tests take.

use crate::packet::{Packet, Properties, Published};
use crate::wire::{self, Connect, Publish, Version};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A packet that has not come after this long never will. Nothing is measured with it.
const HANG: Duration = Duration::from_secs(20);

/// One connection.
pub struct Client {
    stream: TcpStream,
    version: Version,
    /// Properties of CONNACK.
    pub connack: Properties,
    /// Session Present of CONNACK.
    pub session_present: bool,
    next_pid: u16,
    /// Came while another packet was waited for.
    stash: VecDeque<Packet>,
}

impl Client {
    /// Over a connected socket.
    #[must_use]
    pub fn new(stream: TcpStream, version: Version) -> Client {
        Client {
            stream,
            version,
            connack: Vec::new(),
            session_present: false,
            next_pid: 1000,
            stash: VecDeque::new(),
        }
    }

    /// What it speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sends bytes, whatever they are. The node may have closed already: that is for the next read to find.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = self.stream.write_all(bytes).await;
        drop(sent);
    }

    /// The next packet; `None` when the connection is closed.
    ///
    /// # Panics
    /// If nothing comes, or something that MQTT does not allow.
    pub async fn next(&mut self) -> Option<Packet> {
        match self.stash.pop_front() {
            Some(packet) => Some(packet),
            None => self.fresh().await,
        }
    }

    async fn fresh(&mut self) -> Option<Packet> {
        timeout(HANG, self.read()).await.expect("neither a packet nor the end of the connection")
    }

    async fn read(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(shift < 28, "Remaining Length of more than four bytes");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Packet::read(first, &body, self.version))
    }

    /// Sends CONNECT and gives the node's answer.
    pub async fn connect(&mut self, connect: &Connect) -> Option<Packet> {
        self.send(&connect.encode()).await;
        self.next().await
    }

    /// The next packet, which has to be a PUBLISH.
    pub async fn message(&mut self) -> Published {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("a PUBLISH was expected, {other:?} came"),
        }
    }

    /// The next message, acknowledged to its end.
    pub async fn take(&mut self) -> Published {
        let message = self.message().await;
        match message.qos {
            0 => {}
            1 => self.send(&wire::ack(wire::PUBACK, message.pid)).await,
            _ => {
                self.send(&wire::ack(wire::PUBREC, message.pid)).await;
                assert_eq!(self.acknowledged(wire::PUBREL, message.pid).await, 0);
                self.send(&wire::ack(wire::PUBCOMP, message.pid)).await;
            }
        }
        message
    }

    /// The next packet has to be this acknowledgement.
    pub async fn expect_ack(&mut self, kind: u8, id: u16, code: u8) -> Properties {
        match self.next().await {
            Some(Packet::Ack { first, pid, reason, properties })
                if (first, pid, reason) == (kind, id, code) =>
            {
                properties
            }
            other => panic!("{kind:#x} {id} {code:#x} was expected, {other:?} came"),
        }
    }

    /// The connection ends without another packet.
    pub async fn expect_closed(&mut self) {
        let next = self.next().await;
        assert_eq!(next, None, "the connection was to be closed");
    }

    /// MQTT 5: DISCONNECT with this reason and the end; 3.1.1: the end. Gives the properties.
    pub async fn expect_end(&mut self, code: u8) -> Properties {
        let properties = if self.version.is_v5() {
            match self.next().await {
                Some(Packet::Disconnect { reason, properties }) if reason == code => properties,
                other => panic!("DISCONNECT {code:#x} was expected, {other:?} came"),
            }
        } else {
            Vec::new()
        };
        self.expect_closed().await;
        properties
    }

    /// Nothing waits for this client.
    pub async fn expect_nothing(&mut self) {
        self.settle().await;
        assert!(self.stash.is_empty(), "nothing was to come: {:?}", self.stash);
    }

    /// The next message of this topic that is there already; others stay where they are.
    pub async fn next_message_of(&mut self, topic: &str) -> Option<Published> {
        self.settle().await;
        let wanted = |packet: &Packet| matches!(packet, Packet::Publish(message) if message.topic == topic);
        let at = self.stash.iter().position(wanted)?;
        match self.stash.remove(at) {
            Some(Packet::Publish(message)) => Some(message),
            _ => None,
        }
    }

    fn pid(&mut self) -> u16 {
        self.next_pid += 1;
        self.next_pid
    }

    /// Subscribes to one filter; the code that the node answers. What comes after SUBACK is for the test to read.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, &[]).await
    }

    /// The same with properties.
    pub async fn subscribe_with(&mut self, filter: &str, options: u8, properties: &[u8]) -> u8 {
        let id = self.pid();
        self.send(&wire::subscribe(self.version, id, properties, &[(filter, options)])).await;
        match self.past_messages().await {
            Some(Packet::SubAck { pid, codes, .. }) if pid == id && codes.len() == 1 => codes[0],
            other => panic!("SUBACK {id} was expected, {other:?} came"),
        }
    }

    /// Unsubscribes from one filter; the code, 0 in 3.1.1.
    pub async fn unsubscribe(&mut self, filter: &str) -> u8 {
        let id = self.pid();
        self.send(&wire::unsubscribe(self.version, id, &[filter])).await;
        match self.past_messages().await {
            Some(Packet::UnsubAck { pid, codes, .. }) if pid == id => codes.first().copied().unwrap_or(0),
            other => panic!("UNSUBACK {id} was expected, {other:?} came"),
        }
    }

    /// Sends a PUBLISH and goes through its exchange; the last or first failing reason code. When it returns, everybody
    /// who is connected has been offered the message.
    pub async fn publish(&mut self, publish: Publish) -> u8 {
        let id = if publish.qos > 0 && publish.pid == 0 { self.pid() } else { publish.pid };
        let qos = publish.qos;
        self.send(&Publish { pid: id, ..publish }.encode(self.version)).await;
        match qos {
            0 => {
                self.settle().await;
                0
            }
            1 => self.acknowledged(wire::PUBACK, id).await,
            _ => match self.acknowledged(wire::PUBREC, id).await {
                reason if reason >= 0x80 => reason,
                reason => {
                    self.send(&wire::ack(wire::PUBREL, id)).await;
                    assert_eq!(self.acknowledged(wire::PUBCOMP, id).await, 0);
                    reason
                }
            },
        }
    }

    async fn acknowledged(&mut self, kind: u8, id: u16) -> u8 {
        match self.past_messages().await {
            Some(Packet::Ack { first, pid, reason, .. }) if (first, pid) == (kind, id) => reason,
            other => panic!("{kind:#x} {id} was expected, {other:?} came"),
        }
    }

    /// The next packet that is no PUBLISH; those before it are kept for later.
    async fn past_messages(&mut self) -> Option<Packet> {
        loop {
            match self.fresh().await {
                Some(Packet::Publish(message)) => self.stash.push_back(Packet::Publish(message)),
                other => return other,
            }
        }
    }

    /// All that was for this client before is here when the second PINGRESP comes, because each PINGREQ is followed by
    /// whatever there is to send.
    async fn settle(&mut self) {
        for _ in 0..2 {
            self.send(&wire::PINGREQ).await;
            loop {
                match self.fresh().await {
                    Some(Packet::PingResp) => break,
                    Some(packet) => self.stash.push_back(packet),
                    None => panic!("the connection was closed"),
                }
            }
        }
    }

    /// DISCONNECT, and the end.
    pub async fn disconnect(mut self) {
        self.send(&wire::DISCONNECT).await;
        self.expect_closed().await;
    }

    /// The connection breaks: no DISCONNECT. Returns when the node has noticed: its half is closed.
    pub async fn cut(mut self) {
        drop(self.stream.shutdown().await);
        while self.next().await.is_some() {}
    }
}
