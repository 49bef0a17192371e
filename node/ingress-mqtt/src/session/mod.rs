//! The protocol of one connection and its session, as a state machine without I/O.
//!
//! [`Machine::handle`] takes what happened ([`Input`]) and appends what to do ([`Output`]): bytes for the socket and
//! actions that end in a later input. It asks the hub's namespace (subscribe, retained, attach) directly, because that
//! answers at once; what becomes durable goes out as [`Action::Submit`] and comes back as [`Event::Completed`].
//!
//! **P1.** Everything decoded from one read becomes one submission, and every answer that depends on it (PUBACK, PUBREC,
//! PUBCOMP, PUBREL; SUBACK, UNSUBACK and CONNACK of a persistent session) waits in an `Outstanding` until that
//! submission completes. Until then [`Machine::wants_read`] is false: the socket is not read, which is the back-pressure.
//! Deliveries, PINGRESP and the end of the connection do not wait.
//!
//! - `connect`: CONNECT, login, claim of the client id, CONNACK, resumption
//! - `inbound`: PUBLISH and its QoS flows; `subscribe`: SUBSCRIBE and UNSUBSCRIBE
//! - `commit`: the batch of one read, its completion, changes that nobody waits for; `answers`: what is written then
//! - `outbound`: deliveries, the send window, packet identifiers, the mailbox; `retained`: what a new subscription gets
//! - `end`: DISCONNECT, keep alive, take-over, what is kept; `will`: a will and its row
//! - `state`: the session; `records`: what of it is on disk; `limits` and `io`: what the shell passes in and gets out

mod alias;
mod answers;
mod commit;
mod connect;
mod end;
mod inbound;
mod io;
mod limits;
mod outbound;
pub(crate) mod records;
mod retained;
mod state;
mod subscribe;
#[cfg(test)]
mod tests;
mod told;
pub(crate) mod will;

pub use io::{Action, Context, Input, Login, Output};
pub use limits::{Limits, WhenFull};
pub use state::Session;
pub use will::PendingWill;

use crate::codec::{Connect, Packet, Version, Will};
use crate::outlet::{Event, Link};
use crate::reason::Reason;
use alias::SentAliases;
use commit::{Batch, Outstanding, Purpose};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::hub::{Delivery, Principal, SubscribeOptions};
use eventmesh_edge_core::topic::TopicFilter;
use state::{Flight, Step};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but CONNECT is welcome.
    AwaitConnect,
    /// The login is being checked.
    Authenticating,
    /// The client id is in use; its connection is told to hand over.
    Claiming,
    /// The session is being made durable, CONNACK follows.
    Opening,
    /// Connected.
    Open,
    /// Over.
    Ended,
}

/// Reason codes from here on are failures (MQTT 5.0 section 2.4).
const FAILURE: u8 = 0x80;

/// What is known between CONNECT and CONNACK.
struct Connecting {
    connect: Connect,
    assigned: bool,
    principal: Option<Principal>,
    will: Option<Box<Will>>,
    /// Of the connection before this one; owed again if this one is not accepted.
    owed: Option<Box<PendingWill>>,
    session_present: bool,
}

/// How a persistent session gets what its mailbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    /// The hub offers.
    Live,
    /// A piece is being read.
    Reading,
    /// The next piece is read when there is room for it.
    Behind { after: Position },
}

/// One connection. See the module's description.
pub struct Machine {
    phase: Phase,
    version: Version,
    generation: u64,
    started: Duration,
    last_heard: Duration,
    keep_alive: Option<Duration>,
    lazy_due: Option<Duration>,
    client_packet_max: u32,
    window: u16,
    window_used: u16,
    batch_max: u16,
    feed: Feed,
    connecting: Option<Box<Connecting>>,
    session: Option<Box<Session>>,
    /// Of a client that was accepted; it has a row.
    will: Option<Box<PendingWill>>,
    /// Until there is a session: its link to be.
    link: Arc<Link>,
    /// Topics by alias, from 1.
    aliases: Vec<Text>,
    sent_aliases: SentAliases,
    /// Reason Strings are welcome in acknowledgements, too.
    wants_problem_info: bool,
    /// Messages from the mailbox or retained, before they are sent.
    pending: VecDeque<Pending>,
    /// Subscriptions whose retained messages are looked up when there is room for them, each once.
    retained: VecDeque<(TopicFilter, SubscribeOptions)>,
    batch: Option<Box<Batch>>,
    /// QoS 1 packet identifiers whose PUBACK is in the output but not yet in the socket.
    unflushed: Vec<u16>,
    /// QoS 2 packet identifiers to be made durable by the next [`Purpose::Prepare`].
    to_prepare: Vec<u16>,
    refusing: Option<Reason>,
}

