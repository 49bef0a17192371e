//! One life of a workload: a process, from the open to whatever ends it.

use super::changing::Changing;
use super::room::{Capacity, CappedDisk};
use super::{
    AGED, BASE_MS, CHANGING, CONSUMERS, ENTRIES, KEPT, Mix, NEWEST, NUMBERS_PER_LIFE, SCARCE, Workload,
    consumer, open_on,
};
use crate::marks::{Mark, NOBODY, Planned, PlannedChange, PlannedEvent, PlannedLoss, Refusal};
use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::store::{
    CommitError, Committed, LossReason, Read, ReshapeError, SessionNo, Store, Table,
};
use eventmesh_edge_store::{JournalStore, OpenError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// A set of readers that can be made.
    #[error("change of readers: {0}")]
    Change(#[from] ReshapeError),
}

/// Steps for which the file system is full at most: what is kept is as much as a segment, and they are small.
const FULL_MAX: u32 = 12;

/// What the callback of a commit passes on.
type Answered = (u64, Result<Vec<u64>, Refusal>);

/// One process's part of a workload.
pub(super) struct Life {
    pub(super) store: JournalStore,
    pub(super) marker: Arc<File>,
    pub(super) rng: Rng,
    workload: Workload,
    mix: Mix,
    life: u32,
    /// Its file operations fail now and then: commits may be refused.
    faulty: bool,
    pub(super) number: u64,
    tag: u64,
    pub(super) now_ms: u64,
    answers: (Sender<Answered>, Receiver<Answered>),
    outstanding: VecDeque<Planned>,
    /// Answered and not acknowledged, per consumer.
    pub(super) unacked: BTreeMap<(u16, u16), VecDeque<u64>>,
    pub(super) mailboxes: BTreeMap<u64, Vec<u64>>,
    /// Packet ids of QoS 2 messages that came and are not released.
    pub(super) inbound: BTreeSet<String>,
    /// Deliveries under way: session, packet id, position.
    pub(super) outbound: Vec<(u64, String, u64)>,
    pub(super) changing: Changing,
    /// Of the file system, as far as our own files go.
    room: Arc<Capacity>,
    /// Steps that it has been full.
    full_for: u32,
}

/// Whether a life closes the store; otherwise its process ends in the middle of whatever it does.
#[must_use]
pub fn ends_in_order(seed: u64, life: u32) -> bool {
    !(seed + u64::from(life)).is_multiple_of(2)
}

fn is_reserve_whole(dir: &Path) -> bool {
    let is_there = |name: &str| dir.join("journal").join(name).is_file();
    is_there("reserve") && is_there("ballast")
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
    let mut rng = Rng::new(seed.wrapping_mul(1009).wrapping_add(u64::from(life)));
    let changing = match workload {
        Workload::Reshape => Changing::at_start(marker, &mut rng)?,
        _ => Changing::default(),
    };
    let marker = Arc::new(File::options().create(true).append(true).open(marker)?);
    if let Some(shape) = changing.shape() {
        mark(&marker, &Mark::Start(shape))?;
    }
    let room = Arc::new(Capacity::default());
    // A start on a full disk, which needs a segment: with less than that kept, state has to wait as well.
    if workload == Workload::Room && is_reserve_whole(dir) && rng.chance(300) {
        room.fill_up();
    }
    let disk = Arc::new(CappedDisk::new(dir, Arc::clone(&room)));
    let (store, opened) = open_on(dir, disk, changing.configured().as_ref())?;
    let number = u64::from(life) * NUMBERS_PER_LIFE;
    let mut this = Life {
        store,
        marker,
        rng,
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
        changing,
        room,
        full_for: 0,
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

pub(super) fn mark(mut file: &File, mark: &Mark) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(mark)?;
    line.push(b'\n');
    file.write_all(&line)
}

impl Life {
    /// What earlier lives left to do.
    fn remember(&mut self) {
        let changing = self.changing.consumers();
        for at in CONSUMERS.into_iter().chain(changing) {
            self.remember_consumer(at);
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

    /// What waits for one of them.
    pub(super) fn remember_consumer(&mut self, at: (u16, u16)) {
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

    fn step(&mut self) -> Result<(), LifeError> {
        self.now_ms += self.mix.pace;
        match self.workload {
            Workload::Reshape => self.maybe_change()?,
            Workload::Room => self.fill_up_or_not(),
            _ => {}
        }
        let planned = if self.workload == Workload::Sessions { self.session() } else { self.publish() };
        self.submit(planned)?;
        if self.workload.refuses() {
            // What a refusal leaves out must be known before anything rests on its positions.
            self.settle(0)?;
        }
        if self.workload == Workload::Room {
            self.go_on()?;
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

    /// Somebody else fills the file system up, and after some time deletes something.
    fn fill_up_or_not(&mut self) {
        if !self.room.is_limited() {
            self.full_for = 0;
            if self.rng.chance(60) {
                self.room.fill_up();
            }
            return;
        }
        self.full_for += 1;
        if self.full_for >= FULL_MAX || self.rng.chance(100) {
            self.room.give();
            self.store.tick(Timestamp(self.now_ms));
        }
    }

    /// What needs no room of its own is never refused: sessions, and losses for the ledger.
    fn go_on(&mut self) -> Result<(), LifeError> {
        let mut planned = self.next(true);
        planned.state.push(PlannedChange::Put(2, format!("s{}", self.number % 5), self.number.to_string()));
        planned.losses.push(PlannedLoss {
            of: NOBODY,
            reason: LossReason::SlowSubscriber as u8,
            position: 1,
        });
        let number = planned.number;
        self.submit(planned)?;
        match self.settle_one()? {
            Ok(()) => Ok(()),
            Err(why) => Err(LifeError::Refused(number, why)),
        }
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

    pub(super) fn next(&mut self, counted: bool) -> Planned {
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

    pub(super) fn event(&mut self) -> PlannedEvent {
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
        if stream == CHANGING && self.changing.configured().is_none() {
            stream = KEPT;
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

    pub(super) fn claims(&mut self) -> Vec<(u64, u8)> {
        let mut claims = Vec::new();
        for session in 1..=4 {
            if self.rng.chance(400) {
                claims.push((session, u8::try_from(self.rng.below(200)).unwrap_or(0)));
            }
        }
        claims
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
        moved.extend(self.acknowledge_changing());
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
    pub(super) fn settle(&mut self, left: usize) -> Result<(), LifeError> {
        while self.outstanding.len() > left {
            match self.settle_one()? {
                Err(why) if !self.may_refuse(&why) => return Err(LifeError::Refused(self.number, why)),
                _ => {}
            }
        }
        Ok(())
    }

    fn may_refuse(&self, why: &Refusal) -> bool {
        self.faulty || *why == Refusal::Full && self.workload.refuses()
    }

    /// Waits for the answer of the oldest that has none.
    fn settle_one(&mut self) -> Result<Result<(), Refusal>, LifeError> {
        let Some(planned) = self.outstanding.pop_front() else { return Ok(Ok(())) };
        let answer = self.answers.1.recv_timeout(Duration::from_secs(30));
        let positions = match answer {
            Ok((number, Ok(positions))) if number == planned.number => positions,
            Ok((number, Err(why))) if number == planned.number => return Ok(Err(why)),
            _ => return Err(LifeError::Unanswered(planned.number)),
        };
        let changing = self.changing.takers();
        for (event, position) in planned.events.iter().zip(positions) {
            for (stream, uplink) in CONSUMERS.into_iter().chain(changing.iter().copied()) {
                if event.stream == Some(stream) {
                    self.unacked.entry((stream, uplink)).or_default().push_back(position);
                }
            }
            for (session, _) in &event.mailboxes {
                self.mailboxes.entry(*session).or_default().push(position);
            }
        }
        Ok(Ok(()))
    }
}
