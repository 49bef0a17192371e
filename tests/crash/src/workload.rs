//! What is done to the store while it is recorded. A workload is several lives of one data directory; each life is a
//! process of its own, so that it can end like a process that was killed.
//!
//! Every commit but some that only move cursors also sets `Node/last-<life>` to its number: since commits become durable
//! in their order, the value in an image says exactly which of them are in it.

use crate::fixture::{Fixture, older};
use crate::marks::{Mark, NOBODY, Planned, PlannedChange, PlannedEvent, PlannedLoss, Refusal};
use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    CommitError, Committed, Consumer, LossReason, Read, SessionNo, Store, StoreSpec, StreamId, StreamSpec,
    Table, UplinkId, WhenFull,
};
use eventmesh_edge_store::{GatherOptions, JournalStore, Machine, OpenError, StoreOptions};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When all workloads take place.
pub const BASE_MS: u64 = 1_790_000_000_000;
/// Commits of a life are numbered from here times its number.
pub const NUMBERS_PER_LIFE: u64 = 100_000;
/// Entries that a mailbox takes.
pub const MAILBOX_MAX: u64 = 20;
/// Entries of the ledger that are handed on together.
const ENTRIES: usize = 5;
/// `max_age` of the stream `aged`.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Stream that refuses when it is full; read by both uplinks.
pub const KEPT: u16 = 0;
/// Stream that drops its oldest; read by both uplinks, the second of which never acknowledges anything.
pub const NEWEST: u16 = 1;
/// Stream that expires.
pub const AGED: u16 = 2;
/// Stream without an uplink.
pub const WAITING: u16 = 3;
/// Stream that refuses, and is small enough to do so.
pub const SCARCE: u16 = 4;

/// All consumers.
pub const CONSUMERS: [(u16, u16); 7] =
    [(KEPT, 0), (KEPT, 1), (NEWEST, 0), (NEWEST, 1), (AGED, 0), (WAITING, u16::MAX), (SCARCE, 0)];

/// The kinds of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Workload {
    /// One event per commit, one commit at a time, both uplinks keep up: journal and recycling.
    Forward,
    /// Groups of commits of several events; the second uplink is away for lives, then drains: generations.
    Spill,
    /// Streams that overflow and expire.
    Overflow,
    /// Sessions, mailboxes, packet ids, retained values: views and their checkpoints.
    State,
    /// Like `State`, and between lives a byte of the views changes: quarantine.
    Damage,
    /// Many short lives: epochs.
    Restarts,
    /// A stream that is full refuses, and takes more when its uplink has moved on.
    Refuse,
    /// QoS 2 both ways and sessions that come and go: packet ids, deliveries, what a session leaves behind.
    Sessions,
    /// A directory that an older program left is opened and used on.
    Upgrade,
}

/// All of them.
pub const WORKLOADS: [Workload; 9] = [
    Workload::Forward,
    Workload::Spill,
    Workload::Overflow,
    Workload::State,
    Workload::Damage,
    Workload::Restarts,
    Workload::Refuse,
    Workload::Sessions,
    Workload::Upgrade,
];

/// How much of what a workload does.
struct Mix {
    commits: u64,
    window: usize,
    events: (u64, u64),
    bytes: (u64, u64),
    /// Chance in 1,000 of a commit to change state.
    state: u64,
    /// Chance that a commit is followed by an acknowledgement, per uplink.
    acks: [u64; 2],
    /// Relative weights of the streams.
    streams: [u64; 5],
    /// Simulated milliseconds between commits.
    pace: u64,
}

impl Workload {
    /// How many lives.
    #[must_use]
    pub fn lives(self) -> u32 {
        match self {
            Workload::Restarts => 8,
            Workload::Spill => 5,
            Workload::Upgrade => 3,
            _ => 4,
        }
    }

    /// What is there before the first life, if anything is.
    ///
    /// # Errors
    /// If the fixture cannot be read.
    pub fn begins_with(self, seed: u64) -> std::io::Result<Option<Fixture>> {
        if self == Workload::Upgrade { older(seed).map(Some) } else { Ok(None) }
    }

    /// Whether commits may be refused for want of room.
    #[must_use]
    pub fn refuses(self) -> bool {
        self == Workload::Refuse
    }

