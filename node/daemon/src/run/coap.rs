//! CoAP listeners from their sections.

use super::observe::ListenerView;
use super::stage::Stage;
use anyhow::Context;
use bytes::Bytes;
use eventmesh_edge_admin::IngressStatus;
use eventmesh_edge_config::{Auth, Config, Listener, ListenerKind};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::Hub;
use eventmesh_edge_core::ports::store::{ReadError, Store, Table};
use eventmesh_edge_ingress_coap::{self as coap, ListenerOptions, ServiceOptions};
use std::sync::Arc;
use std::time::Duration;
use tracing::error;

/// Bound listeners; devices are served once they are spawned.
#[derive(Default)]
pub(super) struct Listeners(Vec<(Listener, coap::Listener)>);

impl Listeners {
    pub(super) fn bind(
        config: &Config,
        hub: &Arc<dyn Hub>,
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Listeners> {
        let kept = kept(store).context("load CoAP devices and observers")?;
        let bind = |(index, listener): (usize, &Listener)| {
            let bound = coap::bind(options(config, listener), Arc::clone(hub), Arc::clone(clock), &kept);
            Ok((listener.clone(), bound.with_context(|| format!("listener[{index}]"))?))
        };
        let all = config.listeners.iter().enumerate();
        let bound = all.filter(|(_, listener)| listener.kind == ListenerKind::Coap).map(bind);
        bound.collect::<anyhow::Result<_>>().map(Listeners)
    }

    /// The real addresses, as URLs.
    pub(super) fn urls(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(_, bound)| format!("coap://{}", bound.local_addr()))
    }

    pub(super) fn views(&self) -> impl Iterator<Item = ListenerView> {
        self.0.iter().map(|(config, bound)| {
            let stats = bound.stats();
            let figures = bound.stats();
            ListenerView {
                config: config.clone(),
                address: bound.local_addr(),
                connected: Box::new(move || usize::try_from(stats.snapshot().peers).unwrap_or(usize::MAX)),
                figures: Some(Box::new(move || ingress(&figures.snapshot()))),
            }
        })
    }

    pub(super) fn spawn(self, stage: &mut Stage) {
        for (_, listener) in self.0 {
            let address = listener.local_addr();
            stage.spawn(|stop| async move {
                if let Err(error) = listener.run(stop).await {
                    error!(%address, %error, "listener ended");
                }
            });
        }
    }
}

/// What came in, as `status` has it.
fn ingress(all: &coap::StatsSnapshot) -> IngressStatus {
    let counted = [
        ("devices known", all.peers),
        ("observations", all.observations),
        ("mailboxes", all.mailboxes),
        ("duplicates", all.duplicates),
        ("sent again", all.retransmissions),
        ("requests refused for want of room", all.overloaded),
        ("answers held back from addresses not proved", all.curbed),
        ("devices forgotten early", all.peers_evicted),
        ("answered requests forgotten early", all.history_cut),
        ("bodies given up before they were complete", all.uploads_evicted),
        ("datagrams not sent", all.unsent),
        ("not stored", all.failed),
    ];
    IngressStatus {
        kind: "coap".to_owned(),
        bad_packets: all.malformed,
        packets_in: all.datagrams_in,
        bytes_in: all.bytes_in,
        bytes_out: all.bytes_out,
        published: all.published,
        refused_full: all.refused_full,
        delivered: all.notified,
        counted: counted.into_iter().map(|(what, n)| (what.to_owned(), n)).collect(),
        ..IngressStatus::default()
    }
}

/// Rows read at a time.
const PAGE: usize = 256;

fn kept(store: &Arc<dyn Store>) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
    let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = rows.last().map(|(key, _)| key.clone());
        let page = store.scan(Table::Node, coap::records::PREFIX, after.as_deref(), PAGE)?;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
}

/// A device that sleeps has no mailbox if it may not sleep for at least so long.
const MAILBOX_EXPIRY_MIN: Duration = Duration::from_secs(3_600);
/// Part of the time for a graceful stop in which requests at the store are answered.
const LISTENERS_OF_STOP: f64 = 0.2;

fn options(config: &Config, listener: &Listener) -> ListenerOptions {
    let mut params = coap::Params::default();
    params.peers_max = listener.max_connections as usize;
    params.body_max_bytes = listener.max_payload.as_usize();
    // Room for a few of the largest bodies at a time, in any case.
    params.uploads_max_bytes = params.uploads_max_bytes.max(4 * params.body_max_bytes);
    params.observations_max = listener.subscriptions_max as usize;
    ListenerOptions {
        bind: listener.bind,
        multicast: listener.multicast.clone(),
        service: ServiceOptions {
            node: Text::from(config.node.name.to_string()),
            anonymous_apart: config.listeners.iter().any(|other| other.auth != Auth::Anonymous),
            mailboxes_max: config.session.sessions_max as usize,
            mailbox_expiry: config.session.expiry_max.max(MAILBOX_EXPIRY_MIN),
            params,
        },
        queue_events: listener.queue_events as usize,
        stop_timeout: stop_timeout(config.node.stop_timeout),
    }
}

fn stop_timeout(whole: Duration) -> Duration {
    whole.mul_f64(LISTENERS_OF_STOP)
}
