//! What the tests of the uplinks share: events to send ([`events`]), the forwarding half of a node ([`Node`]), certificates for one
//! run ([`Authority`]), and what must be true after faults ([`complete`], [`in_order`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "this crate is test code: a panic is how a test fails"
)]

mod certs;
pub mod events;
mod faults;
mod node;

pub use certs::{Authority, Life};
pub use faults::{Random, complete, in_order};
pub use node::{Node, quick};
