//! Embedded upstream hub (rumqttd) for the quickstart and the tests; not part of the node.
//!
//! It stands for "the cloud": an MQTT 5 broker that takes what nodes send, keeps nothing, and shows what arrived through a
//! subscription of its own, inside the process. What it must not be used for, and why the node's own ingress is not built on it, is in
//! `docs/adr/0001`; what to know when it is used is in [`TRAPS`].

mod message;

pub use message::Message;

use bytes::Bytes;
use rumqttd::local::{LinkError, LinkRx, LinkTx};
use rumqttd::{Broker, Config, ConnectionSettings, Notification, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What rumqttd 0.20 does not take; printed by `--help`.
pub const TRAPS: &str = "rumqttd 0.20, which this embeds, keeps everything in memory, acknowledges before it has stored, and \
can be stopped from outside: a PUBLISH to a topic that starts with a character of several bytes (é) or a SUBACK sent by an MQTT 5 \
client ends it, a client id with / or # makes its listener unusable, and it refuses keep-alive 0. Use it for tests only.";

/// How long the listener may take to come up.
const START: Duration = Duration::from_secs(10);

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// MQTT 5; port 0 takes a free one.
    pub listen: SocketAddr,
    /// MQTT 3.1.1, if wanted; rumqttd speaks one version per port.
    pub listen_v4: Option<SocketAddr>,
    /// Largest packet taken.
    pub packet_max_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Options { listen, listen_v4: None, packet_max_bytes: 1_024 * 1_024 }
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Address in use, or none of this machine.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// rumqttd says why on its log only.
    #[error("rumqttd does not listen on {0}")]
    NotListening(SocketAddr),
    /// Its router has gone.
    #[error("rumqttd's router has ended: {0}")]
    Link(#[source] Box<LinkError>),
    /// No thread.
    #[error("start a thread for rumqttd: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<LinkError> for HubError {
    fn from(error: LinkError) -> HubError {
        HubError::Link(Box::new(error))
    }
}

/// A running hub and its own subscription to everything. It runs until the process ends: rumqttd has no way to stop.
pub struct Hub {
    address: SocketAddr,
    address_v4: Option<SocketAddr>,
    rx: LinkRx,
    tx: LinkTx,
}

impl Hub {
    /// Starts rumqttd on threads of its own and returns when it accepts connections.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn start(options: &Options) -> Result<Hub, HubError> {
        let address = free_port(options.listen)?;
        let address_v4 = options.listen_v4.map(free_port).transpose()?;
        let mut broker = Broker::new(config(address, address_v4, options.packet_max_bytes));
        let (mut tx, rx) = broker.link("hub")?;
        tx.subscribe("#")?;
        std::thread::Builder::new()
            .name("rumqttd".to_owned())
            .spawn(move || drop(broker.start()))
            .map_err(HubError::Thread)?;
        for address in [Some(address), address_v4].into_iter().flatten() {
            wait_for(address)?;
        }
        Ok(Hub { address, address_v4, rx, tx })
    }

    /// Where it listens for MQTT 5.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for MQTT 3.1.1.
    #[must_use]
    pub fn address_v4(&self) -> Option<SocketAddr> {
        self.address_v4
    }

    /// Publishes a command, QoS 0, to whoever is subscribed.
    ///
    /// # Errors
    /// [`HubError::Link`] when rumqttd has ended.
    pub fn publish(&mut self, topic: &str, payload: Bytes) -> Result<(), HubError> {
        self.tx.publish(topic.to_owned(), payload)?;
        Ok(())
    }

    /// The next message that arrived; `None` if there is none until `deadline`.
    ///
    /// # Errors
    /// [`HubError::Link`] when rumqttd has ended.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Message>, HubError> {
        loop {
            match self.rx.recv_deadline(deadline) {
                Ok(Some(Notification::Forward(forward))) => {
                    let publish = forward.publish;
                    return Ok(Some(Message::new(&publish.topic, publish.payload, forward.properties)));
                }
                // It has stopped sending to us until we say that there is room.
                Ok(Some(Notification::Unschedule)) => self.rx.ready()?,
                Ok(_) => {}
                Err(LinkError::RecvTimeout(error)) if !is_disconnected(&error.to_string()) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// flume's two errors of a receive with a deadline; its type is not re-exported by rumqttd.
fn is_disconnected(words: &str) -> bool {
    words.contains("disconnected")
}

/// rumqttd cannot report a port that it chose, so a free one is taken and given back at once.
fn free_port(address: SocketAddr) -> Result<SocketAddr, HubError> {
    let listener = TcpListener::bind(address).map_err(|source| HubError::Listen { address, source })?;
    listener.local_addr().map_err(|source| HubError::Listen { address, source })
}

fn wait_for(address: SocketAddr) -> Result<(), HubError> {
    let until = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > until {
            return Err(HubError::NotListening(address));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn config(address: SocketAddr, address_v4: Option<SocketAddr>, packet_max_bytes: usize) -> Config {
    let server = |name: &str, listen| {
        let connections = ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: packet_max_bytes,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        };
        let settings = ServerSettings {
            name: name.to_owned(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections,
        };
        HashMap::from([("1".to_owned(), settings)])
    };
    Config {
        router: RouterConfig {
            max_connections: 1_000,
            max_outgoing_packet_count: 200,
            // A subscriber that falls behind by more than these ten segments misses messages: they are all that is kept.
            max_segment_size: 10 * 1_024 * 1_024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v5: Some(server("hub-v5", address)),
        v4: address_v4.map(|listen| server("hub-v4", listen)),
        ..Config::default()
    }
}
