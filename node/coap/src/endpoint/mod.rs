//! The endpoint: one object for all peers of a socket.
//!
//! ```text
//! receive ─▶ gate ─▶ duplicate? ─▶ options ─▶ blocks ─▶ Output::Request ─▶ the service
//!                                                                           │ respond, notify
//!            Output::Send ◀── retransmission ◀── blocks, credit ◀───────────┘
//! ```
//!
//! **Answers.** A request that is answered within [`Params::ack_delay`] gets its response in the acknowledgement, a later
//! one gets an empty acknowledgement first and a confirmable response of its own (RFC 7252 section 5.2). A duplicate, which
//! has the bytes of the first copy, is never given to the service twice: while the first copy is being worked on it gets
//! nothing or the empty acknowledgement again, afterwards the same answer (section 4.5). A message id that comes with other
//! bytes is another request. GET and FETCH change nothing and are simply done again, as that section allows.
//!
//! **Amplification.** Until a peer has shown that its address is its own, it is sent at most three times the bytes that
//! came from there (RFC 9175 section 2.4). A response that is larger goes out in blocks small enough, or as 4.01 with an
//! Echo value. The proof is an Echo value that comes back, or the answer to a message of ours whose id was drawn at random.

mod answer;
mod dedup;
mod echo;
mod flights;
mod observe;
mod params;
mod peers;
#[cfg(test)]
mod tests;
mod uploads;

pub use params::Params;

use crate::code::Code;
use crate::gate::{self, Head, Refusal};
use crate::message::{Kind, Message, Token};
use crate::option::{self, Block};
use crate::request::Request;
use crate::response::Response;
use crate::rng::{self, Ids, Rng};
use bytes::Bytes;
pub use dedup::Fingerprint;
use dedup::{History, How, Seen};
use echo::Echo;
use flights::Flights;
use observe::Observations;
use peers::Peers;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use uploads::{Progress, Uploads};

/// What tells peers apart: the address, or the session of a secure transport.
pub trait PeerKey: Copy + Eq + Ord + Hash + std::fmt::Debug {
    /// Gives its bytes to a hash.
    fn feed(&self, hash: &mut dyn FnMut(&[u8]));
}

impl PeerKey for SocketAddr {
    fn feed(&self, hash: &mut dyn FnMut(&[u8])) {
        match self.ip() {
            IpAddr::V4(ip) => hash(&ip.octets()),
            IpAddr::V6(ip) => hash(&ip.octets()),
        }
        hash(&self.port().to_be_bytes());
    }
}

impl PeerKey for u64 {
    fn feed(&self, hash: &mut dyn FnMut(&[u8])) {
        hash(&self.to_be_bytes());
    }
}

/// What a request that changes something is known by when it comes again. Whoever keeps it with what the request did
/// recognises a copy after a restart ([`Endpoint::remember`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The message: endpoint, message id and all bytes (RFC 7252 section 4.5).
    pub message: Fingerprint,
    /// The body that came in blocks under a Request-Tag: endpoint, tag, target and body (RFC 9175 section 3). Its blocks
    /// may come again under other message ids.
    pub body: Option<Fingerprint>,
}

/// A request that waits for its response; unique for the life of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeNo(pub u64);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<P> {
    /// Send this datagram.
    Send {
        /// To whom.
        peer: P,
        /// What.
        datagram: Bytes,
    },
    /// Answer this request with [`Endpoint::respond`], once.
    Request {
        /// To be returned.
        exchange: ExchangeNo,
        /// From whom.
        peer: P,
        /// Its token names an observation, if it becomes one.
        token: Token,
        /// It came by multicast.
        multicast: bool,
        /// By what it is known if it comes again; none if that does no harm, or is not to be expected.
        identity: Option<Identity>,
        /// The request, its body whole.
        request: Box<Request>,
    },
    /// A confirmable notification arrived.
    Notified {
        /// Whose observation.
        peer: P,
        /// Which.
        token: Token,
        /// As given to [`Endpoint::notify`].
        tag: u64,
    },
    /// A response given to [`Endpoint::respond_acknowledged`] arrived.
    Delivered {
        /// At whom.
        peer: P,
        /// As given.
        tag: u64,
    },
    /// An observation is over, and not by [`Endpoint::forget_observer`]: the peer rejected a notification or did not
    /// answer (RFC 7641 sections 3.6 and 4.5).
    ObserverGone {
        /// Whose observation.
        peer: P,
        /// Which.
        token: Token,
    },
}

