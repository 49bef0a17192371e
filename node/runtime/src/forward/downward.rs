//! Messages that come down: handed over in order, a bounded number at a time, confirmed when durable (P1, P5).

use super::inbox::{Inbox, Settled};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::uplink::Downward;
use std::collections::VecDeque;
use std::sync::Arc;

/// What became of a message that came down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is durable, or needs not be, or is a duplicate of one that is.
    Durable,
    /// It can never be kept, for this reason.
    Dropped(Text),
    /// It could not be kept and is to be handed over again.
    Again,
}

/// Who publishes to devices what came down. The hub implements it.
pub trait DownwardSink: Send + Sync {
    /// Takes a message over. `done` is called exactly once, from any thread. Must not block.
    fn accept(&self, message: Downward, done: Completion<Kept>);
}

/// Between uplink and sink.
pub(super) struct Downwards {
    sink: Arc<dyn DownwardSink>,
    inbox: Arc<Inbox>,
    max: usize,
    /// Given to the sink and not answered.
    outstanding: usize,
    /// Not given to the sink yet.
    queue: VecDeque<Downward>,
    /// Given to the sink, which could not keep it; with `queue` at most `max`.
    failed: VecDeque<Downward>,
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
            failed: VecDeque::new(),
            connection: 0,
            received: 0,
            dropped: 0,
        }
    }

    /// A new connection: what is queued of the old one and wants an answer will be delivered again.
    pub(super) fn connected(&mut self) {
        self.connection += 1;
        self.queue.retain(|message| message.token == 0);
        self.failed.clear();
    }

    /// Hands over again what could not be kept: while the connection lasts the upstream does not deliver it a second
    /// time [MQTT-4.4.0-1], and it takes a place in its window.
    pub(super) fn retry(&mut self) {
        while let Some(message) = self.failed.pop_back() {
            self.queue.push_front(message);
        }
        self.hand_over();
    }

    /// Takes a message from the uplink. False if there is no room: it is dropped and counted. One that wants no answer
    /// makes room for one that does. Those cannot be too many if the upstream keeps to its window; if they are, the
    /// upstream gets no confirmation and delivers again on the next connection. Not to read the uplink instead would hold back acknowledgements too, and
    /// with them the room that the sink may be waiting for.
    pub(super) fn take(&mut self, message: Downward) -> bool {
        self.received += 1;
        let room = self.has_room() || (message.token != 0 && self.make_room());
        if room {
            self.queue.push_back(message);
            self.hand_over();
        } else {
            self.dropped += 1;
        }
        room
    }

    fn has_room(&self) -> bool {
        self.queue.len() + self.failed.len() < self.max
    }

    fn make_room(&mut self) -> bool {
        let Some(index) = self.queue.iter().position(|message| message.token == 0) else { return false };
        self.dropped += 1;
        self.queue.remove(index).is_some()
    }

    /// The sink has answered. Returns the token to be confirmed, if there is one, and why it was dropped, if it was.
    pub(super) fn settled(&mut self, settled: Settled) -> Option<(u64, Option<Text>)> {
        self.outstanding = self.outstanding.saturating_sub(1);
        let current = settled.connection == self.connection;
        let confirmed = match settled.outcome {
            Ok((token, reason)) => {
                self.dropped += u64::from(reason.is_some());
                Some((token, reason)).filter(|(token, _)| current && *token != 0)
            }
            Err(message) => {
                if message.token == 0 {
                    self.dropped += 1;
                } else if current {
                    self.failed.push_back(message);
                }
                None
            }
        };
        self.hand_over();
        confirmed
    }

    fn hand_over(&mut self) {
        while self.outstanding < self.max {
            let Some(message) = self.queue.pop_front() else { return };
            self.outstanding += 1;
            let (inbox, connection, again) = (Arc::clone(&self.inbox), self.connection, message.clone());
            let done = move |kept: Kept| {
                let outcome = match kept {
                    Kept::Durable => Ok((again.token, None)),
                    Kept::Dropped(reason) => Ok((again.token, Some(reason))),
                    Kept::Again => Err(again),
                };
                inbox.settled(Settled { connection, outcome });
            };
            self.sink.accept(message, Box::new(done));
        }
    }

    /// Messages received and dropped since the start.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.received, self.dropped)
    }
}
