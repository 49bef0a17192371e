//! The event: what a device said, as received, plus what was fixed when it was let in.
//!
//! An [`Event`] is what the journal stores (P1) and what every later stage reads. Its payload and metadata are the bytes
//! that arrived; `source`, `id` and `time` are decided once, at admission, and never again (P3). Everything that could
//! turn out to be wrong in a configuration (type, codecs, transforms) is applied on the way out, so that a bad rule
//! never loses data.

mod id;
pub mod record;

pub use id::{LogId, Position, derived_id};

use crate::Text;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// 2020-01-01T00:00:00Z. A wall clock before it has not been set yet: no event gets a `time` from it, no event
    /// expires by it.
    pub const CLOCK_SET: Timestamp = Timestamp(1_577_836_800_000);

    /// False while the clock is plainly unset (1970 after a power cut without a battery).
    #[must_use]
    pub fn is_plausible(self) -> bool {
        self >= Self::CLOCK_SET
    }

    /// `self + by`, saturating.
    #[must_use]
    pub fn after(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long before `later` this was; zero if it was not.
    #[must_use]
    pub fn until(self, later: Timestamp) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// MQTT quality of service (MQTT 5.0 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Qos {
    /// 0, no answer.
    AtMostOnce = 0,
    /// 1, PUBACK.
    AtLeastOnce = 1,
    /// 2, PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl Qos {
    /// 0, 1 or 2; anything else is `None` [MQTT-3.3.1-4].
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Qos> {
        match value {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// How an event came in; decides the default `type` and the scheme of `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Via {
    /// MQTT 3.1 or 3.1.1 PUBLISH: no properties.
    Mqtt3,
    /// MQTT 5 PUBLISH.
    Mqtt5,
    /// CoAP request.
    Coap,
    /// Came down from an uplink, on its way to devices.
    Uplink,
    /// Made by the node itself (ledger entries, client events).
    Node,
}

/// One accepted message.
///
/// - `topic`: name without wildcards, 1..=65,535 bytes (MQTT 5.0 section 4.7.3); becomes `subject`
/// - `payload`: as received, shared, 0..=the listener's limit
/// - `source`: CloudEvents `source`, `mqtt://<node>/<device>`; fixed (P3)
/// - `id`: the sender's own, if it gave one; otherwise derived from the position ([`derived_id`])
/// - `time`: device time if it gave a plausible one, else receipt time; `None` while the clock is unset
/// - `received`: the node's clock at receipt, plausible or not; becomes `recordedtime` when plausible
/// - `expires`: when it may be dropped unsent (Message Expiry Interval or the stream's `max_age`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How it came in.
    pub via: Via,
    /// QoS it was published with.
    pub qos: Qos,
    /// RETAIN flag it was published with.
    pub retain: bool,
    /// CloudEvents `source`.
    pub source: Text,
    /// CloudEvents `id` if the sender gave one.
    pub id: Option<Text>,
    /// CloudEvents `time`.
    pub time: Option<Timestamp>,
    /// Receipt.
    pub received: Timestamp,
    /// Deadline.
    pub expires: Option<Timestamp>,
    /// Topic name.
    pub topic: Text,
    /// Payload, opaque.
    pub payload: Bytes,
    /// MQTT 5 properties that travel with the message; `None` where there are none (always for MQTT 3).
    pub properties: Option<Box<Properties>>,
}

/// MQTT 5 PUBLISH properties that belong to the application message (MQTT 5.0 section 3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload Format Indicator = 1: the payload is declared UTF-8.
    pub utf8_payload: bool,
    /// Content Type.
    pub content_type: Option<Text>,
    /// Response Topic.
    pub response_topic: Option<Text>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User Properties in the order received [MQTT-3.3.2-18].
    pub user: Vec<(Text, Text)>,
}

/// Counters given to an event at its commit, contiguous from 1, kept over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Per `source`: CloudEvents extension `sequence`.
    pub source: u64,
    /// Per (`source`, stream): extension `edgeseq`.
    pub stream: u64,
}

/// An event as the store gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Where it stands; strictly increasing within a stream.
    pub position: Position,
    /// Which log gave the position; part of a derived id.
    pub log: LogId,
    /// The numbers given at the commit.
    pub sequence: Sequence,
    /// The event itself.
    pub event: Event,
    /// Bytes the record takes in budgets: encoded length, header included.
    pub stored_bytes: u32,
}

impl StoredEvent {
    /// CloudEvents `id`: the sender's own, else `<log epoch>-<position>` (P3).
    #[must_use]
    pub fn id(&self) -> Text {
        match &self.event.id {
            Some(id) => id.clone(),
            None => derived_id(self.log, self.position),
        }
    }
}
