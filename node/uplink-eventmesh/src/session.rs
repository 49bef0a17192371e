//! One connection's delivery state: events in, calls out, answers in, verdicts out. No socket, no clock of its own.

use crate::answer::{Answer, Verdict};
use crate::circuit::{Circuits, Gate};
use crate::counters::{Counters, count};
use crate::options::Options;
use crate::receipt::{Command, Receipts};
use crate::up::Mapper;
use crate::window::Window;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{Class, StreamId};
use eventmesh_edge_core::ports::uplink::{Downward, Outgoing, UplinkEvent};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A runtime that has left so many calls unanswered beyond their time will not answer them: the connection is of no use.
const LATE_MAX: usize = 64;

/// Room in the buffer that messages are written into; below it a new one is made.
const BUFFER_BYTES: usize = 16 * 1_024;

/// What never changes between the connections of one uplink.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) mapper: Mapper,
    pub(crate) counters: Arc<Counters>,
}

/// What a call is about.
#[derive(Debug)]
pub(crate) enum What {
    /// The event of that number.
    Publish(u64),
    /// A receipt.
    Receipt(Command),
    /// A heartbeat of that moment.
    Heartbeat(Duration),
}

/// The connection is of no use any more, although it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) cause: String,
    pub(crate) retry_after: Option<Duration>,
}

/// An event under way.
#[derive(Debug)]
struct Flying {
    stream: StreamId,
    position: Position,
    topic: Text,
    sent: Duration,
    /// Given back already, because its time was up. A late answer still counts if it is a good one.
    late: bool,
}

