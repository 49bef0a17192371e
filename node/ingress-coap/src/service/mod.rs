//! Requests to publications and back: the whole of a listener but its socket.
//!
//! [`Service::handle`] takes what happened ([`Input`]) and appends what to do ([`Output`]). It asks the hub's namespace
//! (subscribe, retained) directly, because that answers at once; what becomes durable goes out as [`Action::Submit`] and
//! comes back as [`Event::Completed`], and only then is the request answered (P1).
//!
//! - `publish`: POST, PUT, DELETE and their outcome
//! - `read`: GET of a value, of the topics under a filter, of `/.well-known/core`
//! - `lists`: lists of topics, which clients fetch block by block
//! - `mailbox`: commands for devices that sleep
//! - `observers`: who observes what, over one subscriber of the hub for all of them

mod lists;
mod mailbox;
mod observers;
mod publish;
mod read;

use crate::link::Event;
use crate::path::{self, Target};
use crate::records::{self, Answered, Row};
use crate::stats::Stats;
use bytes::Bytes;
use eventmesh_edge_coap::endpoint::Output as Out;
use eventmesh_edge_coap::{Code, Endpoint, ExchangeNo, Identity, Params, Request, Response, Token};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::hub::{Hub, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{SessionNo, StateChange};
use lists::Lists;
use mailbox::Mailboxes;
pub use mailbox::{Bell, Bells};
use observers::Observers;
use publish::Pending;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a service is made with.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Name of the node: the authority of every `source`.
    pub node: Text,
    /// Others on this node prove who they are: devices here get a `source` that none of those has.
    pub anonymous_apart: bool,
    /// Devices that may have a mailbox.
    pub mailboxes_max: usize,
    /// How long a mailbox is kept for a device that is not heard of.
    pub mailbox_expiry: Duration,
    /// The endpoint's times and bounds.
    pub params: Params,
}

/// What the service may look at while it handles one input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Monotonic time.
    pub now: Duration,
    /// Wall clock.
    pub wall: Timestamp,
    /// The hub.
    pub hub: &'a dyn Hub,
}

/// What happened.
pub enum Input<'a> {
    /// A datagram came in.
    Datagram {
        /// From whom.
        peer: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
        /// It was sent to a group.
        multicast: bool,
    },
    /// The hub did what it was asked, or has something for somebody.
    Event(Event),
    /// A deadline may have passed.
    Tick,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent, in order.
    pub datagrams: Vec<(SocketAddr, Bytes)>,
    /// In order.
    pub actions: Vec<Action>,
}

/// Something that needs the world.
#[derive(Debug)]
pub enum Action {
    /// Commit; answer with [`Event::Completed`] carrying the token.
    Submit {
        /// To be returned.
        token: u64,
        /// What to commit.
        submission: Submission,
    },
    /// Read the mailbox, a few entries; answer with [`Event::Mailbox`].
    ReadMailbox {
        /// Whose.
        session: SessionNo,
        /// After which position.
        after: Position,
    },
}

/// What a service is given at its birth.
pub struct Parts {
    /// The subscriber of the hub that all observations share.
    pub observer: SubscriberId,
    /// Outlets for mailboxes.
    pub bells: Bells,
    /// Of the endpoint: from the system's random numbers.
    pub secret: [u8; 32],
}

/// A request as the endpoint gives it.
#[derive(Clone)]
struct Asked {
    exchange: ExchangeNo,
    peer: SocketAddr,
    token: Token,
    multicast: bool,
    identity: Option<Identity>,
    request: Box<Request>,
}

/// See the module's description.
pub struct Service {
    options: ServiceOptions,
    endpoint: Endpoint<SocketAddr>,
    /// What the endpoint said while one input is handled.
    said: Vec<Out<SocketAddr>>,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    /// Topics whose value is being written, and how often.
    writing: HashMap<Text, u32>,
    observers: Observers,
    mailboxes: Mailboxes,
    lists: Lists,
    /// The next of [`records::SLOTS`] for a request that is answered.
    next_slot: u16,
    stats: Arc<Stats>,
}

