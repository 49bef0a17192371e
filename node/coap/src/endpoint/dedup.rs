//! Which message ids of one peer were used lately, and what they were answered with (RFC 7252 section 4.5).
//!
//! The newest [`RECENT_MAX`] requests are remembered one by one, with a hash of their bytes: a retransmission has the very
//! bytes of the first copy, so an id that comes with other bytes is a sender that counts its ids from the start again,
//! and not a duplicate. To take it for one would lose a message that was answered. What is older is remembered as runs
//! of consecutive ids with one answer, for EXCHANGE_LIFETIME, in so little memory that a peer which sends forty requests
//! a second is covered for all of it (P5). A run forgets its ids as a whole, at the latest [`RUN_SECS`] after the lifetime
//! of its first one. Of a peer whose ids are in no order only the newest [`RUNS_MAX`] older ids are known.

use crate::code::Code;

/// Requests remembered one by one.
pub(super) const RECENT_MAX: usize = 40;
/// Runs of earlier ones.
pub(super) const RUNS_MAX: usize = 20;
/// What one run spans.
const RUN_SECS: u32 = 32;
/// Ids in all runs together: an id comes again after 65,536 others, and then it is new.
const RUN_IDS_MAX: u32 = 49_152;

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

/// What is known of a message id.
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
    id: u16,
    code: Code,
    how: How,
    hash: u32,
    at_secs: u32,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u16,
    /// How many follow the first.
    more: u16,
    code: Code,
    how: How,
    from_secs: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    recent: Vec<Entry>,
    runs: Vec<Run>,
}

impl How {
    fn is_open(self) -> bool {
        matches!(self, How::Busy | How::Waiting)
    }
}

impl Dedup {
    /// Looks an id up, and remembers it if it is new.
    pub(super) fn look(&mut self, id: u16, hash: u32, now_secs: u32, lifetime_secs: u32) -> Seen {
        self.forget_old(now_secs, lifetime_secs);
        if let Some(at) = self.recent.iter().rposition(|entry| entry.id == id) {
            let Some(entry) = self.recent.get(at).copied() else { return Seen::New };
            if entry.hash == hash {
                return match entry.how {
                    How::Busy => Seen::Busy,
                    how => Seen::Answered(entry.code, how),
                };
            }
            self.recent.remove(at);
        } else if let Some(run) = self.runs.iter().find(|run| run.contains(id)) {
            return Seen::Answered(run.code, run.how);
        }
        self.make_room();
        self.recent.push(Entry { id, code: Code::EMPTY, how: How::Busy, hash, at_secs: now_secs });
        Seen::New
    }

    /// The request is answered.
    pub(super) fn answered(&mut self, id: u16, code: Code, how: How) {
        if let Some(entry) = self.recent.iter_mut().rfind(|entry| entry.id == id) {
            (entry.code, entry.how) = (code, how);
        }
    }

    /// The request was not taken: the next copy is a new one.
    pub(super) fn forget(&mut self, id: u16) {
        self.recent.retain(|entry| entry.id != id);
    }

    /// True if nothing in here is young enough to matter.
    pub(super) fn is_idle(&mut self, now_secs: u32, lifetime_secs: u32) -> bool {
        self.forget_old(now_secs, lifetime_secs);
        self.recent.is_empty() && self.runs.is_empty()
    }

    fn forget_old(&mut self, now_secs: u32, lifetime_secs: u32) {
        let old = |at_secs: u32| now_secs.saturating_sub(at_secs) > lifetime_secs;
        if self.recent.first().is_some_and(|entry| old(entry.at_secs)) {
            self.recent.retain(|entry| entry.how.is_open() || !old(entry.at_secs));
        }
        if self.runs.first().is_some_and(|run| old(run.from_secs.saturating_add(RUN_SECS))) {
            self.runs.retain(|run| !old(run.from_secs.saturating_add(RUN_SECS)));
        }
    }

    /// Moves the oldest answered request to the runs if there is no room. The endpoint bounds what one peer may have
    /// unanswered, so there is one.
    fn make_room(&mut self) {
        if self.recent.len() < RECENT_MAX {
            if self.recent.len() == self.recent.capacity() {
                self.recent.reserve_exact(8.min(RECENT_MAX - self.recent.len()));
            }
            return;
        }
        let oldest = self.recent.iter().position(|entry| !entry.how.is_open()).unwrap_or(0);
        let entry = self.recent.remove(oldest);
        if !entry.how.is_open() {
            self.fold(entry);
        }
    }