/// Delivery state of one connection. Times are since it came up.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Handed over by the forwarder, not sent yet: at most its window.
    queue: VecDeque<Outgoing>,
    flying: HashMap<u64, Flying>,
    late: usize,
    next_number: u64,
    window: Window,
    circuits: Circuits,
    receipts: Receipts,
    buffer: BytesMut,
    /// The topic rendered last; mostly the next one is the same.
    topic: Text,
    scratch: String,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, generation: u64) -> Session {
        Session {
            queue: VecDeque::new(),
            flying: HashMap::new(),
            late: 0,
            next_number: 0,
            window: Window::new(shared.options.window_max),
            circuits: Circuits::default(),
            receipts: Receipts::new(&shared.options, generation),
            buffer: BytesMut::new(),
            topic: Text::new(),
            scratch: String::new(),
            shared,
        }
    }

    /// Takes an event over from the forwarder.
    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        self.queue.push_back(outgoing);
    }

    /// Anything that waits for an answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.flying.len() - self.late
    }

    /// The next call to be made, if one may be made now; events that never become one are reported.
    pub(crate) fn next_call(
        &mut self,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Option<(What, Bytes)> {
        if let Some((command, frame)) = self.next_receipt(now) {
            return Some((What::Receipt(command), frame));
        }
        while self.window.allows(self.unanswered(), now) {
            let Some(outgoing) = self.queue.pop_front() else {
                self.window.idle();
                return None;
            };
            if let Some(call) = self.prepare(&outgoing, now, events) {
                return Some(call);
            }
        }
        None
    }

    fn next_receipt(&mut self, now: Duration) -> Option<(Command, Bytes)> {
        self.receipts.next(now, &self.shared.mapper.preambles.publish)
    }

    /// When a call may be made that may not be made now.
    pub(crate) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        let paused = self.window.resumes_at(now).filter(|_| !self.queue.is_empty());
        [paused, self.receipts.wakes_at(now)].into_iter().flatten().min()
    }

    fn prepare(
        &mut self,
        outgoing: &Outgoing,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Option<(What, Bytes)> {
        let (stream, position) = (outgoing.stream, outgoing.event.position);
        if self.buffer.capacity() < BUFFER_BYTES / 8 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        self.scratch.clear();
        let mapper = &self.shared.mapper;
        let refused = match mapper.topic(&outgoing.event, &outgoing.kind, &mut self.scratch) {
            Err(refused) => refused,
            Ok(()) => {
                if self.topic != self.scratch.as_str() {
                    self.topic = Text::from(self.scratch.clone());
                }
                let gate = self.circuits.gate(&self.topic, now);
                if let Gate::Held(wait) = gate {
                    count(&self.shared.counters.events_held);
                    let reason = held(&self.topic, wait);
                    events.push(hold(stream, position, &self.topic, wait, reason));
                    return None;
                }
                match mapper.event(&outgoing.event, &outgoing.kind, &self.topic, &mut self.buffer) {
                    Ok(frame) => return Some((self.take_off(stream, position, now), frame)),
                    Err(refused) => {
                        if gate == Gate::Try {
                            self.circuits.unsettled(&self.topic);
                        }
                        refused
                    }
                }
            }
        };
        count(&self.shared.counters.unmappable_refused);
        let reason = Text::from(refused.to_string());
        events.push(UplinkEvent::Failed { stream, position, class: Class::Reject, reason });
        None
    }

    fn take_off(&mut self, stream: StreamId, position: Position, now: Duration) -> What {
        let number = self.next_number;
        self.next_number += 1;
        let flying = Flying { stream, position, topic: self.topic.clone(), sent: now, late: false };
        self.flying.insert(number, flying);
        What::Publish(number)
    }

    /// A call was answered. Says whether the connection should be left for another one.
    pub(crate) fn answered(
        &mut self,
        what: What,
        answer: Answer,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Option<Leave> {
        match what {
            What::Publish(number) => self.published(number, answer, now, events),
            What::Receipt(command) => {
                self.receipts.answered(command, &answer, now, &self.shared.counters);
                None
            }
            What::Heartbeat(_) => None,
        }
    }

    fn published(
        &mut self,
        number: u64,
        answer: Answer,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Option<Leave> {
        let flying = self.flying.remove(&number)?;
        self.late -= usize::from(flying.late);
        let (stream, position) = (flying.stream, flying.position);
        if answer.verdict == Verdict::Taken {
            self.circuits.taken(&flying.topic);
            self.window.taken(flying.sent, now);
            events.push(UplinkEvent::Acked { stream, position });
            return None;
        }
        if flying.late {
            return None;
        }
        if answer.verdict == Verdict::Hold {
            events.push(self.held(&flying, &answer.words, now));
            return None;
        }
        let (class, reason, leave) = self.refused(&flying, answer, now);
        events.push(UplinkEvent::Failed { stream, position, class, reason });
        leave
    }

    fn held(&mut self, flying: &Flying, words: &str, now: Duration) -> UplinkEvent {
        count(&self.shared.counters.events_held);
        let wait = self.circuits.refused(&flying.topic, now);
        let reason = Text::from(format!("{words}; {}", held(&flying.topic, wait)));
        hold(flying.stream, flying.position, &flying.topic, wait, reason)
    }

    fn refused(&mut self, flying: &Flying, answer: Answer, now: Duration) -> (Class, Text, Option<Leave>) {
        let Answer { verdict, words } = answer;
        let counters = &self.shared.counters;
        self.circuits.unsettled(&flying.topic);
        let leave = |retry_after| Some(Leave { cause: words.clone(), retry_after });
        let (class, leave) = match verdict {
            Verdict::Never => {
                count(&counters.events_refused);
                (Class::Reject, None)
            }
            Verdict::Slower => {
                count(&counters.overloads);
                self.window.overloaded(now);
                (Class::Retry, None)
            }
            Verdict::Elsewhere => (Class::Retry, leave(None)),
            Verdict::Denied => (Class::Retry, leave(Some(DENIED_PAUSE))),
            Verdict::Taken | Verdict::Hold | Verdict::Later => (Class::Retry, None),
        };
        (class, Text::from(words), leave)
    }

    /// Gives back what was not answered in time. To be called now and then.
    pub(crate) fn tick(&mut self, now: Duration, events: &mut Vec<UplinkEvent>) -> Option<Leave> {
        let timeout = self.shared.options.answer_timeout;
        for flying in self.flying.values_mut() {
            if flying.late || now.saturating_sub(flying.sent) < timeout {
                continue;
            }
            flying.late = true;
            self.late += 1;
            self.circuits.unsettled(&flying.topic);
            count(&self.shared.counters.unanswered);
            let reason = Text::from(format!("no answer to publish within {timeout:?}"));
            let (stream, position) = (flying.stream, flying.position);
            events.push(UplinkEvent::Failed { stream, position, class: Class::Retry, reason });
        }
        (self.late >= LATE_MAX).then(|| Leave {
            cause: format!("{} publishes were not answered within {timeout:?}", self.late),
            retry_after: None,
        })
    }

    /// A message came down; `None` if it is one that is being stored already.
    pub(crate) fn came_down(&mut self, message: Downward) -> Option<Downward> {
        self.receipts.came_down(message)
    }

    /// Messages that came down and are not durable yet.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.receipts.unconfirmed()
    }

    /// What came down under this token is durable (P1), or was dropped for a reason.
    pub(crate) fn settle(&mut self, token: u64, dropped: Option<Text>) {
        self.receipts.settle(token, dropped, &self.shared.counters);
    }

    /// How many may be unanswered at present.
    pub(crate) fn window_limit(&self) -> usize {
        self.window.limit()
    }
}

/// How long a runtime that does not let us in is left alone.
const DENIED_PAUSE: Duration = Duration::from_secs(30);

fn hold(stream: StreamId, position: Position, topic: &Text, wait: Duration, reason: Text) -> UplinkEvent {
    UplinkEvent::Held { stream, position, group: topic.clone(), retry_after: wait, reason }
}

fn held(topic: &str, wait: Duration) -> Text {
    Text::from(format!(
        "topic {topic} is held for {:.1} s, the runtime does not take it yet (code 14)",
        wait.as_secs_f64()
    ))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
