//! One event between its cursor and the upstream.

use crate::event::{Position, StoredEvent, Timestamp};
use crate::ports::store::LossReason;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In `ready`, or at or after `fresh`.
    Queued,
    /// Sent on this connection, unanswered.
    InFlight,
    /// Refused for the moment: in `backoffs`.
    Backoff,
    /// In the lane of an earlier event of its key.
    Held,
    /// Set aside: the upstream holds its group, or an earlier event of its key.
    Aside,
    /// It is a probe now, see [`super::held`].
    Moved,
    /// The upstream has it.
    Acked,
    /// Given up; counted when the cursor passes it.
    Lost(LossReason),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) position: Position,
    /// Hash of (source, topic): a collision makes two keys wait for each other and does no other harm. 0 where keys
    /// play no part.
    pub(super) key: u64,
    stored_bytes: u32,
    /// Handed to the uplink at least once.
    pub(super) sent: bool,
    pub(super) state: State,
    /// Something between it and the slot before was settled earlier and not read again.
    pub(super) alone: bool,
    /// `None` once settled.
    pub(super) event: Option<Arc<StoredEvent>>,
}

impl Slot {
    pub(super) fn new(event: StoredEvent, keyed: bool) -> Self {
        Self {
            position: event.position,
            key: if keyed { key_of(&event) } else { 0 },
            stored_bytes: event.stored_bytes,
            sent: false,
            state: State::Queued,
            alone: false,
            event: Some(Arc::new(event)),
        }
    }

    /// Its part of budgets.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.stored_bytes).unwrap_or(usize::MAX)
    }

    /// True if there is nothing more to be done about it in its flow.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, State::Acked | State::Lost(_) | State::Aside | State::Moved)
    }

    /// Moves the event out of it.
    pub(super) fn take(&mut self, state: State) -> Slot {
        self.state = State::Moved;
        Slot { state, event: self.event.take(), ..*self }
    }

    /// Past its own deadline or older than its stream keeps; never by a clock that has not been set.
    pub(super) fn is_expired(&self, wall: Timestamp, max_age: Option<Duration>) -> bool {
        let Some(stored) = &self.event else { return false };
        let event = &stored.event;
        let by_deadline = event.expires.is_some_and(|at| at <= wall);
        let by_age =
            event.received.is_plausible() && max_age.is_some_and(|age| event.received.after(age) <= wall);
        wall.is_plausible() && (by_deadline || by_age)
    }
}

fn key_of(stored: &StoredEvent) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (source, topic): (&str, &str) = (&stored.event.source, &stored.event.topic);
    (source, topic).hash(&mut hasher);
    hasher.finish()
}
