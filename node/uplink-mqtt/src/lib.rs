//! Uplink to an MQTT 5 broker, or to another node.
//!
//! ```text
//! forwarder ─ send, flush, confirm ─▶ MqttUplink ─▶ Session (packet ids, windows, acknowledgements; no I/O) ─▶ out buffer ─▶ socket
//!           ◀─ next: Up, Acked, … ──             ◀─                                                       ◀─ in buffer  ◀─
//! ```
//!
//! [`MqttUplink`] owns one connection at a time and drives it from within [`Uplink::next`](eventmesh_edge_core::ports::uplink::Uplink::next):
//! no task of its own, no channel; whatever was handed over since the last turn leaves in one write, and one read brings
//! many acknowledgements. Packet types and codec are rumqttc's; why not its event loop and its state is in `docs/adr/0006`.
//!
//! - **P2** [`UplinkEvent::Acked`](eventmesh_edge_core::ports::uplink::UplinkEvent) follows a PUBACK that answers exactly that packet, and nothing else. With the
//!   connection everything unanswered is forgotten; nothing is replayed from here, whatever session the server claims to have.
//! - **P1** towards the server: a message that came down is answered after `confirm`, which the node calls when it is durable.
//! - **P5** in flight upward: the server's Receive Maximum; unconfirmed downward: ours. Packets: both Maximum Packet Sizes.
//! - **P7** no password and no payload is ever written to a log or into a reason.

mod codec;
mod counters;
mod dial;
mod encode;
mod inflight;
mod keepalive;
mod link;
mod options;
mod reason;
mod session;
mod suspicion;
mod topic;
mod uplink;
mod will;

pub use counters::{Counters, Counts};
pub use eventmesh_edge_uplink_net::{Address, CertificateTime, Credentials, Secret, TlsIdentity, TlsOptions};
pub use options::{Mode, Options, OptionsError, Subscription};
pub use uplink::MqttUplink;
