//! What the adapter saw and did not pass on; read by `status` and the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shared counters of one uplink, for the life of the process.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) unknown_acks: AtomicU64,
    pub(crate) loops_dropped: AtomicU64,
    pub(crate) duplicates_dropped: AtomicU64,
    pub(crate) unroutable_dropped: AtomicU64,
    pub(crate) subscriptions_refused: AtomicU64,
}

/// A reading of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// PUBACKs for packet ids that nothing waited under; ignored.
    pub unknown_acks: u64,
    /// Messages that came down although this node had sent them; dropped.
    pub loops_dropped: u64,
    /// QoS 2 messages sent again by the server after we had taken them over; answered, not delivered again.
    pub duplicates_dropped: u64,
    /// Messages that came down on a topic that no configured subscription covers, or that is none after rewriting; dropped.
    pub unroutable_dropped: u64,
    /// Subscriptions that the server refused.
    pub subscriptions_refused: u64,
}

impl Counters {
    /// All of them, now.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts {
            unknown_acks: self.unknown_acks.load(Relaxed),
            loops_dropped: self.loops_dropped.load(Relaxed),
            duplicates_dropped: self.duplicates_dropped.load(Relaxed),
            unroutable_dropped: self.unroutable_dropped.load(Relaxed),
            subscriptions_refused: self.subscriptions_refused.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
