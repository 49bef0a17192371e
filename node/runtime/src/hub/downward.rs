//! What comes down from an uplink, on its way to devices.
//!
//! It is an event like any other, with two differences: it goes to no stream (see [`NodeHub`]'s module), and it may come
//! again, because an upstream that gets no confirmation in time delivers again. A bounded number of identities (CloudEvents
//! `source` and `id`) is remembered once their messages are durable; one that is not remembered any more, or came before
//! the last start, is delivered again (P2, at least once).

use super::{NodeHub, lock};
use crate::forward::{DownwardSink, Kept};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Timestamp, Via};
use eventmesh_edge_core::mapping::mqtt_source;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::{Hub, Publication, Submission};
use eventmesh_edge_core::ports::store::{Class, CommitError};
use eventmesh_edge_core::ports::uplink::Downward;
use eventmesh_edge_core::topic::TopicName;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Longer identities are not remembered: the memory is for commands, not for their names.
const IDENTITY_MAX_BYTES: usize = 512;

/// Where one uplink's messages come down.
pub struct UplinkSink {
    hub: Arc<NodeHub>,
    source: Text,
}

/// The identities seen last.
#[derive(Debug)]
pub(super) struct Remembered {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    max: usize,
    repeated: u64,
}

impl NodeHub {
    /// The sink of one uplink. What is no CloudEvent gets the source `mqtt://<node>/<uplink>`.
    #[must_use]
    pub fn downward(self: &Arc<Self>, uplink: &str) -> Arc<UplinkSink> {
        let source = mqtt_source(&self.node, uplink);
        Arc::new(UplinkSink { hub: self.clone(), source })
    }
}

impl UplinkSink {
    fn event(&self, message: Downward) -> Event {
        let received = self.hub.clock.now();
        let (source, id) = match message.identity {
            Some((source, id)) => (source, Some(id)),
            None => (self.source.clone(), None),
        };
        Event {
            via: Via::Uplink,
            qos: message.qos,
            retain: message.retain,
            source,
            id,
            time: Some(received).filter(|now: &Timestamp| now.is_plausible()),
            received,
            expires: None,
            topic: message.topic,
            payload: message.payload,
            properties: message.properties,
        }
    }
}

impl DownwardSink for UplinkSink {
    fn accept(&self, message: Downward, done: Completion<Kept>) {
        if TopicName::parse(message.topic.clone()).is_err() {
            // It could not be delivered the next time either.
            tracing::warn!(source = %self.source, "message from above with a topic that is none, dropped");
            return done(Kept::Dropped(Text::from_static("its topic is no MQTT topic name")));
        }
        let identity = message.identity.as_ref().and_then(|(source, id)| key(source, id));
        if identity.as_ref().is_some_and(|identity| lock(&self.hub.remembered).recognises(identity)) {
            return done(Kept::Durable);
        }
        let remembered = self.hub.remembered.clone();
        let publication = Publication { event: self.event(message), publisher: None };
        let submission = Submission { publications: vec![publication], ..Submission::default() };
        let source = self.source.clone();
        let answer = move |result: Result<_, CommitError>| {
            if let (Ok(_), Some(identity)) = (&result, identity) {
                lock(&remembered).add(identity);
            }
            let kept = kept(&result);
            if let Kept::Dropped(reason) = &kept {
                tracing::warn!(%source, %reason, "message from above dropped");
            }
            done(kept);
        };
        self.hub.submit(submission, Box::new(answer));
    }
}

impl Remembered {
    pub(super) fn new(max: usize) -> Remembered {
        Remembered { known: HashSet::new(), order: VecDeque::new(), max, repeated: 0 }
    }

    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    fn recognises(&mut self, identity: &str) -> bool {
        let known = self.known.contains(identity);
        self.repeated += u64::from(known);
        known
    }

    fn add(&mut self, identity: Arc<str>) {
        if self.max == 0 || !self.known.insert(identity.clone()) {
            return;
        }
        self.order.push_back(identity);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// What can never be kept need not be tried again: it would take its place in the upstream's window for ever.
fn kept<T>(result: &Result<T, CommitError>) -> Kept {
    match result {
        Ok(_) => Kept::Durable,
        Err(error) if error.class() == Class::Reject => Kept::Dropped(Text::from(error.to_string())),
        Err(_) => Kept::Again,
    }
}

/// Both in one string; U+0000 is in neither, MQTT strings cannot hold it [MQTT-1.5.4-2].
fn key(source: &str, id: &str) -> Option<Arc<str>> {
    (source.len() + id.len() <= IDENTITY_MAX_BYTES).then(|| format!("{source}\0{id}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_identities_are_remembered() {
        let mut remembered = Remembered::new(2);
        for id in ["1", "2", "2", "3"] {
            remembered.add(key("s", id).unwrap());
        }
        let known: Vec<bool> =
            ["1", "2", "3"].iter().map(|id| remembered.recognises(&key("s", id).unwrap())).collect();
        assert_eq!(known, [false, true, true]);
        assert_eq!((remembered.known.len(), remembered.repeated()), (2, 2));
    }

    #[test]
    fn what_is_too_large_for_ever_is_not_tried_again() {
        assert_eq!(kept(&Ok(())), Kept::Durable);
        let too_large = kept::<()>(&Err(CommitError::TooLarge { bytes: 2, max: 1 }));
        assert!(
            matches!(too_large, Kept::Dropped(reason) if reason.contains("larger than the store's limit"))
        );
        assert_eq!(kept::<()>(&Err(CommitError::Closed)), Kept::Again);
    }

    #[test]
    fn an_identity_too_long_to_remember_has_no_key() {
        assert_eq!(key(&"s".repeat(IDENTITY_MAX_BYTES), "1"), None);
        assert_ne!(key("a", "bc"), key("ab", "c"));
    }
}
