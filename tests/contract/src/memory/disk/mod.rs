//! What the memory store has instead of a disk: everything durable, as plain maps, changed by whole commits only.

mod consumers;
mod reads;
mod state;

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Position, Sequence, StoredEvent, Timestamp, record};
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Committed, Consumer, CursorChange, LedgerEntry, Loss, LossReason, NewEvent,
    SessionNo, StateChange, StateValue, StoreSpec, StreamId, StreamSpec, Table, UplinkId, WhenFull,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What a record costs beside its body: as much as the journal's own header, so that budgets mean the same.
const HEADER_BYTES: usize = 16;

/// A consumer by names, which outlive the indices of one configuration. No uplink: [`UplinkId::NONE`].
type Named = (Text, Option<Text>);

/// An event and how many wait for it: one claim by its stream, one by each mailbox.
#[derive(Clone, Debug)]
struct Held {
    event: StoredEvent,
    claims: usize,
}

/// A consumer's place in its stream and what waits behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    acked: Position,
    events: u64,
    bytes: u64,
    /// It is being drained: nothing later is for it.
    until: Option<Position>,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    /// Events that at least one cursor has not passed.
    retained: BTreeSet<Position>,
    newest: Position,
    cursors: BTreeMap<Option<Text>, Cursor>,
}

#[derive(Clone, Debug, Default)]
struct Mailbox {
    entries: BTreeMap<Position, Bytes>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    events: u64,
    bytes: u64,
    first: Position,
    last: Position,
}

/// What a change did that somebody may want to be told of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    pub(super) appended: bool,
    pub(super) freed: bool,
}

/// Everything that survives a crash.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    spec: StoreSpec,
    log: LogId,
    epoch: u32,
    next: Position,
    events: BTreeMap<Position, Held>,
    bytes: u64,
    streams: BTreeMap<Text, Stream>,
    mailboxes: BTreeMap<SessionNo, Mailbox>,
    tables: BTreeMap<(Table, Bytes), Bytes>,
    by_source: HashMap<Text, u64>,
    by_source_and_stream: HashMap<(Text, Text), u64>,
    ledger: BTreeMap<(Option<Named>, LossReason), Tally>,
    /// Of the ledger: what no entry has yet.
    gathered: BTreeMap<(Option<Named>, LossReason), Tally>,
    entries: Vec<LedgerEntry>,
    last_entry: u64,
    effects: Effects,
}

impl Disk {
    pub(super) fn new(log: LogId) -> Disk {
        Disk {
            spec: StoreSpec {
                streams: Vec::new(),
                uplinks: Vec::new(),
                disk_max: 0,
                mailbox_max_bytes: 0,
                mailbox_max_events: 0,
                mailboxes_max_bytes: 0,
            },
            log,
            epoch: 0,
            next: Position::ZERO,
            events: BTreeMap::new(),
            bytes: 0,
            streams: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            tables: BTreeMap::new(),
            by_source: HashMap::new(),
            by_source_and_stream: HashMap::new(),
            ledger: BTreeMap::new(),
            gathered: BTreeMap::new(),
            entries: Vec::new(),
            last_entry: 0,
            effects: Effects::default(),
        }
    }

