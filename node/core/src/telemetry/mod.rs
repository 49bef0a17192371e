//! The node's own events, so that a fleet can be watched from the cloud: what is due, and what it says.
//!
//! ```text
//!   links, ledger entries, vital figures ─▶ Telemetry ─▶ Batch ─▶ one commit: events of the stream `node-events`,
//!                (time is passed in)                              and the ledger entries that they hand on forgotten
//! ```
//! They are ordinary durable events of a small stream of their own, so they wait for an uplink like any other (P2). Types
//! and data are an interface, described in `docs/node-events.md`.
//!
//! **Ledger entries** are handed on in the commit that forgets them: each becomes an event exactly once, under a number that
//! tells a repetition. Entries about the stream `node-events` itself become none, or a full stream would report what it
//! gives up, give up something for the report, and so on for ever; they are told by the totals in the heartbeat.
//!
//! **Nothing here queues.** What has to be said is derived from the present state whenever something may be said, one batch
//! at a time: an uplink that comes and goes a hundred times in ten seconds is one event with a count, and while no uplink is
//! up there are no heartbeats and the ledger gathers by itself (P5).

mod client;
mod message;
mod state;
mod sys;
mod testament;
mod vitals;

pub use client::ClientEvent;
pub use message::{DATA_TYPE, NodeEvent, PreviousStop, node_source};
pub use state::{Batch, Due, Link, Options, Telemetry};
pub use sys::{SysFigures, SysTopics};
pub use testament::{Testament, WillMessage};
pub use vitals::{LossTotal, UplinkVitals, Vitals};

#[cfg(test)]
mod tests;
