//! How many publishes are in flight: found out from latency, within bounds.
//!
//! What a pipe holds is its rate times its round trip; twice that keeps it full whatever jitters, and more only queues at the
//! runtime and makes every answer late. Both factors are measured, from answers alone:
//!
//! ```text
//! limit = 2 × (best rate of the last rounds) × (shortest round trip of the last half minute) + SPARE
//! ```
//! At the start the rate is what the window allows, so the limit doubles with every round until the pipe is full. A round trip that was
//! measured with a queue in it is too long; so once in [`PROBE_EVERY`] the limit falls to [`SPARE`] for one round, which empties the
//! queue, and the round trip is measured anew.

use std::collections::VecDeque;
use std::time::Duration;

/// Always allowed: enough that every write carries many events, little enough for any runtime.
const SPARE: usize = 64;
/// Rounds whose best rate counts.
const ROUNDS: usize = 8;
/// How old the shortest round trip may become.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// After "speed over limit" nothing is sent for this long, doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The limit, and what it follows from. Times are since the connection came up.
#[derive(Debug)]
pub(crate) struct Window {
    max: usize,
    limit: usize,
    shortest: Option<(Duration, Duration)>,
    probing: bool,
    rates: VecDeque<u64>,
    round: Round,
    pause: Duration,
    resume_at: Duration,
}

/// From the sending of one event to its answer.
#[derive(Debug, Default, Clone, Copy)]
struct Round {
    start: Duration,
    answered: usize,
    /// Less was in flight than allowed: the rate says what there was to send, not what the pipe takes.
    idle: bool,
}

impl Window {
    pub(crate) fn new(max: usize) -> Window {
        let max = max.max(1);
        Window {
            max,
            limit: SPARE.min(max),
            shortest: None,
            probing: false,
            rates: VecDeque::with_capacity(ROUNDS),
            round: Round::default(),
            pause: Duration::ZERO,
            resume_at: Duration::ZERO,
        }
    }

    /// Whether one more may go out while `in_flight` are unanswered.
    pub(crate) fn allows(&self, in_flight: usize, now: Duration) -> bool {
        in_flight < self.limit && now >= self.resume_at
    }

    /// When sending may go on, if it is paused.
    pub(crate) fn resumes_at(&self, now: Duration) -> Option<Duration> {
        (now < self.resume_at).then_some(self.resume_at)
    }

    /// There was nothing to send although there was room.
    pub(crate) fn idle(&mut self) {
        self.round.idle = true;
    }