#[derive(Debug)]
struct Pending {
    delivery: Delivery,
    /// It has a mailbox entry.
    mailbox: bool,
}

/// How long changes that nobody waits for may wait for company.
const LAZY_DELAY: Duration = Duration::from_millis(500);
/// So many of them do not wait longer.
const LAZY_MAX: usize = 256;
/// A batch of so much takes no more: it must fit the journal and the smallest stream, and a topic alias of four bytes may
/// stand for a topic of 64 KiB.
const BATCH_MAX_BYTES: usize = 256 * 1024;
/// Entries of the mailbox read at once.
const MAILBOX_PIECE: usize = 32;
/// No more deliveries are encoded while so much waits for the socket.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 64 * 1024;
/// How long a connection waits for the store before its client's presence is probed, at least.
const PROBE_AFTER: Duration = Duration::from_secs(60);

impl Machine {
    /// A connection that was just accepted. `generation` is unique among connections; `refusing` answers the CONNECT
    /// with that reason and nothing else.
    #[must_use]
    pub fn new(generation: u64, link: Arc<Link>, now: Duration, refusing: Option<Reason>) -> Machine {
        Machine {
            phase: Phase::AwaitConnect,
            version: Version::V311,
            generation,
            started: now,
            last_heard: now,
            keep_alive: None,
            lazy_due: None,
            client_packet_max: u32::MAX,
            window: 0,
            window_used: 0,
            batch_max: u16::MAX,
            feed: Feed::Live,
            connecting: None,
            session: None,
            will: None,
            link,
            aliases: Vec::new(),
            sent_aliases: SentAliases::default(),
            wants_problem_info: false,
            pending: VecDeque::new(),
            retained: VecDeque::new(),
            batch: None,
            unflushed: Vec::new(),
            to_prepare: Vec::new(),
            refusing,
        }
    }

    /// Handles one input.
    pub fn handle(&mut self, cx: &Context<'_>, input: Input, out: &mut Output) {
        if self.phase == Phase::Ended {
            // A session that arrives too late must not be lost.
            if let Input::Event(Event::Claimed(session)) = input {
                self.hand_back(cx, session);
            }
            return;
        }
        match input {
            Input::Packet(packet) => self.packet(cx, packet, out),
            Input::Bad(error) => self.bad(cx, &error, out),
            Input::ReadDone => self.read_done(cx, out),
            Input::Event(event) => self.event(cx, event, out),
            Input::Pump => self.pump(cx, out),
            Input::Flushed => self.flushed(),
            Input::Tick => self.tick(cx, out),
            Input::Gone => self.end(cx, End::Lost, out),
        }
        self.schedule_lazy(cx, out);
    }

    fn packet(&mut self, cx: &Context<'_>, packet: Packet, out: &mut Output) {
        self.last_heard = cx.now;
        match (self.phase, packet) {
            (Phase::AwaitConnect, Packet::Connect(connect)) => self.connect(cx, *connect, out),
            (Phase::Open, packet) => self.open_packet(cx, packet, out),
            // [MQTT-3.1.4-5]: packets sent behind CONNECT, before CONNACK. The shell does not read on after CONNECT,
            // so these came in the same read and wait there; anything else is out of order.
            _ => self.fail(cx, Reason::Protocol, out),
        }
    }

