//! What comes on the subscription's stream: answers to ourselves, or messages for devices.

use crate::answer::Status;
use crate::names::{self, Inward};
use crate::options::Down;
use crate::proto::CloudEvent;
use crate::proto::cloud_event::cloud_event_attribute_value::Attr;
use crate::proto::cloud_event::{CloudEventAttributeValue, Data};
use crate::topic::local;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Properties, Qos, Timestamp};
use eventmesh_edge_core::mapping::{LoopGuard, format_rfc3339};
use eventmesh_edge_core::ports::uplink::Downward;

/// MQTT strings have two bytes of length (MQTT 5.0 section 1.5.4).
const MQTT_TEXT_MAX: usize = 65_535;

/// One message of the stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// It carries `statuscode`: the answer to a subscription.
    Control(Status),
    /// For devices; the token is not set yet.
    Message(Box<Downward>),
    /// It has passed through this node before.
    Loop,
    /// It cannot be given to devices.
    Unroutable(&'static str),
}

pub(crate) fn incoming(event: CloudEvent, down: &Down, guard: &LoopGuard) -> Incoming {
    if event.attributes.contains_key("statuscode") {
        return Incoming::Control(Status::of(&event));
    }
    let topic = event.text(names::TOPIC).or_else(|| event.text("subject")).unwrap_or_default();
    let Ok(topic) = local(down, topic) else {
        return Incoming::Unroutable("no topic that devices could have");
    };
    let qos = match event.text("edgeqos") {
        Some("0") => Qos::AtMostOnce,
        Some("2") => Qos::ExactlyOnce,
        _ => Qos::AtLeastOnce,
    };
    let retain = event.text("edgeretain") == Some("true");
    let Some((payload, properties)) = unwrap(&event) else {
        return Incoming::Unroutable("text too long for MQTT");
    };
    // The runtime delivers events without an id or a source as it got them; such a one has no identity and is no CloudEvent.
    let named = !event.id.is_empty() && !event.source.is_empty();
    let identity = named.then(|| (Text::from(event.source), Text::from(event.id)));
    if guard.has_passed(Some(&properties))
        || identity.as_ref().is_some_and(|(source, _)| guard.is_own(source))
    {
        return Incoming::Loop;
    }
    Incoming::Message(Box::new(Downward {
        topic: topic.into_text(),
        payload,
        properties: Some(Box::new(properties)),
        qos,
        retain,
        identity,
        token: 0,
    }))
}

/// Data and properties as the CloudEvents MQTT binding has them in binary mode; EventMesh's own attributes stay behind.
fn unwrap(event: &CloudEvent) -> Option<(Bytes, Properties)> {
    let mut properties = Properties::default();
    let whole = [&event.id, &event.source, &event.r#type, &event.spec_version].iter().all(|v| !v.is_empty());
    if whole {
        let head = [
            ("specversion", &event.spec_version),
            ("id", &event.id),
            ("source", &event.source),
            ("type", &event.r#type),
        ];
        properties
            .user
            .extend(head.map(|(name, value)| (Text::from_static(name), Text::from(value.clone()))));
    }
    let subject = event.text(names::SUBJECT).or_else(|| event.text(names::TOPIC));
    if let Some(subject) = subject {
        properties.user.push((Text::from_static("subject"), Text::from(subject.to_owned())));
    }
    let mut others: Vec<_> = event.attributes.iter().filter_map(own).collect();
    // The map has no order; devices and tests get one.
    others.sort_unstable();
    properties
        .user
        .extend(others.into_iter().map(|(name, value)| (Text::from(name.to_owned()), Text::from(value))));
    properties.response_topic = event.text("responsetopic").map(|t| Text::from(t.to_owned()));
    let correlation = event.text("correlationid").map(|id| match URL_SAFE_NO_PAD.decode(id) {
        Ok(data) => Bytes::from(data),
        Err(_) => Bytes::from(id.to_owned()),
    });
    properties.correlation_data = correlation;
    let payload = payload(event, &mut properties);
    let texts = properties.user.iter().flat_map(|(name, value)| [name, value]);
    let fits = |text: &Text| text.len() <= MQTT_TEXT_MAX && !text.contains('\0');
    let all_fit = texts.chain(&properties.content_type).chain(&properties.response_topic).all(fits);
    let correlation_fits = properties.correlation_data.as_ref().is_none_or(|d| d.len() <= MQTT_TEXT_MAX);
    (all_fit && correlation_fits).then_some((payload, properties))
}

fn payload(event: &CloudEvent, properties: &mut Properties) -> Bytes {
    let declared = event.text(names::CONTENT_TYPE).or_else(|| event.text("datacontenttype"));
    properties.content_type = declared.map(|t| Text::from(t.to_owned()));
    if event.text(names::EMPTY) == Some("true") {
        return Bytes::new();
    }
    match &event.data {
        None => Bytes::new(),
        Some(Data::BinaryData(bytes)) => bytes.clone(),
        Some(Data::TextData(text)) => {
            properties.utf8_payload = true;
            Bytes::from(text.clone())
        }
        // The message itself; its type is what `dataschema` is for (protobuf format section 3.2).
        Some(Data::ProtoData(any)) => {
            if !event.attributes.contains_key("dataschema") {
                properties.user.push((Text::from_static("dataschema"), Text::from(any.type_url.clone())));
            }
            Bytes::from(any.value.clone())
        }
    }
}

/// An attribute of the event itself, as canonical text (CloudEvents 1.0.2 section 3.1).
fn own<'a>((name, value): (&'a String, &CloudEventAttributeValue)) -> Option<(&'a str, String)> {
    let Inward::Own(name) = names::inward(name) else { return None };
    let text = match value.attr.as_ref()? {
        Attr::CeBoolean(value) => value.to_string(),
        Attr::CeInteger(value) => value.to_string(),
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => text.clone(),
        Attr::CeBytes(bytes) => STANDARD.encode(bytes),
        Attr::CeTimestamp(time) => timestamp(time)?,
    };
    Some((name, text))
}

fn timestamp(time: &prost_types::Timestamp) -> Option<String> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let millis = u64::try_from(time.nanos).ok()? / 1_000_000;
    format_rfc3339(Timestamp(seconds.checked_mul(1_000)?.checked_add(millis)?))
}

#[cfg(test)]
#[path = "down_tests.rs"]
mod tests;
