//! What was given up where the cursor cannot pass it yet: behind an event that the upstream holds, or that is tried again.
//!
//! A loss is counted in the commit of the cursor that passes it (P2). Until then it is remembered, so that the event is not
//! tried again: what was given up stays given up, and later events of its key went on (P4).

use crate::event::Position;
use crate::ports::store::Loss;

#[derive(Debug)]
pub(super) struct Lost {
    /// In order of their first positions.
    losses: Vec<Loss>,
    max: usize,
}

impl Lost {
    /// `max`: how many are remembered one by one. Beyond that neighbours are counted together, with the cursor that passes
    /// the first of them: a crash in that moment may count one of them once more, and none less (P2, P5).
    pub(super) fn new(max: usize) -> Self {
        Self { losses: Vec::new(), max: max.max(8) }
    }

    pub(super) fn add(&mut self, loss: Loss) {
        let at = self.losses.partition_point(|other| other.range.0 <= loss.range.0);
        let before = at.checked_sub(1).and_then(|before| self.losses.get(before));
        // What lies between joined ranges of positions is read a second time.
        if before.is_some_and(|other| other.reason == loss.reason && other.range.1 >= loss.range.1) {
            return;
        }
        self.losses.insert(at, loss);
        if self.losses.len() > self.max {
            self.join();
        }
    }

    /// Those that a cursor passes.
    pub(super) fn passed(&mut self, cursor: Position) -> impl Iterator<Item = Loss> + '_ {
        let count = self.losses.partition_point(|loss| loss.range.0 <= cursor);
        self.losses.drain(..count)
    }

    /// The store has given up, and counted, everything up to `acked`.
    pub(super) fn retained_from(&mut self, acked: Position) {
        self.losses.retain(|loss| loss.range.1 > acked);
    }

    /// Joins each second one with the one of its reason before it.
    fn join(&mut self) {
        let mut halves: Vec<Loss> = Vec::new();
        let mut joined = Vec::with_capacity(self.losses.len() / 2 + 1);
        for loss in self.losses.drain(..) {
            match halves.iter().position(|half| half.reason == loss.reason) {
                Some(at) => {
                    let half = halves.swap_remove(at);
                    let range = (half.range.0, half.range.1.max(loss.range.1));
                    joined.push(Loss {
                        events: half.events + loss.events,
                        bytes: half.bytes + loss.bytes,
                        range,
                        ..half
                    });
                }
                None => halves.push(loss),
            }
        }
        joined.append(&mut halves);
        joined.sort_by_key(|loss| loss.range.0);
        self.losses = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store::LossReason;

    fn loss(position: u64, reason: LossReason) -> Loss {
        let range = (Position(position), Position(position));
        Loss { consumer: None, reason, events: 1, bytes: 100, range }
    }

    fn passed(lost: &mut Lost, cursor: u64) -> u64 {
        lost.passed(Position(cursor)).map(|loss| loss.events).sum()
    }

    #[test]
    fn each_is_counted_once_when_the_cursor_comes_by() {
        let mut lost = Lost::new(100);
        for position in [7, 3, 9, 3] {
            lost.add(loss(position, LossReason::Rejected));
        }
        assert_eq!([passed(&mut lost, 2), passed(&mut lost, 7), passed(&mut lost, 7)], [0, 2, 0]);
        lost.retained_from(Position(9));
        assert_eq!(passed(&mut lost, 20), 0, "the store has counted it");
    }

    #[test]
    fn memory_is_bounded_and_none_is_forgotten() {
        let mut lost = Lost::new(16);
        for position in 1..=1_000 {
            let reason = if position % 3 == 0 { LossReason::Expired } else { LossReason::Rejected };
            lost.add(loss(position, reason));
            assert!(lost.losses.len() <= 16);
        }
        let mut counted = 0;
        for cursor in 1..=1_000 {
            counted += passed(&mut lost, cursor);
            assert!(counted >= cursor, "never later than the cursor");
        }
        assert_eq!(counted, 1_000);
    }
}
