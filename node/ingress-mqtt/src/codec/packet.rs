//! Control packets as the session engine sees them: one vocabulary for MQTT 3.1, 3.1.1 and 5.

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Properties, Qos};
use eventmesh_edge_core::ports::hub::SubscribeOptions;
use std::fmt;

/// Which protocol a connection speaks, fixed by its CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `MQIsdp`, level 3.
    V31,
    /// `MQTT`, level 4.
    V311,
    /// `MQTT`, level 5.
    V5,
}

impl Version {
    /// True for MQTT 5: reason codes, properties, DISCONNECT from the server.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// What a client can send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, answer to our QoS 1 PUBLISH.
    PubAck(Ack),
    /// PUBREC, first answer to our QoS 2 PUBLISH.
    PubRec(Ack),
    /// PUBREL, the client releases its packet identifier.
    PubRel(Ack),
    /// PUBCOMP, last answer to our QoS 2 PUBLISH.
    PubComp(Ack),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH: enhanced authentication, which this node does not offer.
    Auth,
}

/// CONNECT. The defaults of MQTT 5 stand where a 3.x client cannot say anything.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol.
    pub version: Version,
    /// Clean Start; Clean Session of 3.x.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// Client identifier; empty if the server has to assign one.
    pub client_id: Text,
    /// User name.
    pub username: Option<Text>,
    /// Password. Never logged: [`Connect`] does not derive `Debug`.
    pub password: Option<Bytes>,
    /// Will.
    pub will: Option<Box<Will>>,
    /// Session Expiry Interval in seconds; `u32::MAX` never.
    pub session_expiry_secs: u32,
    /// Receive Maximum of the client, 1..=65,535.
    pub receive_maximum: u16,
    /// Maximum Packet Size of the client.
    pub maximum_packet_bytes: Option<u32>,
    /// Topic Alias Maximum of the client.
    pub topic_alias_maximum: u16,
    /// Request Problem Information: Reason Strings are welcome in acknowledgements, too.
    pub wants_problem_info: bool,
    /// An Authentication Method was named.
    pub wants_enhanced_auth: bool,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("client_id", &self.client_id)
            .field("has_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// Will message (MQTT 5.0 section 3.1.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Will Topic.
    pub topic: Text,
    /// Will Payload.
    pub payload: Bytes,
    /// Will QoS.
    pub qos: Qos,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_secs: u32,
    /// Message Expiry Interval in seconds.
    pub expiry_secs: Option<u32>,
    /// Properties that travel with the message.
    pub properties: Option<Box<Properties>>,
}

/// PUBLISH.
#[derive(Clone, PartialEq, Eq)]
pub struct Publish {
    /// DUP flag.
    pub dup: bool,
    /// QoS.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty only together with `alias`.
    pub topic: Text,
    /// Packet identifier; 0 with QoS 0.
    pub pid: u16,
    /// Topic Alias.
    pub alias: Option<u16>,
    /// Message Expiry Interval in seconds; 0 is valid.
    pub expiry_secs: Option<u32>,
    /// Properties that travel with the message.
    pub properties: Option<Box<Properties>>,
    /// Payload.
    pub payload: Bytes,
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("pid", &self.pid)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Packet identifier, never 0.
    pub pid: u16,
    /// Reason Code; 0 from a 3.x client.
    pub reason: u8,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub pid: u16,
    /// Filters as sent, not yet checked, each with its options (the Subscription Identifier included).
    pub filters: Vec<(Text, SubscribeOptions)>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub pid: u16,
    /// Filters as sent, not yet checked.
    pub filters: Vec<Text>,
}

/// DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Reason Code; 0 from a 3.x client. Anything but 0 keeps the Will.
    pub reason: u8,
    /// A new Session Expiry Interval in seconds.
    pub session_expiry_secs: Option<u32>,
}
