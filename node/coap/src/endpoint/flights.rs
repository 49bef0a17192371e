//! Confirmable messages of ours on their way: retransmission with the standard's timers (RFC 7252 section 4.2).

use super::{Endpoint, Output, PeerKey};
use crate::message::{Kind, Message, Token};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A response apart.
    Response,
    /// A response whose arrival the service wants to hear of; with its tag.
    Delivery(u64),
    /// A notification of this observation.
    Notification(Token),
    /// A ping: it shows whether the address is real (section 4.3).
    Ping,
}

#[derive(Clone, Debug)]
pub(super) struct Flight {
    datagram: Bytes,
    pub(super) purpose: Purpose,
    pub(super) attempts: u8,
    pub(super) timeout: Duration,
    due: (Duration, u64),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Flights<P> {
    map: BTreeMap<(P, u16), Flight>,
    due: BTreeMap<(Duration, u64), (P, u16)>,
    launched: u64,
}

impl<P: PeerKey> Flights<P> {
    pub(super) fn new() -> Flights<P> {
        Flights { map: BTreeMap::new(), due: BTreeMap::new(), launched: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn insert(&mut self, key: (P, u16), mut flight: Flight, due: Duration) {
        self.launched += 1;
        flight.due = (due, self.launched);
        self.due.insert(flight.due, key);
        self.map.insert(key, flight);
    }

    fn remove(&mut self, key: (P, u16)) -> Option<Flight> {
        let flight = self.map.remove(&key)?;
        self.due.remove(&flight.due);
        Some(flight)
    }

    /// Ids under way to a peer.
    fn ids_of(&self, peer: P) -> Vec<u16> {
        self.map.range((peer, 0)..=(peer, u16::MAX)).map(|((_, id), _)| *id).collect()
    }

    pub(super) fn contains(&self, key: (P, u16)) -> bool {
        self.map.contains_key(&key)
    }

    fn pop_due(&mut self, now: Duration) -> Option<((P, u16), Flight)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let key = entry.remove();
        Some((key, self.map.remove(&key)?))
    }
}

impl<P: PeerKey> Endpoint<P> {
    /// Sends a confirmable message for the first time.
    pub(super) fn launch(
        &mut self,
        now: Duration,
        peer: P,
        id: u16,
        datagram: Bytes,
        purpose: Purpose,
        out: &mut Vec<Output<P>>,
    ) {
        let spread = 1.0 + (self.params.ack_random_factor - 1.0) * self.rng.fraction();
        let timeout = self.params.ack_timeout.mul_f64(spread);
        self.relaunch(now, peer, id, Relaunch { datagram, purpose, attempts: 0, timeout }, out);
    }

    pub(super) fn relaunch(
        &mut self,
        now: Duration,
        peer: P,
        id: u16,
        relaunch: Relaunch,
        out: &mut Vec<Output<P>>,
    ) {
        let Relaunch { datagram, purpose, attempts, timeout } = relaunch;
        self.ground((peer, id));
        if let Some(known) = self.peers.get_mut(peer) {
            known.flights += 1;
        }
        let flight = Flight { datagram: datagram.clone(), purpose, attempts, timeout, due: (now, 0) };
        self.flights.insert((peer, id), flight, now + timeout);
        self.send_bytes(peer, datagram, out);
    }

    /// Takes a message out of the air.
    pub(super) fn ground(&mut self, key: (P, u16)) -> Option<Flight> {
        let flight = self.flights.remove(key)?;
        self.landed(key.0);
        Some(flight)
    }

    fn landed(&mut self, peer: P) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.flights = known.flights.saturating_sub(1);
        }
    }

    pub(super) fn acknowledged(&mut self, now: Duration, peer: P, id: u16, out: &mut Vec<Output<P>>) {
        let Some(flight) = self.ground((peer, id)) else { return self.guessed(peer) };
        self.proved(now, peer, out);
        match flight.purpose {
            Purpose::Notification(token) => self.notified(now, peer, token, id, out),
            Purpose::Delivery(tag) => out.push(Output::Delivered { peer, tag }),
            Purpose::Response | Purpose::Ping => {}
        }
    }

    pub(super) fn reset(&mut self, now: Duration, peer: P, id: u16, out: &mut Vec<Output<P>>) {
        let flight = self.ground((peer, id));
        let rejected = self.rejected(peer, id, out);
        if flight.is_none() && !rejected {
            return self.guessed(peer);
        }
        self.proved(now, peer, out);
    }

    fn guessed(&mut self, peer: P) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.guessed();
        }
    }

    /// Whoever is there has seen a message of ours: its address is real, unless it had too many guesses. What waited for
    /// that goes out.
    fn proved(&mut self, now: Duration, peer: P, out: &mut Vec<Output<P>>) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        known.heard(super::secs(now));
        if known.proved() {
            self.release_waiting(now, peer, out);
        }
    }

    /// Asks an address to show that it is real, and that somebody is there, unless it is being asked.
    pub(super) fn ping(&mut self, now: Duration, peer: P, out: &mut Vec<Output<P>>) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        if known.flights > 0 || self.flights.len() >= self.params.flights_max {
            return;
        }
        if known.is_suspect() {
            // Its answer would prove nothing.
            return self.gone(peer, out);
        }
        let id = self.next_id(peer);
        self.launch(now, peer, id, Message::empty(Kind::Con, id).encode(), Purpose::Ping, out);
    }

    /// Nothing is on its way to this peer any more.
    pub(super) fn ground_all(&mut self, peer: P) {
        for id in self.flights.ids_of(peer) {
            self.ground((peer, id));
        }
    }

    /// Sends again what was not answered; gives up after MAX_RETRANSMIT.
    pub(super) fn retransmit(&mut self, now: Duration, out: &mut Vec<Output<P>>) {
        while let Some(((peer, id), flight)) = self.flights.pop_due(now) {
            self.landed(peer);
            let Flight { datagram, purpose, attempts, timeout, .. } = flight;
            if attempts >= self.params.max_retransmit {
                match purpose {
                    Purpose::Notification(token) => self.unreachable(peer, token, out),
                    // Nobody is there (RFC 7641 section 4.5).
                    Purpose::Ping => self.gone(peer, out),
                    Purpose::Response | Purpose::Delivery(_) => {}
                }
                continue;
            }
            self.counters.retransmissions += 1;
            let again = Relaunch { datagram, purpose, attempts: attempts + 1, timeout: timeout * 2 };
            match purpose {
                // Newer state goes in place of the older, on the same schedule (RFC 7641 section 4.5.2).
                Purpose::Notification(token) => self.notify_again(now, peer, id, token, again, out),
                Purpose::Response | Purpose::Delivery(_) | Purpose::Ping => {
                    self.relaunch(now, peer, id, again, out);
                }
            }
        }
    }
}

/// A message that is sent once more.
pub(super) struct Relaunch {
    pub(super) datagram: Bytes,
    pub(super) purpose: Purpose,
    pub(super) attempts: u8,
    pub(super) timeout: Duration,
}
