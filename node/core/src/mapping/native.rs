//! Which messages are CloudEvents already (CloudEvents MQTT binding 1.0 section 3).

use super::attribute::is_text;
use super::json::{Structured, is_valid_event};
use crate::Text;
use crate::event::{Properties, Via};
use bytes::Bytes;
use std::sync::LazyLock;

/// A structured MQTT 3 event names `specversion` within this many bytes, or it is taken for a plain message.
pub const SNIFF_HEAD_BYTES: usize = 1_024;

/// Largest MQTT 3 payload that is looked into.
pub const SNIFF_MAX_BYTES: usize = 256 * 1_024;

/// Longest `id` that is taken from a sender.
pub(super) const MAX_ID_BYTES: usize = 1_024;

/// Longest `source`, and longest `type`, that is taken from a sender.
pub(super) const MAX_SOURCE_BYTES: usize = 2_048;

/// A message that is a CloudEvent.
pub(super) enum Native<'a> {
    /// Attributes are User Properties, the payload is the data.
    Binary(&'a Properties),
    /// The payload is the event.
    Structured(Structured<'a>),
}

/// Recognises a CloudEvent; what breaks the specification is none.
pub(super) fn recognise<'a>(
    via: Via,
    properties: Option<&'a Properties>,
    payload: &'a Bytes,
) -> Option<Native<'a>> {
    match properties {
        Some(p) if names_event_format(p) => {
            if names_json_format(p) {
                return Structured::parse(payload).map(Native::Structured);
            }
            binary(p)
        }
        Some(p) => binary(p),
        None if via == Via::Mqtt3 && may_be_structured(payload) => {
            Structured::parse(payload).map(Native::Structured)
        }
        None => None,
    }
}

fn binary(properties: &Properties) -> Option<Native<'_>> {
    user(properties, "specversion")?;
    let twice = |name| properties.user.iter().filter(|(n, _)| *n == name).count() > 1;
    let unique = !["specversion", "id", "source", "type"].into_iter().any(twice);
    let get = |name: &str| match name {
        "datacontenttype" => {
            properties.content_type.as_deref().or_else(|| user(properties, name).map(|t| &**t))
        }
        _ => user(properties, name).map(|t| &**t),
    };
    (unique && is_valid_event(get)).then_some(Native::Binary(properties))
}

/// First User Property of that name.
pub(super) fn user<'a>(properties: &'a Properties, name: &str) -> Option<&'a Text> {
    properties.user.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
}

/// Content Type begins with `application/cloudevents`: some event format, possibly one that we do not read.
pub(super) fn names_event_format(properties: &Properties) -> bool {
    const PREFIX: &str = "application/cloudevents";
    let head = properties.content_type.as_deref().and_then(|t| t.get(..PREFIX.len()));
    head.is_some_and(|h| h.eq_ignore_ascii_case(PREFIX))
}

fn names_json_format(properties: &Properties) -> bool {
    let essence =
        properties.content_type.as_deref().and_then(|t| t.split(';').next()).unwrap_or_default().trim();
    // The binding has no batches: `application/cloudevents-batch+json` is a plain message.
    ["application/cloudevents", "application/cloudevents+json"]
        .iter()
        .any(|t| essence.eq_ignore_ascii_case(t))
}

/// Cheap refusal of nearly all telemetry: JSON telemetry begins with `{` too, but does not name `specversion`.
fn may_be_structured(payload: &[u8]) -> bool {
    static NEEDLE: LazyLock<memchr::memmem::Finder<'static>> =
        LazyLock::new(|| memchr::memmem::Finder::new(b"\"specversion\""));
    if payload.len() > SNIFF_MAX_BYTES || payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return false;
    }
    let head = payload.get(..SNIFF_HEAD_BYTES).unwrap_or(payload);
    NEEDLE.find(head).is_some()
}

/// Whether text may be an event's `id`.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && is_text(id)
}
