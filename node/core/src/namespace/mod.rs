//! The one topic namespace that the local subscribers of every protocol share.
//!
//! - [`Subscriptions`] answers who gets a message: filters with wildcards, shared subscriptions, overlapping
//!   subscriptions of one subscriber folded into one match.
//! - [`Retained`] keeps the last retained message per topic within a budget of bytes.
//! - [`Handover`] decides which messages a persistent session is offered and which it reads from its mailbox.
//! - [`mailbox`] is how the options of a mailbox entry are written: the hub writes them, every ingress may append to
//!   them and update them.
//!
//! All of it is in memory and decides nothing about durability: what must survive is in the store's tables and is put
//! back here at the start.

mod handover;
mod list;
pub mod mailbox;
mod retained;
mod subscriptions;
#[cfg(test)]
mod subscriptions_tests;

pub use handover::{Handover, ReadMark};
pub use retained::{Retain, Retained, RetainedStats};
pub use subscriptions::{Match, Subscriptions};
