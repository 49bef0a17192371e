//! What is remembered about the few events that were refused or that died with a connection.

use std::collections::BTreeMap;
use std::time::Duration;

/// After this many connections in a row that ended with the same event first and nothing acknowledged, the event is
/// suspected of killing them, and others are sent before it.
const SUSPECT_AFTER: u32 = 3;
/// A suspect waits no longer than this many doublings: long enough to let others go first.
const SUSPECT_DOUBLINGS: u32 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    /// Refusals in a row: the exponent of its backoff.
    failures: u32,
    /// Attempts that count towards parking.
    attempts: u32,
    /// Connections that ended with it.
    deaths: u32,
    /// Acknowledgements that the uplink had seen at its last attempt.
    acks_seen: u64,
    until: Option<Duration>,
}

impl Trouble {
    /// An attempt counts only if the upstream took something else meanwhile, or if nothing else can be tried: while it
    /// takes nothing at all, the fault is not the event's.
    fn count(&mut self, acks: u64, alone: bool) {
        if self.attempts == 0 || acks > self.acks_seen || alone {
            self.attempts = self.attempts.saturating_add(1);
        }
        self.acks_seen = acks;
    }
}

/// By slot number.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<u64, Trouble>);

impl Troubles {
    /// The upstream refused `no` for the moment. Returns its earlier failures, for the backoff.
    pub(super) fn refused(&mut self, no: u64, acks: u64, alone: bool) -> u32 {
        let trouble = self.0.entry(no).or_default();
        trouble.count(acks, alone);
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.failures - 1
    }

    /// A connection ended with `no` unanswered, and `no` may be why.
    pub(super) fn died(&mut self, no: u64, acks: u64, alone: bool) {
        let trouble = self.0.entry(no).or_default();
        trouble.count(acks, alone);
        trouble.deaths = trouble.deaths.saturating_add(1);
    }

    /// The suspects, each with the exponent of its delay.
    pub(super) fn suspects(&self) -> Vec<(u64, u32)> {
        let exponent = |(no, trouble): (&u64, &Trouble)| {
            trouble.deaths.checked_sub(SUSPECT_AFTER).map(|more| (*no, more.min(SUSPECT_DOUBLINGS)))
        };
        self.0.iter().filter_map(exponent).collect()
    }

    pub(super) fn wait(&mut self, no: u64, until: Duration) {
        self.0.entry(no).or_default().until = Some(until);
    }

    pub(super) fn waits_until(&self, no: u64) -> Option<Duration> {
        self.0.get(&no)?.until
    }

    pub(super) fn attempts(&self, no: u64) -> u32 {
        self.0.get(&no).map_or(0, |trouble| trouble.attempts)
    }

    pub(super) fn forget(&mut self, no: u64) {
        if !self.0.is_empty() {
            self.0.remove(&no);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_only_while_the_upstream_takes_other_events() {
        let mut troubles = Troubles::default();
        for _ in 0..10 {
            troubles.refused(1, 100, false);
        }
        assert_eq!(troubles.attempts(1), 1, "an upstream that takes nothing condemns nobody");
        troubles.refused(1, 101, false);
        assert_eq!(troubles.attempts(1), 2);
        troubles.refused(1, 101, true);
        assert_eq!(troubles.attempts(1), 3, "nothing else to try");
    }

    #[test]
    fn an_event_is_suspected_after_three_dead_connections() {
        let mut troubles = Troubles::default();
        let mut verdicts = Vec::new();
        for _ in 0..9 {
            troubles.died(4, 0, false);
            verdicts.push(troubles.suspects().first().copied());
        }
        assert_eq!(verdicts[..4], [None, None, Some((4, 0)), Some((4, 1))]);
        assert_eq!(verdicts[8], Some((4, 4)));
        troubles.forget(4);
        assert_eq!(troubles.suspects(), []);
    }
}
