//! Events that the upstream holds: what [`Flow`] does with them.
//!
//! The first event of a held group is its *probe*: it stays in memory and goes out again when its time has come. The others
//! leave the flow ([`Aside`]); later ones of the group are offered as they come and given back by the uplink without a call.
//! Once the upstream takes a probe, everything that was set aside is read again, in order. Nothing is parked for being
//! held: how long events may wait is for the stream's budget to say, since the cursor stays before them.

use super::aside::Aside;
use super::flow::Flow;
use super::keys::Keys;
use super::lane::enqueue;
use super::slot::{Slot, State};
use crate::Text;
use crate::event::Position;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Numbers from here on are probes', not slots'.
pub(super) const PROBES_FROM: u64 = 1 << 63;
/// Most probes of one flow. Groups beyond that wait for the next pass.
const PROBES_MAX: usize = 64;
/// Groups without a probe are tried this often.
const PASS_EVERY: Duration = Duration::from_secs(60);
/// Ranges of one uplink, 16 bytes each (P5).
pub(super) const RANGES_MAX: usize = 1 << 16;

#[derive(Debug)]
struct Probe {
    group: Text,
    slot: Slot,
    until: Duration,
}

/// What a flow knows about its held events.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) aside: Aside,
    probes: BTreeMap<u64, Probe>,
    next_probe: u64,
    /// Later events of these keys wait, too (P4).
    keys: Keys,
    /// The upstream may take something that it held: everything is to be read again.
    pass_wanted: bool,
    pass_at: Option<Duration>,
    /// Something is aside of which there is no probe.
    unprobed: bool,
}

impl Held {
    pub(super) fn new(ranges_max: usize) -> Self {
        Self {
            aside: Aside::new(ranges_max),
            probes: BTreeMap::new(),
            next_probe: PROBES_FROM,
            keys: Keys::new(),
            pass_wanted: false,
            pass_at: None,
            unprobed: false,
        }
    }

    pub(super) fn probe(&self, no: u64) -> Option<&Slot> {
        self.probes.get(&no).map(|probe| &probe.slot)
    }

    pub(super) fn probe_mut(&mut self, no: u64) -> Option<&mut Slot> {
        self.probes.get_mut(&no).map(|probe| &mut probe.slot)
    }

    /// How many.
    pub(super) fn probes(&self) -> usize {
        self.probes.len()
    }

    /// True if `no` is a probe, which waits until then.
    pub(super) fn wait(&mut self, no: u64, until: Duration) -> bool {
        self.probes.get_mut(&no).map(|probe| probe.until = until).is_some()
    }

    pub(super) fn waits_until(&self, no: u64) -> Option<Duration> {
        self.probes.get(&no).map(|probe| probe.until)
    }

    /// Few, and asked for only where no slot was found.
    pub(super) fn find(&self, position: Position) -> Option<u64> {
        self.probes.iter().find(|(_, probe)| probe.slot.position == position).map(|(no, _)| *no)
    }

    /// The first event that the cursor must not reach.
    pub(super) fn first(&self) -> Option<Position> {
        let probe = self.probes.values().map(|probe| probe.slot.position).min();
        self.aside.first().into_iter().chain(probe).min()
    }

    /// True if an event of this key was set aside: this one must not overtake it.
    pub(super) fn keeps(&self, key: u64) -> bool {
        self.keys.contains(key)
    }

    /// True if nothing may be read or sent: the flow is to be emptied for a pass.
    pub(super) fn wants_pass(&self) -> bool {
        self.pass_wanted
    }

    /// Takes the probes that are settled out.
    pub(super) fn take_settled(&mut self) -> Vec<Slot> {
        let settled = self.probes.extract_if(.., |_, probe| probe.slot.is_settled());
        let settled: Vec<Slot> = settled.map(|(_, probe)| probe.slot).collect();
        self.pass_wanted |= !settled.is_empty();
        settled
    }

    /// Events without a probe are tried after a while.
    pub(super) fn watch(&mut self, now: Duration) {
        let alone = self.unprobed || self.probes.is_empty();
        let waits = alone && !self.aside.is_empty() && !self.aside.is_passing();
        if !waits {
            self.pass_at = None;
        } else if !self.pass_wanted {
            self.pass_at.get_or_insert(now + PASS_EVERY);
        }
    }

    pub(super) fn wake(&mut self, now: Duration) {
        if self.pass_at.is_some_and(|at| at <= now) {
            self.pass_at = None;
            self.pass_wanted = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.pass_at
    }
}

impl Flow {
    /// The upstream holds the group of `no`, which is not in flight: it is tried again at `until`, others of the group once
    /// it was taken. The caller moves the cursor on.
    pub(super) fn set_aside(&mut self, no: u64, group: &Text, until: Duration) {
        if no >= PROBES_FROM {
            return self.hold_back(no, until);
        }
        let Some(slot) = self.slot(no) else { return };
        let (key, bytes) = (slot.key, slot.bytes());
        if self.held.probes.values().any(|probe| probe.group == *group) {
            self.leave(no);
        } else if self.may_probe(bytes) {
            self.begin_probe(no, group.clone(), until);
        } else {
            self.held.unprobed = true;
            self.leave(no);
        }
        self.troubles.forget(no);
        self.keep_key(key, no);
    }

