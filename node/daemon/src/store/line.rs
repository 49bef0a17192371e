//! One line of an export: a CloudEvent in the JSON event format, and where it stood.
//!
//! ```text
//! {"edgestream":"telemetry","edgeposition":"3.118","edgetopic":"plant/7/temp","specversion":"1.0","id":"5f3a9c01.3-118",...}
//! ```
//! The first three are extension attributes of ours, in front and in this order, so that the rest of the line is the event as
//! it would be forwarded, byte for byte. An import takes them off, and stores the rest as an event that came as a CloudEvent:
//! `id`, `source`, `sequence`, `edgeseq` and `recordedtime` stay what they are (P3), and a second export writes the same.

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Properties, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::{
    Admission, JSON_FORMAT, admit, parse_rfc3339, to_cloudevent, to_structured_json,
};
use eventmesh_edge_core::topic::TopicName;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Ours, in their order.
const OURS: [&str; 3] = ["edgestream", "edgeposition", "edgetopic"];

/// Why a line is not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("is not a JSON object: {0}")]
    Json(String),
    #[error(
        "is not a CloudEvent 1.0 in the JSON format: it needs specversion, id, source and type, and each must be valid"
    )]
    NotAnEvent,
    #[error("names no topic: `edgetopic` or `subject` must be a topic name")]
    NoTopic,
}

/// The line of an event, without its end.
pub(super) fn write(stream: &str, stored: &StoredEvent, kind: &str) -> Vec<u8> {
    let event = to_structured_json(&to_cloudevent(stored, kind, None));
    let event = strip(&event).map(|(_, rest)| rest).unwrap_or(event);
    let mut line = prefix([stream, &stored.position.to_string(), &stored.event.topic]);
    // Behind its opening brace. Line ends stand only between members: inside text they are escaped.
    let rest = event.iter().skip_while(|byte| byte.is_ascii_whitespace()).skip(1);
    line.extend(rest.map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    line
}

fn prefix(values: [&str; 3]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (name, value) in OURS.iter().zip(values) {
        let value = serde_json::Value::from(clean(value)).to_string();
        for part in ["\"", name, "\":", &value, ","] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out
}

/// A CloudEvents String has no control characters (CloudEvents 1.0.2 section 3.1).
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Of the store that it was exported from.
    pub(super) stream: Option<String>,
    /// Ready to be stored.
    pub(super) event: Event,
}

/// Reads a line. `received`: for a line that does not say when its event was recorded.
pub(super) fn read(line: &[u8], received: Timestamp) -> Result<Line, LineError> {
    let (ours, text) = strip(line)?;
    let members = Members::parse(&text)?;
    let [stream, _, topic] = ours;
    let topic = topic.or_else(|| members.text("subject")).ok_or(LineError::NoTopic)?;
    TopicName::parse(topic.clone()).map_err(|_| LineError::NoTopic)?;
    let recorded = members.text("recordedtime").and_then(|text| parse_rfc3339(&text));
    let qos = members.text("edgeqos").and_then(|qos| qos.parse().ok()).and_then(Qos::from_u8);
    let nobody = Text::from_static("x:not-an-event");
    let admission = Admission {
        via: Via::Mqtt5,
        qos: qos.unwrap_or(Qos::AtLeastOnce),
        retain: members.text("edgeretain").as_deref() == Some("true"),
        topic: Text::from(topic),
        payload: Bytes::from(text.clone()),
        properties: Some(Box::new(Properties {
            content_type: Some(Text::from_static(JSON_FORMAT)),
            ..Properties::default()
        })),
        expiry: None,
        source: &nobody,
        received: recorded.unwrap_or(received),
    };
    let mut event = admit(admission);
    if event.source == nobody || event.id.is_none() {
        return Err(LineError::NotAnEvent);
    }
    event.expires = members.text("expirytime").and_then(|text| parse_rfc3339(&text));
    Ok(Line { stream, event })
}

type Ours = [Option<String>; 3];

/// Takes our three off; the rest stays as it is if they stand where [`write`] puts them.
fn strip(line: &[u8]) -> Result<(Ours, Vec<u8>), LineError> {
    let members = Members::parse(line)?;
    let ours = OURS.map(|name| members.text(name));
    if let [Some(stream), Some(position), Some(topic)] = &ours
        && let Some(rest) = line.strip_prefix(prefix([stream, position, topic]).as_slice())
    {
        return Ok((ours, [b"{", rest].concat()));
    }
    if !members.0.iter().any(|(name, _)| OURS.contains(&&**name)) {
        return Ok((ours, line.to_vec()));
    }
    let mut out = vec![b'{'];
    for (name, value) in members.0.iter().filter(|(name, _)| !OURS.contains(&&**name)) {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(serde_json::Value::from(&**name).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Ok((ours, out))
}

/// The members of an object, in their order, unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn parse(text: &'a [u8]) -> Result<Members<'a>, LineError> {
        serde_json::from_slice(text).map_err(|error| LineError::Json(error.to_string()))
    }

    /// A member that is text.
    fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(found, _)| found == name)?;
        serde_json::from_str(value.get()).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Members)
    }
}
