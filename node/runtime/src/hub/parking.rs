//! Submissions that a full stream refused and that wait for room (P5: backpressure instead of loss).
//!
//! There is one queue per full stream, in order of submission, so a full stream holds up nobody else's. While a stream
//! has a queue, new submissions for it go to its end: a small one must not take the room that a large one waits for.
//! When room returns the head is tried, then twice as many with each success, so ten thousand waiting connections cost
//! one refused commit per piece of news and not ten thousand.
//!
//! Order that must not be lost although a queue is left in steps: submissions that write the same key of the same table
//! (a session's record, say). The later one is parked behind the earlier, in whatever queue that is, and is not tried
//! before everything ahead of it is done. The same holds for what a client publishes to a stream where its will waits.

use bytes::Bytes;
use eventmesh_edge_core::ports::hub::SubscriberId;
use eventmesh_edge_core::ports::store::{CommitError, StreamId, Table};
use std::collections::{BTreeMap, HashMap};

/// A key of keyed state.
pub(super) type Key = (Table, Bytes);

/// Most submissions of one queue that are tried at once.
const MAX_WINDOW: usize = 64;

/// How much may wait, or does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// What devices wait for and what is [`Submission::kept`] have bounds of their own: a thousand wills must not take the room
/// of those who are there.
///
/// [`Submission::kept`]: eventmesh_edge_core::ports::hub::Submission::kept
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) devices: Room,
    pub(super) kept: Room,
}

/// Something that waits.
#[derive(Debug)]
pub(super) struct Parked<T> {
    /// Order of submission.
    pub(super) seq: u64,
    pub(super) item: T,
    pub(super) bytes: usize,
    /// It is on disk at its submitter.
    pub(super) kept: bool,
    /// Who submitted it.
    pub(super) origin: Option<SubscriberId>,
    /// What it writes.
    pub(super) keys: Vec<Key>,
    /// It follows something ahead of it that writes the same key.
    pub(super) follows: bool,
}

/// What is remembered of something on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    stream: StreamId,
    bytes: usize,
    kept: bool,
    origin: Option<SubscriberId>,
    keys: Vec<Key>,
}

/// Why a submission must wait although nobody has refused it.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) stream: StreamId,
    pub(super) follows: bool,
    /// The refusal that the queue waits for.
    pub(super) error: CommitError,
}

pub(super) struct Parking<T> {
    queues: BTreeMap<StreamId, Queue<T>>,
    /// Keys that something parked or on trial writes, with how many do and in which queue.
    keys: HashMap<Key, (StreamId, usize)>,
    /// Who has something that is kept waiting or on trial in which queue, and how much.
    kept_of: HashMap<(StreamId, SubscriberId), usize>,
    limits: Limits,
    devices: Room,
    kept: Room,
}

struct Queue<T> {
    waiting: BTreeMap<u64, Parked<T>>,
    error: CommitError,
    open: bool,
    window: usize,
    on_trial: usize,
}

impl<T> Parking<T> {
    pub(super) fn new(limits: Limits) -> Parking<T> {
        let (devices, kept) = (Room::default(), Room::default());
        let (queues, keys, kept_of) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Parking { queues, keys, kept_of, limits, devices, kept }
    }

