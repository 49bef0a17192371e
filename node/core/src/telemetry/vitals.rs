//! What a heartbeat says. Names carry their units; fields are only ever added.

use crate::Text;
use serde::Serialize;

/// Loss totals told in one heartbeat; a node whose configuration makes more lines than this tells the largest.
pub(super) const LOSSES_MAX: usize = 128;

/// The node's vital figures at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Vitals {
    /// Since the start.
    pub uptime_s: u64,
    /// Memory in use, where the system tells.
    pub rss_bytes: Option<u64>,
    /// Data directory.
    pub disk_bytes: u64,
    /// Its limit.
    pub disk_max_bytes: u64,
    /// Clients connected now.
    pub clients_connected: u64,
    /// Persistent sessions, connected or not.
    pub sessions: u64,
    /// Events made durable since the start.
    pub accepted_events: u64,
    /// Of these, per second since the last heartbeat.
    pub accepted_per_s: f64,
    /// Events that wait, for the uplink that most wait for.
    pub backlog_events: u64,
    /// Their stored bytes.
    pub backlog_bytes: u64,
    /// Age of the oldest event that waits for any uplink.
    pub oldest_age_s: Option<u64>,
    /// Per uplink.
    pub uplinks: Vec<UplinkVitals>,
    /// The loss ledger: totals since the data directory was made, entries not handed on yet included.
    pub losses: Vec<LossTotal>,
    /// Lines of the ledger that did not fit.
    pub losses_left_out: u64,
}

/// One uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UplinkVitals {
    /// Its name.
    pub uplink: Text,
    /// `up`, `connecting` or `down`.
    pub state: &'static str,
    /// How long.
    pub since_s: u64,
    /// Why it is down.
    pub cause: Option<Text>,
    /// Events that wait.
    pub backlog_events: u64,
    /// Their stored bytes.
    pub backlog_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_age_s: Option<u64>,
    /// Acknowledged since the start.
    pub acked_events: u64,
    /// Acknowledged per second, lately.
    pub acked_per_s: f64,
    /// Sent and unanswered.
    pub in_flight_events: u64,
}

/// One line of the loss ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LossTotal {
    /// Which stream; `None` for a loss that is no stream's.
    pub stream: Option<Text>,
    /// For which uplink; `None` for a loss that is no uplink's.
    pub uplink: Option<Text>,
    /// Why.
    pub reason: &'static str,
    /// How many events, ever.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Vitals {
    /// Keeps within bounds: the largest losses, the others counted.
    pub(super) fn bounded(mut self) -> Vitals {
        if self.losses.len() > LOSSES_MAX {
            self.losses.sort_by_key(|line| std::cmp::Reverse(line.events));
            self.losses_left_out = (self.losses.len() - LOSSES_MAX) as u64;
            self.losses.truncate(LOSSES_MAX);
        }
        self
    }
}
