//! Stored event → CloudEvent: everything that is decided on the way out.

use super::attribute::{
    is_free_extension_name, is_media_type, is_name, is_text, is_traceparent, is_tracestate, to_text,
};
use super::json::{Structured, is_json};
use super::native::{self, Native};
use super::source::device_of;
use super::time::{format_rfc3339, put_digits};
use crate::event::{Event, Properties, StoredEvent, Timestamp, Via};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use eventmesh_edge_wire::Frame;
use std::borrow::Cow;

/// Attributes of one event; User Properties beyond them are not looked at. A bound, because every name is compared with every
/// other one and a packet has room for tens of thousands.
pub(super) const MAX_ATTRIBUTES: usize = 64;

/// A CloudEvent, borrowed from the stored event as far as possible, ready for any binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent<'a> {
    /// All attributes but `datacontenttype`, as canonical strings, names unique, the required four among them.
    pub attributes: Vec<(&'a str, Cow<'a, str>)>,
    /// `datacontenttype`.
    pub content_type: Option<Cow<'a, str>>,
    /// `data`; empty for none.
    pub data: Bytes,
    /// What the MQTT binding carries beside attributes and data.
    pub(super) mqtt: Extras<'a>,
    /// The whole event as it came, if it came in the JSON format.
    json: Option<&'a [u8]>,
    /// How many of `attributes`, at their end, the node has added to an event that came as one.
    added: usize,
}

/// Facts of an MQTT 5 message that survive a hop but are no attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extras<'a> {
    pub(super) utf8_payload: bool,
    pub(super) response_topic: Option<&'a str>,
    pub(super) correlation_data: Option<&'a [u8]>,
    /// User Properties of a native event that cannot be attributes: they pass, too.
    pub(super) user: Vec<(&'a str, &'a str)>,
}

impl<'a> CloudEvent<'a> {
    /// An attribute's value; not `datacontenttype`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, v)| &**v)
    }

    pub(super) fn received_json(&self) -> Option<&'a [u8]> {
        self.json
    }

    pub(super) fn added(&self) -> &[(&'a str, Cow<'a, str>)] {
        let at = self.attributes.len().saturating_sub(self.added);
        self.attributes.get(at..).unwrap_or_default()
    }

    fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        self.attributes.push((name, value.into()));
    }

    fn set_time(&mut self, name: &'a str, time: Option<Timestamp>) {
        if let Some(text) = time.and_then(format_rfc3339) {
            self.set(name, text);
        }
    }
}

/// CloudEvents `type` of events whose route names none.
#[must_use]
pub fn default_kind(via: Via) -> &'static str {
    match via {
        Via::Mqtt3 | Via::Mqtt5 => "io.eventmesh.edge.mqtt.publish",
        Via::Coap => "io.eventmesh.edge.coap.post",
        Via::Uplink => "io.eventmesh.edge.uplink.message",
        Via::Node => "io.eventmesh.edge.node",
    }
}

/// Makes the CloudEvent of a stored event.
///
/// - `kind`: `type` from the route, or [`default_kind`]; a native event and an SDK frame that names one keep their own
/// - `content_type`: the route's `datacontenttype` for messages that declare none; else it is `application/json` where the payload is
///   strict JSON, and `application/octet-stream` where it is not
///
/// A native event passes as it came; `sequence`, `edgeseq` and `recordedtime` are added where they are absent. Nothing fails: what
/// cannot be carried is left out, by the rules in the module's description.
#[must_use]
pub fn to_cloudevent<'a>(
    stored: &'a StoredEvent,
    kind: &'a str,
    content_type: Option<&'a str>,
) -> CloudEvent<'a> {
    let event = &stored.event;
    let native = native::recognise(event.via, event.properties.as_deref(), &event.payload);
    // Identity was fixed at the commit (P3). Should this version of the program read a claim where the one that admitted
    // the event did not, the event stays what it was admitted as.
    match native {
        Some(Native::Binary(p)) if same_identity(event, |name| native::user(p, name).map(|t| &**t)) => {
            native_binary(stored, p)
        }
        Some(Native::Structured(s)) if same_identity(event, |name| s.get(name).map(|v| &**v)) => {
            native_structured(stored, s)
        }
        _ => plain(stored, kind, content_type),
    }
}