    /// How many wait, and their bytes.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.devices.count + self.kept.count, self.devices.bytes + self.kept.bytes)
    }

    /// What it counts for: what is taken, and what may be.
    fn room_of(&mut self, kept: bool) -> (&mut Room, Room) {
        if kept { (&mut self.kept, self.limits.kept) } else { (&mut self.devices, self.limits.devices) }
    }

    /// True if nothing waits and nothing is on trial: the usual case.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether something with these streams and keys has to wait behind something else.
    pub(super) fn ahead<'k>(
        &self,
        streams: impl Iterator<Item = StreamId>,
        keys: impl Iterator<Item = &'k Key>,
        origin: Option<SubscriberId>,
    ) -> Option<Ahead> {
        let conflict = keys.filter_map(|key| self.keys.get(key)).map(|(stream, _)| *stream).next();
        let full = streams.filter(|stream| self.queues.contains_key(stream));
        let stream = conflict.or(full.max_by_key(|stream| self.has_kept(*stream, origin)))?;
        let error = self.queues.get(&stream)?.error.clone();
        Some(Ahead { stream, follows: conflict.is_some() || self.has_kept(stream, origin), error })
    }

    /// Whether something of this origin that is kept waits in the queue, or is on trial.
    pub(super) fn has_kept(&self, stream: StreamId, origin: Option<SubscriberId>) -> bool {
        origin.is_some_and(|origin| self.kept_of.contains_key(&(stream, origin)))
    }

    /// Parks in the queue of `stream`; gives it back if too much is waiting already.
    pub(super) fn park(
        &mut self,
        stream: StreamId,
        error: CommitError,
        parked: Parked<T>,
    ) -> Result<(), Parked<T>> {
        let (taken, limit) = self.room_of(parked.kept);
        if taken.count >= limit.count || taken.bytes + parked.bytes > limit.bytes {
            return Err(parked);
        }
        taken.count += 1;
        taken.bytes += parked.bytes;
        if let Some(origin) = parked.origin.filter(|_| parked.kept) {
            *self.kept_of.entry((stream, origin)).or_default() += 1;
        }
        for key in &parked.keys {
            self.keys.entry(key.clone()).or_insert((stream, 0)).1 += 1;
        }
        let queue = self.queues.entry(stream).or_insert_with(|| Queue {
            waiting: BTreeMap::new(),
            error: error.clone(),
            open: false,
            window: 1,
            on_trial: 0,
        });
        queue.error = error;
        queue.waiting.insert(parked.seq, parked);
        Ok(())
    }

    /// Room returned somewhere: everything may be tried.
    pub(super) fn room(&mut self) {
        for queue in self.queues.values_mut() {
            queue.open = true;
        }
    }

    /// The next one to try. To be followed by [`Parking::tried`]; until then it takes its part of the limits.
    pub(super) fn next(&mut self) -> Option<(T, Trial)> {
        let (stream, queue) = self.queues.iter_mut().find(|(_, queue)| queue.is_ready())?;
        let (_, parked) = queue.waiting.pop_first()?;
        queue.on_trial += 1;
        let Parked { item, bytes, kept, origin, keys, .. } = parked;
        Some((item, Trial { stream: *stream, bytes, kept, origin, keys }))
    }

    /// How the trial went. What was refused is then parked again by the caller.
    pub(super) fn tried(&mut self, trial: &Trial, refused: bool) {
        let (taken, _) = self.room_of(trial.kept);
        taken.count = taken.count.saturating_sub(1);
        taken.bytes = taken.bytes.saturating_sub(trial.bytes);
        if let Some(origin) = trial.origin.filter(|_| trial.kept)
            && let Some(kept) = self.kept_of.get_mut(&(trial.stream, origin))
        {
            *kept -= 1;
            if *kept == 0 {
                self.kept_of.remove(&(trial.stream, origin));
            }
        }
        for key in &trial.keys {
            if let Some((_, users)) = self.keys.get_mut(key) {
                *users -= 1;
                if *users == 0 {
                    self.keys.remove(key);
                }
            }
        }
        let Some(queue) = self.queues.get_mut(&trial.stream) else { return };
        queue.on_trial = queue.on_trial.saturating_sub(1);
        if refused {
            (queue.open, queue.window) = (false, 1);
        } else {
            queue.window = (queue.window * 2).min(MAX_WINDOW);
        }
        if queue.waiting.is_empty() && queue.on_trial == 0 {
            self.queues.remove(&trial.stream);
        }
    }

    /// Everything that waits, in order of submission.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.keys.clear();
        self.kept_of.clear();
        (self.devices, self.kept) = (Room::default(), Room::default());
        let queues = std::mem::take(&mut self.queues);
        let mut all: Vec<_> = queues.into_values().flat_map(|queue| queue.waiting.into_values()).collect();
        all.sort_by_key(|parked| parked.seq);
        all.into_iter().map(|parked| parked.item).collect()
    }
}

