//! A reference model of an MQTT broker against the node's own parts: client table and session engine, hub, and the real
//! store over a simulated disk, under random operations of several clients, in virtual time, with power cuts.
//!
//! ```text
//!   seed ─▶ World: connect, publish, subscribe, cut, power cut … ─▶ Peer (session engine) ─▶ hub ─▶ store ─▶ simulated disk
//!             │                                                        │
//!             └──────────── Facts: what may and what must follow ◀─────┘ every packet that a client receives
//! ```
//!
//! - `facts`: the model. It knows MQTT and nothing of the node. What is under way, or was when the power went, *may* have
//!   happened; what was answered *must* have.
//! - `client`: clients that answer late and out of step, come back, send again, and check identifiers and DUP.
//! - `world`: the operations; `rig` and `peer`: the node under test; `mutant`: nodes that are wrong, which the model
//!   must notice.
//!
//! One seed is one run. `MODEL_SEED=n cargo test -p eventmesh-edge-model` replays it, with `MODEL_TRACE=1` packet by packet;
//! `MODEL_SEEDS=n` changes how many are run.
#![allow(
    clippy::indexing_slicing,
    reason = "a simulation that loses count of its own parts is wrong and must stop at once"
)]

mod client;
mod facts;
mod mutant;
mod peer;
mod rig;
mod world;

pub use mutant::Mutant;
pub use world::Summary;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one seed; with a mutant, on a node that is wrong.
///
/// # Errors
/// What the model does not allow, or the panic.
pub fn run_seed(seed: u64, mutant: Option<Mutant>) -> Result<Summary, String> {
    let trace = std::env::var_os("MODEL_TRACE").is_some();
    let run = AssertUnwindSafe(|| world::World::new(seed, mutant, trace).run());
    let outcome = catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    });
    outcome
        .map_err(|what| format!("seed {seed}: {what}; MODEL_SEED={seed} cargo test -p eventmesh-edge-model"))
}

fn violation<T>(what: String) -> Result<T, String> {
    Err(what)
}
