//! What the rules need from the world, as traits. Adapters implement them, `daemon` puts them together, tests replace,
//! fake or break them.
//!
//! Nothing here blocks the caller's thread for a disk or a network: long work takes a [`Completion`] and calls it
//! exactly once, from whichever thread finished it.

pub mod clock;
pub mod hub;
pub mod store;
pub mod uplink;

/// Called exactly once with the outcome; may be called from another thread, must not block.
pub type Completion<T> = Box<dyn FnOnce(T) + Send>;
