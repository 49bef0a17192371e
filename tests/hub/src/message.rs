//! What arrived, with the CloudEvents attributes that matter to an audit.

use bytes::Bytes;
use rumqttd::protocol::PublishProperties;
use serde_json::{Map, Value, json};
use std::fmt;

/// A message as the hub's own subscription got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Payload: the data in binary mode, the whole event in structured mode.
    pub payload: Bytes,
    /// Content Type.
    pub content_type: Option<String>,
    /// CloudEvents attributes: User Properties in binary mode, members of the JSON object in structured mode; empty if it is none.
    pub attributes: Vec<(String, String)>,
}

impl Message {
    pub(crate) fn new(topic: &[u8], payload: Bytes, properties: Option<PublishProperties>) -> Message {
        let properties = properties.unwrap_or_default();
        let structured = match &properties.content_type {
            Some(kind) => kind.starts_with("application/cloudevents"),
            // MQTT 3.1.1 has no Content Type; there the format is implied.
            None => properties.user_properties.is_empty() && payload.starts_with(b"{"),
        };
        let attributes = match structured.then(|| members(&payload)).flatten() {
            Some(attributes) => attributes,
            None => properties.user_properties,
        };
        Message {
            topic: String::from_utf8_lossy(topic).into_owned(),
            payload,
            content_type: properties.content_type,
            attributes,
        }
    }

    /// An attribute's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a node says it about itself: birth, heartbeat, losses (docs/node-events.md).
    #[must_use]
    pub fn is_about_a_node(&self) -> bool {
        self.get("source").is_some_and(|source| source.starts_with("edge://"))
    }

    /// `source id sequence edgeseq topic`, `-` for what is not there: a line of the audit log. Only the topic, at the end, can have spaces in it.
    #[must_use]
    pub fn audit_line(&self) -> String {
        let [source, id, sequence, edgeseq] = ["source", "id", "sequence", "edgeseq"]
            .map(|name| self.get(name).unwrap_or("-").replace(' ', "%20"));
        format!("{source} {id} {sequence} {edgeseq} {}", self.topic)
    }

    /// All of it in one JSON object; the payload as text if it is UTF-8, else its length.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object: Map<String, Value> =
            self.attributes.iter().map(|(n, v)| (n.clone(), Value::from(v.as_str()))).collect();
        object.insert("topic".to_owned(), Value::from(self.topic.as_str()));
        if let Some(kind) = &self.content_type {
            object.insert("content_type".to_owned(), Value::from(kind.as_str()));
        }
        match std::str::from_utf8(&self.payload) {
            Ok(text) => object.insert("payload".to_owned(), Value::from(text)),
            Err(_) => object.insert("payload_bytes".to_owned(), json!(self.payload.len())),
        };
        Value::Object(object)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |name| self.get(name).unwrap_or("-");
        write!(f, "{:<28} {:<24} {:<32} {}", self.topic, get("id"), get("source"), get("type"))?;
        match std::str::from_utf8(&self.payload) {
            Ok(text) => {
                write!(f, "  {}", text.chars().filter(|c| !c.is_control()).take(120).collect::<String>())
            }
            Err(_) => write!(f, "  ({} bytes)", self.payload.len()),
        }
    }
}

/// The attributes of an event in the JSON format.
fn members(payload: &[u8]) -> Option<Vec<(String, String)>> {
    let object: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    object.get("specversion")?;
    let attributes = object.into_iter().filter(|(name, _)| name != "data" && name != "data_base64");
    Some(
        attributes
            .map(|(name, value)| (name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static str, content_type: Option<&str>, user: &[(&str, &str)]) -> Message {
        let user_properties = user.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let properties = PublishProperties {
            content_type: content_type.map(str::to_owned),
            user_properties,
            ..PublishProperties::default()
        };
        Message::new(b"plant/7", Bytes::from_static(payload.as_bytes()), Some(properties))
    }

    #[test]
    fn binary_structured_and_neither() {
        let binary = message(
            "21.5",
            Some("application/json"),
            &[("id", "a-1"), ("source", "mqtt://n/d"), ("sequence", "7")],
        );
        assert_eq!(binary.audit_line(), "mqtt://n/d a-1 7 - plant/7");
        assert_eq!(binary.to_json()["payload"], "21.5");
        let structured =
            r#"{"specversion":"1.0","id":"a-2","source":"s","type":"t","edgeseq":"3","data":{"id":"x"}}"#;
        for kind in [Some("application/cloudevents+json; charset=utf-8"), None] {
            assert_eq!(message(structured, kind, &[]).audit_line(), "s a-2 - 3 plant/7");
        }
        assert_eq!(message("{\"id\":\"x\"}", None, &[]).audit_line(), "- - - - plant/7");
    }
}
