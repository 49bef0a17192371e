//! Observations (RFC 7641): who is told of changes, and how.
//!
//! One notification of an observation is on its way at a time; a newer one waits, and the newest wins (section 4.5.2).
//! They are confirmable if the registration was, and otherwise every [`super::Params::probe_every`]th and after
//! [`super::Params::probe_interval`] at the latest, so that an observer that is gone is noticed (section 4.5).
//!
//! An observer whose address is not verified is pinged within seconds, and told nothing beyond its credit before it has
//! answered; one that does not answer is forgotten when the retransmissions of the ping are over, and makes room for others
//! before that. An observer of something that never changes is pinged after [`super::Params::probe_interval`].

use super::answer::{Shell, cut};
use super::flights::{Purpose, Relaunch};
use super::{Endpoint, ExchangeNo, Output, PeerKey};
use crate::message::{Kind, Token};
use crate::option;
use crate::response::Response;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

#[derive(Debug)]
struct Observation {
    sequence: u32,
    confirmable: bool,
    /// The notification that went out last; a Reset of it cancels.
    last_id: Option<u16>,
    /// It is confirmable and not acknowledged; with its tag.
    in_flight: Option<u64>,
    /// The newest that could not be sent yet, with its tag.
    waiting: Option<Box<(Response, u64)>>,
    since_probe: u16,
    probed: Duration,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Observations<P> {
    map: BTreeMap<(P, Token), Observation>,
    /// By the id of the last notification.
    by_id: HashMap<(P, u16), Token>,
}

impl<P: PeerKey> Observations<P> {
    pub(super) fn new() -> Observations<P> {
        Observations { map: BTreeMap::new(), by_id: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    fn tokens_of(&self, peer: P) -> Vec<Token> {
        // The empty token is the lowest.
        let from = self.map.range((peer, Token::default())..);
        from.take_while(|((other, _), _)| *other == peer).map(|((_, token), _)| *token).collect()
    }
}

/// When an observer that proved nothing is asked to show that it is there, and asked again.
const PROVE_AFTER: Duration = Duration::from_secs(5);

/// Sequence numbers (section 4.4): one for each 32 ms of the time given in, and always higher than the last. They stay
/// comparable over a restart, because that time does not begin anew ([`Endpoint::set_epoch`]).
fn sequence(last: u32, now: Duration) -> u32 {
    let by_time = by_time(now);
    let ahead = by_time.wrapping_sub(last) & 0xff_ffff;
    if ahead != 0 && ahead < 0x80_0000 { by_time } else { last.wrapping_add(1) & 0xff_ffff }
}

fn by_time(now: Duration) -> u32 {
    u32::try_from((now.as_millis() >> 5) & 0xff_ffff).unwrap_or_default()
}

impl<P: PeerKey> Endpoint<P> {
    /// Makes an observation of a request before it is answered with success. False if there is no room, or the request is
    /// gone: then it is a plain GET. A registration with the same token replaces the earlier one (section 4.1).
    /// `acknowledged`: all notifications are confirmable, whatever the type of the registration.
    pub fn observe(&mut self, now: Duration, exchange: ExchangeNo, acknowledged: bool) -> bool {
        let Some(open) = self.exchanges.get(&exchange.0) else { return false };
        let (peer, token, confirmable) = (open.peer, open.token, open.confirmable || acknowledged);
        if open.multicast || !self.will_ask(now, peer) || !self.register(now, peer, token, confirmable) {
            return false;
        }
        let at = self.since + now;
        let observation = self.observations.map.get_mut(&(peer, token));
        let number = observation.map(|observation| {
            observation.sequence = sequence(observation.sequence, at);
            observation.sequence
        });
        if let Some(open) = self.exchanges.get_mut(&exchange.0) {
            open.observe = number;
        }
        number.is_some()
    }

    /// Puts back an observation from before a restart, of a peer that had acknowledged a notification. False if there is
    /// no room.
    pub fn restore_observer(&mut self, now: Duration, peer: P, token: Token) -> bool {
        // Nobody is known yet whom it could push out.
        if self.meet(now, peer, &mut Vec::new()) {
            self.peers.touch(peer, super::secs(now), &mut self.rng).verified = true;
            return self.register(now, peer, token, true);
        }
        false
    }

    /// Puts a peer that proved nothing into the queue of those that will be asked. False if there is no room.
    fn will_ask(&mut self, now: Duration, peer: P) -> bool {
        let Some(known) = self.peers.get_mut(peer) else { return false };
        if known.verified || known.asking {
            return true;
        }
        let room = self.asking.len() < self.params.peers_max;
        if room {
            known.asking = true;
            self.asking.push_back((now + PROVE_AFTER, peer));
        }
        room
    }

    /// Asks those whose turn it is.
    pub(super) fn ask_observers(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        while let Some((_, peer)) = self.asking.front().copied().filter(|(due, _)| *due <= now) {
            self.asking.pop_front();
            let Some(known) = self.peers.get_mut(peer).filter(|known| known.asking) else { continue };
            known.asking = !known.verified && known.observing > 0;
            if known.asking {
                self.asking.push_back((now + PROVE_AFTER, peer));
                self.ping(now, peer, out);
            }
        }
    }

    fn register(&mut self, now: Duration, peer: P, token: Token, confirmable: bool) -> bool {
        let known = self.observations.map.contains_key(&(peer, token));
        let room = self.observations.map.len() < self.params.observations_max;
        let per_peer = self.params.observations_per_peer;
        let Some(known_peer) = self.peers.get_mut(peer) else { return false };
        if !known && (!room || known_peer.observing >= per_peer) {
            return false;
        }
        if known {
            self.forget_observer(peer, token);
        }
        if let Some(known_peer) = self.peers.get_mut(peer) {
            known_peer.observing += 1;
        }
        let observation = Observation {
            sequence: by_time(self.since + now),
            confirmable,
            last_id: None,
            in_flight: None,
            waiting: None,
            since_probe: 0,
            probed: now,
        };
        self.observations.map.insert((peer, token), observation);
        true
    }

    /// Ends an observation. False if there was none.
    pub fn forget_observer(&mut self, peer: P, token: Token) -> bool {
        let Some(observation) = self.observations.map.remove(&(peer, token)) else { return false };
        if let Some(id) = observation.last_id {
            self.observations.by_id.remove(&(peer, id));
            self.ground((peer, id));
        }
        if let Some(known) = self.peers.get_mut(peer) {
            known.observing = known.observing.saturating_sub(1);
        }
        true
    }

    /// Tells an observer of a new state. `tag` comes back with [`Output::Notified`] if the message was confirmable and
    /// arrived. A response that is no success ends the observation (section 4.2). False if there is no such observation.
    pub fn notify(
        &mut self,
        now: Duration,
        peer: P,
        token: Token,
        response: Response,
        tag: u64,
        out: &mut Vec<Output<P>>,
    ) -> bool {
        let Some(observation) = self.observations.map.get_mut(&(peer, token)) else { return false };
        observation.waiting = Some(Box::new((response, tag)));
        if observation.in_flight.is_none() {
            self.notify_now(now, peer, token, out);
        }
        true
    }

    /// Sends what waits, as far as the peer may be sent anything.
    fn notify_now(&mut self, now: Duration, peer: P, token: Token, out: &mut Vec<Output<P>>) {
        let credit = self.credit(peer);
        let id = self.next_id(peer);
        let room = self.flights.len() < self.params.flights_max;
        let (params, since) = (&self.params, self.since);
        let Some(observation) = self.observations.map.get_mut(&(peer, token)) else { return };
        let Some(waiting) = observation.waiting.take() else { return };
        let due = observation.since_probe + 1 >= params.probe_every
            || now.saturating_sub(observation.probed) >= params.probe_interval;
        let confirmable = (observation.confirmable || due) && room;
        let kind = if confirmable { Kind::Con } else { Kind::Non };
        let number = sequence(observation.sequence, since + now);
        let (response, tag) = &*waiting;
        let message = notification(response, Shell { kind, id, token }, number, params.block_szx);
        let datagram = message.encode();
        if datagram.len() > credit {
            // Not before the address is known to be real.
            observation.waiting = Some(waiting);
            self.counters.curbed += 1;
            return self.ping(now, peer, out);
        }
        observation.sequence = number;
        observation.since_probe = if confirmable { 0 } else { observation.since_probe + 1 };
        observation.in_flight = confirmable.then_some(*tag);
        if confirmable {
            observation.probed = now;
        }
        let ends = !response.code.is_success();
        self.sent_as(peer, token, id);
        if ends {
            // Nobody waits for its acknowledgement.
            self.forget_observer(peer, token);
            out.push(Output::ObserverGone { peer, token });
        }
        if confirmable && !ends {
            self.launch(now, peer, id, datagram, Purpose::Notification(token), out);
        } else if confirmable {
            self.launch(now, peer, id, datagram, Purpose::Response, out);
        } else {
            self.send_bytes(peer, datagram, out);
        }
    }

    fn sent_as(&mut self, peer: P, token: Token, id: u16) {
        let Some(observation) = self.observations.map.get_mut(&(peer, token)) else { return };
        if let Some(earlier) = observation.last_id.replace(id) {
            self.observations.by_id.remove(&(peer, earlier));
        }
        self.observations.by_id.insert((peer, id), token);
    }

    /// A confirmable notification was not acknowledged in time: the newest state, as one more try.
    pub(super) fn notify_again(
        &mut self,
        now: Duration,
        peer: P,
        id: u16,
        token: Token,
        mut again: Relaunch,
        out: &mut Vec<Output<P>>,
    ) {
        let newer = self.observations.map.get_mut(&(peer, token)).and_then(|o| o.waiting.take());
        let Some(newer) = newer else { return self.relaunch(now, peer, id, again, out) };
        let id = self.next_id(peer);
        let (szx, at) = (self.params.block_szx, self.since + now);
        let Some(observation) = self.observations.map.get_mut(&(peer, token)) else { return };
        observation.sequence = sequence(observation.sequence, at);
        observation.in_flight = Some(newer.1);
        let shell = Shell { kind: Kind::Con, id, token };
        again.datagram = notification(&newer.0, shell, observation.sequence, szx).encode();
        self.sent_as(peer, token, id);
        self.relaunch(now, peer, id, again, out);
    }

    /// A confirmable notification was acknowledged.
    pub(super) fn notified(
        &mut self,
        now: Duration,
        peer: P,
        token: Token,
        id: u16,
        out: &mut Vec<Output<P>>,
    ) {
        let Some(observation) = self.observations.map.get_mut(&(peer, token)) else { return };
        if observation.last_id != Some(id) {
            return;
        }
        if let Some(tag) = observation.in_flight.take() {
            out.push(Output::Notified { peer, token, tag });
        }
        self.notify_now(now, peer, token, out);
    }

    /// A notification was rejected: the observer does not know of it any more (section 3.6). False if it was none.
    pub(super) fn rejected(&mut self, peer: P, id: u16, out: &mut Vec<Output<P>>) -> bool {
        let Some(token) = self.observations.by_id.get(&(peer, id)).copied() else { return false };
        self.forget_observer(peer, token);
        out.push(Output::ObserverGone { peer, token });
        true
    }

    /// Nobody answered (section 4.5): the observation is over.
    pub(super) fn unreachable(&mut self, peer: P, token: Token, out: &mut Vec<Output<P>>) {
        if self.forget_observer(peer, token) {
            out.push(Output::ObserverGone { peer, token });
        }
    }

    /// Nobody is there, or nobody is known there any more: all its observations are over.
    pub(super) fn gone(&mut self, peer: P, out: &mut Vec<Output<P>>) {
        for token in self.observations.tokens_of(peer) {
            self.unreachable(peer, token, out);
        }
        self.ground_all(peer);
    }

    #[cfg(test)]
    pub(super) fn observers_for_tests(&self) -> Vec<(P, Token)> {
        self.observations.map.keys().copied().collect()
    }

    /// The address is real: what waited for that goes out.
    pub(super) fn release_waiting(&mut self, now: Duration, peer: P, out: &mut Vec<Output<P>>) {
        for token in self.observations.tokens_of(peer) {
            let idle = |o: &&Observation| o.in_flight.is_none() && o.waiting.is_some();
            if self.observations.map.get(&(peer, token)).filter(idle).is_some() {
                self.notify_now(now, peer, token, out);
            }
        }
    }
}

fn notification(response: &Response, shell: Shell, sequence: u32, szx: u8) -> crate::message::Message {
    let mut message = cut(response, shell, None, szx, false);
    if response.code.is_success() {
        message.options.add_uint(option::OBSERVE, sequence);
    }
    message
}
