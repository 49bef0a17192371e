//! The runtime's checks, in its order.

use crate::message::{integer, text};
use crate::proto::CloudEvent;
use crate::proto::cloud_event::Data;

/// Why a request is refused: code and text, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
}

fn refuse<T>(code: u16, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

fn body<T>() -> Result<T, Refusal> {
    refuse(7, "eventMesh CloudEvent[body] err, ")
}

/// What every request needs.
pub(crate) fn header(event: &CloudEvent) -> Result<(), Refusal> {
    let required = ["env", "idc", "ip", "pid", "sys", "username", "passwd", "language"];
    let digits = |pid: &str| pid.bytes().all(|b| b.is_ascii_digit());
    let all = required.iter().all(|name| text(event, name).is_some());
    if all && text(event, "pid").is_some_and(digits) {
        Ok(())
    } else {
        refuse(6, "eventMesh CloudEvent[header] err, ")
    }
}

/// What a publish needs beside it.
pub(crate) fn publish_body(event: &CloudEvent) -> Result<(), Refusal> {
    if ["subject", "producergroup", "uniqueid", "ttl"].iter().any(|name| text(event, name).is_none()) {
        return body();
    }
    let content_type = text(event, "datacontenttype");
    let ok = match (&event.data, content_type) {
        (Some(Data::TextData(data)), Some(own)) if is_text_type(own) => !data.is_empty(),
        (_, Some(own)) if is_text_type(own) => false,
        (Some(Data::ProtoData(_)), Some("application/protobuf")) => true,
        (_, Some("application/protobuf")) => false,
        (Some(Data::BinaryData(data)), _) => !data.is_empty(),
        _ => false,
    };
    if ok { Ok(()) } else { body() }
}

fn is_text_type(content_type: &str) -> bool {
    content_type.starts_with("text/")
        || content_type.ends_with("+json")
        || content_type.ends_with("+xml")
        || content_type == "application/json"
        || content_type == "application/xml"
}

/// What fails when the runtime turns the event into its own; the text says what.
pub(crate) fn adapt(event: &CloudEvent) -> Result<(), Refusal> {
    let failed = |what: String| refuse(14, format!("eventMesh send async msg err,  {what}"));
    match text(event, "protocoltype") {
        Some("cloudevents") => {}
        other => return failed(format!("Cannot find the Protocol adaptor: {}", other.unwrap_or("null"))),
    }
    if event.spec_version != "1.0" {
        return failed(format!("Invalid specversion: {}", event.spec_version));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match event.attributes.keys().find(|name| !name.bytes().all(allowed)) {
        Some(name) => failed(format!("Invalid extensions name: {name}")),
        None => Ok(()),
    }
}

/// The topic that nobody subscribes, on standalone storage.
pub(crate) fn no_topic(topic: &str) -> Refusal {
    let message = format!(
        "eventMesh send async msg err,  org.apache.eventmesh.api.exception.StorageRuntimeException: Send message error, topic: {topic}\n"
    );
    Refusal { code: 14, message }
}

/// What a subscription and an unsubscription need.
pub(crate) fn subscription(event: &CloudEvent) -> Result<Vec<(String, String)>, Refusal> {
    header(event)?;
    let Some(Data::TextData(data)) = &event.data else { return body() };
    if text(event, "consumergroup").is_none() {
        return body();
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(data).unwrap_or_default();
    let item = |item: &serde_json::Value| {
        Some((item.get("topic")?.as_str()?.to_owned(), item.get("mode")?.as_str()?.to_owned()))
    };
    match items.iter().map(item).collect::<Option<Vec<_>>>() {
        Some(items) if !items.is_empty() => Ok(items),
        _ => body(),
    }
}

/// What a heartbeat needs; returns its topics.
pub(crate) fn heartbeat(event: &CloudEvent) -> Result<Vec<String>, Refusal> {
    header(event)?;
    let Some(Data::TextData(data)) = &event.data else { return body() };
    if integer(event, "clienttype") != Some(2) || text(event, "consumergroup").is_none() {
        return body();
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(data).unwrap_or_default();
    Ok(items.iter().filter_map(|item| Some(item.get("topic")?.as_str()?.to_owned())).collect())
}
