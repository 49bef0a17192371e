//! Virtual time, and who talks to whom.

use crate::backend::Backend;
use crate::checks::{self, Check, Meter, Step, Violation};
use crate::delivery::{Delivery, MakeDelivery};
use crate::history::{History, Reception, Refusal, Stored};
use crate::plan::{Blow, Door, Plan, START, WallClock, Weather};
use crate::upstream::{EventKey, Fate, Sending, Upstream, fate};
use bytes::Bytes;
use eventmesh_edge_contract::suite::support::{answer, read_all};
use eventmesh_edge_contract::{FaultyStore, Rng, Script};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::forward::{Action, Input, Pipeline, Report, StreamOptions, Volume};
use eventmesh_edge_core::ports::store::{
    Batch, Change, Class, Commit, CommitError, Committed, Consumer, CursorChange, Loss, NewEvent, Read,
    ReadError, Store, StreamId, UplinkId,
};
use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// After the last fault everything must be gone within this.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
/// How long a graceful stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// A run that has more to do than this does not end.
const STEPS_MAX: u64 = 400_000;

/// What is to happen at some moment.
enum Item {
    /// A device publishes its next batch, or tries a refused one again.
    Publish(usize),
    /// The disk has finished what it was doing.
    Disk,
    /// An answer of the store reaches the forwarder of this life.
    Deliver(usize, u64, Input),
    /// An attempt to connect succeeded.
    Connected(usize, u64),
    /// A connection ended.
    Down(usize, u64, &'static str),
    /// An event reaches the upstream.
    Arrive(usize, Sending),
    /// An answer of the upstream reaches the node.
    Answer(usize, u64, EventKey, Verdict),
    /// The timer of a forwarder of this life.
    Timer(usize, u64, Duration),
    /// Once a second.
    Tick,
    /// The upstream changes its mind.
    Weather(usize, Weather),
    /// Something happens to the node.
    Blow(Blow),
    /// The node starts again.
    Start,
    /// A graceful stop has taken as long as it may.
    StopsNow(u64),
    /// Nothing goes wrong any more.
    Quiet,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Acked,
    Failed(Class),
}

/// What the store answered, in the order in which it did.
enum Outcome {
    Published(usize, Result<Committed, CommitError>),
    Read(usize, StreamId, Result<Batch, ReadError>),
    Committed(usize, Vec<CursorChange>, Result<Committed, CommitError>),
}

/// A commit on its way to the disk.
enum Submitted {
    Publish(Vec<NewEvent>),
    Cursors(Vec<CursorChange>, Vec<Loss>),
}

#[derive(Default)]
struct Flags {
    appended: AtomicBool,
    room: AtomicBool,
}

struct Client {
    /// Number of the next event.
    next: u64,
    /// Submitted and not answered, or refused and to be tried again.
    batch: Vec<NewEvent>,
    waits_for_answer: bool,
}

struct Side {
    delivery: Box<dyn Delivery>,
    upstream: Upstream,
    weather: Weather,
    wake: Option<Duration>,
    meter: Meter,
    fetching: Vec<StreamId>,
    committing: bool,
    drained: bool,
    /// Never goes back, even for two answers of one round.
    streams: Vec<StreamId>,
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events that became durable.
    pub accepted: u64,
    /// First receptions, over all uplinks.
    pub received: u64,
    /// Receptions of something that the upstream had already.
    pub duplicates: u64,
    /// Events in the ledger.
    pub lost: u64,
    /// Refused commits.
    pub refused: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Things that happened.
    pub steps: u64,
}

/// One run.
pub struct World<'a> {
    plan: Plan,
    make: MakeDelivery<'a>,
    backend: Box<dyn Backend + 'a>,
    rng: Rng,
    now: Duration,
    clock: WallClock,
    agenda: BTreeMap<(Duration, u64), Item>,
    agenda_no: u64,
    /// Counts starts of the node; what belongs to an earlier one is void.
    life: u64,
    running: bool,
    stopping: bool,
    quiet: bool,
    bare: Arc<dyn Store>,
    store: Arc<FaultyStore<Arc<dyn Store>>>,
    flags: Arc<Flags>,
    answers: mpsc::Sender<(u64, Outcome)>,
    answered: mpsc::Receiver<(u64, Outcome)>,
    submitted: VecDeque<Submitted>,
    /// Events of commits that failed since the last one that did not.
    failed: Vec<NewEvent>,
    disk_busy: bool,
    clients: Vec<Client>,
    sides: Vec<Side>,
    history: History,
    summary: Summary,
    traced: bool,
}

