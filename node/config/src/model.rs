//! The checked configuration: what the rest of the node is built from. Whoever holds a [`Config`] need not check again.

use crate::eventmesh::EventMesh;
use crate::http::Http;
use crate::setting::{Endpoint, Name, Secret, words};
use crate::units::ByteSize;
use eventmesh_edge_core::topic::TopicFilter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything, checked, nothing opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[log]`
    pub log: Log,
    /// `[admin]`
    pub admin: Admin,
    /// `[session]`
    pub session: Session,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[[listener]]`
    pub listeners: Vec<Listener>,
    /// `[[stream]]`, the default stream first, that of the node's own events last.
    /// [`StreamId`](eventmesh_edge_core::ports::store::StreamId) indexes here.
    pub streams: Vec<Stream>,
    /// `[[route]]`, in the order of the file: the first that matches counts.
    pub routes: Vec<Route>,
    /// `[[uplink]]`. [`UplinkId`](eventmesh_edge_core::ports::store::UplinkId) indexes here.
    pub uplinks: Vec<Uplink>,
    /// What works but may not be meant; to be printed at the start and by `check`.
    pub warnings: Vec<String>,
}

/// Name of the stream that takes what no route takes.
pub const DEFAULT_STREAM: &str = "default";

/// Name of the stream of the node's own events (docs/node-events.md); it is there while `[telemetry]` is on and there is an
/// uplink.
pub const NODE_STREAM: &str = "node-events";

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Authority of every event's `source`: `mqtt://<name>/<device>`.
    pub name: Name,
    /// Where everything durable is.
    pub data_dir: PathBuf,
    /// Hard limit of the data directory (P5).
    pub disk_max: ByteSize,
    /// What becomes of messages that no route takes.
    pub unrouted: Unrouted,
    /// Longest that a commit waits for others to share its sync with; only while several senders are active.
    pub commit_delay: Duration,
    /// Longest graceful stop.
    pub stop_timeout: Duration,
    /// Time between two publications of the figures below `$SYS`; zero for none.
    pub sys_interval: Duration,
}

words! {
    /// Where messages go that no route takes.
    pub enum Unrouted {
        /// To the default stream, and with it to every uplink.
        Default = "default",
        /// To local subscribers only.
        Local = "local",
    }
    later: []
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Notation.
    pub format: LogFormat,
    /// Least severe level that is written.
    pub level: LogLevel,
}

