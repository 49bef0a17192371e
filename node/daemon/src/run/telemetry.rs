//! The node's own events: from the configuration, and from what the admin API sees.

use super::observe::{Observer, UplinkView};
use super::store;
use crate::system;
use eventmesh_edge_admin::{LossStatus, StatusSource, UplinkState, UplinkStatus};
use eventmesh_edge_config::NODE_STREAM;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::store::LossReason;
use eventmesh_edge_core::telemetry::{Link, LossTotal, Options, UplinkVitals, Vitals};
use eventmesh_edge_runtime::forward::LinkState;
use eventmesh_edge_runtime::telemetry::{Reader, Reporter, VitalSigns};
use std::sync::Arc;

/// Who tells them; `None` if nobody would hear them.
pub(super) fn reporter(observer: &Arc<Observer>, opened: &store::Store) -> Option<Reporter> {
    let current = observer.current();
    let config = &current.config;
    let stream = current.slots.stream(NODE_STREAM)?;
    let signs = Arc::new(Signs(Arc::clone(observer)));
    let options = Options {
        node: Text::from(config.node.name.to_string()),
        log: opened.port.log_id(),
        epoch: opened.port.stats().epoch,
        version: Text::from_static(env!("CARGO_PKG_VERSION")),
        heartbeat: config.telemetry.heartbeat,
        stream: Text::from_static(NODE_STREAM),
        uplinks: signs.readers().into_iter().map(|reader| reader.uplink).collect(),
        previous_stop: opened.previous_stop,
        cut_bytes: opened.cut_bytes,
        quarantined_files: opened.quarantined_files,
    };
    let (store, clock) = (Arc::clone(&opened.port), Arc::clone(&observer.clock));
    Some(Reporter::new(options, stream, store, clock, signs))
}

struct Signs(Arc<Observer>);

impl VitalSigns for Signs {
    fn readers(&self) -> Vec<Reader> {
        let current = self.0.current();
        let reader = |view: &UplinkView| {
            let live = view.handle.status();
            let link = Link {
                up: live.state == LinkState::Up,
                connections: live.counters.connections,
                address: live.address,
                cause: live.cause,
            };
            Reader { id: view.id, uplink: live.name, link }
        };
        let reads = current.readers_of(NODE_STREAM);
        current.uplinks.iter().filter(|view| reads.contains(&view.id)).map(reader).collect()
    }

    fn vitals(&self) -> Vitals {
        let status = self.0.status();
        let most = status.uplinks.iter().max_by_key(|uplink| uplink.backlog_bytes);
        let oldest_s = status.uplinks.iter().filter_map(|uplink| uplink.oldest_s).fold(None, longest);
        Vitals {
            uptime_s: whole(status.node.uptime_s),
            rss_bytes: system::resident_bytes(),
            disk_bytes: status.store.disk_bytes,
            disk_max_bytes: status.store.disk_max_bytes,
            clients_connected: status.sessions.connected,
            sessions: status.sessions.persistent,
            accepted_events: status.store.events,
            backlog_events: most.map_or(0, |uplink| uplink.backlog_events),
            backlog_bytes: most.map_or(0, |uplink| uplink.backlog_bytes),
            oldest_age_s: oldest_s.map(whole),
            uplinks: status.uplinks.iter().map(uplink).collect(),
            losses: status.losses.iter().filter_map(loss).collect(),
            ..Vitals::default()
        }
    }
}

fn uplink(status: &UplinkStatus) -> UplinkVitals {
    UplinkVitals {
        uplink: Text::from(status.name.clone()),
        state: match status.state {
            UplinkState::Up => "up",
            UplinkState::Connecting => "connecting",
            UplinkState::Down | UplinkState::Stopped => "down",
        },
        since_s: whole(status.since_s),
        cause: status.cause.clone().map(Text::from),
        backlog_events: status.backlog_events,
        backlog_bytes: status.backlog_bytes,
        oldest_age_s: status.oldest_s.map(whole),
        acked_events: status.acked,
        acked_per_s: status.rate_per_s,
        in_flight_events: status.in_flight,
    }
}

fn loss(status: &LossStatus) -> Option<LossTotal> {
    let reason =
        LossReason::ALL.into_iter().map(LossReason::as_str).find(|reason| *reason == status.reason)?;
    Some(LossTotal {
        stream: status.stream.clone().map(Text::from),
        uplink: status.uplink.clone().map(Text::from),
        reason,
        events: status.events,
        bytes: status.bytes,
    })
}

fn longest(most: Option<f64>, one: f64) -> Option<f64> {
    Some(most.map_or(one, |most| most.max(one)))
}

/// Seconds without their fraction.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float saturates; nobody waits for so long"
)]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
