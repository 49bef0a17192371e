//! The machine against a scripted hub: no sockets, no time but what the test says.

mod connecting;
mod ending;
mod inbound;
mod outbound;
mod random;
mod retained;
mod wills;

use super::{Action, Context, Input, Limits, Machine, Output, Phase};
use crate::clients::Sessions;
use crate::codec::{Decoder, Frame, Version};
use crate::outlet::{Event, Link};
use crate::reason::Reason;
use crate::testing::wire::{self, Connect};
use crate::testing::{ManualClock, ScriptedHub, sessions};
use bytes::BytesMut;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Denied, Hub, Principal};
use std::sync::Arc;
use std::time::Duration;

const V3: Version = Version::V311;
const V5: Version = Version::V5;

/// A node: what all its connections share.
struct Node {
    hub: Arc<ScriptedHub>,
    clock: Arc<ManualClock>,
    sessions: Arc<Sessions>,
    limits: Limits,
}

impl Node {
    /// Commits complete at once, unless the test turns that off.
    fn new() -> Node {
        Node::on(ScriptedHub::automatic())
    }

    fn on(hub: Arc<ScriptedHub>) -> Node {
        let clock = ManualClock::new();
        let sessions = sessions(&hub, &clock);
        Node { hub, clock, sessions, limits: Limits { anonymous: true, ..Limits::default() } }
    }

    /// kill -9 and a new start on the same store.
    fn restart(&self) -> Node {
        let node = Node::on(self.hub.restart());
        node.sessions.restore(&*node.hub).unwrap();
        node
    }

    fn accept(&self) -> Peer<'_> {
        let generation = self.sessions.next_generation();
        let link = Arc::new(Link::new(self.limits.queue));
        Peer {
            node: self,
            machine: Machine::new(generation, link, self.clock.monotonic(), None),
            decoder: Decoder::new(self.limits.packet_max_bytes()),
            out: Output::default(),
            closed: None,
            version: V3,
            flush: true,
        }
    }

    /// Connects and checks that it was accepted.
    fn connect(&self, connect: &Connect<'_>) -> Peer<'_> {
        let mut peer = self.accept();
        peer.send(&connect.encode());
        assert_eq!(peer.machine.phase(), Phase::Open);
        let answer = peer.received();
        assert!(matches!(answer.first(), Some(Sent::ConnAck { code: 0, .. })), "{answer:?}");
        peer
    }

    fn advance(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

fn clean(version: Version, client_id: &str) -> Connect<'_> {
    Connect { version, client_id, ..Connect::default() }
}

/// A session that is kept.
fn kept(version: Version, client_id: &str) -> Connect<'_> {
    let properties = if version.is_v5() { wire::session_expiry(3600) } else { Vec::new() };
    Connect { version, client_id, clean: false, properties, ..Connect::default() }
}

/// One connection, as its client sees it.
struct Peer<'n> {
    node: &'n Node,
    machine: Machine,
    decoder: Decoder,
    out: Output,
    closed: Option<Reason>,
    version: Version,
    /// The socket takes everything at once.
    flush: bool,
}

/// A packet from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    ConnAck { present: bool, code: u8 },
    Publish { topic: String, payload: String, qos: u8, pid: u16, dup: bool, retain: bool },
    PubAck(u16, u8),
    PubRec(u16, u8),
    PubRel(u16, u8),
    PubComp(u16, u8),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    Disconnect(u8),
}