impl<'a> World<'a> {
    /// Everything at rest, at time zero.
    pub fn new(plan: Plan, backend: impl Backend + 'a, make: MakeDelivery<'a>) -> World<'a> {
        let mut backend: Box<dyn Backend + 'a> = Box::new(backend);
        let bare = backend.open(plan.spec.clone());
        let consumers: Vec<Consumer> = consumers(&plan).collect();
        let clients =
            (0..plan.clients).map(|_| Client { next: 0, batch: Vec::new(), waits_for_answer: false });
        let (answers, answered) = mpsc::channel();
        let mut world = World {
            rng: Rng::new(plan.seed).fork(),
            store: Arc::new(FaultyStore::new(Arc::clone(&bare), Script::none())),
            history: History::new(plan.spec.streams.len(), consumers),
            clients: clients.collect(),
            sides: Vec::new(),
            plan,
            make,
            backend,
            now: Duration::ZERO,
            clock: WallClock::Right,
            agenda: BTreeMap::new(),
            agenda_no: 0,
            life: 0,
            running: false,
            stopping: false,
            quiet: false,
            bare,
            flags: Arc::default(),
            answers,
            answered,
            submitted: VecDeque::new(),
            failed: Vec::new(),
            disk_busy: false,
            summary: Summary::default(),
            traced: false,
        };
        world.schedule_plan();
        world
    }

    /// Says on standard error what happens, for a seed that is looked into.
    #[must_use]
    pub fn traced(mut self) -> World<'a> {
        self.traced = true;
        self
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>12?} life {} {}", self.now, self.life, what());
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(mut self) -> Result<Summary, Violation> {
        self.begin_life()?;
        while let Some(((at, _), item)) = self.agenda.pop_first() {
            self.now = at;
            self.summary.steps += 1;
            self.happen(item)?;
            self.settle()?;
            if self.is_over() || self.summary.steps > STEPS_MAX {
                break;
            }
        }
        self.finish()
    }

    fn schedule_plan(&mut self) {
        for (at, blow) in self.plan.blows.clone() {
            self.schedule_at(at, Item::Blow(blow));
        }
        for (idx, uplink) in self.plan.uplinks.clone().iter().enumerate() {
            for (at, weather) in &uplink.weather {
                self.schedule_at(*at, Item::Weather(idx, *weather));
            }
        }
        for client in 0..self.plan.clients {
            self.schedule(Duration::from_millis(self.plan.think_ms / 2), Item::Publish(client));
        }
        self.schedule_at(self.plan.quiet_from, Item::Quiet);
        self.schedule(Duration::from_secs(1), Item::Tick);
    }

    // ---- time

    fn schedule_at(&mut self, at: Duration, item: Item) {
        self.agenda_no += 1;
        self.agenda.insert((at.max(self.now), self.agenda_no), item);
    }

    fn schedule(&mut self, delay: Duration, item: Item) {
        self.schedule_at(self.now + delay, item);
    }

    fn within(&mut self, ms: u64) -> Duration {
        Duration::from_micros(self.rng.below(ms * 1000 + 1))
    }

    fn wall(&self) -> Timestamp {
        let right = START.after(self.now);
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match self.clock {
            WallClock::Right => right,
            WallClock::Unset => Timestamp(ms(self.now)),
            WallClock::Ahead(by) => right.after(by),
            WallClock::Behind(by) => Timestamp(right.0.saturating_sub(ms(by))),
        }
    }

    fn happen(&mut self, item: Item) -> Check {
        match item {
            Item::Publish(client) => self.publish(client),
            Item::Disk => return self.disk_turn(),
            Item::Deliver(idx, life, input) if life == self.life && self.running => {
                return self.deliver(idx, input);
            }
            Item::Connected(idx, connection) => return self.connected(idx, connection),
            Item::Down(idx, connection, cause) => return self.went_down(idx, connection, cause),
            Item::Arrive(idx, sending) => return self.arrive(idx, &sending),
            Item::Answer(idx, connection, key, verdict) => return self.answer(idx, connection, key, verdict),
            Item::Timer(idx, life, at) if life == self.life && self.sides[idx].wake == Some(at) => {
                self.sides[idx].wake = None;
                return self.feed(idx, Input::Timer);
            }
            Item::Tick => return self.tick(),
            Item::Weather(idx, weather) => self.sides[idx].weather = weather,
            Item::Blow(blow) => return self.blow(blow),
            Item::Start => return self.begin_life(),
            Item::StopsNow(life) if life == self.life && self.stopping => {
                let late = self.sides.iter().position(|s| !s.drained);
                if let Some(idx) = late {
                    return broken("P5", format!("uplink {idx} did not stop within its limit"));
                }
            }
            Item::Quiet => {
                self.quiet = true;
                self.store.set_script(Script::none());
                self.backend.heal();
            }
            Item::Deliver(..) | Item::Timer(..) | Item::StopsNow(_) => {}
        }
        Ok(())
    }

    /// Carries on until nobody has anything to say at this moment.
    fn settle(&mut self) -> Check {
        loop {
            let mut quiet = true;
            while self.running
                && let Ok((life, outcome)) = self.answered.try_recv()
            {
                quiet = false;
                if life == self.life {
                    self.take_outcome(outcome)?;
                }
            }
            if self.flags.room.swap(false, Ordering::Relaxed) {
                quiet = false;
                self.look_at_store()?;
                self.try_refused_again();
            }
            if self.flags.appended.swap(false, Ordering::Relaxed) {
                quiet = false;
                for idx in 0..self.sides.len() {
                    // One notification is a reason to look at each stream.
                    self.sides[idx].meter.reasons += self.sides[idx].streams.len() as u64;
                    self.feed(idx, Input::Appended)?;
                }
            }
            if quiet {
                break;
            }
        }
        if self.running && !self.disk_busy && (self.backend.pending() > 0 || self.store.held() > 0) {
            self.disk_busy = true;
            let stalls = !self.quiet && self.rng.chance(self.plan.stall);
            let takes = self.within(if stalls { 3000 } else { 4 });
            self.schedule(takes, Item::Disk);
        }
        if self.stopping && self.sides.iter().all(|s| s.drained) {
            return self.stopped();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let late = self.now > self.plan.quiet_from + DRAIN_LIMIT;
        let idle = self.clients.iter().all(|c| c.batch.is_empty()) && self.submitted.is_empty();
        let empty = || self.consumers().all(|c| self.bare.backlog(c).events == 0);
        late || (self.quiet && self.running && self.now > self.plan.publish_until && idle && empty())
    }

    fn consumers(&self) -> impl Iterator<Item = Consumer> + use<'a> {
        consumers(&self.plan).collect::<Vec<_>>().into_iter()
    }

    // ---- lives of the node

    fn begin_life(&mut self) -> Check {
        if self.life > 0 {
            self.bare = self.backend.open(self.plan.spec.clone());
            self.check_after_restart()?;
            self.take_last_answers()?;
        }
        self.life += 1;
        self.running = true;
        self.stopping = false;
        self.disk_busy = false;
        self.flags = Arc::default();
        let flags = Arc::clone(&self.flags);
        self.bare.watch(Arc::new(move |change| match change {
            Change::Appended => flags.appended.store(true, Ordering::Relaxed),
            Change::Room => flags.room.store(true, Ordering::Relaxed),
        }));
        let faults = if self.quiet { 0 } else { self.plan.store_faults };
        let script = Script::seeded(self.rng.next_u64(), faults);
        self.store = Arc::new(FaultyStore::new(Arc::clone(&self.bare), script));
        for consumer in self.consumers() {
            let backlog = self.bare.backlog(consumer);
            self.history.restart(consumer, backlog.acked);
        }
        self.begin_sides()?;
        // A device whose batch was under way when the node died was not answered: it sends it again.
        for client in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[client].waits_for_answer) {
                self.schedule(Duration::from_millis(50), Item::Publish(client));
            }
        }
        Ok(())
    }

    fn begin_sides(&mut self) -> Check {
        let old = std::mem::take(&mut self.sides);
        for (idx, plan) in self.plan.uplinks.clone().into_iter().enumerate() {
            let uplink = plan.options.uplink;
            let streams: Vec<StreamId> =
                self.consumers().filter(|c| c.uplink == uplink).map(|c| c.stream).collect();
            let options = |stream: &StreamId| {
                let acked = self.bare.backlog(Consumer { stream: *stream, uplink }).acked;
                let max_age = self.plan.spec.streams[usize::from(stream.0)].max_age;
                StreamOptions { max_age, ..StreamOptions::new(*stream, acked) }
            };
            let options: Vec<StreamOptions> = streams.iter().map(options).collect();
            let first = plan.weather.first().map_or(Weather::FAIR, |(_, w)| *w);
            let earlier = old.get(idx);
            self.sides.push(Side {
                delivery: (self.make)(plan.options, &options),
                upstream: Upstream::after(earlier.map(|s| &s.upstream)),
                weather: earlier.map_or(first, |s| s.weather),
                wake: None,
                meter: Meter::default(),
                fetching: Vec::new(),
                committing: false,
                drained: false,
                streams,
            });
        }
        for idx in 0..self.sides.len() {
            self.feed(idx, Input::Start)?;
        }
        Ok(())
    }

    fn blow(&mut self, blow: Blow) -> Check {
        self.trace(|| format!("{blow:?}"));
        match blow {
            Blow::Clock(clock) => self.clock = clock,
            _ if !self.running || self.stopping => {}
            Blow::PowerCut => {
                self.summary.cuts += 1;
                self.backend.power_cut(&mut self.rng);
                self.end_life(3000);
            }
            Blow::Restart => {
                self.stopping = true;
                self.schedule(STOP_LIMIT + Duration::from_millis(10), Item::StopsNow(self.life));
                for idx in 0..self.sides.len() {
                    self.feed(idx, Input::Drain { limit: STOP_LIMIT })?;
                }
            }
        }
        Ok(())
    }

    /// Every forwarder has stopped: the store is closed, which finishes what was submitted.
    fn stopped(&mut self) -> Check {
        self.store.close();
        self.end_life(500);
        Ok(())
    }

    fn end_life(&mut self, down_ms: u64) {
        self.running = false;
        self.stopping = false;
        for side in &mut self.sides {
            side.upstream.alive = false;
        }
        let down = self.within(down_ms) + Duration::from_millis(10);
        self.schedule(down, Item::Start);
    }

    /// What is there after a restart: everything durable, and perhaps some of what was under way.
    fn check_after_restart(&mut self) -> Check {
        let under_way: Vec<Submitted> = self.submitted.drain(..).collect();
        let failed = std::mem::take(&mut self.failed);
        let pending: Vec<&NewEvent> = under_way
            .iter()
            .flat_map(|s| match s {
                Submitted::Publish(events) => events.as_slice(),
                Submitted::Cursors(..) => &[],
            })
            // A failed write may be on the disk all the same. Once a later commit is durable it must not be believed; if
            // the power goes before, nobody could prevent it, and its publisher sends it again anyway.
            .chain(&failed)
            .collect();
        let mut new: Vec<(StreamId, StoredEvent)> = Vec::new();
        for consumer in self.consumers() {
            let cursor = self.bare.backlog(consumer).acked;
            let found = read_all(&*self.bare, consumer, cursor);
            let submitted = |e: &StoredEvent| {
                pending.iter().any(|p| p.stream == Some(consumer.stream) && p.event == e.event)
            };
            checks::p1_nothing_is_missing(&self.history, consumer.stream, cursor, &found, submitted)?;
            let known = self.history.stream(consumer.stream);
            new.extend(
                found.into_iter().filter(|e| !known.contains_key(&e.position)).map(|e| (consumer.stream, e)),
            );
        }
        for (stream, event) in new {
            self.accept(stream, event);
        }
        let unknown = pending.len() as u64;
        let steps = |c: Consumer| Step { unknown, gives_up: true, exact: false, ..step(&under_way, c, true) };
        self.observe_consumers(steps)
    }

    /// What a graceful stop answered while it closed the store counts as answered (P1).
    fn take_last_answers(&mut self) -> Check {
        while let Ok((_, outcome)) = self.answered.try_recv() {
            if let Outcome::Published(client, result @ Ok(_)) = outcome {
                self.published(client, result)?;
            }
        }
        Ok(())
    }

    // ---- devices

    fn publish(&mut self, client: usize) {
        let over = self.now >= self.plan.publish_until;
        if over && (self.plan.abandon || self.clients[client].batch.is_empty()) {
            if !self.clients[client].waits_for_answer {
                self.clients[client].batch.clear();
            }
            return;
        }
        if !self.running || self.stopping || self.clients[client].waits_for_answer {
            let again = Duration::from_millis(200);
            if !self.clients[client].waits_for_answer {
                self.schedule(again, Item::Publish(client));
            }
            return;
        }
        if self.clients[client].batch.is_empty() {
            self.clients[client].batch = self.new_batch(client);
        }
        self.clients[client].waits_for_answer = true;
        let events = self.clients[client].batch.clone();
        self.submitted.push_back(Submitted::Publish(events.clone()));
        self.trace(|| {
            let of =
                |e: &NewEvent| String::from_utf8_lossy(&e.event.payload).trim_end_matches('.').to_owned();
            format!("client {client} -> {}", events.iter().map(of).collect::<Vec<_>>().join(", "))
        });
        let done = self.outcome(move |result| Outcome::Published(client, result));
        self.store.submit(Commit { events, ..Commit::default() }, done);
    }

    fn new_batch(&mut self, client: usize) -> Vec<NewEvent> {
        (0..self.rng.between(1, 4)).map(|_| self.new_event(client)).collect()
    }

    fn new_event(&mut self, client: usize) -> NewEvent {
        let number = self.clients[client].next;
        self.clients[client].next += 1;
        let received = self.wall();
        let expires = self.rng.chance(self.plan.expiring);
        let expires = expires.then(|| received.after(Duration::from_millis(self.rng.between(100, 10_000))));
        let mut payload = format!("{client} {number} ").into_bytes();
        let bytes = usize::try_from(self.rng.below(self.plan.payload_bytes)).unwrap_or(0);
        payload.resize(payload.len().max(bytes), b'.');
        let event = Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: Text::from(format!("mqtt://sim/{client}")),
            id: self.rng.chance(100).then(|| Text::from(format!("own-{client}-{number}"))),
            time: received.is_plausible().then_some(received),
            received,
            expires,
            topic: Text::from(format!("t/{}", self.rng.below(self.plan.topics))),
            payload: Bytes::from(payload),
            properties: None,
        };
        let stream = u16::try_from(self.rng.index(self.plan.spec.streams.len())).unwrap_or(0);
        NewEvent { stream: Some(StreamId(stream)), event, mailboxes: Vec::new() }
    }

    fn published(&mut self, client: usize, result: Result<Committed, CommitError>) -> Check {
        self.trace(|| format!("client {client} <- {result:?}"));
        self.clients[client].waits_for_answer = false;
        let batch = std::mem::take(&mut self.clients[client].batch);
        let again = match result {
            Ok(committed) => {
                self.failed.clear();
                for (new, position) in batch.iter().zip(committed.positions) {
                    let stream = new.stream.unwrap_or(StreamId(0));
                    checks::p1_answered_is_stored(&self.history, stream, position, &new.event.payload)?;
                    if let Some(stored) = self.history.stream_mut(stream).get_mut(&position) {
                        stored.answered = true;
                    }
                }
                Duration::from_millis(1) + self.within(self.plan.think_ms)
            }
            Err(error) => {
                self.summary.refused += 1;
                if matches!(error, CommitError::Io(_)) {
                    self.failed.extend_from_slice(&batch);
                }
                debug_assert!(error.class() == Class::Retry, "{error}");
                self.clients[client].batch = batch;
                Duration::from_millis(300)
            }
        };
        self.schedule(again, Item::Publish(client));
        Ok(())
    }

    fn try_refused_again(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].waits_for_answer && !self.clients[client].batch.is_empty() {
                self.schedule(Duration::ZERO, Item::Publish(client));
            }
        }
    }

    // ---- the store

    /// A completion that puts its outcome where [`World::settle`] finds it.
    fn outcome<T: Send + 'static>(
        &self,
        outcome: impl FnOnce(T) -> Outcome + Send + 'static,
    ) -> Box<dyn FnOnce(T) + Send> {
        let (life, send) = (self.life, answer(self.answers.clone()));
        Box::new(move |result| send((life, outcome(result))))
    }

    fn disk_turn(&mut self) -> Check {
        self.disk_busy = false;
        if !self.running {
            return Ok(());
        }
        let group = if self.rng.chance(700) { 1 } else { self.rng.index(3) + 2 };
        let done = self.backend.complete(group).min(self.submitted.len());
        self.trace(|| format!("disk: {done} commits"));
        let finished: Vec<Submitted> = self.submitted.drain(..done).collect();
        self.learn()?;
        self.observe(&finished, false)?;
        if self.quiet || self.rng.chance(500) {
            self.store.release(1);
        }
        Ok(())
    }

    fn tick(&mut self) -> Check {
        self.schedule(Duration::from_secs(1), Item::Tick);
        if !self.running {
            return Ok(());
        }
        self.store.tick(self.wall());
        self.observe(&[], true)?;
        self.look_at_store()
    }

    /// Events that became readable.
    fn learn(&mut self) -> Check {
        let mut new: Vec<(StreamId, StoredEvent)> = Vec::new();
        for (idx, stream) in self.plan.spec.streams.iter().enumerate() {
            let id = StreamId(u16::try_from(idx).unwrap_or(u16::MAX));
            let newest = self.history.streams[idx].keys().next_back().copied().unwrap_or_default();
            let consumer = Consumer { stream: id, uplink: stream.uplinks[0] };
            if self.bare.backlog(consumer).newest > newest {
                new.extend(read_all(&*self.bare, consumer, newest).into_iter().map(|event| (id, event)));
            }
        }
        new.sort_by_key(|(_, event)| event.position);
        for (stream, event) in new {
            checks::p3_position_is_new(&self.history, stream, &event)?;
            self.accept(stream, event);
        }
        Ok(())
    }

    fn accept(&mut self, stream: StreamId, event: StoredEvent) {
        self.history.newest = self.history.newest.max(event.position);
        if let Entry::Vacant(place) = self.history.stream_mut(stream).entry(event.position) {
            place.insert(Stored { event, answered: false });
            self.summary.accepted += 1;
        }
    }

    /// Compares the store's figures with what was just done to it.
    fn observe(&mut self, finished: &[Submitted], tick: bool) -> Check {
        self.observe_consumers(|consumer| step(finished, consumer, tick))
    }

    fn observe_consumers(&mut self, step_of: impl Fn(Consumer) -> Step) -> Check {
        let lines = self.bare.ledger();
        for consumer in self.consumers() {
            let backlog = self.bare.backlog(consumer);
            let ledger = lines.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum();
            checks::p2_ledger_is_exact(&self.history, consumer, backlog, ledger, step_of(consumer))?;
            let spec = &self.plan.spec.streams[usize::from(consumer.stream.0)];
            checks::p5_budget(spec, backlog)?;
            // Counting takes time; not after every commit.
            if self.summary.steps.is_multiple_of(16) {
                checks::p5_figures_are_true(&self.history, consumer.stream, backlog)?;
            }
            let before = self.history.readers[&consumer].cursor;
            if before != backlog.acked {
                self.trace(|| {
                    format!("cursor of {consumer:?} {before} -> {}, ledger {ledger}", backlog.acked)
                });
            }
            let passed: Vec<Position> =
                self.history.between(consumer.stream, before, backlog.acked).collect();
            let reader = self.history.reader(consumer);
            reader.lost.extend(passed.into_iter().filter(|p| !reader.acked.contains(p)));
            reader.cursor = backlog.acked;
            reader.ledger = ledger;
        }
        Ok(())
    }

    /// The forwarders hear where the store has put their cursors.
    fn look_at_store(&mut self) -> Check {
        for idx in 0..self.sides.len() {
            for stream in self.sides[idx].streams.clone() {
                let consumer = Consumer { stream, uplink: uplink_id(idx) };
                let acked = self.bare.backlog(consumer).acked;
                let reader = self.history.reader(consumer);
                if acked > reader.told.max(reader.committed) {
                    self.sides[idx].meter.reasons += 1;
                }
                reader.told = reader.told.max(acked);
                self.feed(idx, Input::RetentionMoved { stream, acked })?;
            }
        }
        Ok(())
    }

    fn take_outcome(&mut self, outcome: Outcome) -> Check {
        match outcome {
            Outcome::Published(client, result) => self.published(client, result),
            Outcome::Read(idx, stream, result) => {
                let input = match result {
                    Ok(batch) => Input::Fetched { stream, batch },
                    Err(ReadError::Closed) => Input::FetchFailed { stream, class: Class::Fatal },
                    Err(ReadError::Io(_)) => Input::FetchFailed { stream, class: Class::Retry },
                };
                let delay = self.some_delay();
                self.schedule(delay, Item::Deliver(idx, self.life, input));
                Ok(())
            }
            Outcome::Committed(idx, cursors, result) => {
                let input = match result {
                    Ok(_) => {
                        self.failed.clear();
                        for change in cursors {
                            let reader = self.history.reader(change.consumer);
                            reader.committed = reader.committed.max(change.acked);
                        }
                        Input::CursorCommitted
                    }
                    Err(error) => Input::CommitFailed { class: error.class() },
                };
                let delay = self.some_delay();
                self.schedule(delay, Item::Deliver(idx, self.life, input));
                Ok(())
            }
        }
    }

    fn some_delay(&mut self) -> Duration {
        if self.rng.chance(500) { Duration::ZERO } else { self.within(3) }
    }

    fn deliver(&mut self, idx: usize, input: Input) -> Check {
        let side = &mut self.sides[idx];
        match &input {
            Input::Fetched { stream, batch } => {
                side.fetching.retain(|s| s != stream);
                side.meter.empty_reads += u64::from(batch.events.is_empty());
            }
            Input::FetchFailed { stream, .. } => {
                side.fetching.retain(|s| s != stream);
                side.meter.reasons += 1;
            }
            Input::CursorCommitted | Input::CommitFailed { .. } => side.committing = false,
            _ => {}
        }
        self.feed(idx, input)
    }

    // ---- the forwarder

    fn feed(&mut self, idx: usize, input: Input) -> Check {
        if !self.running {
            return Ok(());
        }
        let (now, wall) = (self.now, self.wall());
        let side = &mut self.sides[idx];
        if side.meter.second != now.as_secs() {
            side.meter =
                Meter { second: now.as_secs(), reasons: side.meter.reasons.min(20), ..Meter::default() };
        }
        self.trace(|| format!("uplink {idx} <- {}", short_input(&input)));
        let side = &mut self.sides[idx];
        let is_timer = matches!(input, Input::Timer);
        side.meter.timers += u64::from(is_timer);
        side.meter.inputs += u64::from(!is_timer && !matches!(input, Input::RetentionMoved { .. }));
        let mut actions = Vec::new();
        side.delivery.step(now, wall, input, &mut actions);
        for action in actions {
            self.carry_out(idx, action)?;
        }
        self.check_bounds(idx)
    }

    fn carry_out(&mut self, idx: usize, action: Action) -> Check {
        if self.sides[idx].drained {
            return broken("P5", format!("uplink {idx}: {action:?} after it had stopped"));
        }
        self.trace(|| format!("uplink {idx} -> {}", short_action(&action)));
        match action {
            Action::Connect { timeout, .. } => self.connect(idx, timeout),
            Action::Fetch(read) => return self.fetch(idx, read),
            Action::Send { stream, event, again } => return self.send(idx, stream, event, again),
            Action::Flush => {}
            Action::CommitCursor { cursors, losses } => return self.commit(idx, cursors, losses),
            Action::WakeAt(at) => {
                self.sides[idx].wake = Some(at);
                // Timers of a busy machine come late.
                let late = if self.rng.chance(100) { self.within(30) } else { Duration::ZERO };
                self.schedule_at(at + late, Item::Timer(idx, self.life, at));
            }
            Action::Report(Report::Up { .. }) => self.sides[idx].upstream.told_up = true,
            Action::Report(Report::Down { .. }) => self.connection_ended(idx),
            Action::Report(_) => {}
            Action::Drained => self.sides[idx].drained = true,
        }
        Ok(())
    }

    fn check_bounds(&mut self, idx: usize) -> Check {
        let side = &self.sides[idx];
        let options = &self.plan.uplinks[idx].options;
        checks::p5_no_busy_loop(options, &side.meter)?;
        let unanswered =
            Volume { events: side.upstream.unanswered.len(), bytes: side.upstream.unanswered_bytes };
        if side.upstream.told_up {
            checks::p5_window(options, side.upstream.window, unanswered)?;
            let counted = side.delivery.in_flight();
            if counted != unanswered {
                return broken(
                    "P5",
                    format!("uplink {idx}: counts {counted:?} in flight, true are {unanswered:?}"),
                );
            }
        }
        let event_max = usize::try_from(self.plan.payload_bytes).unwrap_or(0) + 200;
        checks::p5_memory(options, side.streams.len(), side.delivery.waiting(), event_max)
    }

    fn fetch(&mut self, idx: usize, read: Read) -> Check {
        let stream = read.consumer.stream;
        if self.sides[idx].fetching.contains(&stream) {
            return broken("P5", format!("uplink {idx}: two reads of {stream:?} at a time"));
        }
        self.sides[idx].fetching.push(stream);
        let done = self.outcome(move |result| Outcome::Read(idx, stream, result));
        self.store.read(read, done);
        Ok(())
    }

    fn commit(&mut self, idx: usize, cursors: Vec<CursorChange>, losses: Vec<Loss>) -> Check {
        if self.sides[idx].committing {
            return broken("P5", format!("uplink {idx}: two cursor commits at a time"));
        }
        for stream in &self.sides[idx].streams {
            let consumer = Consumer { stream: *stream, uplink: uplink_id(idx) };
            checks::p2_cursor_is_covered(&self.history, consumer, &cursors, &losses)?;
        }
        self.sides[idx].committing = true;
        self.submitted.push_back(Submitted::Cursors(cursors.clone(), losses.clone()));
        let moved = cursors.clone();
        let done = self.outcome(move |result| Outcome::Committed(idx, moved, result));
        self.store.submit(Commit { cursors, losses, ..Commit::default() }, done);
        Ok(())
    }

    // ---- the uplink

    fn connect(&mut self, idx: usize, timeout: Duration) {
        self.sides[idx].meter.connects += 1;
        let connection = self.sides[idx].upstream.attempt();
        let Weather { door, latency_ms, .. } = self.sides[idx].weather;
        let takes = Duration::from_micros(100) + self.within(latency_ms);
        match door {
            Door::Open => self.schedule(takes, Item::Connected(idx, connection)),
            Door::Refused => self.schedule(takes, Item::Down(idx, connection, "refused")),
            Door::Silent if self.rng.chance(500) => {
                self.schedule(timeout, Item::Down(idx, connection, "no answer"));
            }
            Door::Silent => {}
        }
    }

    fn connected(&mut self, idx: usize, connection: u64) -> Check {
        if self.sides[idx].upstream.connection != connection || !self.running {
            return Ok(());
        }
        let window = self.sides[idx].weather.window;
        self.sides[idx].upstream.alive = true;
        self.sides[idx].upstream.window = window;
        // What the store gave up during the outage is not sent after it.
        self.look_at_store()?;
        self.feed(idx, Input::Up { window, address: Text::from_static("sim") })
    }

    fn went_down(&mut self, idx: usize, connection: u64, cause: &'static str) -> Check {
        if self.sides[idx].upstream.connection != connection {
            return Ok(());
        }
        self.sides[idx].upstream.alive = false;
        self.feed(idx, Input::Down { cause: Text::from_static(cause) })
    }

    /// The forwarder counts nothing as unanswered any more.
    fn connection_ended(&mut self, idx: usize) {
        for (stream, position) in self.sides[idx].upstream.forget() {
            let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
            reader.died.insert((position, self.life));
        }
    }

    fn send(&mut self, idx: usize, stream: StreamId, event: Arc<StoredEvent>, again: bool) -> Check {
        if !self.sides[idx].upstream.told_up {
            return broken("P5", format!("uplink {idx}: sent while not connected"));
        }
        checks::p3_copy_is_the_same(&self.history, stream, &event)?;
        let position = event.position;
        let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
        if reader.sent.insert(position) == again {
            return broken("P3", format!("uplink {idx}: {position} sent with again = {again}"));
        }
        let sending = self.sides[idx].upstream.send(self.life, stream, event);
        let mut at = self.now + self.latency(idx);
        if self.is_ordered(idx) {
            at = at.max(self.sides[idx].upstream.arrives_after);
            self.sides[idx].upstream.arrives_after = at;
        }
        self.schedule_at(at, Item::Arrive(idx, sending));
        Ok(())
    }

    fn is_ordered(&self, idx: usize) -> bool {
        self.plan.uplinks[idx].options.pipeline == Pipeline::Ordered
    }

    fn latency(&mut self, idx: usize) -> Duration {
        let ms = self.sides[idx].weather.latency_ms;
        self.within(ms)
    }

    fn arrive(&mut self, idx: usize, sending: &Sending) -> Check {
        let upstream = &self.sides[idx].upstream;
        if !upstream.alive || upstream.connection != sending.connection {
            // A request that its sender has given up may be served all the same; not so a byte of a dead connection.
            if !self.is_ordered(idx) && self.rng.chance(300) {
                return self.receive(idx, sending);
            }
            return Ok(());
        }
        let key = (sending.stream, sending.event.position);
        match fate(&self.sides[idx].weather, sending.event.position.counter(), &mut self.rng) {
            Fate::Taken { twice } => {
                self.receive(idx, sending)?;
                self.answers(idx, key, Verdict::Acked);
                if twice {
                    self.answers(idx, key, Verdict::Acked);
                }
            }
            Fate::TakenInSilence => self.receive(idx, sending)?,
            Fate::Refused(class) => {
                // Until the forwarder hears of it, it goes on sending.
                let refusal = Refusal {
                    position: key.1,
                    connection: sending.connection,
                    life: sending.life,
                    sent_before: u64::MAX,
                };
                self.history
                    .reader(Consumer { stream: key.0, uplink: uplink_id(idx) })
                    .refusals
                    .push(refusal);
                self.answers(idx, key, Verdict::Failed(class));
            }
            Fate::Reset { taken } => {
                if taken {
                    self.receive(idx, sending)?;
                }
                self.sides[idx].upstream.alive = false;
                let heard = self.latency(idx);
                self.schedule(heard, Item::Down(idx, sending.connection, "reset"));
            }
        }
        Ok(())
    }

    fn receive(&mut self, idx: usize, sending: &Sending) -> Check {
        checks::p3_copy_is_the_same(&self.history, sending.stream, &sending.event)?;
        let consumer = Consumer { stream: sending.stream, uplink: uplink_id(idx) };
        let Sending { number, connection, life, .. } = *sending;
        let reception = Reception { position: sending.event.position, sending: number, connection, life };
        let first = self.history.receive(consumer, reception);
        self.trace(|| format!("upstream {idx} has {} (first: {first})", reception.position));
        self.summary.received += u64::from(first);
        self.summary.duplicates += u64::from(!first);
        Ok(())
    }

    fn answers(&mut self, idx: usize, key: EventKey, verdict: Verdict) {
        let mut at = self.now + self.latency(idx);
        if self.is_ordered(idx) {
            at = at.max(self.sides[idx].upstream.answers_after);
            self.sides[idx].upstream.answers_after = at;
        }
        let connection = self.sides[idx].upstream.connection;
        self.schedule_at(at, Item::Answer(idx, connection, key, verdict));
    }

    fn answer(&mut self, idx: usize, connection: u64, key: EventKey, verdict: Verdict) -> Check {
        if !self.sides[idx].upstream.alive
            || self.sides[idx].upstream.connection != connection
            || !self.running
        {
            return Ok(());
        }
        let (stream, position) = key;
        let bytes = self.history.stream(stream).get(&position).map_or(0, |s| s.event.stored_bytes);
        let sent_before = self.sides[idx].upstream.sendings();
        self.sides[idx].upstream.answered(key, bytes);
        let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
        match verdict {
            Verdict::Acked => {
                reader.acked.insert(position);
                self.feed(idx, Input::Acked { stream, position })
            }
            Verdict::Failed(class) => {
                let of_it = |r: &&mut Refusal| r.position == position && r.connection == connection;
                if let Some(refusal) = reader.refusals.iter_mut().rev().find(of_it) {
                    refusal.sent_before = sent_before;
                }
                let reason = Text::from_static("refused by the simulation");
                self.feed(idx, Input::Failed { stream, position, class, reason })
            }
        }
    }

    // ---- the end

    fn finish(mut self) -> Result<Summary, Violation> {
        if self.summary.steps > STEPS_MAX {
            broken("P5", "the run has no end".to_owned())?;
        }
        for consumer in self.consumers() {
            let after = self.now.saturating_sub(self.plan.quiet_from);
            checks::drains(consumer, self.bare.backlog(consumer), after)?;
            let ledger = self.history.readers[&consumer].ledger;
            checks::p2_received_or_counted(&self.history, consumer, ledger)?;
            let options = &self.plan.uplinks[usize::from(consumer.uplink.0)].options;
            let ages = self.plan.spec.streams[usize::from(consumer.stream.0)].max_age.is_some();
            checks::p4_strict_order(&self.history, consumer, options, ages)?;
            self.summary.lost += ledger;
        }
        checks::p4_sequence_restores_order(&self.history)?;
        self.summary.virtual_ms = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        Ok(self.summary)
    }
}

