//! Topics that the runtime refuses at present (code 14): held, not condemned.
//!
//! On standalone storage a topic that nobody subscribes answers 14, and so does one that a broker does not have yet. That is no fault of
//! the events: they wait. After the first refusal the topic's circuit is open and its events are given back at once, without a call, to be
//! set aside by the forwarder; when the time is up it offers one of them, which goes out to try.

use std::collections::HashMap;
use std::time::Duration;

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Topics remembered; beyond it the one that is due first is forgotten, which costs a call (P5).
const TOPICS_MAX: usize = 1_024;

/// May an event of this topic go out?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Yes.
    Open,
    /// Yes, as the one that tries.
    Try,
    /// Not before so long.
    Held(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Duration,
    failures: u32,
    trying: bool,
}

/// All topics that are held.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    held: HashMap<Box<str>, Held>,
}

impl Circuits {
    pub(crate) fn gate(&mut self, topic: &str, now: Duration) -> Gate {
        if self.held.is_empty() {
            return Gate::Open;
        }
        let Some(held) = self.held.get_mut(topic) else { return Gate::Open };
        if held.trying {
            return Gate::Held(WAIT_MIN);
        }
        if now < held.until {
            return Gate::Held(held.until - now);
        }
        held.trying = true;
        Gate::Try
    }

    /// The topic took an event.
    pub(crate) fn taken(&mut self, topic: &str) {
        if !self.held.is_empty() {
            self.held.remove(topic);
        }
    }

    /// The topic was refused; returns for how long it is held now.
    pub(crate) fn refused(&mut self, topic: &str, now: Duration) -> Duration {
        if self.held.len() >= TOPICS_MAX && !self.held.contains_key(topic) {
            self.forget_one();
        }
        let held = self.held.entry(topic.into()).or_insert(Held { until: now, failures: 0, trying: true });
        // Answers to what was under way when the circuit opened are the same news.
        if held.trying || now >= held.until {
            held.until = now + (WAIT_MIN * 2_u32.saturating_pow(held.failures.min(6))).min(WAIT_MAX);
            held.failures = held.failures.saturating_add(1);
            held.trying = false;
        }
        held.until.saturating_sub(now)
    }

    /// The one that tried was not answered, or was answered with something else.
    pub(crate) fn unsettled(&mut self, topic: &str) {
        if let Some(held) = self.held.get_mut(topic) {
            held.trying = false;
        }
    }

    fn forget_one(&mut self) {
        let first = self.held.iter().min_by_key(|(_, h)| h.until).map(|(topic, _)| topic.clone());
        if let Some(topic) = first {
            self.held.remove(&topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_tries_while_the_others_wait_and_success_opens_the_gate() {
        let mut all = Circuits::default();
        assert_eq!(all.gate("t", s(0)), Gate::Open);
        assert_eq!(all.refused("t", s(0)), s(1));
        assert_eq!(all.refused("t", s(0)), s(1), "under way when it opened");
        assert_eq!(all.gate("t", s(0)), Gate::Held(s(1)));
        assert_eq!(all.gate("u", s(0)), Gate::Open);
        assert_eq!(all.gate("t", s(1)), Gate::Try);
        assert_eq!(all.gate("t", s(1)), Gate::Held(WAIT_MIN));
        assert_eq!(all.refused("t", s(1)), s(2));
        assert_eq!(all.gate("t", s(2)), Gate::Held(s(1)));
        assert_eq!(all.gate("t", s(3)), Gate::Try);
        all.unsettled("t");
        assert_eq!(all.gate("t", s(3)), Gate::Try, "the try was lost, another may");
        all.taken("t");
        assert_eq!((all.gate("t", s(3)), all.held.len()), (Gate::Open, 0));
    }

    #[test]
    fn the_wait_grows_to_a_minute_and_no_further() {
        let (mut all, mut now, mut waits) = (Circuits::default(), s(0), Vec::new());
        for _ in 0..9 {
            let wait = all.refused("t", now);
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(all.gate("t", now), Gate::Try);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn the_number_of_topics_is_bounded() {
        let mut all = Circuits::default();
        for n in 0..5_000_u64 {
            all.refused(&n.to_string(), s(n));
        }
        assert_eq!(all.held.len(), TOPICS_MAX);
    }
}
