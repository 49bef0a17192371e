//! One stream on its way up: the events between its cursor and the newest one read, in order of position.
//!
//! ```text
//!        cursor │ slots (at most gap_max)                                   │ not read yet
//!   ────────────┼───────────────┬──────────────┬─────────────┬──────────────┼──────────────▶ position
//!               │ first: in     │ acked, out   │ in flight   │ queued       │
//!               │ flight or     │ of order: no │             │              │
//!               │ backing off   │ payload kept │             │              │
//!                               base ≤ ...                    fresh ≤ ... ≤ end
//! ```
//! Slots are numbered from 0 for the life of the flow; `base` is the number of the first one kept. What goes out next is
//! the head of `ready` (retried or released events) or else slot `fresh`. The cursor passes the settled slots at the
//! front, and nothing else ([`super::cursor`]); what the upstream holds leaves the slots and keeps the cursor back
//! ([`super::held`]).

use super::held::{Held, PROBES_FROM};
use super::lane::{Admission, Lanes, Mode, Released, enqueue};
use super::lost::Lost;
use super::reading::Reading;
use super::slot::{Slot, State};
use super::trouble::Troubles;
use super::{Options, StreamOptions, Volume};
use crate::event::{Position, StoredEvent, Timestamp};
use crate::ports::store::{Batch, Consumer, LossReason, Read, StreamId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The exponent of the delay of a probe that was refused for another reason than that its group is held.
const PROBE_DOUBLINGS: u32 = 4;

/// What an answer of the upstream was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Slot `no`, in flight on this connection.
    InFlight { no: u64, bytes: usize },
    /// Slot `no`, sent on an earlier connection and waiting to be sent again.
    Earlier { no: u64 },
    /// An event in flight that the store has given up meanwhile.
    GivenUp { bytes: usize },
    /// Nothing that was asked.
    Unknown,
}

/// Bounds of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) gap_max: usize,
    pub(super) read_ahead: Volume,
    pub(super) fetch: Volume,
    /// Ranges of positions set aside.
    pub(super) ranges: usize,
    /// Losses that wait for the cursor.
    pub(super) losses: usize,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) consumer: Consumer,
    /// Guaranteed events of the window.
    pub(super) share: usize,
    pub(super) in_flight: Volume,
    /// When the upstream answered last, when it was first asked after silence, or when the gap filled.
    pub(super) progress_at: Duration,
    pub(super) troubles: Troubles,
    pub(super) bounds: Bounds,
    max_age: Option<Duration>,
    pub(super) lanes: Lanes,
    pub(super) slots: VecDeque<Slot>,
    pub(super) base: u64,
    pub(super) fresh: u64,
    /// In order: of one key the earlier always goes first, however it came here (P4).
    pub(super) ready: VecDeque<u64>,
    pub(super) backoffs: BinaryHeap<Reverse<(Duration, u64)>>,
    /// Where the next answer is expected: right after the last one.
    hint: u64,
    /// Neither settled nor in flight.
    pub(super) waiting: Volume,
    /// In flight, and no longer in `slots` because the store has given them up.
    pub(super) given_up: VecDeque<(Position, usize)>,
    pub(super) cursor: Position,
    /// The last one that left the slots.
    pub(super) passed: Position,
    pub(super) held: Held,
    /// Given up, and not passed by the cursor yet.
    pub(super) lost: Lost,
    /// An event was read that is settled already, after the last slot.
    pub(super) skipped: bool,
    /// Part of a commit that was handed over.
    pub(super) committing: Position,
    /// Durable.
    pub(super) committed: Position,
    pub(super) reading: Reading,
}

impl Flow {
    pub(super) fn new(options: &Options, stream: &StreamOptions, bounds: Bounds, share: usize) -> Self {
        Self {
            consumer: Consumer { stream: stream.stream, uplink: options.uplink },
            share,
            in_flight: Volume::default(),
            progress_at: Duration::ZERO,
            troubles: Troubles::default(),
            bounds,
            max_age: stream.max_age,
            lanes: Lanes::new(Mode::of(options)),
            slots: VecDeque::new(),
            base: 0,
            fresh: 0,
            ready: VecDeque::new(),
            backoffs: BinaryHeap::new(),
            hint: 0,
            waiting: Volume::default(),
            given_up: VecDeque::new(),
            cursor: stream.acked,
            passed: stream.acked,
            held: Held::new(bounds.ranges),
            lost: Lost::new(bounds.losses),
            skipped: false,
            committing: stream.acked,
            committed: stream.acked,
            reading: Reading::new(stream.acked),
        }
    }

    pub(super) fn stream(&self) -> StreamId {
        self.consumer.stream
    }

