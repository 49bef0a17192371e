//! What the admin API says about the running node, from everybody's own figures.

use super::uplinks::AdapterFigures;
use eventmesh_edge_admin::{
    BacklogStatus, IngressStatus, ListenerStatus, LossStatus, NodeStatus, SessionStatus, Status,
    StatusSource, StoreStatus, StreamStatus, UplinkState, UplinkStatus,
};
use eventmesh_edge_config::{Auth, Config, Listener, Stream};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Consumer, LedgerLine, Store, StreamId, UplinkId};
use eventmesh_edge_ingress_mqtt::Stats;
use eventmesh_edge_runtime::forward::{Handle, LinkState};
use eventmesh_edge_runtime::hub::NodeHub;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A running listener: how it was configured, where it really is, who is there.
pub(super) struct ListenerView {
    pub(super) config: Listener,
    pub(super) address: SocketAddr,
    pub(super) connected: Box<dyn Fn() -> usize + Send + Sync>,
}

/// The whole node, seen from outside.
pub(super) struct Observer {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<NodeHub>,
    pub(super) started: Duration,
    pub(super) listeners: Vec<ListenerView>,
    pub(super) ingress: Arc<Stats>,
    pub(super) uplinks: Vec<UplinkView>,
    pub(super) phase: Phase,
}

/// A running uplink: how it moves, and what its adapter counts by itself.
pub(super) struct UplinkView {
    pub(super) handle: Handle,
    pub(super) figures: AdapterFigures,
}

/// Where the node is in its life.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

impl Phase {
    const READY: u8 = 1;
    const STOPPING: u8 = 2;

    pub(super) fn ready(&self) {
        self.0.store(Phase::READY, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) {
        self.0.store(Phase::STOPPING, Ordering::Relaxed);
    }

    fn not_ready(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            Phase::READY => None,
            Phase::STOPPING => Some("stopping"),
            _ => Some("starting"),
        }
    }
}

impl StatusSource for Observer {
    fn status(&self) -> Status {
        let ledger = self.store.ledger();
        Status {
            node: self.node(),
            listeners: self.listeners.iter().map(listener).collect(),
            streams: self.config.streams.iter().enumerate().map(|(index, s)| self.stream(index, s)).collect(),
            uplinks: self
                .uplinks
                .iter()
                .enumerate()
                .map(|(index, h)| self.uplink(index, h, &ledger))
                .collect(),
            store: self.store(),
            sessions: self.sessions(),
            ingress: vec![ingress(&self.ingress)],
            losses: ledger.iter().map(|line| self.loss(line)).collect(),
            warnings: self.config.warnings.clone(),
        }
    }

    fn not_ready(&self) -> Option<String> {
        self.phase.not_ready().map(str::to_owned)
    }
}

impl Observer {
    fn node(&self) -> NodeStatus {
        NodeStatus {
            name: self.config.node.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: seconds(self.clock.monotonic().saturating_sub(self.started)),
            epoch: self.store.stats().epoch,
            log_id: self.store.log_id().to_string(),
            data_dir: self.config.node.data_dir.display().to_string(),
            stopping: self.phase.not_ready() == Some("stopping"),
        }
    }

    fn sessions(&self) -> SessionStatus {
        let hub = self.hub.stats();
        let (mailbox_events, mailbox_bytes) = self.hub.mailboxes();
        SessionStatus {
            connected: figure(self.listeners.iter().map(|l| (l.connected)()).sum()),
            persistent: figure(hub.sessions),
            subscriptions: figure(hub.subscriptions),
            mailbox_events,
            mailbox_bytes,
            retained: figure(hub.retained.topics),
            waiting_for_room: figure(hub.parked),
        }
    }

    fn store(&self) -> StoreStatus {
        let stats = self.store.stats();
        StoreStatus {
            commits: stats.commits,
            syncs: stats.syncs,
            events: stats.events,
            bytes_written: stats.bytes_written,
            journal_segments: stats.journal_segments,
            generations: stats.generations,
            disk_bytes: stats.disk_bytes,
            disk_max_bytes: self.config.node.disk_max.bytes(),
            quarantined: stats.quarantined,
        }
    }

    fn stream(&self, index: usize, stream: &Stream) -> StreamStatus {
        let named = stream.uplinks.iter().map(|uplink| (id(*uplink), self.uplink_name(*uplink)));
        let nobody = stream.uplinks.is_empty().then_some((UplinkId::NONE, None));
        let backlog = |(uplink, name): (UplinkId, Option<String>)| {
            let consumer = Consumer { stream: StreamId(id(index).0), uplink };
            let backlog = self.store.backlog(consumer);
            let oldest_s = backlog.oldest.and_then(|at| self.age_s(at));
            BacklogStatus { uplink: name, events: backlog.events, bytes: backlog.bytes, oldest_s }
        };
        StreamStatus {
            name: stream.name.to_string(),
            class: stream.class.as_str().to_owned(),
            when_full: stream.when_full.as_str().to_owned(),
            max_bytes: stream.max_bytes.bytes(),
            backlogs: named.chain(nobody).map(backlog).collect(),
        }
    }

