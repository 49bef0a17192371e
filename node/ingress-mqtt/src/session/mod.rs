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
//! - `inbound`: PUBLISH and its QoS flows, SUBSCRIBE, UNSUBSCRIBE, the batch of one read and its completion
//! - `outbound`: deliveries, the send window, packet identifiers, the mailbox
//! - `end`: DISCONNECT, keep alive, take-over, will, what is kept

mod connect;
mod end;
mod inbound;
mod outbound;
pub(crate) mod records;
#[cfg(test)]
mod tests;

use crate::clients::Sessions;
use crate::codec::{Connect, DecodeError, Packet, Version, Will};
use crate::outlet::{Event, Link, QueueBounds};
use crate::reason::Reason;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event as CoreEvent, Position, Qos, Timestamp};
use eventmesh_edge_core::ports::hub::{
    Delivery, Hub, Principal, Publication, Submission, SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{SessionNo, StateChange};
use eventmesh_edge_core::topic::TopicFilter;
use records::Inbound;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What a client meets when the stream it publishes to is full and its policy is `refuse` (P5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The answer comes when there is room again; the socket is not read meanwhile.
    #[default]
    Withhold,
    /// MQTT 5: PUBACK or PUBREC 0x97. MQTT 3.x has no code for it: the connection is closed.
    Reject,
}

/// Limits and policies of one listener's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload.
    pub payload_max_bytes: u32,
    /// PUBLISH with QoS 1 and 2 that a client may have unanswered (Receive Maximum of the node).
    pub receive_maximum: u16,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// PUBLISH with QoS 1 and 2 that the node has unanswered at a client; its own Receive Maximum may be lower.
    pub send_window: u16,
    /// Longest Keep Alive that an MQTT 5 client gets (Server Keep Alive); `None` lets it choose, 0 included.
    pub keep_alive_max_secs: Option<u16>,
    /// From accept to CONNACK.
    pub connect_timeout: Duration,
    /// See [`WhenFull`].
    pub when_full: WhenFull,
    /// Let clients in that show no user name (P7).
    pub anonymous: bool,
    /// There is somebody to check user names.
    pub has_authenticator: bool,
    /// Subscriptions per session.
    pub subscriptions_max: usize,
    /// The delivery queue of each connection.
    pub queue: QueueBounds,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            payload_max_bytes: 256 * 1024,
            receive_maximum: 1024,
            topic_alias_maximum: 16,
            send_window: 100,
            keep_alive_max_secs: None,
            connect_timeout: Duration::from_secs(10),
            when_full: WhenFull::Withhold,
            anonymous: false,
            has_authenticator: false,
            subscriptions_max: 1000,
            queue: QueueBounds { max_events: 1000, max_bytes: 1024 * 1024 },
        }
    }
}

impl Limits {
    /// Largest packet: the payload, the longest topic, and room for properties.
    #[must_use]
    pub fn packet_max_bytes(&self) -> u32 {
        const TOPIC_AND_PROPERTIES: u32 = 72 * 1024;
        self.payload_max_bytes.saturating_add(TOPIC_AND_PROPERTIES).min(268_435_460)
    }
}

/// What the machine may look at while it handles one input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Monotonic time.
    pub now: Duration,
    /// Wall clock.
    pub wall: Timestamp,
    /// The client table.
    pub sessions: &'a Sessions,
    /// The listener's limits.
    pub limits: &'a Limits,
}

impl<'a> Context<'a> {
    fn hub(&self) -> &'a dyn Hub {
        self.sessions.hub()
    }
}

