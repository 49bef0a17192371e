//! The other end: what somebody can know who gets the CloudEvents of one uplink and nothing else.

use super::plan::{OWN, STREAMS};
use crate::checks::{Check, Violation};
use eventmesh_edge_core::event::StoredEvent;
use eventmesh_edge_core::mapping::to_cloudevent;
use serde_json::Value;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// One CloudEvent as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// `source`.
    pub source: String,
    /// `id`.
    pub id: String,
    /// `type`.
    pub kind: String,
    /// `subject`.
    pub subject: String,
    /// `edgeseq`.
    pub edgeseq: u64,
    /// `data`.
    pub data: Vec<u8>,
}

impl Arrived {
    /// By the node's own mapping.
    pub(super) fn of(stored: &StoredEvent) -> Arrived {
        let event = to_cloudevent(stored, "io.eventmesh.edge.mqtt.publish", Some("text/plain"));
        let get = |name| event.get(name).unwrap_or_default().to_owned();
        Arrived {
            source: get("source"),
            id: get("id"),
            kind: get("type"),
            subject: get("subject"),
            edgeseq: get("edgeseq").parse().unwrap_or(0),
            data: event.data.to_vec(),
        }
    }
}

/// Stream, uplink, reason; empty where there is none.
pub(super) type Line = (String, String, String);

/// What one ledger event told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) line: Line,
    pub(super) events: u64,
}

/// The books of a receiver, as docs/node-events.md has them kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiver {
    /// Per source and stream: which id stood under which `edgeseq`.
    pub(super) seen: BTreeMap<(String, String), BTreeMap<u64, String>>,
    /// Ledger events by their number: a repetition changes nothing.
    pub(super) ledger: BTreeMap<u64, Told>,
    /// Of the newest heartbeat.
    pub(super) totals: BTreeMap<Line, u64>,
    newest_beat: u64,
    pub(super) births: BTreeSet<String>,
    pub(super) repetitions: u64,
}

impl Receiver {
    /// Takes one event into the books.
    pub(super) fn take(&mut self, event: &Arrived) -> Check {
        let own = event.source.starts_with("edge://");
        let level = event.subject.split('/').next().unwrap_or_default();
        let stream = if own { OWN } else { STREAMS.into_iter().find(|s| *s == level).unwrap_or_default() };
        let of_source = self.seen.entry((event.source.clone(), stream.to_owned())).or_default();
        match of_source.entry(event.edgeseq) {
            Entry::Vacant(free) => drop(free.insert(event.id.clone())),
            Entry::Occupied(known) if *known.get() != event.id => {
                let (first, second) = (known.get(), &event.id);
                return broken(format!(
                    "{} gave number {} to {first} and to {second}",
                    event.source, event.edgeseq
                ));
            }
            Entry::Occupied(_) => {
                self.repetitions += 1;
                return Ok(());
            }
        }
        let kind = event.kind.strip_prefix("io.eventmesh.edge.node.").filter(|_| own);
        match kind {
            Some("ledger") => self.ledger_event(&json(event)),
            Some("heartbeat") => {
                self.heartbeat(event.edgeseq, &json(event));
                Ok(())
            }
            Some("birth") => {
                self.births.insert(event.id.clone());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn ledger_event(&mut self, data: &Value) -> Check {
        let told = Told { line: line(data), events: number(data, "events") };
        let no = number(data, "no");
        if told.line.0 == OWN {
            return broken(format!("entry {no} is about the node's own stream"));
        }
        match self.ledger.entry(no) {
            Entry::Vacant(free) => drop(free.insert(told)),
            Entry::Occupied(known) if *known.get() == told => {}
            Entry::Occupied(known) => {
                return broken(format!("entry {no} was {:?}, now {told:?}", known.get()));
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, edgeseq: u64, data: &Value) {
        if edgeseq > self.newest_beat {
            self.newest_beat = edgeseq;
            let lines = data["losses"].as_array().cloned().unwrap_or_default();
            self.totals = lines.iter().map(|l| (line(l), number(l, "events"))).collect();
        }
    }

    /// Numbers of a stream that did not come although a later one of their source did.
    pub(super) fn holes(&self, stream: &str) -> u64 {
        let of_stream = self.seen.iter().filter(|((_, s), _)| s == stream);
        let holes = |numbers: &BTreeMap<u64, String>| {
            numbers.keys().next_back().map_or(0, |last| last - numbers.len() as u64)
        };
        of_stream.map(|(_, numbers)| holes(numbers)).sum()
    }

    /// Different events of a stream.
    pub(super) fn distinct(&self, stream: &str) -> u64 {
        self.seen.iter().filter(|((_, s), _)| s == stream).map(|(_, numbers)| numbers.len() as u64).sum()
    }

    /// What the ledger events add up to, by line.
    pub(super) fn sums(&self) -> BTreeMap<Line, u64> {
        let mut sums = BTreeMap::new();
        for told in self.ledger.values() {
            *sums.entry(told.line.clone()).or_insert(0) += told.events;
        }
        sums
    }
}

fn json(event: &Arrived) -> Value {
    serde_json::from_slice(&event.data).unwrap_or_default()
}

fn number(data: &Value, name: &str) -> u64 {
    data[name].as_u64().unwrap_or(0)
}

fn line(data: &Value) -> Line {
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    (text("stream"), text("uplink"), text("reason"))
}

pub(super) fn broken(what: String) -> Check {
    Err(Violation { promise: "account", what })
}