/// What an endpoint has seen since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams.
    pub received: u64,
    /// Datagrams that are no message.
    pub malformed: u64,
    /// Requests that were there before.
    pub duplicates: u64,
    /// Messages of ours sent again.
    pub retransmissions: u64,
    /// Requests refused for want of room.
    pub overloaded: u64,
    /// Responses made smaller, or held back, because the address was not verified.
    pub curbed: u64,
    /// Peers forgotten for others while what they had sent was still of use.
    pub peers_evicted: u64,
    /// Answered requests forgotten while a copy of them could still come.
    pub history_cut: u64,
    /// Transfers of bodies given up before they were complete.
    pub uploads_evicted: u64,
}

/// What there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Known peers.
    pub peers: usize,
    /// Requests that are not answered.
    pub exchanges: usize,
    /// Observations.
    pub observations: usize,
    /// Confirmable messages of ours that are not acknowledged.
    pub flights: usize,
    /// Bytes of bodies that are not complete.
    pub upload_bytes: usize,
}

/// A request that is not answered.
#[derive(Clone, Debug)]
struct Open<P> {
    peer: P,
    id: u16,
    token: Token,
    confirmable: bool,
    /// What it is in the peer's [`dedup::Dedup`]; none for a request that changes nothing.
    remembered: Option<Fingerprint>,
    /// The same of a body with a Request-Tag.
    body: Option<Fingerprint>,
    /// An empty acknowledgement was sent.
    acknowledged: bool,
    multicast: bool,
    no_response: u32,
    block1: Option<Block>,
    block2: Option<Block>,
    wants_size2: bool,
    /// Observe value of the response, if it starts an observation.
    observe: Option<u32>,
    /// The service wants to hear that the response arrived: with this tag.
    deliver: Option<u64>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Endpoint<P> {
    params: Params,
    rng: Rng,
    ids: Ids,
    echo: Echo,
    peers: Peers<P>,
    history: History,
    exchanges: HashMap<u64, Open<P>>,
    next_exchange: u64,
    /// When which exchange gets its empty acknowledgement; those that were answered meanwhile are still in here.
    ack_due: VecDeque<(Duration, u64)>,
    uploads: Uploads<P>,
    flights: Flights<P>,
    observations: Observations<P>,
    /// When which observer that proved nothing is asked to show that it is there.
    asking: VecDeque<(Duration, P)>,
    /// Responses to multicast requests, waiting for their moment.
    leisurely: BTreeMap<(Duration, u64), (P, Bytes)>,
    swept: Duration,
    /// Added to the time for the numbers of notifications.
    since: Duration,
    counters: Counters,
}

/// A request that was there before.
struct Again<'a, P> {
    peer: P,
    head: Head,
    datagram: &'a [u8],
    fingerprint: Fingerprint,
}

/// Between two looks for what is too old.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Responses to multicast requests that wait.
const LEISURELY_MAX: usize = 64;

