//! From mailbox to live delivery and back: which messages a persistent session is offered, and which it reads.
//!
//! Every message of QoS 1 or 2 for a persistent session is in its mailbox. While the client keeps up, the hub also
//! offers each one directly after its commit; while it does not (away, catching up, queue full), the connection reads the
//! mailbox and asks with [`Handover::resume`] to be offered what comes later. At the switch-over no message may be
//! skipped and none may come twice on one connection, although a read and a commit may be under way at the same time
//! and each is seen by the other or not. One position decides:
//!
//! - *reading*: nothing is offered. `mark` is the last entry that may be in the mailbox without having been offered on
//!   this connection; whoever has read up to it has everything.
//! - *live*: `mark` is the last entry that was offered or read; entries up to it are not offered again.
//!
//! ```text
//!            resume(through >= mark, nothing unknown)
//!   reading ────────────────────────────────────────▶ live
//!      ▲    refused(position), restart                 │
//!      └───────────────────────────────────────────────┘
//! ```
//! Entries end for other reasons than being read: acknowledged on an earlier connection, given up at the mailbox's
//! budget, expired. The mark of a reading session may therefore name an entry that no read will ever return, so a read
//! that finds nothing is evidence too ([`Handover::found_nothing`]); it is also the only evidence about entries from
//! before the start of the node.

use crate::event::Position;

/// The switch of one persistent session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    live: bool,
    /// There may be entries after any read so far whose positions nobody here knows (from before the start).
    unknown: bool,
    mark: Position,
}

/// What was known when a read of the mailbox was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadMark(Position);

impl Handover {
    /// A session that is reading. `has_entries`: its mailbox was not empty before the first [`Handover::committed`].
    #[must_use]
    pub fn new(has_entries: bool) -> Handover {
        Handover { live: false, unknown: has_entries, mark: Position::ZERO }
    }

    /// True if new entries are offered.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// An entry is durable in the mailbox; called in order of position. True if it is to be offered now.
    pub fn committed(&mut self, position: Position) -> bool {
        let offer = self.live && position > self.mark;
        self.mark = self.mark.max(position);
        offer
    }

    /// The outlet had no room for the entry that [`Handover::committed`] said to offer.
    pub fn refused(&mut self, position: Position) {
        self.live = false;
        self.mark = self.mark.max(position);
    }

    /// Another connection, or none: whatever is in the mailbox has to be read on the next one.
    pub fn restart(&mut self) {
        self.live = false;
    }

    /// To be taken before a read of the mailbox begins.
    #[must_use]
    pub fn mark(&self) -> ReadMark {
        ReadMark(self.mark)
    }

    /// A read that began at `mark` found nothing after `after`.
    pub fn found_nothing(&mut self, mark: ReadMark, after: Position) {
        if self.live {
            return;
        }
        if self.unknown {
            self.unknown = false;
            self.mark = self.mark.max(after);
        } else if self.mark == mark.0 {
            self.mark = self.mark.min(after);
        }
    }

    /// The connection has everything up to `through`. False: there may be later entries, read on and ask again.
    pub fn resume(&mut self, through: Position) -> bool {
        if self.live {
            return true;
        }
        if self.unknown || self.mark > through {
            return false;
        }
        self.live = true;
        self.mark = through;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    #[derive(Clone, Copy, Debug)]
    enum Op {
        /// An entry becomes durable; the hub does not know yet.
        Commit,
        /// The hub learns of the next one; the outlet has room or not.
        Complete { room: bool },
        /// The connection begins a read of at most `max`.
        BeginRead { max: usize },
        /// The answer is made now (`late`) or was made when the read began.
        EndRead { late: bool },
        /// The connection asks although it has not read on.
        Resume,
        /// The client acknowledges the oldest or the newest thing it has seen.
        Acknowledge { newest: bool },
        /// The store gives up an entry: the oldest (budget) or the newest (expiry).
        Evict { newest: bool },
        /// Another connection.
        Reconnect,
        /// Another process.
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => Just(Op::Commit),
            6 => any::<bool>().prop_map(|room| Op::Complete { room }),
            2 => Just(Op::Complete { room: true }),
            5 => (1usize..4).prop_map(|max| Op::BeginRead { max }),
            5 => any::<bool>().prop_map(|late| Op::EndRead { late }),
            2 => Just(Op::Resume),
            2 => any::<bool>().prop_map(|newest| Op::Acknowledge { newest }),
            1 => any::<bool>().prop_map(|newest| Op::Evict { newest }),
            1 => Just(Op::Reconnect),
            1 => Just(Op::Restart),
        ]
    }

    struct Reading {
        mark: ReadMark,
        after: Position,
        max: usize,
        snapshot: Vec<Position>,
    }

    /// A store, a hub and a connection that do what their documentation says.
    struct World {
        handover: Handover,
        next: u64,
        mailbox: BTreeSet<Position>,
        uncompleted: VecDeque<Position>,
        seen: Vec<Position>,
        cursor: Position,
        live: bool,
        reading: Option<Reading>,
    }

    impl World {
        fn new() -> World {
            World {
                handover: Handover::new(false),
                next: 1,
                mailbox: BTreeSet::new(),
                uncompleted: VecDeque::new(),
                seen: Vec::new(),
                cursor: Position::ZERO,
                live: false,
                reading: None,
            }
        }