    fn uplink(&self, index: usize, view: &UplinkView, ledger: &[LedgerLine]) -> UplinkStatus {
        let live = view.handle.status();
        let config = self.config.uplinks.get(index);
        let configured = config.and_then(|u| u.address(live.address_index));
        UplinkStatus {
            name: live.name.to_string(),
            kind: config.map(|u| u.kind.as_str().to_owned()).unwrap_or_default(),
            state: state(live.state),
            since_s: seconds(live.since),
            address: live.address.as_ref().map(ToString::to_string).or(configured),
            retry_in_s: live.retry_in.map(seconds),
            backlog_events: live.backlog_events(),
            backlog_bytes: live.backlog_bytes(),
            oldest_s: live.oldest.map(seconds),
            rate_per_s: round(live.rate_per_s),
            drain_in_s: live.time_to_drain.map(seconds),
            in_flight: figure(live.in_flight.events),
            acked: live.counters.acked,
            last_acked_s: live.last_acked.map(seconds),
            dropped: dropped(id(index), ledger),
            cause: live.cause.map(|cause| cause.to_string()),
            connections: live.counters.connections,
            sent: live.counters.sent,
            sent_again: live.counters.again,
            refused_for_now: live.counters.retries,
            refused_for_good: live.counters.rejected,
            last_refusal: live.last_refusal.map(|words| words.to_string()),
            down_received: live.downward_received,
            down_dropped: live.downward_dropped,
            adapter: (view.figures)(),
        }
    }

    fn loss(&self, line: &LedgerLine) -> LossStatus {
        let stream = line.consumer.and_then(|c| self.config.streams.get(usize::from(c.stream.0)));
        LossStatus {
            stream: stream.map(|s| s.name.to_string()),
            uplink: line.consumer.and_then(|c| self.uplink_name(usize::from(c.uplink.0))),
            reason: line.reason.as_str().to_owned(),
            events: line.events,
            bytes: line.bytes,
        }
    }

    fn uplink_name(&self, index: usize) -> Option<String> {
        self.config.uplinks.get(index).map(|uplink| uplink.name.to_string())
    }

    /// Unknown while the clock is unset, or was when the event came.
    fn age_s(&self, at: Timestamp) -> Option<f64> {
        let now = self.clock.now();
        (at.is_plausible() && now.is_plausible()).then(|| seconds(at.until(now)))
    }
}

fn listener(view: &ListenerView) -> ListenerStatus {
    ListenerStatus {
        kind: view.config.kind.as_str().to_owned(),
        bind: view.address.to_string(),
        tls: view.config.tls.is_some(),
        auth: match view.config.auth {
            Auth::Anonymous => "anonymous",
            Auth::Password { .. } => "password",
        }
        .to_owned(),
        connected: figure((view.connected)()),
        max_connections: u64::from(view.config.max_connections),
        max_payload_bytes: view.config.max_payload.bytes(),
    }
}

fn ingress(stats: &Stats) -> IngressStatus {
    let lines =
        |by: BTreeMap<&'static str, u64>| by.into_iter().map(|(why, n)| (why.to_owned(), n)).collect();
    let all = stats.snapshot();
    IngressStatus {
        kind: "mqtt".to_owned(),
        connections_open: all.connections_open,
        connections_accepted: all.connections_accepted,
        connections_over_limit: all.connections_over_limit,
        refused: lines(stats.refused_by_reason()),
        tls_failed: all.tls_failed,
        ended: lines(stats.ended_by_reason()),
        bad_packets: all.bad_packets,
        packets_in: all.packets_in,
        bytes_in: all.bytes_in,
        bytes_out: all.bytes_out,
        published: all.published,
        refused_full: all.refused_full,
        loops_dropped: all.loops_dropped,
        delivered: all.delivered,
        expired: all.expired,
        too_large: all.too_large_for_client,
    }
}

fn state(state: LinkState) -> UplinkState {
    match state {
        LinkState::Idle | LinkState::Connecting => UplinkState::Connecting,
        LinkState::Up => UplinkState::Up,
        LinkState::Down => UplinkState::Down,
        LinkState::Stopped => UplinkState::Stopped,
    }
}

fn dropped(uplink: UplinkId, ledger: &[LedgerLine]) -> BTreeMap<String, u64> {
    let mut dropped = BTreeMap::new();
    for line in ledger.iter().filter(|line| line.consumer.is_some_and(|c| c.uplink == uplink)) {
        *dropped.entry(line.reason.as_str().to_owned()).or_default() += line.events;
    }
    dropped
}

fn id(index: usize) -> UplinkId {
    UplinkId(u16::try_from(index).unwrap_or(u16::MAX))
}

fn figure(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// To the millisecond: more is noise in JSON.
fn seconds(time: Duration) -> f64 {
    round(time.as_secs_f64())
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
