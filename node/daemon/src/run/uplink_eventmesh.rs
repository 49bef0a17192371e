//! An EventMesh uplink from its section.

use super::uplinks::{AdapterFigures, DOWNWARD_MAX, addresses, credentials, tls};
use anyhow::Context;
use eventmesh_edge_config::{Config, ConsumeMode, EventMesh, Uplink};
use eventmesh_edge_core::ports::uplink::Uplink as UplinkPort;
use eventmesh_edge_runtime::floor::TimeFloor;
use eventmesh_edge_uplink_eventmesh::{self as eventmesh, EventMeshUplink};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The runtime's gRPC port as shipped.
const GRPC_PORT: u16 = 10_205;

/// The adapter, and what it counts.
pub(super) fn adapter(
    config: &Config,
    uplink: &Uplink,
    floor: &Arc<TimeFloor>,
) -> anyhow::Result<(Box<dyn UplinkPort>, AdapterFigures)> {
    let section = uplink.eventmesh.as_ref().context("kind = \"eventmesh\" without its keys")?;
    let floor = Arc::clone(floor);
    let time: eventmesh::CertificateTime = Arc::new(move || floor.now());
    let options = options(config, uplink, section)?;
    let adapter = EventMeshUplink::new(eventmesh::Options { certificate_time: Some(time), ..options })?;
    let counters = adapter.counters();
    Ok((Box::new(adapter), Box::new(move || figures(counters.read()))))
}

fn options(config: &Config, uplink: &Uplink, section: &EventMesh) -> anyhow::Result<eventmesh::Options> {
    let addresses = addresses(uplink, GRPC_PORT);
    let defaults = eventmesh::Options::new(config.node.name.to_string(), uplink.name.to_string(), addresses);
    let claimed = eventmesh::Claimed::of(&defaults.node, &defaults.name);
    Ok(eventmesh::Options {
        tls: uplink.tls.as_ref().map(tls),
        credentials: uplink.credentials.as_ref().map(credentials).transpose()?,
        allow_plaintext_credentials: section.allow_plaintext_credentials,
        env: section.env.clone(),
        idc: section.idc.clone(),
        sys: section.sys.clone(),
        claimed: Some(eventmesh::Claimed {
            ip: section.ip.clone().unwrap_or(claimed.ip),
            pid: section.pid.unwrap_or(claimed.pid),
        }),
        producer_group: section.producer_group.clone(),
        topic: section.topic.clone(),
        ttl: section.ttl,
        message_max_bytes: section.message_max.as_usize(),
        window_max: uplink.window_events as usize,
        answer_timeout: uplink.answer_timeout,
        keep_alive: uplink.keep_alive,
        return_after: section.return_interval,
        down: down(uplink, section, &defaults.down),
        ..defaults
    })
}

fn down(uplink: &Uplink, section: &EventMesh, defaults: &eventmesh::Down) -> eventmesh::Down {
    eventmesh::Down {
        topics: section.subscribe.clone(),
        group: section.consumer_group.clone().unwrap_or_else(|| defaults.group.clone()),
        mode: match section.consume_mode {
            ConsumeMode::Clustering => eventmesh::ConsumeMode::Clustering,
            ConsumeMode::Broadcasting => eventmesh::ConsumeMode::Broadcasting,
        },
        strip_prefix: uplink.subscribe_strip.clone(),
        add_prefix: uplink.subscribe_prefix.clone(),
        receipts: section.receipts.clone(),
        heartbeat: section.heartbeat,
        unconfirmed_max: usize::from(DOWNWARD_MAX),
    }
}

fn figures(counts: eventmesh::Counts) -> BTreeMap<String, u64> {
    let figures = [
        ("unmappable_refused", counts.unmappable_refused),
        ("events_refused", counts.events_refused),
        ("events_held", counts.events_held),
        ("overloads", counts.overloads),
        ("unanswered", counts.unanswered),
        ("loops_dropped", counts.loops_dropped),
        ("duplicates_dropped", counts.duplicates_dropped),
        ("unroutable_dropped", counts.unroutable_dropped),
        ("subscriptions_refused", counts.subscriptions_refused),
        ("resubscribed", counts.resubscribed),
        ("receipts_sent", counts.receipts_sent),
        ("receipts_dropped", counts.receipts_dropped),
    ];
    figures.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}
