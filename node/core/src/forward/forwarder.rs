//! The state machine that ties connection, flows and ledger together.

use super::flow::{Answered, Bounds, Flow};
use super::held::RANGES_MAX;
use super::jitter::Jitter;
use super::ledger::Ledger;
use super::link::{Link, State};
use super::{Action, Input, Options, OptionsError, Report, StreamOptions, Volume};
use crate::Text;
use crate::event::{Position, Timestamp};
use crate::ports::store::{Batch, Class, CursorChange, LossReason, StreamId};
use std::time::Duration;

/// Losses of one uplink that wait for the cursor, 64 bytes each (P5).
const LOSSES_MAX: usize = 1 << 12;
/// Part of the time for a graceful stop that is spent waiting for answers; the rest is for the last commit.
const ANSWERS_OF_STOP: (u32, u32) = (3, 4);

/// Where a graceful stop stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// No reading, no sending; answers until the first moment, commits until the second.
    Draining {
        answers_until: Duration,
        end: Duration,
    },
    Done,
}

/// What happened since the start, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events handed to the uplink, repetitions included.
    pub sent: u64,
    /// Of these, those that had been sent before: possible duplicates at the upstream.
    pub again: u64,
    /// Events acknowledged.
    pub acked: u64,
    /// Answers that refused an event for the moment.
    pub retries: u64,
    /// Answers that held an event.
    pub held: u64,
    /// Events that the upstream refused for good.
    pub rejected: u64,
    /// Events given up unsent because of their age.
    pub expired: u64,
    /// Events given up because they blocked their stream.
    pub parked: u64,
    /// Attempts to connect.
    pub connects: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Answers to nothing that was asked.
    pub unknown_answers: u64,
}

/// Store-and-forward of one uplink over all its streams; the module's description says what it keeps to.
#[derive(Debug)]
pub struct Forwarder {
    pub(super) options: Options,
    pub(super) flows: Vec<Flow>,
    pub(super) link: Link,
    pub(super) ledger: Ledger,
    jitter: Jitter,
    pub(super) phase: Phase,
    /// The smaller of the configured window and the upstream's.
    pub(super) window: Volume,
    pub(super) in_flight: Volume,
    /// When the upstream answered last, or when it was first asked after silence.
    pub(super) progress_at: Duration,
    /// The flow that sends first in the next round.
    pub(super) turn: usize,
    /// The moment asked for with [`Action::WakeAt`], not after the true next deadline.
    pub(super) wake: Option<Duration>,
    pub(super) counters: Counters,
}

impl Forwarder {
    /// A forwarder at rest; [`Input::Start`] sets it going.
    ///
    /// # Errors
    /// [`OptionsError`] if a bound is zero or a stream is named twice.
    pub fn new(options: Options, streams: &[StreamOptions]) -> Result<Self, OptionsError> {
        options.check()?;
        for (idx, stream) in streams.iter().enumerate() {
            if streams.iter().take(idx).any(|other| other.stream == stream.stream) {
                return Err(OptionsError::Twice { stream: stream.stream });
            }
        }
        Ok(Self {
            flows: flows(&options, streams),
            link: Link::new(&options),
            ledger: Ledger::new(&options),
            jitter: Jitter::new(options.seed),
            phase: Phase::Running,
            window: options.window,
            in_flight: Volume::default(),
            progress_at: Duration::ZERO,
            turn: 0,
            wake: None,
            counters: Counters::default(),
            options,
        })
    }

    /// Takes one input and appends what is to be done to `out`. `now` is monotonic and never goes back; `wall` may be
    /// anything.
    pub fn step(&mut self, now: Duration, wall: Timestamp, input: Input, out: &mut Vec<Action>) {
        if self.phase == Phase::Done {
            return;
        }
        self.accept(now, input, out);
        if self.wake.is_some_and(|at| at <= now) {
            self.wake = None;
            self.wake(now, out);
        }
        self.pump(now, wall, out);
        // A probe that is too old to be sent is settled there and then, and nobody's answer would begin the pass.
        while self.begin_passes(now) {
            self.pump(now, wall, out);
        }
        self.park(now);
        self.fetch(out);
        self.commit(now, out);
        self.finish(now, out);
        self.wake_at(now, out);
    }

