//! Store-and-forward: what one uplink sends, when, how often again, and when an event counts as handed over.
//!
//! A [`Forwarder`] is the whole delivery logic of ONE uplink over all streams that it reads, as a state machine without
//! a socket, a file, a clock or a random source. Whoever drives it passes time and [`Input`]s in and carries the
//! [`Action`]s out:
//!
//! ```text
//!   store ── Appended, Fetched, CursorCommitted, RetentionMoved ──▶ ┌───────────┐ ── Fetch, CommitCursor ─▶ store
//!  uplink ── Up, Down, Acked, Failed ─────────────────────────────▶ │ Forwarder │ ── Connect, Send, Flush ▶ uplink
//!   timer ── Timer ───────────────────────────────────────────────▶ └───────────┘ ── WakeAt ──────────────▶ timer
//! ```
//!
//! What it keeps to:
//!
//! - **P2** a cursor is the highest position below which everything is acknowledged by the upstream or given up; what is
//!   given up is in the same commit as the cursor that passes it, so it is counted once, across restarts too. After a
//!   reconnect everything unanswered goes out again, in order, marked `again`.
//! - **P3** an event leaves as it was stored: the same `source` and `id` at every attempt. A lost cursor commit costs
//!   duplicates with the same identity, never an event.
//! - **P4** with [`Order::Strict`] the events of one key (`source`, topic) reach the upstream in order; with
//!   [`Order::Sequence`] everything is pipelined and the consumer restores order by `sequence`.
//! - **P5** at most [`Options::window`] is in flight, at most [`Options::read_ahead`] waits beside it, and at most
//!   [`Options::gap_max`] events lie between a cursor and the newest event read, whatever the backlog. Beyond that an
//!   event whose own retries are used up is parked: given up and counted, so that it does not block its stream for ever.
//!   What the upstream *holds* ([`Input::Held`]) is not parked and keeps nothing waiting: it is set aside, as ranges of
//!   positions, while the cursor stays before it, and read again when the upstream takes the first of its kind. How long
//!   that may take is for the stream's budget to say.
//!
//! Whoever drives it (the runtime, a simulation, a test) owes it this much:
//!
//! - [`Input::Start`] once; time that does not go back; actions carried out in the order given, before or after the next
//!   step, as suits.
//! - Each [`Action::Connect`] is answered by one `Up`, `Down`, `Unreachable` or `Unavailable`, each [`Action::Fetch`] by one `Fetched` or
//!   `FetchFailed`, each [`Action::CommitCursor`] by one `CursorCommitted` or `CommitFailed`, now or later. `Acked` and
//!   `Failed` may come in any order, twice, never, or after the connection has ended.
//! - Only the newest [`Action::WakeAt`] counts: [`Input::Timer`] when it has come. Nothing is done by polling; while
//!   something waits and nobody owes an answer, a wake-up is set, and it always lies in the future.
//! - [`Input::RetentionMoved`] with the store's own cursor whenever convenient, at the latest before `Up`.

mod action;
mod aside;
mod cursor;
mod flow;
mod forwarder;
mod held;
mod jitter;
mod keys;
mod lane;
mod ledger;
mod link;
mod lost;
mod options;
mod progress;
mod pump;
mod reading;
mod slot;
mod time;
mod trouble;

#[cfg(test)]
mod tests;

pub use action::{Action, Input, Report};
pub use forwarder::{Counters, Forwarder};
pub use options::{Backoff, Options, OptionsError, Order, Pipeline, StreamOptions, Volume};
pub use progress::Progress;
