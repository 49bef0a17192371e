//! The rules of EventMesh Edge: what an event is, where it goes, when it may be answered, when it may be forgotten.
//!
//! This crate is plain functions and plain state machines. It opens no socket and no file, reads no clock, draws no
//! random number and knows neither tokio nor sled, so that everything in it runs unchanged in microsecond tests and in
//! simulation. What touches the world stands behind the traits in [`ports`].
//!
//! The promises that the rest of the project quotes by number:
//!
//! - **P1** acknowledged means on disk: whatever hands something over is answered only after fdatasync returned for it.
//! - **P2** an accepted event reaches each uplink it is routed to at least once, or is counted in the loss ledger.
//! - **P3** `source` and `id` are fixed at the commit; positions only grow and are never reused.
//! - **P4** order holds per client and topic within a lane.
//! - **P5** every resource has a bound with a named policy.
//! - **P6** the node always starts; damage is quarantined and counted.
//! - **P7** nobody gets in who is not let in; no secret and no payload in a log.

pub mod event;
pub mod forward;
pub mod mapping;
pub mod namespace;
pub mod ports;
pub mod route;
pub mod telemetry;
pub mod topic;

/// UTF-8 text that shares its bytes with the buffer it came from; cloning copies nothing.
pub type Text = bytestring::ByteString;
