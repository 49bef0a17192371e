//! Small helpers around the generated messages.

use crate::proto::CloudEvent;
use crate::proto::cloud_event::cloud_event_attribute_value::Attr;
use crate::proto::cloud_event::{CloudEventAttributeValue, Data};

/// An attribute that is text and not empty: what the runtime asks for; one of another type counts as missing.
#[must_use]
pub fn text<'e>(event: &'e CloudEvent, name: &str) -> Option<&'e str> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeString(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// An attribute that is an integer.
#[must_use]
pub fn integer(event: &CloudEvent, name: &str) -> Option<i32> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeInteger(value) => Some(*value),
        _ => None,
    }
}

/// A text attribute.
#[must_use]
pub fn attribute(text: impl Into<String>) -> CloudEventAttributeValue {
    CloudEventAttributeValue { attr: Some(Attr::CeString(text.into())) }
}

/// An application's command on the topic `commands`: "open", with these attributes.
#[must_use]
pub fn valve_command(id: &str, attributes: &[(&str, &str)]) -> CloudEvent {
    CloudEvent {
        id: id.to_owned(),
        source: "/cloud/app".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.valve.set".to_owned(),
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), attribute(*value))).collect(),
        data: Some(Data::TextData("open".to_owned())),
    }
}

/// `statuscode`, `responsemessage` and `time`, put on an event.
pub(crate) fn with_status(mut event: CloudEvent, code: u16, message: &str) -> CloudEvent {
    let time = CloudEventAttributeValue { attr: Some(Attr::CeTimestamp(now())) };
    event.attributes.insert("statuscode".to_owned(), attribute(code.to_string()));
    event.attributes.insert("responsemessage".to_owned(), attribute(message));
    event.attributes.insert("time".to_owned(), time);
    event
}

/// A plain answer. The runtime gives those of a processor an id, and those of a failed check none.
pub(crate) fn answer(code: u16, message: &str, id: Option<u64>) -> CloudEvent {
    let id = id.map(|n| format!("00000000-0000-0000-0000-{n:012x}")).unwrap_or_default();
    with_status(CloudEvent { id, spec_version: "1.0".to_owned(), ..CloudEvent::default() }, code, message)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in for a server on another machine has that machine's clock"
)]
fn since_1970() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn now() -> prost_types::Timestamp {
    let now = since_1970();
    prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn now_ms() -> String {
    since_1970().as_millis().to_string()
}
