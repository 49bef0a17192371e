//! What the admin API says about the running node, from everybody's own figures.

use super::uplinks::AdapterFigures;
use eventmesh_edge_admin::{
    BacklogStatus, IngressStatus, ListenerStatus, LossStatus, NodeStatus, SessionStatus, Status,
    StatusSource, StoreStatus, StreamStatus, UplinkState, UplinkStatus,
};
use eventmesh_edge_config::{Auth, Config, Listener, Slots, Stream, Uplink};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Consumer, LedgerLine, Store, UplinkId};
use eventmesh_edge_ingress_mqtt::Stats;
use eventmesh_edge_runtime::forward::{Handle, LinkState};
use eventmesh_edge_runtime::hub::NodeHub;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// A running listener: how it was configured, where it really is, who is there.
pub(super) struct ListenerView {
    pub(super) config: Listener,
    pub(super) address: SocketAddr,
    pub(super) connected: Box<dyn Fn() -> usize + Send + Sync>,
    /// What it counts by itself; none if that is in the figures of all MQTT listeners.
    pub(super) figures: Option<Box<dyn Fn() -> IngressStatus + Send + Sync>>,
}

/// The whole node, seen from outside.
pub(super) struct Observer {
    pub(super) current: RwLock<Arc<Current>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<NodeHub>,
    pub(super) started: Duration,
    pub(super) listeners: Vec<ListenerView>,
    pub(super) ingress: Arc<Stats>,
    pub(super) phase: Phase,
}

/// What may change while the node runs.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) config: Config,
    pub(super) slots: Slots,
    /// Those of the configuration in its order, then those that are being drained.
    pub(super) uplinks: Vec<UplinkView>,
    /// Consumers that get what waits for them, and nothing more.
    pub(super) draining: Vec<Consumer>,
}

/// A running uplink: how it moves, and what its adapter counts by itself.
#[derive(Clone)]
pub(super) struct UplinkView {
    pub(super) config: Uplink,
    pub(super) id: UplinkId,
    pub(super) handle: Handle,
    pub(super) figures: Arc<AdapterFigures>,
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
        let (ledger, current) = (self.store.ledger(), self.current());
        let config = &current.config;
        Status {
            node: self.node(config),
            listeners: self.listeners.iter().map(listener).collect(),
            streams: config.streams.iter().map(|stream| self.stream(&current, stream)).collect(),
            uplinks: current.uplinks.iter().map(|view| self.uplink(&current, view, &ledger)).collect(),
            store: self.store(config),
            sessions: self.sessions(),
            ingress: self.ingresses(),
            losses: ledger.iter().map(|line| loss(&current.slots, line)).collect(),
            warnings: config.warnings.clone(),
        }
    }

    fn not_ready(&self) -> Option<String> {
        self.phase.not_ready().map(str::to_owned)
    }
}

impl Current {
    /// The uplinks that read a stream.
    pub(super) fn readers_of(&self, stream: &str) -> Vec<UplinkId> {
        let stream = self.config.streams.iter().find(|s| s.name.as_str() == stream);
        stream.map(|stream| self.config.readers(stream, &self.slots)).unwrap_or_default()
    }
}

impl Observer {
    /// As it is now.
    pub(super) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// As it is from now on.
    pub(super) fn set_current(&self, current: Current) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    fn node(&self, config: &Config) -> NodeStatus {
        NodeStatus {
            name: config.node.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: seconds(self.clock.monotonic().saturating_sub(self.started)),
            epoch: self.store.stats().epoch,
            log_id: self.store.log_id().to_string(),
            data_dir: config.node.data_dir.display().to_string(),
            stopping: self.phase.not_ready() == Some("stopping"),
        }
    }

    fn ingresses(&self) -> Vec<IngressStatus> {
        let own = self.listeners.iter().filter_map(|view| view.figures.as_ref().map(|figures| figures()));
        std::iter::once(ingress(&self.ingress)).chain(own).collect()
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

    fn store(&self, config: &Config) -> StoreStatus {
        let stats = self.store.stats();
        StoreStatus {
            commits: stats.commits,
            syncs: stats.syncs,
            events: stats.events,
            bytes_written: stats.bytes_written,
            journal_segments: stats.journal_segments,
            generations: stats.generations,
            disk_bytes: stats.disk_bytes,
            disk_max_bytes: config.node.disk_max.bytes(),
            quarantined: stats.quarantined,
            mailbox_bytes: stats.mailbox_bytes,
            mailboxes_max_bytes: config.store_spec().mailboxes_max_bytes,
            short_of_room: stats.short_of_room,
        }
    }

    fn stream(&self, current: &Current, stream: &Stream) -> StreamStatus {
        let id = current.slots.stream(stream.name.as_str());
        let named = current.config.readers(stream, &current.slots);
        let nobody = stream.uplinks.is_empty().then_some(UplinkId::NONE);
        let leaving = current.draining.iter().filter(|c| Some(c.stream) == id).map(|c| c.uplink);
        let backlog = |uplink: UplinkId| {
            let backlog =
                id.map(|stream| self.store.backlog(Consumer { stream, uplink })).unwrap_or_default();
            let oldest_s = backlog.oldest.and_then(|at| self.age_s(at));
            let uplink = current.slots.uplink_name(uplink).map(str::to_owned);
            BacklogStatus { uplink, events: backlog.events, bytes: backlog.bytes, oldest_s }
        };
        StreamStatus {
            name: stream.name.to_string(),
            class: stream.class.as_str().to_owned(),
            when_full: stream.when_full.as_str().to_owned(),
            max_bytes: stream.max_bytes.bytes(),
            backlogs: named.into_iter().chain(nobody).chain(leaving).map(backlog).collect(),
        }
    }

    fn uplink(&self, current: &Current, view: &UplinkView, ledger: &[LedgerLine]) -> UplinkStatus {
        let live = view.handle.status();
        let config = &view.config;
        let configured = config.address(live.address_index);
        let stays = current.config.uplinks.iter().any(|uplink| uplink.name == config.name);
        UplinkStatus {
            name: live.name.to_string(),
            kind: config.kind.as_str().to_owned(),
            draining: !stays,
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
            dropped: dropped(view.id, ledger),
            cause: live.cause.map(|cause| cause.to_string()),
            connections: live.counters.connections,
            sent: live.counters.sent,
            sent_again: live.counters.again,
            refused_for_now: live.counters.retries,
            refused_for_good: live.counters.rejected,
            last_refusal: live.last_refusal.map(|words| words.to_string()),
            down_received: live.downward_received,
            down_dropped: live.downward_dropped,
            adapter: (*view.figures)(),
        }
    }

    /// Unknown while the clock is unset, or was when the event came.
    fn age_s(&self, at: Timestamp) -> Option<f64> {
        let now = self.clock.now();
        (at.is_plausible() && now.is_plausible()).then(|| seconds(at.until(now)))
    }
}

fn loss(slots: &Slots, line: &LedgerLine) -> LossStatus {
    let named = |name: Option<&str>| name.map(str::to_owned);
    LossStatus {
        stream: line.consumer.and_then(|c| named(slots.stream_name(c.stream))),
        uplink: line.consumer.and_then(|c| named(slots.uplink_name(c.uplink))),
        reason: line.reason.as_str().to_owned(),
        events: line.events,
        bytes: line.bytes,
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
        ..IngressStatus::default()
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
