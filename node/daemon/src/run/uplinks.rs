//! Uplinks from their sections.

use super::observe::UplinkView;
use anyhow::Context;
use eventmesh_edge_config::{
    Config, Endpoint, Mode, NODE_STREAM, Password, Slots, Uplink, UplinkKind, UplinkTls,
};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Consumer, Store, UplinkId};
use eventmesh_edge_core::ports::uplink::Uplink as UplinkPort;
use eventmesh_edge_core::telemetry::Testament;
use eventmesh_edge_runtime::floor::TimeFloor;
use eventmesh_edge_runtime::forward::{Forward, KindOf, Options, Stream};
use eventmesh_edge_runtime::hub::NodeHub;
use eventmesh_edge_runtime::routes::LiveRouter;
use eventmesh_edge_uplink_mqtt::{self as mqtt, MqttUplink};
use eventmesh_edge_uplink_net as net;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The ports registered for MQTT and for MQTT over TLS (IANA).
const MQTT_PORT: u16 = 1883;
const MQTT_TLS_PORT: u16 = 8883;

/// What every forwarder needs.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<NodeHub>,
    pub(super) routes: Arc<LiveRouter>,
    /// What certificates are checked against.
    pub(super) floor: Arc<TimeFloor>,
}

/// What an adapter counts by itself, by its names, for `status`.
pub(super) type AdapterFigures = Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>;

/// An uplink, ready to run.
pub(super) struct Built {
    pub(super) forward: Forward,
    pub(super) view: UplinkView,
}

/// What is connected to an upstream, and what it counts.
pub(super) type Adapter = (Box<dyn UplinkPort>, AdapterFigures);

/// One forwarder per `[[uplink]]`, ready to run.
pub(super) fn build(config: &Config, slots: &Slots, parts: &Parts) -> anyhow::Result<Vec<Built>> {
    let one = |uplink: &Uplink| {
        let built = adapter(config, uplink, parts);
        // Nothing is drained at a start: what was left of a drain has been settled by the store.
        let built = built.and_then(|adapter| forward(config, slots, &[], uplink, parts, adapter));
        built.with_context(|| format!("uplink \"{}\"", uplink.name))
    };
    config.uplinks.iter().map(one).collect()
}

/// The forwarder of one uplink, from where its cursors stand now: of the streams that it reads by the configuration, and of
/// those that it only has to finish (`draining`).
pub(super) fn forward(
    config: &Config,
    slots: &Slots,
    draining: &[Consumer],
    uplink: &Uplink,
    parts: &Parts,
    (adapter, figures): Adapter,
) -> anyhow::Result<Built> {
    let id = slots.uplink(uplink.name.as_str()).context("an uplink without a number")?;
    // The log id was drawn at random, so a fleet that lost its upstream at once does not come back at once.
    let seed = u64::from(parts.store.log_id().0) << 16 | u64::from(id.0);
    let routes = Arc::clone(&parts.routes);
    let kind: KindOf = Arc::new(move |_, stored| routes.kind_for(&stored.event.topic, stored.event.via));
    let options = options(config, (slots, draining), uplink, id, seed, kind);
    let downward = parts.hub.downward(uplink.name.as_str());
    let (store, clock) = (Arc::clone(&parts.store), Arc::clone(&parts.clock));
    let forward = Forward::new(options, store, adapter, clock, downward)?;
    let view =
        UplinkView { config: uplink.clone(), id, handle: forward.handle(), figures: Arc::new(figures) };
    Ok(Built { forward, view })
}

fn options(
    config: &Config,
    (slots, draining): (&Slots, &[Consumer]),
    uplink: &Uplink,
    id: UplinkId,
    seed: u64,
    kind: KindOf,
) -> Options {
    let drains = |stream: &eventmesh_edge_config::Stream| {
        let stream = slots.stream(stream.name.as_str());
        draining.iter().any(|consumer| consumer.uplink == id && Some(consumer.stream) == stream)
    };
    let is_for = |stream: &&eventmesh_edge_config::Stream| {
        config.readers(stream, slots).contains(&id) || drains(stream)
    };
    let reads = config.streams.iter().filter(is_for);
    let stream = |stream: &eventmesh_edge_config::Stream| {
        Some(Stream {
            id: slots.stream(stream.name.as_str())?,
            name: Text::from(stream.name.to_string()),
            max_age: stream.max_age,
            weight: 1,
        })
    };
    Options {
        rules: uplink.forward_options(id, seed),
        streams: reads.filter_map(stream).collect(),
        downward_max: usize::from(DOWNWARD_MAX),
        stop_limit: config.node.stop_timeout.mul_f64(UPLINKS_OF_STOP),
        ..Options::new(Text::from(uplink.name.to_string()), id, kind)
    }
}

