//! Receipts: the stream that commands come down on has no acknowledgement, so one goes up as an event.
//!
//! ```text
//! cloud ── command (source S, id I) ──▶ node ── store, devices
//! cloud ◀── receipt (commandsource S, commandid I) ── node, when the command is durable, or dropped because it can never be kept
//! ```
//! Whoever sends a command and sees no receipt in time sends it again, with the same `source` and `id`: the node recognises it, delivers
//! it once, and sends the receipt again. So nothing about receipts has to be durable here; what cannot be sent is dropped and counted.

use crate::answer::{Answer, Verdict};
use crate::counters::{Counters, count};
use crate::names;
use crate::options::Options;
use crate::wire::Message;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::mapping::{LoopGuard, VIA_PROPERTY, mqtt_source};
use eventmesh_edge_core::ports::uplink::Downward;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// CloudEvents `type` of a receipt.
pub(crate) const STORED: &str = "io.eventmesh.edge.command.stored";
/// The same for a command that can never be kept: sending it again is of no use.
pub(crate) const DROPPED: &str = "io.eventmesh.edge.command.dropped";

/// Receipts that wait; more are dropped and counted (P5).
const WAITING_MAX: usize = 1_024;
/// Receipts in flight: few, they must not take the window of events.
const FLYING_MAX: usize = 16;
const ATTEMPTS_MAX: u32 = 5;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A command to be receipted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    source: Text,
    id: Text,
    topic: Text,
    /// Why it was dropped, if it was.
    dropped: Option<Text>,
    attempts: u32,
}

/// Commands between the stream and the cloud's receipt topic.
#[derive(Debug)]
pub(crate) struct Receipts {
    /// EventMesh topic, if receipts are wanted.
    topic: Option<String>,
    source: Text,
    via: String,
    /// Tokens of an earlier connection mean nothing to this one.
    generation: u64,
    next_token: u64,
    /// Not durable yet, by token; `None` for one that has no identity to be receipted by.
    unconfirmed: HashMap<u64, Option<Command>>,
    waiting: VecDeque<Command>,
    flying: usize,
    /// After a failure nothing is sent before this moment.
    not_before: Duration,
}

impl Receipts {
    pub(crate) fn new(options: &Options, generation: u64) -> Receipts {
        Receipts {
            topic: options.down.receipts.clone(),
            source: mqtt_source(&options.node, &options.name),
            via: LoopGuard::new(&options.node).stamp(None).into_owned(),
            generation,
            next_token: 0,
            unconfirmed: HashMap::new(),
            waiting: VecDeque::new(),
            flying: 0,
            not_before: Duration::ZERO,
        }
    }

    /// Gives a message its token; `None` if the same one is being stored already, so that its receipt will do for both.
    pub(crate) fn came_down(&mut self, mut message: Downward) -> Option<Downward> {
        let command = message.identity.as_ref().map(|(source, id)| Command {
            source: source.clone(),
            id: id.clone(),
            topic: message.topic.clone(),
            dropped: None,
            attempts: 0,
        });
        let is_here = |other: &Option<Command>| other.is_some() && *other == command;
        if self.unconfirmed.values().any(is_here) {
            return None;
        }
        // Never 0, which would mean that nobody waits for an answer.
        self.next_token = (self.next_token + 1) & 0xffff_ffff;
        message.token = self.generation << 32 | self.next_token.max(1);
        self.unconfirmed.insert(message.token, command);
        Some(message)
    }

    pub(crate) fn unconfirmed(&self) -> usize {
        self.unconfirmed.len()
    }

    /// The command of this token is durable, or was dropped for a reason.
    pub(crate) fn settle(&mut self, token: u64, dropped: Option<Text>, counters: &Counters) {
        let Some(Some(command)) = self.unconfirmed.remove(&token) else { return };
        if self.topic.is_some() {
            self.wait(Command { dropped, ..command }, counters);
        }
    }

