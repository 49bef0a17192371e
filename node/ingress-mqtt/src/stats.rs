//! Figures for `status` and metrics. Counting costs one relaxed addition.

use crate::reason::Reason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters of all listeners of one client table.
        #[derive(Debug, Default)]
        pub struct Stats { $($name: AtomicU64,)+ }

        /// The counters at one moment. All grow but `connections_open`.
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
    /// Sockets open now.
    connections_open,
    /// Sockets accepted.
    connections_accepted,
    /// Sockets turned away: the listener's limit.
    connections_over_limit,
    /// CONNECT packets refused, for whatever reason.
    connects_refused,
    /// Of these: user name or password.
    logins_failed,
    /// TLS handshakes that failed.
    tls_failed,
    /// Packets that were malformed, oversized or out of place.
    bad_packets,
    /// Connections ended because the client fell silent.
    keep_alive_timeouts,
    /// Connections ended because their client id was used again.
    taken_over,
    /// Bytes read from sockets (behind TLS).
    bytes_in,
    /// Bytes written to sockets (before TLS).
    bytes_out,
    /// Packets read.
    packets_in,
    /// Publications handed to the hub.
    published,
    /// Submissions that a full stream refused (`when_full = "reject"`).
    refused_full,
    /// PUBLISH packets sent.
    delivered,
    /// Messages not sent because they had expired.
    expired,
    /// Messages not sent because the client's Maximum Packet Size is smaller.
    too_large_for_client,
    /// Persistent sessions that ended by their expiry.
    sessions_expired,
}

impl Stats {
    pub(crate) fn opened(&self) {
        self.connections_open.fetch_add(1, Relaxed);
        self.connections_accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self, reason: Reason) {
        self.connections_open.fetch_sub(1, Relaxed);
        match reason {
            Reason::KeepAliveTimeout => self.keep_alive_timeouts.fetch_add(1, Relaxed),
            Reason::SessionTakenOver => self.taken_over.fetch_add(1, Relaxed),
            _ => 0,
        };
    }

    pub(crate) fn over_limit(&self) {
        self.connections_over_limit.fetch_add(1, Relaxed);
    }

    pub(crate) fn tls_failed(&self) {
        self.tls_failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused_connect(&self, reason: Reason) {
        self.connects_refused.fetch_add(1, Relaxed);
        if matches!(reason, Reason::BadCredentials | Reason::NotAuthorized) {
            self.logins_failed.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn bad_packet(&self) {
        self.bad_packets.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize, packets: u64) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.packets_in.fetch_add(packets, Relaxed);
    }

    pub(crate) fn written(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn published(&self, publications: usize) {
        self.published.fetch_add(publications as u64, Relaxed);
    }

    pub(crate) fn refused_full(&self) {
        self.refused_full.fetch_add(1, Relaxed);
    }

    pub(crate) fn delivered(&self) {
        self.delivered.fetch_add(1, Relaxed);
    }

    pub(crate) fn expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    pub(crate) fn too_large_for_client(&self) {
        self.too_large_for_client.fetch_add(1, Relaxed);
    }

    pub(crate) fn session_expired(&self) {
        self.sessions_expired.fetch_add(1, Relaxed);
    }
}