    fn may_probe(&self, bytes: usize) -> bool {
        let probes = &self.held.probes;
        // A quarter of what may wait: the rest is for the others.
        let waiting: usize = probes.values().map(|probe| probe.slot.bytes()).sum();
        let max = self.bounds.read_ahead;
        probes.len() < PROBES_MAX.min(max.events / 4) && waiting + bytes <= max.bytes / 4
    }

    /// The event moves from its slot to a probe.
    fn begin_probe(&mut self, no: u64, group: Text, until: Duration) {
        let probe = self.held.next_probe;
        let Some(slot) = self.slot_mut(no) else { return };
        let moved = slot.take(State::Backoff);
        self.held.next_probe += 1;
        self.held.probes.insert(probe, Probe { group, slot: moved, until });
        self.backoffs.push(Reverse((until, probe)));
    }

    /// The event leaves memory; its position goes aside when the cursor's side of the flow comes to it.
    fn leave(&mut self, no: u64) {
        let Some(slot) = self.slot_mut(no) else { return };
        let bytes = slot.bytes();
        slot.event = None;
        slot.state = State::Aside;
        self.waiting.remove(bytes);
    }

    /// Where order is strict, what waits behind `no` goes aside with it, and so do later events of its key.
    fn keep_key(&mut self, key: u64, no: u64) {
        if !self.lanes.are_used() {
            return;
        }
        self.held.keys.insert(key);
        for later in self.lanes.dissolve(key) {
            let waits = |slot: &Slot| !slot.is_settled() && slot.state != State::InFlight;
            if later != no && self.slot(later).is_some_and(waits) {
                self.leave(later);
            }
        }
    }

    /// An event whose key is kept goes aside unsent.
    pub(super) fn leave_behind_its_key(&mut self, no: u64) {
        // Perhaps it was only taken for one of them, and no probe tries for it.
        self.held.unprobed |= self.held.keys.is_inexact();
        self.troubles.forget(no);
        self.leave(no);
    }

    /// Begins to read again what was set aside, once nothing is in flight and no read is under way. True if it did; the
    /// caller moves the cursor on.
    pub(super) fn begin_pass(&mut self) -> bool {
        if !self.held.pass_wanted || self.in_flight.events > 0 || self.reading.is_outstanding() {
            return false;
        }
        (self.held.pass_wanted, self.held.pass_at, self.held.unprobed) = (false, None, false);
        while let Some(slot) = self.slots.pop_front() {
            self.base += 1;
            self.pass_or_leave(&slot);
        }
        self.fresh = self.base;
        self.ready.clear();
        self.backoffs.clear();
        self.lanes.clear();
        self.troubles.clear();
        // Later events of a probe's key still wait for it.
        let keyed = self.lanes.are_used();
        let Held { keys, probes, .. } = &mut self.held;
        keys.begin_pass(probes.values().filter(|_| keyed).map(|probe| probe.slot.key));
        self.skipped = false;
        self.queue_probes();
        if let Some(after) = self.held.aside.begin_pass(self.reading.through()) {
            self.reading.rewind(after);
        }
        true
    }

    /// A slot leaves the flow at a pass. It left, settled or not: with nothing aside the cursor passes it.
    fn pass_or_leave(&mut self, slot: &Slot) {
        self.passed = self.passed.max(slot.position);
        if slot.event.is_some() {
            self.waiting.remove(slot.bytes());
        }
        match slot.state {
            State::Acked | State::Moved => self.held.aside.passed(),
            State::Lost(reason) => self.lose(slot, reason),
            _ => self.held.aside.push(slot.position, slot.alone),
        }
    }

    /// All probes may go out: after a pass began or a connection ended nothing is known of them.
    pub(super) fn queue_probes(&mut self) {
        for (no, probe) in &mut self.held.probes {
            if probe.slot.state == State::InFlight {
                self.waiting.add(probe.slot.bytes());
            }
            probe.slot.state = State::Queued;
            enqueue(&mut self.ready, *no);
        }
    }

    /// Probes that the store has given up.
    pub(super) fn drop_probes(&mut self, acked: Position) {
        let gone: Vec<u64> =
            self.held.probes.iter().filter(|(_, p)| p.slot.position <= acked).map(|(no, _)| *no).collect();
        for no in gone {
            let Some(probe) = self.held.probes.remove(&no) else { continue };
            // Its group has none now: a pass finds it another.
            self.held.unprobed = true;
            let (bytes, position) = (probe.slot.bytes(), probe.slot.position);
            if probe.slot.state == State::InFlight {
                let at = self.given_up.partition_point(|(other, _)| *other < position);
                self.given_up.insert(at, (position, bytes));
            } else {
                self.waiting.remove(bytes);
            }
        }
    }
}
