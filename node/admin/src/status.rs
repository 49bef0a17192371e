//! What an operator asks, as data: is it up, is the uplink moving, how old is the oldest event, when will the backlog
//! be gone, what was lost and why.
//!
//! Fields are only ever added. Reading is lenient (`serde(default)`), so that `eventmesh-edge status` of one version
//! understands a node of another.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Who answers.
    pub node: NodeStatus,
    /// Where devices connect.
    pub listeners: Vec<ListenerStatus>,
    /// What is kept, and for whom.
    pub streams: Vec<StreamStatus>,
    /// Where it goes.
    pub uplinks: Vec<UplinkStatus>,
    /// The disk.
    pub store: StoreStatus,
    /// The clients.
    pub sessions: SessionStatus,
    /// What came in, per protocol.
    pub ingress: Vec<IngressStatus>,
    /// The loss ledger (P2).
    pub losses: Vec<LossStatus>,
    /// What the configuration allows but may not mean.
    pub warnings: Vec<String>,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// From the configuration.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since the start.
    pub uptime_s: f64,
    /// How many times the data directory was opened.
    pub epoch: u32,
    /// Identity of the data directory; part of derived event ids.
    pub log_id: String,
    /// The data directory.
    pub data_dir: String,
    /// The node is on its way out.
    pub stopping: bool,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// `mqtt`.
    pub kind: String,
    /// The real address and port.
    pub bind: String,
    /// Speaks TLS.
    pub tls: bool,
    /// `anonymous` or `password`.
    pub auth: String,
    /// Connections now.
    pub connected: u64,
    /// Connections at most.
    pub max_connections: u64,
    /// Payload at most.
    pub max_payload_bytes: u64,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStatus {
    /// From the configuration.
    pub name: String,
    /// `durable`.
    pub class: String,
    /// `refuse` or `drop-oldest`.
    pub when_full: String,
    /// Budget of each uplink.
    pub max_bytes: u64,
    /// What waits, per uplink; one entry without a name where no uplink is configured.
    pub backlogs: Vec<BacklogStatus>,
}

/// What of one stream waits for one uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BacklogStatus {
    /// Who; `None` while the stream has no uplink.
    pub uplink: Option<String>,
    /// Events behind the cursor.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_s: Option<f64>,
}

/// Is it moving?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkState {
    /// An attempt is under way.
    #[default]
    Connecting,
    /// Connected.
    Up,
    /// Not connected, waiting for the next attempt.
    Down,
    /// The node is stopping.
    Stopped,
}

/// One uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkStatus {
    /// From the configuration.
    pub name: String,
    /// `mqtt`.
    pub kind: String,
    /// It is not in the configuration any more: it gets what waits for it, and goes.
    pub draining: bool,
    /// Is it moving?
    pub state: UplinkState,
    /// How long it has been in this state.
    pub since_s: f64,
    /// Why it is down, in words.
    pub cause: Option<String>,
    /// Where it is connected, or tries to.
    pub address: Option<String>,
    /// When the next attempt is made.
    pub retry_in_s: Option<f64>,
    /// Events waiting, over all its streams.
    pub backlog_events: u64,
    /// Their stored bytes.
    pub backlog_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_s: Option<f64>,
    /// Acknowledged by the upstream per second, lately.
    pub rate_per_s: f64,
    /// At this rate the backlog is gone in; `None` while nothing moves.
    pub drain_in_s: Option<f64>,
    /// Sent and not answered.
    pub in_flight: u64,
    /// Acknowledged by the upstream since the start.
    pub acked: u64,
    /// How long ago the upstream last acknowledged something.
    pub last_acked_s: Option<f64>,
    /// Given up, by reason, ever.
    pub dropped: BTreeMap<String, u64>,
    /// Connections made since the start.
    pub connections: u64,
    /// Events sent since the start, repetitions included.
    pub sent: u64,
    /// Of these, those that had been sent before.
    pub sent_again: u64,
    /// Answers that refused an event for the moment, since the start.
    pub refused_for_now: u64,
    /// Events that the upstream refused for good, since the start.
    pub refused_for_good: u64,
    /// The upstream's words when it refused an event last.
    pub last_refusal: Option<String>,
    /// Messages that came down, since the start.
    pub down_received: u64,
    /// Of these, those that came faster than they could be taken over, and were not.
    pub down_dropped: u64,
    /// What the protocol's adapter did not pass on, by its name for it: `loops_dropped`, `unroutable_dropped`,
    /// `subscriptions_refused` and others.
    pub adapter: BTreeMap<String, u64>,
}

