//! Virtual time, the node's lives, and the truth that the receiver's account is held against.

use super::devices::Device;
use super::plan::{Climate, OWN, WeekPlan};
use super::receiver::{Arrived, broken};
use super::upstream::Side;
use crate::backend::Backend;
use crate::checks::{Check, Violation};
use crate::plan::START;
use crate::world::Summary;
use eventmesh_edge_contract::Rng;
use eventmesh_edge_contract::suite::support::read_all;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::forward::Input;
use eventmesh_edge_core::ports::store::{
    Change, Class, Commit, CommitError, Committed, Consumer, LedgerEntry, LedgerLine, NewEvent, StateChange,
    Store, StreamId, UplinkId,
};
use eventmesh_edge_core::telemetry::{Batch, Link, LossTotal, Options, PreviousStop, Telemetry, Vitals};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// More than a week has to do.
const STEPS_MAX: u64 = 200_000;
/// More than a moment has to do.
const ROUNDS_MAX: u64 = 20_000;

/// What is to happen at some moment.
pub(super) enum Item {
    Publish(usize),
    Disk,
    Look,
    Timer(usize, u64, Duration),
    Down(usize, u64),
    Climate(usize, Climate),
    Cut,
    Start,
}

/// What the store answered.
pub(super) enum Outcome {
    Published(usize, Result<Committed, CommitError>),
    Input(usize, Input),
    /// Refused messages, and whether they are counted.
    Counted(u64, bool),
    Told(Result<(), Class>),
}

/// What may be done wrong on purpose.
#[derive(Clone, Copy)]
pub struct Tamper {
    /// To each commit on its way to the store.
    pub commit: fn(&mut Commit),
    /// To the ledger entries that the store hands out.
    pub entries: fn(&mut Vec<LedgerEntry>),
    /// To the totals of the store.
    pub lines: fn(&mut Vec<LedgerLine>),
    /// To what arrives; false if it does not.
    pub arrival: fn(&mut Arrived) -> bool,
}

impl Default for Tamper {
    fn default() -> Tamper {
        Tamper { commit: |_| {}, entries: |_| {}, lines: |_| {}, arrival: |_| true }
    }
}

/// What really happened.
#[derive(Default)]
pub(super) struct Truth {
    /// Everything that became durable, by stream.
    pub(super) accepted: BTreeMap<StreamId, BTreeSet<Position>>,
    /// Counted and arrived all the same, at most, by stream and uplink.
    pub(super) both: BTreeMap<(StreamId, usize), u64>,
    pub(super) refused: u64,
    pub(super) refused_at_most: u64,
    /// Cursor and losses of each consumer as last seen.
    passed: BTreeMap<(StreamId, usize), (Position, u64)>,
    pub(super) lives: u64,
}

#[derive(Default)]
struct Flags {
    appended: AtomicBool,
    room: AtomicBool,
}

/// One run.
pub struct Week<'a> {
    pub(super) plan: WeekPlan,
    backend: Box<dyn Backend + 'a>,
    pub(super) store: Arc<dyn Store>,
    pub(super) tamper: Tamper,
    pub(super) rng: Rng,
    pub(super) now: Duration,
    agenda: BTreeMap<(Duration, u64), Item>,
    agenda_no: u64,
    pub(super) life: u64,
    pub(super) running: bool,
    born_at: Duration,
    flags: Arc<Flags>,
    pub(super) answers: mpsc::Sender<(u64, Outcome)>,
    answered: mpsc::Receiver<(u64, Outcome)>,
    pub(super) inbox: VecDeque<(usize, Input)>,
    disk_busy: bool,
    telemetry: Option<Telemetry>,
    pub(super) devices: Vec<Device>,
    pub(super) sides: Vec<Side>,
    pub(super) truth: Truth,
    pub(super) summary: Summary,
}

impl<'a> Week<'a> {
    /// At rest, on Monday morning.
    pub fn new(plan: WeekPlan, backend: impl Backend + 'a) -> Week<'a> {
        let mut backend: Box<dyn Backend + 'a> = Box::new(backend);
        let store = backend.open(plan.spec.clone());
        let (answers, answered) = mpsc::channel();
        let mut week = Week {
            rng: Rng::new(plan.seed).fork(),
            devices: (0..plan.devices).map(|_| Device::default()).collect(),
            sides: plan.climates.iter().map(|_| Side::new()).collect(),
            plan,
            backend,
            store,
            tamper: Tamper::default(),
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            agenda_no: 0,
            life: 0,
            running: false,
            born_at: Duration::ZERO,
            flags: Arc::default(),
            answers,
            answered,
            inbox: VecDeque::new(),
            disk_busy: false,
            telemetry: None,
            truth: Truth::default(),
            summary: Summary::default(),
        };
        week.schedule_plan();
        week
    }

    /// With something done wrong on purpose.
    #[must_use]
    pub fn tampered(mut self, tamper: Tamper) -> Week<'a> {
        self.tamper = tamper;
        self
    }