/// Messages on their way down that are not durable yet. The upstream is told the same number (Receive Maximum): one more
/// would find no room and wait, unconfirmed, for the next connection. More than the 100 that rumqttd sends whatever it is
/// told.
pub(super) const DOWNWARD_MAX: u16 = 128;

/// Part of the time for a graceful stop that the uplinks get.
const UPLINKS_OF_STOP: f64 = 0.5;

/// The adapter of one uplink, not connected yet. Its errors leave everything as it is.
pub(super) fn adapter(config: &Config, uplink: &Uplink, parts: &Parts) -> anyhow::Result<Adapter> {
    match uplink.kind {
        UplinkKind::Mqtt => {
            let testament = testament(config, uplink, &parts.store);
            let floor = Arc::clone(&parts.floor);
            let time: net::CertificateTime = Arc::new(move || floor.now());
            let options =
                mqtt::Options { testament, certificate_time: Some(time), ..mqtt_options(config, uplink)? };
            let adapter = MqttUplink::new(options)?;
            let counters = adapter.counters();
            Ok((Box::new(adapter), Box::new(move || mqtt_figures(counters.read()))))
        }
        #[cfg(feature = "http")]
        UplinkKind::Http => super::uplink_http::adapter(uplink, &parts.floor),
        #[cfg(not(feature = "http"))]
        UplinkKind::Http => anyhow::bail!("this program was built without kind = \"http\" (feature `http`)"),
        #[cfg(feature = "eventmesh")]
        UplinkKind::EventMesh => super::uplink_eventmesh::adapter(config, uplink, &parts.floor),
        #[cfg(not(feature = "eventmesh"))]
        UplinkKind::EventMesh => {
            anyhow::bail!("this program was built without kind = \"eventmesh\" (feature `eventmesh`)")
        }
    }
}