    /// Starts the next epoch under `spec` (P3). Streams that are gone are given up and counted; a new uplink starts at the
    /// oldest event that its stream still has.
    pub(super) fn open(&mut self, spec: StoreSpec) -> u32 {
        self.epoch += 1;
        self.next = Position::first_of(self.epoch);
        self.spec = spec;
        let gone: Vec<Text> = self
            .streams
            .keys()
            .filter(|name| !self.spec.streams.iter().any(|s| s.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.remove_stream(&name);
        }
        for stream in self.spec.streams.clone() {
            self.seat_consumers(&stream);
        }
        self.effects = Effects::default();
        self.epoch
    }

    fn remove_stream(&mut self, name: &Text) {
        let cursors = self.streams.get(name).map(|s| s.cursors.clone()).unwrap_or_default();
        for uplink in cursors.into_keys() {
            self.give_up(name, &uplink, LossReason::StreamRemoved, |_, _| true);
        }
        self.streams.remove(name);
    }

    fn uplink_name(&self, uplink: UplinkId) -> Option<Option<Text>> {
        if uplink == UplinkId::NONE {
            return Some(None);
        }
        self.spec.uplinks.get(usize::from(uplink.0)).map(|name| Some(name.clone()))
    }

    fn stream_spec(&self, stream: StreamId) -> Option<&StreamSpec> {
        self.spec.streams.get(usize::from(stream.0))
    }

    fn name(&self, consumer: Consumer) -> Option<Named> {
        Some((self.stream_spec(consumer.stream)?.name.clone(), self.uplink_name(consumer.uplink)?))
    }

    fn cursor(&self, consumer: Consumer) -> Option<(&Stream, &Cursor)> {
        let (stream, uplink) = self.name(consumer)?;
        let stream = self.streams.get(&stream)?;
        Some((stream, stream.cursors.get(&uplink)?))
    }

    // ---- commit

    /// All of `commit` or nothing of it.
    pub(super) fn apply(&mut self, commit: Commit) -> Result<(Committed, Effects), CommitError> {
        self.check(&commit)?;
        let numbered = self.number(&commit.events);
        self.check_room(&commit, &numbered)?;
        self.effects = Effects::default();
        let positions = numbered.iter().map(|e| e.position).collect();
        let values = commit.state.iter().map(|change| state::resolve(change, &numbered)).collect::<Vec<_>>();
        for change in &commit.cursors {
            self.acknowledge(change);
        }
        let touched: BTreeSet<StreamId> = commit.events.iter().filter_map(|e| e.stream).collect();
        for (new, stored) in commit.events.into_iter().zip(numbered) {
            self.append(new, stored);
        }
        for stream in touched {
            self.enforce_budget(stream);
        }
        for (change, value) in commit.state.into_iter().zip(values) {
            self.change_state(change, value);
        }
        self.enforce_mailboxes_bound();
        for loss in commit.losses {
            let named = loss.consumer.and_then(|c| self.name(c));
            self.count_loss(named, loss);
        }
        Ok((Committed { positions }, self.effects))
    }

    fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        for event in &commit.events {
            if event.stream.is_some_and(|s| self.stream_spec(s).is_none()) {
                return Err(invalid("event for a stream that is not in the configuration"));
            }
        }
        for change in &commit.state {
            let StateChange::Put { value, .. } = change else { continue };
            if let StateValue::Position { event, .. } | StateValue::Record { event } = value
                && *event >= commit.events.len()
            {
                return Err(invalid("state made from an event that the commit does not have"));
            }
        }
        Ok(())
    }

    /// Positions and sequence numbers as they will be if the commit is accepted; nothing is used up yet.
    fn number(&self, events: &[NewEvent]) -> Vec<StoredEvent> {
        let mut by_source: HashMap<&Text, u64> = HashMap::new();
        let mut by_stream: HashMap<(&Text, StreamId), u64> = HashMap::new();
        let mut position = self.next;
        let mut numbered = Vec::with_capacity(events.len());
        for NewEvent { stream, event, .. } in events {
            let source = by_source
                .entry(&event.source)
                .or_insert_with(|| self.by_source.get(&event.source).copied().unwrap_or(0));
            *source += 1;
            let mut sequence = Sequence { source: *source, stream: 0 };
            if let Some(id) = stream {
                let last =
                    by_stream.entry((&event.source, *id)).or_insert_with(|| self.last_in(&event.source, *id));
                *last += 1;
                sequence.stream = *last;
            }
            let stored_bytes = stored_bytes(event, sequence);
            numbered.push(StoredEvent {
                position,
                log: self.log,
                sequence,
                event: event.clone(),
                stored_bytes,
            });
            position = position.next();
        }
        numbered
    }

    fn last_in(&self, source: &Text, stream: StreamId) -> u64 {
        let Some(spec) = self.stream_spec(stream) else { return 0 };
        self.by_source_and_stream.get(&(source.clone(), spec.name.clone())).copied().unwrap_or(0)
    }