impl<T> Queue<T> {
    fn is_ready(&self) -> bool {
        let Some((_, head)) = self.waiting.first_key_value() else { return false };
        self.open && self.on_trial < self.window && (!head.follows || self.on_trial == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);

    fn full(stream: StreamId) -> CommitError {
        CommitError::Full { stream, used: 1, max: 1, need: 1 }
    }

    fn parking() -> Parking<u64> {
        Parking::new(limits(Room { count: 100, bytes: 1000 }))
    }

    fn limits(devices: Room) -> Limits {
        Limits { devices, kept: Room { count: 1, bytes: 100 } }
    }

    fn parked(seq: u64) -> Parked<u64> {
        Parked { seq, item: seq, bytes: 1, kept: false, origin: None, keys: Vec::new(), follows: false }
    }

    fn key(name: &'static str) -> Key {
        (Table::Session, Bytes::from_static(name.as_bytes()))
    }

    fn start(parking: &mut Parking<u64>) -> Vec<(u64, Trial)> {
        std::iter::from_fn(|| parking.next()).collect()
    }

    fn numbers(trials: &[(u64, Trial)]) -> Vec<u64> {
        trials.iter().map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn nothing_is_tried_before_room_returns_and_then_twice_as_many_each_time() {
        let mut parking = parking();
        for seq in 0..10 {
            parking.park(A, full(A), parked(seq)).unwrap();
        }
        assert!(start(&mut parking).is_empty());
        parking.room();
        let first = start(&mut parking);
        assert_eq!(numbers(&first), [0]);
        parking.tried(&first[0].1, false);
        let second = start(&mut parking);
        assert_eq!(numbers(&second), [1, 2]);
        parking.tried(&second[0].1, false);
        parking.tried(&second[1].1, false);
        assert_eq!(numbers(&start(&mut parking)), [3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_is_refused_again_keeps_its_place_and_waits_for_the_next_news() {
        let mut parking = parking();
        for seq in 0..3 {
            parking.park(A, full(A), parked(seq)).unwrap();
        }
        parking.room();
        let trials = start(&mut parking);
        parking.tried(&trials[0].1, true);
        parking.park(A, full(A), parked(0)).unwrap();
        assert!(start(&mut parking).is_empty());
        parking.room();
        assert_eq!(numbers(&start(&mut parking)), [0]);
    }

    #[test]
    fn a_full_stream_holds_up_its_own_submissions_only() {
        let mut parking = parking();
        parking.park(A, full(A), parked(0)).unwrap();
        assert!(parking.ahead([B].into_iter(), [].iter(), None).is_none());
        let ahead = parking.ahead([B, A].into_iter(), [].iter(), None).unwrap();
        assert_eq!((ahead.stream, ahead.follows), (A, false));
        // Still so while the last one is on trial, or a newcomer could overtake it.
        parking.room();
        let trials = start(&mut parking);
        assert!(parking.ahead([A].into_iter(), [].iter(), None).is_some());
        parking.tried(&trials[0].1, false);
        assert!(parking.is_idle());
    }

    #[test]
    fn two_writers_of_one_key_are_never_on_trial_together() {
        let mut parking = parking();
        let first = Parked { keys: vec![key("s")], ..parked(0) };
        parking.park(A, full(A), first).unwrap();
        let ahead = parking.ahead([].into_iter(), [key("other"), key("s")].iter(), None).unwrap();
        assert_eq!((ahead.stream, ahead.follows), (A, true));
        let second = Parked { keys: vec![key("s")], follows: true, ..parked(1) };
        parking.park(A, full(A), second).unwrap();
        parking.room();
        for expected in 0..2 {
            let trials = start(&mut parking);
            assert_eq!(numbers(&trials), [expected]);
            parking.tried(&trials[0].1, false);
        }
        assert!(parking.is_idle() && parking.keys.is_empty());
    }

    #[test]
    fn what_is_kept_is_followed_by_its_origin_in_its_own_stream_alone() {
        let mut parking = parking();
        let (me, other) = (Some(SubscriberId(1)), Some(SubscriberId(2)));
        parking.park(A, full(A), Parked { kept: true, origin: me, ..parked(0) }).unwrap();
        parking.park(B, full(B), Parked { origin: other, ..parked(1) }).unwrap();
        let both = || [B, A, B].into_iter();
        let mine = parking.ahead(both(), [].iter(), me).unwrap();
        assert_eq!((mine.stream, mine.follows), (A, true));
        assert!(!parking.ahead(both(), [].iter(), other).unwrap().follows);
        assert!(!parking.ahead([B].into_iter(), [].iter(), me).unwrap().follows);
        parking.room();
        let trials = start(&mut parking);
        assert!(parking.has_kept(A, me), "on trial");
        trials.iter().for_each(|(_, trial)| parking.tried(trial, false));
        assert!(parking.is_idle() && parking.kept_of.is_empty());
    }

    #[test]
    fn what_exceeds_the_limits_is_given_back() {
        let mut parking: Parking<u64> = Parking::new(limits(Room { count: 2, bytes: 10 }));
        parking.park(A, full(A), Parked { bytes: 8, ..parked(0) }).unwrap();
        let large = parking.park(A, full(A), Parked { bytes: 3, ..parked(1) }).unwrap_err();
        assert_eq!(large.item, 1);
        parking.park(A, full(A), parked(2)).unwrap();
        assert!(parking.park(A, full(A), Parked { bytes: 0, ..parked(3) }).is_err());
        assert_eq!(parking.len(), (2, 9));
        // What is kept elsewhere has room of its own.
        parking.park(A, full(A), Parked { kept: true, ..parked(4) }).unwrap();
        assert!(parking.park(A, full(A), Parked { kept: true, ..parked(5) }).is_err());
        assert_eq!(parking.len(), (3, 10));
        assert_eq!(parking.drain(), [0, 2, 4]);
        assert_eq!(parking.len(), (0, 0));
    }
}
