//! How far one stream is handed over: [`Flow`]'s cursor, and what it passes.

use super::flow::Flow;
use super::slot::{Slot, State};
use crate::event::Position;
use crate::ports::store::{Loss, LossReason};
use std::time::Duration;

impl Flow {
    /// Moves the cursor over everything settled at the front. Returns how many events that is worth a commit; hands each
    /// loss that it passes to `count`.
    pub(super) fn advance(&mut self, now: Duration, count: impl FnMut(Loss)) -> u32 {
        let mut acked = 0;
        for slot in self.held.take_settled() {
            match slot.state {
                State::Lost(reason) => self.lost.add(self.loss(&slot, reason)),
                _ => acked += 1,
            }
        }
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.is_settled()) {
            self.base += 1;
            self.passed = self.passed.max(slot.position);
            match slot.state {
                State::Lost(reason) => self.lose(&slot, reason),
                State::Aside => self.held.aside.push(slot.position, slot.alone),
                _ => {
                    acked += 1;
                    self.held.aside.passed();
                }
            }
        }
        self.fresh = self.fresh.max(self.base);
        self.held.watch(now);
        let moved = self.follow();
        self.lost.passed(self.cursor).for_each(count);
        if moved { acked.max(1) } else { 0 }
    }

    /// A slot that was given up leaves the flow. It is counted with the cursor that passes it.
    pub(super) fn lose(&mut self, slot: &Slot, reason: LossReason) {
        self.held.aside.passed();
        self.lost.add(self.loss(slot, reason));
    }

    fn loss(&self, slot: &Slot, reason: LossReason) -> Loss {
        Loss {
            consumer: Some(self.consumer),
            reason,
            events: 1,
            bytes: slot.bytes() as u64,
            range: (slot.position, slot.position),
        }
    }

    /// The cursor follows what left the slots, up to the first event that is not settled. True if it moved.
    fn follow(&mut self) -> bool {
        let open = self.held.first().into_iter().chain(self.slots.front().map(|slot| slot.position)).min();
        let to = open.map_or(self.passed, |open| self.passed.min(Position(open.0.saturating_sub(1))));
        let moved = to > self.cursor;
        self.cursor = self.cursor.max(to);
        moved
    }

    /// The store has given up, and counted, everything up to `acked`. False if that is no news.
    pub(super) fn retained_from(&mut self, acked: Position) -> bool {
        if acked <= self.committed {
            return false;
        }
        self.committed = acked;
        self.committing = self.committing.max(acked);
        while self.slots.front().is_some_and(|slot| slot.position <= acked) {
            self.drop_front();
        }
        self.fresh = self.fresh.max(self.base);
        self.cursor = self.cursor.max(acked);
        self.passed = self.passed.max(acked);
        self.held.aside.retained_from(acked);
        self.lost.retained_from(acked);
        self.drop_probes(acked);
        self.reading.pass(acked);
        true
    }

    fn drop_front(&mut self) {
        let no = self.base;
        let Some(slot) = self.slots.front() else { return };
        let (position, bytes, state) = (slot.position, slot.bytes(), slot.state);
        if state == State::InFlight {
            // Still unanswered, so it still takes its place in the upstream's window.
            self.given_up.push_back((position, bytes));
            self.waiting.add(bytes);
        }
        if !slot.is_settled() {
            self.settle(no, State::Acked);
        }
        self.slots.pop_front();
        self.base += 1;
    }

    /// The cursor that is to become durable, if it moved; it then counts as handed over.
    pub(super) fn begin_commit(&mut self) -> Option<Position> {
        let moved = self.cursor > self.committing;
        self.committing = self.cursor;
        moved.then_some(self.cursor)
    }

    pub(super) fn committed(&mut self) {
        self.committed = self.committed.max(self.committing);
    }

    pub(super) fn commit_failed(&mut self) {
        self.committing = self.committed;
    }
}