    fn check_room(&self, commit: &Commit, numbered: &[StoredEvent]) -> Result<(), CommitError> {
        let mut need: BTreeMap<StreamId, (u64, u64)> = BTreeMap::new();
        for (new, stored) in commit.events.iter().zip(numbered) {
            if let Some(stream) = new.stream {
                let bytes = u64::from(stored.stored_bytes);
                let (sum, largest) = need.entry(stream).or_default();
                (*sum, *largest) = (*sum + bytes, bytes.max(*largest));
            }
        }
        for (stream, (need, largest)) in need {
            let Some(spec) = self.stream_spec(stream) else { continue };
            let bytes = if spec.when_full == WhenFull::Refuse { need } else { largest };
            if bytes > spec.max_bytes {
                return Err(CommitError::TooLarge { bytes, max: spec.max_bytes });
            }
            let used = self.used_after(spec, stream, &commit.cursors);
            if spec.when_full == WhenFull::Refuse && used + need > spec.max_bytes {
                return Err(CommitError::Full { stream, used, max: spec.max_bytes, need });
            }
        }
        let need: u64 = numbered.iter().map(|e| u64::from(e.stored_bytes)).sum();
        if need > self.spec.disk_max {
            return Err(CommitError::TooLarge { bytes: need, max: self.spec.disk_max });
        }
        if need > 0 && self.bytes + need > self.spec.disk_max {
            let stream = commit.events.iter().find_map(|e| e.stream).unwrap_or(StreamId::NONE);
            return Err(CommitError::Full { stream, used: self.bytes, max: self.spec.disk_max, need });
        }
        Ok(())
    }

    /// Bytes that wait for the fullest consumer of a stream once `cursors` have moved.
    fn used_after(&self, spec: &StreamSpec, stream: StreamId, cursors: &[CursorChange]) -> u64 {
        let Some(state) = self.streams.get(&spec.name) else { return 0 };
        let used = |(uplink, cursor): (&Option<Text>, &Cursor)| {
            let acked = cursors
                .iter()
                .filter(|c| {
                    c.consumer.stream == stream
                        && self.uplink_name(c.consumer.uplink).as_ref() == Some(uplink)
                })
                .map(|c| c.acked)
                .max();
            let passed = state.retained.iter().filter(|p| **p > cursor.acked && Some(**p) <= acked);
            cursor.bytes - passed.map(|p| self.stored_bytes(*p)).sum::<u64>()
        };
        state.cursors.iter().filter(|(_, cursor)| cursor.until.is_none()).map(used).max().unwrap_or(0)
    }

    fn append(&mut self, new: NewEvent, stored: StoredEvent) {
        let (position, bytes) = (stored.position, u64::from(stored.stored_bytes));
        self.next = position.next();
        self.bytes += bytes;
        self.by_source.insert(stored.event.source.clone(), stored.sequence.source);
        let source = stored.event.source.clone();
        let numbers = stored.sequence;
        self.events.insert(position, Held { event: stored, claims: 1 });
        if let Some(spec) = new.stream.and_then(|s| self.stream_spec(s)) {
            let name = spec.name.clone();
            self.by_source_and_stream.insert((source, name.clone()), numbers.stream);
            self.append_to_stream(&name, position, bytes);
        }
        for entry in new.mailboxes {
            self.push_mailbox(entry.session, position, entry.options, bytes);
        }
        // The claim held while it was being put in place.
        self.release(position);
        self.effects.appended = true;
    }

    fn append_to_stream(&mut self, name: &Text, position: Position, bytes: u64) {
        self.claim(position);
        let stream = self.streams.entry(name.clone()).or_default();
        stream.retained.insert(position);
        stream.newest = position;
        for cursor in stream.cursors.values_mut().filter(|cursor| cursor.until.is_none()) {
            cursor.events += 1;
            cursor.bytes += bytes;
        }
    }

    fn enforce_budget(&mut self, stream: StreamId) {
        let Some(spec) = self.stream_spec(stream).cloned() else { return };
        if spec.when_full != WhenFull::DropOldest {
            return;
        }
        let uplinks: Vec<_> =
            self.streams.get(&spec.name).map(|s| s.cursors.keys().cloned().collect()).unwrap_or_default();
        for uplink in uplinks {
            self.give_up(&spec.name, &uplink, LossReason::QueueFull, |cursor, _| {
                cursor.until.is_none() && cursor.bytes > spec.max_bytes
            });
        }
    }

    // ---- cursors and losses

    fn acknowledge(&mut self, change: &CursorChange) {
        if change.consumer.uplink == UplinkId::NONE {
            return; // Only retention moves that one.
        }
        let Some((stream, uplink)) = self.name(change.consumer) else { return };
        self.advance(&stream, &uplink, |_, held| held.position <= change.acked);
    }

