//! Stand-in for an Apache EventMesh runtime, for tests on machines that cannot have the real one. It is not EventMesh.
//!
//! It speaks the runtime's gRPC wire as observed on runtime 1.11 with standalone storage: the same checks in the same order, the same codes
//! and texts, the same silent losses (another `protocoldesc` is acknowledged and never delivered, a batch answers before anything is
//! stored, a second stream of one identity replaces the first). Its referees are `data/observed.jsonl`, whose recorded requests
//! it must answer as the runtime did, and the genuine Java SDK. Below it is tonic, so that the uplink's own gRPC framing meets code that is
//! not ours.
//!
//! [`StandIn`] starts one on a free port of the loopback; [`Reply`] scripts what it does to publishes.

mod check;
mod message;
pub mod observed;
pub mod proto;
mod service;
mod state;

pub use message::{attribute, integer, text, valve_command};
pub use state::{Client, Reply, StandIn};