    /// Whether files are damaged between lives.
    #[must_use]
    pub fn damages(self) -> bool {
        self == Workload::Damage
    }

    fn mix(self, life: u32) -> Mix {
        let base = Mix {
            commits: 90,
            window: 1,
            events: (1, 1),
            bytes: (20, 400),
            state: 100,
            acks: [800, 800],
            streams: [6, 2, 1, 1, 0],
            pace: 100,
        };
        match self {
            Workload::Forward => Mix { commits: 150, ..base },
            Workload::Spill => Mix {
                commits: 70,
                window: 12,
                events: (1, 8),
                acks: [500, if life >= 3 { 1000 } else { 0 }],
                streams: [8, 1, 1, 1, 0],
                ..base
            },
            Workload::Overflow => Mix {
                window: 4,
                events: (1, 4),
                bytes: (100, 900),
                acks: [200, 200],
                streams: [1, 5, 5, 1, 0],
                pace: 900,
                ..base
            },
            Workload::State | Workload::Damage => {
                Mix { window: 3, events: (0, 2), state: 950, acks: [900, 900], ..base }
            }
            Workload::Restarts => Mix { commits: 12, window: 2, events: (0, 3), state: 400, ..base },
            Workload::Refuse => {
                Mix { events: (1, 3), bytes: (100, 900), acks: [120, 900], streams: [2, 1, 0, 0, 8], ..base }
            }
            Workload::Sessions => Mix { window: 3, acks: [900, 900], ..base },
            Workload::Upgrade => Mix { window: 4, events: (0, 4), state: 500, ..base },
        }
    }
}

/// The spec of all workloads.
#[must_use]
pub fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[u16], max_bytes, when_full, max_age| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.iter().map(|u| UplinkId(*u)).collect(),
        max_bytes,
        max_age,
        when_full,
    };
    StoreSpec {
        streams: vec![
            stream("kept", &[0, 1], 1 << 20, WhenFull::Refuse, None),
            stream("newest", &[0, 1], 24 << 10, WhenFull::DropOldest, None),
            stream("aged", &[0], 1 << 20, WhenFull::Refuse, Some(MAX_AGE)),
            stream("waiting", &[], 1 << 20, WhenFull::Refuse, None),
            stream("scarce", &[0], 8 << 10, WhenFull::Refuse, None),
        ],
        uplinks: vec!["up".into(), "down".into()],
        disk_max: 64 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: MAILBOX_MAX,
        mailboxes_max_bytes: 1 << 30,
    }
}

/// Options so small that seals and checkpoints happen within a few dozen commits.
#[must_use]
pub fn options() -> StoreOptions {
    StoreOptions {
        gather: GatherOptions { lazy_delay: Duration::from_millis(1), ..GatherOptions::default() },
        segment_bytes: 16 << 10,
        recent_bytes: 4 << 10,
        seal_segments: 3,
        checkpoint_segments: 2,
        checkpoint_bytes: 6 << 10,
        // Kept images are opened on other machines, where a directory notices that it moved.
        machine: Some(Machine::default()),
        ..StoreOptions::default()
    }
}

struct FixedWall(Instant);