words! {
    /// Notation of the log.
    pub enum LogFormat {
        /// One readable line per event.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
    later: []
}

words! {
    /// Severity.
    pub enum LogLevel {
        /// What needs hands.
        Error = "error",
        /// What may need hands.
        Warn = "warn",
        /// What an operator wants to know.
        Info = "info",
        /// What a developer wants to know.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    later: []
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket of the admin API.
    pub socket: PathBuf,
}

/// `[session]`: bounds of what is kept for clients that are away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Stored bytes waiting for one session.
    pub mailbox_max_bytes: ByteSize,
    /// Messages waiting for one session.
    pub mailbox_max_events: u32,
    /// What the messages that wait for sessions may take of the disk in all. `None`: half of what is kept back of
    /// `disk_max` for sessions, cursors and the journal.
    pub mailboxes_max_bytes: Option<ByteSize>,
    /// Longest Session Expiry Interval; longer ones are lowered to it (MQTT 5.0 section 3.2.2.3.2).
    pub expiry_max: Duration,
    /// Persistent sessions at a time; one more is refused.
    pub sessions_max: u32,
    /// Memory for retained messages; beyond it new ones are refused.
    pub retained_max_bytes: ByteSize,
}

/// `[telemetry]`: the node's own events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Whether it makes any.
    pub enabled: bool,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Clients that come, go and subscribe are told of below `$edge/clients`, to every client that subscribes there.
    pub client_events: bool,
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Protocol.
    pub kind: ListenerKind,
    /// Address and port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Who gets in (P7). Off the loopback only what was written down, never the default.
    pub auth: Auth,
    /// Certificate and key, if it speaks TLS.
    pub tls: Option<ListenerTls>,
    /// Connections at a time; more are closed at once. CoAP: devices known at a time, the one idle for longest is forgotten
    /// for a new one.
    pub max_connections: u32,
    /// Passwords checked at a time: each takes a core and 19 MiB for a while.
    pub logins_at_once: u32,
    /// Largest payload of one PUBLISH, or body of one request.
    pub max_payload: ByteSize,
    /// Longest keep-alive: MQTT 5 clients that ask for more, or for none, are told this one [MQTT-3.2.2-21]. `None` lets
    /// the client choose, none included.
    pub keep_alive_max: Option<Duration>,
    /// How long a new connection may take until its CONNECT is there.
    pub connect_timeout: Duration,
    /// What a publisher gets while its stream is full.
    pub when_full: ListenerWhenFull,
    /// QoS 1 and 2 messages that a client may have unanswered here (Receive Maximum of the node).
    pub receive_maximum: u32,
    /// QoS 1 and 2 messages that the node may have unanswered at a client.
    pub send_window: u32,
    /// Topic aliases that a client may set.
    pub topic_alias_max: u32,
    /// Subscriptions of one client.
    pub subscriptions_max: u32,
    /// Messages waiting in memory for one connection.
    pub queue_events: u32,
    /// Their bytes.
    pub queue_bytes: ByteSize,
    /// Where clients are sent that cannot be served here (MQTT 5.0 section 4.11).
    pub redirect_to: Option<String>,
    /// Which clients those are.
    pub redirect_when: RedirectWhen,
    /// CoAP: interfaces over which it answers discovery by multicast.
    pub multicast: Vec<String>,
}

words! {
    /// Who is sent elsewhere.
    pub enum RedirectWhen {
        /// Who finds the listener full, or loses it because the node stops.
        Full = "full",
        /// Everybody: the listener has moved.
        Always = "always",
    }
    later: []
}

words! {
    /// Protocol of a listener.
    pub enum ListenerKind {
        /// MQTT 3.1, 3.1.1 and 5 over TCP or TLS.
        Mqtt = "mqtt",
        /// CoAP over UDP.
        Coap = "coap",
    }
    later: ["websocket"]
}

/// Who gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody, unproven.
    Anonymous,
    /// Those in the password file (argon2id, made by `eventmesh-edge password`).
    Password {
        /// Where it is.
        file: PathBuf,
    },
}

words! {
    /// The words behind [`Auth`].
    pub enum AuthKind {
        /// Everybody.
        Anonymous = "anonymous",
        /// User name and password.
        Password = "password",
    }
    later: ["certificate", "token"]
}

/// How a listener's TLS is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// What it shows.
    pub identity: TlsIdentity,
    /// Only clients with a certificate that one of these authorities has signed get in, PEM.
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Certificate chain, PEM, the own one first.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

words! {
    /// What a publisher gets while its stream is full.
    pub enum ListenerWhenFull {
        /// Nothing until room returns; its socket is not read meanwhile.
        Withhold = "withhold",
        /// 0x97 Quota exceeded (MQTT 5); MQTT 3 has no such code, there the connection is closed.
        Reject = "reject",
    }
    later: []
}

/// `[[stream]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Unique.
    pub name: Name,
    /// How durable.
    pub class: Class,
    /// Budget of each of its uplinks, in stored bytes.
    pub max_bytes: ByteSize,
    /// Older events are given up and counted.
    pub max_age: Option<Duration>,
    /// Policy at the budget.
    pub when_full: StreamWhenFull,
    /// The uplinks that read it, as indices into [`Config::uplinks`]: those that its routes name.
    pub uplinks: Vec<usize>,
}

words! {
    /// When the sender is answered.
    pub enum Class {
        /// After fdatasync (P1).
        Durable = "durable",
    }
    later: ["relaxed", "volatile"]
}

