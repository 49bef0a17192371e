//! Messages that slow subscribers lost, gathered for the ledger (P2).
//!
//! A commit per lost message would make a slow subscriber the most expensive client there is. They are counted here at
//! once and committed together, by the hub's housekeeping and at its stop. A kill loses the last second's count and
//! nothing else: these messages were promised to nobody.

use eventmesh_edge_core::event::{Event, Position};
use eventmesh_edge_core::ports::store::{Loss, LossReason};

/// The sum since the last commit, and since the start.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pending: Option<Loss>,
    total: u64,
}

impl Losses {
    /// One more. `position`: where it is stored, if it is.
    pub(super) fn add(&mut self, event: &Event, position: Option<Position>) {
        self.total += 1;
        let at = position.unwrap_or(Position::ZERO);
        self.put_back(Loss {
            consumer: None,
            reason: LossReason::SlowSubscriber,
            events: 1,
            bytes: (event.payload.len() + event.topic.len()) as u64,
            range: (at, at),
        });
    }

    /// What is to be committed now.
    pub(super) fn take(&mut self) -> Option<Loss> {
        self.pending.take()
    }

    /// The commit failed: with the next one.
    pub(super) fn put_back(&mut self, loss: Loss) {
        self.pending = Some(match self.pending {
            None => loss,
            Some(sum) => Loss {
                events: sum.events + loss.events,
                bytes: sum.bytes + loss.bytes,
                range: (first(sum.range.0, loss.range.0), sum.range.1.max(loss.range.1)),
                ..sum
            },
        });
    }

    /// Since the start.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// The lower of two positions that are known.
fn first(a: Position, b: Position) -> Position {
    match (a, b) {
        (Position::ZERO, known) | (known, Position::ZERO) => known,
        (a, b) => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(events: u64, range: (u64, u64)) -> Loss {
        Loss {
            consumer: None,
            reason: LossReason::SlowSubscriber,
            events,
            bytes: 10 * events,
            range: (Position(range.0), Position(range.1)),
        }
    }

    #[test]
    fn losses_are_summed_and_a_failed_commit_loses_none() {
        let mut losses = Losses::default();
        losses.put_back(loss(1, (0, 0)));
        losses.put_back(loss(1, (7, 7)));
        let taken = losses.take().unwrap();
        assert_eq!(taken, loss(2, (7, 7)));
        losses.put_back(loss(3, (5, 9)));
        losses.put_back(taken);
        assert_eq!(losses.take(), Some(loss(5, (5, 9))));
        assert_eq!(losses.take(), None);
    }
}
