//! When to ask the runtime whether it is there, and when a connection is dead.

use std::time::Duration;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// Ask: nothing was heard for half the interval.
    Ask,
    /// Nothing was heard for so long after the question.
    Lost(Duration),
}

/// Keep-alive of one connection: any byte from the peer is a sign of life; half an interval of silence is a question, and an interval
/// without an answer is the end. So a black hole is noticed within one and a half intervals, whether or not there is something to send.
///
/// Times are since the connection came up.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    interval: Duration,
    heard: Duration,
    asked: Option<Duration>,
}

impl KeepAlive {
    /// `interval`: zero switches it off.
    pub(crate) fn new(interval: Duration) -> KeepAlive {
        KeepAlive { interval, heard: Duration::ZERO, asked: None }
    }

    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.asked = None;
    }

    /// To be called several times in an interval.
    pub(crate) fn due(&mut self, now: Duration) -> Due {
        if self.interval.is_zero() {
            return Due::Nothing;
        }
        match self.asked {
            None if now.saturating_sub(self.heard) >= self.interval / 2 => {
                self.asked = Some(now);
                Due::Ask
            }
            Some(asked) if now.saturating_sub(asked) >= self.interval => Due::Lost(now - asked),
            _ => Due::Nothing,
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
    fn silence_is_asked_about_and_then_lost_within_one_and_a_half_intervals() {
        let mut alive = KeepAlive::new(s(10));
        let seen: Vec<Due> = (0..=15).map(|n| alive.due(s(n))).collect();
        let mut expected = [Due::Nothing; 16];
        expected[5] = Due::Ask;
        expected[15] = Due::Lost(s(10));
        assert_eq!(seen, expected);
    }

    #[test]
    fn any_byte_starts_it_anew() {
        let mut alive = KeepAlive::new(s(10));
        for n in 1..10 {
            assert_eq!(alive.due(s(n * 6 - 1)), Due::Ask);
            alive.heard(s(n * 6));
            assert_eq!(alive.due(s(n * 6 + 4)), Due::Nothing);
        }
        assert_eq!(KeepAlive::new(s(0)).due(s(1_000)), Due::Nothing);
    }
}
