//! What a listener grants its clients.

use crate::outlet::QueueBounds;
use crate::reason::Reason;
use eventmesh_edge_core::Text;
use std::time::Duration;

/// What a client meets when the stream it publishes to is full and its policy is `refuse` (P5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The answer comes when there is room again; the socket is not read meanwhile.
    #[default]
    Withhold,
    /// MQTT 5: PUBACK or PUBREC 0x97. MQTT 3.x has no code for it: the connection is closed.
    Reject,
}

/// Limits and policies of one listener's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload.
    pub payload_max_bytes: u32,
    /// PUBLISH with QoS 1 and 2 that a client may have unanswered (Receive Maximum of the node).
    pub receive_maximum: u16,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// PUBLISH with QoS 1 and 2 that the node has unanswered at a client; its own Receive Maximum may be lower.
    pub send_window: u16,
    /// Longest Keep Alive that an MQTT 5 client gets (Server Keep Alive); `None` lets it choose, 0 included.
    pub keep_alive_max_secs: Option<u16>,
    /// From accept to CONNACK.
    pub connect_timeout: Duration,
    /// See [`WhenFull`].
    pub when_full: WhenFull,
    /// Let clients in that show no user name (P7).
    pub anonymous: bool,
    /// There is somebody to check user names.
    pub has_authenticator: bool,
    /// Subscriptions per session.
    pub subscriptions_max: usize,
    /// The delivery queue of each connection.
    pub queue: QueueBounds,
    /// Server Reference: where clients are sent that find the listener full, or that lose it because the node stops.
    pub redirect_to: Option<Text>,
    /// All clients are sent there: the listener has moved.
    pub redirect_all: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            payload_max_bytes: 256 * 1024,
            receive_maximum: 1024,
            topic_alias_maximum: 16,
            send_window: 100,
            keep_alive_max_secs: None,
            connect_timeout: Duration::from_secs(10),
            when_full: WhenFull::Withhold,
            anonymous: false,
            has_authenticator: false,
            subscriptions_max: 1000,
            queue: QueueBounds { max_events: 1000, max_bytes: 1024 * 1024 },
            redirect_to: None,
            redirect_all: false,
        }
    }
}

impl Limits {
    /// Why a connection is not let in: there is no room for it, or there are no clients any more (MQTT 5.0 section 4.11).
    pub(crate) fn refuses(&self, is_full: bool) -> Option<Reason> {
        match &self.redirect_to {
            Some(_) if self.redirect_all => Some(Reason::ServerMoved),
            Some(_) if is_full => Some(Reason::UseAnotherServer),
            _ => is_full.then_some(Reason::ServerBusy),
        }
    }

    /// What a client is told when the node stops.
    pub(crate) fn farewell(&self) -> Reason {
        if self.redirect_to.is_some() { Reason::UseAnotherServer } else { Reason::ServerShuttingDown }
    }

    /// Largest packet: the payload, the longest topic, and room for properties.
    #[must_use]
    pub fn packet_max_bytes(&self) -> u32 {
        const TOPIC_AND_PROPERTIES: u32 = 72 * 1024;
        self.payload_max_bytes.saturating_add(TOPIC_AND_PROPERTIES).min(268_435_460)
    }
}
