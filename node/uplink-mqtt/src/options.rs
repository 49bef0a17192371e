//! What an uplink is made with; checked once, in [`Options::check`].

use crate::topic::Template;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::telemetry::Testament;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_uplink_net::{Address, CertificateTime, Credentials, TlsOptions};
use std::fmt;
use std::time::Duration;

/// CloudEvents content mode of what goes up (MQTT binding 1.0 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Payload as it is, attributes as User Properties.
    #[default]
    Binary,
    /// The payload is one JSON document.
    Structured,
}

/// What is subscribed at the server, for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Filter at the server.
    pub filter: TopicFilter,
    /// Highest QoS to get.
    pub qos: Qos,
    /// Removed from the front of the topic, if it is there.
    pub strip_prefix: String,
    /// Then put in front of it.
    pub add_prefix: String,
}

impl Subscription {
    /// QoS 1, topics as they come.
    #[must_use]
    pub fn new(filter: TopicFilter) -> Subscription {
        Subscription { filter, qos: Qos::AtLeastOnce, strip_prefix: String::new(), add_prefix: String::new() }
    }
}

/// An uplink's options.
#[derive(Clone)]
pub struct Options {
    /// The node's name: part of its sources, and the mark by which its own messages are known when they come back.
    pub node: Text,
    /// Tried in turn by the forwarder; at least one.
    pub addresses: Vec<Address>,
    /// MQTT client id; no other client of the server may use it [MQTT-3.1.4-3].
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<Credentials>,
    /// TLS, if it is used.
    pub tls: Option<TlsOptions>,
    /// What certificates are checked against; `None`: the machine's clock.
    pub certificate_time: Option<CertificateTime>,
    /// A dead link is noticed within twice this time; zero switches that off. Whole seconds, at most 65,535.
    pub keep_alive: Duration,
    /// Content mode.
    pub mode: Mode,
    /// Topic to publish to: text with `{topic}` and `{node}`.
    pub topic: String,
    /// Publish with the RETAIN flag that a device set.
    pub keep_retain: bool,
    /// Subscriptions at the server; with at least one, a session is kept there while we are away.
    pub subscriptions: Vec<Subscription>,
    /// How long the server keeps it. Whole seconds.
    pub session_expiry: Duration,
    /// Most events in flight, whatever the server allows.
    pub window_max: u16,
    /// Most messages that came down and are not durable yet (our Receive Maximum).
    pub unconfirmed_max: u16,
    /// Largest packet taken from the server (our Maximum Packet Size).
    pub packet_max_bytes: u32,
    /// Left with the server as the connection's will: it tells others when the connection ends without a goodbye. A
    /// server that refuses a connection for it gets the next one without.
    pub testament: Option<Testament>,
}

impl fmt::Debug for Options {
    /// What tells one from another; a function has nothing to show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { node, addresses, client_id, tls, mode, topic, .. } = self;
        f.debug_struct("Options")
            .field("node", node)
            .field("addresses", addresses)
            .field("client_id", client_id)
            .field("tls", tls)
            .field("mode", mode)
            .field("topic", topic)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Defaults: client id `<node>-uplink`, binary mode, the event's own topic, keep-alive 30 s, a session of one day, no subscription.
    #[must_use]
    pub fn new(node: impl Into<Text>, addresses: Vec<Address>) -> Options {
        let node = node.into();
        Options {
            client_id: format!("{node}-uplink"),
            node,
            addresses,
            credentials: None,
            tls: None,
            certificate_time: None,
            keep_alive: Duration::from_secs(30),
            mode: Mode::Binary,
            topic: "{topic}".to_owned(),
            keep_retain: true,
            subscriptions: Vec::new(),
            session_expiry: Duration::from_secs(24 * 3600),
            window_max: 4_096,
            unconfirmed_max: 256,
            packet_max_bytes: 512 * 1_024,
            testament: None,
        }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first [`OptionsError`] found.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.addresses.is_empty() {
            return Err(OptionsError::NoAddress);
        }
        if self.client_id.is_empty() || self.client_id.len() > 65_535 || self.client_id.contains('\0') {
            return Err(OptionsError::ClientId);
        }
        if self.keep_alive.as_secs() > 65_535
            || (self.keep_alive.as_secs() == 0 && !self.keep_alive.is_zero())
        {
            return Err(OptionsError::KeepAlive(self.keep_alive));
        }
        if self.window_max == 0 || self.unconfirmed_max == 0 || self.packet_max_bytes < 1_024 {
            return Err(OptionsError::Limit);
        }
        if let Some(s) = self.subscriptions.iter().find(|s| s.filter.share().is_some()) {
            return Err(OptionsError::SharedSubscription(s.filter.to_string()));
        }
        self.template().map(drop)
    }

    pub(crate) fn template(&self) -> Result<Template, OptionsError> {
        Template::parse(&self.topic, &self.node)
    }
}

/// What is wrong with an uplink's options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No address.
    #[error("addresses is empty, give at least one")]
    NoAddress,
    /// Client id.
    #[error("client_id must have 1 to 65,535 bytes and no U+0000")]
    ClientId,
    /// Keep-alive.
    #[error("keep_alive is {0:?}, it must be 0 (off) or 1 s to 65,535 s")]
    KeepAlive(Duration),
    /// A bound that lets nothing through.
    #[error("window_max and unconfirmed_max must be at least 1, packet_max_bytes at least 1024")]
    Limit,
    /// No Local must not be set on a shared subscription [MQTT-3.8.3-4], and without it our own messages would come back.
    #[error("subscription {0:?} is shared, an uplink needs one of its own")]
    SharedSubscription(String),
    /// Unknown placeholder.
    #[error("topic has the placeholder {{{0}}}, known are {{topic}} and {{node}}")]
    Placeholder(String),
    /// The text around the placeholders.
    #[error("topic {0:?} makes no topic name: it must not be empty and must have no `+`, `#` or U+0000")]
    Topic(String),
}