    fn schedule_plan(&mut self) {
        for at in self.plan.cuts.clone() {
            self.schedule_at(at, Item::Cut);
        }
        for (idx, climates) in self.plan.climates.clone().into_iter().enumerate() {
            for (at, climate) in climates {
                self.schedule_at(at, Item::Climate(idx, climate));
            }
        }
        for device in 0..self.plan.devices {
            self.schedule(Duration::from_secs(60), Item::Publish(device));
        }
        self.schedule(Duration::from_secs(1), Item::Look);
    }

    /// Runs to the end of the week and a quiet day more.
    ///
    /// # Errors
    /// What the account does not explain.
    pub fn run(mut self) -> Result<Summary, Violation> {
        self.begin_life()?;
        self.settle()?;
        while let Some(((at, _), item)) = self.agenda.pop_first() {
            if at > self.plan.end {
                break;
            }
            self.now = at;
            self.summary.steps += 1;
            self.happen(item)?;
            self.settle()?;
            if self.summary.steps > STEPS_MAX {
                return broken(format!("a week that does not end, at {:?}", self.now)).map(|()| self.summary);
            }
        }
        self.summary.virtual_ms = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        self.close_account()
    }

    pub(super) fn schedule_at(&mut self, at: Duration, item: Item) {
        self.agenda_no += 1;
        self.agenda.insert((at.max(self.now), self.agenda_no), item);
    }

    pub(super) fn schedule(&mut self, delay: Duration, item: Item) {
        self.schedule_at(self.now + delay, item);
    }

    pub(super) fn wall(&self) -> Timestamp {
        START.after(self.now)
    }

    fn happen(&mut self, item: Item) -> Check {
        match item {
            Item::Publish(device) => self.publish(device),
            Item::Disk => return self.disk_turn(),
            Item::Look => return self.look(),
            Item::Timer(idx, life, at) if life == self.life => self.timer(idx, at),
            Item::Timer(..) => {}
            Item::Down(idx, connection) => self.down(idx, connection),
            Item::Climate(idx, climate) => self.change_climate(idx, climate),
            Item::Cut if self.running => self.cut(),
            Item::Cut => {}
            Item::Start => return self.begin_life(),
        }
        Ok(())
    }

    /// Carries on until nobody has anything to say at this moment.
    fn settle(&mut self) -> Check {
        for round in 0.. {
            if round > ROUNDS_MAX {
                let next = self.inbox.front().map(|(idx, input)| format!("uplink {idx}: {input:.200?}"));
                return broken(format!("a moment that does not end at {:?}; next is {next:?}", self.now));
            }
            if let Ok((life, outcome)) = self.answered.try_recv() {
                if life == self.life && self.running {
                    self.take_outcome(outcome);
                }
            } else if let Some((idx, input)) = self.inbox.pop_front() {
                self.feed(idx, input)?;
            } else if self.flags.appended.swap(false, Ordering::Relaxed) {
                (0..self.sides.len()).for_each(|idx| self.inbox.push_back((idx, Input::Appended)));
            } else if self.flags.room.swap(false, Ordering::Relaxed) {
                self.look_at_store();
            } else {
                break;
            }
        }
        if self.running && !self.disk_busy && self.backend.pending() > 0 {
            self.disk_busy = true;
            let takes = Duration::from_millis(self.rng.between(1, 40));
            self.schedule(takes, Item::Disk);
        }
        Ok(())
    }

