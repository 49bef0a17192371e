//! Which events go out, and in whose turn: the sending side of the [`Forwarder`].

use super::Action;
use super::flow::Flow;
use super::forwarder::{Forwarder, Phase};
use crate::event::Timestamp;
use std::time::Duration;

/// Events that one stream sends in its turn beyond its guaranteed share.
const QUANTUM: usize = 16;

impl Forwarder {
    /// Sends what may be sent: first every flow up to its guaranteed share, then the rest of the window in turns.
    pub(super) fn pump(&mut self, now: Duration, wall: Timestamp, out: &mut Vec<Action>) {
        if !self.link.is_up() || self.phase != Phase::Running {
            return;
        }
        let before = self.counters.sent;
        let mut open = self.round(now, wall, out, |flow| flow.share.saturating_sub(flow.in_flight.events));
        while open && self.flows.len() > 1 {
            let sent = self.counters.sent;
            open = self.round(now, wall, out, |_| QUANTUM) && self.counters.sent > sent;
        }
        if self.counters.sent > before {
            out.push(Action::Flush);
        }
    }

    /// One turn for every flow, beginning with the one whose turn it is. False once the window is closed. A flow that
    /// finds it closed before it sent anything keeps its turn, so that small events do not keep a large one waiting.
    fn round(
        &mut self,
        now: Duration,
        wall: Timestamp,
        out: &mut Vec<Action>,
        quota: impl Fn(&Flow) -> usize,
    ) -> bool {
        let flows = self.flows.len();
        for offset in 0..flows {
            let idx = (self.turn + offset) % flows;
            let quota = self.flows.get(idx).map_or(0, &quota);
            let before = self.counters.sent;
            let open = self.take_turn(now, wall, idx, quota, out);
            // What was given up for its age on the way lets the cursor move.
            self.settle(now, idx);
            if !open {
                self.turn = if self.counters.sent > before { (idx + 1) % flows } else { idx };
                return false;
            }
        }
        self.turn = (self.turn + 1) % flows.max(1);
        true
    }

    /// Sends up to `quota` events of a flow. False if the window is closed.
    fn take_turn(
        &mut self,
        now: Duration,
        wall: Timestamp,
        idx: usize,
        quota: usize,
        out: &mut Vec<Action>,
    ) -> bool {
        for _ in 0..quota {
            if self.in_flight.events >= self.window.events {
                return false;
            }
            let Some(flow) = self.flows.get_mut(idx) else { return true };
            let Some(no) = flow.take_next(wall) else { return true };
            let bytes = flow.bytes(no);
            if self.in_flight.events > 0 && self.in_flight.bytes + bytes > self.window.bytes {
                flow.untake(no);
                return false;
            }
            self.send(now, idx, no, bytes, out);
        }
        true
    }

    fn send(&mut self, now: Duration, idx: usize, no: u64, bytes: usize, out: &mut Vec<Action>) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let Some((event, again)) = flow.send(no, now) else { return };
        if self.in_flight.events == 0 {
            self.progress_at = now;
        }
        self.in_flight.add(bytes);
        self.counters.sent += 1;
        self.counters.again += u64::from(again);
        out.push(Action::Send { stream: flow.stream(), event, again });
    }
}
