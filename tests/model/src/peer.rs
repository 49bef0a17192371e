//! One connection of a client: the node's own session engine behind a pipe of bytes.

use crate::rig::Rig;
use bytes::BytesMut;
use eventmesh_edge_conformance::{Packet, Version};
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_ingress_mqtt::Sessions;
use eventmesh_edge_ingress_mqtt::codec::{Decoder, Frame};
use eventmesh_edge_ingress_mqtt::outlet::{Event, Link};
use eventmesh_edge_ingress_mqtt::session::{Action, Context, Input, Machine, Output, Phase};
use std::sync::Arc;

pub(crate) struct Peer {
    sessions: Arc<Sessions>,
    hub: Arc<dyn Hub>,
    machine: Machine,
    decoder: Decoder,
    version: Version,
    out: Output,
    /// Sent by the client, not yet read by the node.
    waiting: Vec<u8>,
    pub(crate) closed: bool,
    /// Why it was closed.
    pub(crate) why: String,
}

impl Peer {
    pub(crate) fn open(rig: &Rig, version: Version) -> Peer {
        let sessions = rig.life.sessions.clone();
        let link = Arc::new(Link::new(rig.limits.queue));
        let machine = Machine::new(rig.next_connection(), link, rig.now(), None);
        Peer {
            sessions,
            hub: rig.life.hub.clone(),
            machine,
            decoder: Decoder::new(rig.limits.packet_max_bytes()),
            version,
            out: Output::default(),
            waiting: Vec::new(),
            closed: false,
            why: String::new(),
        }
    }

    fn handle(&mut self, rig: &Rig, input: Input) {
        let cx = Context { now: rig.now(), wall: rig.wall(), sessions: &self.sessions, limits: &rig.limits };
        self.machine.handle(&cx, input, &mut self.out);
    }

    /// Bytes for the node; it reads them when it wants to.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The socket breaks.
    pub(crate) fn cut(&mut self, rig: &Rig) {
        self.handle(rig, Input::Gone);
        self.settle(rig);
    }

    /// The node stops in order.
    pub(crate) fn stop(&mut self, rig: &Rig) {
        self.machine.link().push(Event::Stop);
        self.settle(rig);
    }

    /// The connection's task runs until it waits for something; what it wrote comes out.
    pub(crate) fn run(&mut self, rig: &Rig) -> Vec<Packet> {
        self.settle(rig);
        self.read(rig);
        self.settle(rig);
        let bytes = self.out.bytes.split();
        if !bytes.is_empty() {
            self.handle(rig, Input::Flushed);
        }
        self.handle(rig, Input::Tick);
        self.settle(rig);
        parse(&bytes, self.version)
    }

    fn read(&mut self, rig: &Rig) {
        let mut fed = false;
        while self.machine.wants_read() && !self.waiting.is_empty() {
            let input = match self.decoder.frame(&self.waiting) {
                Err(error) => {
                    self.waiting.clear();
                    Input::Bad(error)
                }
                Ok(Frame::Partial(_)) => break,
                Ok(Frame::Whole(whole)) => {
                    let packet: Vec<u8> = self.waiting.drain(..whole).collect();
                    self.decoder.decode(BytesMut::from(&packet[..])).map_or_else(Input::Bad, Input::Packet)
                }
            };
            self.handle(rig, input);
            fed = true;
        }
        if fed {
            self.handle(rig, Input::ReadDone);
        }
    }

    fn settle(&mut self, rig: &Rig) {
        loop {
            let actions = std::mem::take(&mut self.out.actions);
            let idle = actions.is_empty();
            for action in actions {
                self.act(action);
            }
            // Of one that has ended the link is another's.
            let open = self.machine.phase() != Phase::Ended;
            let event = if open { self.machine.link().next_event() } else { None };
            match event {
                Some(event) => self.handle(rig, Input::Event(event)),
                None if idle => {
                    self.handle(rig, Input::Pump);
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
            Action::Submit { token, submission } => {
                let done = move |result| {
                    // Token 0: nobody waits.
                    if token > 0 {
                        link.push(Event::Completed { token, result });
                    }
                };
                self.hub.submit(submission, Box::new(done));
            }
            Action::PublishWill { will, publisher } => self.sessions.publish_will(will, publisher),
            Action::ReadMailbox { generation, session, after, max_events } => {
                let done = move |result| link.push(Event::Mailbox { generation, after, result });
                self.hub.read_mailbox(session, after, max_events, Box::new(done));
            }
            Action::Close(reason) => {
                self.closed = true;
                self.why = format!("{reason:?}");
            }
            Action::Authenticate(_) | Action::Probe => {}
        }
    }
}

fn parse(mut bytes: &[u8], version: Version) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (mut length, mut at) = (0usize, 0);
        loop {
            length |= usize::from(rest[at] & 0x7F) << (7 * at);
            at += 1;
            if rest[at - 1] & 0x80 == 0 {
                break;
            }
        }
        packets.push(Packet::read(*first, &rest[at..at + length], version));
        bytes = &rest[at + length..];
    }
    packets
}