        fn receive(&mut self, position: Position) -> Result<(), TestCaseError> {
            prop_assert!(position > self.cursor, "{position} again or out of order after {}", self.cursor);
            self.cursor = position;
            self.seen.push(position);
            Ok(())
        }

        fn after(&self, after: Position, max: usize) -> Vec<Position> {
            self.mailbox.range(after.next()..).take(max).copied().collect()
        }

        fn resume(&mut self) {
            self.live = self.handover.resume(self.cursor);
        }

        fn forget_connection(&mut self) {
            (self.live, self.reading, self.cursor) = (false, None, Position::ZERO);
            self.seen.clear();
        }

        fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
            match op {
                Op::Commit => {
                    let position = Position(self.next);
                    self.next += 1;
                    self.mailbox.insert(position);
                    self.uncompleted.push_back(position);
                }
                Op::Complete { room } => self.complete(room)?,
                Op::BeginRead { max } if !self.live && self.reading.is_none() => {
                    let (mark, after) = (self.handover.mark(), self.cursor);
                    self.reading = Some(Reading { mark, after, max, snapshot: self.after(after, max) });
                }
                Op::EndRead { late } => self.end_read(late)?,
                Op::Resume if !self.live && self.reading.is_none() => self.resume(),
                Op::Acknowledge { newest } => {
                    let one = if newest { self.seen.last() } else { self.seen.first() };
                    one.map(|p| self.mailbox.remove(p));
                }
                Op::Evict { newest } => {
                    let one = if newest { self.mailbox.last() } else { self.mailbox.first() }.copied();
                    one.map(|p| self.mailbox.remove(&p));
                }
                Op::Reconnect => {
                    self.handover.restart();
                    self.forget_connection();
                }
                Op::Restart => {
                    self.handover = Handover::new(!self.mailbox.is_empty());
                    self.uncompleted.clear();
                    self.forget_connection();
                }
                Op::BeginRead { .. } | Op::Resume => {}
            }
            Ok(())
        }

        fn complete(&mut self, room: bool) -> Result<(), TestCaseError> {
            let Some(position) = self.uncompleted.pop_front() else { return Ok(()) };
            if !self.handover.committed(position) {
                return Ok(());
            }
            prop_assert!(self.live, "offered before it was asked for");
            if room {
                return self.receive(position);
            }
            self.handover.refused(position);
            self.live = false;
            Ok(())
        }

        fn end_read(&mut self, late: bool) -> Result<(), TestCaseError> {
            let Some(Reading { mark, after, max, snapshot }) = self.reading.take() else { return Ok(()) };
            let items = if late { self.after(after, max) } else { snapshot };
            if items.is_empty() {
                self.handover.found_nothing(mark, after);
                self.resume();
            }
            items.into_iter().try_for_each(|position| self.receive(position))
        }

        /// The client keeps up from here on: everything that waits for it must arrive.
        fn settle(&mut self) -> Result<(), TestCaseError> {
            for _ in 0..400 {
                self.apply(Op::Complete { room: true })?;
                self.apply(Op::BeginRead { max: 3 })?;
                self.apply(Op::EndRead { late: true })?;
            }
            prop_assert!(self.live, "the connection reads for ever: {:?}", self.handover);
            let seen: BTreeSet<_> = self.seen.iter().copied().collect();
            let missing: Vec<_> = self.mailbox.difference(&seen).collect();
            prop_assert!(missing.is_empty(), "never offered and never read: {missing:?}");
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn everything_arrives_once_and_in_order_on_each_connection(ops in prop::collection::vec(op(), 0..80)) {
            let mut world = World::new();
            for op in ops {
                world.apply(op)?;
            }
            world.settle()?;
        }
    }

    #[test]
    fn an_entry_that_the_last_read_already_returned_is_not_offered() {
        let mut handover = Handover::new(false);
        // Durable, read as position 5, but its completion has not reached the hub yet.
        assert!(handover.resume(Position(5)));
        assert!(!handover.committed(Position(5)));
        assert!(handover.committed(Position(6)));
    }

    #[test]
    fn resume_is_refused_until_what_was_missed_has_been_read() {
        let mut handover = Handover::new(false);
        assert!(!handover.committed(Position(7)));
        assert!(!handover.resume(Position(6)));
        assert!(handover.resume(Position(7)));
        assert!(handover.committed(Position(8)));
        handover.refused(Position(8));
        assert!(!handover.resume(Position(7)));
    }

    #[test]
    fn entries_from_before_the_start_have_to_be_read_to_their_end() {
        let mut handover = Handover::new(true);
        assert!(!handover.resume(Position(90)), "nobody knows yet where they end");
        handover.found_nothing(handover.mark(), Position(90));
        assert!(!handover.resume(Position(80)));
        assert!(handover.resume(Position(90)));
    }

    #[test]
    fn an_entry_that_is_gone_does_not_hold_the_session_up() {
        let mut handover = Handover::new(false);
        handover.committed(Position(7));
        let mark = handover.mark();
        handover.found_nothing(mark, Position(3));
        assert!(handover.resume(Position(3)));
        // The same evidence is too old once another entry has come.
        handover.restart();
        handover.committed(Position(8));
        handover.found_nothing(mark, Position(3));
        assert!(!handover.resume(Position(3)));
    }
}
