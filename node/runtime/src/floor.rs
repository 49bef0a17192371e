//! A floor under the wall clock, for certificates.
//!
//! A gateway without a battery starts in 1970, and in 1970 every certificate is not valid yet: no TLS, and where time
//! comes over the network, no time either. So the node remembers what time it has seen and counts on from there while the
//! clock is behind. Only certificates are checked against it: events get no time that was made up
//! ([`Timestamp::is_plausible`]).

use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The floor is written down this often; a restart costs at most as much of it.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
/// A clock that is set, and stays behind the floor for so long, is right: the floor was taken from one that was ahead.
const BELIEVE_AFTER: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
struct State {
    /// The latest time seen, and when (monotonic).
    floor: Timestamp,
    at: Duration,
    /// Since when a clock that is set has been behind it.
    behind_since: Option<Duration>,
    /// When it was last written down.
    kept_at: Option<Duration>,
}

/// The time for certificates: the clock's, or the floor's while the clock is behind it.
pub struct TimeFloor {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl TimeFloor {
    /// `kept` is what an earlier run wrote down.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, kept: Option<Timestamp>) -> TimeFloor {
        let floor = kept.unwrap_or(Timestamp::CLOCK_SET).max(Timestamp::CLOCK_SET);
        let state = State { floor, at: clock.monotonic(), behind_since: None, kept_at: None };
        TimeFloor { clock, state: Mutex::new(state) }
    }

    /// What certificates are checked against.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let (wall, up) = (self.clock.now(), self.clock.monotonic());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = state.floor.after(up.saturating_sub(state.at));
        if wall >= floor {
            (state.floor, state.at, state.behind_since) = (wall, up, None);
            return wall;
        }
        if !wall.is_plausible() {
            state.behind_since = None;
            return floor;
        }
        let since = *state.behind_since.get_or_insert(up);
        if up.saturating_sub(since) < BELIEVE_AFTER {
            return floor;
        }
        (state.floor, state.at, state.behind_since) = (wall, up, None);
        wall
    }

    /// What is to be written down now, if it is time: at the first call, and then every hour. Nothing while the clock is
    /// not set: the floor alone is no news.
    #[must_use]
    pub fn to_keep(&self) -> Option<Timestamp> {
        let now = self.now();
        let up = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.kept_at.is_none_or(|at| up.saturating_sub(at) >= KEEP_EVERY);
        if !due || !self.clock.now().is_plausible() {
            return None;
        }
        state.kept_at = Some(up);
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[derive(Default)]
    struct Hands {
        wall: AtomicU64,
        up: AtomicU64,
    }

    impl Hands {
        fn turn(&self, wall: u64, up_secs: u64) {
            self.wall.store(wall, SeqCst);
            self.up.store(up_secs, SeqCst);
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp(self.wall.load(SeqCst))
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.up.load(SeqCst))
        }
    }

    const KEPT: Timestamp = Timestamp(1_795_000_000_000);

    fn floor(kept: Option<Timestamp>) -> (Arc<Hands>, TimeFloor) {
        let hands = Arc::new(Hands::default());
        (Arc::clone(&hands), TimeFloor::new(hands, kept))
    }

    #[test]
    fn in_1970_time_goes_on_from_what_was_kept() {
        let (hands, floor) = floor(Some(KEPT));
        assert_eq!(floor.now(), KEPT);
        hands.turn(3_600_000, 3_600);
        assert_eq!(floor.now(), KEPT.after(Duration::from_secs(3_600)));
        hands.turn(30 * 86_400_000, 30 * 86_400);
        assert_eq!(floor.now(), KEPT.after(Duration::from_secs(30 * 86_400)), "however long");
        assert_eq!(floor.to_keep(), None);
    }

    #[test]
    fn a_clock_that_is_set_is_right_and_is_kept_once_an_hour() {
        let (hands, floor) = floor(None);
        hands.turn(KEPT.0, 5);
        assert_eq!((floor.now(), floor.to_keep(), floor.to_keep()), (KEPT, Some(KEPT), None));
        hands.turn(KEPT.0 + 3_600_000, 3_605);
        assert_eq!(floor.to_keep(), Some(Timestamp(KEPT.0 + 3_600_000)));
    }

    #[test]
    fn a_clock_behind_the_floor_is_believed_after_a_day() {
        let (hands, floor) = floor(Some(KEPT));
        let behind = Timestamp(KEPT.0 - 400 * 86_400_000);
        hands.turn(behind.0, 0);
        assert_eq!(floor.now(), KEPT);
        hands.turn(behind.0 + 86_000_000, 86_000);
        assert_eq!(floor.now(), KEPT.after(Duration::from_secs(86_000)));
        hands.turn(behind.0 + 86_400_000, 86_400);
        assert_eq!(floor.now(), Timestamp(behind.0 + 86_400_000), "needs no hands (P6)");
    }
}
