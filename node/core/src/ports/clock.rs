//! Time from outside.

use crate::event::Timestamp;
use std::time::Duration;

/// The two clocks of the node. Simulation turns both by hand.
pub trait Clock: Send + Sync {
    /// Wall clock, UTC. May jump, may stand at 1970.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}
