//! What the reading side of one flow waits for: one read at a time, as long as there is more.

use super::Volume;
use crate::event::Position;
use crate::ports::store::{Consumer, Read};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Reading {
    /// Everything up to here was read.
    through: Position,
    outstanding: bool,
    /// Something may be there after `through`.
    more: bool,
    /// [`super::Input::Appended`] came while a read was outstanding: its `at_end` is no longer true.
    dirty: bool,
    failures: u32,
    /// Not before this, after a failure.
    retry_at: Option<Duration>,
    closed: bool,
}

impl Reading {
    pub(super) fn new(after: Position) -> Self {
        Self {
            through: after,
            outstanding: false,
            more: true,
            dirty: false,
            failures: 0,
            retry_at: None,
            closed: false,
        }
    }

    pub(super) fn appended(&mut self) {
        self.more = true;
        self.dirty = self.outstanding;
    }

    /// True if a read is worth being made.
    pub(super) fn is_wanted(&self) -> bool {
        self.more && !self.outstanding && !self.closed && self.retry_at.is_none()
    }

    pub(super) fn begin(&mut self, consumer: Consumer, room: Volume) -> Read {
        self.outstanding = true;
        self.dirty = false;
        Read { consumer, after: self.through, max_events: room.events, max_bytes: room.bytes }
    }

    /// A read was answered.
    pub(super) fn answered(&mut self, at_end: bool) {
        self.outstanding = false;
        self.failures = 0;
        self.more = !at_end || self.dirty;
    }

    /// A read failed; `retry_at` is `None` if the store is closed.
    pub(super) fn failed(&mut self, retry_at: Option<Duration>) {
        self.outstanding = false;
        self.more = true;
        self.failures = self.failures.saturating_add(1);
        self.closed = retry_at.is_none();
        self.retry_at = retry_at;
    }

    /// A read is under way.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding
    }

    /// Everything up to here was read.
    pub(super) fn through(&self) -> Position {
        self.through
    }

    /// Begins again behind an earlier position; no read is under way.
    pub(super) fn rewind(&mut self, after: Position) {
        self.through = after;
        self.more = true;
    }

    /// How often in a row reads failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Everything up to `position` was read, or is not to be read any more. False if that was known.
    pub(super) fn pass(&mut self, position: Position) -> bool {
        let news = position > self.through;
        self.through = self.through.max(position);
        news
    }

    /// The time after a failure may be over.
    pub(super) fn wake(&mut self, now: Duration) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.retry_at
    }
}
