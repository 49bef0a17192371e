//! Store and forwarder under seeded simulation, in virtual time (P1 to P5).
//!
//! One seed is one run: a number of devices that publish, a store that is slow, full, failing and cut from its power, one
//! or two uplinks whose upstream accepts, refuses, hangs, resets, loses answers and answers out of order, a wall clock that
//! jumps. The real [`Forwarder`](eventmesh_edge_core::forward::Forwarder) runs in it, driven directly: time is a number,
//! nothing sleeps, and the same seed gives the same run on every machine.
//!
//! ```text
//!   Plan (all of it from the seed) ─▶ World ── Input ─▶ Forwarder ── Action ─▶ World ─▶ Backend (a store that can be cut)
//!                                       │                                       └────▶ Upstream (receives, answers, or not)
//!                                       └─ what happened ─▶ History ─▶ checks: one function per promise
//! ```
//!
//! - [`plan`]: what a seed means.
//! - [`backend`]: the store under test: completes what it is told to, and loses the rest in a power cut.
//! - [`upstream`]: the other end of an uplink.
//! - [`world`]: virtual time, and who talks to whom.
//! - [`week`]: a bad week, and whether `edgeseq` and the ledger events account for it at the receiver.
//! - [`history`]: what was accepted, sent, received and given up; [`checks`]: what must hold of it.
//!
//! `SIM_SEED=n cargo test -p eventmesh-edge-sim` replays one seed, `SIM_SEEDS=n` changes how many are run, and the binary
//! `sim --seeds N --from S` runs as many as there is time for.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a simulation that loses count of its own parts is wrong and must stop at once"
)]

pub mod backend;
pub mod checks;
pub mod delivery;
pub mod history;
pub mod plan;
pub mod runner;
pub mod upstream;
pub mod week;
pub mod world;

pub use backend::{Backend, JournalBackend, MemoryBackend};
pub use checks::Violation;
pub use delivery::{Delivery, MakeDelivery, real_forwarder};
pub use plan::Plan;
pub use runner::{
    Campaign, Failure, run_seed, run_seed_on_journal, run_seeds, trace_seed, trace_seed_on_journal,
};
pub use week::{run_week, run_week_on_journal};
pub use world::{Summary, World};