impl Clock for FixedWall {
    fn now(&self) -> Timestamp {
        Timestamp(BASE_MS)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Opens the real store as the workloads do.
///
/// # Errors
/// [`OpenError`].
pub fn open(dir: &Path) -> Result<(JournalStore, eventmesh_edge_store::Opened), OpenError> {
    JournalStore::open(dir, spec(), &options(), Arc::new(FixedWall(Instant::now())))
}

/// The consumer with these numbers.
#[must_use]
pub fn consumer((stream, uplink): (u16, u16)) -> Consumer {
    Consumer { stream: StreamId(stream), uplink: UplinkId(uplink) }
}

/// Why a life could not be lived.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The store did not open.
    #[error("open: {0}")]
    Open(#[from] OpenError),
    /// The marker file.
    #[error("marker file: {0}")]
    Marker(#[from] std::io::Error),
    /// An answer did not come.
    #[error("commit {0} was never answered")]
    Unanswered(u64),
    /// Only one workload fills what refuses.
    #[error("commit {0} was refused: {1:?}")]
    Refused(u64, Refusal),
}

/// What the callback of a commit passes on.
type Answered = (u64, Result<Vec<u64>, Refusal>);

/// One process's part of a workload.
struct Life {
    store: JournalStore,
    marker: Arc<File>,
    rng: Rng,
    workload: Workload,
    mix: Mix,
    life: u32,
    /// Its file operations fail now and then: commits may be refused.
    faulty: bool,
    number: u64,
    tag: u64,
    now_ms: u64,
    answers: (Sender<Answered>, Receiver<Answered>),
    outstanding: VecDeque<Planned>,
    /// Answered and not acknowledged, per consumer.
    unacked: BTreeMap<(u16, u16), VecDeque<u64>>,
    mailboxes: BTreeMap<u64, Vec<u64>>,
    /// Packet ids of QoS 2 messages that came and are not released.
    inbound: BTreeSet<String>,
    /// Deliveries under way: session, packet id, position.
    outbound: Vec<(u64, String, u64)>,
}

/// Whether a life closes the store; otherwise its process ends in the middle of whatever it does.
#[must_use]
pub fn ends_in_order(seed: u64, life: u32) -> bool {
    !(seed + u64::from(life)).is_multiple_of(2)
}

/// Lives one life, and ends the process in the way the life has it: in order, or not at all.
///
/// # Errors
/// [`LifeError`]; a recording of it is of no use.
pub fn live(
    (workload, seed, life): (Workload, u64, u32),
    faulty: bool,
    dir: &Path,
    marker: &Path,
) -> Result<(), LifeError> {
    let marker = Arc::new(File::options().create(true).append(true).open(marker)?);
    let (store, opened) = open(dir)?;
    let number = u64::from(life) * NUMBERS_PER_LIFE;
    let mut this = Life {
        store,
        marker,
        rng: Rng::new(seed.wrapping_mul(1009).wrapping_add(u64::from(life))),
        workload,
        mix: workload.mix(life),
        life,
        faulty,
        number,
        tag: number * 100,
        now_ms: BASE_MS + u64::from(life) * 1_000_000,
        answers: channel(),
        outstanding: VecDeque::new(),
        unacked: BTreeMap::new(),
        mailboxes: BTreeMap::new(),
        inbound: BTreeSet::new(),
        outbound: Vec::new(),
    };
    mark(&this.marker, &Mark::Opened { life, epoch: opened.epoch, log: opened.log.id })?;
    this.remember();
    for _ in 0..this.mix.commits {
        this.step()?;
    }
    if !ends_in_order(seed, life) {
        // Whatever is under way stays so.
        std::process::exit(0);
    }
    this.settle(0)?;
    this.store.close();
    mark(&this.marker, &Mark::Closed)?;
    Ok(())
}

fn mark(mut file: &File, mark: &Mark) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(mark)?;
    line.push(b'\n');
    file.write_all(&line)
}

impl Life {
    /// What earlier lives left to do.
    fn remember(&mut self) {
        for at in CONSUMERS {
            let consumer = consumer(at);
            let after = self.store.backlog(consumer).acked;
            let slot = Arc::new(Mutex::new(None));
            let into = Arc::clone(&slot);
            let (told, wait) = channel();
            let read = Read { consumer, after, max_events: 500, max_bytes: 1 << 20 };
            self.store.read(
                read,
                Box::new(move |batch| {
                    *into.lock().unwrap_or_else(PoisonError::into_inner) = batch.ok();
                    told.send(()).ok();
                }),
            );
            if wait.recv_timeout(Duration::from_secs(10)).is_ok() {
                let batch = slot.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
                let positions = batch.events.iter().map(|e| e.position.0).collect();
                self.unacked.insert(at, positions);
            }
        }
        for session in 1..=4 {
            let (told, wait) = channel();
            self.store.read_mailbox(
                SessionNo(session),
                Position::ZERO,
                100,
                1 << 20,
                Box::new(move |items| {
                    told.send(items.unwrap_or_default()).ok();
                }),
            );
            let items = wait.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
            self.mailboxes.insert(session, items.iter().map(|i| i.event.position.0).collect());
        }
        let inbound = self.store.scan(Table::Inbound, b"s", None, 1000).unwrap_or_default();
        self.inbound = inbound.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    }

    fn step(&mut self) -> Result<(), LifeError> {
        self.now_ms += self.mix.pace;
        let planned = if self.workload == Workload::Sessions { self.session() } else { self.publish() };
        self.submit(planned)?;
        if self.workload.refuses() {
            // What a refusal leaves out must be known before anything rests on its positions.
            self.settle(0)?;
        }
        for uplink in 0..2 {
            let chance = self.mix.acks.get(usize::from(uplink)).copied().unwrap_or(0);
            if self.rng.chance(chance) {
                self.acknowledge(uplink)?;
            }
        }
        if self.rng.chance(120) {
            self.store.tick(Timestamp(self.now_ms));
        }
        if self.rng.chance(60) {
            self.settle(0)?;
            let told = self.store.ledger();
            let lines = told.iter().filter_map(|line| {
                let consumer = line.consumer?;
                Some((consumer.stream.0, consumer.uplink.0, line.reason as u8, line.events))
            });
            mark(&self.marker, &Mark::Ledger(lines.collect()))?;
        }
        if self.rng.chance(80) {
            self.hand_ledger_on()?;
        }
        let window = self.mix.window;
        self.settle(window.saturating_sub(1))
    }

    /// What the node's own events do: entries go up, and are forgotten once they are there.
    fn hand_ledger_on(&mut self) -> Result<(), LifeError> {
        let entries = self.store.ledger_after(0, ENTRIES);
        mark(&self.marker, &Mark::Entries(entries.iter().map(Into::into).collect()))?;
        let Some(last) = entries.last().filter(|_| self.rng.chance(700)) else { return Ok(()) };
        let counted = self.rng.chance(500);
        let mut planned = self.next(counted);
        planned.state.push(PlannedChange::LedgerForget(last.no));
        self.submit(planned)
    }

    fn next(&mut self, counted: bool) -> Planned {
        self.number += 1;
        let mut planned = Planned { number: self.number, ..Planned::default() };
        if counted {
            let key = format!("last-{}", self.life);
            planned.state.push(PlannedChange::Put(6, key, self.number.to_string()));
        }
        planned
    }

    fn publish(&mut self) -> Planned {
        let mut planned = self.next(true);
        let count = self.rng.between(self.mix.events.0, self.mix.events.1);
        for _ in 0..count {
            let event = self.event();
            planned.events.push(event);
        }
        if self.rng.chance(self.mix.state) {
            for _ in 0..self.rng.between(1, 3) {
                let change = self.change(planned.events.len());
                planned.state.extend(change);
            }
        }
        planned
    }

    fn event(&mut self) -> PlannedEvent {
        self.tag += 1;
        let all: u64 = self.mix.streams.iter().sum();
        let mut drawn = self.rng.below(all);
        let mut stream = 0u16;
        for weight in self.mix.streams {
            if drawn < weight {
                break;
            }
            drawn -= weight;
            stream += 1;
        }
        let mailboxes = if self.rng.chance(self.mix.state / 2) { self.claims() } else { Vec::new() };
        // An event of no stream lives in mailboxes only.
        let local = !mailboxes.is_empty() && self.rng.chance(300);
        let bytes = self.rng.between(self.mix.bytes.0, self.mix.bytes.1);
        let large = self.mix.events.1 <= 2 && self.rng.chance(15);
        PlannedEvent {
            stream: (!local).then_some(stream),
            tag: self.tag,
            source: u8::try_from(self.rng.below(5)).unwrap_or(0),
            // Now and then one that takes several parts and chunks.
            bytes: u32::try_from(if large { 7000 } else { bytes }).unwrap_or(0),
            received: self.now_ms,
            mailboxes,
        }
    }

    fn claims(&mut self) -> Vec<(u64, u8)> {
        let mut claims = Vec::new();
        for session in 1..=4 {
            if self.rng.chance(400) {
                claims.push((session, u8::try_from(self.rng.below(200)).unwrap_or(0)));
            }
        }
        claims
    }

    /// One step of a session: what an MQTT client makes the store commit.
    fn session(&mut self) -> Planned {
        let session = 1 + self.rng.below(4);
        let mut planned = self.next(true);
        match self.rng.below(12) {
            0..=4 => self.publish_received(session, &mut planned),
            5 | 6 => planned.state.extend(self.publish_released(session)),
            7 | 8 => self.delivery_begun(session, &mut planned),
            9 => self.delivery_ended(&mut planned),
            10 => planned.state.extend([
                PlannedChange::Put(1, format!("client-{session}"), format!("{} clean=0", self.number)),
                PlannedChange::Put(
                    2,
                    format!("s{session}/{}", self.rng.below(6)),
                    format!("qos={}", self.number % 3),
                ),
            ]),
            _ if self.rng.chance(300) => self.session_ends(session, &mut planned),
            _ => {}
        }
        planned
    }

    /// PUBLISH with QoS 2: the event and its packet id, in one commit [MQTT-4.3.3-2].
    fn publish_received(&mut self, session: u64, planned: &mut Planned) {
        let mut event = self.event();
        event.mailboxes = self.claims();
        planned.events.push(event);
        let id = format!("s{session}-{}", self.rng.below(30));
        if self.inbound.insert(id.clone()) {
            planned.state.push(PlannedChange::PutPosition(3, id, 0));
        }
    }

    /// PUBREL: the packet id is free again, durably before PUBCOMP.
    fn publish_released(&mut self, session: u64) -> Option<PlannedChange> {
        let prefix = format!("s{session}-");
        let id = self.inbound.iter().find(|id| id.starts_with(&prefix)).cloned()?;
        self.inbound.remove(&id);
        Some(PlannedChange::Delete(3, id))
    }

    /// PUBREC for a delivery: it must not be sent as a PUBLISH again [MQTT-4.3.3-1].
    fn delivery_begun(&mut self, session: u64, planned: &mut Planned) {
        let under_way: BTreeSet<u64> = self.outbound.iter().map(|(_, _, position)| *position).collect();
        let waiting = self.mailboxes.get(&session).into_iter().flatten();
        let Some(position) = waiting.copied().find(|position| !under_way.contains(position)) else { return };
        let id = format!("s{session}-{}", self.number);
        planned.state.push(PlannedChange::Put(4, id.clone(), position.to_string()));
        self.outbound.push((session, id, position));
    }

    /// PUBCOMP: the claim ends.
    fn delivery_ended(&mut self, planned: &mut Planned) {
        if self.outbound.is_empty() {
            return;
        }
        let at = self.rng.index(self.outbound.len());
        let (session, id, position) = self.outbound.swap_remove(at);
        planned.state.push(PlannedChange::MailboxRemove(session, position));
        planned.state.push(PlannedChange::Delete(4, id));
        if let Some(waiting) = self.mailboxes.get_mut(&session) {
            waiting.retain(|waits| *waits != position);
        }
    }

    /// Its expiry, or a clean start: nothing of it stays.
    fn session_ends(&mut self, session: u64, planned: &mut Planned) {
        planned.state.push(PlannedChange::MailboxClear(session));
        planned.state.push(PlannedChange::Delete(1, format!("client-{session}")));
        planned.state.extend((0..6).map(|filter| PlannedChange::Delete(2, format!("s{session}/{filter}"))));
        let prefix = format!("s{session}-");
        let (own, others) =
            std::mem::take(&mut self.inbound).into_iter().partition(|id| id.starts_with(&prefix));
        self.inbound = others;
        let own: BTreeSet<String> = own;
        planned.state.extend(own.into_iter().map(|id| PlannedChange::Delete(3, id)));
        let (own, others) =
            std::mem::take(&mut self.outbound).into_iter().partition(|(of, _, _)| *of == session);
        self.outbound = others;
        let own: Vec<(u64, String, u64)> = own;
        planned.state.extend(own.into_iter().map(|(_, id, _)| PlannedChange::Delete(4, id)));
        self.mailboxes.remove(&session);
    }

    fn change(&mut self, events: usize) -> Option<PlannedChange> {
        let table = 1 + u8::try_from(self.rng.below(5)).unwrap_or(0);
        let key = format!("key-{}", self.rng.below(12));
        let session = 1 + self.rng.below(4);
        Some(match self.rng.below(10) {
            0..=3 => {
                let long = usize::try_from(self.rng.between(1, 400)).unwrap_or(1);
                let value = format!("{} {}", self.number, "v".repeat(long));
                PlannedChange::Put(table, key, value)
            }
            4 => PlannedChange::Delete(table, key),
            5 if events > 0 => PlannedChange::PutPosition(3, key, events - 1),
            6 if events > 0 => PlannedChange::PutRecord(5, key, events - 1),
            7 | 8 => {
                let waiting = self.mailboxes.get_mut(&session).filter(|waiting| !waiting.is_empty())?;
                let at = self.rng.index(waiting.len());
                PlannedChange::MailboxRemove(session, waiting.swap_remove(at))
            }
            9 if self.rng.chance(100) => {
                self.mailboxes.remove(&session);
                PlannedChange::MailboxClear(session)
            }
            _ => return None,
        })
    }

    fn acknowledge(&mut self, uplink: u16) -> Result<(), LifeError> {
        let counted = self.rng.chance(500);
        let mut moved = Vec::new();
        for stream in [KEPT, NEWEST, AGED, SCARCE] {
            if (stream, uplink) == (NEWEST, 1) {
                continue;
            }
            let Some(waiting) = self.unacked.get_mut(&(stream, uplink)).filter(|w| !w.is_empty()) else {
                continue;
            };
            // Most of what waits, so that the uplink keeps up.
            let upto = waiting.len() - self.rng.index(waiting.len().min(3));
            if let Some(acked) = waiting.drain(..upto).next_back() {
                moved.push((stream, uplink, acked));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let mut planned = self.next(counted);
        if self.rng.chance(60)
            && let Some((stream, uplink, position)) = moved.first().copied()
        {
            // The upstream did not want that one.
            let reasons = [LossReason::Rejected, LossReason::Parked];
            let reason = reasons.get(self.rng.index(2)).copied().unwrap_or(LossReason::Rejected) as u8;
            planned.losses.push(PlannedLoss { of: (stream, uplink), reason, position });
        }
        if self.rng.chance(30) {
            let reason = LossReason::SlowSubscriber as u8;
            planned.losses.push(PlannedLoss { of: NOBODY, reason, position: 1 });
        }
        planned.cursors = moved;
        self.submit(planned)
    }

    fn submit(&mut self, planned: Planned) -> Result<(), LifeError> {
        mark(&self.marker, &Mark::Submit(planned.clone()))?;
        let (marker, told, number) = (Arc::clone(&self.marker), self.answers.0.clone(), planned.number);
        let done = move |answer: Result<Committed, CommitError>| {
            let outcome = match answer {
                Ok(committed) => Ok(committed.positions.iter().map(|p| p.0).collect()),
                Err(CommitError::Full { .. }) => Err(Refusal::Full),
                Err(other) => Err(Refusal::Other(other.to_string())),
            };
            let line = Mark::Answer { number, outcome: outcome.clone() };
            if mark(&marker, &line).is_ok() {
                told.send((number, outcome)).ok();
            }
        };
        let commit = planned.commit();
        self.outstanding.push_back(planned);
        self.store.submit(commit, Box::new(done));
        Ok(())
    }

    /// Waits until no more than `left` commits are unanswered.
    fn settle(&mut self, left: usize) -> Result<(), LifeError> {
        while self.outstanding.len() > left
            && let Some(planned) = self.outstanding.pop_front()
        {
            let answer = self.answers.1.recv_timeout(Duration::from_secs(30));
            let outcome = match answer {
                Ok((number, outcome)) if number == planned.number => outcome,
                _ => return Err(LifeError::Unanswered(planned.number)),
            };
            let positions = match outcome {
                Ok(positions) => positions,
                Err(_) if self.faulty => Vec::new(),
                Err(Refusal::Full) if self.workload.refuses() => Vec::new(),
                Err(why) => return Err(LifeError::Refused(planned.number, why)),
            };
            for (event, position) in planned.events.iter().zip(positions) {
                for (stream, uplink) in CONSUMERS {
                    if event.stream == Some(stream) {
                        self.unacked.entry((stream, uplink)).or_default().push_back(position);
                    }
                }
                for (session, _) in &event.mailboxes {
                    self.mailboxes.entry(*session).or_default().push(position);
                }
            }
        }
        Ok(())
    }
}