/// What happened.
pub enum Input {
    /// A packet was decoded. Follow the last one of a read with [`Input::ReadDone`].
    Packet(Packet),
    /// The bytes were not a packet, or not one for us.
    Bad(DecodeError),
    /// Nothing more was decoded from this read.
    ReadDone,
    /// From the link.
    Event(Event),
    /// Deliveries may wait in the link, or there is room in the output again.
    Pump,
    /// Every byte of the output so far was taken by the socket.
    Flushed,
    /// A deadline may have passed.
    Tick,
    /// The socket is closed or broken.
    Gone,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Output {
    /// For the socket, in order, before anything that comes later.
    pub bytes: BytesMut,
    /// In order.
    pub actions: Vec<Action>,
}

/// Something that needs the world.
#[derive(Debug)]
pub enum Action {
    /// Check the login; answer with [`Event::Authenticated`].
    Authenticate(Box<Login>),
    /// Commit; answer with [`Event::Completed`] carrying the token.
    Submit {
        /// To be returned.
        token: u64,
        /// What to commit.
        submission: Submission,
    },
    /// Read the mailbox; answer with [`Event::Mailbox`].
    ReadMailbox {
        /// To be returned.
        generation: u64,
        /// Whose.
        session: SessionNo,
        /// After which position.
        after: Position,
        /// At most how many.
        max_events: usize,
    },
    /// The connection has been waiting for the store for long: has the client given up? Then [`Input::Gone`].
    Probe,
    /// Write what is in the output and close. The machine has ended; nothing is sent after this.
    Close(Reason),
}

/// What a client showed at CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Client identifier.
    pub client_id: Text,
    /// User name.
    pub username: Text,
    /// Password.
    pub password: Option<Bytes>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

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

/// A session: what outlives a connection if it is persistent, and ends with it if not.
pub struct Session {
    pub(crate) client_id: Text,
    pub(crate) principal: Principal,
    /// CloudEvents `source` of everything this client publishes.
    source: Text,
    /// Set for a persistent session.
    pub(crate) number: Option<SessionNo>,
    pub(crate) expiry_secs: u32,
    pub(crate) subscriber: Option<SubscriberId>,
    pub(crate) link: Arc<Link>,
    /// What it subscribes to.
    pub(crate) filters: HashMap<Text, SubscribeOptions>,
    /// Publishes received whose packet identifier is not free: QoS 2 until PUBREL; QoS 1 of a persistent session until
    /// the PUBACK was written.
    pub(crate) inbound: HashMap<u16, Inbound>,
    /// The client's packet identifiers go further than two batches reach, so none comes again right after its PUBACK.
    counts_up: bool,
    /// Some of `inbound` may be unsure.
    resends_due: bool,
    /// Messages sent and not answered, in the order sent.
    pub(crate) flights: VecDeque<Flight>,
    last_pid: u16,
    /// Everything in the mailbox up to here was given a packet identifier, or given up.
    sent_through: Position,
    outstanding: VecDeque<Outstanding>,
    /// Changes that nobody waits for; they go with the next submission.
    lazy: Vec<StateChange>,
    next_token: u64,
    /// Of a connection that was lost and whose Will Delay has not passed.
    pub(crate) will: Option<Box<PendingWill>>,
}

/// A will that waits for its delay, or for the end of its session.
#[derive(Debug)]
pub struct PendingWill {
    pub(crate) event: CoreEvent,
    pub(crate) delay: Duration,
}

/// A message of QoS 1 or 2 on its way to the client.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) pid: u16,
    pub(crate) qos: Qos,
    pub(crate) step: Step,
    /// Its place in the mailbox; `None` if it lives in memory only.
    pub(crate) position: Option<Position>,
    /// Sent on the present connection: it takes a place in the client's Receive Maximum.
    on_wire: bool,
    /// Kept where it could not be read again: not yet sent, or not in a mailbox.
    delivery: Option<Box<Delivery>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// QoS 2 of a persistent session: the packet identifier is being made durable.
    Preparing,
    /// PUBLISH is out, or may be.
    Sent,
    /// PUBREC was received, PUBREL is out.
    Released,
}

/// A submission whose completion something waits for.
#[derive(Debug)]
struct Outstanding {
    token: u64,
    /// Which connection of the session made it; the answers are for that one alone.
    generation: u64,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// The batch of one read. `plain`: its changes that refer to no publication, kept only where a full stream may
    /// refuse the publications alone.
    Answers { answers: Vec<Answer>, plain: Vec<StateChange> },
    /// The same after a full stream refused its publications: state changes alone.
    AnswersAfterRefusal(Vec<Answer>),
    /// CONNACK.
    Open,
    /// Packet identifiers of QoS 2 messages.
    Prepare(Vec<u16>),
    /// Nobody waits.
    Lazy,
}