impl Peer<'_> {
    fn handle(&mut self, input: Input) {
        let cx = Context {
            now: self.node.clock.monotonic(),
            wall: self.node.clock.now(),
            sessions: &self.node.sessions,
            limits: &self.node.limits,
        };
        self.machine.handle(&cx, input, &mut self.out);
    }

    /// One read with these bytes.
    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.machine.wants_read() && !rest.is_empty() {
            let input = match self.decoder.frame(rest) {
                Err(error) => {
                    rest = &[];
                    Input::Bad(error)
                }
                Ok(Frame::Partial(_)) => panic!("half a packet: {rest:?}"),
                Ok(Frame::Whole(whole)) => {
                    let packet = BytesMut::from(&rest[..whole]);
                    rest = &rest[whole..];
                    self.decoder.decode(packet).map_or_else(Input::Bad, Input::Packet)
                }
            };
            self.handle(input);
        }
        self.version = self.decoder.version().unwrap_or(self.version);
        self.handle(Input::ReadDone);
        self.settle();
    }

    /// Carries out actions and takes events until nothing moves.
    fn settle(&mut self) {
        loop {
            let actions = std::mem::take(&mut self.out.actions);
            let idle = actions.is_empty();
            for action in actions {
                self.act(action);
            }
            let event =
                if self.machine.phase() == Phase::Ended { None } else { self.machine.link().next_event() };
            match event {
                Some(event) => self.handle(Input::Event(event)),
                None if idle => {
                    self.handle(Input::Pump);
                    if self.out.actions.is_empty() {
                        return;
                    }
                }
                None => {}
            }
        }
    }

    fn act(&mut self, action: Action) {
        let link = self.machine.link().clone();
        match action {
            Action::Authenticate(_) => {}
            Action::Submit { token, submission } => {
                let done = move |result| link.push(Event::Completed { token, result });
                self.node.hub.submit(submission, Box::new(done));
            }
            Action::ReadMailbox { generation, session, after, max_events } => {
                let done = move |result| link.push(Event::Mailbox { generation, after, result });
                self.node.hub.read_mailbox(session, after, max_events, Box::new(done));
            }
            Action::PublishWill { will, publisher } => self.node.sessions.publish_will(will, publisher),
            Action::Probe => {}
            Action::Close(reason) => self.closed = Some(reason),
        }
    }

    fn authenticated(&mut self, outcome: Result<&str, Denied>) {
        let outcome = outcome.map(|name| Principal { name: name.into(), anonymous: false });
        self.handle(Input::Event(Event::Authenticated(outcome)));
        self.settle();
    }

    fn tick(&mut self) {
        self.handle(Input::Tick);
        self.settle();
    }

    /// The connection is cut.
    fn cut(&mut self) {
        self.handle(Input::Gone);
        self.settle();
    }

    /// What the node sent since the last call; the socket took it, unless `flush` is off.
    fn received(&mut self) -> Vec<Sent> {
        self.settle();
        let bytes = self.out.bytes.split();
        if self.flush {
            self.handle(Input::Flushed);
            self.settle();
        }
        parse(&bytes, self.version)
    }

    fn publish(&mut self, topic: &str, qos: u8, pid: u16, payload: &str) {
        self.send(&wire::publish(self.version, topic, qos, pid, false, payload));
    }

    fn resend(&mut self, topic: &str, qos: u8, pid: u16, payload: &str) {
        self.send(&wire::publish(self.version, topic, qos, pid, true, payload));
    }

    fn subscribe(&mut self, filter: &str, options: u8) {
        self.received();
        self.send(&wire::subscribe(self.version, 99, &[(filter, options)]));
        assert_eq!(self.received().first(), Some(&Sent::SubAck(99, vec![options & 3])));
    }
}

fn parse(mut bytes: &[u8], version: Version) -> Vec<Sent> {
    let mut sent = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (mut length, mut at) = (0usize, 0);
        loop {
            length |= usize::from(rest[at] & 0x7F) << (7 * at);
            at += 1;
            if rest[at - 1] & 0x80 == 0 {
                break;
            }
        }
        sent.push(parse_one(*first, &rest[at..at + length], version));
        bytes = &rest[at + length..];
    }
    sent
}

fn parse_one(first: u8, body: &[u8], version: Version) -> Sent {
    let u16_at = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let ack = || (u16_at(0), body.get(2).copied().unwrap_or(0));
    match first >> 4 {
        2 => Sent::ConnAck { present: body[0] == 1, code: body[1] },
        3 => parse_publish(first, body, version),
        4 => Sent::PubAck(ack().0, ack().1),
        5 => Sent::PubRec(ack().0, ack().1),
        6 => Sent::PubRel(ack().0, ack().1),
        7 => Sent::PubComp(ack().0, ack().1),
        9 => Sent::SubAck(u16_at(0), body[if version.is_v5() { 3 } else { 2 }..].to_vec()),
        11 => Sent::UnsubAck(u16_at(0), body.get(3..).unwrap_or_default().to_vec()),
        13 => Sent::PingResp,
        14 => Sent::Disconnect(body[0]),
        _ => panic!("{first:x} {body:?}"),
    }
}

fn parse_publish(first: u8, body: &[u8], version: Version) -> Sent {
    let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = String::from_utf8(body[2..topic_end].to_vec()).unwrap();
    let qos = first >> 1 & 3;
    let mut at = topic_end;
    let mut pid = 0;
    if qos > 0 {
        pid = u16::from_be_bytes([body[at], body[at + 1]]);
        at += 2;
    }
    if version.is_v5() {
        assert!(body[at] < 128);
        at += 1 + usize::from(body[at]);
    }
    let payload = String::from_utf8(body[at..].to_vec()).unwrap();
    Sent::Publish { topic, payload, qos, pid, dup: first & 8 != 0, retain: first & 1 != 0 }
}

fn message(topic: &str, payload: &str, qos: u8, pid: u16) -> Sent {
    Sent::Publish { topic: topic.into(), payload: payload.into(), qos, pid, dup: false, retain: false }
}

fn again(topic: &str, payload: &str, qos: u8, pid: u16) -> Sent {
    Sent::Publish { topic: topic.into(), payload: payload.into(), qos, pid, dup: true, retain: false }
}