fn mqtt_figures(counts: mqtt::Counts) -> BTreeMap<String, u64> {
    let figures = [
        ("unknown_acks", counts.unknown_acks),
        ("loops_dropped", counts.loops_dropped),
        ("duplicates_dropped", counts.duplicates_dropped),
        ("unroutable_dropped", counts.unroutable_dropped),
        ("subscriptions_refused", counts.subscriptions_refused),
    ];
    figures.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

/// The death event, for an uplink that carries the node's own events.
fn testament(config: &Config, uplink: &Uplink, store: &Arc<dyn Store>) -> Option<Testament> {
    let index = config.uplinks.iter().position(|other| other.name == uplink.name)?;
    let carries = config.streams.iter().find(|stream| stream.name.as_str() == NODE_STREAM)?;
    carries.uplinks.contains(&index).then(|| {
        let (node, name) = (config.node.name.as_str(), Text::from(uplink.name.to_string()));
        Testament::new(node, store.log_id(), store.stats().epoch, name, config.telemetry.heartbeat)
    })
}

fn mqtt_options(config: &Config, uplink: &Uplink) -> anyhow::Result<mqtt::Options> {
    let default_port = if uplink.tls.is_some() { MQTT_TLS_PORT } else { MQTT_PORT };
    let subscription = |filter: &eventmesh_edge_core::topic::TopicFilter| mqtt::Subscription {
        strip_prefix: uplink.subscribe_strip.clone(),
        add_prefix: uplink.subscribe_prefix.clone(),
        ..mqtt::Subscription::new(filter.clone())
    };
    let node = config.node.name.to_string();
    Ok(mqtt::Options {
        client_id: uplink.client_id.clone(),
        credentials: uplink.credentials.as_ref().map(credentials).transpose()?,
        tls: uplink.tls.as_ref().map(tls),
        keep_alive: Duration::from_secs(uplink.keep_alive.as_secs()),
        mode: match uplink.mode {
            Mode::Binary => mqtt::Mode::Binary,
            Mode::Structured => mqtt::Mode::Structured,
        },
        topic: uplink.topic.clone(),
        subscriptions: uplink.subscribe.iter().map(subscription).collect(),
        session_expiry: uplink.session_expiry,
        window_max: u16::try_from(uplink.window_events).unwrap_or(u16::MAX),
        unconfirmed_max: DOWNWARD_MAX,
        ..mqtt::Options::new(node, addresses(uplink, default_port))
    })
}

/// Where an uplink's upstream listens.
pub(super) fn addresses(uplink: &Uplink, default_port: u16) -> Vec<net::Address> {
    let one = |e: &Endpoint| net::Address { host: e.host.clone(), port: e.port.unwrap_or(default_port) };
    uplink.addresses.iter().map(one).collect()
}

/// An uplink's `tls` section, for its adapter.
pub(super) fn tls(tls: &UplinkTls) -> net::TlsOptions {
    let identity = |files: &eventmesh_edge_config::TlsIdentity| net::TlsIdentity {
        cert: files.cert.clone(),
        key: files.key.clone(),
    };
    net::TlsOptions {
        ca_file: tls.ca.clone(),
        identity: tls.identity.as_ref().map(identity),
        server_name: tls.server_name.clone(),
    }
}

/// An uplink's user name and password, the password read from its file if it lies in one.
pub(super) fn credentials(
    credentials: &eventmesh_edge_config::Credentials,
) -> anyhow::Result<net::Credentials> {
    let password = match &credentials.password {
        None => None,
        Some(Password::Inline(secret)) => Some(secret.expose().to_owned()),
        Some(Password::File(path)) => Some(first_line(path)?),
    };
    let password_file = match &credentials.password {
        Some(Password::File(path)) => Some(path.clone()),
        _ => None,
    };
    Ok(net::Credentials {
        username: credentials.username.clone(),
        password: password.map(net::Secret::new),
        password_file,
    })
}

/// The first line of a password file: editors add a newline that is not meant.
fn first_line(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("read password_file {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "password_file {} has an empty first line", path.display());
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventmesh_edge_config::Overrides;
    use std::collections::BTreeMap;

    #[test]
    fn the_upstream_is_told_how_many_messages_may_be_on_their_way_down() {
        let file = "[[uplink]]\nname = \"cloud\"\nkind = \"mqtt\"\naddresses = [\"localhost\"]\n";
        let config = Config::parse(file, "node.toml", &BTreeMap::new(), &Overrides::default());
        let config = config.unwrap();
        let uplink = config.uplinks.first().unwrap();
        let told = mqtt_options(&config, uplink).unwrap().unconfirmed_max;
        let kind: KindOf = Arc::new(|_, _| Text::new());
        let taken = options(&config, (&Slots::of(&config), &[]), uplink, UplinkId(0), 1, kind).downward_max;
        assert_eq!(usize::from(told), taken);
    }

    /// A drain goes on with whatever forwarder the uplink has: one that did not read the stream would never end it.
    #[test]
    fn a_new_forwarder_goes_on_with_what_is_being_drained() {
        let file = "[[stream]]\nname = \"alarms\"\n[[route]]\ntopics = [\"alarm/#\"]\nstream = \"alarms\"\nuplinks = [\"site\"]\n\
            [[uplink]]\nname = \"cloud\"\nkind = \"mqtt\"\naddresses = [\"localhost\"]\n\
            [[uplink]]\nname = \"site\"\nkind = \"mqtt\"\naddresses = [\"localhost\"]\n";
        let config = Config::parse(file, "node.toml", &BTreeMap::new(), &Overrides::default()).unwrap();
        let slots = Slots::of(&config);
        let (cloud, alarms) = (slots.uplink("cloud").unwrap(), slots.stream("alarms").unwrap());
        let reads = |draining: &[Consumer]| {
            let kind: KindOf = Arc::new(|_, _| Text::new());
            let uplink = config.uplinks.first().unwrap();
            let options = options(&config, (&slots, draining), uplink, cloud, 1, kind);
            options.streams.iter().map(|stream| stream.id).collect::<Vec<_>>()
        };
        let of_others = Consumer { stream: alarms, uplink: slots.uplink("site").unwrap() };
        assert!(!reads(&[of_others]).contains(&alarms));
        assert!(reads(&[Consumer { stream: alarms, uplink: cloud }]).contains(&alarms));
    }
}
