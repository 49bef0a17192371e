//! Uplink to an Apache EventMesh runtime over gRPC.
//!
//! ```text
//! forwarder ─ send, confirm ─▶ EventMeshUplink ─▶ Session (window, circuits, receipts, verdicts; no I/O) ─▶ calls ─▶ HTTP/2 ─▶ socket
//!           ◀─ next: Up, Acked, … ─            ◀─                                                       ◀─ answers, stream ◀─
//! ```
//!
//! [`EventMeshUplink`] owns one connection at a time and drives it from within
//! [`Uplink::next`](eventmesh_edge_core::ports::uplink::Uplink::next): no task, no channel. HTTP/2 is `h2`, the gRPC framing on top of it is
//! five bytes and two trailers; why not a whole gRPC client is in `docs/adr/0008`.
//!
//! What the runtime's wire asks for (all of it observed on runtime 1.11):
//!
//! - one `publish` per event, many in flight: its batch call answers success before anything is stored
//! - `protocoldesc` = `grpc-cloud-event`, or an event is acknowledged and never delivered; the data arm that its content type asks for;
//!   no empty data; names that have no meaning to it. What would be lost without a word is carried otherwise or refused before it is sent
//! - gRPC status OK also for errors: the `statuscode` attribute counts, and says whether to try here, elsewhere, later or never
//! - a subscription is known by the `ip` and `pid` that it claims, so those stay the same for the life of a node
//!
//! The promises:
//!
//! - **P2** [`UplinkEvent::Acked`](eventmesh_edge_core::ports::uplink::UplinkEvent) follows status code 0 to exactly that publish, and nothing else.
//! - **P3** `id`, `source` and `uniqueid` of an event are the same at every attempt, on whichever runtime: EventMesh never deduplicates.
//! - **P4** the runtime reorders, so `strict` keeps one event per key in flight; the forwarder does that.
//! - **P5** in flight upward: the forwarder's window, within it as many as the latency says; unconfirmed downward: ours, beyond it the
//!   stream is not read.
//! - **P7** no password and no payload is ever written to a log or into a reason.

mod answer;
mod call;
mod circuit;
mod consume;
mod counters;
mod dial;
mod down;
mod identity;
mod keepalive;
mod link;
mod names;
mod options;
mod proto;
mod receipt;
mod session;
mod subscription;
mod topic;
mod up;
mod uplink;
mod window;
mod wire;

pub use counters::{Counters, Counts};
pub use eventmesh_edge_uplink_net::{Address, CertificateTime, Credentials, Secret, TlsIdentity, TlsOptions};
pub use options::{Claimed, ConsumeMode, Down, Options, OptionsError};
pub use uplink::EventMeshUplink;
