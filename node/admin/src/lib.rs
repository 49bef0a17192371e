//! Admin API of EventMesh Edge, and its client.
//!
//! HTTP/1.1 over a Unix socket with mode 0600: whoever may read the data directory may ask, nobody else, and there is no
//! port to guard (P7). Whoever has no client of ours uses `curl --unix-socket data/admin.sock http://node/v1/status`.
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] as JSON |
//! | `GET /v1/store/report` | what the store holds, as JSON |
//! | `GET /v1/store/events?stream=NUMBER&after=POSITION&max=EVENTS` | [`EventsPage`] as JSON |
//! | `POST /v1/reload` with [`ReloadAsk`] as JSON | [`ReloadAnswer`] as JSON |
//! | `GET /healthz` | 200 while the node's event loop turns |
//! | `GET /readyz` | 200 when devices can connect and be answered, else 503 and why not |
//!
//! This crate decides nothing: it asks a [`StatusSource`] and prints what it says.

mod client;
mod reload;
mod render;
mod server;
mod socket;
mod status;
mod store;

pub use client::{FetchError, fetch_events, fetch_status, fetch_store_report};
pub use reload::{ReloadAnswer, ReloadAsk, ReloadFuture, ReloadSource, ask_reload};
pub use render::render;
pub use server::{Server, StatusSource};
pub use socket::BindError;
pub use status::{
    BacklogStatus, IngressStatus, ListenerStatus, LossStatus, NodeStatus, SessionStatus, Status, StoreStatus,
    StreamStatus, UplinkState, UplinkStatus,
};
pub use store::{EventsPage, PAGE_EVENTS_MAX, StoreSource, StoredRecord};
