//! What the adapter saw beside the events' own fates; read by `status` and the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shared counters of one uplink, for the life of the process.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) body_bytes: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) batches_split: AtomicU64,
    pub(crate) redirects_followed: AtomicU64,
    pub(crate) tokens_fetched: AtomicU64,
    pub(crate) probes: AtomicU64,
}

/// A reading of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests with events in them, repetitions included.
    pub requests: u64,
    /// Their bodies, as sent.
    pub body_bytes: u64,
    /// Connections that were made, those for tokens and probes included.
    pub connections: u64,
    /// Batches that were refused as a whole and sent again in smaller ones.
    pub batches_split: u64,
    /// Redirects that were followed.
    pub redirects_followed: u64,
    /// OAuth 2 tokens that were fetched.
    pub tokens_fetched: u64,
    /// Questions whether the receiver is still there.
    pub probes: u64,
}

impl Counters {
    /// All of them, now.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts {
            requests: self.requests.load(Relaxed),
            body_bytes: self.body_bytes.load(Relaxed),
            connections: self.connections.load(Relaxed),
            batches_split: self.batches_split.load(Relaxed),
            redirects_followed: self.redirects_followed.load(Relaxed),
            tokens_fetched: self.tokens_fetched.load(Relaxed),
            probes: self.probes.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
