//! Which cursors and losses are to become durable, and when: lazily, grouped, one commit at a time.

use super::jitter::Jitter;
use super::{Backoff, Options};
use crate::event::Position;
use crate::ports::store::{Class, Consumer, Loss};
use std::time::Duration;

/// Cursors cannot be committed: try again soon, the events that they pass take room.
const COMMIT_RETRY: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

#[derive(Debug)]
pub(super) struct Ledger {
    every: Duration,
    events: u32,
    /// Settled events since the last commit was handed over.
    settled: u32,
    /// When the next commit is due; `None` while there is nothing to commit.
    due: Option<Duration>,
    /// Not before this, after a failure.
    not_before: Duration,
    losses: Vec<Loss>,
    /// The losses of the commit that is under way.
    in_commit: Option<Vec<Loss>>,
    failures: u32,
    closed: bool,
}

impl Ledger {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            every: options.commit_every,
            events: options.commit_events.max(1),
            settled: 0,
            due: None,
            not_before: Duration::ZERO,
            losses: Vec::new(),
            in_commit: None,
            failures: 0,
            closed: false,
        }
    }

    /// A cursor passed `events` acknowledged events.
    pub(super) fn passed(&mut self, now: Duration, events: u32) {
        if events > 0 {
            self.settled = self.settled.saturating_add(events);
            self.due.get_or_insert(now + self.every);
        }
    }

    /// A cursor passed an event that was given up: the operator is told without delay (P2).
    pub(super) fn lost(&mut self, now: Duration, loss: Loss) {
        merge(&mut self.losses, loss);
        self.due = Some(now);
    }

    /// The store has given up everything of a consumer up to `acked`, and counted it: it is not counted again.
    pub(super) fn retained_from(&mut self, consumer: Consumer, acked: Position) {
        let open = |loss: &Loss| loss.consumer != Some(consumer) || loss.range.1 > acked;
        self.losses.retain(open);
        // Kept only for the case that the commit under way fails.
        if let Some(losses) = &mut self.in_commit {
            losses.retain(open);
        }
    }

    /// True if a commit is to be handed over now.
    pub(super) fn is_due(&self, now: Duration, at_once: bool) -> bool {
        let free = self.in_commit.is_none() && !self.closed && now >= self.not_before;
        free && self.due.is_some_and(|due| at_once || due <= now || self.settled >= self.events)
    }

    /// Hands the losses of a commit over; its answer is waited for.
    pub(super) fn begin(&mut self) -> Vec<Loss> {
        let losses = std::mem::take(&mut self.losses);
        self.settled = 0;
        self.due = None;
        self.in_commit = Some(losses.clone());
        losses
    }

    /// The commit is durable.
    pub(super) fn committed(&mut self) {
        self.in_commit = None;
        self.failures = 0;
    }

    /// The commit is not durable: its losses are counted with the next one.
    pub(super) fn failed(&mut self, now: Duration, class: Class, jitter: &mut Jitter) {
        let Some(losses) = self.in_commit.take() else { return };
        for loss in losses {
            merge(&mut self.losses, loss);
        }
        self.closed = class != Class::Retry;
        self.not_before = now + jitter.delay(COMMIT_RETRY, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.due.get_or_insert(now);
    }

    /// True if nothing waits to become durable, or if nothing can become durable any more.
    pub(super) fn is_done(&self) -> bool {
        self.closed || (self.due.is_none() && self.in_commit.is_none())
    }

    /// When this part wants to be asked again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.closed || self.in_commit.is_some() {
            return None;
        }
        let due = if self.settled >= self.events { self.due.map(|_| self.not_before) } else { self.due };
        due.map(|due| due.max(self.not_before))
    }
}

/// One entry per consumer and reason, whose range covers all of its events.
fn merge(losses: &mut Vec<Loss>, loss: Loss) {
    let same = |l: &&mut Loss| l.consumer == loss.consumer && l.reason == loss.reason;
    match losses.iter_mut().find(same) {
        Some(known) => {
            known.events += loss.events;
            known.bytes += loss.bytes;
            known.range = (known.range.0.min(loss.range.0), known.range.1.max(loss.range.1));
        }
        None => losses.push(loss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store::{LossReason, StreamId, UplinkId};

    const CONSUMER: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };

    fn ledger() -> Ledger {
        Ledger::new(&Options { commit_events: 10, ..Options::new(UplinkId(0)) })
    }

    fn loss(position: u64, reason: LossReason) -> Loss {
        let range = (Position(position), Position(position));
        Loss { consumer: Some(CONSUMER), reason, events: 1, bytes: 100, range }
    }

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn commits_wait_for_time_or_for_number() {
        let mut ledger = ledger();
        assert_eq!(ledger.deadline(), None);
        ledger.passed(at(0), 3);
        assert!(!ledger.is_due(at(199), false));
        assert_eq!(ledger.deadline(), Some(at(200)));
        assert!(ledger.is_due(at(200), false));
        ledger.passed(at(1), 7);
        assert!(ledger.is_due(at(1), false));
    }

    #[test]
    fn a_loss_does_not_wait_and_one_commit_is_under_way_at_a_time() {
        let mut ledger = ledger();
        ledger.lost(at(5), loss(1, LossReason::Rejected));
        assert!(ledger.is_due(at(5), false));
        assert_eq!(ledger.begin().len(), 1);
        ledger.lost(at(6), loss(2, LossReason::Rejected));
        assert!(!ledger.is_due(at(6), true));
        assert_eq!(ledger.deadline(), None, "the answer wakes, not the clock");
        ledger.committed();
        assert!(ledger.is_due(at(6), false));
    }

    #[test]
    fn a_failed_commit_counts_its_losses_later_and_only_once() {
        let mut ledger = ledger();
        ledger.lost(at(0), loss(1, LossReason::Rejected));
        ledger.begin();
        ledger.lost(at(0), loss(2, LossReason::Rejected));
        ledger.failed(at(0), Class::Retry, &mut Jitter::new(1));
        assert!(!ledger.is_due(at(0), true), "no busy loop");
        assert!(ledger.deadline().is_some_and(|d| d > at(0)));
        let losses = ledger.begin();
        assert_eq!(losses.iter().map(|l| l.events).sum::<u64>(), 2);
        assert_eq!(losses[0].range, (Position(1), Position(2)));
    }

    #[test]
    fn what_the_store_counted_is_not_counted_again() {
        let mut ledger = ledger();
        ledger.lost(at(0), loss(1, LossReason::Rejected));
        ledger.lost(at(0), loss(9, LossReason::Expired));
        ledger.retained_from(CONSUMER, Position(5));
        let reasons: Vec<_> = ledger.begin().iter().map(|l| l.reason).collect();
        assert_eq!(reasons, [LossReason::Expired]);
    }

    #[test]
    fn what_the_store_counted_during_a_commit_that_fails_is_not_counted_again() {
        let mut ledger = ledger();
        ledger.lost(at(0), loss(1, LossReason::Rejected));
        ledger.begin();
        ledger.retained_from(CONSUMER, Position(1));
        ledger.failed(at(0), Class::Retry, &mut Jitter::new(1));
        assert!(ledger.begin().is_empty());
    }

    #[test]
    fn a_closed_store_ends_the_waiting() {
        let mut ledger = ledger();
        ledger.passed(at(0), 1);
        ledger.begin();
        assert!(!ledger.is_done());
        ledger.failed(at(0), Class::Fatal, &mut Jitter::new(1));
        assert!(ledger.is_done());
        assert_eq!(ledger.deadline(), None);
    }
}
