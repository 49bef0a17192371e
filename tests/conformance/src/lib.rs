//! What MQTT asks of a server, as tests: every normative statement of MQTT 3.1.1 and 5.0 that binds one stands in
//! `docs/conformance/mqtt.md` with the name of its test, or with the reason why it has none.
//!
//! - [`wire`]: packets as bytes, the malformed ones too. The node's codec is what is being judged, so nothing of it is
//!   used here.
//! - [`packet`]: what the node sends, read strictly: a field that MQTT does not allow in that place fails the test.
//! - [`client`]: a socket and the few steps that all tests take.
//! - [`node`]: listener, session engine, hub and a store in memory, wired as the daemon wires them; its clock is moved by
//!   hand, so no test waits for time.
//! - [`table`]: the document's tables, the standards' lists of statements, and where a test function is.
//!
//! `tests/mqtt` has the tests by subject, `tests/table.rs` checks the document against them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

pub mod client;
pub mod node;
pub mod packet;
pub mod table;
pub mod wire;

pub use client::Client;
pub use node::{Node, Setup};
pub use packet::{Packet, Published};
pub use wire::{Connect, Publish, Version, Will, property};
