//! What happened, as much as the checks need.

use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::ports::store::{Consumer, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// An event that became durable.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As the store gave it back the first time.
    pub event: StoredEvent,
    /// Its publisher was answered.
    pub answered: bool,
}

/// An event reached the upstream for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Reception {
    /// Which event.
    pub position: Position,
    /// The start of the node that sent it.
    pub life: u64,
}

/// The upstream refused an event.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Which event.
    pub position: Position,
    /// The start of the node that had sent it.
    pub life: u64,
}

/// What one consumer did with its stream.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Durable cursor, as last observed.
    pub cursor: Position,
    /// Events in its lines of the ledger, as last observed.
    pub ledger: u64,
    /// Acknowledged by the upstream, and the forwarder of this start knows.
    pub acked: BTreeSet<Position>,
    /// What the forwarder knows to be durable of its own cursor commits.
    pub committed: Position,
    /// What the forwarder was told of the store's own doing.
    pub told: Position,
    /// Passed by the durable cursor without an acknowledgement.
    pub lost: BTreeSet<Position>,
    /// Handed to the uplink in this start.
    pub sent: BTreeSet<Position>,
    /// How often the upstream has it.
    pub received: BTreeMap<Position, u64>,
    /// First receptions, in order.
    pub receptions: Vec<Reception>,
    /// Refusals, in order.
    pub refusals: Vec<Refusal>,
    /// Unanswered when a connection ended, and in which start of the node: these may be parked one day.
    pub died: BTreeSet<(Position, u64)>,
}

/// Everything that happened in a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Durable events by stream and position.
    pub streams: Vec<BTreeMap<Position, Stored>>,
    /// One per consumer.
    pub readers: BTreeMap<Consumer, Reader>,
    /// The greatest position that was ever seen.
    pub newest: Position,
}

impl History {
    /// Nothing yet, for these consumers.
    #[must_use]
    pub fn new(streams: usize, consumers: impl IntoIterator<Item = Consumer>) -> History {
        let readers = consumers.into_iter().map(|c| (c, Reader::default())).collect();
        History { streams: vec![BTreeMap::new(); streams], readers, newest: Position::ZERO }
    }

    /// The durable events of a stream.
    #[must_use]
    pub fn stream(&self, stream: StreamId) -> &BTreeMap<Position, Stored> {
        &self.streams[usize::from(stream.0)]
    }

    /// The same, to be changed.
    pub fn stream_mut(&mut self, stream: StreamId) -> &mut BTreeMap<Position, Stored> {
        &mut self.streams[usize::from(stream.0)]
    }

    /// One consumer.
    ///
    /// # Panics
    /// If the plan does not have it.
    pub fn reader(&mut self, consumer: Consumer) -> &mut Reader {
        self.readers.get_mut(&consumer).expect("consumers are fixed by the plan")
    }

    /// Durable events of a stream after `low`, up to and including `high`.
    pub fn between(&self, stream: StreamId, low: Position, high: Position) -> impl Iterator<Item = Position> {
        let range = (low < high).then(|| self.stream(stream).range(low.next()..=high));
        range.into_iter().flatten().map(|(position, _)| *position)
    }

    /// A new start of the node: what only the forwarder knew is forgotten.
    pub fn restart(&mut self, consumer: Consumer, cursor: Position) {
        let reader = self.reader(consumer);
        let known = reader.acked.split_off(&cursor.next());
        drop(known);
        reader.sent.clear();
        reader.committed = cursor;
        reader.told = cursor;
    }

    /// The upstream takes an event over. True if it has it for the first time.
    pub fn receive(&mut self, consumer: Consumer, reception: Reception) -> bool {
        let reader = self.reader(consumer);
        let times = reader.received.entry(reception.position).or_default();
        *times += 1;
        let first = *times == 1;
        if first {
            reader.receptions.push(reception);
        }
        first
    }
}