    pub(super) fn cursor(&self) -> Position {
        self.cursor
    }

    /// Events and bytes kept in memory beside those in flight.
    pub(super) fn waiting(&self) -> Volume {
        self.waiting
    }

    // --- reading

    /// Something may be there to be read.
    pub(super) fn appended(&mut self) {
        self.reading.appended();
    }

    /// How much may be read now without leaving the bounds; `None` if nothing. Half the room must be free first, so that
    /// reads are large.
    fn room(&self) -> Option<Volume> {
        let Bounds { gap_max, read_ahead, fetch, .. } = self.bounds;
        let gap_room = gap_max.saturating_sub(self.slots.len());
        if gap_room == 0
            || self.waiting.events > read_ahead.events / 2
            || self.waiting.bytes > read_ahead.bytes / 2
        {
            return None;
        }
        Some(Volume {
            events: fetch.events.min(read_ahead.events - self.waiting.events).min(gap_room),
            bytes: fetch.bytes.min(read_ahead.bytes - self.waiting.bytes),
        })
    }

    /// The read to be made now, if any.
    pub(super) fn next_read(&mut self) -> Option<Read> {
        if !self.reading.is_wanted() || self.held.wants_pass() {
            return None;
        }
        let room = self.room()?;
        Some(self.reading.begin(self.consumer, room))
    }

    /// A read was answered: what it found is queued, but for what the store gave up while the read was under way.
    pub(super) fn fetched(&mut self, batch: Batch, now: Duration) {
        self.reading.answered(batch.at_end);
        for event in batch.events {
            if self.reading.pass(event.position) {
                self.take_in(event);
            }
        }
        self.reading.pass(batch.through);
        self.held.aside.looked_at(if batch.at_end { Position(u64::MAX) } else { batch.through });
        self.skipped |= self.reading.pass(self.held.aside.skip(self.reading.through()));
        if self.gap_is_full() {
            // From now on the event that fills the gap has its time to be answered.
            self.progress_at = now;
        }
    }

    /// What was read becomes a slot, unless this is a pass and it was settled before.
    fn take_in(&mut self, event: StoredEvent) {
        let (wanted, again) = self.held.aside.wants(event.position);
        if wanted {
            let mut slot = Slot::new(event, self.lanes.are_used());
            // Nobody remembers which of those set aside were sent: all of them may be repetitions.
            (slot.sent, slot.alone) = (again, std::mem::take(&mut self.skipped));
            self.waiting.add(slot.bytes());
            self.slots.push_back(slot);
        } else {
            self.skipped = true;
        }
    }

    /// A read failed; `retry_at` is `None` if the store is closed.
    pub(super) fn fetch_failed(&mut self, retry_at: Option<Duration>) {
        self.reading.failed(retry_at);
    }

    /// How often in a row.
    pub(super) fn fetch_failures(&self) -> u32 {
        self.reading.failures()
    }

    // --- sending

    /// Takes the next event to be sent off the queue; `None` if there is nothing that may go out now.
    pub(super) fn take_next(&mut self, wall: Timestamp) -> Option<u64> {
        if self.held.wants_pass() {
            return None;
        }
        loop {
            let no = match self.ready.pop_front() {
                Some(no) => no,
                None if self.fresh < self.end() => {
                    self.fresh += 1;
                    self.fresh - 1
                }
                None => return None,
            };
            if self.may_go(no, wall) {
                return Some(no);
            }
        }
    }

    fn may_go(&mut self, no: u64, wall: Timestamp) -> bool {
        let max_age = self.max_age;
        let Some(slot) = self.slot_mut(no) else { return false };
        if slot.state != State::Queued {
            return false;
        }
        if slot.is_expired(wall, max_age) {
            self.give_up(no, LossReason::Expired);
            return false;
        }
        let key = slot.key;
        if no < PROBES_FROM && self.held.keeps(key) {
            self.leave_behind_its_key(no);
            return false;
        }
        match self.lanes.admit(key, no) {
            Admission::Go => true,
            Admission::Held => {
                self.set(no, State::Held);
                false
            }
        }
    }

    /// What was taken does not fit into the window: it is the next again.
    pub(super) fn untake(&mut self, no: u64) {
        self.ready.push_front(no);
    }

    /// Stored bytes of a slot.
    pub(super) fn bytes(&self, no: u64) -> usize {
        self.slot(no).map_or(0, Slot::bytes)
    }

