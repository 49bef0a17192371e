//! The loop: wait for anything, take everything, step, carry out, flush once.

use super::downward::Downwards;
use super::inbox::{Inbox, Settled};
use super::status::{Board, LinkState};
use super::{Forward, Options};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{StoredEvent, Timestamp};
use eventmesh_edge_core::forward::{Action, Forwarder, Input, Report};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Class, Commit, CursorChange, Loss, Read, ReadError, Store, StreamId,
};
use eventmesh_edge_core::ports::uplink::{Downward, Outgoing, Uplink, UplinkEvent};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tracing::{debug, info, warn};

/// Figures for `status`, and the store's own view of the cursors, are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// A store that answers at once is answered at once, this many times before others get their turn.
const ROUNDS_MAX: usize = 8;
/// Part of the time for a graceful stop that the forwarder gets; the rest is for closing the connection.
const DRAIN_OF_STOP: (u32, u32) = (4, 5);

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default)]
struct Woken {
    timer: bool,
    tick: bool,
    stop: bool,
}

struct Service {
    options: Options,
    forwarder: Forwarder,
    store: Arc<dyn Store>,
    uplink: Box<dyn Uplink>,
    clock: Arc<dyn Clock>,
    inbox: Arc<Inbox>,
    board: Arc<Board>,
    downwards: Downwards,
    timer: Pin<Box<Sleep>>,
    armed: Option<Duration>,
    tick: Interval,
    now: Duration,
    wall: Timestamp,
    stopping: bool,
    drained: bool,
    unflushed: bool,
    /// Reused from round to round.
    events: Vec<UplinkEvent>,
    inputs: Vec<Input>,
    settled: Vec<Settled>,
    actions: Vec<Action>,
}

pub(super) async fn run(forward: Forward, stop: impl Future<Output = ()> + Send) {
    let mut stop = pin!(stop);
    let mut service = Service::new(forward);
    service.look_at_store();
    service.feed(Input::Start);
    service.round(Woken::default());
    while !service.drained {
        let woken = service.wait(stop.as_mut()).await;
        service.round(woken);
        // Whoever answers at once, every time, must not keep the thread to itself.
        tokio::task::coop::consume_budget().await;
    }
    service.close().await;
}

