//! What is known of each peer, within a bound (P5).

use super::dedup::{Dedup, Fingerprint, History};
use super::{Params, PeerKey};
use crate::rng::{Ids, Rng};
use std::collections::{HashMap, VecDeque};

/// One peer. Plain ones take at most 1 KiB; what is under way for a peer is counted elsewhere.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) dedup: Dedup,
    /// The newest answer as it was sent, if it is small: a duplicate gets the very same bytes.
    last: Option<(Fingerprint, Box<[u8]>)>,
    /// Bytes that may be sent before the address is verified: three times what came from it (RFC 9175 section 2.4).
    pub(super) credit: u32,
    used_secs: u32,
    /// Messages of ours, from a start that nobody knows.
    counter: u16,
    /// Requests that are not answered.
    pub(super) open: u16,
    pub(super) observing: u16,
    /// Confirmable messages of ours that are not answered.
    pub(super) flights: u16,
    pub(super) verified: bool,
    /// It observes and is not verified: it stands in the queue of those that are asked to show that they are there.
    pub(super) asking: bool,
    /// Acknowledgements and resets of nothing: somebody guesses.
    strikes: u8,
}

/// Answers up to this size are kept.
const LAST_MAX: usize = 64;
/// Guesses at message ids before an acknowledgement proves nothing any more.
const STRIKES_MAX: u8 = 8;

impl Peer {
    fn new(rng: &mut Rng) -> Peer {
        Peer {
            dedup: Dedup::default(),
            last: None,
            credit: 0,
            used_secs: 0,
            counter: rng.next_u16(),
            open: 0,
            observing: 0,
            flights: 0,
            verified: false,
            asking: false,
            strikes: 0,
        }
    }

    /// A message id for a message of ours. That an address knows one proves that it has seen the message.
    pub(super) fn next_id(&mut self, ids: &Ids) -> u16 {
        self.counter = self.counter.wrapping_add(1);
        ids.nth(self.counter)
    }

    pub(super) fn remember(&mut self, request: Fingerprint, datagram: &[u8]) {
        self.last = (datagram.len() <= LAST_MAX).then(|| (request, datagram.into()));
    }

    pub(super) fn last(&self, request: Fingerprint) -> Option<&[u8]> {
        self.last.as_ref().filter(|(last, _)| *last == request).map(|(_, datagram)| &**datagram)
    }

    /// Something came from there.
    pub(super) fn heard(&mut self, now_secs: u32) {
        self.used_secs = now_secs;
    }

    /// An acknowledgement or a reset of a message of ours came from there. True if it makes the address a verified one.
    pub(super) fn proved(&mut self) -> bool {
        !self.is_suspect() && !std::mem::replace(&mut self.verified, true)
    }

    /// Not verified, and whoever is there has guessed so often that a right answer may be one more guess.
    pub(super) fn is_suspect(&self) -> bool {
        !self.verified && self.strikes >= STRIKES_MAX
    }

    pub(super) fn guessed(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    fn is_pinned(&self) -> bool {
        self.open > 0 || self.observing > 0 || self.flights > 0
    }

    /// It may be forgotten for another one. An observation of an address that proved nothing is no reason to stay.
    fn may_go(&self) -> bool {
        self.open == 0 && (!self.verified || !self.is_pinned())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers<P> {
    map: HashMap<P, Box<Peer>>,
    /// In the order in which they came or were last looked at; each once.
    clock: VecDeque<P>,
    /// Peers forgotten before their time.
    pub(super) evicted: u64,
}

/// Peers looked at to find one that can go.
const LOOKS_MAX: usize = 16;
/// Peers looked at in one sweep.
const SWEPT_AT_ONCE: usize = 64;

impl<P: PeerKey> Peers<P> {
    pub(super) fn new() -> Peers<P> {
        Peers { map: HashMap::new(), clock: VecDeque::new(), evicted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, key: P) -> Option<&Peer> {
        self.map.get(&key).map(|peer| &**peer)
    }

    pub(super) fn get_mut(&mut self, key: P) -> Option<&mut Peer> {
        self.map.get_mut(&key).map(|peer| &mut **peer)
    }

    pub(super) fn contains(&self, key: P) -> bool {
        self.map.contains_key(&key)
    }

    /// The peer, made known if it is not: there has to be room.
    pub(super) fn touch(&mut self, key: P, now_secs: u32, rng: &mut Rng) -> &mut Peer {
        let peer = self.map.entry(key).or_insert_with(|| {
            self.clock.push_back(key);
            Box::new(Peer::new(rng))
        });
        peer.heard(now_secs);
        peer
    }

    /// Forgets one peer, the one idle for longest among the first in the queue, and says which. Those whose address is not
    /// verified go before the others: a flood from invented addresses pushes out its own, observers among it too. `None` if
    /// every one of those looked at has something under way.
    pub(super) fn evict(&mut self, now_secs: u32, history: &mut History) -> Option<P> {
        let mut best: Option<((bool, bool, u32), usize)> = None;
        for (index, key) in self.clock.iter().take(LOOKS_MAX).enumerate() {
            let Some(peer) = self.map.get(key).filter(|peer| peer.may_go()) else { continue };
            let rank = (peer.verified, peer.is_pinned(), peer.used_secs);
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, index));
            }
        }
        let Some((_, index)) = best else {
            // The others get their turn.
            let looked = LOOKS_MAX.min(self.clock.len());
            self.clock.rotate_left(looked);
            return None;
        };
        let key = self.clock.remove(index)?;
        // What stood before it was used later or is worth more.
        self.clock.rotate_left(index);
        if let Some(mut gone) = self.map.remove(&key) {
            self.evicted += u64::from(!gone.dedup.is_idle(now_secs));
            gone.dedup.leave(history);
        }
        Some(key)
    }

    /// Forgets some of the peers that nothing is known of any more. Observers that were not heard of for so long that
    /// somebody should ask are added to `ask`.
    pub(super) fn sweep(&mut self, now_secs: u32, params: &Params, ask: &mut Vec<P>) {
        let lifetime = params.exchange_lifetime_secs();
        let probe = u32::try_from(params.probe_interval.as_secs()).unwrap_or(u32::MAX);
        for _ in 0..SWEPT_AT_ONCE.min(self.clock.len()) {
            let Some(key) = self.clock.pop_front() else { return };
            let Some(peer) = self.map.get_mut(&key) else { continue };
            let silent_secs = now_secs.saturating_sub(peer.used_secs);
            if silent_secs > lifetime && !peer.is_pinned() {
                self.map.remove(&key);
                continue;
            }
            if silent_secs > probe && peer.observing > 0 && peer.flights == 0 {
                ask.push(key);
            }
            self.clock.push_back(key);
        }
    }
}