impl Service {
    /// A service that knows nobody.
    #[must_use]
    pub fn new(options: ServiceOptions, parts: Parts) -> Service {
        Service {
            endpoint: Endpoint::new(options.params.clone(), parts.secret),
            said: Vec::new(),
            pending: HashMap::new(),
            next_token: 1,
            writing: HashMap::new(),
            observers: Observers::new(parts.observer),
            mailboxes: Mailboxes::new(parts.bells, &options),
            lists: Lists::default(),
            next_slot: 0,
            options,
            stats: Arc::default(),
        }
    }

    /// Puts back what was kept over a restart: rows of the table Node with [`crate::records::PREFIX`], in any order.
    /// Returns how many were not understood.
    pub fn restore(&mut self, cx: &Context<'_>, rows: &[(Bytes, Bytes)]) -> usize {
        // Numbers of notifications go on where they were (RFC 7641 section 4.4).
        self.endpoint.set_epoch(Duration::from_millis(cx.wall.0).saturating_sub(cx.now));
        let mut skipped = 0;
        let mut answered = Vec::new();
        for (key, value) in rows {
            match records::read(key, value) {
                Some(Row::Mark(next)) => self.mailboxes.restore_mark(next),
                Some(Row::Device { name, number, heard }) => {
                    skipped += usize::from(!self.mailboxes.open(cx, name, number, Some(heard)));
                }
                Some(Row::Answered(row)) => answered.push(row),
                Some(Row::Observer(kept)) => skipped += usize::from(!self.restore_observer(cx, kept)),
                None => skipped += 1,
            }
        }
        self.remember(cx, answered);
        skipped
    }

    /// Copies of requests that were stored before a restart are answered and not stored again, while they may come. How old
    /// they are tells the clock: rows are written and believed only while it is set.
    fn remember(&mut self, cx: &Context<'_>, mut answered: Vec<Answered>) {
        answered.sort_unstable_by_key(|row| row.at);
        self.next_slot = answered.last().map_or(0, |row| next_slot(row.slot));
        for Answered { code, at, identity, .. } in answered {
            // A copy from the future is one of a clock that was turned back.
            if cx.wall.is_plausible() && at <= cx.wall {
                let age = at.until(cx.wall);
                for fingerprint in [Some(identity.message), identity.body].into_iter().flatten() {
                    self.endpoint.remember(cx.now, fingerprint, code, age);
                }
            }
        }
    }

    /// What tells a copy of this request after a restart, to be stored with what it does.
    fn note(&mut self, cx: &Context<'_>, identity: Option<Identity>, code: Code) -> Option<StateChange> {
        let identity = identity.filter(|_| cx.wall.is_plausible())?;
        let slot = self.next_slot;
        self.next_slot = next_slot(slot);
        Some(Answered { slot, code, at: cx.wall, identity }.put())
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// When a [`Input::Tick`] has something to do, at the latest.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.endpoint.deadline()
    }

    /// Nothing waits for the store.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes what happened.
    pub fn handle(&mut self, cx: &Context<'_>, input: Input<'_>, out: &mut Output) {
        match input {
            Input::Datagram { peer, bytes, multicast } => {
                self.stats.add(|s| &s.datagrams_in, 1);
                self.stats.add(|s| &s.bytes_in, bytes.len());
                self.endpoint.receive(cx.now, peer, bytes, multicast, &mut self.said);
            }
            Input::Event(Event::Completed { token, result }) => self.completed(cx, token, result, out),
            Input::Event(Event::Delivery(delivery)) => self.delivery(cx, &delivery),
            Input::Event(Event::Rung(session)) => self.rung(session, out),
            Input::Event(Event::Mailbox { session, result }) => self.mailbox_read(cx, session, result, out),
            Input::Tick => {
                self.endpoint.tick(cx.now, &mut self.said);
                self.close_forgotten_mailboxes(cx, out);
                self.lists.sweep(cx.now);
                self.note_figures();
            }
        }
        self.act(cx, out);
    }

