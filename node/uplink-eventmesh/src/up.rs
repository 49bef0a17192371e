//! Event → message, exactly as the runtime wants it; what it would lose without a word is carried otherwise or refused.
//!
//! | of the event | on the wire |
//! |---|---|
//! | `id`, `source`, `type`, `specversion` | their own fields |
//! | the device's topic | `edgetopic`; EventMesh's `subject` is its own topic |
//! | `subject`, where it is not that topic | `edgesubject` |
//! | any other attribute | `ce_string` under its name, or `edge` in front of it where the name means something to EventMesh |
//! | text under a text type | `text_data` |
//! | other data | `binary_data` |
//! | data that is not what its type says (text type, not UTF-8), `application/protobuf` without its message type | `binary_data` as `application/octet-stream`, `edgecontenttype` = the type |
//! | no data | one zero byte as `application/octet-stream`, `edgeempty` = `true`, `edgecontenttype` = the type |

use crate::identity::Preambles;
use crate::names;
use crate::options::{Options, OptionsError};
use crate::topic::{Template, TooLong};
use crate::wire::Message;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Properties, StoredEvent};
use eventmesh_edge_core::mapping::{CloudEvent, LoopGuard, VIA_PROPERTY, mqtt_source, to_cloudevent};
use std::borrow::Cow;

/// What never changes in the messages of one uplink.
#[derive(Debug)]
pub(crate) struct Mapper {
    pub(crate) preambles: Preambles,
    pub(crate) guard: LoopGuard,
    /// `source` of what the uplink itself says.
    pub(crate) source: Text,
    template: Template,
    max_bytes: usize,
}

