//! What a [`Forwarder`](super::Forwarder) is made with.

use crate::event::Position;
use crate::ports::store::{StreamId, UplinkId};
use std::time::Duration;

/// In which order the upstream gets the events of one key (`source`, topic) (P4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// In the order of their positions, through retries, outages and restarts.
    Strict,
    /// Pipelined: a retried event may be overtaken, `sequence` lets the consumer restore the order.
    Sequence,
}

/// What the upstream does with several unanswered events of one connection; a property of the uplink's protocol
/// (docs/adr/0015).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pipeline {
    /// It takes them over in the order sent, and nothing behind one that it refuses for the moment: such a refusal ends
    /// the connection. [`Order::Strict`] may pipeline. Should it refuse one all the same
    /// ([`Class::Retry`](crate::ports::store::Class)), the later ones of the key wait until that one is settled.
    Ordered,
    /// It may reorder them (one RPC each), or refuse one and take those behind it (MQTT 5, where PUBACK with a reason
    /// code speaks for one packet): [`Order::Strict`] keeps one event per key in flight.
    Unordered,
}

/// A bound in events and in stored bytes; whichever is reached first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// How many.
    pub events: usize,
    /// Their stored bytes together. One event alone may exceed it.
    pub bytes: usize,
}

impl Volume {
    pub(super) fn add(&mut self, bytes: usize) {
        self.events += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Exponential backoff: `base`, doubled with every failure, at most `cap`; the actual delay is drawn from the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest delay after the first failure.
    pub base: Duration,
    /// Longest delay at all.
    pub cap: Duration,
}

/// The bounds and habits of one uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which uplink: half of each [`Consumer`](crate::ports::store::Consumer).
    pub uplink: UplinkId,
    /// Order towards the upstream.
    pub order: Order,
    /// What the upstream does with pipelined events.
    pub pipeline: Pipeline,
    /// Most that may be unanswered; the upstream's own window ([`Input::Up`](super::Input::Up)) lowers it further.
    pub window: Volume,
    /// Most that is read ahead of the window, over all streams (P5). What was in flight and is refused for the moment
    /// comes on top: at most one window per stream.
    pub read_ahead: Volume,
    /// Most that one read asks for.
    pub fetch: Volume,
    /// Most events between a stream's cursor and the newest one read (P5).
    pub gap_max: usize,
    /// How many times an event may be refused for the moment before it may be parked.
    pub attempts_max: u32,
    /// Delays between attempts of one event.
    pub retry: Backoff,
    /// Delays between attempts to connect.
    pub connect: Backoff,
    /// Longest delay between attempts while nobody takes the connection. Such an attempt is two packets; this is the longest
    /// that a link may be back unnoticed. [`Options::connect`] is for upstreams that are there and do not let us in.
    pub unreachable_max: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// A connection that lasted this long, or that acknowledged something, resets the backoff.
    pub stable_after: Duration,
    /// Something is in flight and nothing was answered for this long: the connection is taken for dead.
    pub answer_timeout: Duration,
    /// Cursors become durable after this many settled events ...
    pub commit_events: u32,
    /// ... or this long after the first of them; what a crash in between costs is duplicates (P3).
    pub commit_every: Duration,
    /// How many addresses the uplink has, at least 1.
    pub addresses: usize,
    /// Seed of the jitter: two nodes must not have the same.
    pub seed: u64,
}

impl Options {
    /// Defaults fit for a gateway with 256 MB; strict order over an upstream that reorders is the safe combination.
    #[must_use]
    pub fn new(uplink: UplinkId) -> Self {
        Self {
            uplink,
            order: Order::Strict,
            pipeline: Pipeline::Unordered,
            window: Volume { events: 1024, bytes: 1 << 20 },
            read_ahead: Volume { events: 2048, bytes: 512 << 10 },
            fetch: Volume { events: 512, bytes: 256 << 10 },
            gap_max: 4096,
            attempts_max: 16,
            retry: Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) },
            connect: Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) },
            unreachable_max: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            commit_events: 4096,
            commit_every: Duration::from_millis(200),
            addresses: 1,
            seed: 0,
        }
    }

    /// Checks what no value of one field alone can tell.
    ///
    /// # Errors
    /// [`OptionsError`] names the field that makes forwarding impossible.
    pub fn check(&self) -> Result<(), OptionsError> {
        let positive = |field, volume: Volume| {
            if volume.events == 0 || volume.bytes == 0 { Err(OptionsError::Zero { field }) } else { Ok(()) }
        };
        positive("window", self.window)?;
        positive("read_ahead", self.read_ahead)?;
        positive("fetch", self.fetch)?;
        if self.gap_max == 0 {
            return Err(OptionsError::Zero { field: "gap_max" });
        }
        if self.addresses == 0 {
            return Err(OptionsError::Zero { field: "addresses" });
        }
        for (field, backoff) in [("retry", self.retry), ("connect", self.connect)] {
            if backoff.base.is_zero() || backoff.cap < backoff.base {
                return Err(OptionsError::Backoff { field });
            }
        }
        Ok(())
    }
}

/// One stream that the uplink reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Which stream: the other half of the consumer.
    pub stream: StreamId,
    /// Where the durable cursor stands ([`Backlog::acked`](crate::ports::store::Backlog)).
    pub acked: Position,
    /// Older events are given up instead of sent.
    pub max_age: Option<Duration>,
    /// Guaranteed part of the window, relative to the other streams' weights; 0 counts as 1.
    pub weight: u32,
}

impl StreamOptions {
    /// A stream of weight 1 without an age limit.
    #[must_use]
    pub fn new(stream: StreamId, acked: Position) -> Self {
        Self { stream, acked, max_age: None, weight: 1 }
    }
}

/// Why a [`Forwarder`](super::Forwarder) cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A bound of zero lets nothing through.
    #[error("{field} must be at least 1, in events and in bytes")]
    Zero {
        /// Which field of [`Options`].
        field: &'static str,
    },
    /// A backoff without a delay is a busy loop.
    #[error("{field}: the base delay must be above zero and not above the cap")]
    Backoff {
        /// Which field of [`Options`].
        field: &'static str,
    },
    /// Two entries for one stream.
    #[error("stream {stream:?} is named twice, name it once")]
    Twice {
        /// Which stream.
        stream: StreamId,
    },
}
