//! `[[uplink]]` with `kind = "eventmesh"`: its own keys, beside those that every uplink has.

use crate::model::{Credentials, Mode, Order, UplinkKind};
use crate::read::Section;
use crate::sections::{RawUplink, addresses, credentials, timing, topic_prefix, uplink_tls};
use crate::setting::words;
use crate::units::ByteSize;
use std::net::IpAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// What the runtime takes, envelope included.
const MESSAGE_MAX: ByteSize = ByteSize::from_mib(4);

words! {
    /// Which members of a consumer group get an event.
    pub enum ConsumeMode {
        /// One of them.
        Clustering = "clustering",
        /// Each of them.
        Broadcasting = "broadcasting",
    }
    later: []
}

/// What only an uplink to EventMesh has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMesh {
    /// EventMesh topic that events are published to; `{topic}`, `{type}` and `{node}` stand for an event's own.
    pub topic: String,
    /// EventMesh environment.
    pub env: String,
    /// EventMesh data centre.
    pub idc: String,
    /// EventMesh subsystem.
    pub sys: String,
    /// Producer group.
    pub producer_group: String,
    /// Claimed address; `None`: made of the names of node and uplink, as `pid`.
    pub ip: Option<String>,
    /// Claimed process number.
    pub pid: Option<u32>,
    /// `ttl` of events.
    pub ttl: Duration,
    /// Largest message.
    pub message_max: ByteSize,
    /// How often a better address is looked for.
    pub return_interval: Duration,
    /// Every consumer of an event may see user name and password.
    pub allow_plaintext_credentials: bool,
    /// EventMesh topics that are subscribed.
    pub subscribe: Vec<String>,
    /// Consumer group; `None`: `edge-<node>`.
    pub consumer_group: Option<String>,
    /// Which members of the group get an event.
    pub consume_mode: ConsumeMode,
    /// How often the runtime is told that we are still there.
    pub heartbeat: Duration,
    /// EventMesh topic of receipts; `None`: no receipts.
    pub receipts: Option<String>,
}

/// Reads the section; `kind` was read already.
pub(crate) fn uplink(s: &mut Section<'_, '_>) -> RawUplink {
    let credentials = credentials(s);
    let eventmesh = eventmesh(s);
    plaintext(s, credentials.as_ref(), &eventmesh);
    RawUplink {
        name: s.required("name"),
        kind: UplinkKind::EventMesh,
        addresses: addresses(s),
        tls: s.optional_table("tls", uplink_tls),
        credentials,
        // The runtime reorders whatever is in flight together.
        order: s.value("order", Order::Sequence),
        // As much as a pipe of 60,000 events a second and 100 ms asks for, and as much again; a shorter one uses less.
        window_events: s.bounded("window_events", 16_384, 1..=65_535),
        window_bytes: s.bounded(
            "window_bytes",
            ByteSize::from_mib(6),
            ByteSize::from_kib(1)..=ByteSize::from_gib(1),
        ),
        keep_alive: s.bounded("keep_alive", 30 * SECOND, Duration::ZERO..=HOUR),
        subscribe_strip: s.value("subscribe_strip", String::new()),
        subscribe_prefix: topic_prefix(s),
        timing: timing(s, 60 * SECOND),
        eventmesh: Some(eventmesh),
        http: None,
        session_expiry: Duration::ZERO,
        client_id: None,
        mode: Mode::Binary,
        topic: String::new(),
        subscribe: Vec::new(),
    }
}

fn eventmesh(s: &mut Section<'_, '_>) -> EventMesh {
    EventMesh {
        topic: topic(s),
        env: word(s, "env", "prod"),
        idc: word(s, "idc", "default"),
        sys: word(s, "sys", "edge"),
        producer_group: word(s, "producer_group", "eventmesh-edge"),
        ip: ip(s),
        pid: s.optional("pid"),
        ttl: s.bounded("ttl", 4 * SECOND, Duration::from_millis(1)..=24 * HOUR),
        message_max: s.bounded("message_max", ByteSize::from_kib(3_800), ByteSize::from_kib(1)..=MESSAGE_MAX),
        return_interval: s.bounded("return_interval", 60 * SECOND, Duration::ZERO..=24 * HOUR),
        allow_plaintext_credentials: s.value("allow_plaintext_credentials", false),
        subscribe: subscribe(s),
        consumer_group: s.optional("consumer_group"),
        consume_mode: s.value("consume_mode", ConsumeMode::Clustering),
        // The runtime forgets a subscription after 60 s.
        heartbeat: s.bounded("heartbeat", 20 * SECOND, SECOND..=50 * SECOND),
        receipts: Some(s.value("receipts", "eventmesh-edge-receipts".to_owned())).filter(|t| !t.is_empty()),
    }
}

/// The runtime refuses events without it.
fn word(s: &mut Section<'_, '_>, key: &'static str, default: &str) -> String {
    let text = s.value(key, default.to_owned());
    if text.is_empty() {
        s.problem(key, "must not be empty, EventMesh refuses events without it");
    }
    text
}

