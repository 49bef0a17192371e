//! Looking at real directories: what is sound is called sound, every kind of damage is found where it is, nothing is changed
//! by looking, and a start makes of it what was said.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not in `#[test]` functions"
)]

mod damage_kinds;
mod look;
mod world;
