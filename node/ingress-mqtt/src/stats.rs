//! Figures for `status` and metrics. Counting costs one relaxed addition.

use crate::reason::Reason;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events of a kind that is rare, by reason; as many lines as there are reasons, at most.
#[derive(Debug, Default)]
struct ByReason(Mutex<BTreeMap<&'static str, u64>>);

impl ByReason {
    fn lines(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        // Plain figures: whole whatever happened to who held them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, reason: Reason) {
        *self.lines().entry(reason.as_str()).or_default() += 1;
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters of all listeners of one client table.
        #[derive(Debug, Default)]
        pub struct Stats { $($name: AtomicU64,)+ refused: ByReason, ended: ByReason }

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
    /// Most sockets open at one time.
    connections_peak,
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
    /// Messages dropped because they had passed through this node before: a ring of nodes ends here.
    loops_dropped,
    /// Messages dropped because they were published to the node's own topics.
    not_allowed,
    /// PUBLISH packets sent.
    delivered,
    /// Messages not sent because they had expired.
    expired,
    /// Messages not sent because the client's Maximum Packet Size is smaller.
    too_large_for_client,
    /// Persistent sessions that ended by their expiry.
    sessions_expired,
    /// Wills given up: too many waited for room, or the store can never take them.
    wills_given_up,
}

impl Stats {
    /// CONNECT packets refused, by reason.
    #[must_use]
    pub fn refused_by_reason(&self) -> BTreeMap<&'static str, u64> {
        self.refused.lines().clone()
    }

    /// Connections that have ended, by reason; `success` is a client's own DISCONNECT.
    #[must_use]
    pub fn ended_by_reason(&self) -> BTreeMap<&'static str, u64> {
        self.ended.lines().clone()
    }

    pub(crate) fn opened(&self) {
        let before = self.connections_open.fetch_add(1, Relaxed);
        self.connections_peak.fetch_max(before + 1, Relaxed);
        self.connections_accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self, reason: Reason) {
        self.connections_open.fetch_sub(1, Relaxed);
        self.ended.count(reason);
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
        self.refused.count(reason);
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

    pub(crate) fn loop_dropped(&self) {
        self.loops_dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn not_allowed(&self) {
        self.not_allowed.fetch_add(1, Relaxed);
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

    pub(crate) fn will_given_up(&self) {
        self.wills_given_up.fetch_add(1, Relaxed);
    }

    pub(crate) fn session_expired(&self) {
        self.sessions_expired.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_endings_are_told_by_their_reasons() {
        let stats = Stats::default();
        stats.refused_connect(Reason::BadCredentials);
        stats.refused_connect(Reason::UnsupportedVersion);
        stats.refused_connect(Reason::BadCredentials);
        stats.opened();
        stats.closed(Reason::Malformed);
        let refused = [("bad user name or password", 2), ("unsupported protocol version", 1)];
        assert_eq!(stats.refused_by_reason(), BTreeMap::from(refused));
        assert_eq!(stats.ended_by_reason(), BTreeMap::from([("malformed packet", 1)]));
        assert_eq!((stats.snapshot().connects_refused, stats.snapshot().logins_failed), (3, 2));
    }
}
