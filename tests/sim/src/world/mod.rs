//! Virtual time, and who talks to whom.

mod devices;
mod disk;
mod lives;
mod uplink;

use crate::backend::Backend;
use crate::checks::{self, Check, Meter, Violation};
use crate::delivery::{Delivery, MakeDelivery};
use crate::history::History;
use crate::plan::{Blow, Plan, START, WallClock, Weather};
use crate::upstream::{EventKey, Sending, Upstream};
use eventmesh_edge_contract::{FaultyStore, Rng, Script};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::forward::Input;
use eventmesh_edge_core::ports::store::{
    Batch, Class, CommitError, Committed, Consumer, CursorChange, Loss, NewEvent, ReadError, Store, StreamId,
    UplinkId,
};
use std::collections::VecDeque;
use std::collections::btree_map::BTreeMap;
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
    /// What it reads.
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

fn broken(promise: &'static str, what: String) -> Check {
    Err(Violation { promise, what })
}