fn consumers(plan: &Plan) -> impl Iterator<Item = Consumer> {
    plan.spec.streams.iter().enumerate().flat_map(|(idx, stream)| {
        let id = StreamId(u16::try_from(idx).unwrap_or(u16::MAX));
        stream.uplinks.iter().map(move |uplink| Consumer { stream: id, uplink: *uplink })
    })
}

fn uplink_id(idx: usize) -> UplinkId {
    UplinkId(u16::try_from(idx).unwrap_or(u16::MAX))
}

/// What these commits, done together, may have done to one consumer.
fn step(finished: &[Submitted], consumer: Consumer, tick: bool) -> Step {
    let mut step = Step {
        asked: Position::ZERO,
        told: 0,
        gives_up: tick,
        exact: finished.len() + usize::from(tick) == 1,
        unknown: 0,
    };
    for submitted in finished {
        match submitted {
            Submitted::Publish(_) => step.gives_up = true,
            Submitted::Cursors(cursors, losses) => {
                let asked = cursors.iter().filter(|c| c.consumer == consumer).map(|c| c.acked);
                step.asked = asked.fold(step.asked, Position::max);
                step.told +=
                    losses.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum::<u64>();
            }
        }
    }
    step
}

/// Batches by their positions: nobody reads payloads.
fn short_input(input: &Input) -> String {
    match input {
        Input::Fetched { stream, batch } => {
            let positions: Vec<String> = batch.events.iter().map(|e| e.position.to_string()).collect();
            format!(
                "Fetched {stream:?} {} through {} end {}",
                positions.join(" "),
                batch.through,
                batch.at_end
            )
        }
        other => format!("{other:?}"),
    }
}

fn short_action(action: &Action) -> String {
    match action {
        Action::Send { stream, event, again } => {
            let Event { source, topic, .. } = &event.event;
            format!("Send {stream:?} {} {source} {topic} again {again}", event.position)
        }
        other => format!("{other:?}"),
    }
}

fn broken(promise: &'static str, what: String) -> Check {
    Err(Violation { promise, what })
}
