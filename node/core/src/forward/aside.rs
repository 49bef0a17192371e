//! Which events of a stream were set aside, in memory that does not grow with their number.
//!
//! An event that the upstream holds (its topic is not there yet) must not keep later ones waiting, and the cursor must not
//! pass it. So it leaves the flow, and what remains of it is its position, in a range of positions:
//!
//! ```text
//!      cursor │ ranges: set aside │ in the flow │ todo: of an earlier pass, to be read again │ front │ never read
//! ────────────┼────[──]───[]──[───]┼─────────────┼──[─────]──[]──────────────────────────────┼───────┼──────▶ position
//! ```
//! A *pass* reads them again, in order: everything unsettled becomes `todo`, and reading goes back to the first of it. What
//! lies between ranges was settled and is passed over. There are at most [`Aside::new`]'s `max` ranges; beyond that
//! neighbours are joined, and what lay between them goes out a second time with the same identity (P2, P3, P5).

use crate::event::Position;
use std::collections::VecDeque;

/// Every event of the stream from the first to the last of them is to be sent (again).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: Position,
    last: Position,
}

#[derive(Debug)]
pub(super) struct Aside {
    /// Set aside since the last pass began, in order; all before `todo`.
    ranges: VecDeque<Range>,
    /// To be read again by the pass that is under way, in order.
    todo: VecDeque<Range>,
    /// Nothing settled came after the last range, so that it may grow.
    open: bool,
    /// Everything up to here was read once.
    front: Position,
    max: usize,
}

