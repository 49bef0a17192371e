//! One function per section: its keys, their defaults, their limits. The defaults fit a gateway with 256 MB of memory.

use crate::coap;
use crate::eventmesh::{self, EventMesh};
use crate::http::{self, Http};
use crate::model::{
    Admin, Auth, AuthKind, Class, Credentials, Listener, ListenerKind, ListenerTls, ListenerWhenFull, Log,
    LogFormat, LogLevel, Mode, Node, Order, Password, RedirectWhen, Session, StreamWhenFull, Telemetry,
    TlsIdentity, Unrouted, UplinkKind, UplinkTls,
};
use crate::read::Section;
use crate::setting::{Endpoint, Name, Secret};
use crate::units::ByteSize;
use eventmesh_edge_core::topic::TopicFilter;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The file as read: each value is right by itself, references are still names.
pub(crate) struct Raw {
    pub(crate) node: Node,
    pub(crate) log: Log,
    pub(crate) admin: Admin,
    pub(crate) session: Session,
    pub(crate) telemetry: Telemetry,
    /// `telemetry.uplinks`; `None` for all.
    pub(crate) telemetry_uplinks: Option<Vec<Name>>,
    pub(crate) listeners: Vec<RawListener>,
    pub(crate) streams: Vec<RawStream>,
    pub(crate) routes: Vec<RawRoute>,
    pub(crate) uplinks: Vec<RawUplink>,
}

/// `[[listener]]` as read.
#[derive(Clone)]
pub(crate) struct RawListener {
    pub(crate) listener: Listener,
    /// Index of the section that it comes from; `--listen` makes several of the first.
    pub(crate) section: usize,
    /// File or environment say who gets in, rightly or wrongly.
    pub(crate) auth_stated: bool,
}

/// `[[stream]]` as read. `name` is `None` if it was missing or wrong.
pub(crate) struct RawStream {
    pub(crate) name: Option<Name>,
    pub(crate) class: Class,
    pub(crate) max_bytes: Option<ByteSize>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) when_full: StreamWhenFull,
}

/// `[[route]]` as read.
pub(crate) struct RawRoute {
    pub(crate) topics: Vec<TopicFilter>,
    pub(crate) stream: Name,
    pub(crate) kind: Option<String>,
    pub(crate) uplinks: Option<Vec<Name>>,
}

/// `[[uplink]]` as read.
pub(crate) struct RawUplink {
    pub(crate) name: Option<Name>,
    pub(crate) kind: UplinkKind,
    pub(crate) http: Option<Http>,
    pub(crate) eventmesh: Option<EventMesh>,
    pub(crate) addresses: Vec<Endpoint>,
    pub(crate) tls: Option<UplinkTls>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) client_id: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) order: Order,
    pub(crate) topic: String,
    pub(crate) subscribe: Vec<TopicFilter>,
    pub(crate) subscribe_strip: String,
    pub(crate) subscribe_prefix: String,
    pub(crate) window_events: u32,
    pub(crate) window_bytes: ByteSize,
    /// Keep-alive of MQTT and of HTTP/2.
    pub(crate) keep_alive: Duration,
    /// MQTT Session Expiry Interval.
    pub(crate) session_expiry: Duration,
    pub(crate) timing: Timing,
}

