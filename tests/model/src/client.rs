//! A client that does what MQTT asks of clients, at a pace of its own, and checks what it is sent.

use crate::facts::{Check, ClientNo, Facts, MsgNo};
use crate::peer::Peer;
use crate::rig::Rig;
use crate::violation;
use eventmesh_edge_conformance::wire::{PUBACK, PUBCOMP, PUBREC, PUBREL, ack};
use eventmesh_edge_conformance::{Packet, Publish, Published, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A message on its way to the node.
pub(crate) struct Outgoing {
    pub(crate) pid: u16,
    pub(crate) msg: MsgNo,
    pub(crate) publish: Publish,
    /// PUBREC came.
    pub(crate) released: bool,
}

/// A SUBSCRIBE or UNSUBSCRIBE that was not answered.
pub(crate) struct Asked {
    pub(crate) pid: u16,
    /// Index of the new subscription; `None` for UNSUBSCRIBE.
    pub(crate) new: Option<usize>,
    /// Those that end with the answer.
    pub(crate) ends: Vec<usize>,
}

/// What a client knows of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// There is none.
    No,
    /// There is one as long as the connection stands.
    Live,
    /// It ends between these times.
    Until { min: Duration, max: Duration },
    /// A CONNECT was not answered.
    Unknown,
}

/// What was said in the last CONNECT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) clean: bool,
    pub(crate) expiry: Duration,
    pub(crate) at: Duration,
    /// Index into [`Facts::wills`].
    pub(crate) will: Option<usize>,
}

pub(crate) struct Client {
    pub(crate) no: ClientNo,
    pub(crate) version: Version,
    pub(crate) durable: bool,
    pub(crate) peer: Option<Peer>,
    /// CONNACK was received on this connection.
    pub(crate) accepted: bool,
    pub(crate) said: Said,
    pub(crate) kept: Kept,
    /// The will of an earlier connection that is owed.
    pub(crate) owed: Option<usize>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) last_pid: u16,
    /// Identifiers of QoS 2 messages received and not released.
    received: BTreeSet<u16>,
    /// Answers that it has not given yet, in the order of what they answer [MQTT-4.6.0-2].
    withheld: VecDeque<(u8, u16)>,
    /// Messages received in this session, by identifier in use.
    in_use: BTreeMap<u16, MsgNo>,
    /// The identifier of each message of QoS 1 and 2 of this session.
    identifier_of: BTreeMap<MsgNo, u16>,
    /// Answered, and the answer had time to become durable.
    done: BTreeSet<MsgNo>,
    answered: Vec<MsgNo>,
}

impl Client {
    pub(crate) fn new(no: ClientNo, version: Version, durable: bool) -> Client {
        Client {
            no,
            version,
            durable,
            peer: None,
            accepted: false,
            said: Said { clean: false, expiry: Duration::ZERO, at: Duration::ZERO, will: None },
            kept: Kept::No,
            owed: None,
            outgoing: VecDeque::new(),
            asked: Vec::new(),
            last_pid: 0,
            received: BTreeSet::new(),
            withheld: VecDeque::new(),
            in_use: BTreeMap::new(),
            identifier_of: BTreeMap::new(),
            done: BTreeSet::new(),
            answered: Vec::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.peer.is_some() && self.accepted
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            peer.send(bytes);
        }
    }

    /// An identifier that is not in use.
    pub(crate) fn next_pid(&mut self) -> u16 {
        loop {
            self.last_pid = self.last_pid % 40 + 1; // they come round soon
            let pid = self.last_pid;
            let busy = self.outgoing.iter().any(|o| o.pid == pid) || self.asked.iter().any(|a| a.pid == pid);
            if !busy {
                return pid;
            }
        }
    }

    /// The connection is gone, with everything that was on it.
    pub(crate) fn lose_connection(&mut self) {
        self.accepted = false;
        self.withheld.clear();
        self.asked.clear();
        // Identifiers of messages that were answered may be used for others now; those of the rest may not.
        self.in_use.retain(|_, msg| !self.answered.contains(msg) && !self.done.contains(msg));
        self.answered.clear();
    }

    /// The node has no session for it: neither has it.
    pub(crate) fn lose_session(&mut self) {
        self.outgoing.clear();
        self.received.clear();
        self.in_use.clear();
        self.identifier_of.clear();
        self.done.clear();
        self.answered.clear();
    }

    /// Sends again what was not answered, before anything else [MQTT-4.4.0-1].
    pub(crate) fn resume(&mut self, facts: &mut Facts) {
        let mut bytes = Vec::new();
        for outgoing in &self.outgoing {
            if outgoing.released {
                bytes.extend(ack(PUBREL, outgoing.pid));
            } else {
                facts.msgs[outgoing.msg].resent = true;
                bytes.extend(outgoing.publish.clone().dup().encode(self.version));
            }
        }
        self.send(&bytes);
    }

