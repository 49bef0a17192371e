//! What the passing of time does, and when the [`Forwarder`] wants to be woken next.

use super::Action;
use super::flow::Flow;
use super::forwarder::{Forwarder, Phase};
use super::link::State;
use crate::Text;
use std::time::Duration;

impl Forwarder {
    pub(super) fn wake(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.flows.iter_mut().for_each(|flow| flow.wake(now));
        match self.link.state() {
            State::Waiting { until } if until <= now && self.phase == Phase::Running => {
                self.connect(now, out)
            }
            State::Connecting { deadline } if deadline <= now => {
                self.lost(now, Text::from_static("no answer to the attempt to connect"), None, out);
            }
            State::Up { .. } => self.check_answers(now, out),
            _ => {}
        }
    }

    fn check_answers(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.silence_ends().is_some_and(|at| at <= now) {
            let cause = format!("nothing acknowledged for {} s", self.options.answer_timeout.as_secs());
            self.lost(now, Text::from(cause), None, out);
            return;
        }
        let silent = |flow: &Flow| self.gap_ends(flow).is_some_and(|at| at <= now);
        let Some(idx) = self.flows.iter().position(silent) else { return };
        let blamed = self.flows.get(idx).and_then(Flow::first_in_flight).map(|no| (idx, no));
        self.lost(now, Text::from_static("one event not acknowledged while later ones were"), blamed, out);
    }

    /// When the whole connection has been silent for too long.
    fn silence_ends(&self) -> Option<Duration> {
        (self.in_flight.events > 0).then(|| self.progress_at + self.options.answer_timeout)
    }

    /// When one event without an answer has blocked its flow for too long.
    fn gap_ends(&self, flow: &Flow) -> Option<Duration> {
        let blocked = flow.in_flight.events > 0 && flow.gap_is_full();
        blocked.then(|| flow.progress_at + self.options.answer_timeout)
    }

    fn deadline(&self, now: Duration) -> Option<Duration> {
        let mut next = Earliest(self.ledger.deadline());
        match self.phase {
            Phase::Running => next.consider(self.link.deadline()),
            Phase::Draining { answers_until, end } => {
                next.consider(Some(if self.answers_are_in(now) { end } else { answers_until }));
            }
            Phase::Done => {}
        }
        if self.link.is_up() {
            next.consider(self.silence_ends());
        }
        for flow in &self.flows {
            next.consider(flow.deadline());
            if self.link.is_up() {
                next.consider(self.gap_ends(flow));
            }
        }
        next.0
    }

    /// Asks to be woken if the next deadline is earlier than what was asked for; a later one is found out when the
    /// earlier wish comes true, so that an acknowledgement costs no new timer.
    pub(super) fn wake_at(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(deadline) = self.deadline(now) else { return };
        let mut at = deadline.max(now + Duration::from_millis(1));
        if let Phase::Draining { end, .. } = self.phase
            && end > now
        {
            // A stop keeps its limit to the microsecond, though something else was due just before.
            at = at.min(end);
        }
        if self.phase != Phase::Done && self.wake.is_none_or(|wake| at < wake) {
            self.wake = Some(at);
            out.push(Action::WakeAt(at));
        }
    }
}

/// The earliest of several moments.
struct Earliest(Option<Duration>);

impl Earliest {
    fn consider(&mut self, at: Option<Duration>) {
        self.0 = match (self.0, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}