fn topic(s: &mut Section<'_, '_>) -> String {
    let template = s.value("topic", "eventmesh-edge".to_owned());
    let literal =
        ["{topic}", "{type}", "{node}"].iter().fold(template.clone(), |text, name| text.replace(name, "x"));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._%|-".contains(&b);
    if literal.is_empty() || !literal.bytes().all(allowed) {
        s.problem(
            "topic",
            "must be made of A-Z a-z 0-9 . _ % | -, the storages behind EventMesh take nothing else; {topic}, {type} and {node} stand for \
             the device's topic, the event's type and the node's name",
        );
    }
    template
}

fn ip(s: &mut Section<'_, '_>) -> Option<String> {
    let ip = s.optional::<String>("ip");
    if ip.as_deref().is_some_and(|ip| ip.parse::<IpAddr>().is_err()) {
        s.problem(
            "ip",
            "must be an address such as \"10.0.0.7\"; it names this node, nothing connects to it",
        );
    }
    ip
}

fn subscribe(s: &mut Section<'_, '_>) -> Vec<String> {
    let topics = s.value("subscribe", Vec::<String>::new());
    if topics.iter().any(|topic| topic.is_empty() || topic.contains(['*', '+', '#'])) {
        s.problem("subscribe", "must list EventMesh topics, it has no wildcards");
    }
    topics
}

/// EventMesh shows the password of an event's publisher to whoever consumes it: an operator's decision.
fn plaintext(s: &mut Section<'_, '_>, credentials: Option<&Credentials>, eventmesh: &EventMesh) {
    let has_password = credentials.is_some_and(|c| c.password.is_some());
    if has_password && !eventmesh.allow_plaintext_credentials {
        let what = "must be true to send a password: EventMesh hands it to every consumer of an event, and without tls the network sees it";
        s.problem("allow_plaintext_credentials", what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Overrides, Uplink};
    use std::collections::BTreeMap;

    fn parse(keys: &str) -> Result<Uplink, String> {
        let text = format!("[[uplink]]\nname = \"cloud\"\nkind = \"eventmesh\"\n{keys}");
        let parsed = Config::parse(&text, "f", &BTreeMap::new(), &Overrides::default());
        parsed
            .map(|config| config.uplinks.into_iter().next().unwrap())
            .map_err(|problems| problems.to_string())
    }

    fn problem(keys: &str) -> String {
        parse(&format!("addresses = [\"em-1:10205\"]\n{keys}")).unwrap_err()
    }

    #[test]
    fn addresses_are_enough() {
        let uplink = parse("addresses = [\"em-1:10205\", \"em-2\"]").unwrap();
        assert_eq!(
            (uplink.kind, uplink.order, uplink.window_events),
            (UplinkKind::EventMesh, Order::Sequence, 16_384)
        );
        let eventmesh = uplink.eventmesh.unwrap();
        assert_eq!((eventmesh.topic.as_str(), eventmesh.subscribe.len()), ("eventmesh-edge", 0));
    }

    #[test]
    fn each_mistake_is_named() {
        for (keys, what) in [
            ("topic = \"a/b\"", "topic"),
            ("topic = \"{what}\"", "topic"),
            ("env = \"\"", "env"),
            ("ip = \"em-1\"", "ip"),
            ("subscribe = [\"a/#\"]", "no wildcards"),
            ("heartbeat = \"2 min\"", "heartbeat"),
            ("message_max = \"5 MiB\"", "message_max"),
            ("client_id = \"x\"", "unknown key"),
            ("username = \"u\"\npassword = \"hunter2\"", "every consumer"),
        ] {
            let problem = problem(keys);
            assert!(problem.contains(what) && problem.lines().count() == 1, "{keys}: {problem}");
            assert!(!problem.contains("hunter2"), "P7");
        }
    }

    #[test]
    fn a_password_that_was_meant_is_taken() {
        let keys =
            "addresses = [\"a\"]\nusername = \"u\"\npassword = \"p\"\nallow_plaintext_credentials = true";
        assert!(parse(keys).unwrap().credentials.is_some());
    }

    #[test]
    fn the_forwarder_knows_that_the_runtime_reorders() {
        use eventmesh_edge_core::forward::{Order, Pipeline};
        use eventmesh_edge_core::ports::store::UplinkId;
        let rules = |keys: &str| {
            parse(&format!("addresses = [\"a\"]\n{keys}")).unwrap().forward_options(UplinkId(0), 1)
        };
        assert_eq!((rules("").pipeline, rules("").order), (Pipeline::Unordered, Order::Sequence));
        let strict = rules("order = \"strict\"");
        assert_eq!(
            (strict.order, strict.read_ahead.events),
            (Order::Strict, strict.gap_max),
            "runs of one client"
        );
        assert!(rules("").read_ahead.events < strict.gap_max);
        assert_eq!(
            rules("answer_timeout = \"10 s\"").answer_timeout,
            30 * SECOND,
            "the adapter times each publish"
        );
    }
}
