//! Positions and the ids made from them (P3).

use crate::Text;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which log a position belongs to: drawn at random when a data directory is made, and again when a copy of it is
/// recognised. Two logs never share a derived id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId(pub u32);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Place of an event in the log: 24 bits of epoch above 40 bits of counter.
///
/// Each start of the node takes the next epoch, made durable before the first commit, so a position handed out before a
/// power cut is never handed out again, whether or not its record survived (P3). 16 M starts, 10^12 events per start.
/// Zero is before every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    const COUNTER_BITS: u32 = 40;
    /// Before every event: where a new cursor starts.
    pub const ZERO: Position = Position(0);
    /// Largest epoch.
    pub const EPOCH_MAX: u32 = (1 << 24) - 1;

    /// First position of an epoch (counter 1).
    #[must_use]
    pub fn first_of(epoch: u32) -> Position {
        Position((u64::from(epoch & Self::EPOCH_MAX) << Self::COUNTER_BITS) | 1)
    }

    /// The epoch it was given in.
    #[must_use]
    pub fn epoch(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// Its number within the epoch, from 1.
    #[must_use]
    pub fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.counter())
    }
}

/// CloudEvents `id` of an event whose sender gave none: `<log>.<epoch>-<counter>`, for example `5f3a9c01.3-118`.
#[must_use]
pub fn derived_id(log: LogId, position: Position) -> Text {
    Text::from(format!("{log}.{}-{}", position.epoch(), position.counter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_after_every_position_of_an_earlier_one() {
        let last_of_3 = Position(Position::first_of(4).0 - 2);
        assert_eq!(last_of_3.epoch(), 3);
        assert!(Position::first_of(4) > last_of_3);
        assert_eq!(Position::first_of(4).counter(), 1);
    }

    #[test]
    fn derived_ids_name_log_epoch_and_counter() {
        assert_eq!(derived_id(LogId(0x5f3a_9c01), Position(Position::first_of(3).0 + 117)), "5f3a9c01.3-118");
    }
}