    fn fold(&mut self, entry: Entry) {
        if let Some(run) = self.runs.iter_mut().rfind(|run| run.takes(&entry)) {
            run.more += 1;
        } else {
            if self.runs.len() >= RUNS_MAX {
                self.runs.remove(0);
            } else if self.runs.len() == self.runs.capacity() {
                self.runs.reserve_exact(4.min(RUNS_MAX - self.runs.len()));
            }
            let Entry { id, code, how, at_secs, .. } = entry;
            self.runs.push(Run { first: id, more: 0, code, how, from_secs: at_secs });
        }
        while self.runs.iter().map(|run| u32::from(run.more) + 1).sum::<u32>() > RUN_IDS_MAX {
            self.runs.remove(0);
        }
    }
}

impl Run {
    fn contains(&self, id: u16) -> bool {
        id.wrapping_sub(self.first) <= self.more
    }

    fn takes(&self, entry: &Entry) -> bool {
        self.more < u16::MAX / 4
            && entry.id == self.first.wrapping_add(self.more).wrapping_add(1)
            && (entry.code, entry.how) == (self.code, self.how)
            && entry.at_secs.saturating_sub(self.from_secs) < RUN_SECS
    }
}

/// Tells the copies of a datagram from other datagrams with the same id: FNV-1a, folded.
pub(super) fn hash(datagram: &[u8]) -> u32 {
    let hash = datagram.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    u32::try_from((hash ^ (hash >> 32)) & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: u32 = 247;

    fn answer(dedup: &mut Dedup, id: u16, now: u32) -> Seen {
        let seen = dedup.look(id, u32::from(id), now, LIFETIME);
        dedup.answered(id, Code::CHANGED, How::Direct);
        seen
    }

    const CHANGED: Seen = Seen::Answered(Code::CHANGED, How::Direct);

    #[test]
    fn a_copy_is_known_from_the_first_to_the_end_of_the_lifetime() {
        let mut dedup = Dedup::default();
        assert_eq!(dedup.look(7, 1, 100, LIFETIME), Seen::New);
        assert_eq!(dedup.look(7, 1, 100, LIFETIME), Seen::Busy);
        dedup.answered(7, Code::CREATED, How::Apart);
        let answered = Seen::Answered(Code::CREATED, How::Apart);
        assert_eq!(dedup.look(7, 1, 100 + LIFETIME, LIFETIME), answered);
        assert_eq!(dedup.look(7, 1, 101 + LIFETIME, LIFETIME), Seen::New);
    }

    #[test]
    fn other_bytes_under_the_same_id_are_another_message() {
        let mut dedup = Dedup::default();
        assert_eq!(dedup.look(1, 10, 0, LIFETIME), Seen::New);
        dedup.answered(1, Code::CHANGED, How::Direct);
        assert_eq!(dedup.look(1, 11, 1, LIFETIME), Seen::New);
        assert_eq!(dedup.look(1, 11, 1, LIFETIME), Seen::Busy);
    }

    #[test]
    fn forty_requests_a_second_are_covered_for_the_whole_lifetime() {
        let mut dedup = Dedup::default();
        let per_second = 40u32;
        for n in 0..LIFETIME * per_second {
            let id = u16::try_from(n & 0xffff).unwrap().wrapping_add(65_000);
            assert_eq!(answer(&mut dedup, id, n / per_second), Seen::New, "{n}");
        }
        for n in 0..LIFETIME * per_second {
            let id = u16::try_from(n & 0xffff).unwrap().wrapping_add(65_000);
            assert_eq!(dedup.look(id, u32::from(id), LIFETIME - 1, LIFETIME), CHANGED, "{n}");
        }
    }

    #[test]
    fn ids_that_come_round_are_new_however_fast() {
        let mut dedup = Dedup::default();
        for n in 0..300_000u32 {
            let id = u16::try_from(n & 0xffff).unwrap();
            assert_eq!(dedup.look(id, n, n / 50_000, LIFETIME), Seen::New, "{n}");
            dedup.answered(id, Code::CHANGED, How::Direct);
        }
    }

    #[test]
    fn memory_is_bounded_whatever_the_ids_are() {
        let mut dedup = Dedup::default();
        let mut id = 1u16;
        for n in 0..100_000u32 {
            id = id.wrapping_mul(31_421).wrapping_add(6_927);
            dedup.look(id, n, n / 100, LIFETIME);
            dedup.answered(id, if n % 3 == 0 { Code::CHANGED } else { Code::CREATED }, How::Direct);
        }
        let bytes = dedup.recent.capacity() * size_of::<Entry>() + dedup.runs.capacity() * size_of::<Run>();
        assert!(bytes <= 720, "{bytes}");
    }

    #[test]
    fn what_is_refused_is_not_remembered_and_what_is_old_goes() {
        let mut dedup = Dedup::default();
        dedup.look(1, 1, 0, LIFETIME);
        dedup.forget(1);
        assert_eq!(dedup.look(1, 1, 0, LIFETIME), Seen::New);
        dedup.answered(1, Code::CHANGED, How::Direct);
        assert!(!dedup.is_idle(LIFETIME, LIFETIME));
        assert!(dedup.is_idle(LIFETIME + 1, LIFETIME));
    }
}
