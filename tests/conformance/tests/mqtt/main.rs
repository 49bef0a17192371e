//! The statements of MQTT 3.1.1 and 5.0 by subject; `docs/conformance/mqtt.md` says which test is about which.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

mod connect;
mod cross;
mod expiry;
mod flow;
mod malformed;
mod properties;
mod publish;
mod reasons;
mod retain;
mod session;
mod shared;
mod size;
mod subscribe;
mod sys;
mod topics;
mod will;
