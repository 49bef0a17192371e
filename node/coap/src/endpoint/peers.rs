//! What is known of each peer, within a bound (P5).

use super::dedup::{Dedup, Fingerprint, History};
use super::{Params, PeerKey};
use crate::rng::Rng;
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
    next_id: u16,
    /// Requests that are not answered.
    pub(super) open: u16,
    pub(super) observing: u16,
    /// Confirmable messages of ours that are not answered.
    pub(super) flights: u16,
    pub(super) verified: bool,
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
            next_id: rng.next_u16(),
            open: 0,
            observing: 0,
            flights: 0,
            verified: false,
            strikes: 0,
        }
    }

    /// A message id for a message of ours. To an address that is not verified they are drawn at random: that it knows
    /// one proves that it has seen our message.
    pub(super) fn next_id(&mut self, rng: &mut Rng) -> u16 {
        let step = if self.verified { 1 } else { rng.next_u16() | 1 };
        self.next_id = self.next_id.wrapping_add(step);
        self.next_id
    }

    pub(super) fn remember(&mut self, request: Fingerprint, datagram: &[u8]) {
        self.last = (datagram.len() <= LAST_MAX).then(|| (request, datagram.into()));
    }

    pub(super) fn last(&self, request: Fingerprint) -> Option<&[u8]> {
        self.last.as_ref().filter(|(last, _)| *last == request).map(|(_, datagram)| &**datagram)
    }

    /// An acknowledgement or a reset of a message of ours came from there.
    pub(super) fn proved(&mut self) {
        self.verified |= self.strikes < STRIKES_MAX;
    }

    pub(super) fn guessed(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    fn is_pinned(&self) -> bool {
        self.open > 0 || self.observing > 0 || self.flights > 0
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

impl<P: PeerKey> Peers<P> {
    pub(super) fn new() -> Peers<P> {
        Peers { map: HashMap::new(), clock: VecDeque::new(), evicted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get_mut(&mut self, key: P) -> Option<&mut Peer> {
        self.map.get_mut(&key).map(|peer| &mut **peer)
    }

    /// The peer, made known if it is not. `None` if there is no room: every peer has something under way.
    pub(super) fn touch(
        &mut self,
        key: P,
        now_secs: u32,
        params: &Params,
        rng: &mut Rng,
        history: &mut History,
    ) -> Option<&mut Peer> {
        if !self.map.contains_key(&key) {
            if self.map.len() >= params.peers_max && !self.evict(now_secs, history) {
                return None;
            }
            self.map.insert(key, Box::new(Peer::new(rng)));
            self.clock.push_back(key);
        }
        let peer = self.map.get_mut(&key)?;
        peer.used_secs = now_secs;
        Some(peer)
    }

    /// Forgets one peer, the one idle for longest among the first in the queue. Those whose address is not verified go
    /// before the others: a flood from invented addresses pushes out its own.
    fn evict(&mut self, now_secs: u32, history: &mut History) -> bool {
        let mut best: Option<(bool, u32, usize)> = None;
        for (index, key) in self.clock.iter().take(LOOKS_MAX).enumerate() {
            let Some(peer) = self.map.get(key).filter(|peer| !peer.is_pinned()) else { continue };
            let rank = (peer.verified, peer.used_secs, index);
            if best.is_none_or(|known| rank < known) {
                best = Some(rank);
            }
        }
        let Some((_, _, index)) = best else {
            // All of those have something under way: the others get their turn.
            let looked = LOOKS_MAX.min(self.clock.len());
            self.clock.rotate_left(looked);
            return false;
        };
        let Some(key) = self.clock.remove(index) else { return false };
        // What stood before it was used later or is worth more.
        self.clock.rotate_left(index);
        if let Some(mut gone) = self.map.remove(&key) {
            self.evicted += u64::from(!gone.dedup.is_idle(now_secs));
            gone.dedup.leave(history);
        }
        true
    }

    /// Forgets some of the peers that nothing is known of any more.
    pub(super) fn sweep(&mut self, now_secs: u32, params: &Params) {
        let lifetime = params.exchange_lifetime_secs();
        for _ in 0..LOOKS_MAX * 4 {
            let Some(key) = self.clock.pop_front() else { return };
            let Some(peer) = self.map.get_mut(&key) else { continue };
            let idle = now_secs.saturating_sub(peer.used_secs) > lifetime && !peer.is_pinned();
            if idle {
                self.map.remove(&key);
            } else {
                self.clock.push_back(key);
            }
        }
    }
}
