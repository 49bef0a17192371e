//! One event of the node: its type, its topic, its data.

use super::vitals::Vitals;
use crate::Text;
use crate::event::{Event, LogId, Position, Properties, Qos, Timestamp, Via, derived_id};
use crate::mapping::{format_rfc3339, node_authority};
use crate::ports::store::LedgerEntry;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// `datacontenttype` of all of them.
pub const DATA_TYPE: &str = "application/json";

/// `source` of the node's own events: `edge://<node>`.
#[must_use]
pub fn node_source(node: &str) -> Text {
    Text::from(format!("edge://{}", node_authority(node)))
}

/// How the last life of the node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousStop {
    /// There was none.
    First,
    /// It was stopped.
    Clean,
    /// It was killed, or the power went.
    Unclean,
}

impl PreviousStop {
    fn as_str(self) -> &'static str {
        match self {
            PreviousStop::First => "first",
            PreviousStop::Clean => "clean",
            PreviousStop::Unclean => "unclean",
        }
    }
}

/// What the node says about itself.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEvent {
    /// The node has started.
    Birth {
        /// Of the program.
        version: Text,
        /// How the last life ended.
        previous_stop: PreviousStop,
        /// Bytes of a commit that nobody was answered for, cut off at this start.
        cut_bytes: u64,
        /// Damaged files put aside at this start.
        quarantined_files: u64,
        /// Heartbeats to be expected.
        heartbeat_s: u64,
        /// The uplinks.
        uplinks: Vec<Text>,
    },
    /// It is alive.
    Heartbeat(Box<Vitals>),
    /// It was stopped.
    Stopped {
        /// Since the start.
        uptime_s: u64,
        /// What stopped it, for example a signal.
        cause: Text,
    },
    /// The connection of an uplink ended without a goodbye.
    Death {
        /// Which.
        uplink: Text,
        /// After so long without a heartbeat the node itself may be taken for dead.
        heartbeat_s: u64,
    },
    /// An uplink is connected.
    UplinkUp {
        /// Which.
        uplink: Text,
        /// Where.
        address: Option<Text>,
        /// How long it was not.
        down_s: u64,
        /// Connections made since the last event about it: more than one if it came and went.
        connections: u64,
    },
    /// An uplink is not connected any more.
    UplinkDown {
        /// Which.
        uplink: Text,
        /// Why.
        cause: Option<Text>,
        /// How long it was.
        up_s: u64,
        /// Connections made since the last event about it.
        connections: u64,
    },
    /// Events were given up.
    Ledger(LedgerEntry),
}

