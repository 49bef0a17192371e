//! Which events of one key wait for which (P4).

use super::{Options, Order, Pipeline};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nobody waits.
    Free,
    /// Each waits until the earlier one of its key is settled.
    OnePerKey,
    /// Each waits only behind an earlier one of its key that was refused, until that is settled.
    Pipelined,
}

impl Mode {
    pub(super) fn of(options: &Options) -> Self {
        match (options.order, options.pipeline) {
            (Order::Sequence, _) => Mode::Free,
            (Order::Strict, Pipeline::Unordered) => Mode::OnePerKey,
            (Order::Strict, Pipeline::Ordered) => Mode::Pipelined,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    Held,
}

/// What became of an event that waited in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// It does not wait any more.
    Gone,
    /// It is queued.
    Queued,
    /// It is queued, and was refused before: those behind it wait until it is settled.
    Refused,
}

#[derive(Debug)]
struct Lane {
    /// Slot number of the event that the others wait for.
    head: u64,
    /// Those others, in order.
    queue: VecDeque<u64>,
}

/// Keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// All lanes of one flow. Their number is bounded by the flow's slots (P5).
#[derive(Debug)]
pub(super) struct Lanes {
    mode: Mode,
    lanes: HashMap<u64, Lane, BuildHasherDefault<AsItIs>>,
}

impl Lanes {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, lanes: HashMap::default() }
    }

    /// False if keys play no part.
    pub(super) fn are_used(&self) -> bool {
        self.mode != Mode::Free
    }

    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// May `no` be sent? If not it is queued in its lane.
    pub(super) fn admit(&mut self, key: u64, no: u64) -> Admission {
        if self.mode == Mode::Free || (self.mode == Mode::Pipelined && self.lanes.is_empty()) {
            return Admission::Go;
        }
        match self.lanes.get_mut(&key) {
            Some(lane) if lane.head < no => {
                enqueue(&mut lane.queue, no);
                Admission::Held
            }
            Some(_) => Admission::Go,
            None => {
                if self.mode == Mode::OnePerKey {
                    self.lanes.insert(key, Lane { head: no, queue: VecDeque::new() });
                }
                Admission::Go
            }
        }
    }

    /// `no` backs off: later events of its key wait for it. Returns those that are held from now on; `no` itself is
    /// among them if an earlier one of its key backs off already.
    pub(super) fn hold_back(&mut self, key: u64, no: u64) -> Option<u64> {
        if self.mode == Mode::Free {
            return None;
        }
        let Some(lane) = self.lanes.get_mut(&key) else {
            self.lanes.insert(key, Lane { head: no, queue: VecDeque::new() });
            return None;
        };
        if no == lane.head {
            return None;
        }
        let later = no.max(lane.head);
        lane.head = no.min(lane.head);
        enqueue(&mut lane.queue, later);
        Some(later)
    }

    /// The lane of a key is no more; returns who waited in it.
    pub(super) fn dissolve(&mut self, key: u64) -> VecDeque<u64> {
        self.lanes.remove(&key).map(|lane| lane.queue).unwrap_or_default()
    }

    /// The head `no` of a lane is settled. `queue` is called with the next ones in order and says what became of them; one
    /// is enough where one per key is in flight, and none goes behind one that was refused.
    pub(super) fn release(&mut self, key: u64, no: u64, mut queue: impl FnMut(u64) -> Released) {
        if self.lanes.is_empty() {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.head == no) else { return };
        while let Some(next) = lane.queue.pop_front() {
            let goes_on = match queue(next) {
                Released::Gone => true,
                Released::Queued => self.mode == Mode::Pipelined,
                Released::Refused => false,
            };
            if !goes_on {
                lane.head = next;
                return;
            }
        }
        self.lanes.remove(&key);
    }
}

/// Puts `no` where it belongs: nearly always at the end.
pub(super) fn enqueue(queue: &mut VecDeque<u64>, no: u64) {
    if queue.back().is_none_or(|last| *last < no) {
        queue.push_back(no);
    } else {
        let at = queue.partition_point(|other| *other < no);
        queue.insert(at, no);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(lanes: &mut Lanes, key: u64, no: u64) -> Vec<u64> {
        let mut out = Vec::new();
        lanes.release(key, no, |next| {
            out.push(next);
            Released::Queued
        });
        out
    }

    #[test]
    fn one_per_key_lets_the_next_go_when_the_first_is_settled() {
        let mut lanes = Lanes::new(Mode::OnePerKey);
        assert_eq!(lanes.admit(7, 1), Admission::Go);
        assert_eq!(lanes.admit(8, 2), Admission::Go);
        assert_eq!(lanes.admit(7, 3), Admission::Held);
        assert_eq!(lanes.admit(7, 4), Admission::Held);
        assert_eq!(lanes.admit(7, 1), Admission::Go, "tried again");
        assert_eq!(released(&mut lanes, 7, 1), [3]);
        assert_eq!(lanes.admit(7, 5), Admission::Held);
        assert_eq!(released(&mut lanes, 7, 3), [4]);
        assert_eq!(released(&mut lanes, 7, 4), [5]);
        assert_eq!(released(&mut lanes, 7, 5), [0_u64; 0]);
        assert_eq!(lanes.admit(7, 6), Admission::Go);
    }

    #[test]
    fn a_pipelined_lane_forms_at_a_failure_and_goes_on_as_a_whole_once_its_head_is_settled() {
        let mut lanes = Lanes::new(Mode::Pipelined);
        assert_eq!([lanes.admit(7, 1), lanes.admit(7, 2), lanes.admit(7, 3)], [Admission::Go; 3]);
        assert_eq!(lanes.hold_back(7, 2), None);
        assert_eq!(lanes.hold_back(7, 3), Some(3));
        assert_eq!(lanes.hold_back(7, 1), Some(2), "an earlier one takes the lead");
        assert_eq!(lanes.admit(7, 4), Admission::Held);
        assert_eq!(lanes.admit(8, 5), Admission::Go);
        assert_eq!(released(&mut lanes, 7, 1), [2, 3, 4]);
        assert_eq!(lanes.admit(7, 6), Admission::Go);
    }

    #[test]
    fn nobody_goes_behind_one_that_was_refused() {
        let mut lanes = Lanes::new(Mode::Pipelined);
        for no in 1..=4 {
            lanes.hold_back(7, no);
        }
        let mut out = Vec::new();
        lanes.release(7, 1, |next| {
            out.push(next);
            if next == 3 { Released::Refused } else { Released::Queued }
        });
        assert_eq!(out, [2, 3]);
        assert_eq!(
            [lanes.admit(7, 2), lanes.admit(7, 3), lanes.admit(7, 5)],
            [Admission::Go, Admission::Go, Admission::Held]
        );
        assert_eq!(released(&mut lanes, 7, 3), [4, 5]);
    }

    #[test]
    fn free_events_never_wait() {
        let mut lanes = Lanes::new(Mode::Free);
        assert_eq!(lanes.hold_back(7, 1), None);
        assert_eq!(lanes.admit(7, 2), Admission::Go);
    }
}