    /// An event sent at `sent` was taken over now.
    pub(crate) fn taken(&mut self, sent: Duration, now: Duration) {
        let trip = now.saturating_sub(sent);
        if self.shortest.is_none_or(|(shortest, _)| trip <= shortest) {
            self.shortest = Some((trip, now));
        }
        self.round.answered += 1;
        self.pause = Duration::ZERO;
        // The answer to something sent after the round began ends it.
        if sent >= self.round.start {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Duration) {
        let round = self.round;
        self.round = Round { start: now, ..Round::default() };
        let took = now.saturating_sub(round.start);
        if took.is_zero() {
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let per_second = (round.answered as u64).saturating_mul(1_000_000_000) / nanos.max(1);
        let best = self.rates.iter().max().copied().unwrap_or(0);
        // A round with too little to send may raise the best rate and never lowers it.
        if !self.probing && (!round.idle || per_second > best) {
            if self.rates.len() == ROUNDS {
                self.rates.pop_front();
            }
            self.rates.push_back(per_second);
        }
        self.resize(now);
    }

    fn resize(&mut self, now: Duration) {
        let Some((shortest, at)) = self.shortest else { return };
        self.probing = !self.probing && now.saturating_sub(at) > PROBE_EVERY;
        if self.probing {
            self.shortest = None;
            self.limit = SPARE.min(self.max);
            return;
        }
        let best = self.rates.iter().max().copied().unwrap_or(0);
        let micros = u64::try_from(shortest.as_micros()).unwrap_or(u64::MAX);
        let in_pipe = best.saturating_mul(micros) / 1_000_000;
        let wanted = usize::try_from(in_pipe.saturating_mul(2)).unwrap_or(usize::MAX).saturating_add(SPARE);
        self.limit = wanted.min(self.max);
    }

    /// The runtime said that it is too much: half of it, after a pause.
    pub(crate) fn overloaded(&mut self, now: Duration) {
        // One pause for all the answers of one burst.
        if now < self.resume_at {
            return;
        }
        self.limit = (self.limit / 2).max(1);
        self.rates.clear();
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.resume_at = now + self.pause;
    }

    /// The limit of now, for `status`.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// A pipe of fixed delay behind a server that takes one event in `service`; always something to send. Events per second, and the
    /// longest that one waited.
    fn run(
        window: &mut Window,
        delay: Duration,
        service: Duration,
        from: Duration,
        span: Duration,
    ) -> (f64, Duration) {
        let (mut now, mut free, mut taken, mut longest) = (from, from, 0_u32, Duration::ZERO);
        let mut answers: BinaryHeap<Reverse<(Duration, Duration)>> = BinaryHeap::new();
        while now < from + span {
            while window.allows(answers.len(), now) {
                free = free.max(now + delay / 2) + service;
                answers.push(Reverse((free + delay / 2, now)));
            }
            let Some(Reverse((at, sent))) = answers.pop() else { break };
            now = now.max(at);
            window.taken(sent, now);
            taken += 1;
            longest = longest.max(now - sent);
        }
        (f64::from(taken) / span.as_secs_f64(), longest)
    }

    #[test]
    fn a_long_pipe_is_filled_and_a_short_one_not_flooded() {
        for (delay, service) in
            [(us(100_000), us(50)), (us(20_000), us(100)), (us(200), us(20)), (us(200), us(1_000))]
        {
            let mut window = Window::new(8_192);
            run(&mut window, delay, service, Duration::ZERO, Duration::from_secs(3));
            let (rate, longest) =
                run(&mut window, delay, service, Duration::from_secs(3), Duration::from_secs(3));
            let best = 1.0 / service.as_secs_f64();
            assert!(rate >= 0.85 * best, "{delay:?} {service:?}: {rate} of {best}, limit {}", window.limit());
            // Twice the pipe, and the spare ones.
            let fair = 3 * (delay + service) + service * 2 * u32::try_from(SPARE).unwrap();
            assert!(longest <= fair, "{delay:?} {service:?}: waited {longest:?}, limit {}", window.limit());
        }
    }

    #[test]
    fn the_round_trip_is_measured_anew_when_the_path_becomes_longer() {
        let mut window = Window::new(8_192);
        run(&mut window, us(1_000), us(50), Duration::ZERO, Duration::from_secs(5));
        run(&mut window, us(100_000), us(50), Duration::from_secs(5), Duration::from_secs(60));
        let (rate, longest) =
            run(&mut window, us(100_000), us(50), Duration::from_secs(65), Duration::from_secs(25));
        assert!(rate >= 17_000.0, "{rate}, limit {}", window.limit());
        assert!(longest <= us(450_000), "{longest:?}");
    }

    #[test]
    fn bounds_hold_and_an_idle_uplink_keeps_what_it_knew() {
        let mut window = Window::new(100);
        run(&mut window, us(100_000), us(10), Duration::ZERO, Duration::from_secs(5));
        assert_eq!(window.limit(), 100);
        for n in 0..1_000 {
            let now = Duration::from_secs(6) + us(200_000) * n;
            window.idle();
            window.taken(now - us(100_000), now);
        }
        assert!(window.limit() >= SPARE, "{}", window.limit());
        assert!(Window::new(0).allows(0, Duration::ZERO), "one at least");
    }

    #[test]
    fn overload_halves_and_pauses_longer_each_time() {
        let mut window = Window::new(64);
        let at = Duration::from_secs(1);
        window.overloaded(at);
        window.overloaded(at);
        assert_eq!(window.limit(), 32, "one burst is one overload");
        assert!(!window.allows(0, at));
        assert_eq!(window.resumes_at(at), Some(at + PAUSE_MIN));
        window.overloaded(at + PAUSE_MIN);
        assert_eq!(window.resumes_at(at + PAUSE_MIN), Some(at + PAUSE_MIN * 3));
        for n in 0..100 {
            window.overloaded(at * n * 10);
        }
        assert_eq!(window.limit(), 1);
        assert!(window.allows(0, at * 2_000));
    }
}
