//! A bad week (virtual time): outages, full streams, expiries, dead letters, kills and cut tails, and at the other end a
//! receiver that knows nothing but the CloudEvents that reach it. `edgeseq` and the node's ledger events together must
//! account for every event there (P2, docs/node-events.md).
//!
//! ```text
//!  devices ─▶ store (memory, or the real one over a simulated disk) ─▶ Forwarder ─▶ upstream ─▶ Receiver (CloudEvents only)
//!               ▲                                                                                    │
//!               └── Telemetry: ledger entries and heartbeats as events of the stream node-events     └─▶ account
//! ```
//! The real [`Forwarder`](eventmesh_edge_core::forward::Forwarder), the real
//! [`Telemetry`](eventmesh_edge_core::telemetry::Telemetry) and the real mapping run in it. The upstream answers at once, or
//! not at all: what happens within a second is the other simulation's business ([`crate::world`]).

mod account;
mod devices;
mod plan;
mod receiver;
mod upstream;
mod world;

pub use plan::WeekPlan;
pub use receiver::Arrived;
pub use world::{Tamper, Week};

use crate::backend::{JournalBackend, MemoryBackend};
use crate::runner::{Failure, guarded};
use crate::world::Summary;

/// One seed on the memory store.
///
/// # Errors
/// What it broke.
pub fn run_week(seed: u64) -> Result<Summary, Failure> {
    guarded("week", seed, || Week::new(WeekPlan::new(seed), MemoryBackend::new(seed)).run())
}

/// One seed on the real store over a simulated disk.
///
/// # Errors
/// What it broke.
pub fn run_week_on_journal(seed: u64) -> Result<Summary, Failure> {
    guarded("week_on_journal", seed, || Week::new(WeekPlan::new(seed), JournalBackend::new(seed, 0)).run())
}

/// One seed on the memory store, with something done wrong on purpose.
///
/// # Errors
/// What it broke.
pub fn run_tampered(seed: u64, tamper: Tamper) -> Result<Summary, Failure> {
    guarded("week", seed, || Week::new(WeekPlan::new(seed), MemoryBackend::new(seed)).tampered(tamper).run())
}