words! {
    /// What gives way when a stream's budget is used up (P5).
    pub enum StreamWhenFull {
        /// The senders wait, or are refused: see the listener's `when_full`.
        Refuse = "refuse",
        /// The oldest events are given up and counted.
        DropOldest = "drop-oldest",
    }
    later: ["keep-last", "thin"]
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// It takes a message whose topic matches one of these.
    pub topics: Vec<TopicFilter>,
    /// Where to, as an index into [`Config::streams`].
    pub stream: usize,
    /// CloudEvents `type`; `None` for the default of the protocol.
    pub kind: Option<String>,
}

/// `[[uplink]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Unique.
    pub name: Name,
    /// Protocol.
    pub kind: UplinkKind,
    /// What only an uplink over HTTP has; `None` for every other kind.
    pub http: Option<Http>,
    /// What only an uplink to EventMesh has; `None` for every other kind.
    pub eventmesh: Option<EventMesh>,
    /// Tried in turn, never empty; not used over HTTP, which has [`Http::urls`].
    pub addresses: Vec<Endpoint>,
    /// TLS, if it is used.
    pub tls: Option<UplinkTls>,
    /// User name and where the password is.
    pub credentials: Option<Credentials>,
    /// MQTT client identifier.
    pub client_id: String,
    /// CloudEvents content mode.
    pub mode: Mode,
    /// Order towards the upstream (P4).
    pub order: Order,
    /// Topic that an event is published to; `{topic}` is its own topic, `{node}` the node's name.
    pub topic: String,
    /// Filters that are subscribed upstream; what comes is published to local devices.
    pub subscribe: Vec<TopicFilter>,
    /// Taken from the front of the topic of what comes down, if it is there.
    pub subscribe_strip: String,
    /// Then put in front of it.
    pub subscribe_prefix: String,
    /// How long the upstream keeps what comes down while we are away.
    pub session_expiry: Duration,
    /// Unanswered events at a time.
    pub window_events: u32,
    /// Their bytes together.
    pub window_bytes: ByteSize,
    /// Longest attempt to connect.
    pub connect_timeout: Duration,
    /// No answer for so long, with something in flight: the connection is taken for dead.
    pub answer_timeout: Duration,
    /// Keep-alive of MQTT and of HTTP/2.
    pub keep_alive: Duration,
    /// First delay before another attempt; doubles, with jitter.
    pub retry_min: Duration,
    /// Longest delay before another attempt.
    pub retry_max: Duration,
}

words! {
    /// Protocol of an uplink.
    pub enum UplinkKind {
        /// A broker or another node, MQTT 5.
        Mqtt = "mqtt",
        /// Whatever takes CloudEvents over HTTP.
        Http = "http",
        /// Apache EventMesh over gRPC.
        EventMesh = "eventmesh",
    }
    later: ["webhook", "nats", "kafka"]
}

words! {
    /// CloudEvents content mode (MQTT binding 1.0 section 3).
    pub enum Mode {
        /// Attributes as user properties, payload as it is.
        Binary = "binary",
        /// One JSON document.
        Structured = "structured",
    }
    later: []
}

words! {
    /// Order towards the upstream (P4).
    pub enum Order {
        /// Per client and topic, through retries, outages and restarts.
        Strict = "strict",
        /// Pipelined; the attribute `sequence` lets the consumer restore it.
        Sequence = "sequence",
    }
    later: []
}

/// How an uplink's TLS is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkTls {
    /// Trust anchors, PEM; the machine's own without it.
    pub ca: Option<PathBuf>,
    /// Client certificate chain and private key, PEM.
    pub identity: Option<TlsIdentity>,
    /// Name that the upstream's certificate must have; the address's host without it.
    pub server_name: Option<String>,
}

/// What an uplink shows its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password, if there is one.
    pub password: Option<Password>,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// In the configuration, or better: in its environment variable.
    Inline(Secret),
    /// First line of a file, read when the node starts.
    File(PathBuf),
}
