//! An uplink in memory that does what its script says.

use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Qos};
use eventmesh_edge_core::ports::store::{Class, StreamId};
use eventmesh_edge_core::ports::uplink::{Downward, Outgoing, PortFuture, Uplink, UplinkEvent};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// What the upstream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Accepts connections and acknowledges everything at once.
    Works,
    /// Accepts connections and answers nothing by itself.
    Hangs,
    /// Does not let anybody in.
    Refuses,
    /// Does not even answer to an attempt to connect.
    Dead,
    /// Resets the connection at every n-th event that it gets, which stays unanswered.
    ResetsAt(usize),
    /// Rejects every n-th event.
    RejectsEvery(usize),
}

/// One event as the upstream got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) stream: StreamId,
    pub(super) position: Position,
    pub(super) id: Text,
    pub(super) topic: Text,
    pub(super) kind: Text,
    pub(super) again: bool,
}

pub(super) struct State {
    pub(super) mode: Mode,
    pub(super) up: bool,
    pub(super) window: usize,
    pub(super) received: Vec<Receipt>,
    pub(super) unanswered: Vec<(StreamId, Position)>,
    pub(super) connects: Vec<usize>,
    pub(super) confirmed: Vec<u64>,
    pub(super) flushes: usize,
    pub(super) closed: bool,
    pub(super) close_hangs: bool,
    events: Vec<UplinkEvent>,
    /// Handed over and not flushed: the upstream does not see it.
    buffer: Vec<Outgoing>,
}

/// The test's end of it.
#[derive(Clone)]
pub(super) struct Upstream {
    state: Arc<Mutex<State>>,
    notify: Arc<Notify>,
}

impl Upstream {
    pub(super) fn new(mode: Mode) -> Self {
        let state = State {
            mode,
            up: false,
            window: 1_000,
            received: Vec::new(),
            unanswered: Vec::new(),
            connects: Vec::new(),
            confirmed: Vec::new(),
            flushes: 0,
            closed: false,
            close_hangs: false,
            events: Vec::new(),
            buffer: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), notify: Arc::default() }
    }

    pub(super) fn uplink(&self) -> Box<dyn Uplink> {
        Box::new(ScriptedUplink(self.clone()))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    pub(super) fn received(&self) -> usize {
        self.state().received.len()
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        self.state().received.iter().map(|receipt| receipt.position).collect()
    }

    /// Acknowledges the unanswered event number `idx`.
    pub(super) fn ack(&self, idx: usize) -> Position {
        let (stream, position) = self.state().unanswered.remove(idx);
        self.push(UplinkEvent::Acked { stream, position });
        position
    }

    pub(super) fn reset(&self) {
        self.state().end("connection reset");
        self.notify.notify_one();
    }

    pub(super) fn send_down(&self, token: u64) {
        self.push(UplinkEvent::Downward(Downward {
            topic: Text::from_static("cmd/1"),
            payload: bytes::Bytes::from_static(b"on"),
            properties: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            identity: None,
            token,
        }));
    }

    fn push(&self, event: UplinkEvent) {
        self.state().events.push(event);
        self.notify.notify_one();
    }
}

impl State {
    fn end(&mut self, cause: &'static str) {
        self.up = false;
        self.unanswered.clear();
        self.buffer.clear();
        self.events.push(UplinkEvent::Down { cause: Text::from_static(cause) });
    }

    fn receive(&mut self, outgoing: Outgoing) {
        if !self.up {
            return; // The news of the reset is under way.
        }
        let Outgoing { stream, event, kind, again } = outgoing;
        let (position, id, topic) = (event.position, event.id(), event.event.topic.clone());
        self.received.push(Receipt { stream, position, id, topic, kind, again });
        self.take(stream, position);
    }

    fn take(&mut self, stream: StreamId, position: Position) {
        let number = self.received.len();
        match self.mode {
            Mode::ResetsAt(n) if number.is_multiple_of(n) => self.end("connection reset"),
            Mode::RejectsEvery(n) if number.is_multiple_of(n) => self.events.push(UplinkEvent::Failed {
                stream,
                position,
                class: Class::Reject,
                reason: Text::from_static("payload format invalid"),
            }),
            Mode::Hangs | Mode::Refuses | Mode::Dead => self.unanswered.push((stream, position)),
            _ => self.events.push(UplinkEvent::Acked { stream, position }),
        }
    }
}

pub(super) struct ScriptedUplink(Upstream);

impl Uplink for ScriptedUplink {
    fn connect(&mut self, index: usize, _timeout: Duration) {
        let mut state = self.0.state();
        state.connects.push(index);
        (state.up, state.unanswered, state.buffer) = (false, Vec::new(), Vec::new());
        match state.mode {
            Mode::Dead => {}
            Mode::Refuses => state.end("connection refused"),
            _ => {
                state.up = true;
                let (window, address) = (state.window, Text::from_static("hub:1883"));
                state.events.push(UplinkEvent::Up { window, address });
            }
        }
        self.0.notify.notify_one();
    }

    fn send(&mut self, outgoing: Outgoing) {
        self.0.state().buffer.push(outgoing);
    }

    fn flush(&mut self) {
        let mut state = self.0.state();
        state.flushes += 1;
        for outgoing in std::mem::take(&mut state.buffer) {
            state.receive(outgoing);
        }
        self.0.notify.notify_one();
    }

    fn confirm(&mut self, token: u64) {
        self.0.state().confirmed.push(token);
    }

    fn next<'a>(&'a mut self, out: &'a mut Vec<UplinkEvent>) -> PortFuture<'a, ()> {
        Box::pin(async move {
            loop {
                let events = std::mem::take(&mut self.0.state().events);
                if !events.is_empty() {
                    out.extend(events);
                    return;
                }
                self.0.notify.notified().await;
            }
        })
    }

    fn close(&mut self, _timeout: Duration) -> PortFuture<'_, ()> {
        Box::pin(async move {
            if self.0.state().close_hangs {
                std::future::pending::<()>().await;
            }
            self.0.state().closed = true;
        })
    }

    fn addresses(&self) -> usize {
        2
    }
}
