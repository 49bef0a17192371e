//! The connection: when to try, which address, when it counts as dead.

use super::jitter::Jitter;
use super::{Backoff, Options};
use std::time::Duration;

/// How much later than its timeout an uplink may answer an attempt to connect before it is taken for failed.
const CONNECT_GRACE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not begun.
    Idle,
    /// Between two attempts.
    Waiting { until: Duration },
    /// An attempt is under way.
    Connecting { deadline: Duration },
    /// Connected; `acked` is true after the first acknowledgement.
    Up { since: Duration, acked: bool },
}

/// Which attempt is to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) index: usize,
    pub(super) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Link {
    state: State,
    index: usize,
    /// Attempts since the last good connection that somebody took.
    failures: u32,
    /// Attempts in a row that nobody took.
    unanswered: u32,
    addresses: usize,
    backoff: Backoff,
    probing: Backoff,
    timeout: Duration,
    stable_after: Duration,
}

impl Link {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            state: State::Idle,
            index: 0,
            failures: 0,
            unanswered: 0,
            addresses: options.addresses.max(1),
            backoff: options.connect,
            probing: probing(options),
            timeout: options.connect_timeout,
            stable_after: options.stable_after,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Begins an attempt.
    pub(super) fn attempt(&mut self, now: Duration) -> Attempt {
        self.state = State::Connecting { deadline: now + self.timeout + CONNECT_GRACE };
        Attempt { index: self.index, timeout: self.timeout }
    }

    /// The attempt succeeded; false if there was none, so that what connected is not ours.
    pub(super) fn up(&mut self, now: Duration) -> bool {
        let expected = matches!(self.state, State::Connecting { .. } | State::Up { .. });
        if expected {
            self.state = State::Up { since: now, acked: false };
        }
        expected
    }

    /// The upstream took something over on this connection. It works: the backoff begins anew when it ends.
    pub(super) fn acked(&mut self) {
        if let State::Up { acked, .. } = &mut self.state {
            *acked = true;
        }
    }

    /// True while this connection has not acknowledged anything.
    pub(super) fn is_barren(&self) -> bool {
        !matches!(self.state, State::Up { acked: true, .. })
    }

    /// The connection ended or was not made; returns when to try again. A good connection is looked for at the first
    /// address again, a bad one at the next address; the delay grows with each round over all of them. A single address
    /// is left alone for `pause` at least.
    pub(super) fn down(&mut self, now: Duration, pause: Duration, jitter: &mut Jitter) -> Duration {
        let good = match self.state {
            State::Up { since, acked } => acked || now.saturating_sub(since) >= self.stable_after,
            _ => false,
        };
        if good {
            self.failures = 0;
            self.index = 0;
        } else {
            self.index = (self.index + 1) % self.addresses;
        }
        let round = self.round(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.unanswered = 0;
        let pause = if self.addresses == 1 { pause } else { Duration::ZERO };
        self.wait(now + jitter.delay(self.backoff, round).max(pause))
    }

    /// Nobody took the connection. The next address is tried, and soon: a closed port is no work for anybody, and how long
    /// a link is back unnoticed is what an outage adds to itself. What upstreams that did answer have asked for stays.
    pub(super) fn unreachable(&mut self, now: Duration, jitter: &mut Jitter) -> Duration {
        self.index = (self.index + 1) % self.addresses;
        let round = self.round(self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
        self.wait(now + jitter.delay(self.probing, round))
    }

    fn round(&self, attempts: u32) -> u32 {
        attempts / u32::try_from(self.addresses).unwrap_or(u32::MAX)
    }

    fn wait(&mut self, until: Duration) -> Duration {
        self.state = State::Waiting { until };
        until
    }

    /// When this part wants to be asked again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline } => Some(deadline),
            State::Idle | State::Up { .. } => None,
        }
    }
}