/// What came in at the listeners of one protocol, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressStatus {
    /// `mqtt` or `coap`.
    pub kind: String,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections turned away at a listener's limit.
    pub connections_over_limit: u64,
    /// Clients refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// Connections that have ended, by reason; `success` is a client's own goodbye.
    pub ended: BTreeMap<String, u64>,
    /// Packets that were malformed, oversized or out of place.
    pub bad_packets: u64,
    /// Packets read.
    pub packets_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Messages taken in.
    pub published: u64,
    /// Messages refused because their stream was full.
    pub refused_full: u64,
    /// Messages dropped because they had passed through this node before.
    pub loops_dropped: u64,
    /// Messages sent to clients.
    pub delivered: u64,
    /// Messages not sent to clients: they had expired.
    pub expired: u64,
    /// Messages not sent to clients: too large for them.
    pub too_large: u64,
    /// What only this protocol counts, in the words of the operator.
    pub counted: BTreeMap<String, u64>,
}

/// The disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Commits since the start.
    pub commits: u64,
    /// fdatasync calls on the journal since the start.
    pub syncs: u64,
    /// Events made durable since the start.
    pub events: u64,
    /// Bytes written since the start.
    pub bytes_written: u64,
    /// Journal segments in use.
    pub journal_segments: u64,
    /// Sealed generations of spilled events.
    pub generations: u64,
    /// Bytes of the data directory.
    pub disk_bytes: u64,
    /// Its limit.
    pub disk_max_bytes: u64,
    /// Files quarantined at this start.
    pub quarantined: u64,
    /// What the mailboxes of all sessions take of their common budget.
    pub mailbox_bytes: u64,
    /// That budget.
    pub mailboxes_max_bytes: u64,
    /// The file system has no room: events wait.
    pub short_of_room: bool,
}

/// The clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// Connected now.
    pub connected: u64,
    /// Persistent sessions, connected or not.
    pub persistent: u64,
    /// Subscriptions of all of them.
    pub subscriptions: u64,
    /// Messages waiting in the mailboxes of persistent sessions.
    pub mailbox_events: u64,
    /// Their stored bytes.
    pub mailbox_bytes: u64,
    /// Retained messages.
    pub retained: u64,
    /// Publications whose answer waits for room in a stream.
    pub waiting_for_room: u64,
}

/// One line of the loss ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossStatus {
    /// Which stream, if it was one's.
    pub stream: Option<String>,
    /// For which uplink, if it was one's.
    pub uplink: Option<String>,
    /// Why.
    pub reason: String,
    /// How many, ever.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Status {
    /// What an operator should look at now, one line each; empty if all is well.
    ///
    /// A node without uplinks is not in trouble: it does what it was told, and says so at its start.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let uplinks = self.uplinks.iter().filter_map(UplinkStatus::trouble);
        let streams = self.streams.iter().filter_map(StreamStatus::trouble);
        let stopping = self.node.stopping.then(|| "the node is stopping".to_owned());
        let quarantined = (self.store.quarantined > 0)
            .then(|| format!("{} damaged files were put aside at this start", self.store.quarantined));
        let short = self.store.short_of_room.then(|| {
            "the file system has no room: senders wait, sessions and cursors go on in what was kept for them".to_owned()
        });
        uplinks.chain(streams).chain(stopping).chain(quarantined).chain(short).collect()
    }
}

