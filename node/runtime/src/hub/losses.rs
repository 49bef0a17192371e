//! What was lost in the hub, gathered for the ledger (P2): messages for which a slow subscriber had no room, mailbox
//! entries that no commit takes, and messages that were not stored and whose senders cannot know: with QoS 0 there is no
//! answer to withhold and no second try.
//!
//! A commit per lost message would make a slow subscriber the most expensive client there is, and what a full disk refuses
//! would make it fuller. They are counted here at once and committed together, by the hub's housekeeping and at its stop. A
//! kill loses the last second's count and nothing else.
//!
//! The node's own figures (`$SYS`) are no device's events, and the next ones say more than those that were lost: they do
//! not enter the ledger.

use eventmesh_edge_core::event::{Event, Position, Via};
use eventmesh_edge_core::ports::store::{Loss, LossReason};

/// The sum since the last commit, and since the start.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// At most one for each reason.
    pending: Vec<Loss>,
    slow: u64,
}

impl Losses {
    /// One more. `position`: where it is stored, if it is.
    pub(super) fn add(&mut self, event: &Event, position: Option<Position>) {
        self.slow += 1;
        if !is_figure(event) {
            self.count(LossReason::SlowSubscriber, 1, event, position);
        }
    }

    /// So many mailboxes did not get the event.
    pub(super) fn add_shed(&mut self, mailboxes: u64, event: &Event, position: Option<Position>) {
        self.count(LossReason::SessionQueueFull, mailboxes, event, position);
    }

    /// A message that the store did not take.
    pub(super) fn add_refused(&mut self, event: &Event) {
        if !is_figure(event) {
            self.count(LossReason::Refused, 1, event, None);
        }
    }

    fn count(&mut self, reason: LossReason, events: u64, event: &Event, position: Option<Position>) {
        let at = position.unwrap_or(Position::ZERO);
        let bytes = events * (event.payload.len() + event.topic.len()) as u64;
        self.put_back(Loss { consumer: None, reason, events, bytes, range: (at, at) });
    }

    /// What is to be committed now.
    pub(super) fn take(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.pending)
    }

    /// The commit failed: with the next one.
    pub(super) fn put_back(&mut self, loss: Loss) {
        let Some(sum) = self.pending.iter_mut().find(|sum| sum.reason == loss.reason) else {
            return self.pending.push(loss);
        };
        sum.events += loss.events;
        sum.bytes += loss.bytes;
        sum.range = (first(sum.range.0, loss.range.0), sum.range.1.max(loss.range.1));
    }

    /// Messages that slow subscribers lost since the start.
    pub(super) fn slow(&self) -> u64 {
        self.slow
    }
}

fn is_figure(event: &Event) -> bool {
    event.via == Via::Node && event.topic.starts_with("$SYS/")
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
        let taken = losses.take();
        assert_eq!(taken, [loss(2, (7, 7))]);
        losses.put_back(loss(3, (5, 9)));
        taken.into_iter().for_each(|loss| losses.put_back(loss));
        let shed = Loss { reason: LossReason::SessionQueueFull, ..loss(1, (2, 2)) };
        losses.put_back(shed);
        assert_eq!(losses.take(), [loss(5, (5, 9)), shed]);
        assert_eq!(losses.take(), []);
    }
}
