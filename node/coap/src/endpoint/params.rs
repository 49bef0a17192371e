//! Times and bounds.

use std::time::Duration;

/// What an endpoint is made with: transmission parameters (RFC 7252 section 4.8) and bounds (P5).
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// ACK_TIMEOUT
    pub ack_timeout: Duration,
    /// ACK_RANDOM_FACTOR
    pub ack_random_factor: f64,
    /// MAX_RETRANSMIT
    pub max_retransmit: u8,
    /// MAX_LATENCY
    pub max_latency: Duration,
    /// DEFAULT_LEISURE: answers to a multicast request are spread over this time (section 8.2).
    pub leisure: Duration,
    /// A confirmable request that is not answered after this gets an empty acknowledgement, and its response apart
    /// (section 5.2.2). Well below ACK_TIMEOUT, so that it is not sent again meanwhile.
    pub ack_delay: Duration,
    /// Peers that are known at a time. The one idle for longest is forgotten for a new one.
    pub peers_max: usize,
    /// Answered requests of all peers that are remembered for copies of them, beside the newest ones of each peer. What is
    /// there for a full table of 32,768 places: 1.7 MB, and 116 requests a second.
    pub history_max: usize,
    /// Requests that are not answered, of all peers; one more gets 5.03.
    pub exchanges_max: usize,
    /// The same of one peer; one more gets 4.29 (RFC 8516).
    pub exchanges_per_peer: u16,
    /// Largest body of a request; a larger one gets 4.13.
    pub body_max_bytes: usize,
    /// Bodies that are being transferred in blocks, in all. The one that got least is given up for a new one.
    pub uploads_max_bytes: usize,
    /// Size exponent of the blocks that this endpoint prefers: `16 << szx` bytes.
    pub block_szx: u8,
    /// Observations of all peers; one more is answered like a plain GET (RFC 7641 section 4.1).
    pub observations_max: usize,
    /// The same of one peer.
    pub observations_per_peer: u16,
    /// Confirmable messages of ours that are not acknowledged, of all peers.
    pub flights_max: usize,
    /// Non-confirmable notifications between two confirmable ones (RFC 7641 section 4.5).
    pub probe_every: u16,
    /// Longest time between two confirmable notifications; the standard asks for 24 hours at most.
    pub probe_interval: Duration,
    /// How long an Echo value proves its address.
    pub echo_lifetime: Duration,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            max_latency: Duration::from_secs(100),
            leisure: Duration::from_secs(5),
            ack_delay: Duration::from_millis(750),
            peers_max: 10_000,
            history_max: 28_672,
            exchanges_max: 4_096,
            exchanges_per_peer: 32,
            body_max_bytes: 256 * 1024,
            uploads_max_bytes: 1024 * 1024,
            block_szx: 6,
            observations_max: 10_000,
            observations_per_peer: 16,
            flights_max: 4_096,
            probe_every: 10,
            probe_interval: Duration::from_secs(3_600),
            echo_lifetime: Duration::from_secs(300),
        }
    }
}

impl Params {
    /// MAX_TRANSMIT_SPAN (section 4.8.2): from the first transmission of a message to its last.
    #[must_use]
    pub fn max_transmit_span(&self) -> Duration {
        self.ack_timeout.mul_f64(f64::from((1u32 << self.max_retransmit) - 1) * self.ack_random_factor)
    }

    /// EXCHANGE_LIFETIME (section 4.8.2), 247 s with the standard's parameters: how long a message id means one message.
    /// PROCESSING_DELAY is ACK_TIMEOUT.
    #[must_use]
    pub fn exchange_lifetime(&self) -> Duration {
        self.max_transmit_span() + 2 * self.max_latency + self.ack_timeout
    }

    pub(super) fn exchange_lifetime_secs(&self) -> u32 {
        u32::try_from(self.exchange_lifetime().as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_times_as_in_table_3_of_the_standard() {
        let params = Params::default();
        assert_eq!(params.max_transmit_span(), Duration::from_secs(45));
        assert_eq!(params.exchange_lifetime(), Duration::from_secs(247));
    }
}
