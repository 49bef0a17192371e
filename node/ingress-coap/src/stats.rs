//! Figures for `status` and metrics. Counting costs one relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters of one listener.
        #[derive(Debug, Default)]
        pub struct Stats { $(pub(crate) $name: AtomicU64,)+ }

        /// The counters at one moment. All grow but those that say "now".
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot { $($(#[$doc])* pub $name: u64,)+ }

        impl Stats {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

stats! {
    /// Peers known now.
    peers,
    /// Observations now.
    observations,
    /// Devices with a mailbox now.
    mailboxes,
    /// Datagrams that came in.
    datagrams_in,
    /// Their bytes.
    bytes_in,
    /// Bytes of the datagrams sent.
    bytes_out,
    /// Datagrams that the socket did not take.
    unsent,
    /// Datagrams that were no CoAP message.
    malformed,
    /// Requests that were there before.
    duplicates,
    /// Messages sent again for want of an acknowledgement.
    retransmissions,
    /// Requests refused for want of room in the endpoint.
    overloaded,
    /// Responses made smaller or held back until the peer's address is verified.
    curbed,
    /// Peers forgotten for others while what they had sent was still of use.
    peers_evicted,
    /// Answered requests forgotten while a copy of them could still come.
    history_cut,
    /// Transfers of bodies given up before they were complete.
    uploads_evicted,
    /// Publications handed to the hub.
    published,
    /// Publications that a full stream refused.
    refused_full,
    /// Publications that the store did not take for another reason.
    failed,
    /// Notifications given to the endpoint.
    notified,
}

impl Stats {
    pub(crate) fn add(&self, counter: impl FnOnce(&Stats) -> &AtomicU64, by: usize) {
        counter(self).fetch_add(by as u64, Relaxed);
    }

    pub(crate) fn set(&self, counter: impl FnOnce(&Stats) -> &AtomicU64, to: u64) {
        counter(self).store(to, Relaxed);
    }
}