/// The times of an uplink.
pub(crate) struct Timing {
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const SMALLEST_DISK: ByteSize = ByteSize::from_mib(64);
const LARGEST_DISK: ByteSize = ByteSize::from_gib(1 << 20);

pub(crate) fn root(file: &mut Section<'_, '_>) -> Raw {
    let node = file.table("node", node);
    let log = file.table("log", log);
    let admin = file.table("admin", |s| admin(s, &node));
    let (telemetry, telemetry_uplinks) = file.table("telemetry", telemetry);
    let mut listeners = file.list("listener", 1, listener);
    for (index, raw) in listeners.iter_mut().enumerate() {
        raw.section = index;
    }
    Raw {
        session: file.table("session", |s| session(s, &node)),
        telemetry,
        telemetry_uplinks,
        listeners,
        streams: file.list("stream", 0, stream),
        routes: file.list("route", 0, route),
        uplinks: file.list("uplink", 0, uplink),
        node,
        log,
        admin,
    }
}

fn node(s: &mut Section<'_, '_>) -> Node {
    Node {
        name: s.value("name", name("edge")),
        data_dir: s.value("data_dir", PathBuf::from("./data")),
        disk_max: s.bounded("disk_max", ByteSize::from_gib(1), SMALLEST_DISK..=LARGEST_DISK),
        unrouted: s.value("unrouted", Unrouted::Default),
        commit_delay: s.bounded("commit_delay", Duration::from_millis(5), Duration::ZERO..=SECOND),
        stop_timeout: s.bounded("stop_timeout", 10 * SECOND, Duration::ZERO..=HOUR),
        sys_interval: s.bounded("sys_interval", 10 * SECOND, Duration::ZERO..=DAY),
    }
}

fn log(s: &mut Section<'_, '_>) -> Log {
    Log { format: s.value("format", LogFormat::Text), level: s.value("level", LogLevel::Info) }
}

fn admin(s: &mut Section<'_, '_>, node: &Node) -> Admin {
    let socket = s.optional("socket").unwrap_or_else(|| node.data_dir.join(ADMIN_SOCKET));
    Admin { socket }
}

/// Name of the admin socket within the data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// A message for every session there may be is one record of the journal. Its segment is a 32nd of `disk_max` where that
/// is short, one half of it is for the message, and 16 bytes of the other for each session.
const DISK_PER_SESSION: u64 = 2 * 32 * 16;

/// `sessions_max`: the default is lower on a small disk.
fn sessions_max(s: &mut Section<'_, '_>, disk_max: ByteSize) -> u32 {
    let fitting = u32::try_from(disk_max.bytes() / DISK_PER_SESSION).unwrap_or(u32::MAX);
    let stated = s.bounded("sessions_max", 100_000, 0..=10_000_000);
    if stated > fitting && s.is_stated("sessions_max") {
        let needed = ByteSize::from_bytes(u64::from(stated) * DISK_PER_SESSION);
        s.problem(
            "sessions_max",
            format!("needs node.disk_max = \"{needed}\" or more, it is \"{disk_max}\""),
        );
    }
    stated.min(fitting)
}

fn session(s: &mut Section<'_, '_>, node: &Node) -> Session {
    Session {
        mailbox_max_bytes: s.bounded(
            "mailbox_max_bytes",
            ByteSize::from_mib(1),
            ByteSize::from_kib(1)..=LARGEST_DISK,
        ),
        mailbox_max_events: s.bounded("mailbox_max_events", 1_000, 1..=10_000_000),
        mailboxes_max_bytes: s.optional("mailboxes_max_bytes"),
        expiry_max: s.bounded("expiry_max", 7 * DAY, Duration::ZERO..=3_650 * DAY),
        sessions_max: sessions_max(s, node.disk_max),
        retained_max_bytes: s.bounded(
            "retained_max_bytes",
            ByteSize::from_mib(8),
            ByteSize::from_bytes(0)..=ByteSize::from_gib(1),
        ),
    }
}

fn telemetry(s: &mut Section<'_, '_>) -> (Telemetry, Option<Vec<Name>>) {
    let telemetry = Telemetry {
        enabled: s.value("enabled", true),
        heartbeat: s.bounded("heartbeat", 60 * SECOND, SECOND..=DAY),
        client_events: s.value("client_events", false),
    };
    (telemetry, s.optional("uplinks"))
}

fn listener(s: &mut Section<'_, '_>) -> RawListener {
    RawListener { section: 0, auth_stated: s.is_stated("auth"), listener: listener_keys(s) }
}

/// Which keys there are depends on the kind.
fn listener_keys(s: &mut Section<'_, '_>) -> Listener {
    match s.value("kind", ListenerKind::Mqtt) {
        ListenerKind::Mqtt => mqtt_listener(s),
        ListenerKind::Coap => coap::listener(s),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

pub(crate) fn max_payload(s: &mut Section<'_, '_>) -> ByteSize {
    let largest = ByteSize::from_mib(16);
    s.bounded("max_payload", ByteSize::from_kib(256), ByteSize::from_bytes(1)..=largest)
}

fn mqtt_listener(s: &mut Section<'_, '_>) -> Listener {
    Listener {
        kind: ListenerKind::Mqtt,
        bind: s.value("bind", loopback(1883)),
        auth: auth(s),
        tls: s.optional_table("tls", listener_tls).flatten(),
        max_connections: s.bounded("max_connections", 10_000, 1..=1_000_000),
        logins_at_once: s.bounded("logins_at_once", 2, 1..=64),
        max_payload: max_payload(s),
        keep_alive_max: keep_alive_max(s),
        connect_timeout: s.bounded("connect_timeout", 10 * SECOND, SECOND..=HOUR),
        when_full: s.value("when_full", ListenerWhenFull::Withhold),
        receive_maximum: s.bounded("receive_maximum", 1_024, 1..=65_535),
        send_window: s.bounded("send_window", 100, 1..=65_535),
        topic_alias_max: s.bounded("topic_alias_max", 16, 0..=65_535),
        subscriptions_max: s.bounded("subscriptions_max", 1_000, 1..=1_000_000),
        queue_events: s.bounded("queue_events", 1_000, 1..=1_000_000),
        queue_bytes: s.bounded(
            "queue_bytes",
            ByteSize::from_mib(1),
            ByteSize::from_kib(1)..=ByteSize::from_gib(1),
        ),
        redirect_to: s.optional("redirect_to"),
        redirect_when: s.value("redirect_when", RedirectWhen::Full),
        multicast: Vec::new(),
    }
}

fn keep_alive_max(s: &mut Section<'_, '_>) -> Option<Duration> {
    let longest = s.optional::<Duration>("keep_alive_max");
    // MQTT 5.0 section 3.2.2.3.14: two bytes of seconds.
    if longest.is_some_and(|time| !(1..=65_535).contains(&time.as_secs())) {
        s.problem("keep_alive_max", "must be between \"1 s\" and \"65535 s\"");
    }
    longest
}

fn auth(s: &mut Section<'_, '_>) -> Auth {
    let kind = s.value("auth", AuthKind::Anonymous);
    let file = s.optional::<PathBuf>("password_file");
    match (kind, file) {
        (AuthKind::Password, Some(file)) => Auth::Password { file },
        (AuthKind::Password, None) => {
            s.problem(
                "password_file",
                "missing, auth = \"password\" needs the file that `eventmesh-edge password` adds to",
            );
            Auth::Anonymous
        }
        (AuthKind::Anonymous, Some(_)) => {
            s.problem(
                "password_file",
                "would not be used with auth = \"anonymous\", write auth = \"password\" or remove it",
            );
            Auth::Anonymous
        }
        (AuthKind::Anonymous, None) => Auth::Anonymous,
    }
}

fn listener_tls(s: &mut Section<'_, '_>) -> Option<ListenerTls> {
    let client_ca = s.optional("client_ca");
    Some(ListenerTls { identity: identity(s, true)?, client_ca })
}

/// Certificate and key; `needed` says whether their table makes sense without them.
fn identity(s: &mut Section<'_, '_>, needed: bool) -> Option<TlsIdentity> {
    let (cert, key) = if needed {
        (s.required::<PathBuf>("cert"), s.required::<PathBuf>("key"))
    } else {
        (s.optional::<PathBuf>("cert"), s.optional::<PathBuf>("key"))
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsIdentity { cert, key }),
        (Some(_), None) if !needed => {
            s.problem("key", "missing, cert needs its private key");
            None
        }
        (None, Some(_)) if !needed => {
            s.problem("cert", "missing, key needs its certificate");
            None
        }
        _ => None,
    }
}

fn stream(s: &mut Section<'_, '_>) -> RawStream {
    RawStream {
        name: s.required("name"),
        class: s.value("class", Class::Durable),
        max_bytes: s.optional("max_bytes"),
        max_age: s.optional("max_age"),
        when_full: s.value("when_full", StreamWhenFull::Refuse),
    }
}

fn route(s: &mut Section<'_, '_>) -> RawRoute {
    let topics = s.required::<Vec<TopicFilter>>("topics");
    if topics.as_ref().is_some_and(Vec::is_empty) {
        s.problem("topics", "is empty, such a route takes nothing");
    }
    let kind = s.optional::<String>("type");
    if kind.as_deref() == Some("") {
        // CloudEvents 1.0: `type` must be a non-empty string.
        s.problem("type", "must not be empty");
    }
    RawRoute {
        topics: topics.unwrap_or_default(),
        stream: s.value("stream", name(crate::model::DEFAULT_STREAM)),
        kind,
        uplinks: s.optional("uplinks"),
    }
}

/// Which keys there are depends on the kind.
fn uplink(s: &mut Section<'_, '_>) -> RawUplink {
    match s.value("kind", UplinkKind::Mqtt) {
        UplinkKind::Mqtt => mqtt_uplink(s),
        UplinkKind::Http => http::uplink(s),
        UplinkKind::EventMesh => eventmesh::uplink(s),
    }
}

fn mqtt_uplink(s: &mut Section<'_, '_>) -> RawUplink {
    RawUplink {
        name: s.required("name"),
        kind: UplinkKind::Mqtt,
        http: None,
        eventmesh: None,
        addresses: addresses(s),
        tls: s.optional_table("tls", uplink_tls),
        credentials: credentials(s),
        client_id: s.optional("client_id"),
        mode: s.value("mode", Mode::Binary),
        order: s.value("order", Order::Strict),
        topic: topic_template(s),
        subscribe: s.value("subscribe", Vec::new()),
        subscribe_strip: s.value("subscribe_strip", String::new()),
        subscribe_prefix: topic_prefix(s),
        window_events: s.bounded("window_events", 1_024, 1..=65_535),
        window_bytes: s.bounded(
            "window_bytes",
            ByteSize::from_mib(1),
            ByteSize::from_kib(1)..=ByteSize::from_gib(1),
        ),
        keep_alive: s.bounded("keep_alive", 30 * SECOND, SECOND..=Duration::from_secs(65_535)),
        session_expiry: s.bounded("session_expiry", DAY, Duration::ZERO..=3_650 * DAY),
        timing: timing(s, 60 * SECOND),
    }
}

pub(crate) fn addresses(s: &mut Section<'_, '_>) -> Vec<Endpoint> {
    let addresses = s.required::<Vec<Endpoint>>("addresses");
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        s.problem("addresses", "is empty, name at least one host:port");
    }
    addresses.unwrap_or_default()
}

/// The times of every uplink; `answer_timeout` is the kind's own default.
pub(crate) fn timing(s: &mut Section<'_, '_>, answer_timeout: Duration) -> Timing {
    let timing = Timing {
        connect_timeout: s.bounded("connect_timeout", 10 * SECOND, SECOND..=HOUR),
        answer_timeout: s.bounded("answer_timeout", answer_timeout, SECOND..=HOUR),
        retry_min: s.bounded("retry_min", Duration::from_millis(250), Duration::from_millis(10)..=HOUR),
        retry_max: s.bounded("retry_max", 30 * SECOND, Duration::from_millis(10)..=HOUR),
    };
    if timing.retry_max < timing.retry_min {
        s.problem("retry_max", "must not be shorter than retry_min");
    }
    timing
}

pub(crate) fn uplink_tls(s: &mut Section<'_, '_>) -> UplinkTls {
    UplinkTls { ca: s.optional("ca"), identity: identity(s, false), server_name: s.optional("server_name") }
}

fn topic_template(s: &mut Section<'_, '_>) -> String {
    let template = s.value("topic", "{topic}".to_owned());
    let literal = template.replace("{topic}", "t").replace("{node}", "n");
    if literal.is_empty() || literal.contains(['+', '#', '\0', '{', '}']) {
        s.problem(
            "topic",
            "must be a topic name without + and #; {topic} and {node} stand for the device's topic and the node's name",
        );
    }
    template
}

pub(crate) fn topic_prefix(s: &mut Section<'_, '_>) -> String {
    let prefix = s.value("subscribe_prefix", String::new());
    if prefix.contains(['+', '#', '\0']) {
        s.problem("subscribe_prefix", "must not contain + or #, it becomes part of a topic name");
    }
    prefix
}

pub(crate) fn credentials(s: &mut Section<'_, '_>) -> Option<Credentials> {
    let username = s.optional::<String>("username");
    let inline = s.optional::<Secret>("password");
    let file = s.optional::<PathBuf>("password_file");
    let password = match (inline, file) {
        (Some(_), Some(_)) => {
            s.problem("password_file", "is given beside password, write one of them");
            None
        }
        (Some(secret), None) => Some(Password::Inline(secret)),
        (None, file) => file.map(Password::File),
    };
    if username.is_none() && password.is_some() {
        s.problem("username", "missing, a password needs one");
    }
    username.map(|username| Credentials { username, password })
}

/// A name that is right by construction.
fn name(text: &'static str) -> Name {
    #[allow(
        clippy::expect_used,
        reason = "only called with literals of this file, and a test reads each of them"
    )]
    Name::parse(text).expect("names in the source are valid")
}
