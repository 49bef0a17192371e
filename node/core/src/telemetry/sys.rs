//! The figures below `$SYS/broker`, under the names that mosquitto gave them, so that what watches a broker can watch a node.
//!
//! Only what the node counts is there. Figures are retained in memory and not on disk: they are wrong after a restart.

use crate::Text;
use crate::event::{Event, Qos, Timestamp, Via};
use bytes::Bytes;

/// One moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysFigures {
    /// Of the program.
    pub version: Text,
    /// Since the start.
    pub uptime_s: u64,
    /// Connections now.
    pub clients_connected: u64,
    /// Most connections at one time since the start.
    pub clients_maximum: u64,
    /// Persistent sessions whose clients are away.
    pub clients_disconnected: u64,
    /// Sessions that ended by their expiry.
    pub clients_expired: u64,
    /// MQTT packets received.
    pub messages_received: u64,
    /// PUBLISH packets received and taken.
    pub publish_received: u64,
    /// PUBLISH packets sent.
    pub publish_sent: u64,
    /// Messages that slow subscribers lost, that were too large for their clients, or not allowed.
    pub publish_dropped: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages that wait for persistent sessions.
    pub stored_messages: u64,
    /// What those take.
    pub stored_bytes: u64,
    /// Memory in use.
    pub heap_bytes: u64,
}

impl SysFigures {
    /// Topics below `$SYS/broker` with their payloads.
    #[must_use]
    pub fn topics(&self) -> Vec<(&'static str, String)> {
        let number = |name, figure: u64| (name, figure.to_string());
        vec![
            ("version", format!("eventmesh-edge version {}", &*self.version)),
            ("uptime", format!("{} seconds", self.uptime_s)),
            number("clients/total", self.clients_connected + self.clients_disconnected),
            number("clients/connected", self.clients_connected),
            number("clients/disconnected", self.clients_disconnected),
            number("clients/maximum", self.clients_maximum),
            number("clients/expired", self.clients_expired),
            number("messages/received", self.messages_received),
            number("publish/messages/received", self.publish_received),
            number("publish/messages/sent", self.publish_sent),
            number("publish/messages/dropped", self.publish_dropped),
            number("bytes/received", self.bytes_received),
            number("bytes/sent", self.bytes_sent),
            number("subscriptions/count", self.subscriptions),
            number("retained messages/count", self.retained),
            number("store/messages/count", self.stored_messages),
            number("store/messages/bytes", self.stored_bytes),
            number("heap/current", self.heap_bytes),
        ]
    }
}

/// What of the figures has not been said: those that changed, the first time all.
#[derive(Debug, Default)]
pub struct SysTopics {
    said: Vec<(&'static str, String)>,
}

impl SysTopics {
    /// The messages for this moment: QoS 0, retained.
    #[must_use]
    pub fn messages(&mut self, source: &Text, figures: &SysFigures, now: Timestamp) -> Vec<Event> {
        let all = figures.topics();
        let changed = all.iter().filter(|figure| !self.said.contains(figure));
        let messages = changed.map(|(name, payload)| event(source, name, payload.clone(), now)).collect();
        self.said = all;
        messages
    }

    /// What was said last reached nobody: next time everything is said.
    pub fn unsaid(&mut self) {
        self.said.clear();
    }
}

fn event(source: &Text, name: &str, payload: String, now: Timestamp) -> Event {
    Event {
        via: Via::Node,
        qos: Qos::AtMostOnce,
        retain: true,
        source: source.clone(),
        id: None,
        time: Some(now).filter(|t| t.is_plausible()),
        received: now,
        expires: None,
        topic: Text::from(format!("$SYS/broker/{name}")),
        payload: Bytes::from(payload),
        properties: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_said_again() {
        let mut topics = SysTopics::default();
        let mut figures = SysFigures { version: "1.2.3".into(), ..SysFigures::default() };
        let mut said = |figures: &SysFigures| -> Vec<String> {
            let messages = topics.messages(&"edge://n".into(), figures, Timestamp(1));
            messages
                .iter()
                .map(|e| format!("{} {}", &*e.topic, String::from_utf8_lossy(&e.payload)))
                .collect()
        };
        let first = said(&figures);
        assert_eq!(first.len(), figures.topics().len());
        assert_eq!(first[0], "$SYS/broker/version eventmesh-edge version 1.2.3");
        assert!(said(&figures).is_empty());
        figures.uptime_s = 10;
        figures.clients_connected = 2;
        figures.clients_disconnected = 3;
        assert_eq!(
            said(&figures),
            [
                "$SYS/broker/uptime 10 seconds",
                "$SYS/broker/clients/total 5",
                "$SYS/broker/clients/connected 2",
                "$SYS/broker/clients/disconnected 3",
            ]
        );
        topics.unsaid();
        let again = topics.messages(&"edge://n".into(), &figures, Timestamp(1));
        assert_eq!(again.len(), figures.topics().len());
    }
}