impl Aside {
    /// `max`: how many ranges, at least 2.
    pub(super) fn new(max: usize) -> Self {
        Self {
            ranges: VecDeque::new(),
            todo: VecDeque::new(),
            open: false,
            front: Position::ZERO,
            max: max.max(2),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.todo.is_empty()
    }

    /// True while a pass has something left to be read.
    pub(super) fn is_passing(&self) -> bool {
        !self.todo.is_empty()
    }

    /// The first position that the cursor must not reach.
    pub(super) fn first(&self) -> Option<Position> {
        self.ranges.front().or(self.todo.front()).map(|range| range.first)
    }

    /// Sets the next event aside; those before it in the flow have left it. `alone`: something between it and the one
    /// before was not read.
    pub(super) fn push(&mut self, position: Position, alone: bool) {
        match self.ranges.back_mut().filter(|_| self.open && !alone) {
            Some(range) => range.last = position,
            None => {
                self.make_room();
                self.ranges.push_back(Range { first: position, last: position });
            }
        }
        self.open = true;
    }

    /// A settled event left the flow.
    pub(super) fn passed(&mut self) {
        self.open = false;
    }

    /// Begins to read everything again that was set aside; everything up to `through` was read. Returns after which
    /// position.
    pub(super) fn begin_pass(&mut self, through: Position) -> Option<Position> {
        self.front = self.front.max(through);
        let mut all = std::mem::take(&mut self.ranges);
        all.append(&mut self.todo);
        self.todo = all;
        self.open = false;
        self.todo.front().map(|range| before(range.first))
    }

    /// Whether an event that was read is to be sent, and whether it was read before. They come in order.
    pub(super) fn wants(&mut self, position: Position) -> (bool, bool) {
        let again = position <= self.front;
        (!again || self.takes(position), again)
    }

    /// Takes an event out of the ranges that are to be read; false if it is in none.
    fn takes(&mut self, position: Position) -> bool {
        while self.todo.front().is_some_and(|range| range.last < position) {
            self.todo.pop_front();
        }
        let Some(range) = self.todo.front_mut().filter(|range| range.first <= position) else { return false };
        if range.last == position {
            self.todo.pop_front();
        } else {
            // Positions of other streams may lie between; what matters is that this one is not to be read again.
            range.first = Position(position.0 + 1);
        }
        true
    }

    /// The store has looked at everything up to `through`: what of it was to be read again and did not come is there no more.
    /// It was damaged, and the store counts that itself.
    pub(super) fn looked_at(&mut self, through: Position) {
        drop_up_to(&mut self.todo, through);
    }

    /// Where reading goes on if everything up to `through` was read again: past what is settled.
    pub(super) fn skip(&self, through: Position) -> Position {
        let next = self.todo.front().map_or(self.front, |range| before(range.first));
        through.max(next.min(self.front))
    }

    /// The store has given up everything up to `acked`.
    pub(super) fn retained_from(&mut self, acked: Position) {
        drop_up_to(&mut self.ranges, acked);
        drop_up_to(&mut self.todo, acked);
    }

    /// Joins every second range with its neighbour.
    fn make_room(&mut self) {
        if self.ranges.len() + self.todo.len() < self.max {
            return;
        }
        join(&mut self.ranges);
        join(&mut self.todo);
    }
}

fn drop_up_to(all: &mut VecDeque<Range>, position: Position) {
    while all.front().is_some_and(|range| range.last <= position) {
        all.pop_front();
    }
    if let Some(range) = all.front_mut() {
        range.first = range.first.max(Position(position.0.saturating_add(1)));
    }
}

fn before(position: Position) -> Position {
    Position(position.0.saturating_sub(1))
}

fn join(all: &mut VecDeque<Range>) {
    let mut joined = VecDeque::with_capacity(all.len() / 2 + 1);
    while let Some(mut range) = all.pop_front() {
        if let Some(next) = all.pop_front() {
            range.last = next.last;
        }
        joined.push_back(range);
    }
    *all = joined;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Walks over positions 1 to 200 as a flow does: those of `held` are set aside, the others settled.
    fn walk(aside: &mut Aside, from: u64, held: &BTreeSet<u64>) -> Vec<u64> {
        let (mut sent, mut alone) = (Vec::new(), false);
        for n in from..=200 {
            if !aside.wants(Position(n)).0 {
                alone = true;
                continue;
            }
            sent.push(n);
            if held.contains(&n) {
                aside.push(Position(n), alone);
            } else {
                aside.passed();
            }
            alone = false;
        }
        sent
    }

    proptest! {
        #[test]
        fn a_pass_reads_exactly_what_was_set_aside(
            first in proptest::collection::btree_set(1_u64..=200, 0..120),
            open in proptest::collection::btree_set(1_u64..=200, 0..120),
        ) {
            let mut aside = Aside::new(1_000);
            prop_assert_eq!(walk(&mut aside, 1, &first).len(), 200);
            prop_assert_eq!(aside.first().map(|p| p.0), first.first().copied());
            let second: BTreeSet<u64> = first.difference(&open).copied().collect();
            let Some(after) = aside.begin_pass(Position(200)) else { return Ok(()) };
            let sent = walk(&mut aside, after.0 + 1, &second);
            prop_assert_eq!(sent, first.iter().copied().collect::<Vec<_>>());
            prop_assert!(!aside.is_passing());
            prop_assert_eq!(aside.first().map(|p| p.0), second.first().copied());
            aside.begin_pass(Position(200));
            let sent = walk(&mut aside, 1, &BTreeSet::new());
            prop_assert_eq!(sent, second.into_iter().collect::<Vec<_>>());
            prop_assert!(aside.is_empty());
        }

        #[test]
        fn with_too_little_memory_more_is_read_and_nothing_less(
            held in proptest::collection::btree_set(1_u64..=200, 1..120), max in 2_usize..20,
        ) {
            let mut aside = Aside::new(max);
            walk(&mut aside, 1, &held);
            prop_assert!(aside.ranges.len() <= max);
            aside.begin_pass(Position(200));
            let sent: BTreeSet<u64> = walk(&mut aside, 1, &BTreeSet::new()).into_iter().collect();
            prop_assert!(held.is_subset(&sent));
        }
    }

    #[test]
    fn what_is_settled_is_passed_over_in_one_step() {
        let mut aside = Aside::new(10);
        walk(&mut aside, 1, &BTreeSet::from([5, 6, 150]));
        assert_eq!(aside.begin_pass(Position(200)), Some(Position(4)));
        assert_eq!((aside.wants(Position(5)), aside.wants(Position(6))), ((true, true), (true, true)));
        assert_eq!(aside.skip(Position(6)), Position(149));
        assert!(aside.wants(Position(150)).0);
        assert_eq!(aside.skip(Position(150)), Position(200));
        assert_eq!(aside.wants(Position(201)), (true, false), "never read before");
        assert_eq!(aside.skip(Position(201)), Position(201));
    }

    #[test]
    fn what_the_store_gave_up_is_not_asked_for() {
        let mut aside = Aside::new(10);
        walk(&mut aside, 1, &BTreeSet::from([5, 6, 7, 150]));
        aside.retained_from(Position(6));
        assert_eq!(aside.first(), Some(Position(7)));
        aside.begin_pass(Position(200));
        aside.retained_from(Position(150));
        assert!(aside.is_empty());
    }

    #[test]
    fn what_is_not_there_any_more_is_not_waited_for() {
        let mut aside = Aside::new(10);
        walk(&mut aside, 1, &BTreeSet::from([5, 6, 7, 150]));
        aside.begin_pass(Position(200));
        assert!(aside.wants(Position(5)).0);
        // 6 was damaged meanwhile; the store has looked at everything up to there.
        aside.looked_at(Position(6));
        assert_eq!(aside.first(), Some(Position(7)));
        assert!(aside.wants(Position(7)).0);
        aside.looked_at(Position(200));
        assert!(aside.is_empty() && !aside.is_passing());
    }
}