fn same_identity<'v>(event: &Event, get: impl Fn(&str) -> Option<&'v str>) -> bool {
    event.id.as_deref() == get("id") && get("source") == Some(&event.source)
}

/// The SDK frame that a message carries, if its Content Type says so and it is one.
pub(super) fn frame<'a>(properties: &Properties, payload: &'a [u8]) -> Option<Frame<'a>> {
    let essence = properties.content_type.as_deref()?.split(';').next()?.trim();
    let named = essence.eq_ignore_ascii_case(eventmesh_edge_wire::CONTENT_TYPE);
    named.then(|| eventmesh_edge_wire::decode(payload).ok()).flatten()
}

fn plain<'a>(stored: &'a StoredEvent, kind: &'a str, content_type: Option<&'a str>) -> CloudEvent<'a> {
    let event = &stored.event;
    let properties = event.properties.as_deref();
    let frame = properties.and_then(|p| frame(p, &event.payload));
    let mut out = CloudEvent {
        attributes: Vec::with_capacity(14 + properties.map_or(0, |p| p.user.len().min(MAX_ATTRIBUTES))),
        content_type: None,
        data: frame.map_or_else(|| event.payload.clone(), |f| event.payload.slice_ref(f.data)),
        mqtt: Extras::default(),
        json: None,
        added: 0,
    };
    let declared = properties.filter(|_| frame.is_none()).and_then(declared_type);
    out.content_type = declared.or(content_type).or_else(|| guess_type(&out.data)).map(Cow::Borrowed);
    out.set("specversion", "1.0");
    out.set("id", id(stored));
    out.set("source", &*event.source);
    out.set("type", frame.map(|f| f.kind).filter(|k| !k.is_empty() && is_text(k)).unwrap_or(kind));
    out.set("subject", to_text(&event.topic));
    out.set_time("time", event.time);
    for (name, value) in node_attributes(stored) {
        out.attributes.extend(value.map(|v| (name, Cow::Owned(v))));
    }
    out.set("partitionkey", device_of(&event.source));
    out.set_time("expirytime", event.expires);
    out.set(
        "edgeqos",
        match event.qos as u8 {
            0 => "0",
            1 => "1",
            _ => "2",
        },
    );
    if event.retain {
        out.set("edgeretain", "true");
    }
    if let Some(properties) = properties {
        out.mqtt.utf8_payload = properties.utf8_payload && frame.is_none();
        plain_properties(&mut out, properties);
    }
    out
}

fn id(stored: &StoredEvent) -> Cow<'_, str> {
    match &stored.event.id {
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(stored.id().to_string()),
    }
}

/// The attributes that the node gives every event, native ones included.
fn node_attributes(stored: &StoredEvent) -> [(&'static str, Option<String>); 3] {
    let received = Some(stored.event.received).filter(|t| t.is_plausible());
    [
        ("recordedtime", received.and_then(format_rfc3339)),
        // Compared as text within one source, so the width is fixed (extension `sequence`).
        ("sequence", Some(decimal(stored.sequence.source, 20))),
        ("edgeseq", Some(decimal(stored.sequence.stream, digits(stored.sequence.stream)))),
    ]
}

fn digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Formatting machinery costs ten times as much, and this runs for every event.
fn decimal(value: u64, width: usize) -> String {
    let mut text = Vec::with_capacity(width);
    put_digits(&mut text, value, width);
    String::from_utf8(text).unwrap_or_default()
}

fn plain_properties<'a>(out: &mut CloudEvent<'a>, properties: &'a Properties) {
    out.mqtt.response_topic = properties.response_topic.as_deref();
    out.mqtt.correlation_data = properties.correlation_data.as_deref();
    if let Some(topic) = properties.response_topic.as_deref().filter(|t| !t.is_empty()) {
        out.set("responsetopic", to_text(topic));
    }
    if let Some(data) = properties.correlation_data.as_deref().filter(|d| !d.is_empty()) {
        out.set("correlationid", URL_SAFE_NO_PAD.encode(data));
    }
    let user = |name| native::user(properties, name).map(|t| &**t);
    if let Some(parent) = user("traceparent").filter(|t| is_traceparent(t)) {
        out.set("traceparent", parent);
        if let Some(state) = user("tracestate").filter(|t| is_tracestate(t)) {
            out.set("tracestate", state);
        }
    }
    for (name, value) in properties.user.iter().take(MAX_ATTRIBUTES) {
        if is_free_extension_name(name) && !value.is_empty() && is_text(value) && out.get(name).is_none() {
            out.set(name, &**value);
        }
    }
}