    fn take_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Published(device, answer) => self.published(device, answer),
            Outcome::Input(idx, input) => self.inbox.push_back((idx, input)),
            Outcome::Counted(events, counted) => self.truth.refused += if counted { events } else { 0 },
            Outcome::Told(outcome) => {
                if let Some(telemetry) = &mut self.telemetry {
                    telemetry.settled(self.now - self.born_at, outcome);
                }
            }
        }
    }

    // ---- the store

    fn disk_turn(&mut self) -> Check {
        self.disk_busy = false;
        if self.running {
            self.backend.complete(1);
            self.observe();
        }
        Ok(())
    }

    /// What became durable, and where the cursors went.
    fn observe(&mut self) {
        let lines = self.ledger();
        for (stream, spec) in self.plan.spec.streams.iter().enumerate() {
            let id = StreamId(u16::try_from(stream).unwrap_or(0));
            let first = Consumer { stream: id, uplink: spec.uplinks[0] };
            let known = self.truth.accepted.entry(id).or_default();
            let newest = known.last().copied().unwrap_or_default();
            if self.store.backlog(first).newest > newest {
                known.extend(read_all(&*self.store, first, newest).iter().map(|event| event.position));
            }
            for idx in 0..self.sides.len() {
                let consumer = Consumer { stream: id, uplink: uplink_id(idx) };
                let acked = self.store.backlog(consumer).acked;
                let lost = lines.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum();
                let (before, counted) =
                    self.truth.passed.insert((id, idx), (acked, lost)).unwrap_or_default();
                if lost > counted {
                    let received = self.sides[idx].received.get(&id);
                    let both =
                        received.map_or(0, |r| r.range(before.next()..=acked.max(before.next())).count());
                    *self.truth.both.entry((id, idx)).or_default() += both as u64;
                }
            }
        }
    }

    pub(super) fn ledger(&self) -> Vec<LedgerLine> {
        let mut lines = self.store.ledger();
        (self.tamper.lines)(&mut lines);
        lines
    }

    /// The forwarders hear where the store has put their cursors.
    pub(super) fn look_at_store(&mut self) {
        for idx in 0..self.sides.len() {
            for stream in 0..self.plan.spec.streams.len() {
                let stream = StreamId(u16::try_from(stream).unwrap_or(0));
                let acked = self.store.backlog(Consumer { stream, uplink: uplink_id(idx) }).acked;
                self.inbox.push_back((idx, Input::RetentionMoved { stream, acked }));
            }
        }
    }

    // ---- lives

    fn begin_life(&mut self) -> Check {
        if self.life > 0 {
            self.store = self.backend.open(self.plan.spec.clone());
        }
        self.life += 1;
        self.truth.lives += 1;
        (self.running, self.disk_busy, self.born_at) = (true, false, self.now);
        self.inbox.clear();
        self.flags = Arc::default();
        let flags = Arc::clone(&self.flags);
        self.store.watch(Arc::new(move |change| match change {
            Change::Appended => flags.appended.store(true, Ordering::Relaxed),
            Change::Room => flags.room.store(true, Ordering::Relaxed),
        }));
        for device in 0..self.devices.len() {
            let careless = self.is_careless(device);
            self.devices[device].unanswered(careless);
        }
        self.observe();
        self.telemetry = Some(Telemetry::new(self.telemetry_options()));
        self.begin_sides()
    }

    fn telemetry_options(&self) -> Options {
        Options {
            node: Text::from_static("week"),
            log: self.store.log_id(),
            epoch: self.store.stats().epoch,
            version: Text::from_static("0"),
            heartbeat: self.plan.heartbeat,
            stream: Text::from_static(OWN),
            uplinks: self.plan.spec.uplinks.clone(),
            previous_stop: if self.life > 1 { PreviousStop::Unclean } else { PreviousStop::First },
            cut_bytes: 0,
            quarantined_files: 0,
        }
    }

    /// Killed, or without power: what was under way may be there, or its beginning, or nothing of it.
    fn cut(&mut self) {
        self.summary.cuts += 1;
        self.backend.power_cut(&mut self.rng);
        self.running = false;
        self.sides.iter_mut().for_each(|side| side.up = false);
        let dark = Duration::from_secs(self.rng.below(self.plan.dark.as_secs()) + 1);
        self.schedule(dark, Item::Start);
    }

    // ---- the node's own events

    fn look(&mut self) -> Check {
        self.schedule(self.plan.look_every, Item::Look);
        if !self.running {
            return Ok(());
        }
        self.store.tick(self.wall());
        self.observe();
        self.look_at_store();
        let links: Vec<Link> = self
            .sides
            .iter()
            .map(|side| Link { up: side.up, connections: side.made, ..Link::default() })
            .collect();
        let (now, wall) = (self.now - self.born_at, self.wall());
        let Some(mut telemetry) = self.telemetry.take() else { return Ok(()) };
        let due = telemetry.look(now, &links);
        let vitals = due.vitals.then(|| self.vitals());
        let mut entries = due.ledger.map_or(Vec::new(), |(after, max)| self.store.ledger_after(after, max));
        (self.tamper.entries)(&mut entries);
        let batch = telemetry.gather(now, wall, vitals, entries);
        self.telemetry = Some(telemetry);
        if let Some(batch) = batch {
            self.tell(batch);
        }
        Ok(())
    }

    fn tell(&mut self, batch: Batch) {
        let own = StreamId(u16::try_from(self.plan.spec.streams.len() - 1).unwrap_or(0));
        let event = |event| NewEvent { stream: Some(own), event, mailboxes: Vec::new() };
        let commit = Commit {
            events: batch.events.into_iter().map(event).collect(),
            state: batch.forget.map(|through| StateChange::LedgerForget { through }).into_iter().collect(),
            ..Commit::default()
        };
        self.submit(commit, |result| Outcome::Told(result.map(drop).map_err(|error| error.class())));
    }

    fn vitals(&self) -> Vitals {
        let total = |line: &LedgerLine| LossTotal {
            stream: line.consumer.map(|c| self.plan.spec.streams[usize::from(c.stream.0)].name.clone()),
            uplink: line.consumer.and_then(|c| self.plan.spec.uplinks.get(usize::from(c.uplink.0)).cloned()),
            reason: line.reason.as_str(),
            events: line.events,
            bytes: line.bytes,
        };
        Vitals { losses: self.ledger().iter().map(total).collect(), ..Vitals::default() }
    }
}

pub(super) fn uplink_id(idx: usize) -> UplinkId {
    UplinkId(u16::try_from(idx).unwrap_or(u16::MAX))
}
