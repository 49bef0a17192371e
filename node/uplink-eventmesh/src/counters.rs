//! What the adapter saw and did not pass on; read by `status` and the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Shared counters of one uplink, for the life of the process.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        /// A reading of [`Counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Counters {
            /// All of them, now.
            #[must_use]
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Events refused before sending: EventMesh would have lost something of them without a word.
    unmappable_refused,
    /// Events that the runtime refused for good (codes 2, 6, 7, some 14).
    events_refused,
    /// Events given back because their topic is not there yet (code 14).
    events_held,
    /// Times that the runtime asked for less (codes 1, 21).
    overloads,
    /// Publishes that were not answered in time.
    unanswered,
    /// Messages that came down although they had passed through this node; dropped.
    loops_dropped,
    /// Messages that came down twice; dropped, with a receipt.
    duplicates_dropped,
    /// Messages that came down and have no topic for devices, or are no events; dropped.
    unroutable_dropped,
    /// Subscriptions that the runtime refused.
    subscriptions_refused,
    /// Subscriptions made again on the same connection (code 30, or a stream that ended).
    resubscribed,
    /// Receipts that went up.
    receipts_sent,
    /// Receipts given up; the command is answered when it comes again.
    receipts_dropped,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