    /// Figures since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Handed to the uplink and unanswered.
    #[must_use]
    pub fn in_flight(&self) -> Volume {
        self.in_flight
    }

    /// In memory beside those in flight (P5).
    #[must_use]
    pub fn waiting(&self) -> Volume {
        self.flows.iter().fold(Volume::default(), |sum, flow| {
            let waiting = flow.waiting();
            Volume { events: sum.events + waiting.events, bytes: sum.bytes + waiting.bytes }
        })
    }

    /// Everything of the stream up to here is acknowledged or given up; may be ahead of the durable cursor.
    #[must_use]
    pub fn cursor(&self, stream: StreamId) -> Option<Position> {
        self.flows.iter().find(|flow| flow.stream() == stream).map(Flow::cursor)
    }

    /// True while connected.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    // --- inputs

    fn accept(&mut self, now: Duration, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Start => self.start(now, out),
            Input::Appended => self.flows.iter_mut().for_each(Flow::appended),
            Input::Fetched { stream, batch } => self.fetched(now, stream, batch),
            Input::FetchFailed { stream, class } => self.fetch_failed(now, stream, class),
            Input::Up { window, address } => self.up(now, window, address, out),
            Input::Down { cause } => self.down(now, cause, out),
            Input::Unreachable { cause } => self.unreachable(now, cause, out),
            Input::Leaving => self.leaving(now),
            Input::Unavailable { cause, retry_after } => self.unavailable(now, cause, retry_after, out),
            Input::Replaced { addresses } => self.replaced(now, addresses, out),
            Input::Acked { stream, position } => self.acked(now, stream, position),
            Input::Failed { stream, position, class, reason } => {
                self.failed(now, stream, position, class, reason, out);
            }
            Input::Held { stream, position, group, retry_after, reason } => {
                if self.held(now, stream, position, &group, retry_after) {
                    out.push(Action::Report(Report::Refused {
                        stream,
                        position,
                        class: Class::Retry,
                        reason,
                    }));
                }
            }
            Input::CursorCommitted => {
                self.flows.iter_mut().for_each(Flow::committed);
                self.ledger.committed();
            }
            Input::CommitFailed { class } => {
                self.flows.iter_mut().for_each(Flow::commit_failed);
                self.ledger.failed(now, class, &mut self.jitter);
            }
            Input::RetentionMoved { stream, acked } => self.retention_moved(now, stream, acked),
            // Woken too early: whoever keeps the clock forgot the wish, so it is made again.
            Input::Timer => self.wake = self.wake.filter(|at| *at <= now),
            Input::Drain { limit } => self.drain(now, limit),
        }
    }

    fn start(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.link.state() == State::Idle && self.phase == Phase::Running {
            self.connect(now, out);
        }
    }

    pub(super) fn connect(&mut self, now: Duration, out: &mut Vec<Action>) {
        let attempt = self.link.attempt(now);
        self.counters.connects += 1;
        out.push(Action::Report(Report::Connecting { index: attempt.index }));
        out.push(Action::Connect { index: attempt.index, timeout: attempt.timeout });
    }

    fn fetched(&mut self, now: Duration, stream: StreamId, batch: Batch) {
        if let Some(idx) = self.index(stream)
            && let Some(flow) = self.flows.get_mut(idx)
        {
            flow.fetched(batch, now);
            self.settle(now, idx);
        }
    }

    fn fetch_failed(&mut self, now: Duration, stream: StreamId, class: Class) {
        let (retry, jitter) = (self.options.retry, &mut self.jitter);
        if let Some(flow) = self.flows.iter_mut().find(|flow| flow.stream() == stream) {
            let delay = jitter.delay(retry, flow.fetch_failures());
            flow.fetch_failed((class == Class::Retry).then_some(now + delay));
        }
    }

    fn up(&mut self, now: Duration, window: usize, address: Text, out: &mut Vec<Action>) {
        let again = self.link.is_up();
        if !self.link.up(now) {
            return;
        }
        if again {
            // The uplink reconnected without a word: what was unanswered is unanswered for good.
            self.restart();
        }
        self.counters.connections += 1;
        self.hold_suspects_back(now);
        self.window.events = self.options.window.events.min(window.max(1));
        out.push(Action::Report(Report::Up { address }));
    }

    fn down(&mut self, now: Duration, cause: Text, out: &mut Vec<Action>) {
        match self.link.state() {
            State::Up { .. } | State::Connecting { .. } => self.lost(now, cause, None, out),
            State::Idle | State::Waiting { .. } => {}
        }
    }

    fn unreachable(&mut self, now: Duration, cause: Text, out: &mut Vec<Action>) {
        match self.link.state() {
            State::Connecting { .. } => {
                let retry_at = self.link.unreachable(now, &mut self.jitter);
                out.push(Action::Report(Report::Down { cause, retry_at }));
            }
            // A connection that is there was taken by somebody.
            State::Up { .. } => self.down(now, cause, out),
            State::Idle | State::Waiting { .. } => {}
        }
    }

    /// A slow link is not a dead one.
    fn leaving(&mut self, now: Duration) {
        if self.link.is_up() && self.in_flight.events > 0 {
            self.progress_at = now;
            for flow in self.flows.iter_mut().filter(|flow| flow.in_flight.events > 0) {
                flow.progress_at = now;
            }
        }
    }

    /// Nobody is accused: while the upstream takes nothing at all, no event is at fault.
    fn unavailable(
        &mut self,
        now: Duration,
        cause: Text,
        retry_after: Option<Duration>,
        out: &mut Vec<Action>,
    ) {
        match self.link.state() {
            State::Up { .. } | State::Connecting { .. } => {
                self.ended(now, cause, retry_after.unwrap_or_default(), out);
            }
            State::Idle | State::Waiting { .. } => {}
        }
    }

    fn replaced(&mut self, now: Duration, addresses: usize, out: &mut Vec<Action>) {
        let begun = self.link.state() != State::Idle;
        self.options.addresses = addresses.max(1);
        self.link = Link::new(&self.options);
        self.restart();
        if begun && self.phase == Phase::Running {
            self.connect(now, out);
        }
    }

    fn acked(&mut self, now: Duration, stream: StreamId, position: Position) {
        let Some((idx, no)) = self.answered(now, stream, position) else { return };
        self.counters.acked += 1;
        self.link.acked();
        if let Some(flow) = self.flows.get_mut(idx) {
            flow.acked(no);
        }
        self.settle(now, idx);
    }

    fn failed(
        &mut self,
        now: Duration,
        stream: StreamId,
        position: Position,
        class: Class,
        reason: Text,
        out: &mut Vec<Action>,
    ) {
        let slot = self.answered(now, stream, position);
        if slot.is_some() || class == Class::Fatal {
            out.push(Action::Report(Report::Refused { stream, position, class, reason: reason.clone() }));
        }
        match (class, slot) {
            // Whatever it was about, the connection is of no use.
            (Class::Fatal, blamed) if self.link.is_up() => self.lost(now, reason, blamed, out),
            (Class::Retry, Some((idx, no))) => self.hold_back(now, idx, no),
            (Class::Reject, Some((idx, no))) => {
                self.give_up(idx, no, LossReason::Rejected);
                self.settle(now, idx);
            }
            _ => {}
        }
    }

    /// False if this was no answer to anything that was asked.
    fn held(
        &mut self,
        now: Duration,
        stream: StreamId,
        position: Position,
        group: &Text,
        retry_after: Duration,
    ) -> bool {
        let Some((idx, no)) = self.answered(now, stream, position) else { return false };
        self.counters.held += 1;
        let until = now + retry_after.max(self.options.retry.base);
        if let Some(flow) = self.flows.get_mut(idx) {
            flow.set_aside(no, group, until);
        }
        self.settle(now, idx);
        true
    }

    /// Which slot an answer is about; it is no longer in flight.
    fn answered(&mut self, now: Duration, stream: StreamId, position: Position) -> Option<(usize, u64)> {
        let idx = self.index(stream)?;
        let answered = self.flows.get_mut(idx)?.answered(position, now);
        match answered {
            Answered::InFlight { bytes, .. } | Answered::GivenUp { bytes } => {
                self.in_flight.remove(bytes);
                self.progress_at = now;
            }
            Answered::Unknown => self.counters.unknown_answers += 1,
            Answered::Earlier { .. } => {}
        }
        match answered {
            Answered::InFlight { no, .. } | Answered::Earlier { no } => Some((idx, no)),
            Answered::GivenUp { .. } | Answered::Unknown => None,
        }
    }

    fn retention_moved(&mut self, now: Duration, stream: StreamId, acked: Position) {
        let Some(idx) = self.index(stream) else { return };
        let Some(flow) = self.flows.get_mut(idx) else { return };
        if flow.retained_from(acked) {
            self.ledger.retained_from(flow.consumer, acked);
            self.settle(now, idx);
        }
    }

    fn drain(&mut self, now: Duration, limit: Duration) {
        if self.phase == Phase::Running {
            let answers = limit * ANSWERS_OF_STOP.0 / ANSWERS_OF_STOP.1;
            self.phase = Phase::Draining { answers_until: now + answers, end: now + limit };
        }
    }

    // --- consequences

    fn index(&self, stream: StreamId) -> Option<usize> {
        self.flows.iter().position(|flow| flow.stream() == stream)
    }

    fn give_up(&mut self, idx: usize, no: u64, reason: LossReason) {
        if let Some(flow) = self.flows.get_mut(idx) {
            flow.give_up(no, reason);
        }
    }

    /// Moves the cursor of a flow as far as it goes.
    pub(super) fn settle(&mut self, now: Duration, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let (ledger, counters) = (&mut self.ledger, &mut self.counters);
        let acked = flow.advance(now, |loss| {
            match loss.reason {
                LossReason::Rejected => counters.rejected += loss.events,
                LossReason::Expired => counters.expired += loss.events,
                _ => counters.parked += loss.events,
            }
            ledger.lost(now, loss);
        });
        ledger.passed(now, acked);
    }

    fn hold_back(&mut self, now: Duration, idx: usize, no: u64) {
        self.counters.retries += 1;
        let troubles: usize = self.flows.iter().map(|flow| flow.troubles.len()).sum();
        let acks = self.counters.acked;
        let empty = self.in_flight.events == 0;
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let known = usize::from(flow.troubles.attempts(no) > 0);
        let alone = empty && troubles == known;
        let failures = flow.refused(no, acks, alone);
        flow.hold_back(no, now + self.jitter.delay(self.options.retry, failures));
    }

    /// Others go first on a new connection, so that it shows whether the suspect or the link is at fault.
    fn hold_suspects_back(&mut self, now: Duration) {
        for flow in &mut self.flows {
            for (no, exponent) in flow.troubles.suspects() {
                flow.hold_back(no, now + self.jitter.delay(self.options.retry, exponent));
            }
        }
    }

    /// The connection is of no use any more.
    pub(super) fn lost(
        &mut self,
        now: Duration,
        cause: Text,
        blamed: Option<(usize, u64)>,
        out: &mut Vec<Action>,
    ) {
        let (barren, acks) = (self.link.is_barren(), self.counters.acked);
        match blamed {
            Some((idx, no)) => {
                if let Some(flow) = self.flows.get_mut(idx) {
                    flow.accuse(no, acks);
                }
            }
            None => self.flows.iter_mut().for_each(|flow| flow.accuse_flying(barren, acks)),
        }
        self.ended(now, cause, Duration::ZERO, out);
    }

    fn ended(&mut self, now: Duration, cause: Text, pause: Duration, out: &mut Vec<Action>) {
        self.restart();
        let retry_at = self.link.down(now, pause, &mut self.jitter);
        out.push(Action::Report(Report::Down { cause, retry_at }));
    }

    fn restart(&mut self) {
        self.flows.iter_mut().for_each(Flow::restart);
        self.in_flight = Volume::default();
    }

    // --- actions

    /// True if a flow has begun to read again what it had set aside.
    fn begin_passes(&mut self, now: Duration) -> bool {
        let mut begun = false;
        for idx in 0..self.flows.len() {
            if self.flows.get_mut(idx).is_some_and(Flow::begin_pass) {
                self.settle(now, idx);
                begun = true;
            }
        }
        begun
    }

    /// Gives up what blocks a flow, once its own attempts are used up.
    fn park(&mut self, now: Duration) {
        if !self.link.is_up() || self.phase != Phase::Running {
            return;
        }
        for idx in 0..self.flows.len() {
            let Some(flow) = self.flows.get(idx) else { return };
            if flow.troubles.len() == 0 {
                continue;
            }
            if let Some(no) = flow.stuck()
                && flow.troubles.attempts(no) >= self.options.attempts_max
            {
                self.give_up(idx, no, LossReason::Parked);
                self.settle(now, idx);
            }
        }
    }

    fn fetch(&mut self, out: &mut Vec<Action>) {
        if self.link.is_up() && self.phase == Phase::Running {
            out.extend(self.flows.iter_mut().filter_map(Flow::next_read).map(Action::Fetch));
        }
    }

    fn commit(&mut self, now: Duration, out: &mut Vec<Action>) {
        let last = matches!(self.phase, Phase::Draining { .. }) && self.answers_are_in(now);
        if !self.ledger.is_due(now, last) {
            return;
        }
        let losses = self.ledger.begin();
        let change = |flow: &mut Flow| {
            let consumer = flow.consumer;
            flow.begin_commit().map(|acked| CursorChange { consumer, acked })
        };
        let cursors = self.flows.iter_mut().filter_map(change).collect();
        out.push(Action::CommitCursor { cursors, losses });
    }

    /// In a graceful stop: no answer is to be waited for any more.
    pub(super) fn answers_are_in(&self, now: Duration) -> bool {
        let late = matches!(self.phase, Phase::Draining { answers_until, .. } if answers_until <= now);
        self.in_flight.events == 0 || !self.link.is_up() || late
    }

    fn finish(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Phase::Draining { end, .. } = self.phase else { return };
        if end <= now || (self.answers_are_in(now) && self.ledger.is_done()) {
            self.phase = Phase::Done;
            out.push(Action::Drained);
        }
    }
}

/// Bounds are shared out over the flows: the memory of an uplink does not depend on how many streams it reads (P5).
fn flows(options: &Options, streams: &[StreamOptions]) -> Vec<Flow> {
    let count = streams.len().max(1);
    let part = |volume: Volume| Volume {
        events: (volume.events / count).max(1),
        bytes: (volume.bytes / count).max(1),
    };
    let bounds = Bounds {
        gap_max: options.gap_max,
        read_ahead: part(options.read_ahead),
        fetch: options.fetch,
        ranges: RANGES_MAX / count,
        losses: LOSSES_MAX / count,
    };
    let weight = |stream: &StreamOptions| usize::try_from(stream.weight.max(1)).unwrap_or(usize::MAX);
    let weights = streams.iter().map(weight).fold(0_usize, usize::saturating_add).max(1);
    let share = |stream| (options.window.events.saturating_mul(weight(stream)) / weights).max(1);
    streams.iter().map(|stream| Flow::new(options, stream, bounds, share(stream))).collect()
}
