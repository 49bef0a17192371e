//! Uplink to whatever takes CloudEvents over HTTP.
//!
//! ```text
//! forwarder ─ send ─▶ Outbox (what makes the next request; no I/O) ─▶ lanes: one connection, one request each ─▶ receiver
//!           ◀─ next: Acked, Failed, Unavailable ── settle ◀── judge (what a status means; no I/O) ◀─ answer    ◀─
//! ```
//!
//! [`HttpUplink`] owns its connections and drives them from within [`Uplink::next`](eventmesh_edge_core::ports::uplink::Uplink::next):
//! no task of its own, no pool. What waits when a connection becomes free makes the next batch, so batches are as large as
//! the way is slow.
//!
//! - **P2** an event is acknowledged by a 2xx for the request that carried it, or by its own entry in a 207, and by nothing
//!   else. Only a status that is about the event itself, for that event alone, gives it up (400, 413, 415, 422, 431); a wrong
//!   credential, a wrong path or an overloaded receiver never does.
//! - **P3** an event leaves as it was stored at every attempt: same `source`, same `id`.
//! - **P4** with one connection events are taken over in the order sent; whatever would let a later one overtake ends the
//!   connection instead.
//! - **P5** under way: the window, twice what the connections can carry. Answers: 1 MiB of body, 32 KiB of head.
//! - **P7** no credential, no payload and no query of a URL is ever written to a log or into a reason; credentials travel
//!   over TLS only, and never to another host.
//!
//! HTTP/1.1: HTTP/2 would save connections, not time, where requests are batches.

mod auth;
mod connect;
mod counters;
mod dial;
mod encode;
mod exchange;
mod judge;
mod options;
mod outbox;
mod receipt;
mod retry_after;
mod settle;
#[cfg(test)]
mod testing;
mod tls;
mod uplink;
mod url;

pub use counters::{Counters, Counts};
pub use eventmesh_edge_uplink_net::{CertificateTime, Secret, TlsIdentity, TlsOptions};
pub use options::{Auth, ClientAuth, Mode, OAuth2, Options, OptionsError, SecretSource};
pub use uplink::HttpUplink;
pub use url::{Url, UrlError};
