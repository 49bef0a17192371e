//! Power cuts at every file operation of the real store.
//!
//! ```text
//!  workload (a child process per life) ──strace──▶ trace ─▶ volume: what is durable at each moment
//!        │ markers: submitted, answered                │              │ cut, seeded
//!        └────────────▶ said ──────────────────────────┴──▶ image ─▶ real store ─▶ judge, promise by promise
//! ```
//! [`record`] runs [`workload`]s over the real disk and has every file operation of the process written down, sled's as
//! well as ours, with the moments at which commits were handed over and answered. [`volume`] plays that back and makes, at
//! any moment, the directory that a power cut may leave: what was not synced kept, dropped, torn or kept in part, names
//! and sizes too. [`judge`] opens such an image with the real store and holds it to P1, P2, P3 and P6. [`sweep`] does
//! that some thousand times, spread evenly over the parts of the store ([`strata`]).
//!
//! What rests on what, as the sweeps have shown: nothing rests on sled's syncs of its log, which do nothing in them; its
//! fsync of a snapshot is relied on, because an open for reading may write one when no sync of ours follows. A start
//! relies on nothing that it can only see: what a killed process left is synced before it is believed.
//!
//! Recordings differ from run to run, since the store's threads do. So a failing image is kept as it is, as a [`fixture`]:
//! `cargo xtask crash` puts it into `tests/crash/fixtures/`, and from then on a test judges it. What a missing sync made
//! possible once is turned into a test of its own in `tests/regressions.rs`, by the place of the cut.
//!
//! `cargo xtask crash` is the long form of the tests. All of this for its users: `docs/crash-testing.md`.

pub mod cost;
pub mod fixture;
pub mod judge;
pub mod marks;
pub mod model;
pub mod parse;
pub mod record;
pub mod strata;
pub mod sweep;
pub mod trace;
pub mod volume;
pub mod workload;