    /// Marks what was taken as in flight. Returns the event, and whether it was sent before.
    pub(super) fn send(&mut self, no: u64, now: Duration) -> Option<(Arc<StoredEvent>, bool)> {
        if self.in_flight.events == 0 {
            self.progress_at = now;
        }
        let slot = self.slot_mut(no)?;
        let event = slot.event.clone()?;
        let (again, bytes) = (slot.sent, slot.bytes());
        slot.sent = true;
        slot.state = State::InFlight;
        self.waiting.remove(bytes);
        self.in_flight.add(bytes);
        Some((event, again))
    }

    // --- answers

    /// Finds what the upstream answered. An event in flight is in flight no more and must be settled or held back next.
    pub(super) fn answered(&mut self, position: Position, now: Duration) -> Answered {
        let Some(no) = self.find(position) else { return self.answered_given_up(position) };
        if no < PROBES_FROM {
            self.hint = no + 1;
        }
        let Some(slot) = self.slot_mut(no) else { return Answered::Unknown };
        let bytes = slot.bytes();
        match slot.state {
            State::InFlight => {
                slot.state = State::Queued;
                self.in_flight.remove(bytes);
                self.waiting.add(bytes);
                self.progress_at = now;
                Answered::InFlight { no, bytes }
            }
            State::Queued | State::Backoff | State::Held if slot.sent => Answered::Earlier { no },
            _ => Answered::Unknown,
        }
    }

    fn answered_given_up(&mut self, position: Position) -> Answered {
        match self.given_up.binary_search_by_key(&position, |g| g.0) {
            Ok(idx) => {
                let bytes = self.given_up.remove(idx).map_or(0, |g| g.1);
                self.in_flight.remove(bytes);
                Answered::GivenUp { bytes }
            }
            Err(_) => Answered::Unknown,
        }
    }

    fn find(&self, position: Position) -> Option<u64> {
        // What has moved out of its slot is a probe now.
        let is_it = |slot: &Slot| slot.position == position && slot.state != State::Moved;
        let is_here = |no| self.slot(no).is_some_and(is_it);
        if is_here(self.hint) {
            return Some(self.hint);
        }
        match self.slots.binary_search_by_key(&position, |slot| slot.position) {
            Ok(idx) if self.slots.get(idx).is_some_and(is_it) => Some(self.base + idx as u64),
            _ => self.held.find(position),
        }
    }

    /// The upstream has it: it needs no memory any more.
    pub(super) fn acked(&mut self, no: u64) {
        self.settle(no, State::Acked);
    }

    /// It will not be sent any more, and is counted when the cursor passes it.
    pub(super) fn give_up(&mut self, no: u64, reason: LossReason) {
        self.settle(no, State::Lost(reason));
    }

    /// Only for slots that are not in flight.
    pub(super) fn settle(&mut self, no: u64, state: State) {
        let Some(slot) = self.slot_mut(no) else { return };
        let (key, bytes) = (slot.key, slot.bytes());
        slot.state = state;
        slot.event = None;
        self.waiting.remove(bytes);
        self.troubles.forget(no);
        self.release(key, no);
    }

    /// Later events of the key no longer wait for `no`.
    fn release(&mut self, key: u64, no: u64) {
        let (slots, ready, base, fresh) = (&mut self.slots, &mut self.ready, self.base, self.fresh);
        let troubles = &self.troubles;
        self.lanes.release(key, no, |next| {
            let Some(slot) = index(base, next).and_then(|idx| slots.get_mut(idx)) else {
                return Released::Gone;
            };
            match slot.state {
                State::Held => slot.state = State::Queued,
                // The head once, until an earlier one was refused, and on its way again.
                State::InFlight => return Released::Refused,
                _ => return Released::Gone,
            }
            // What `fresh` has not come to yet it will come to, after the earlier ones (P4).
            if next < fresh {
                enqueue(ready, next);
            }
            if troubles.attempts(next) > 0 { Released::Refused } else { Released::Queued }
        });
    }

    /// Not before `until` is it tried again; later events of its key wait with it where order is strict.
    pub(super) fn hold_back(&mut self, no: u64, until: Duration) {
        let Some(key) = self.slot(no).map(|slot| slot.key) else { return };
        if let Some(later) = self.lanes.hold_back(key, no)
            && self.slot(later).is_some_and(|slot| matches!(slot.state, State::Queued | State::Backoff))
        {
            self.set(later, State::Held);
        }
        if self.slot(no).is_some_and(|slot| slot.state != State::Held) {
            self.set(no, State::Backoff);
            self.wait(no, until);
            self.backoffs.push(Reverse((until, no)));
        }
    }

    fn wait(&mut self, no: u64, until: Duration) {
        match self.held.wait(no, until) {
            true => {}
            false => self.troubles.wait(no, until),
        }
    }

    fn waits_until(&self, no: u64) -> Option<Duration> {
        self.held.waits_until(no).or_else(|| self.troubles.waits_until(no))
    }

