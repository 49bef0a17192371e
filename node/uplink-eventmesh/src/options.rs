//! What an uplink is made with; checked once, in [`Options::check`].

use crate::topic::Template;
use eventmesh_edge_core::Text;
use eventmesh_edge_uplink_net::{Address, CertificateTime, Credentials, TlsOptions};
use std::fmt;
use std::time::Duration;

/// Which members of a consumer group get an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeMode {
    /// One of them.
    #[default]
    Clustering,
    /// Each of them.
    Broadcasting,
}

impl ConsumeMode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            ConsumeMode::Clustering => "CLUSTERING",
            ConsumeMode::Broadcasting => "BROADCASTING",
        }
    }
}

/// What is subscribed at the runtime, for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// EventMesh topics; none: nothing comes down.
    pub topics: Vec<String>,
    /// Consumer group. The group's members share what comes, so each node has its own by default.
    pub group: String,
    /// Which members get an event.
    pub mode: ConsumeMode,
    /// Removed from the front of the topic for devices, if it is there.
    pub strip_prefix: String,
    /// Then put in front of it.
    pub add_prefix: String,
    /// Topic that receipts go up to; `None` for no receipts.
    pub receipts: Option<String>,
    /// Heartbeat of the subscription; the runtime forgets it after 60 s without one.
    pub heartbeat: Duration,
    /// Most messages that came down and are not durable yet; then the stream is not read.
    pub unconfirmed_max: usize,
}

/// An uplink's options.
#[derive(Clone)]
pub struct Options {
    /// The node's name: part of its sources, and the mark by which its own events are known when they come back.
    pub node: Text,
    /// The uplink's name: part of its identity towards the runtime.
    pub name: Text,
    /// Tried in turn by the forwarder, the first preferred; at least one.
    pub addresses: Vec<Address>,
    /// TLS, if a proxy in front of the runtime speaks it.
    pub tls: Option<TlsOptions>,
    /// For certificates; the machine's clock if `None`.
    pub certificate_time: Option<CertificateTime>,
    /// User name and password, if the cluster demands them.
    pub credentials: Option<Credentials>,
    /// The runtime hands user name and password of each event to every consumer, and without TLS the network sees them too. A password is
    /// sent only with this set.
    pub allow_plaintext_credentials: bool,
    /// EventMesh environment.
    pub env: String,
    /// EventMesh data centre; the runtime prefers consumers of its own.
    pub idc: String,
    /// EventMesh subsystem.
    pub sys: String,
    /// Claimed address and process: the identity of a consumer, the same after every restart. `None`: made of node and uplink.
    pub claimed: Option<Claimed>,
    /// Producer group; one for a whole fleet, because the runtime keeps a producer for each.
    pub producer_group: String,
    /// EventMesh topic to publish to: text with `{topic}`, `{type}` and `{node}`.
    pub topic: String,
    /// `ttl` of events, for EventMesh's own retries towards consumers.
    pub ttl: Duration,
    /// Largest message, envelope included; larger events are refused before they are sent. The runtime takes 4,194,304 bytes, and what it
    /// delivers is larger by its own attributes.
    pub message_max_bytes: usize,
    /// Most events in flight.
    pub window_max: usize,
    /// A publish that is not answered for so long is sent again.
    pub answer_timeout: Duration,
    /// A dead connection is noticed within one and a half times this; zero switches that off.
    pub keep_alive: Duration,
    /// How often a better address is looked for while connected to a worse one; zero: never.
    pub return_after: Duration,
    /// What comes down.
    pub down: Down,
}

/// What an EventMesh client calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// `ip`.
    pub ip: String,
    /// `pid`; only digits are accepted.
    pub pid: u32,
}

impl fmt::Debug for Options {
    /// The names and addresses: what tells one from another in a log. No secrets (P7).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("node", &self.node)
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Defaults: topic `eventmesh-edge` for everything, no subscription, no credentials, window of 16,384.
    #[must_use]
    pub fn new(node: impl Into<Text>, name: impl Into<Text>, addresses: Vec<Address>) -> Options {
        let node = node.into();
        Options {
            down: Down {
                topics: Vec::new(),
                group: format!("edge-{node}"),
                mode: ConsumeMode::Clustering,
                strip_prefix: String::new(),
                add_prefix: String::new(),
                receipts: Some("eventmesh-edge-receipts".to_owned()),
                heartbeat: Duration::from_secs(20),
                unconfirmed_max: 128,
            },
            node,
            name: name.into(),
            addresses,
            tls: None,
            certificate_time: None,
            credentials: None,
            allow_plaintext_credentials: false,
            env: "prod".to_owned(),
            idc: "default".to_owned(),
            sys: "edge".to_owned(),
            claimed: None,
            producer_group: "eventmesh-edge".to_owned(),
            topic: "eventmesh-edge".to_owned(),
            ttl: Duration::from_secs(4),
            message_max_bytes: 4_000_000,
            window_max: 16_384,
            answer_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(30),
            return_after: Duration::from_secs(60),
        }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// [`OptionsError`] names the field and the fix.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.addresses.is_empty() {
            return Err(OptionsError::NoAddress);
        }
        // The runtime refuses every event without them (code 6, code 7).
        let required = [
            ("env", &self.env),
            ("idc", &self.idc),
            ("sys", &self.sys),
            ("producer_group", &self.producer_group),
            ("consumer_group", &self.down.group),
        ];
        if let Some((field, _)) = required.into_iter().find(|(_, value)| value.is_empty()) {
            return Err(OptionsError::Empty { field });
        }
        let secret = self.credentials.as_ref().is_some_and(|c| c.password.is_some());
        if secret && !self.allow_plaintext_credentials {
            return Err(OptionsError::Plaintext);
        }
        if self.heartbeat_is_wrong() {
            return Err(OptionsError::Heartbeat);
        }
        if self.down.topics.iter().chain(&self.down.receipts).any(String::is_empty) {
            return Err(OptionsError::Empty { field: "subscribe" });
        }
        self.template().map(drop)
    }

    /// 60 s expiry, checked every 10 s.
    fn heartbeat_is_wrong(&self) -> bool {
        !self.down.topics.is_empty() && !(1..=55_000).contains(&self.down.heartbeat.as_millis())
    }

    pub(crate) fn template(&self) -> Result<Template, OptionsError> {
        Template::parse(&self.topic, &self.node)
    }
}

/// What is wrong with [`Options`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Nowhere to connect to.
    #[error("addresses is empty, name at least one host and port")]
    NoAddress,
    /// The runtime refuses events without it.
    #[error("{field} must not be empty, EventMesh refuses events without it")]
    Empty {
        /// Which field.
        field: &'static str,
    },
    /// See [`Options::allow_plaintext_credentials`].
    #[error(
        "password would be shown: EventMesh hands it to every consumer of an event; set allow_plaintext_credentials = true if the \
         cluster demands one all the same"
    )]
    Plaintext,
    /// The runtime would forget the subscription.
    #[error("heartbeat must be shorter than 55 s, EventMesh forgets a subscription after 60 s")]
    Heartbeat,
    /// A topic that EventMesh's storages do not take.
    #[error("topic {0:?} must be made of A-Z a-z 0-9 . _ % | - and {{topic}}, {{type}}, {{node}}")]
    Topic(String),
}
