//! The oldest unacknowledged events of a consumer, so that a cursor can move over them without reading the disk.

use eventmesh_edge_core::event::Position;
use std::collections::VecDeque;

/// Marks kept per consumer; 24 bytes each, so memory does not grow with the backlog (P5).
pub(crate) const MARKS_MAX: usize = 4096;

/// Marks read ahead at once for a consumer that may soon have to give up its oldest events.
pub(crate) const LOOK_AHEAD: usize = 1024;

/// One event of the log, as much as accounting needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    pub(crate) received_ms: u64,
    pub(crate) bytes: u32,
}

/// What was passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) range: Option<(Position, Position)>,
    /// Receipt of the first.
    pub(crate) oldest_ms: Option<u64>,
}

impl Passed {
    pub(crate) fn add(&mut self, mark: &Mark) {
        self.events += 1;
        self.bytes += u64::from(mark.bytes);
        let first = self.range.map_or(mark.position, |(first, _)| first);
        self.oldest_ms = self.oldest_ms.or(Some(mark.received_ms));
        self.range = Some((first, mark.position));
    }

    /// What was passed after it.
    pub(crate) fn join(&mut self, later: &Passed) {
        self.events += later.events;
        self.bytes += later.bytes;
        self.oldest_ms = self.oldest_ms.or(later.oldest_ms);
        self.range = match (self.range, later.range) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (mine, theirs) => mine.or(theirs),
        };
    }
}

/// Marks of every event in (cursor, `through`], in order.
#[derive(Debug)]
pub(crate) struct Ahead {
    marks: VecDeque<Mark>,
    through: Position,
    complete: bool,
}

impl Ahead {
    /// For a consumer with nothing behind its cursor.
    pub(crate) fn empty() -> Self {
        Ahead { marks: VecDeque::new(), through: Position::ZERO, complete: true }
    }

    /// For a consumer whose events after `cursor` are all still to be looked at.
    pub(crate) fn unknown(cursor: Position) -> Self {
        Ahead { marks: VecDeque::new(), through: cursor, complete: false }
    }

    /// True if every event after the cursor is marked.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(crate) fn get(&self, idx: usize) -> Option<&Mark> {
        self.marks.get(idx)
    }

    pub(crate) fn first(&self) -> Option<&Mark> {
        self.marks.front()
    }

    /// Every event up to here is marked.
    pub(crate) fn through(&self) -> Position {
        self.through
    }

    /// A new event at the end of the stream.
    pub(crate) fn appended(&mut self, mark: Mark) {
        if self.complete && self.marks.len() < MARKS_MAX {
            self.marks.push_back(mark);
            self.through = mark.position;
        } else {
            self.complete = false;
        }
    }

    /// Somebody looked at everything in (`after`, `through`] and found `marks`; `to_the_end`: nothing comes after it.
    pub(crate) fn looked_at(
        &mut self,
        after: Position,
        found: &[Mark],
        through: Position,
        to_the_end: bool,
        max: usize,
    ) {
        if self.complete || after > self.through || through <= self.through {
            // Nothing new, or not joined to what is known. An empty rest still completes.
            self.complete |= to_the_end && after <= self.through && through <= self.through;
            return;
        }
        let known = self.through;
        for mark in found.iter().filter(|mark| mark.position > known) {
            if self.marks.len() >= max {
                return;
            }
            self.marks.push_back(*mark);
            self.through = mark.position;
        }
        self.through = through;
        self.complete = to_the_end;
    }

    /// Takes what lies at or before `to` off the front.
    pub(crate) fn pass(&mut self, to: Position) -> Passed {
        let mut passed = Passed::default();
        while let Some(mark) = self.marks.front().copied().filter(|mark| mark.position <= to) {
            passed.add(&mark);
            self.marks.pop_front();
        }
        self.through = self.through.max(to);
        passed
    }

    /// Gives memory back that a past backlog needed.
    pub(crate) fn shrink(&mut self) {
        if self.marks.capacity() > 256 && self.marks.len() * 4 < self.marks.capacity() {
            self.marks.shrink_to(self.marks.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(position: u64) -> Mark {
        Mark { position: Position(position), received_ms: position, bytes: 10 }
    }

    #[test]
    fn passes_what_was_appended() {
        let mut ahead = Ahead::empty();
        for position in 1..=5 {
            ahead.appended(mark(position));
        }
        let passed = ahead.pass(Position(3));
        assert_eq!((passed.events, passed.bytes, passed.range), (3, 30, Some((Position(1), Position(3)))));
        assert!(ahead.is_complete());
        assert_eq!(ahead.first(), Some(&mark(4)));
    }

    #[test]
    fn is_bounded_and_says_that_it_is_incomplete() {
        let mut ahead = Ahead::empty();
        for position in 1..=MARKS_MAX as u64 + 10 {
            ahead.appended(mark(position));
        }
        assert_eq!(ahead.len(), MARKS_MAX);
        assert!(!ahead.is_complete());
        assert_eq!(ahead.through(), Position(MARKS_MAX as u64));
    }

    #[test]
    fn a_read_that_joins_on_completes_it_and_one_that_does_not_is_ignored() {
        let mut ahead = Ahead::unknown(Position(10));
        ahead.looked_at(Position(20), &[mark(25)], Position(25), true, 100);
        assert_eq!(ahead.len(), 0);
        ahead.looked_at(Position(5), &[mark(8), mark(12), mark(15)], Position(15), false, 100);
        assert_eq!((ahead.len(), ahead.through()), (2, Position(15)));
        ahead.looked_at(Position(15), &[mark(19)], Position(30), true, 100);
        assert!(ahead.is_complete());
        assert_eq!(ahead.pass(Position(30)).events, 3);
    }
}