    fn open_packet(&mut self, cx: &Context<'_>, packet: Packet, out: &mut Output) {
        match packet {
            Packet::Publish(publish) => self.publish(cx, publish, out),
            Packet::PubRel(ack) => self.pubrel(ack),
            Packet::PubAck(ack) => self.puback(ack),
            Packet::PubRec(ack) => self.pubrec(ack),
            Packet::PubComp(ack) => self.pubcomp(ack),
            Packet::Subscribe(subscribe) => self.subscribe(cx, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(cx, unsubscribe),
            Packet::PingReq => crate::codec::encode::pingresp(&mut out.bytes), // [MQTT-3.12.4-1]
            Packet::Disconnect(disconnect) => self.disconnect(cx, disconnect, out),
            // Without an Authentication Method at CONNECT there is nothing to go on with [MQTT-4.12.0-6].
            Packet::Auth | Packet::Connect(_) => self.fail(cx, Reason::Protocol, out),
        }
    }

    fn event(&mut self, cx: &Context<'_>, event: Event, out: &mut Output) {
        match event {
            Event::Authenticated(outcome) => self.authenticated(cx, outcome, out),
            Event::Claimed(session) if self.phase == Phase::Claiming => self.claimed(cx, session, out),
            Event::Claimed(session) => self.hand_back(cx, session),
            Event::Completed { token, result } => self.completed(cx, token, result, out),
            Event::Mailbox { generation, after, result } => {
                if generation == self.generation {
                    self.mailbox(cx, after, result, out);
                }
            }
            Event::TakenOver { generation } => {
                if generation == self.generation {
                    self.fail(cx, Reason::SessionTakenOver, out); // [MQTT-3.1.4-3]
                }
            }
            Event::Stop => self.fail(cx, cx.limits.farewell(), out),
            Event::Abort => self.end(cx, End::Lost, out),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The link to poll; it changes when a session is resumed.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        self.session.as_ref().map_or(&self.link, |session| &session.link)
    }

    /// The client id, once there is a session.
    #[must_use]
    pub fn client_id(&self) -> Option<&Text> {
        self.session.as_ref().map(|session| &session.client_id)
    }

    /// Whether the socket may be read: not while something read before waits for the store.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::AwaitConnect => true,
            Phase::Open => !self.waits_for_store() && !self.batch_is_full(),
            _ => false,
        }
    }

    /// A batch is bounded in publications and bytes, too, whatever a read holds: the rest waits with the connection.
    fn batch_is_full(&self) -> bool {
        let count = usize::from(self.batch_max);
        self.batch.as_ref().is_some_and(|b| b.publications.len() >= count || b.bytes >= BATCH_MAX_BYTES)
    }

    fn waits_for_store(&self) -> bool {
        let answers = |o: &Outstanding| {
            !matches!(o.purpose, Purpose::Prepare(_) | Purpose::Retained(_) | Purpose::Lazy)
        };
        self.session.as_ref().is_some_and(|session| session.outstanding.iter().any(answers))
    }

    /// When to send [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<Duration> {
        match self.phase {
            Phase::Ended => None,
            Phase::Open => [self.silence_deadline(), self.lazy_due].into_iter().flatten().min(),
            _ => Some(self.started + limits.connect_timeout),
        }
    }

    /// One and a half Keep Alive [MQTT-3.1.2-22]; while the node itself does not read, when to look after the client.
    fn silence_deadline(&self) -> Option<Duration> {
        let patience = self.keep_alive.map(|k| k + k / 2);
        if self.waits_for_store() {
            return Some(self.last_heard + patience.unwrap_or(PROBE_AFTER).max(PROBE_AFTER));
        }
        Some(self.last_heard + patience?)
    }

    fn tick(&mut self, cx: &Context<'_>, out: &mut Output) {
        if self.phase != Phase::Open {
            if cx.now >= self.started + cx.limits.connect_timeout {
                self.fail(cx, Reason::Unspecified, out);
            }
            return;
        }
        if self.silence_deadline().is_some_and(|deadline| cx.now >= deadline) {
            if !self.waits_for_store() {
                return self.fail(cx, Reason::KeepAliveTimeout, out);
            }
            self.last_heard = cx.now;
            out.actions.push(Action::Probe);
        }
        if self.lazy_due.is_some_and(|due| cx.now >= due) {
            self.submit_lazy(out);
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// DISCONNECT with reason 0: no will.
    Normal,
    /// DISCONNECT that asks for the will, or any other reason of the client's.
    WithWill,
    /// The socket closed or broke without DISCONNECT.
    Lost,
    /// The node ends it, for this reason.
    Failed(Reason),
}