/// With events in flight, an upstream that says nothing for so long is not moving.
const STUCK_S: f64 = 30.0;

impl UplinkStatus {
    /// Connected, but nothing comes back for what was sent.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let silent_s = self.last_acked_s.unwrap_or(self.since_s).min(self.since_s);
        self.state == UplinkState::Up && self.in_flight > 0 && silent_s > STUCK_S
    }

    fn trouble(&self) -> Option<String> {
        let name = &self.name;
        if self.is_stuck() {
            return Some(format!("uplink {name} is connected but acknowledges nothing"));
        }
        match self.state {
            UplinkState::Down => {
                let cause = self.cause.as_deref().unwrap_or("no cause known");
                Some(format!("uplink {name} is down: {cause}"))
            }
            // A first attempt is no trouble yet.
            UplinkState::Connecting => {
                self.cause.as_ref().map(|cause| format!("uplink {name} is down: {cause}"))
            }
            UplinkState::Up | UplinkState::Stopped => None,
        }
    }
}

impl StreamStatus {
    fn trouble(&self) -> Option<String> {
        // 95 %: by the time an operator reads it, it is full.
        let nearly_full = |b: &&BacklogStatus| self.max_bytes > 0 && b.bytes >= self.max_bytes / 20 * 19;
        let full = self.backlogs.iter().find(nearly_full)?;
        let whose = full.uplink.as_deref().map(|u| format!(" for uplink {u}")).unwrap_or_default();
        let then =
            if self.when_full == "refuse" { "senders wait" } else { "the oldest events are being dropped" };
        Some(format!("stream {} is full{whose}: {then}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> UplinkStatus {
        UplinkStatus {
            name: "cloud".into(),
            state: UplinkState::Up,
            since_s: 100.0,
            ..UplinkStatus::default()
        }
    }

    #[test]
    fn a_node_that_moves_has_no_troubles() {
        let moving = UplinkStatus { in_flight: 3, last_acked_s: Some(0.1), ..up() };
        let idle = UplinkStatus { last_acked_s: Some(90.0), ..up() };
        let status = Status { uplinks: vec![moving, idle], ..Status::default() };
        assert_eq!(status.troubles(), Vec::<String>::new());
    }

    #[test]
    fn troubles_are_told_in_words() {
        let down =
            UplinkStatus { state: UplinkState::Down, cause: Some("connection refused".into()), ..up() };
        let stuck = UplinkStatus { in_flight: 1, last_acked_s: Some(60.0), ..up() };
        let just_up = UplinkStatus { in_flight: 1, last_acked_s: Some(60.0), since_s: 1.0, ..up() };
        let backlog = BacklogStatus { uplink: Some("cloud".into()), bytes: 96, ..BacklogStatus::default() };
        let full = StreamStatus {
            name: "s".into(),
            when_full: "refuse".into(),
            max_bytes: 100,
            backlogs: vec![backlog],
            ..StreamStatus::default()
        };
        let store = StoreStatus { short_of_room: true, ..StoreStatus::default() };
        let (uplinks, streams) = (vec![down, stuck, just_up], vec![full]);
        let status = Status { uplinks, streams, store, ..Status::default() };
        assert_eq!(
            status.troubles(),
            [
                "uplink cloud is down: connection refused",
                "uplink cloud is connected but acknowledges nothing",
                "stream s is full for uplink cloud: senders wait",
                "the file system has no room: senders wait, sessions and cursors go on in what was kept for them",
            ]
        );
    }

    #[test]
    fn another_version_is_understood() {
        let older = r#"{"node":{"name":"n"},"uplinks":[{"name":"u","state":"up","new_field":1}]}"#;
        let status: Status = serde_json::from_str(older).unwrap();
        assert_eq!((status.node.name.as_str(), status.uplinks[0].state), ("n", UplinkState::Up));
    }
}
