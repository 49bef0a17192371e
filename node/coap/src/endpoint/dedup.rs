//! Which requests were seen lately, and what they were answered with (RFC 7252 section 4.5).
//!
//! A copy of a request has its very bytes: what is remembered is a [`Fingerprint`] of endpoint and datagram, which is
//! endpoint, message id and everything else. An id that comes with other bytes is a sender that counts its ids from the
//! start again, and not a duplicate: to take it for one would lose a message that was answered, and to answer it with
//! another's answer would lie.
//!
//! The newest [`RECENT_MAX`] requests of a peer are its own ([`Dedup`]); older ones are in one [`History`] of all peers,
//! bounded by [`super::Params::history_max`], for EXCHANGE_LIFETIME. What does not fit there is forgotten: a copy that
//! comes later still is a new request, stored at least once and never lost.

use super::PeerKey;
use crate::code::Code;
use blake2::digest::consts::U8;
use blake2::{Blake2s, Digest};
use std::collections::{HashMap, VecDeque};

/// Requests of one peer that nobody else's push out.
pub(super) const RECENT_MAX: usize = 40;

/// Names a request among all others: a hash of who sent it and of its bytes. It is the same after a restart. Nobody finds
/// two requests with one fingerprint, so nobody can make another's request look like a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Of a datagram.
    #[must_use]
    pub fn of<P: PeerKey>(peer: P, datagram: &[u8]) -> Fingerprint {
        Fingerprint::of_parts(peer, b"message", [datagram].into_iter())
    }

    /// Of something that a peer did, told by its parts.
    pub(super) fn of_parts<'a, P: PeerKey>(
        peer: P,
        what: &[u8],
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Fingerprint {
        let mut hash = Blake2s::<U8>::new_with_prefix(what);
        peer.feed(&mut |bytes| hash.update(bytes));
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Fingerprint(u64::from_be_bytes(hash.finalize().into()))
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Not yet.
    Busy,
    /// Not yet, but it was acknowledged.
    Waiting,
    /// In its acknowledgement, or in a non-confirmable message.
    Direct,
    /// With an empty acknowledgement first and a message of its own later, or not at all.
    Apart,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing: it is remembered as busy from now on.
    New,
    /// A duplicate of a request that is being worked on.
    Busy,
    /// A duplicate of a request that was answered.
    Answered(Code, How),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    fingerprint: Fingerprint,
    until_secs: u32,
    code: Code,
    how: How,
}

/// The newest requests of one peer, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    recent: Vec<Entry>,
}

impl How {
    fn is_open(self) -> bool {
        matches!(self, How::Busy | How::Waiting)
    }
}

impl Dedup {
    /// Looks a request up, and remembers it if it is new.
    pub(super) fn look(
        &mut self,
        fingerprint: Fingerprint,
        now_secs: u32,
        lifetime_secs: u32,
        history: &mut History,
    ) -> Seen {
        self.forget_old(now_secs);
        if let Some(entry) = self.recent.iter().rfind(|entry| entry.fingerprint == fingerprint) {
            return match entry.how {
                How::Busy => Seen::Busy,
                how => Seen::Answered(entry.code, how),
            };
        }
        if let Some((code, how)) = history.get(fingerprint, now_secs) {
            return Seen::Answered(code, how);
        }
        self.make_room(history);
        let until_secs = now_secs.saturating_add(lifetime_secs);
        self.recent.push(Entry { fingerprint, until_secs, code: Code::EMPTY, how: How::Busy });
        Seen::New
    }

    /// The request is answered.
    pub(super) fn answered(&mut self, fingerprint: Fingerprint, code: Code, how: How) {
        if let Some(entry) = self.recent.iter_mut().rfind(|entry| entry.fingerprint == fingerprint) {
            (entry.code, entry.how) = (code, how);
        }
    }

    /// The request was not taken: the next copy is a new one.
    pub(super) fn forget(&mut self, fingerprint: Fingerprint) {
        self.recent.retain(|entry| entry.fingerprint != fingerprint);
    }

    /// True if nothing in here is young enough to matter.
    pub(super) fn is_idle(&mut self, now_secs: u32) -> bool {
        self.forget_old(now_secs);
        self.recent.is_empty()
    }

    /// The peer is forgotten; what it was answered is not, as far as there is room.
    pub(super) fn leave(self, history: &mut History) {
        for entry in self.recent.into_iter().filter(|entry| !entry.how.is_open()) {
            history.put(entry.fingerprint, entry.code, entry.how, entry.until_secs);
        }
    }

    fn forget_old(&mut self, now_secs: u32) {
        if self.recent.first().is_some_and(|entry| entry.until_secs < now_secs) {
            self.recent.retain(|entry| entry.how.is_open() || entry.until_secs >= now_secs);
        }
    }

    /// The oldest answered request goes to the history if there is no room. The endpoint bounds what one peer may have
    /// unanswered, so there is one.
    fn make_room(&mut self, history: &mut History) {
        if self.recent.len() < RECENT_MAX {
            if self.recent.len() == self.recent.capacity() {
                self.recent.reserve_exact(8.min(RECENT_MAX - self.recent.len()));
            }
            return;
        }
        let oldest = self.recent.iter().position(|entry| !entry.how.is_open()).unwrap_or(0);
        let entry = self.recent.remove(oldest);
        if !entry.how.is_open() {
            history.put(entry.fingerprint, entry.code, entry.how, entry.until_secs);
        }
    }
}