    /// Does what the endpoint says, until it says nothing more.
    fn act(&mut self, cx: &Context<'_>, out: &mut Output) {
        while !self.said.is_empty() {
            for said in std::mem::take(&mut self.said) {
                match said {
                    Out::Send { peer, datagram } => out.datagrams.push((peer, datagram)),
                    Out::Request { exchange, peer, token, multicast, identity, request } => {
                        let asked = Asked { exchange, peer, token, multicast, identity, request };
                        self.ask(cx, &asked, out);
                    }
                    Out::Notified { peer, token, tag } => {
                        if !self.command_acknowledged(cx, peer, token, tag, out) {
                            self.observer_is_there(peer, token, out);
                        }
                    }
                    Out::Delivered { peer, tag } => self.command_fetched(cx, peer, tag, out),
                    Out::ObserverGone { peer, token } => {
                        self.unwatch(peer, token);
                        self.observer_gone(cx, peer, token, out);
                    }
                }
            }
        }
    }

    fn ask(&mut self, cx: &Context<'_>, asked: &Asked, out: &mut Output) {
        let response = match path::target(&asked.request) {
            Err(refusal) => Some(refusal),
            Ok(Target::Core) => Some(read::core(&asked.request)),
            Ok(Target::Mailbox(device)) => self.mailbox(cx, asked, &device, out),
            Ok(Target::Topic(topic)) => self.topic(cx, asked, topic.into_text(), out),
            Ok(Target::Filter(filter)) => Some(self.filter(cx, asked, &filter, out)),
        };
        if let Some(response) = response {
            self.respond(cx, asked.exchange, response);
        }
    }

    /// The response, unless it has to wait for the store.
    fn topic(&mut self, cx: &Context<'_>, asked: &Asked, topic: Text, out: &mut Output) -> Option<Response> {
        // RFC 7252 section 8.1: a group is asked, it is not told.
        if asked.multicast {
            return Some(Response::new(Code::METHOD_NOT_ALLOWED));
        }
        match asked.request.method {
            Code::GET => Some(self.read(cx, asked, &topic, out)),
            Code::POST | Code::PUT | Code::DELETE | Code::PATCH | Code::IPATCH => {
                self.publish(cx, asked, topic, out)
            }
            _ => Some(Response::error(
                Code::METHOD_NOT_ALLOWED,
                "a topic knows GET, POST, PUT, DELETE, PATCH and iPATCH",
            )),
        }
    }

    fn respond(&mut self, cx: &Context<'_>, exchange: ExchangeNo, response: Response) {
        self.endpoint.respond(cx.now, exchange, response, &mut self.said);
    }

    /// Who says so in the query, or the address.
    fn source(&self, peer: SocketAddr, request: &Request) -> Text {
        let address;
        let device = match request.argument("ep") {
            Some(name) if !name.is_empty() => name,
            _ => {
                address = peer.ip().to_canonical().to_string();
                &address
            }
        };
        if self.options.anonymous_apart {
            eventmesh_edge_core::mapping::anonymous_coap_source(&self.options.node, device)
        } else {
            eventmesh_edge_core::mapping::coap_source(&self.options.node, device)
        }
    }

    fn note_figures(&self) {
        let (counters, gauges) = (self.endpoint.counters(), self.endpoint.gauges());
        let stats = &self.stats;
        stats.set(|s| &s.peers, gauges.peers as u64);
        stats.set(|s| &s.observations, gauges.observations as u64);
        stats.set(|s| &s.malformed, counters.malformed);
        stats.set(|s| &s.duplicates, counters.duplicates);
        stats.set(|s| &s.retransmissions, counters.retransmissions);
        stats.set(|s| &s.overloaded, counters.overloaded);
        stats.set(|s| &s.curbed, counters.curbed);
        stats.set(|s| &s.peers_evicted, counters.peers_evicted);
        stats.set(|s| &s.history_cut, counters.history_cut);
        stats.set(|s| &s.uploads_evicted, counters.uploads_evicted);
        stats.set(|s| &s.mailboxes, self.mailboxes.len() as u64);
    }
}

fn next_slot(slot: u16) -> u16 {
    (slot + 1) % records::SLOTS
}