    /// Moves a cursor over the events for which `pass` holds, up to the first for which it does not.
    fn advance(
        &mut self,
        stream: &Text,
        uplink: &Option<Text>,
        pass: impl Fn(&Cursor, &StoredEvent) -> bool,
    ) -> Vec<(Position, u64)> {
        let mut passed = Vec::new();
        let Some(state) = self.streams.get_mut(stream) else { return passed };
        let Some(cursor) = state.cursors.get_mut(uplink) else { return passed };
        for position in state.retained.iter().filter(|p| cursor.waits_for(**p)).copied().collect::<Vec<_>>() {
            let Some(held) = self.events.get(&position) else { continue };
            if !pass(cursor, &held.event) {
                break;
            }
            let bytes = u64::from(held.event.stored_bytes);
            let (events, bytes_left) = (cursor.events - 1, cursor.bytes - bytes);
            *cursor = Cursor { acked: position, events, bytes: bytes_left, until: cursor.until };
            passed.push((position, bytes));
        }
        self.effects.freed |= !passed.is_empty();
        self.trim(stream);
        passed
    }

    /// Moves a cursor like [`Disk::advance`] and counts what it passed (P2).
    fn give_up(
        &mut self,
        stream: &Text,
        uplink: &Option<Text>,
        reason: LossReason,
        pass: impl Fn(&Cursor, &StoredEvent) -> bool,
    ) {
        let lost = self.advance(stream, uplink, pass);
        let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return };
        let loss = Loss {
            consumer: None,
            reason,
            events: lost.len() as u64,
            bytes: lost.iter().map(|(_, bytes)| bytes).sum(),
            range: (first.0, last.0),
        };
        self.count_loss(Some((stream.clone(), uplink.clone())), loss);
    }

    fn count_loss(&mut self, named: Option<Named>, loss: Loss) {
        let (first, last) = loss.range;
        let more = Tally { events: loss.events, bytes: loss.bytes, first, last };
        for sums in [&mut self.ledger, &mut self.gathered] {
            sums.entry((named.clone(), loss.reason)).and_modify(|sum| add(sum, &more)).or_insert(more);
        }
    }

    /// Gives up the stream's claims on what every cursor has passed.
    fn trim(&mut self, stream: &Text) {
        let Some(state) = self.streams.get_mut(stream) else { return };
        for position in state.take_passed() {
            self.release(position);
        }
    }

    fn stored_bytes(&self, position: Position) -> u64 {
        self.events.get(&position).map_or(0, |held| u64::from(held.event.stored_bytes))
    }

    fn claim(&mut self, position: Position) {
        if let Some(held) = self.events.get_mut(&position) {
            held.claims += 1;
        }
    }

    fn release(&mut self, position: Position) {
        let Some(held) = self.events.get_mut(&position) else { return };
        held.claims -= 1;
        if held.claims == 0 {
            self.bytes -= u64::from(held.event.stored_bytes);
            self.events.remove(&position);
            self.effects.freed = true;
        }
    }

    /// Gives up what is older than its stream's `max_age`. A clock that is not set yet expires nothing, and nothing
    /// expires that was received under one: its age is not known.
    pub(super) fn expire(&mut self, now: Timestamp) -> Effects {
        self.effects = Effects::default();
        for spec in self.spec.streams.clone() {
            let Some(max_age) = spec.max_age.filter(|_| now.is_plausible()) else { continue };
            let uplinks: Vec<_> =
                self.streams.get(&spec.name).map(|s| s.cursors.keys().cloned().collect()).unwrap_or_default();
            for uplink in uplinks {
                self.give_up(&spec.name, &uplink, LossReason::Expired, |_, e| {
                    too_old(&e.event, max_age, now)
                });
            }
        }
        self.effects
    }
}

fn add(sum: &mut Tally, more: &Tally) {
    sum.events += more.events;
    sum.bytes += more.bytes;
    // A loss that never had a position has zero.
    let both = sum.first > Position::ZERO && more.first > Position::ZERO;
    sum.first = if both { sum.first.min(more.first) } else { sum.first.max(more.first) };
    sum.last = sum.last.max(more.last);
}

fn stored_bytes(event: &Event, sequence: Sequence) -> u32 {
    let mut body = Vec::with_capacity(event.payload.len() + 64);
    record::encode(event, sequence, &mut body);
    u32::try_from(body.len() + HEADER_BYTES).unwrap_or(u32::MAX)
}

fn too_old(event: &Event, max_age: Duration, now: Timestamp) -> bool {
    event.received.is_plausible() && event.received.after(max_age) < now
}

fn invalid(why: &'static str) -> CommitError {
    CommitError::Io(Arc::new(io::Error::new(io::ErrorKind::InvalidInput, why)))
}
