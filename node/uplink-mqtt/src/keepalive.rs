//! When to send PINGREQ, and when a link is dead.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet; the task will be woken.
    Nothing,
    /// Send PINGREQ.
    Ping,
    /// Nothing was heard for so long after a PINGREQ had left.
    Lost(Duration),
    /// Nothing was heard, and nothing could be sent, for so long.
    Stuck(Duration),
}

/// Where a PINGREQ is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    None,
    /// Behind bytes that the socket has not taken yet; it took some at this moment.
    Waiting(Instant),
    /// On its way since this moment.
    Asked(Instant),
}

/// Keep-alive of one connection.
///
/// PINGREQ goes out when for half the interval nothing was sent, so the server hears from us within the interval [MQTT-3.1.2-20], or
/// nothing was heard: a server that takes what we send and says nothing is asked. Any byte counts as an answer; without one the link is dead an
/// interval after the question, that is within one and a half intervals.
///
/// A question may stand behind a window of events, and on a slow way those take longer than any interval. So the answer is
/// due an interval after the socket took the question, and until then each byte that it takes is a sign of life. What stands
/// before the question is finite: whoever reads and never answers is noticed all the same.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// Zero: off.
    interval: Duration,
    heard: Instant,
    spoke: Instant,
    question: Question,
    /// Armed at or before the moment that something is due, and moved only when it fires: traffic does not touch it.
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(crate) fn new(interval: Duration) -> KeepAlive {
        let now = Instant::now();
        let timer = Box::pin(sleep(interval / 2));
        KeepAlive { interval, heard: now, spoke: now, question: Question::None, timer }
    }

    /// Bytes came.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
        self.question = Question::None;
    }

    /// Bytes went.
    pub(crate) fn spoke(&mut self) {
        self.spoke = Instant::now();
        if let Question::Waiting(since) = &mut self.question {
            *since = self.spoke;
        }
    }

    /// When bytes went last.
    pub(crate) fn last_spoke(&self) -> Instant {
        self.spoke
    }

    /// Everything that was to be sent has gone.
    pub(crate) fn said_all(&mut self) {
        if let Question::Waiting(_) = self.question {
            self.question = Question::Asked(Instant::now());
        }
    }

    /// To be called until it says [`Due::Nothing`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Due {
        if self.interval.is_zero() {
            return Due::Nothing;
        }
        loop {
            if self.timer.as_mut().poll(cx) == Poll::Pending {
                return Due::Nothing;
            }
            let now = Instant::now();
            let half = self.interval / 2;
            let due = match self.question {
                Question::None => self.heard.min(self.spoke) + half,
                Question::Waiting(since) | Question::Asked(since) => since + self.interval,
            };
            if now < due {
                self.timer.as_mut().reset(due.min(now + half));
                continue;
            }
            self.timer.as_mut().reset(now + half);
            return match std::mem::replace(&mut self.question, Question::Waiting(now)) {
                Question::None => Due::Ping,
                Question::Waiting(since) => Due::Stuck(now - since),
                Question::Asked(since) => Due::Lost(now - since),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn poll(alive: &mut KeepAlive) -> Due {
        alive.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    const INTERVAL: Duration = Duration::from_secs(10);

    async fn step(alive: &mut KeepAlive, ms: u64) -> Due {
        advance(Duration::from_millis(ms)).await;
        poll(alive)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_asked_about_and_then_lost_within_one_and_a_half_intervals() {
        let mut alive = KeepAlive::new(INTERVAL);
        assert_eq!(poll(&mut alive), Due::Nothing);
        assert_eq!(step(&mut alive, 4_990).await, Due::Nothing);
        assert_eq!(step(&mut alive, 20).await, Due::Ping);
        alive.said_all();
        assert_eq!(poll(&mut alive), Due::Nothing);
        assert_eq!(step(&mut alive, 9_900).await, Due::Nothing);
        assert!(matches!(step(&mut alive, 200).await, Due::Lost(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_starts_it_anew() {
        let mut alive = KeepAlive::new(INTERVAL);
        for _ in 0..5 {
            assert_eq!(step(&mut alive, 5_010).await, Due::Ping);
            alive.spoke();
            alive.heard();
            assert_eq!(step(&mut alive, 100).await, Due::Nothing);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_only_listens_is_heard_in_time_and_one_who_only_talks_asks() {
        let mut alive = KeepAlive::new(INTERVAL);
        let mut pings = 0;
        for _ in 0..100 {
            alive.heard();
            if step(&mut alive, 1_000).await == Due::Ping {
                alive.spoke();
                alive.said_all();
                pings += 1;
            }
        }
        assert!((10..=25).contains(&pings), "{pings} in 100 s, at least one in 10 s");

        let mut alive = KeepAlive::new(INTERVAL);
        let mut lost_after = 0;
        while !matches!(step(&mut alive, 1_000).await, Due::Lost(_)) {
            alive.spoke();
            alive.said_all();
            lost_after += 1;
        }
        assert!((14..=20).contains(&lost_after), "{lost_after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_behind_a_window_on_a_slow_way_has_its_time_from_when_it_left() {
        let mut alive = KeepAlive::new(INTERVAL);
        assert_eq!(step(&mut alive, 5_010).await, Due::Ping);
        for _ in 0..100 {
            alive.spoke();
            assert_eq!(step(&mut alive, 9_000).await, Due::Nothing, "it takes what we send");
        }
        alive.spoke();
        alive.said_all();
        assert_eq!(step(&mut alive, 9_900).await, Due::Nothing);
        assert!(matches!(step(&mut alive, 200).await, Due::Lost(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_and_says_nothing_is_dead() {
        let mut alive = KeepAlive::new(INTERVAL);
        assert_eq!(step(&mut alive, 5_010).await, Due::Ping);
        assert_eq!(step(&mut alive, 9_900).await, Due::Nothing);
        assert!(matches!(step(&mut alive, 200).await, Due::Stuck(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_off() {
        let mut alive = KeepAlive::new(Duration::ZERO);
        assert_eq!(step(&mut alive, 10_000_000).await, Due::Nothing);
    }
}