fn probing(options: &Options) -> Backoff {
    let cap = options.unreachable_max.max(Duration::from_millis(1)).min(options.connect.cap);
    Backoff { base: options.connect.base.min(cap), cap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store::UplinkId;

    fn link(addresses: usize) -> (Link, Jitter) {
        let options = Options { addresses, ..Options::new(UplinkId(0)) };
        (Link::new(&options), Jitter::new(1))
    }

    const NO_PAUSE: Duration = Duration::ZERO;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_failed_attempt_goes_on_with_the_next_address_and_the_round_grows_the_delay() {
        let (mut link, mut jitter) = link(2);
        let mut indices = Vec::new();
        let mut delays = Vec::new();
        for _ in 0..6 {
            indices.push(link.attempt(at(0)).index);
            delays.push(link.down(at(0), NO_PAUSE, &mut jitter));
        }
        assert_eq!(indices, [0, 1, 0, 1, 0, 1]);
        assert!(delays[0] <= at(250) && delays[1] <= at(250), "{delays:?}");
        assert!(delays[4] >= at(500) && delays[5] >= at(500), "{delays:?}");
    }

    #[test]
    fn a_good_connection_is_looked_for_at_the_first_address_again() {
        let (mut link, mut jitter) = link(3);
        link.attempt(at(0));
        link.down(at(0), NO_PAUSE, &mut jitter);
        assert_eq!(link.attempt(at(300)).index, 1);
        assert!(link.up(at(300)));
        link.acked();
        let retry = link.down(at(400), NO_PAUSE, &mut jitter);
        assert!(retry <= at(650), "the backoff began anew: {retry:?}");
        assert_eq!(link.attempt(retry).index, 0);
    }

    #[test]
    fn a_connection_that_dies_young_counts_as_a_failure() {
        let (mut link, mut jitter) = link(1);
        let mut last = at(0);
        for _ in 0..12 {
            link.attempt(last);
            assert!(link.up(last));
            let until = link.down(last + at(1), NO_PAUSE, &mut jitter);
            assert!(until > last + at(100), "no tight loop");
            last = until;
        }
        assert!(last >= at(60_000), "the delay grew: {last:?}");
    }

    #[test]
    fn a_long_connection_without_traffic_is_a_good_one() {
        let (mut link, mut jitter) = link(2);
        for _ in 0..10 {
            link.attempt(at(0));
            link.down(at(0), NO_PAUSE, &mut jitter);
        }
        link.attempt(at(0));
        link.up(at(0));
        let retry = link.down(at(10_000), NO_PAUSE, &mut jitter);
        assert!(retry <= at(10_250));
        assert_eq!(link.attempt(retry).index, 0);
    }

    #[test]
    fn a_pause_that_was_asked_for_holds_for_a_single_address_only() {
        let (mut link, mut jitter) = link(1);
        link.attempt(at(0));
        assert_eq!(link.down(at(0), at(120_000), &mut jitter), at(120_000));
        let (mut link, mut jitter) = self::link(2);
        link.attempt(at(0));
        assert!(link.down(at(0), at(120_000), &mut jitter) <= at(250), "the other one may be fine");
        assert_eq!(link.attempt(at(250)).index, 1);
    }

    #[test]
    fn a_closed_port_is_tried_every_second_and_a_server_that_refuses_is_not() {
        let (mut link, mut jitter) = link(1);
        let mut now = at(0);
        for _ in 0..1_000 {
            link.attempt(now);
            let until = link.unreachable(now, &mut jitter);
            assert!(until - now >= at(125) && until - now <= at(1_000), "{:?}", until - now);
            now = until;
        }
        assert!(now >= at(480_000), "on average three quarters of a second: {now:?}");
        let first = link.down(now, NO_PAUSE, &mut jitter) - now;
        assert!(first <= at(250), "it has not refused us before: {first:?}");
        let mut last = now;
        for _ in 0..12 {
            last = link.down(last, NO_PAUSE, &mut jitter);
            last = link.unreachable(last, &mut jitter);
        }
        assert!(
            last - now >= at(100_000),
            "a port that is closed now and then hides no refusals: {:?}",
            last - now
        );
    }

    #[test]
    fn whoever_is_patient_with_everybody_is_so_with_a_closed_port() {
        let options = Options { unreachable_max: at(60_000), ..Options::new(UplinkId(0)) };
        let (mut link, mut jitter) = (Link::new(&options), Jitter::new(1));
        let delays: Vec<_> = (0..12).map(|_| link.unreachable(at(0), &mut jitter)).collect();
        assert!(delays[11] >= at(15_000) && delays[11] <= at(30_000), "{delays:?}");
    }

    #[test]
    fn an_unexpected_up_is_not_ours() {
        let (mut link, mut jitter) = link(1);
        assert!(!link.up(at(0)));
        link.attempt(at(0));
        link.down(at(0), NO_PAUSE, &mut jitter);
        assert!(!link.up(at(1)));
    }
}
