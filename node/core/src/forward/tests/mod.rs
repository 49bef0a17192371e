//! Tests of the forwarder in a small world: a store and an upstream of a few lines, time that is turned by hand. Every
//! step is checked against the promises, whatever the test is about.

mod held;
mod order;
mod poison;
mod properties;
mod scenarios;
mod strict;

use super::{Action, Forwarder, Input, Options, Order, Pipeline, Report, StreamOptions};
use crate::Text;
use crate::event::{Event, LogId, Position, Qos, Sequence, StoredEvent, Timestamp, Via};
use crate::ports::store::{Batch, Class, Consumer, CursorChange, Loss, Read, StreamId, UplinkId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const UPLINK: UplinkId = UplinkId(3);
/// A wall clock that has been set.
const WALL: Timestamp = Timestamp(1_800_000_000_000);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn stream(no: usize) -> StreamId {
    StreamId(u16::try_from(no).unwrap())
}

/// What the world knows about one stream.
#[derive(Default)]
struct Log {
    events: Vec<StoredEvent>,
    acked: BTreeSet<Position>,
    rejected: BTreeSet<Position>,
    sent: BTreeSet<Position>,
    /// Held by the upstream at least once, or waiting with one that was.
    held: bool,
    /// Durable cursor.
    cursor: Position,
    /// What the store gave up itself.
    retained: Position,
    read: Option<Read>,
    through: Position,
    counted: u64,
}

impl Log {
    /// The events in (`after`, `through`].
    fn between(&self, after: Position, through: Position) -> &[StoredEvent] {
        let from = self.events.partition_point(|e| e.position <= after);
        let to = self.events.partition_point(|e| e.position <= through);
        self.events.get(from..to).unwrap_or_default()
    }

    fn get(&self, position: Position) -> &StoredEvent {
        let idx =
            self.events.binary_search_by_key(&position, |e| e.position).expect("an event of this stream");
        &self.events[idx]
    }
}

struct World {
    forwarder: Forwarder,
    options: Options,
    logs: Vec<Log>,
    now: Duration,
    wall: Timestamp,
    /// The latest moment that a clock which was set has shown.
    latest: Timestamp,
    next_position: u64,
    /// Unanswered on this connection, in the order sent.
    flying: Vec<(usize, Position)>,
    /// Refused for the moment on this connection.
    refused: BTreeSet<(usize, Position)>,
    up: bool,
    window: usize,
    connecting: Option<usize>,
    commit: Option<(Vec<CursorChange>, Vec<Loss>)>,
    wake: Option<Duration>,
    wakes: usize,
    /// Every event in the order in which the upstream got it: stream, topic, position.
    received: Vec<(usize, Text, Position)>,
    reports: Vec<Report>,
    connects: Vec<(Duration, usize)>,
    drained: bool,
    /// Topics that the upstream does not take yet.
    closed: BTreeSet<String>,
    out: Vec<Action>,
}

impl World {
    fn new(options: Options, streams: usize) -> Self {
        let specs: Vec<_> = (0..streams).map(|s| StreamOptions::new(stream(s), Position::ZERO)).collect();
        Self::with(options, &specs)
    }

    fn with(options: Options, specs: &[StreamOptions]) -> Self {
        Self {
            forwarder: Forwarder::new(options.clone(), specs).unwrap(),
            options,
            logs: specs.iter().map(|_| Log::default()).collect(),
            now: ms(1_000),
            wall: WALL,
            latest: WALL,
            next_position: Position::first_of(1).0,
            flying: Vec::new(),
            refused: BTreeSet::new(),
            up: false,
            window: 0,
            connecting: None,
            commit: None,
            wake: None,
            wakes: 0,
            received: Vec::new(),
            reports: Vec::new(),
            connects: Vec::new(),
            drained: false,
            closed: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    // --- what tests do

    fn step(&mut self, input: Input) {
        if self.wall.is_plausible() {
            self.latest = self.latest.max(self.wall);
        }
        if matches!(input, Input::Up { .. }) {
            self.refused.clear();
        }
        let mut out = std::mem::take(&mut self.out);
        self.forwarder.step(self.now, self.wall, input, &mut out);
        for action in out.drain(..) {
            self.carry_out(action);
        }
        self.out = out;
        self.check_bounds();
        self.check_no_stall();
    }

    /// Puts an event into the log without a word to the forwarder.
    fn put(&mut self, log: usize, topic: &str, change: impl FnOnce(&mut StoredEvent)) -> Position {
        let position = Position(self.next_position);
        self.next_position += 1;
        let mut stored = event(position, topic, self.wall);
        change(&mut stored);
        self.logs[log].events.push(stored);
        position
    }

    fn append(&mut self, log: usize, topic: &str) -> Position {
        let position = self.put(log, topic, |_| {});
        self.step(Input::Appended);
        position
    }

    fn backlog(&mut self, log: usize, events: usize, topic: impl Fn(usize) -> String) {
        for n in 0..events {
            self.put(log, &topic(n), |_| {});
        }
    }

    /// Starts, connects, answers all reads.
    fn connect(&mut self, window: usize) {
        if self.connecting.is_none() {
            self.step(Input::Start);
        }
        self.up(window);
        self.read_all();
    }

    fn up(&mut self, window: usize) {
        self.connecting.take().expect("an attempt to connect");
        (self.up, self.window) = (true, window);
        self.step(Input::Up { window, address: Text::from_static("a:1") });
    }

    fn down(&mut self) {
        self.up = false;
        self.flying.clear();
        self.connecting = None;
        self.step(Input::Down { cause: Text::from_static("reset") });
    }

    fn replace(&mut self) {
        self.up = false;
        self.flying.clear();
        self.connecting = None;
        self.step(Input::Replaced { addresses: 2 });
        self.options.addresses = 2;
    }

    fn unavailable(&mut self, retry_after: Option<Duration>) {
        self.up = false;
        self.flying.clear();
        self.connecting = None;
        self.step(Input::Unavailable { cause: Text::from_static("401"), retry_after });
    }

    /// Lets time pass until the next connection is asked for.
    fn reconnect(&mut self, window: usize) {
        for _ in 0..1_000 {
            if self.connecting.is_some() {
                self.up(window);
                self.read_all();
                return;
            }
            self.sleep();
        }
        panic!("no attempt to connect");
    }

    /// Lets time pass until the forwarder wants to be woken.
    fn sleep(&mut self) {
        self.now = self.wake.take().expect("something to wait for").max(self.now);
        self.step(Input::Timer);
    }

    /// Lets time pass, waking the forwarder whenever it wants to be.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.wake.is_some_and(|at| at <= end) {
            self.sleep();
        }
        self.now = end;
    }

    fn read(&mut self, log: usize, max: usize) {
        let Some(read) = self.logs[log].read.take() else { return };
        let mut batch = Batch { through: read.after, at_end: true, events: Vec::new() };
        let mut bytes = 0;
        let after = read.after.max(self.logs[log].retained);
        for event in self.logs[log].between(after, Position(u64::MAX)) {
            let full = batch.events.len() >= read.max_events.min(max) || bytes >= read.max_bytes;
            if full && !batch.events.is_empty() {
                batch.at_end = false;
                break;
            }
            bytes += event.stored_bytes as usize;
            batch.through = event.position;
            batch.events.push(event.clone());
        }
        self.logs[log].through = self.logs[log].through.max(batch.through);
        self.step(Input::Fetched { stream: stream(log), batch });
    }

    fn read_all(&mut self) {
        for _ in 0..10_000 {
            let Some(log) = self.logs.iter().position(|log| log.read.is_some()) else { return };
            self.read(log, usize::MAX);
        }
        panic!("reads without end");
    }

    /// The upstream acknowledges the event that it got as number `idx` of those unanswered, or holds it if its topic is closed.
    fn ack(&mut self, idx: usize) -> (usize, Position) {
        let (log, position) = self.flying[idx];
        if self.closed.contains(&*self.logs[log].get(position).event.topic) {
            return self.hold(idx);
        }
        self.flying.remove(idx);
        self.logs[log].acked.insert(position);
        let unknown = self.forwarder.counters().unknown_answers;
        self.step(Input::Acked { stream: stream(log), position });
        if self.logs[log].held && self.forwarder.counters().unknown_answers > unknown {
            // It came after its connection was given up, and the event is aside by now: it goes out once more.
            self.logs[log].acked.remove(&position);
        }
        (log, position)
    }

    fn hold(&mut self, idx: usize) -> (usize, Position) {
        let (log, position) = self.flying.remove(idx);
        self.logs[log].held = true;
        let group = self.logs[log].get(position).event.topic.clone();
        let reason = Text::from_static("held");
        let retry_after = ms(1_000);
        self.step(Input::Held { stream: stream(log), position, group, retry_after, reason });
        (log, position)
    }

    fn fail(&mut self, idx: usize, class: Class) -> (usize, Position) {
        let (log, position) = self.flying.remove(idx);
        if class == Class::Reject {
            self.logs[log].rejected.insert(position);
        }
        if class == Class::Retry {
            self.refused.insert((log, position));
        }
        if class == Class::Fatal {
            self.up = false;
            self.flying.clear();
        }
        let reason = Text::from_static("no");
        let unknown = self.forwarder.counters().unknown_answers;
        self.step(Input::Failed { stream: stream(log), position, class, reason });
        if self.logs[log].held && self.forwarder.counters().unknown_answers > unknown {
            // As with an acknowledgement that comes so late.
            self.logs[log].rejected.remove(&position);
        }
        (log, position)
    }

    /// Acknowledges in order and reads until nothing moves any more.
    fn ack_all(&mut self) {
        self.read_all();
        while !self.flying.is_empty() {
            self.ack(0);
            self.read_all();
        }
    }

    fn commit_ok(&mut self) {
        let Some((cursors, losses)) = self.commit.take() else { return };
        for change in cursors {
            let log = &mut self.logs[usize::from(change.consumer.stream.0)];
            log.cursor = log.cursor.max(change.acked);
        }
        for loss in losses {
            self.logs[usize::from(loss.consumer.unwrap().stream.0)].counted += loss.events;
        }
        self.step(Input::CursorCommitted);
    }

    fn commit_fails(&mut self) {
        if self.commit.take().is_some() {
            self.step(Input::CommitFailed { class: Class::Retry });
        }
    }

    /// Waits until cursors are committed.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.commit.is_some() {
                self.commit_ok();
            } else if self.logs.iter().enumerate().all(|(l, log)| Some(log.cursor) == self.cursor(l)) {
                return;
            } else {
                self.sleep();
            }
        }
        panic!("cursors are not committed");
    }

    fn retain(&mut self, log: usize, acked: Position) {
        let log_ = &mut self.logs[log];
        log_.retained = log_.retained.max(acked);
        log_.cursor = log_.cursor.max(acked);
        self.step(Input::RetentionMoved { stream: stream(log), acked });
    }

    // --- what tests ask

    fn cursor(&self, log: usize) -> Option<Position> {
        self.forwarder.cursor(stream(log))
    }

    fn flying_positions(&self) -> Vec<Position> {
        self.flying.iter().map(|f| f.1).collect()
    }

    fn last(&self, log: usize) -> Position {
        self.logs[log].events.last().unwrap().position
    }

    // --- what is checked at every step

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect { index, timeout } => {
                assert_eq!(timeout, self.options.connect_timeout);
                assert!(index < self.options.addresses);
                self.up = false;
                self.flying.clear();
                self.connecting = Some(index);
                self.connects.push((self.now, index));
            }
            Action::Fetch(read) => self.check_fetch(read),
            Action::Send { stream, event, again } => self.check_send(usize::from(stream.0), &event, again),
            Action::CommitCursor { cursors, losses } => self.check_commit(cursors, losses),
            Action::WakeAt(at) => {
                assert!(at > self.now, "a wake-up in the past is a busy loop");
                self.wake = Some(at);
                self.wakes += 1;
            }
            Action::Report(report) => {
                if matches!(report, Report::Down { .. }) {
                    // An attempt that took too long: what comes of it later is nobody's.
                    self.connecting = None;
                }
                self.reports.push(report);
            }
            Action::Flush => {}
            Action::Drained => self.drained = true,
        }
    }

    fn check_fetch(&mut self, read: Read) {
        let log = &mut self.logs[usize::from(read.consumer.stream.0)];
        assert_eq!(read.consumer, Consumer { stream: read.consumer.stream, uplink: UPLINK });
        assert!(log.read.is_none(), "one read at a time");
        assert!(read.max_events >= 1 && read.max_events <= self.options.fetch.events);
        assert!(read.max_bytes >= 1 && read.max_bytes <= self.options.fetch.bytes);
        assert!(log.held || read.after >= log.through.min(log.retained), "nothing is read twice");
        log.read = Some(read);
    }

    fn check_send(&mut self, log: usize, stored: &StoredEvent, again: bool) {
        let position = stored.position;
        assert!(self.up, "sent while down");
        assert!(!self.flying.contains(&(log, position)), "{position} is in flight already");
        let known = &self.logs[log];
        assert!(!known.acked.contains(&position), "{position} was acknowledged and is sent again");
        assert!(!known.rejected.contains(&position), "{position} was rejected and is sent again");
        assert!(again || !known.sent.contains(&position), "{position}: again");
        assert!(known.held || !again || known.sent.contains(&position), "{position}: again");
        assert_eq!(known.get(position), stored, "P3: sent as stored");
        self.check_order(log, stored);
        self.logs[log].sent.insert(position);
        self.flying.push((log, position));
        assert!(self.flying.len() <= self.options.window.events.min(self.window), "window of events");
        let bytes: usize = self.flying.iter().map(|f| self.bytes(*f)).sum();
        assert!(bytes <= self.options.window.bytes || self.flying.len() == 1, "window of bytes");
        self.received.push((log, stored.event.topic.clone(), position));
    }

    fn bytes(&self, (log, position): (usize, Position)) -> usize {
        self.logs[log].get(position).stored_bytes as usize
    }

    /// P4: every earlier event of the key is settled, or went out before on this very connection and was not refused on it.
    fn check_order(&self, log: usize, stored: &StoredEvent) {
        if self.options.order == Order::Sequence {
            return;
        }
        let cursor = self.cursor(log).unwrap();
        let known = &self.logs[log];
        let same = |e: &&StoredEvent| e.event.topic == stored.event.topic && e.position < stored.position;
        for earlier in known.between(cursor, stored.position).iter().filter(same) {
            let at = earlier.position;
            let settled = known.acked.contains(&at) || known.rejected.contains(&at) || self.expired(earlier);
            let flies = self.options.pipeline == Pipeline::Ordered
                && self.flying.contains(&(log, at))
                && !self.refused.contains(&(log, at));
            assert!(settled || flies, "P4: {} of {} before {at}", stored.position, stored.event.topic);
        }
    }

    fn expired(&self, stored: &StoredEvent) -> bool {
        stored.event.expires.is_some_and(|at| at <= self.latest)
    }

    /// P2: what a cursor passes is acknowledged, or counted in the same commit.
    fn check_commit(&mut self, cursors: Vec<CursorChange>, losses: Vec<Loss>) {
        assert!(self.commit.is_none(), "one commit at a time");
        for change in &cursors {
            let log = &self.logs[usize::from(change.consumer.stream.0)];
            assert!(change.acked > log.cursor, "a cursor moves forward");
            let unacked = |e: &&StoredEvent| !log.acked.contains(&e.position);
            let missing = log.between(log.cursor, change.acked).iter().filter(unacked).count() as u64;
            let mine = losses.iter().filter(|l| l.consumer == Some(change.consumer));
            let counted: u64 = mine.map(|l| l.events).sum();
            if log.retained == Position::ZERO {
                assert_eq!(counted, missing, "P2: passed without an acknowledgement");
            } else {
                assert!(counted >= missing, "P2: passed without an acknowledgement");
            }
        }
        let moved: BTreeSet<_> = cursors.iter().map(|c| c.consumer.stream).collect();
        assert!(losses.iter().all(|l| moved.contains(&l.consumer.unwrap().stream)), "a loss with its cursor");
        self.commit = Some((cursors, losses));
    }

    /// P5.
    fn check_bounds(&self) {
        let waiting = self.forwarder.waiting();
        let logs = self.logs.len();
        // Of each stream's part, a quarter may be probes.
        let events = self.options.read_ahead.events.max(logs);
        let refused = self.options.window.events * logs;
        assert!(waiting.events <= events + refused, "{waiting:?}: memory grows with the backlog");
        for (idx, log) in self.logs.iter().enumerate() {
            let cursor = self.cursor(idx).unwrap();
            let read = log.between(cursor, log.through).len();
            assert!(log.held || read <= self.options.gap_max, "{read} events behind the cursor");
        }
    }

    /// While something waits, somebody owes an answer or a wake-up is set.
    fn check_no_stall(&self) {
        let started = !self.connects.is_empty() && !self.drained;
        let owed = self.connecting.is_some()
            || self.commit.is_some()
            || !self.flying.is_empty()
            || self.logs.iter().any(|log| log.read.is_some());
        let done = |(idx, log): (usize, &Log)| {
            log.events.last().is_none_or(|e| self.cursor(idx) >= Some(e.position))
        };
        let idle = self.up && self.logs.iter().enumerate().all(done);
        if started && !owed && !idle {
            assert!(self.wake.is_some(), "stalled: {:?}", self.forwarder);
        }
    }
}

fn event(position: Position, topic: &str, received: Timestamp) -> StoredEvent {
    StoredEvent {
        position,
        log: LogId(1),
        sequence: Sequence { source: position.counter(), stream: position.counter() },
        stored_bytes: 100,
        event: Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: Text::from_static("mqtt://n/d"),
            id: None,
            time: None,
            received,
            expires: None,
            topic: Text::from(topic),
            payload: Bytes::from_static(b"21.5"),
            properties: None,
        },
    }
}

/// One topic for all.
fn same(_: usize) -> String {
    "t".into()
}

/// A topic for each.
fn own(n: usize) -> String {
    format!("t{n}")
}

fn options() -> Options {
    Options { order: Order::Sequence, ..Options::new(UPLINK) }
}

/// Per stream and topic, how often each position was received.
fn receipts(world: &World) -> BTreeMap<(usize, Position), usize> {
    let mut receipts = BTreeMap::new();
    for (log, _, position) in &world.received {
        *receipts.entry((*log, *position)).or_default() += 1;
    }
    receipts
}