    /// What it has answered is on disk by now.
    pub(crate) fn settled(&mut self) {
        self.done.extend(self.answered.drain(..));
    }

    /// All is said that there was to say: no exchange is left half done.
    pub(crate) fn has_finished(&self, facts: &Facts) -> Check {
        let Client { no, outgoing, received, .. } = self;
        // Not so messages that expired, which a start does not send again, and retained ones, which live in memory.
        let comes_again = |msg: &MsgNo| facts.msgs[*msg].expires.is_none() && !facts.msgs[*msg].retain;
        let in_use: Vec<_> = self.in_use.iter().filter(|(_, msg)| comes_again(msg)).collect();
        if outgoing.is_empty() && received.is_empty() && in_use.is_empty() {
            return Ok(());
        }
        let left: Vec<u16> = outgoing.iter().map(|outgoing| outgoing.pid).collect();
        violation(format!(
            "client {no}: not answered {left:?}, not released {received:?}, not sent again {in_use:?}"
        ))
    }

    pub(crate) fn run(&mut self, rig: &Rig) -> Vec<Packet> {
        self.peer.as_mut().map_or_else(Vec::new, |peer| peer.run(rig))
    }

    pub(crate) fn published(&mut self, published: &Published, facts: &mut Facts, now: Duration) -> Check {
        match published.qos {
            0 => facts.deliver(self.no, published, now),
            1 => {
                self.identify(published, facts)?;
                self.withheld.push_back((PUBACK, published.pid));
                facts.deliver(self.no, published, now)
            }
            _ => {
                let known = self.received.contains(&published.pid);
                if !known {
                    self.identify(published, facts)?;
                    self.received.insert(published.pid);
                }
                self.withheld.push_back((PUBREC, published.pid));
                if known { Ok(()) } else { facts.deliver(self.no, published, now) }
            }
        }
    }

    /// The identifier is not in use for another message, and a resend has the first one.
    fn identify(&mut self, published: &Published, facts: &Facts) -> Check {
        let Some(no) = published.payload.strip_prefix('m').and_then(|no| no.parse::<MsgNo>().ok()) else {
            return Ok(());
        };
        let (client, pid) = (self.no, published.pid);
        if let Some(other) = self.in_use.insert(pid, no).filter(|other| *other != no) {
            return violation(format!(
                "client {client}: identifier {pid} is {other}'s, came for {no} [MQTT-2.2.1-4]"
            ));
        }
        let stored_once = facts.msgs.get(no).is_some_and(|msg| !msg.resent) && !published.retain;
        if !stored_once {
            return Ok(());
        }
        if self.done.contains(&no) {
            return violation(format!("client {client}: {no} came again after its answer was taken"));
        }
        match self.identifier_of.insert(no, pid) {
            Some(first) if first != pid => {
                violation(format!("client {client}: {no} came as {first}, then as {pid} [MQTT-4.4.0-1]"))
            }
            Some(_) if !published.dup => {
                violation(format!("client {client}: {no} came again without DUP [MQTT-3.3.1-1]"))
            }
            _ => Ok(()),
        }
    }

    /// Answers up to `max` messages.
    pub(crate) fn answer(&mut self, max: usize) {
        for _ in 0..max {
            let Some((first, pid)) = self.withheld.pop_front() else { return };
            if let Some(no) = self.in_use.get(&pid).copied() {
                self.answered.push(no);
                if first == PUBACK {
                    self.in_use.remove(&pid);
                }
            }
            self.send(&ack(first, pid));
        }
    }

    /// The node's answer to one of its messages; whether it is a new one.
    pub(crate) fn acknowledged(&mut self, first: u8, pid: u16, reason: u8, facts: &mut Facts) {
        let step = facts.tick();
        let index = self.outgoing.iter().position(|outgoing| outgoing.pid == pid);
        match (first, index) {
            (PUBACK, Some(index)) if self.outgoing[index].publish.qos == 1 => {
                if let Some(outgoing) = self.outgoing.remove(index).filter(|_| reason < 0x80) {
                    facts.answered(outgoing.msg, step);
                }
            }
            (PUBREC, Some(index)) if self.outgoing[index].publish.qos == 2 => {
                let outgoing = &mut self.outgoing[index];
                if !outgoing.released {
                    outgoing.released = true;
                    facts.answered(outgoing.msg, step);
                }
                self.send(&ack(PUBREL, pid));
            }
            (PUBCOMP, Some(index)) if self.outgoing[index].released => drop(self.outgoing.remove(index)),
            (PUBREL, _) => {
                self.received.remove(&pid);
                self.in_use.remove(&pid);
                self.send(&ack(PUBCOMP, pid));
            }
            _ => {}
        }
    }
}
