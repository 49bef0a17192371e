//! The other end of an uplink: takes events over, or does not, and answers, or does not.

use crate::plan::Weather;
use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::ports::store::{Class, StreamId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One event handed over once.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Counts all sendings of an uplink, over restarts.
    pub number: u64,
    /// On which connection.
    pub connection: u64,
    /// By which start of the node.
    pub life: u64,
    /// From which stream.
    pub stream: StreamId,
    /// What.
    pub event: Arc<StoredEvent>,
}

/// Names an event for the forwarder.
pub type EventKey = (StreamId, Position);

/// What the upstream does with an event that reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Takes it over and says so; `twice`: two times.
    Taken {
        /// Two answers.
        twice: bool,
    },
    /// Takes it over, and the answer is lost.
    TakenInSilence,
    /// Refuses it.
    Refused(Class),
    /// The connection breaks; the event is taken over or not.
    Reset {
        /// It was taken over before.
        taken: bool,
    },
}

/// State of the connection and of what is on its way.
#[derive(Debug, Default)]
pub struct Upstream {
    /// Number of the current attempt or connection; 0 before the first.
    pub connection: u64,
    /// Something sent now will arrive.
    pub alive: bool,
    /// Ordered, and it refused an event that is to come again: what is behind that one is not taken.
    pub ends: bool,
    /// The forwarder has been told that it is up, and not that it is down.
    pub told_up: bool,
    /// What the forwarder may have unanswered.
    pub window: usize,
    /// Sent on this connection and unanswered, as far as the forwarder knows.
    pub unanswered: BTreeMap<EventKey, u64>,
    /// Bytes of these.
    pub unanswered_bytes: usize,
    /// Events of an ordered connection arrive one after the other: not before this, and neither do their answers.
    pub arrives_after: Duration,
    /// See `arrives_after`.
    pub answers_after: Duration,
    /// Refused for good: an ordered one does so again if its answer was lost, since it has taken others behind.
    pub rejected: BTreeSet<EventKey>,
    sendings: u64,
}

impl Upstream {
    /// A new attempt: whatever was there is forgotten.
    pub fn attempt(&mut self) -> u64 {
        self.connection += 1;
        (self.alive, self.ends) = (false, false);
        self.arrives_after = Duration::ZERO;
        self.answers_after = Duration::ZERO;
        drop(self.forget());
        self.connection
    }

    /// The forwarder counts nothing as unanswered any more. Returns what was.
    pub fn forget(&mut self) -> impl Iterator<Item = EventKey> + use<> {
        self.told_up = false;
        self.unanswered_bytes = 0;
        std::mem::take(&mut self.unanswered).into_keys()
    }

    /// As a start of the node finds it: not connected, numbers go on.
    #[must_use]
    pub fn after(earlier: Option<&Upstream>) -> Upstream {
        let Some(earlier) = earlier else { return Upstream::default() };
        Upstream {
            connection: earlier.connection + 1,
            sendings: earlier.sendings,
            rejected: earlier.rejected.clone(),
            ..Upstream::default()
        }
    }

    /// Takes an event on its way.
    pub fn send(&mut self, life: u64, stream: StreamId, event: Arc<StoredEvent>) -> Sending {
        self.sendings += 1;
        self.unanswered.insert((stream, event.position), self.sendings);
        self.unanswered_bytes += event.stored_bytes as usize;
        Sending { number: self.sendings, connection: self.connection, life, stream, event }
    }

    /// The forwarder hears about an event.
    pub fn answered(&mut self, key: EventKey, stored_bytes: u32) {
        if self.unanswered.remove(&key).is_some() {
            self.unanswered_bytes -= stored_bytes as usize;
        }
    }
}

/// What becomes of an event that arrives in this weather; `number` is the publisher's.
#[must_use]
pub fn fate(weather: &Weather, number: u64, rng: &mut Rng) -> Fate {
    if weather.poison > 0 && number.is_multiple_of(weather.poison) {
        return Fate::Reset { taken: false };
    }
    let mut roll = rng.below(1000);
    let mut falls = |chance: u64| {
        let hit = roll < chance;
        roll = roll.saturating_sub(chance);
        hit
    };
    if falls(weather.lose) {
        Fate::TakenInSilence
    } else if falls(weather.retry) {
        Fate::Refused(Class::Retry)
    } else if falls(weather.reject) {
        Fate::Refused(Class::Reject)
    } else if falls(weather.fatal) {
        Fate::Refused(Class::Fatal)
    } else if falls(weather.reset) {
        Fate::Reset { taken: rng.chance(500) }
    } else {
        Fate::Taken { twice: rng.chance(weather.twice) }
    }
}