/// Answered requests of all peers that are no peer's newest any more, and those from before a restart.
#[derive(Debug)]
pub(super) struct History {
    map: HashMap<Fingerprint, Answered>,
    /// In the order in which they came.
    order: VecDeque<(u32, Fingerprint)>,
    max: usize,
    /// Forgotten before their time.
    pub(super) cut: u64,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    until_secs: u32,
    code: Code,
    how: How,
}

impl History {
    pub(super) fn new(max: usize) -> History {
        History { map: HashMap::new(), order: VecDeque::new(), max, cut: 0 }
    }

    fn get(&self, fingerprint: Fingerprint, now_secs: u32) -> Option<(Code, How)> {
        let answered = self.map.get(&fingerprint).filter(|answered| answered.until_secs >= now_secs)?;
        Some((answered.code, answered.how))
    }

    pub(super) fn put(&mut self, fingerprint: Fingerprint, code: Code, how: How, until_secs: u32) {
        if self.map.insert(fingerprint, Answered { until_secs, code, how }).is_none() {
            self.order.push_back((until_secs, fingerprint));
        }
        while self.order.len() > self.max {
            self.cut += 1;
            self.pop();
        }
    }

    pub(super) fn sweep(&mut self, now_secs: u32) {
        while self.order.front().is_some_and(|(until_secs, _)| *until_secs < now_secs) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, fingerprint)) = self.order.pop_front() {
            self.map.remove(&fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: u32 = 247;
    const CHANGED: Seen = Seen::Answered(Code::CHANGED, How::Direct);

    /// One peer and the history behind it.
    struct Memory {
        dedup: Dedup,
        history: History,
    }

    impl Memory {
        fn new() -> Memory {
            Memory { dedup: Dedup::default(), history: History::new(20_000) }
        }

        fn look(&mut self, request: u64, now_secs: u32) -> Seen {
            self.dedup.look(Fingerprint(request), now_secs, LIFETIME, &mut self.history)
        }

        fn answered(&mut self, request: u64, code: Code) {
            self.dedup.answered(Fingerprint(request), code, How::Direct);
        }
    }

    #[test]
    fn a_copy_is_known_from_the_first_to_the_end_of_the_lifetime() {
        let mut memory = Memory::new();
        assert_eq!(memory.look(7, 100), Seen::New);
        assert_eq!(memory.look(7, 100), Seen::Busy);
        memory.dedup.answered(Fingerprint(7), Code::CREATED, How::Apart);
        let answered = Seen::Answered(Code::CREATED, How::Apart);
        assert_eq!(memory.look(7, 100 + LIFETIME), answered);
        assert_eq!(memory.look(7, 101 + LIFETIME), Seen::New);
    }

    #[test]
    fn a_fingerprint_is_of_the_endpoint_and_of_every_byte() {
        let of = Fingerprint::of::<u64>;
        assert_eq!(of(1, b"abc"), of(1, b"abc"));
        assert_ne!(of(1, b"abc"), of(2, b"abc"));
        assert_ne!(of(1, b"abc"), of(1, b"abd"));
    }

    #[test]
    fn forty_requests_a_second_are_covered_for_the_whole_lifetime() {
        let mut memory = Memory::new();
        let per_second = 40;
        for n in 0..LIFETIME * per_second {
            assert_eq!(memory.look(n.into(), n / per_second), Seen::New, "{n}");
            memory.answered(n.into(), Code::CHANGED);
        }
        for n in 0..LIFETIME * per_second {
            assert_eq!(memory.look(n.into(), LIFETIME - 1), CHANGED, "{n}");
        }
    }

    /// P5
    #[test]
    fn memory_is_bounded_and_what_is_old_goes() {
        let mut memory = Memory::new();
        for n in 0..100_000u32 {
            memory.look(n.into(), n / 1_000);
            memory.answered(n.into(), Code::CHANGED);
        }
        assert!(memory.dedup.recent.capacity() * size_of::<Entry>() <= 640);
        assert_eq!((memory.history.map.len(), memory.history.order.len()), (20_000, 20_000));
        assert!(memory.history.cut > 0);
        memory.history.sweep(100 + LIFETIME);
        assert!(memory.history.map.is_empty() && memory.history.order.is_empty());
    }

    #[test]
    fn what_is_refused_is_not_remembered_and_what_is_old_goes() {
        let mut memory = Memory::new();
        memory.look(1, 0);
        memory.dedup.forget(Fingerprint(1));
        assert_eq!(memory.look(1, 0), Seen::New);
        memory.answered(1, Code::CHANGED);
        assert!(!memory.dedup.is_idle(LIFETIME));
        assert!(memory.dedup.is_idle(LIFETIME + 1));
    }

    #[test]
    fn a_peer_that_leaves_leaves_its_answers() {
        let mut memory = Memory::new();
        memory.look(1, 0);
        memory.answered(1, Code::CHANGED);
        memory.look(2, 0);
        std::mem::take(&mut memory.dedup).leave(&mut memory.history);
        assert_eq!(memory.look(1, 9), CHANGED);
        assert_eq!(memory.look(2, 9), Seen::New, "it was not answered");
    }
}