    fn wait(&mut self, command: Command, counters: &Counters) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(command);
        } else {
            count(&counters.receipts_dropped);
        }
    }

    /// The next receipt to be sent.
    pub(crate) fn next(&mut self, now: Duration, preamble: &Bytes) -> Option<(Command, Bytes)> {
        if self.flying >= FLYING_MAX || now < self.not_before {
            return None;
        }
        let topic = self.topic.as_deref()?;
        let command = self.waiting.pop_front()?;
        self.flying += 1;
        let frame = self.write(&command, topic, preamble);
        Some((command, frame))
    }

    pub(crate) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        (!self.waiting.is_empty() && now < self.not_before).then_some(self.not_before)
    }

    /// Its `id` follows from the command's, so a second receipt of one command is a duplicate to whoever looks.
    fn write(&self, command: &Command, topic: &str, preamble: &Bytes) -> Bytes {
        let Command { source, id, topic: device_topic, dropped, .. } = command;
        let (kind, state) = if dropped.is_some() { (DROPPED, "dropped") } else { (STORED, "stored") };
        let mut out = BytesMut::with_capacity(preamble.len() + 1_024);
        let mut message = Message::begin(&mut out);
        let own_id = format!("{id}.{state}");
        message.id(&own_id);
        message.source(&self.source);
        message.spec_version("1.0");
        message.kind(kind);
        message.prepared(preamble);
        let attributes = [
            ("subject", topic),
            ("uniqueid", &own_id),
            ("datacontenttype", "application/json"),
            ("commandsource", source),
            ("commandid", id),
            (names::TOPIC, device_topic),
            (VIA_PROPERTY, &self.via),
        ];
        for (name, value) in attributes {
            message.attribute(name, value);
        }
        let mut data =
            serde_json::json!({ "source": &**source, "id": &**id, "topic": &**device_topic, "state": state });
        if let (Some(reason), Some(data)) = (dropped, data.as_object_mut()) {
            data.insert("reason".to_owned(), (&**reason).into());
        }
        message.text_data(&data.to_string());
        message.finish()
    }

    pub(crate) fn answered(
        &mut self,
        mut command: Command,
        answer: &Answer,
        now: Duration,
        counters: &Counters,
    ) {
        self.flying = self.flying.saturating_sub(1);
        match answer.verdict {
            Verdict::Taken => return count(&counters.receipts_sent),
            Verdict::Never => return count(&counters.receipts_dropped),
            _ => {}
        }
        command.attempts += 1;
        self.not_before = now + RETRY_AFTER;
        if command.attempts < ATTEMPTS_MAX {
            self.wait(command, counters);
        } else {
            tracing::debug!(reason = %answer.words, "receipt given up");
            count(&counters.receipts_dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CloudEvent;
    use crate::proto::cloud_event::Data;
    use crate::wire::PREFIX_BYTES;
    use eventmesh_edge_core::event::Qos;
    use prost::Message as _;

    fn receipts() -> Receipts {
        Receipts::new(&Options::new("plant-7", "cloud", Vec::new()), 3)
    }

    fn message(id: Option<&'static str>) -> Downward {
        Downward {
            topic: Text::from_static("valve/1"),
            payload: Bytes::new(),
            properties: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            identity: id.map(|id| (Text::from_static("/cloud"), Text::from_static(id))),
            token: 0,
        }
    }

    fn answer(verdict: Verdict) -> Answer {
        Answer { verdict, words: String::new() }
    }

    #[test]
    fn what_is_durable_gets_a_receipt_that_names_it() {
        let (mut all, counters) = (receipts(), Counters::default());
        let token = all.came_down(message(Some("c1"))).unwrap().token;
        assert_eq!(all.came_down(message(Some("c1"))), None, "being stored already");
        assert_eq!(all.next(Duration::ZERO, &Bytes::new()), None);
        all.settle(token ^ 1 << 32, None, &counters);
        assert_eq!(all.unconfirmed(), 1, "a token of another connection");
        all.settle(token, None, &counters);
        let (command, frame) = all.next(Duration::ZERO, &Bytes::new()).unwrap();
        let event = CloudEvent::decode(frame.slice(PREFIX_BYTES..)).unwrap();
        assert_eq!((event.id.as_str(), event.r#type.as_str()), ("c1.stored", STORED));
        assert_eq!(event.source, "mqtt://plant-7/cloud");
        let get = |name| event.text(name);
        assert_eq!(
            (get("commandsource"), get("commandid"), get("edgetopic")),
            (Some("/cloud"), Some("c1"), Some("valve/1"))
        );
        let Some(Data::TextData(data)) = &event.data else { panic!() };
        assert_eq!(data, r#"{"id":"c1","source":"/cloud","state":"stored","topic":"valve/1"}"#);
        all.answered(command, &answer(Verdict::Taken), Duration::ZERO, &counters);
        assert_eq!(counters.read().receipts_sent, 1);
        // The same command again, later: it gets a receipt again.
        assert!(all.came_down(message(Some("c1"))).is_some());
    }

    #[test]
    fn what_is_dropped_is_told_as_that_with_the_reason() {
        let (mut all, counters) = (receipts(), Counters::default());
        let token = all.came_down(message(Some("c1"))).unwrap().token;
        all.settle(token, Some(Text::from_static("too large")), &counters);
        let (_, frame) = all.next(Duration::ZERO, &Bytes::new()).unwrap();
        let event = CloudEvent::decode(frame.slice(PREFIX_BYTES..)).unwrap();
        assert_eq!((event.id.as_str(), event.r#type.as_str()), ("c1.dropped", DROPPED));
        let Some(Data::TextData(data)) = &event.data else { panic!() };
        assert!(data.contains(r#""reason":"too large""#) && data.contains(r#""state":"dropped""#), "{data}");
    }

    #[test]
    fn a_receipt_is_tried_a_few_times_and_then_counted() {
        let (mut all, counters, mut now) = (receipts(), Counters::default(), Duration::ZERO);
        let token = all.came_down(message(Some("c1"))).unwrap().token;
        all.settle(token, None, &counters);
        for _ in 0..ATTEMPTS_MAX {
            let (command, _) = all.next(now, &Bytes::new()).unwrap();
            all.answered(command, &answer(Verdict::Hold), now, &counters);
            assert_eq!(all.next(now, &Bytes::new()), None, "not at once");
            now += RETRY_AFTER;
        }
        assert_eq!((all.next(now, &Bytes::new()), counters.read().receipts_dropped), (None, 1));
    }

    #[test]
    fn nothing_grows_without_bound_and_what_has_no_identity_gets_none() {
        let (mut all, counters) = (receipts(), Counters::default());
        for _ in 0..3 {
            let token = all.came_down(message(None)).unwrap().token;
            all.settle(token, None, &counters);
        }
        assert_eq!(all.waiting.len(), 0);
        for n in 0..2_000 {
            let named =
                Downward { identity: Some((Text::new(), Text::from(n.to_string()))), ..message(None) };
            let token = all.came_down(named).unwrap().token;
            all.settle(token, None, &counters);
        }
        assert_eq!((all.waiting.len(), counters.read().receipts_dropped), (WAITING_MAX, 2_000 - 1_024));
    }
}