    /// Queues what has waited long enough.
    pub(super) fn wake(&mut self, now: Duration) {
        self.reading.wake(now);
        self.held.wake(now);
        while let Some(&Reverse((until, no))) = self.backoffs.peek() {
            if until > now {
                return;
            }
            self.backoffs.pop();
            let waits = self.slot(no).is_some_and(|slot| slot.state == State::Backoff);
            if waits && self.waits_until(no) == Some(until) {
                self.set(no, State::Queued);
                if no < self.fresh || no >= PROBES_FROM {
                    enqueue(&mut self.ready, no);
                }
            }
        }
    }

    /// The next moment at which [`Flow::wake`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let backoff = self.backoffs.peek().map(|Reverse((until, _))| *until);
        [backoff, self.reading.deadline(), self.held.deadline()].into_iter().flatten().min()
    }

    /// The connection is gone: everything unanswered is queued again, in order (P2, P4).
    pub(super) fn restart(&mut self) {
        for slot in &mut self.slots {
            if !slot.is_settled() {
                if slot.state == State::InFlight {
                    self.waiting.add(slot.bytes());
                }
                slot.state = State::Queued;
            }
        }
        self.in_flight = Volume::default();
        self.given_up.clear();
        self.ready.clear();
        self.backoffs.clear();
        self.lanes.clear();
        self.fresh = self.base;
        self.hint = self.base;
        self.queue_probes();
    }

    /// The first slot that is in flight.
    pub(super) fn first_in_flight(&self) -> Option<u64> {
        let idx = self.slots.iter().position(|slot| slot.state == State::InFlight)?;
        Some(self.base + idx as u64)
    }

    /// The connection ends: those in flight that may be why. If it acknowledged nothing, that is the first one; it is
    /// any earlier suspect in any case.
    pub(super) fn accuse_flying(&mut self, barren: bool, acks: u64) {
        let first = if barren { self.first_in_flight() } else { None };
        let flying = |no: &u64| self.slot(*no).is_some_and(|slot| slot.state == State::InFlight);
        let suspects = self.troubles.suspects().into_iter().map(|(no, _)| no).filter(flying);
        let accused: Vec<u64> = suspects.filter(|no| Some(*no) != first).chain(first).collect();
        for no in accused {
            self.accuse(no, acks);
        }
    }

    /// The connection ends because of `no`, or may have.
    pub(super) fn accuse(&mut self, no: u64, acks: u64) {
        if no >= PROBES_FROM {
            return;
        }
        let alone = self.is_last_open();
        self.troubles.died(no, acks, alone);
    }

    /// The upstream refused `no` for the moment; it is not in flight. Returns its earlier refusals in a row.
    pub(super) fn refused(&mut self, no: u64, acks: u64, alone: bool) -> u32 {
        if no >= PROBES_FROM {
            // Tried at leisure for ever: nothing waits in the slots behind it.
            return PROBE_DOUBLINGS;
        }
        let alone = alone || self.is_last_open();
        self.troubles.refused(no, acks, alone)
    }

    /// True if one event alone fills the gap: everything that may be sent after it was taken by the upstream.
    fn is_last_open(&self) -> bool {
        self.gap_is_full() && self.in_flight.events + self.waiting.events == 1 + self.held.probes()
    }

    // --- the gap

    /// True if as many events lie behind the cursor as may.
    pub(super) fn gap_is_full(&self) -> bool {
        self.slots.len() >= self.bounds.gap_max
    }

    /// The slot that blocks this flow: it backs off, nothing is in flight, nothing may be sent, nothing may be read.
    pub(super) fn stuck(&self) -> Option<u64> {
        let idle = self.in_flight.events == 0 && self.ready.is_empty() && self.fresh == self.end();
        let first = self.slots.front()?;
        (idle && first.state == State::Backoff && self.room().is_none()).then_some(self.base)
    }

    fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    pub(super) fn slot(&self, no: u64) -> Option<&Slot> {
        if no >= PROBES_FROM {
            return self.held.probe(no);
        }
        self.slots.get(index(self.base, no)?)
    }

    pub(super) fn slot_mut(&mut self, no: u64) -> Option<&mut Slot> {
        if no >= PROBES_FROM {
            return self.held.probe_mut(no);
        }
        self.slots.get_mut(index(self.base, no)?)
    }

    fn set(&mut self, no: u64, state: State) {
        if let Some(slot) = self.slot_mut(no) {
            slot.state = state;
        }
    }
}

fn index(base: u64, no: u64) -> Option<usize> {
    usize::try_from(no.checked_sub(base)?).ok()
}
