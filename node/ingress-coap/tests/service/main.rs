//! A listener without its socket, over the real hub and the reference store, in virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

mod device;
mod mailbox;
mod observe;
mod publish;
mod read;
mod sim;
mod site;
mod table;
