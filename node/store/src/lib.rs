//! Journal, sled generations and sled views behind the Store port of EventMesh Edge.
//!
//! ```text
//!  submit ─▶ queue ─▶ committer: engine.begin ─▶ journal: write, fdatasync ─▶ engine.finish ─▶ answers, watchers
//!                                 │                                            │
//!    read ─▶ memory | reader thread: segments, generations                     ▼
//!                         keeper thread: checkpoints of the views, sealing, recycling, removal
//! ```
//! The [`journal`] is the only commit point (P1): an answer needs the token that only its sync makes. What uplinks have
//! not taken within its window is sealed into generations ([`spill`]); sessions, cursors, counters and the ledger are
//! [`views`] that the journal rebuilds. All decisions are in the engine, which knows no thread and no clock;
//! [`SteppedStore`] runs it by hand over a simulated disk, [`JournalStore`] with threads over a real one. The format on
//! disk is described in `docs/store-format.md`.

mod assemble;
pub mod backing;
mod codec;
mod core;
pub mod directory;
pub mod disk;
mod engine;
mod gather;
pub mod inspect;
pub mod journal;
mod machine;
pub mod memory_backing;
mod meta;
mod rest;
mod service;
pub mod sim_disk;
pub mod spill;
mod stepped;
pub mod views;

pub use assemble::{DamagedRange, LogIdOrNew, Opened, StoreOptions};
pub use directory::OpenError;
pub use gather::GatherOptions;
pub use machine::Machine;
pub use rest::Rest;
pub use service::JournalStore;
pub use stepped::{SimSite, SteppedStore};