/// Why an event is not sent at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("message of {bytes} bytes is larger than message_max = {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("{0}, set another topic for this uplink")]
    Topic(#[from] TooLong),
    #[error("it has no {0}, EventMesh would deliver it without")]
    Missing(&'static str),
}

/// How data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// Under another content type than its own.
    Disguised(&'a [u8]),
    Empty,
}

impl Mapper {
    pub(crate) fn new(options: &Options) -> Result<Mapper, OptionsError> {
        Ok(Mapper {
            preambles: Preambles::new(options),
            guard: LoopGuard::new(&options.node),
            source: mqtt_source(&options.node, &options.name),
            template: options.template()?,
            max_bytes: options.message_max_bytes,
        })
    }

    /// Appends the EventMesh topic of an event to `out`.
    pub(crate) fn topic(&self, stored: &StoredEvent, kind: &str, out: &mut String) -> Result<(), Refused> {
        Ok(self.template.render(&stored.event.topic, kind, out)?)
    }

    /// The frame that publishes an event to an EventMesh topic.
    pub(crate) fn event(
        &self,
        stored: &StoredEvent,
        kind: &str,
        topic: &str,
        out: &mut BytesMut,
    ) -> Result<Bytes, Refused> {
        let event = to_cloudevent(stored, kind, None);
        let mut message = Message::begin(out);
        match self.write(&event, stored, topic, &mut message) {
            Ok(()) => Ok(message.finish()),
            Err(refused) => {
                message.discard();
                Err(refused)
            }
        }
    }

    fn write(
        &self,
        event: &CloudEvent<'_>,
        stored: &StoredEvent,
        topic: &str,
        out: &mut Message<'_>,
    ) -> Result<(), Refused> {
        let required = |name| event.get(name).filter(|v| !v.is_empty()).ok_or(Refused::Missing(name));
        let id = required("id")?;
        out.id(id);
        out.source(required("source")?);
        out.spec_version(required("specversion")?);
        out.kind(required("type")?);
        out.prepared(&self.preambles.publish);
        out.attribute("subject", topic);
        out.attribute("uniqueid", id);
        match event.get("sequence") {
            Some(sequence) => out.attribute("seqnum", sequence),
            None => out.attribute("seqnum", &stored.sequence.source.to_string()),
        }
        out.attribute(names::TOPIC, &stored.event.topic);
        if let Some(subject) = event.get("subject").filter(|s| *s != &*stored.event.topic) {
            out.attribute(names::SUBJECT, subject);
        }
        out.attribute(VIA_PROPERTY, &self.via(event, stored));
        own_attributes(event, out);
        request_attributes(event, stored.event.properties.as_deref(), out);
        data(event, out);
        let bytes = out.len();
        if bytes > self.max_bytes { Err(Refused::TooLarge { bytes, max: self.max_bytes }) } else { Ok(()) }
    }

    /// The nodes it has passed through; a structured event has them inside, any other among its properties.
    fn via(&self, event: &CloudEvent<'_>, stored: &StoredEvent) -> Cow<'_, str> {
        match event.get(VIA_PROPERTY) {
            None => self.guard.stamp(stored.event.properties.as_deref()),
            Some(hops) => {
                let hop = (Text::from_static(VIA_PROPERTY), Text::from(hops.to_owned()));
                let properties = Properties { user: vec![hop], ..Properties::default() };
                Cow::Owned(self.guard.stamp(Some(&properties)).into_owned())
            }
        }
    }
}

/// Renaming is one to one, so no two of them meet.
fn own_attributes(event: &CloudEvent<'_>, out: &mut Message<'_>) {
    for (name, value) in &event.attributes {
        match *name {
            "id" | "source" | "specversion" | "type" | "subject" | VIA_PROPERTY => {}
            name => out.attribute(&names::outward(name), value),
        }
    }
}

/// Response Topic and Correlation Data of a native event are no attributes of it, and would not leave.
fn request_attributes(event: &CloudEvent<'_>, properties: Option<&Properties>, out: &mut Message<'_>) {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let Some(properties) = properties else { return };
    if let Some(topic) = properties.response_topic.as_deref().filter(|_| event.get("responsetopic").is_none())
    {
        out.attribute("responsetopic", topic);
    }
    if let Some(data) =
        properties.correlation_data.as_deref().filter(|_| event.get("correlationid").is_none())
    {
        out.attribute("correlationid", &URL_SAFE_NO_PAD.encode(data));
    }
}

fn data(event: &CloudEvent<'_>, out: &mut Message<'_>) {
    let content_type = event.content_type.as_deref();
    let arm = arm(content_type, &event.data);
    let disguise = matches!(arm, Arm::Disguised(_) | Arm::Empty);
    match content_type {
        Some(own) if disguise => {
            out.attribute("datacontenttype", "application/octet-stream");
            out.attribute(names::CONTENT_TYPE, own);
        }
        Some(own) => out.attribute("datacontenttype", own),
        None => {}
    }
    match arm {
        Arm::Text(text) => out.text_data(text),
        Arm::Binary(bytes) | Arm::Disguised(bytes) => out.binary_data(bytes),
        Arm::Empty => {
            out.attribute(names::EMPTY, "true");
            out.binary_data(&[0]);
        }
    }
}

fn arm<'a>(content_type: Option<&str>, data: &'a [u8]) -> Arm<'a> {
    match content_type {
        _ if data.is_empty() => Arm::Empty,
        Some(own) if is_text_type(own) => std::str::from_utf8(data).map_or(Arm::Disguised(data), Arm::Text),
        // It would have to be an `Any`, and what type of message this is nobody has said.
        Some("application/protobuf") => Arm::Disguised(data),
        _ => Arm::Binary(data),
    }
}

/// The runtime's own rule, to the letter: `application/json; charset=utf-8` is none.
fn is_text_type(content_type: &str) -> bool {
    content_type.starts_with("text/")
        || content_type.ends_with("+json")
        || content_type.ends_with("+xml")
        || matches!(content_type, "application/json" | "application/xml")
}

#[cfg(test)]
#[path = "up_tests.rs"]
mod tests;
