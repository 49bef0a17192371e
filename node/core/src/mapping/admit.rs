//! What is fixed when a message is let in: `source`, `id`, `time` and the deadline (P3). The bytes stay as received.

use super::native::{self, Native};
use super::time::parse_rfc3339;
use crate::Text;
use crate::event::{Event, Properties, Qos, Timestamp, Via};
use bytes::Bytes;
use std::borrow::Cow;
use std::time::Duration;

/// A sender's clock may be this far ahead of ours before its `time` is taken for wrong.
pub(super) const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// One message at the door, checked by its protocol but not yet looked into.
///
/// - `source`: of a plain message, [`super::mqtt_source`] of node and device, made once per session
/// - `expiry`: Message Expiry Interval, if the sender gave one
/// - `received`: the node's clock, plausible or not
#[derive(Clone, Debug)]
pub struct Admission<'a> {
    /// How it came in.
    pub via: Via,
    /// QoS it was published with.
    pub qos: Qos,
    /// RETAIN flag it was published with.
    pub retain: bool,
    /// Topic name.
    pub topic: Text,
    /// Payload, as received.
    pub payload: Bytes,
    /// MQTT 5 properties; `None` for MQTT 3 and where there are none.
    pub properties: Option<Box<Properties>>,
    /// Message Expiry Interval.
    pub expiry: Option<Duration>,
    /// `source` of a message that brings none.
    pub source: &'a Text,
    /// Receipt.
    pub received: Timestamp,
}

/// What a message says about itself.
#[derive(Default)]
struct Claims {
    source: Option<Text>,
    id: Option<Text>,
    time: Option<Timestamp>,
}

/// Makes the event that the journal keeps. What counts as a CloudEvent is in the module's description.
///
/// `time` is the sender's if it is after 2020 and at most a day ahead of a set clock; else the receipt; `None` while the clock is
/// unset. A deadline needs a set clock too: one counted from 1970 would lose the message as soon as the clock is set.
#[must_use]
pub fn admit(publish: Admission<'_>) -> Event {
    let claims = claims(publish.via, publish.properties.as_deref(), &publish.payload);
    let received = publish.received;
    let set = received.is_plausible();
    let plausible = |t: &Timestamp| t.is_plausible() && (!set || *t <= received.after(MAX_AHEAD));
    Event {
        via: publish.via,
        qos: publish.qos,
        retain: publish.retain,
        source: claims.source.unwrap_or_else(|| publish.source.clone()),
        id: claims.id,
        time: claims.time.filter(plausible).or(set.then_some(received)),
        received,
        expires: publish.expiry.filter(|_| set).map(|e| received.after(e)),
        topic: publish.topic,
        payload: publish.payload,
        properties: publish.properties,
    }
}

fn claims(via: Via, properties: Option<&Properties>, payload: &Bytes) -> Claims {
    match native::recognise(via, properties, payload) {
        Some(Native::Binary(p)) => Claims {
            source: native::user(p, "source").cloned(),
            id: native::user(p, "id").cloned(),
            time: native::user(p, "time").and_then(|t| parse_rfc3339(t)),
        },
        Some(Native::Structured(event)) => Claims {
            source: event.get("source").cloned().map(|s| share(payload, s)),
            id: event.get("id").cloned().map(|s| share(payload, s)),
            time: event.get("time").and_then(|t| parse_rfc3339(t)),
        },
        None => properties.map(|p| plain_claims(p, payload)).unwrap_or_default(),
    }
}

/// A plain message may still name itself: as an SDK frame, or by a User Property `id`.
fn plain_claims(properties: &Properties, payload: &[u8]) -> Claims {
    if let Some(frame) = super::cloudevent::frame(properties, payload) {
        return Claims {
            source: None,
            id: Some(Text::from(frame.id().to_string())),
            time: frame.time_ms.map(Timestamp),
        };
    }
    Claims {
        source: None,
        id: native::user(properties, "id").filter(|id| native::is_id(id)).cloned(),
        time: native::user(properties, "time").and_then(|t| parse_rfc3339(t)),
    }
}

/// Text found in the payload, without copying it if it stands there as it is.
fn share(payload: &Bytes, text: Cow<'_, str>) -> Text {
    match text {
        Cow::Borrowed(t) if !t.is_empty() => {
            Text::try_from(payload.slice_ref(t.as_bytes())).expect("it was a str a moment ago")
        }
        text => Text::from(text.into_owned()),
    }
}