impl Service {
    fn new(forward: Forward) -> Self {
        let Forward { options, forwarder, store, uplink, clock, sink, inbox, board } = forward;
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            downwards: Downwards::new(sink, Arc::clone(&inbox), options.downward_max),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            tick,
            now: clock.monotonic(),
            wall: clock.now(),
            stopping: false,
            drained: false,
            unflushed: false,
            events: Vec::new(),
            inputs: Vec::new(),
            settled: Vec::new(),
            actions: Vec::new(),
            options,
            forwarder,
            store,
            uplink,
            clock,
            inbox,
            board,
        }
    }

    /// Waits until at least one thing happened, and finds out all that did: one look at each source, in a fixed order, so
    /// that none starves another and a simulation repeats itself.
    async fn wait(&mut self, mut stop: Pin<&mut (impl Future<Output = ()> + Send)>) -> Woken {
        let Self { uplink, events, inbox, timer, armed, tick, stopping, .. } = self;
        let mut next = uplink.next(events);
        let mut notified = pin!(inbox.notified());
        poll_fn(|cx| {
            let called = notified.as_mut().poll(cx).is_ready();
            let moved = next.as_mut().poll(cx).is_ready();
            let woken = Woken {
                timer: armed.is_some() && timer.as_mut().poll(cx).is_ready(),
                tick: tick.poll_tick(cx).is_ready(),
                stop: !*stopping && stop.as_mut().poll(cx).is_ready(),
            };
            if called || moved || woken.timer || woken.tick || woken.stop {
                Poll::Ready(woken)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Steps the forwarder through everything that happened and carries out what it wants.
    fn round(&mut self, woken: Woken) {
        self.now = self.clock.monotonic();
        self.wall = self.clock.now();
        let acked = self.forwarder.counters().acked;
        if woken.timer {
            self.armed = None;
            self.feed(Input::Timer);
        }
        if woken.stop {
            self.stop();
        }
        self.take_events();
        self.take_replacement();
        if self.inbox.take_room() || woken.tick {
            self.look_at_store();
        }
        if woken.tick {
            self.downwards.retry();
        }
        for _ in 0..ROUNDS_MAX {
            if !self.take_inbox() {
                break;
            }
        }
        if self.unflushed {
            self.unflushed = false;
            self.uplink.flush();
        }
        self.note(self.forwarder.counters().acked > acked, woken.tick);
    }

    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                UplinkEvent::Up { window, address } => self.up(window, address),
                UplinkEvent::Down { cause } => self.feed(Input::Down { cause }),
                UplinkEvent::Unreachable { cause } => self.feed(Input::Unreachable { cause }),
                UplinkEvent::Leaving => self.feed(Input::Leaving),
                UplinkEvent::Unavailable { cause, retry_after } => {
                    self.feed(Input::Unavailable { cause, retry_after });
                }
                UplinkEvent::Acked { stream, position } => self.feed(Input::Acked { stream, position }),
                UplinkEvent::Failed { stream, position, class, reason } => {
                    self.feed(Input::Failed { stream, position, class, reason });
                }
                UplinkEvent::Held { stream, position, group, retry_after, reason } => {
                    self.feed(Input::Held { stream, position, group, retry_after, reason });
                }
                UplinkEvent::Downward(message) => self.take_down(message),
            }
        }
        self.events = events;
    }

    /// The old one goes without a goodbye: what it has not answered is sent again by the new one, with the same identity.
    fn take_replacement(&mut self) {
        let Some(uplink) = self.inbox.take_replacement().filter(|_| !self.stopping) else { return };
        info!(uplink = %self.options.name, "uplink has new settings");
        self.uplink = uplink;
        let addresses = self.uplink.addresses();
        self.feed(Input::Replaced { addresses });
    }

    fn up(&mut self, window: usize, address: Text) {
        // What the store gave up during the outage is not sent after it.
        self.look_at_store();
        self.downwards.connected();
        self.feed(Input::Up { window, address });
    }

    fn take_down(&mut self, message: Downward) {
        if !self.downwards.take(message) {
            debug!(uplink = %self.options.name, "no room for a message from the upstream, not confirmed");
        }
    }

    /// False if there was nothing in it.
    fn take_inbox(&mut self) -> bool {
        let (mut inputs, mut settled) = (std::mem::take(&mut self.inputs), std::mem::take(&mut self.settled));
        self.inbox.take(&mut inputs, &mut settled);
        let any = !inputs.is_empty() || !settled.is_empty();
        for input in inputs.drain(..) {
            self.feed(input);
        }
        for settled in settled.drain(..) {
            if let Some((token, dropped)) = self.downwards.settled(settled)
                && self.forwarder.is_up()
            {
                match dropped {
                    None => self.uplink.confirm(token),
                    Some(reason) => self.uplink.refuse(token, &reason),
                }
                self.unflushed = true;
            }
        }
        (self.inputs, self.settled) = (inputs, settled);
        any
    }

    /// The store moves cursors itself when it gives events up (drop-oldest, expiry).
    fn look_at_store(&mut self) {
        for idx in 0..self.options.streams.len() {
            let Some(stream) = self.options.streams.get(idx).map(|stream| stream.id) else { return };
            let acked = self.board.backlog(stream).acked;
            self.feed(Input::RetentionMoved { stream, acked });
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        let limit = self.options.stop_limit * DRAIN_OF_STOP.0 / DRAIN_OF_STOP.1;
        self.feed(Input::Drain { limit });
    }

    fn feed(&mut self, input: Input) {
        let mut actions = std::mem::take(&mut self.actions);
        self.forwarder.step(self.now, self.wall, input, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect { index, timeout } => self.uplink.connect(index, timeout),
            Action::Fetch(read) => self.fetch(read),
            Action::Send { stream, event, again } => self.send(stream, event, again),
            Action::Flush => self.unflushed = true,
            Action::CommitCursor { cursors, losses } => self.commit(cursors, losses),
            Action::WakeAt(at) => self.arm(at),
            Action::Report(report) => self.report(report),
            Action::Drained => self.drained = true,
        }
    }

    fn send(&mut self, stream: StreamId, event: Arc<StoredEvent>, again: bool) {
        let kind = (self.options.kind)(stream, &event);
        self.uplink.send(Outgoing { stream, event, kind, again });
    }

    fn fetch(&self, read: Read) {
        let inbox = Arc::clone(&self.inbox);
        let (stream, name) = (read.consumer.stream, self.options.name.clone());
        let done = move |outcome| match outcome {
            Ok(batch) => inbox.put(Input::Fetched { stream, batch }),
            Err(error) => {
                let class = match error {
                    ReadError::Closed => Class::Fatal,
                    ReadError::Io(_) => {
                        warn!(uplink = %name, %error, "events cannot be read, trying again");
                        Class::Retry
                    }
                };
                inbox.put(Input::FetchFailed { stream, class });
            }
        };
        self.store.read(read, Box::new(done));
    }

    fn commit(&self, cursors: Vec<CursorChange>, losses: Vec<Loss>) {
        for loss in &losses {
            let stream = loss.consumer.map(|consumer| self.stream_name(consumer.stream));
            let (first, last) = loss.range;
            warn!(
                uplink = %self.options.name, stream = stream.as_deref(), reason = loss.reason.as_str(),
                events = loss.events, bytes = loss.bytes, %first, %last, "events given up"
            );
        }
        let inbox = Arc::clone(&self.inbox);
        let name = self.options.name.clone();
        let done = move |outcome| match outcome {
            Ok(_) => inbox.put(Input::CursorCommitted),
            Err(error) => {
                let error: eventmesh_edge_core::ports::store::CommitError = error;
                warn!(uplink = %name, %error, "cursor not committed");
                inbox.put(Input::CommitFailed { class: error.class() });
            }
        };
        self.store.submit(Commit { cursors, losses, ..Commit::default() }, Box::new(done));
    }

    fn stream_name(&self, stream: StreamId) -> Text {
        let known = self.options.streams.iter().find(|other| other.id == stream);
        known.map_or_else(Text::new, |known| known.name.clone())
    }

    fn arm(&mut self, at: Duration) {
        self.armed = Some(at);
        self.timer.as_mut().reset(Instant::now() + at.saturating_sub(self.now));
    }

    // --- for people

    fn report(&self, report: Report) {
        let name = &self.options.name;
        let mut live = self.board.live();
        match report {
            Report::Connecting { index } => {
                live.address_index = index;
                (live.address, live.retry_at) = (None, None);
                self.enter(&mut live, LinkState::Connecting);
            }
            Report::Up { address } => {
                info!(uplink = %name, %address, "uplink is up");
                (live.address, live.cause) = (Some(address), None);
                self.enter(&mut live, LinkState::Up);
            }
            Report::Down { cause, retry_at } => {
                let retry_in_ms = retry_at.saturating_sub(self.now).as_millis();
                // The same words again and again tell an operator nothing new.
                if live.cause.as_ref() == Some(&cause) {
                    debug!(uplink = %name, %cause, retry_in_ms, "uplink is still down");
                } else {
                    warn!(uplink = %name, %cause, retry_in_ms, "uplink is down");
                }
                (live.cause, live.address, live.retry_at) = (Some(cause), None, Some(retry_at));
                self.enter(&mut live, LinkState::Down);
            }
            Report::Refused { position, class, reason, .. } => {
                debug!(uplink = %name, %position, ?class, %reason, "upstream refused an event");
                live.last_refusal = Some(reason);
            }
        }
    }

    fn enter(&self, live: &mut super::status::Live, state: LinkState) {
        live.state = state;
        live.since = self.now;
    }

    fn note(&self, acked: bool, tick: bool) {
        let backlog =
            tick.then(|| self.options.streams.iter().map(|s| self.board.backlog(s.id).events).sum());
        let mut live = self.board.live();
        live.counters = self.forwarder.counters();
        live.in_flight = self.forwarder.in_flight();
        live.waiting = self.forwarder.waiting();
        live.downward = self.downwards.counts();
        if acked {
            live.last_acked = Some(self.now);
        }
        if let Some(backlog) = backlog {
            let acked = live.counters.acked;
            live.progress.note(self.now, acked, backlog);
        }
    }

    async fn close(mut self) {
        let limit = self.options.stop_limit * (DRAIN_OF_STOP.1 - DRAIN_OF_STOP.0) / DRAIN_OF_STOP.1;
        // The port promises the bound; a stop must hold it whatever an adapter does.
        if tokio::time::timeout(limit, self.uplink.close(limit)).await.is_err() {
            debug!(uplink = %self.options.name, "uplink did not say goodbye in time");
        }
        self.now = self.clock.monotonic();
        let mut live = self.board.live();
        (live.address, live.retry_at) = (None, None);
        self.enter(&mut live, LinkState::Stopped);
        info!(uplink = %self.options.name, "uplink is stopped");
    }
}