/// An answer that waits for its submission; its effect on the session waits with it.
#[derive(Debug)]
enum Answer {
    /// QoS 1. `event` is the index of the publication, `None` for a resend of one that is stored.
    PubAck {
        pid: u16,
        event: Option<usize>,
        refused: Option<Reason>,
    },
    /// QoS 2, likewise.
    PubRec {
        pid: u16,
        event: Option<usize>,
        refused: Option<Reason>,
    },
    /// QoS 2, released.
    PubComp {
        pid: u16,
        known: bool,
    },
    /// Answer to PUBREC for one of ours.
    PubRel {
        pid: u16,
        known: bool,
    },
    SubAck {
        pid: u16,
        codes: Vec<u8>,
        undo: Undo,
        retained: Vec<(TopicFilter, SubscribeOptions)>,
    },
    UnsubAck {
        pid: u16,
        codes: Vec<u8>,
        undo: Undo,
    },
}

/// What was subscribed before a SUBSCRIBE or UNSUBSCRIBE that is not durable yet; `None`: nothing.
type Undo = Vec<(TopicFilter, Option<SubscribeOptions>)>;

/// What one read amounts to.
#[derive(Default)]
struct Batch {
    publications: Vec<Publication>,
    /// What those take.
    bytes: usize,
    state: Vec<StateChange>,
    answers: Vec<Answer>,
}

impl Batch {
    fn push(&mut self, publication: Publication) {
        let event = &publication.event;
        self.bytes += event.payload.len() + event.topic.len() + event.source.len();
        self.publications.push(publication);
    }
}

/// What is known between CONNECT and CONNACK.
struct Connecting {
    connect: Connect,
    assigned: bool,
    principal: Option<Principal>,
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
    will: Option<Box<Will>>,
    /// Until there is a session: its link to be.
    link: Arc<Link>,
    /// Topics by alias, from 1.
    aliases: Vec<Text>,
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
            Event::Stop => self.fail(cx, Reason::ServerShuttingDown, out),
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
        let answers = |o: &Outstanding| !matches!(o.purpose, Purpose::Prepare(_) | Purpose::Lazy);
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

    fn submit(&mut self, purpose: Purpose, mut submission: Submission, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        if !session.lazy.is_empty() {
            // They happened before what is submitted now: a packet identifier is freed, then used again.
            let mut state = std::mem::take(&mut session.lazy);
            state.append(&mut submission.state);
            submission.state = state;
        }
        self.lazy_due = None;
        submission.origin = session.subscriber;
        session.next_token += 1;
        let token = session.next_token;
        session.outstanding.push_back(Outstanding { token, generation: self.generation, purpose });
        out.actions.push(Action::Submit { token, submission });
    }

    /// Changes that go with the next submission.
    fn leave_for_later(&mut self, state: Vec<StateChange>) {
        if let Some(session) = self.session.as_mut() {
            session.lazy.extend(state);
        }
    }

    fn submit_lazy(&mut self, out: &mut Output) {
        if self.session.as_ref().is_some_and(|session| !session.lazy.is_empty()) {
            self.submit(Purpose::Lazy, Submission::default(), out);
        }
        self.lazy_due = None;
    }

    fn schedule_lazy(&mut self, cx: &Context<'_>, out: &mut Output) {
        let waiting = self.session.as_ref().map_or(0, |session| session.lazy.len());
        if waiting >= LAZY_MAX && !self.has_outstanding_lazy() {
            self.submit_lazy(out);
        } else if waiting > 0 && self.lazy_due.is_none() && self.phase == Phase::Open {
            self.lazy_due = Some(cx.now + LAZY_DELAY);
        }
    }

    fn has_outstanding_lazy(&self) -> bool {
        let lazy = |o: &Outstanding| matches!(o.purpose, Purpose::Lazy);
        self.session.as_ref().is_some_and(|session| session.outstanding.iter().any(lazy))
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

impl Session {
    fn source(&self) -> &Text {
        &self.source
    }

    /// The same session, resumed by a client that showed who it is (or another name for it).
    fn now_of(&mut self, principal: Principal, sessions: &Sessions) {
        if self.principal != principal {
            self.source = sessions.source(&principal);
            self.principal = principal;
        }
    }

    pub(crate) fn new(client_id: Text, principal: Principal, source: Text, link: Arc<Link>) -> Session {
        Session {
            client_id,
            principal,
            source,
            number: None,
            expiry_secs: 0,
            subscriber: None,
            link,
            filters: HashMap::new(),
            inbound: HashMap::new(),
            counts_up: false,
            resends_due: false,
            flights: VecDeque::new(),
            last_pid: 0,
            sent_through: Position::ZERO,
            outstanding: VecDeque::new(),
            lazy: Vec::new(),
            next_token: 0,
            will: None,
        }
    }
}