impl NodeEvent {
    /// CloudEvents `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            NodeEvent::Birth { .. } => "io.eventmesh.edge.node.birth",
            NodeEvent::Heartbeat(_) => "io.eventmesh.edge.node.heartbeat",
            NodeEvent::Stopped { .. } => "io.eventmesh.edge.node.stopped",
            NodeEvent::Death { .. } => "io.eventmesh.edge.node.death",
            NodeEvent::UplinkUp { .. } => "io.eventmesh.edge.node.uplink.up",
            NodeEvent::UplinkDown { .. } => "io.eventmesh.edge.node.uplink.down",
            NodeEvent::Ledger(_) => "io.eventmesh.edge.node.ledger",
        }
    }

    /// CloudEvents `subject`: what it is about, where that is not the node.
    #[must_use]
    pub fn subject(&self) -> Option<&Text> {
        match self {
            NodeEvent::UplinkUp { uplink, .. }
            | NodeEvent::UplinkDown { uplink, .. }
            | NodeEvent::Death { uplink, .. } => Some(uplink),
            NodeEvent::Ledger(entry) => entry.stream.as_ref(),
            NodeEvent::Birth { .. } | NodeEvent::Heartbeat(_) | NodeEvent::Stopped { .. } => None,
        }
    }

    /// Last level of the topic. What says whether the node is there shares one, so that its retained message is always
    /// the last word.
    fn level(&self) -> &'static str {
        match self {
            NodeEvent::Heartbeat(_) => "heartbeat",
            NodeEvent::Ledger(_) => "ledger",
            _ => "state",
        }
    }

    /// Whether the message is kept for those who ask later.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.level() == "state"
    }

    /// `edge/<node>/state`, `…/heartbeat` or `…/ledger`.
    #[must_use]
    pub fn topic(&self, node: &str) -> Text {
        Text::from(format!("edge/{}/{}", node_authority(node), self.level()))
    }

    /// `data`.
    #[must_use]
    pub fn data(&self, log: LogId, epoch: u32) -> Vec<u8> {
        let mut data = match self {
            NodeEvent::Birth {
                version,
                previous_stop,
                cut_bytes,
                quarantined_files,
                heartbeat_s,
                uplinks,
            } => {
                json!({
                    "version": &**version, "previous_stop": previous_stop.as_str(), "cut_bytes": cut_bytes,
                    "quarantined_files": quarantined_files, "heartbeat_s": heartbeat_s, "uplinks": texts(uplinks),
                })
            }
            NodeEvent::Heartbeat(vitals) => value(vitals),
            NodeEvent::Stopped { uptime_s, cause } => json!({ "uptime_s": uptime_s, "cause": &**cause }),
            NodeEvent::Death { uplink, heartbeat_s } => {
                json!({ "uplink": &**uplink, "heartbeat_s": heartbeat_s })
            }
            NodeEvent::UplinkUp { uplink, address, down_s, connections } => json!({
                "uplink": &**uplink, "address": address.as_deref(), "down_s": down_s, "connections": connections,
            }),
            NodeEvent::UplinkDown { uplink, cause, up_s, connections } => json!({
                "uplink": &**uplink, "cause": cause.as_deref(), "up_s": up_s, "connections": connections,
            }),
            NodeEvent::Ledger(entry) => ledger(entry, log),
        };
        if let Value::Object(fields) = &mut data {
            stamp(fields, log, epoch);
        }
        data.to_string().into_bytes()
    }

    /// The attributes of the CloudEvent but `datacontenttype`, in the order in which they are written.
    #[must_use]
    pub fn attributes(&self, source: &Text, id: &str, time: Option<Timestamp>) -> Vec<(&'static str, Text)> {
        let mut attributes = vec![
            ("specversion", Text::from_static("1.0")),
            ("id", Text::from(id)),
            ("source", source.clone()),
            ("type", Text::from_static(self.kind())),
        ];
        attributes.extend(self.subject().map(|subject| ("subject", subject.clone())));
        let time = time.filter(|t| t.is_plausible()).and_then(format_rfc3339);
        attributes.extend(time.map(|time| ("time", Text::from(time))));
        attributes
    }

    /// As it is stored: a CloudEvent in binary mode, which passes every uplink as it is.
    pub(super) fn into_event(self, who: &Who<'_>, id: Text, now: Timestamp) -> Event {
        let attributes = self.attributes(who.source, &id, Some(now));
        let user = attributes.into_iter().map(|(name, value)| (Text::from_static(name), value)).collect();
        Event {
            via: Via::Node,
            qos: Qos::AtLeastOnce,
            retain: self.is_retained(),
            source: who.source.clone(),
            id: Some(id),
            time: Some(now).filter(|t| t.is_plausible()),
            received: now,
            expires: None,
            topic: self.topic(who.node),
            payload: Bytes::from(self.data(who.log, who.epoch)),
            properties: Some(Box::new(Properties {
                utf8_payload: true,
                content_type: Some(Text::from_static(DATA_TYPE)),
                user,
                ..Properties::default()
            })),
        }
    }
}

/// Whose events they are.
pub(super) struct Who<'a> {
    pub(super) node: &'a str,
    pub(super) source: &'a Text,
    pub(super) log: LogId,
    pub(super) epoch: u32,
}

fn stamp(fields: &mut Map<String, Value>, log: LogId, epoch: u32) {
    fields.insert("log".to_owned(), log.to_string().into());
    fields.insert("epoch".to_owned(), epoch.into());
}

/// Positions are told as the ids that events without one of their own got from them.
fn ledger(entry: &LedgerEntry, log: LogId) -> Value {
    let id = |position: Position| (position != Position::ZERO).then(|| derived_id(log, position).to_string());
    json!({
        "no": entry.no, "stream": entry.stream.as_deref(), "uplink": entry.uplink.as_deref(),
        "reason": entry.reason.as_str(), "events": entry.events, "bytes": entry.bytes,
        "first_id": id(entry.first), "last_id": id(entry.last),
    })
}

fn value(of: &impl Serialize) -> Value {
    // Plain structs of numbers and text have no way to fail.
    serde_json::to_value(of).unwrap_or_default()
}

fn texts(list: &[Text]) -> Vec<&str> {
    list.iter().map(|text| &**text).collect()
}
