//! The store over a simulated disk: power cuts, failed syncs, full disks, damage. Everything is decided by seeds.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not in `#[test]` functions"
)]

mod clones;
mod damage;
mod ends;
mod mailboxes;
mod power;
mod room;
mod space;
mod support;
mod world;
