//! Messages that come down: handed over in order, a bounded number at a time, confirmed when durable (P1, P5).

use super::inbox::{Inbox, Settled};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::uplink::Downward;
use std::collections::VecDeque;
use std::sync::Arc;

/// Who publishes to devices what came down. The hub implements it.
pub trait DownwardSink: Send + Sync {
    /// Takes a message over. `done` is called exactly once, from any thread: with true when the message is durable (or
    /// needs not be, or is a duplicate of one that is), with false if it could not be kept, so that the upstream must
    /// deliver it again. Must not block.
    fn accept(&self, message: Downward, done: Completion<bool>);
}

/// Between uplink and sink.
pub(super) struct Downwards {
    sink: Arc<dyn DownwardSink>,
    inbox: Arc<Inbox>,
    max: usize,
    /// Given to the sink and not answered.
    outstanding: usize,
    /// Not given to the sink yet: at most `max`.
    queue: VecDeque<Downward>,
    /// Confirmations of an earlier connection mean nothing to a later one.
    connection: u64,
    received: u64,
    dropped: u64,
}

impl Downwards {
    pub(super) fn new(sink: Arc<dyn DownwardSink>, inbox: Arc<Inbox>, max: usize) -> Self {
        Self {
            sink,
            inbox,
            max: max.max(1),
            outstanding: 0,
            queue: VecDeque::new(),
            connection: 0,
            received: 0,
            dropped: 0,
        }
    }

    /// A new connection: what is queued of the old one and wants an answer will be delivered again.
    pub(super) fn connected(&mut self) {
        self.connection += 1;
        self.queue.retain(|message| message.token == 0);
    }

    /// Takes a message from the uplink. False if there is no room: it is dropped and counted, and the upstream, which
    /// gets no confirmation, has it still. Not to read the uplink instead would hold back acknowledgements too, and
    /// with them the room that the sink may be waiting for.
    pub(super) fn take(&mut self, message: Downward) -> bool {
        self.received += 1;
        let room = self.queue.len() < self.max;
        if room {
            self.queue.push_back(message);
            self.hand_over();
        } else {
            self.dropped += 1;
        }
        room
    }

    /// The sink has answered. Returns the token to be confirmed, if there is one.
    pub(super) fn settled(&mut self, settled: Settled) -> Option<u64> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.hand_over();
        let current = settled.connection == self.connection;
        (settled.durable && current && settled.token != 0).then_some(settled.token)
    }

    fn hand_over(&mut self) {
        while self.outstanding < self.max {
            let Some(message) = self.queue.pop_front() else { return };
            self.outstanding += 1;
            let (inbox, connection, token) = (Arc::clone(&self.inbox), self.connection, message.token);
            let done = move |durable| inbox.settled(Settled { connection, token, durable });
            self.sink.accept(message, Box::new(done));
        }
    }

    /// Messages received and dropped since the start.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.received, self.dropped)
    }
}
