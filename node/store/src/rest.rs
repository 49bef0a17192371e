//! When it pays to let work gather: while the committer waits for a group to fill, nobody is answered before it is full or
//! its time is over. Whoever takes events in may rest meanwhile, and then take in what has come all at once, instead of
//! waking up for each of them.
//!
//! It is advice and nothing else: an ingress that ignores it is right too. The committer says until when; the one who hands it
//! the last commit of a group takes that back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared by the committer and whoever takes events in.
#[derive(Debug)]
pub struct Rest {
    base: Instant,
    /// Nanoseconds after `base`; zero: no rest.
    until: AtomicU64,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest { base: Instant::now(), until: AtomicU64::new(0) }
    }
}

impl Rest {
    /// Longest in one piece: others are served by the same thread.
    pub const LONGEST: Duration = Duration::from_millis(2);
    /// A shorter one costs more than it saves.
    pub const SHORTEST: Duration = Duration::from_micros(300);

    /// How long to rest now; `None` if something may be gained by going on.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Acquire);
        let left = Duration::from_nanos(until.saturating_sub(self.now_ns()));
        (left >= Self::SHORTEST).then(|| left.min(Self::LONGEST))
    }

    /// A group is being gathered.
    pub(crate) fn advise(&self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(0);
        self.until.store(self.now_ns().saturating_add(time_ns), Ordering::Release);
    }

    /// The group is complete, or is being written.
    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_bounded_and_ends_when_it_is_called_off() {
        let rest = Rest::default();
        assert_eq!(rest.left(), None);
        rest.advise(Duration::from_secs(60));
        assert_eq!(rest.left(), Some(Rest::LONGEST));
        rest.end();
        assert_eq!(rest.left(), None);
        rest.advise(Duration::from_micros(200));
        assert_eq!(rest.left(), None, "too short to save a wake-up");
    }
}
