//! The death event, left with an upstream that speaks for those who can not any more (MQTT 5.0 section 3.1.2.5).

use super::message::{DATA_TYPE, NodeEvent, node_source};
use crate::Text;
use crate::event::LogId;
use crate::mapping::JSON_FORMAT;
use serde_json::{Map, Value};
use std::time::Duration;

/// What an uplink leaves with its upstream at each connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Testament {
    source: Text,
    topic: Text,
    log: LogId,
    epoch: u32,
    event: NodeEvent,
}

/// The same as an MQTT message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillMessage {
    /// Content Type.
    pub content_type: &'static str,
    /// User Properties: the attributes in binary mode, none in structured mode.
    pub user: Vec<(&'static str, Text)>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Testament {
    /// Of one uplink of this node, for this start.
    #[must_use]
    pub fn new(node: &str, log: LogId, epoch: u32, uplink: Text, heartbeat: Duration) -> Testament {
        let event = NodeEvent::Death { uplink, heartbeat_s: heartbeat.as_secs() };
        Testament { source: node_source(node), topic: event.topic(node), log, epoch, event }
    }

    /// The device-side topic, as of any event: the uplink puts it where its events go.
    #[must_use]
    pub fn topic(&self) -> &Text {
        &self.topic
    }

    /// For connection number `connection` of this start, from 1. It has no `time`: nobody knows when it will be.
    #[must_use]
    pub fn message(&self, connection: u64, structured: bool) -> WillMessage {
        let subject = self.event.subject().map_or("", |uplink| uplink);
        let id = format!("{}.{}-death-{subject}-{connection}", self.log, self.epoch);
        let attributes = self.event.attributes(&self.source, &id, None);
        let data = self.event.data(self.log, self.epoch);
        if !structured {
            return WillMessage { content_type: DATA_TYPE, user: attributes, payload: data };
        }
        let mut whole: Map<String, Value> =
            attributes.into_iter().map(|(name, value)| (name.to_owned(), Value::from(&*value))).collect();
        whole.insert("datacontenttype".to_owned(), DATA_TYPE.into());
        whole.insert("data".to_owned(), serde_json::from_slice(&data).unwrap_or_default());
        let payload = Value::Object(whole).to_string().into_bytes();
        WillMessage { content_type: JSON_FORMAT, user: Vec::new(), payload }
    }
}
