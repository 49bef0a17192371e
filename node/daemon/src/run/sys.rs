//! `$SYS`: from the configuration, and from what everybody counts.

use super::observe::Observer;
use super::stage::Stage;
use crate::system;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::telemetry::SysFigures;
use eventmesh_edge_runtime::sys::{self, SysSource};
use std::sync::Arc;
use std::time::Duration;

/// Publishes the figures, if there is an interval to do it at.
pub(super) fn spawn(observer: &Arc<Observer>, stage: &mut Stage) {
    let every = observer.current().config.node.sys_interval;
    if every == Duration::ZERO {
        return;
    }
    let node = Text::from(observer.current().config.node.name.to_string());
    let hub = Arc::clone(&observer.hub) as Arc<dyn Hub>;
    let clock = Arc::clone(&observer.clock);
    let figures: Arc<dyn SysSource> = Arc::new(Figures(Arc::clone(observer)));
    stage.spawn(|stop| sys::publish(node, every, hub, clock, figures, stop));
}

struct Figures(Arc<Observer>);

impl SysSource for Figures {
    fn figures(&self) -> SysFigures {
        let Observer { hub, ingress, clock, started, .. } = &*self.0;
        let (stats, hub_stats) = (ingress.snapshot(), hub.stats());
        let (stored_messages, stored_bytes) = hub.mailboxes();
        let figure = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        SysFigures {
            version: Text::from_static(env!("CARGO_PKG_VERSION")),
            uptime_s: clock.monotonic().saturating_sub(*started).as_secs(),
            clients_connected: stats.connections_open,
            clients_maximum: stats.connections_peak,
            // Whoever has no connection has a session that is kept.
            clients_disconnected: figure(hub_stats.subscribers.saturating_sub(hub_stats.connected)),
            clients_expired: stats.sessions_expired,
            messages_received: stats.packets_in,
            publish_received: stats.published,
            publish_sent: stats.delivered,
            publish_dropped: hub_stats.slow_subscriber_losses
                + stats.too_large_for_client
                + stats.not_allowed,
            bytes_received: stats.bytes_in,
            bytes_sent: stats.bytes_out,
            subscriptions: figure(hub_stats.subscriptions),
            retained: figure(hub_stats.retained.topics),
            stored_messages,
            stored_bytes,
            heap_bytes: system::resident_bytes().unwrap_or_default(),
        }
    }
}