impl<P: PeerKey> Endpoint<P> {
    /// An endpoint that knows nobody. `secret` is drawn from the system's random numbers: message ids, delays and Echo values
    /// come from it, and an address is taken for real because nobody else knows them.
    #[must_use]
    pub fn new(params: Params, secret: [u8; 32]) -> Endpoint<P> {
        let mut rng = Rng::new(rng::derive(&secret, b"ids"));
        Endpoint {
            ids: Ids::new(&mut rng),
            rng,
            echo: Echo::new(rng::derive(&secret, b"echo")),
            peers: Peers::new(),
            history: History::new(params.history_max),
            exchanges: HashMap::new(),
            next_exchange: 0,
            ack_due: VecDeque::new(),
            uploads: Uploads::new(),
            flights: Flights::new(),
            observations: Observations::new(),
            asking: VecDeque::new(),
            leisurely: BTreeMap::new(),
            swept: Duration::ZERO,
            since: Duration::ZERO,
            counters: Counters::default(),
            params,
        }
    }

    /// What the time given in counts from: with the same moment after a restart, the numbers of notifications go on
    /// (RFC 7641 section 4.4).
    pub fn set_epoch(&mut self, since: Duration) {
        self.since = since;
    }

    /// What it was made with.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What it has seen.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            peers_evicted: self.peers.evicted,
            history_cut: self.history.cut,
            uploads_evicted: self.uploads.evicted,
            ..self.counters
        }
    }

    /// What there is now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges {
            peers: self.peers.len(),
            exchanges: self.exchanges.len(),
            observations: self.observations.len(),
            flights: self.flights.len(),
            upload_bytes: self.uploads.bytes(),
        }
    }

    /// A datagram came in. `multicast`: to a group address (RFC 7252 section 8).
    pub fn receive(
        &mut self,
        now: Duration,
        peer: P,
        datagram: &[u8],
        multicast: bool,
        out: &mut Vec<Output<P>>,
    ) {
        self.counters.received += 1;
        match gate::check(datagram) {
            Err(refusal) => {
                self.counters.malformed += 1;
                if let Refusal::Reset { id, .. } = refusal {
                    reject(peer, id, multicast, out);
                }
            }
            Ok(head) => match head.kind {
                Kind::Ack => self.acknowledged(now, peer, head.id, out),
                Kind::Rst => self.reset(now, peer, head.id, out),
                _ if head.code.is_request() => self.request(now, peer, head, datagram, multicast, out),
                // Ping (section 4.3), or a response to somebody who never asked (section 4.2).
                Kind::Con => reject(peer, head.id, multicast, out),
                Kind::Non => {}
            },
        }
    }

    fn request(
        &mut self,
        now: Duration,
        peer: P,
        head: Head,
        datagram: &[u8],
        multicast: bool,
        out: &mut Vec<Output<P>>,
    ) {
        // Section 8.1: a multicast request is non-confirmable, or it is none.
        if multicast && head.kind == Kind::Con {
            return;
        }
        if !self.meet(now, peer, out) {
            self.counters.overloaded += 1;
            return;
        }
        let now_secs = secs(now);
        let lifetime = self.params.exchange_lifetime_secs();
        let known = self.peers.touch(peer, now_secs, &mut self.rng);
        let earned = u32::try_from(datagram.len()).unwrap_or(u32::MAX).saturating_mul(3);
        known.credit = known.credit.saturating_add(earned);
        let remembered = (!head.code.is_safe()).then(|| Fingerprint::of(peer, datagram));
        if let Some(fingerprint) = remembered {
            match known.dedup.look(fingerprint, now_secs, lifetime, &mut self.history) {
                Seen::New => {}
                Seen::Busy => {
                    self.counters.duplicates += 1;
                    return;
                }
                Seen::Answered(code, how) => {
                    let copy = Again { peer, head, datagram, fingerprint };
                    return self.repeat(&copy, code, how, out);
                }
            }
        }
        let no = self.next_exchange;
        self.next_exchange += 1;
        let open = Open {
            peer,
            id: head.id,
            token: head.token,
            confirmable: head.kind == Kind::Con,
            remembered,
            body: None,
            acknowledged: false,
            multicast,
            no_response: 0,
            block1: None,
            block2: None,
            wants_size2: false,
            observe: None,
            deliver: None,
        };
        if let Err(refusal) = self.admit(peer) {
            // Not remembered: the copy that comes later may find room.
            if let (Some(known), Some(fingerprint)) = (self.peers.get_mut(peer), remembered) {
                known.dedup.forget(fingerprint);
            }
            return self.answer(now, Open { remembered: None, ..open }, refusal, out);
        }
        if let Some(known) = self.peers.get_mut(peer) {
            known.open += 1;
        }
        self.exchanges.insert(no, open);
        self.interpret(now, ExchangeNo(no), head, datagram, out);
    }

    /// Makes room for a peer that is not known. False if there is none.
    fn meet(&mut self, now: Duration, peer: P, out: &mut Vec<Output<P>>) -> bool {
        if self.peers.contains(peer) || self.peers.len() < self.params.peers_max {
            return true;
        }
        let Some(evicted) = self.peers.evict(secs(now), &mut self.history) else { return false };
        self.gone(evicted, out);
        true
    }

    /// Whether there is room for one more request.
    fn admit(&mut self, peer: P) -> Result<(), Response> {
        let full = self.exchanges.len() >= self.params.exchanges_max;
        let greedy =
            self.peers.get_mut(peer).is_some_and(|known| known.open >= self.params.exchanges_per_peer);
        if !full && !greedy {
            return Ok(());
        }
        self.counters.overloaded += 1;
        let code = if greedy { Code::TOO_MANY_REQUESTS } else { Code::SERVICE_UNAVAILABLE };
        Err(Response::new(code).with_uint(option::MAX_AGE, 2))
    }

    /// Options and blocks, then the service.
    fn interpret(
        &mut self,
        now: Duration,
        exchange: ExchangeNo,
        head: Head,
        datagram: &[u8],
        out: &mut Vec<Output<P>>,
    ) {
        let message = Message::decode(head, datagram);
        let parsed =
            message.map_or_else(|| Err(Response::error(Code::BAD_REQUEST, "not a message")), Request::parse);
        let mut request = match parsed.map(Box::new) {
            Ok(request) => request,
            Err(refusal) => return self.respond(now, exchange, refusal, out),
        };
        let Some(open) = self.exchanges.get_mut(&exchange.0) else { return };
        let (peer, token, multicast) = (open.peer, open.token, open.multicast);
        open.no_response = request.no_response;
        open.block1 = request.block1;
        open.block2 = request.block2;
        open.wants_size2 = request.wants_size2;
        if let Some(echo) = request.echo.take() {
            let lifetime = secs(self.params.echo_lifetime);
            if self.echo.proves(&echo, peer, secs(now), lifetime)
                && let Some(known) = self.peers.get_mut(peer)
                && !std::mem::replace(&mut known.verified, true)
            {
                self.release_waiting(now, peer, out);
            }
        }
        match self.body(now, peer, &request) {
            Progress::Continue => return self.respond(now, exchange, Response::new(Code::CONTINUE), out),
            Progress::Refused(refusal) => return self.respond(now, exchange, refusal, out),
            Progress::Whole(body) if !body.is_empty() => request.payload = Bytes::from(body),
            Progress::Whole(_) => {}
        }
        if let Some(refusal) = self.tagged_before(now, exchange, &request) {
            return self.respond(now, exchange, refusal, out);
        }
        if head.kind == Kind::Con {
            self.prune_ack_due();
            self.ack_due.push_back((now + self.params.ack_delay, exchange.0));
        }
        let identity = self.identity(exchange);
        out.push(Output::Request { exchange, peer, token, multicast, identity, request });
    }

    /// A non-confirmable message is sent once.
    fn identity(&self, exchange: ExchangeNo) -> Option<Identity> {
        let open = self.exchanges.get(&exchange.0)?;
        let expected = open.confirmable || open.body.is_some();
        Some(Identity { message: open.remembered.filter(|_| expected)?, body: open.body })
    }

    /// The body of this request was there before, whole and under the same Request-Tag: the answer to it.
    fn tagged_before(&mut self, now: Duration, exchange: ExchangeNo, request: &Request) -> Option<Response> {
        let in_blocks = request.block1.is_some_and(|block| block.num > 0);
        let tagged = request.request_tags.iter().any(|tag| !tag.is_empty());
        let open = self.exchanges.get_mut(&exchange.0).filter(|open| open.remembered.is_some())?;
        if !in_blocks || !tagged {
            return None;
        }
        let texts = request.path.iter().chain(&request.query).map(String::as_bytes);
        let tags = request.request_tags.iter().map(Vec::as_slice);
        let method = [request.method.0];
        let parts = [&method[..], &request.payload].into_iter().chain(texts).chain(tags);
        let fingerprint = Fingerprint::of_parts(open.peer, b"body", parts);
        let known = self.peers.get_mut(open.peer)?;
        let lifetime = self.params.exchange_lifetime_secs();
        let seen = known.dedup.look(fingerprint, secs(now), lifetime, &mut self.history);
        if seen == Seen::New {
            open.body = Some(fingerprint);
            return None;
        }
        self.counters.duplicates += 1;
        Some(match seen {
            Seen::Answered(code, _) => Response::new(code),
            _ => Response::error(Code::SERVICE_UNAVAILABLE, "it is being worked on")
                .with_uint(option::MAX_AGE, 2),
        })
    }

    /// What is known from before a restart: this request was answered with success, so long ago. Older than
    /// EXCHANGE_LIFETIME, it means nothing any more.
    pub fn remember(&mut self, now: Duration, request: Fingerprint, code: Code, age: Duration) {
        if let Some(left) = self.params.exchange_lifetime().checked_sub(age) {
            self.history.put(request, code, How::Direct, secs(now + left));
        }
    }

    /// The body of a request: in one piece, or this block of it. An empty `Whole` is the payload as it is.
    fn body(&mut self, now: Duration, peer: P, request: &Request) -> Progress {
        let several = request.block1.filter(|block| block.more || block.num > 0);
        match several {
            Some(block) => self.uploads.take(now, peer, request, block, &self.params),
            None if request.payload.len() > self.params.body_max_bytes => {
                Progress::Refused(uploads::too_large(&self.params))
            }
            None => Progress::Whole(Vec::new()),
        }
    }

    /// A copy of a request that was answered or acknowledged: the same answer (section 4.5). A non-confirmable one is
    /// ignored.
    fn repeat(&mut self, copy: &Again<'_, P>, code: Code, how: How, out: &mut Vec<Output<P>>) {
        self.counters.duplicates += 1;
        let Again { peer, head, datagram, fingerprint } = *copy;
        if head.kind != Kind::Con {
            return;
        }
        if matches!(how, How::Waiting | How::Apart) {
            return self.send(peer, &Message::empty(Kind::Ack, head.id), out);
        }
        if let Some(last) = self.peers.get_mut(peer).and_then(|known| known.last(fingerprint)) {
            let datagram = Bytes::copy_from_slice(last);
            return self.send_bytes(peer, datagram, out);
        }
        // Its code is what is left of it; the token, and the Block1 value that it repeated, are in the copy.
        let mut answer = Message { code, token: head.token, ..Message::empty(Kind::Ack, head.id) };
        let copy = Message::decode(head, datagram);
        if let Some(block) = copy.as_ref().and_then(|copy| copy.options.first(option::BLOCK1)) {
            answer.options.add(option::BLOCK1, block);
        }
        self.send(peer, &answer, out);
    }

    /// The response to a request. Does nothing if it was answered before.
    pub fn respond(
        &mut self,
        now: Duration,
        exchange: ExchangeNo,
        response: Response,
        out: &mut Vec<Output<P>>,
    ) {
        let Some(open) = self.exchanges.remove(&exchange.0) else { return };
        if let Some(known) = self.peers.get_mut(open.peer) {
            known.open = known.open.saturating_sub(1);
        }
        self.answer(now, open, response, out);
    }

    /// The response to a request, confirmable in any case: [`Output::Delivered`] says when it has arrived, unless the peer
    /// never acknowledges it.
    pub fn respond_acknowledged(
        &mut self,
        now: Duration,
        exchange: ExchangeNo,
        response: Response,
        tag: u64,
        out: &mut Vec<Output<P>>,
    ) {
        if let Some(open) = self.exchanges.get_mut(&exchange.0) {
            open.deliver = Some(tag);
        }
        self.acknowledge_late(exchange.0, out);
        self.respond(now, exchange, response, out);
    }

    /// Whether a peer has shown that its address is its own.
    #[must_use]
    pub fn is_verified(&self, peer: P) -> bool {
        self.peers.get(peer).is_some_and(|known| known.verified)
    }

    /// The answer to a peer that has to show first that its address is its own (RFC 9175 section 2.4): 4.01 with an Echo
    /// value to send back. A client that knows nothing of Echo answers the ping that goes out with it, as every endpoint
    /// does (RFC 7252 section 4.3), and may simply ask again.
    pub fn challenge(&mut self, now: Duration, peer: P, out: &mut Vec<Output<P>>) -> Response {
        self.ping(now, peer, out);
        let why = "show that your address is real: ask again with this Echo value";
        Response::error(Code::UNAUTHORIZED, why).with(option::ECHO, self.echo.value(peer, secs(now)))
    }

    /// What is due by time.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        while let Some((_, no)) = self.ack_due.front().copied().filter(|(due, _)| *due <= now) {
            self.ack_due.pop_front();
            self.acknowledge_late(no, out);
        }
        while let Some(entry) = self.leisurely.first_entry().filter(|entry| entry.key().0 <= now) {
            let (peer, datagram) = entry.remove();
            self.send_bytes(peer, datagram, out);
        }
        self.retransmit(now, out);
        self.ask_observers(now, out);
        if now.saturating_sub(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            let mut silent = Vec::new();
            self.peers.sweep(secs(now), &self.params, &mut silent);
            for peer in silent {
                self.ping(now, peer, out);
            }
            self.history.sweep(secs(now));
            self.uploads.sweep(now, &self.params);
        }
    }

    /// When [`Endpoint::tick`] has something to do, at the latest.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let acks = self.ack_due.front().map(|(due, _)| *due);
        let leisure = self.leisurely.first_key_value().map(|((due, _), _)| *due);
        let asking = self.asking.front().map(|(due, _)| *due);
        let timers = [acks, leisure, asking, self.flights.deadline()];
        timers.into_iter().flatten().fold(self.swept + SWEEP_EVERY, Duration::min)
    }

    /// The service takes its time: the request is acknowledged, its response will come apart (section 5.2.2).
    fn acknowledge_late(&mut self, no: u64, out: &mut Vec<Output<P>>) {
        let waits = |open: &&mut Open<P>| open.confirmable && !open.acknowledged;
        let Some(open) = self.exchanges.get_mut(&no).filter(waits) else { return };
        open.acknowledged = true;
        let (peer, id, remembered) = (open.peer, open.id, open.remembered);
        if let (Some(known), Some(fingerprint)) = (self.peers.get_mut(peer), remembered) {
            known.dedup.answered(fingerprint, Code::EMPTY, How::Waiting);
        }
        self.send(peer, &Message::empty(Kind::Ack, id), out);
    }

    /// What was answered in time needs no place in the queue.
    fn prune_ack_due(&mut self) {
        while self.ack_due.front().is_some_and(|(_, no)| !self.exchanges.contains_key(no)) {
            self.ack_due.pop_front();
        }
    }
}

/// A Reset (section 4.2): as short as what it answers, so it needs no credit. Never to a group (section 8.1).
fn reject<P>(peer: P, id: u16, multicast: bool, out: &mut Vec<Output<P>>) {
    if !multicast {
        out.push(Output::Send { peer, datagram: Message::empty(Kind::Rst, id).encode() });
    }
}

fn secs(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