/// Content Type of the sender, if it is a media type. One that names an event format would make a receiver take the data for
/// a whole event, which it is not.
fn declared_type(properties: &Properties) -> Option<&str> {
    let declared = properties.content_type.as_deref()?;
    (is_media_type(declared) && !native::names_event_format(properties)).then_some(declared)
}

fn guess_type(data: &[u8]) -> Option<&'static str> {
    match data {
        [] => None,
        data if is_json(data) => Some("application/json"),
        _ => Some("application/octet-stream"),
    }
}

fn native_binary<'a>(stored: &'a StoredEvent, properties: &'a Properties) -> CloudEvent<'a> {
    let content_type = properties.content_type.as_deref();
    let mut out = CloudEvent {
        attributes: Vec::with_capacity(properties.user.len().min(MAX_ATTRIBUTES) + 3),
        content_type: content_type
            .or_else(|| native::user(properties, "datacontenttype").map(|t| &**t))
            .map(Cow::Borrowed),
        data: stored.event.payload.clone(),
        mqtt: Extras {
            utf8_payload: properties.utf8_payload,
            response_topic: properties.response_topic.as_deref(),
            correlation_data: properties.correlation_data.as_deref(),
            user: Vec::new(),
        },
        json: None,
        added: 0,
    };
    for required in ["specversion", "id", "source", "type"] {
        if let Some(value) = native::user(properties, required) {
            out.set(required, &**value);
        }
    }
    for (name, value) in &properties.user {
        let room = out.attributes.len() < MAX_ATTRIBUTES;
        match &**name {
            // The list of hops is written anew by whoever sends (`LoopGuard::stamp`).
            "specversion" | "id" | "source" | "type" | "datacontenttype" | super::VIA_PROPERTY => {}
            name if room && is_attribute(name, value) && out.get(name).is_none() => out.set(name, &**value),
            name => out.mqtt.user.push((name, value)),
        }
    }
    add_absent(&mut out, stored, &[]);
    out
}

/// `data` is no attribute: it would collide with the event's data in the JSON format.
fn is_attribute(name: &str, value: &str) -> bool {
    is_name(name) && name != "data" && is_text(value)
}

fn native_structured<'a>(stored: &'a StoredEvent, mut event: Structured<'a>) -> CloudEvent<'a> {
    let content_type = event.get("datacontenttype").cloned();
    // Implied by the JSON format, explicit everywhere else (JSON format section 3.1).
    let implied = event.data.is_some().then_some(Cow::Borrowed("application/json"));
    let mut attributes = std::mem::take(&mut event.attributes);
    let nulls = std::mem::take(&mut event.nulls);
    attributes.retain(|(name, _)| *name != "datacontenttype");
    let properties = stored.event.properties.as_deref();
    let mut out = CloudEvent {
        attributes,
        content_type: content_type.or(implied),
        data: Bytes::new(),
        mqtt: Extras {
            utf8_payload: false,
            response_topic: properties.and_then(|p| p.response_topic.as_deref()),
            correlation_data: properties.and_then(|p| p.correlation_data.as_deref()),
            user: Vec::new(),
        },
        json: Some(&stored.event.payload),
        added: 0,
    };
    out.data = event.into_data(&stored.event.payload, out.content_type.as_deref());
    add_absent(&mut out, stored, &nulls);
    out
}

/// `taken`: names that already stand in the event's text, without a value.
fn add_absent(out: &mut CloudEvent<'_>, stored: &StoredEvent, taken: &[&str]) {
    let before = out.attributes.len();
    for (name, value) in node_attributes(stored) {
        let value = value.filter(|_| out.get(name).is_none() && !taken.contains(&name));
        out.attributes.extend(value.map(|v| (name, Cow::Owned(v))));
    }
    out.added = out.attributes.len() - before;
}
