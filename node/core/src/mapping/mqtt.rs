//! CloudEvents MQTT binding 1.0: binary and structured mode of MQTT 5, and the way back.

use super::cloudevent::CloudEvent;
use super::json::{JSON_FORMAT, Structured, to_structured_json};
use super::native::{self, Native};
use crate::Text;
use crate::event::{Properties, Via};
use bytes::Bytes;
use std::borrow::Cow;

/// What a PUBLISH is made of, beside its topic and its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt5Message<'a> {
    /// Payload.
    pub payload: Bytes,
    /// Content Type.
    pub content_type: Option<Cow<'a, str>>,
    /// Payload Format Indicator = 1.
    pub utf8_payload: bool,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// User Properties, in order.
    pub user: Vec<(&'a str, Cow<'a, str>)>,
}

/// Binary mode (section 3.1): the payload is the data, Content Type is `datacontenttype`, every other attribute is a User Property
/// under its own name.
#[must_use]
pub fn to_mqtt5_binary(event: CloudEvent<'_>) -> Mqtt5Message<'_> {
    let mut user = event.attributes;
    user.extend(event.mqtt.user.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))));
    Mqtt5Message {
        payload: event.data,
        content_type: event.content_type,
        utf8_payload: event.mqtt.utf8_payload,
        response_topic: event.mqtt.response_topic,
        correlation_data: event.mqtt.correlation_data,
        user,
    }
}

/// Structured mode (section 3.2): the payload is the event in the JSON format.
#[must_use]
pub fn to_mqtt5_structured<'a>(event: &CloudEvent<'a>) -> Mqtt5Message<'a> {
    Mqtt5Message {
        payload: Bytes::from(to_structured_json(event)),
        content_type: Some(Cow::Borrowed(JSON_FORMAT)),
        utf8_payload: true,
        response_topic: event.mqtt.response_topic,
        correlation_data: event.mqtt.correlation_data,
        user: event.mqtt.user.iter().map(|(name, value)| (*name, Cow::Borrowed(*value))).collect(),
    }
}

/// A message that came down, ready for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// The event's data: what an MQTT 3 subscriber gets.
    pub payload: Bytes,
    /// For MQTT 5 subscribers; the attributes of a CloudEvent are User Properties here (binary mode), whichever mode it came in.
    pub properties: Option<Box<Properties>>,
    /// `source` and `id` of a CloudEvent.
    pub identity: Option<(Text, Text)>,
}

/// Unwraps an MQTT 5 PUBLISH from above: a structured event becomes a binary one, everything else stays as it is.
#[must_use]
pub fn from_mqtt5(payload: Bytes, properties: Option<Box<Properties>>) -> Unwrapped {
    let unwrapped = match native::recognise(Via::Mqtt5, properties.as_deref(), &payload) {
        None => None,
        Some(Native::Binary(p)) => {
            let identity = native::user(p, "source").cloned().zip(native::user(p, "id").cloned());
            return Unwrapped { identity, payload, properties };
        }
        Some(Native::Structured(event)) => Some(unwrap_structured(&payload, properties.as_deref(), event)),
    };
    unwrapped.unwrap_or(Unwrapped { payload, properties, identity: None })
}

fn unwrap_structured(payload: &Bytes, received: Option<&Properties>, mut event: Structured<'_>) -> Unwrapped {
    let mut attributes = std::mem::take(&mut event.attributes);
    let at = attributes.iter().position(|(name, _)| *name == "datacontenttype");
    let declared = at.map(|at| attributes.remove(at).1);
    let content_type = declared.or_else(|| event.data.is_some().then_some("application/json".into()));
    let text = |t: &str| Text::from(t.to_owned());
    let find = |name| attributes.iter().find(|(n, _)| *n == name).map(|(_, v)| text(v));
    let identity = find("source").zip(find("id"));
    let mut user: Vec<_> = attributes.iter().map(|(name, value)| (text(name), text(value))).collect();
    // A User Property beside the event (3.2.3) may repeat an attribute; the event's own word counts.
    let beside = received.map(|p| p.user.as_slice()).unwrap_or_default();
    user.extend(beside.iter().filter(|(name, _)| !attributes.iter().any(|(n, _)| **n == **name)).cloned());
    let properties = Properties {
        utf8_payload: false,
        content_type: content_type.as_deref().map(text),
        response_topic: received.and_then(|p| p.response_topic.clone()),
        correlation_data: received.and_then(|p| p.correlation_data.clone()),
        user,
    };
    Unwrapped {
        payload: event.into_data(payload, content_type.as_deref()),
        properties: Some(Box::new(properties)),
        identity,
    }
}
