//! The generated messages of `proto/eventmesh-cloudevents.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::enum_variant_names,
    reason = "generated from the .proto file, which has the comments and the names"
)]

include!(concat!(env!("OUT_DIR"), "/org.apache.eventmesh.cloudevents.v1.rs"));

use cloud_event::CloudEventAttributeValue;
use cloud_event::cloud_event_attribute_value::Attr;

impl CloudEvent {
    /// An attribute that was sent as text; EventMesh takes one of another type for missing.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(CloudEventAttributeValue { attr: Some(Attr::CeString(text)) }) => Some(text),
            _ => None,
        }
    }
}
