//! Opens an image with the real store and holds it to the promises, one function per promise.

mod changing;
mod ledger;

use self::changing::p2_every_reader_got_it_or_it_is_counted;
use self::ledger::{
    p2_entries_are_given_out_until_they_are_handed_on, p2_lines_are_whole, p2_the_ledger_agrees,
};
use crate::cost::{Cost, bound, measured};
use crate::marks::{NOBODY, PlannedEvent, tag_of};
use crate::model::{Expected, Handed, Known, Losses, Said, Value};
use crate::workload::{
    CHANGING, CONSUMERS, KEPT, NEWEST, NUMBERS_PER_LIFE, SCARCE, WAITING, consumer, open, readers_of,
};
use bytes::Bytes;
use eventmesh_edge_core::event::{Position, StoredEvent, record};
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Commit, LossReason, MailboxItem, NewEvent, Read, ReadError, SessionNo, Store, StreamId,
    Table,
};
use eventmesh_edge_store::{JournalStore, Opened};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    /// Its number, or what else was to hold.
    pub promise: &'static str,
    /// What was found.
    pub why: String,
}

type Verdict = Result<(), Broken>;

fn broken(promise: &'static str, why: impl Into<String>) -> Broken {
    Broken { promise, why: why.into() }
}

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an image is judged by.
pub struct Case<'a> {
    /// What was said before the cut.
    pub said: &'a Said,
    /// A frame of the journal is there in part.
    pub torn_append: bool,
    /// Somebody changed bytes behind the store's back.
    pub damaged: bool,
    /// File operations failed: what the start reports is another matter.
    pub faulty: bool,
    /// Closes it after the judgement, opens it again and judges again.
    pub twice: bool,
}

/// What the store says of itself.
struct Found {
    store: JournalStore,
    opened: Opened,
    /// What the open took, and may take; `None` where the system does not count.
    cost: Option<(Cost, Cost)>,
    losses: Losses,
    /// Losses of no consumer.
    mailbox_losses: u64,
    streams: BTreeMap<(u16, u16), Vec<StoredEvent>>,
    mailboxes: BTreeMap<u64, Vec<MailboxItem>>,
}

/// Judges one image in place.
///
/// # Errors
/// The first promise that is broken.
pub fn judge(dir: &Path, case: &Case<'_>) -> Verdict {
    let mut found = look(dir, case.said)?;
    let (durable, maybe) = p1_everything_answered_is_in_the_log(&found, case.said)?;
    let mut expected = Expected::after(&durable, &maybe);
    check(&found, &expected, case)?;
    p6_what_was_cut_is_told(&found, case, &durable)?;
    p6_a_start_is_bounded(&found)?;
    // Asking has the store make entries of what it has gathered, with the commit that follows.
    found.store.ledger_after(0, usize::MAX);
    let probe = p3_positions_are_never_used_again(&found, &expected, case.said)?;
    p2_entries_are_given_out_until_they_are_handed_on(&found.store, &expected, case.said)?;
    found.store.close();
    drop(std::mem::take(&mut found.streams));
    drop(found);
    if case.twice { again(dir, &mut expected, probe, case) } else { Ok(()) }
}

fn check(found: &Found, expected: &Expected, case: &Case<'_>) -> Verdict {
    p1_events_are_there_by_content(found, expected)?;
    p1_state_is_there(found, expected)?;
    p1_mailboxes_are_there(found, expected)?;
    p2_cursors_are_neither_behind_nor_ahead(found, expected)?;
    p2_the_ledger_agrees(found, expected, case.said)?;
    p2_every_reader_got_it_or_it_is_counted(found, expected, case.said)?;
    p3_identity_is_unchanged(found, expected, case.said)
}

/// A second start: it finds what the first one left.
fn again(dir: &Path, expected: &mut Expected, probe: Probe, case: &Case<'_>) -> Verdict {
    let found = look(dir, case.said)?;
    if !found.opened.clean {
        return Err(broken("P6", "closed in order, and not clean at the next start"));
    }
    if !case.faulty {
        p6_nothing_is_taken_for_damage(&found, case)?;
    }
    p2_the_ledger_agrees(&found, expected, case.said)?;
    p2_every_reader_got_it_or_it_is_counted(&found, expected, case.said)?;
    expected.add_probe(probe);
    p1_events_are_there_by_content(&found, expected)?;
    p1_state_is_there(&found, expected)?;
    p1_mailboxes_are_there(&found, expected)?;
    found.store.close();
    Ok(())
}

fn look(dir: &Path, said: &Said) -> Result<Found, Broken> {
    let allowed = bound(dir);
    let configured = said.configured();
    let (outcome, cost) = measured(|| open(dir, configured.as_ref()));
    let (store, opened) = outcome.map_err(|error| broken("P6", format!("does not start: {error}")))?;
    let consumers = CONSUMERS.into_iter().chain(configured.iter().flat_map(readers_of));
    let streams = read_all(&store, consumers)?;
    let mut mailboxes = BTreeMap::new();
    for session in 1..=4 {
        mailboxes.insert(session, read_mailbox(&store, session)?);
    }
    let mut losses = Losses::new();
    let mut mailbox_losses = 0;
    for line in store.ledger() {
        p2_lines_are_whole(&line)?;
        match line.consumer {
            Some(c) => {
                losses.insert((c.stream.0, c.uplink.0, line.reason as u8), line.events);
            }
            None if line.reason == LossReason::SessionQueueFull => mailbox_losses += line.events,
            None if line.reason == LossReason::SlowSubscriber => {
                losses.insert((NOBODY.0, NOBODY.1, line.reason as u8), line.events);
            }
            None => return Err(broken("P2", format!("ledger line of nobody: {line:?}"))),
        }
    }
    let cost = cost.map(|cost| (cost, allowed));
    Ok(Found { store, opened, cost, losses, mailbox_losses, streams, mailboxes })
}

/// One consumer's way through its stream.
struct Reading {
    at: (u16, u16),
    told: Backlog,
    after: Position,
    all: Vec<StoredEvent>,
    at_end: bool,
}

/// Everything that waits for each consumer. All go side by side: few generations are open at a time, and each opening costs
/// more than all that is read from it.
fn read_all(
    store: &JournalStore,
    consumers: impl Iterator<Item = (u16, u16)>,
) -> Result<BTreeMap<(u16, u16), Vec<StoredEvent>>, Broken> {
    let begin = |at| {
        let told = store.backlog(consumer(at));
        Reading { at, after: told.acked, told, all: Vec::new(), at_end: false }
    };
    let mut readings: Vec<Reading> = consumers.map(begin).collect();
    while readings.iter().any(|reading| !reading.at_end) {
        for reading in readings.iter_mut().filter(|reading| !reading.at_end) {
            reading.step(store)?;
        }
    }
    readings.into_iter().map(Reading::checked).collect()
}

impl Reading {
    fn step(&mut self, store: &JournalStore) -> Verdict {
        let Reading { at, after, .. } = *self;
        let (into, wait) = channel::<Result<Batch, ReadError>>();
        let read = Read { consumer: consumer(at), after, max_events: 200, max_bytes: 256 << 10 };
        store.read(read, Box::new(move |batch| drop(into.send(batch))));
        let batch = wait
            .recv_timeout(PATIENCE)
            .map_err(|_| broken("P6", format!("read of {at:?} after {after} hangs")))?
            .map_err(|error| broken("P1", format!("read of {at:?} after {after}: {error}")))?;
        if batch.through <= after && !batch.at_end {
            return Err(broken("P6", format!("read of {at:?} does not get on at {after}")));
        }
        self.after = batch.through;
        self.at_end = batch.at_end;
        self.all.extend(batch.events);
        Ok(())
    }

    fn checked(self) -> Result<((u16, u16), Vec<StoredEvent>), Broken> {
        let Reading { at, told, all, .. } = self;
        let bytes: u64 = all.iter().map(|e| u64::from(e.stored_bytes)).sum();
        if (told.events, told.bytes) == (all.len() as u64, bytes) {
            return Ok((at, all));
        }
        let why = format!(
            "backlog of {at:?} is told as {} events of {} bytes, and {} of {bytes} are there",
            told.events,
            told.bytes,
            all.len()
        );
        Err(broken("P2", why))
    }
}

fn read_mailbox(store: &JournalStore, session: u64) -> Result<Vec<MailboxItem>, Broken> {
    let (into, wait) = channel();
    let done = Box::new(move |items: Result<Vec<MailboxItem>, ReadError>| drop(into.send(items)));
    store.read_mailbox(SessionNo(session), Position::ZERO, 1000, 16 << 20, done);
    let items = wait
        .recv_timeout(PATIENCE)
        .map_err(|_| broken("P6", "read of a mailbox hangs"))?
        .map_err(|error| broken("P1", format!("mailbox {session}: {error}")))?;
    let (events, _) = store.mailbox_len(SessionNo(session));
    if events != items.len() as u64 {
        let why = format!("mailbox {session} is told to have {events} entries and has {}", items.len());
        return Err(broken("P1", why));
    }
    Ok(items)
}

/// P1: every answered commit is in the image. Also tells how far the log goes: which commits are in it, and which
/// further ones may be (they carry no number).
fn p1_everything_answered_is_in_the_log<'a>(
    found: &Found,
    said: &'a Said,
) -> Result<(Vec<&'a Handed>, Vec<&'a Handed>), Broken> {
    let mut durable = Vec::new();
    let mut maybe = Vec::new();
    let last_life = said.commits.last().map_or(0, Handed::life);
    for life in 0..=last_life {
        let key = format!("last-{life}");
        let noted = found.store.get(Table::Node, key.as_bytes());
        let noted = noted.map_err(|error| broken("P1", format!("state cannot be read: {error}")))?;
        let noted: u64 = match noted {
            None => 0,
            Some(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| broken("P1", format!("{key} is no number")))?,
        };
        let of_life = || said.commits.iter().filter(move |c| c.life() == life);
        let answered = of_life().filter(|c| c.answered).map(|c| c.planned.number).max().unwrap_or(0);
        let counted = of_life().filter(|c| c.answered && c.is_counted()).map(|c| c.planned.number).max();
        if counted.is_some_and(|counted| noted < counted) {
            return Err(broken("P1", format!("commit {counted:?} was answered, the log ends at {noted}")));
        }
        let submitted = of_life().map(|c| c.planned.number).max().unwrap_or(life * NUMBERS_PER_LIFE);
        if noted > submitted {
            return Err(broken("P1", format!("{key} is {noted}, and {submitted} was the last handed over")));
        }
        let upto = noted.max(answered);
        let next = of_life()
            .find(|c| c.planned.number > upto && c.is_counted() && !c.refused)
            .map(|c| c.planned.number);
        durable.extend(of_life().filter(|c| c.planned.number <= upto && !c.refused));
        maybe.extend(of_life().filter(|c| {
            !c.refused && c.planned.number > upto && next.is_none_or(|next| c.planned.number < next)
        }));
    }
    Ok((durable, maybe))
}

/// P1, P2: what waits for each consumer is the end of its stream, event by event; nothing is invented.
fn p1_events_are_there_by_content(found: &Found, expected: &Expected) -> Verdict {
    for (at, events) in &found.streams {
        let empty = Vec::new();
        let all = expected.streams.get(&at.0).unwrap_or(&empty);
        let tags: Vec<Option<u64>> = events.iter().map(|e| tag_of(&e.event.payload)).collect();
        if at.0 == CHANGING {
            // Who takes the place of others finds what is there: what nobody needed any more is missing in between.
            p1_tags_are_in_order(*at, &tags, all)?;
        }
        let Some(from) = all.len().checked_sub(tags.len()) else {
            return Err(broken("P1", format!("{at:?}: {} events, only {} were made", tags.len(), all.len())));
        };
        for (tag, wanted) in tags.iter().zip(all.iter().skip(from)).filter(|_| at.0 != CHANGING) {
            if *tag != Some(*wanted) {
                return Err(broken("P1", format!("{at:?}: event {tag:?} where {wanted} must be")));
            }
        }
        for event in events {
            let known = tag_of(&event.event.payload).and_then(|tag| expected.events.get(&tag));
            known.map_or_else(|| Err(broken("P1", "an invented event")), |known| same(event, known))?;
        }
    }
    Ok(())
}

fn p1_tags_are_in_order(at: (u16, u16), tags: &[Option<u64>], all: &[u64]) -> Verdict {
    let mut rest = all.iter();
    match tags.iter().find(|tag| !rest.any(|made| Some(*made) == **tag)) {
        Some(tag) => Err(broken("P1", format!("{at:?}: event {tag:?} out of its place, or twice"))),
        None => Ok(()),
    }
}

fn same(event: &StoredEvent, known: &Known) -> Verdict {
    let PlannedEvent { tag, .. } = known.planned;
    if event.event != known.planned.event() {
        return Err(broken("P1", format!("event {tag} has other content")));
    }
    if known.position.is_some_and(|position| position != event.position.0) {
        return Err(broken(
            "P3",
            format!("event {tag} was at {:?} and is at {}", known.position, event.position),
        ));
    }
    if event.sequence.source != known.of_source {
        let why =
            format!("event {tag} is number {} of its source, not {}", event.sequence.source, known.of_source);
        return Err(broken("P3", why));
    }
    if known.of_stream != 0 && event.sequence.stream != known.of_stream {
        let why =
            format!("event {tag} is number {} in its stream, not {}", event.sequence.stream, known.of_stream);
        return Err(broken("P3", why));
    }
    Ok(())
}

/// P1: every table has what the log says, no more and no less.
fn p1_state_is_there(found: &Found, expected: &Expected) -> Verdict {
    let mut there: BTreeMap<(u8, String), Bytes> = BTreeMap::new();
    for table in Table::ALL {
        let rows = found.store.scan(table, b"", None, 10_000);
        let rows = rows.map_err(|error| broken("P1", format!("scan of {table:?}: {error}")))?;
        for (key, value) in rows {
            there.insert((table as u8, String::from_utf8_lossy(&key).into_owned()), value);
        }
    }
    for (key, wanted) in &expected.tables {
        let Some(value) = there.remove(key) else { return Err(broken("P1", format!("{key:?} is missing"))) };
        if !is_value(&value, wanted, expected) {
            return Err(broken("P1", format!("{key:?} has another value")));
        }
    }
    match there.into_keys().next() {
        Some(key) => Err(broken("P1", format!("{key:?} is there and must not be"))),
        None => Ok(()),
    }
}

fn is_value(value: &[u8], wanted: &Value, expected: &Expected) -> bool {
    match wanted {
        Value::Bytes(bytes) => value == bytes,
        Value::Position(tag) => {
            let position = value.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
            let known = expected.events.get(tag).and_then(|known| known.position);
            value.len() == 9 && value.ends_with(b"!") && (known.is_none() || known == position)
        }
        Value::Record(tag) => {
            let decoded = record::decode(&Bytes::copy_from_slice(value));
            let known = expected.events.get(tag);
            decoded.is_ok_and(|(event, sequence)| {
                known
                    .is_some_and(|known| event == known.planned.event() && sequence.source == known.of_source)
            })
        }
    }
}

/// P1: every mailbox has the claims that the log says, in order, with their latest options and their events.
fn p1_mailboxes_are_there(found: &Found, expected: &Expected) -> Verdict {
    for (session, items) in &found.mailboxes {
        let claims = expected.mailboxes.get(session).map(Vec::as_slice).unwrap_or_default();
        let there: Vec<(Option<u64>, Option<u8>)> =
            items.iter().map(|i| (tag_of(&i.event.event.payload), i.options.first().copied())).collect();
        let wanted: Vec<(Option<u64>, Option<u8>)> =
            claims.iter().map(|c| (Some(c.tag), Some(c.options))).collect();
        if there != wanted {
            return Err(broken("P1", format!("mailbox {session} has {there:?}, not {wanted:?}")));
        }
        for item in items {
            let known = tag_of(&item.event.event.payload).and_then(|tag| expected.events.get(&tag));
            known.map_or(Ok(()), |known| same(&item.event, known))?;
        }
    }
    if found.mailbox_losses != expected.mailbox_losses {
        let why =
            format!("mailboxes gave up {}, the ledger has {}", expected.mailbox_losses, found.mailbox_losses);
        return Err(broken("P2", why));
    }
    Ok(())
}

fn lost(found: &Found, at: (u16, u16)) -> u64 {
    let reasons = [LossReason::QueueFull, LossReason::Expired];
    reasons.iter().filter_map(|r| found.losses.get(&(at.0, at.1, *r as u8))).sum()
}

/// P2: a cursor is where an answered commit put it, and not beyond what was ever submitted, save for what the ledger
/// counts.
fn p2_cursors_are_neither_behind_nor_ahead(found: &Found, expected: &Expected) -> Verdict {
    for (at, events) in found.streams.iter().filter(|(at, _)| at.0 != CHANGING) {
        let told = found.store.backlog(consumer(*at)).acked.0;
        let must = expected.cursors.get(at).copied().unwrap_or(0);
        let may = expected.cursors_may.get(at).copied().unwrap_or(0);
        if told < must {
            return Err(broken("P2", format!("cursor of {at:?} went back from {must} to {told}")));
        }
        let loses = !matches!(at.0, KEPT | WAITING | SCARCE);
        if !loses && told > may {
            return Err(broken("P2", format!("cursor of {at:?} is at {told}, and {may} was acknowledged")));
        }
        let all = expected.streams.get(&at.0).map(Vec::as_slice).unwrap_or_default();
        let gone = all.len().saturating_sub(events.len());
        let positions: Vec<Option<u64>> = all
            .iter()
            .take(gone)
            .map(|tag| expected.events.get(tag).and_then(|known| known.position))
            .collect();
        if let Some(beyond) = positions.iter().flatten().find(|position| **position > told) {
            return Err(broken(
                "P1",
                format!("{at:?}: the event at {beyond} is gone, the cursor is at {told}"),
            ));
        }
        let unacknowledged = positions.iter().flatten().filter(|position| **position > may).count() as u64;
        let counted = lost(found, *at);
        if unacknowledged > counted || counted > gone as u64 || (*at == (NEWEST, 1) && counted != gone as u64)
        {
            let why =
                format!("{at:?}: {gone} gone, {unacknowledged} of them not acknowledged, {counted} counted");
            return Err(broken("P2", why));
        }
    }
    Ok(())
}

/// P6: what a start reads and does follows from the journal and the views, not from the length of the backlog.
fn p6_a_start_is_bounded(found: &Found) -> Verdict {
    match found.cost {
        Some((cost, allowed)) if cost.bytes > allowed.bytes || cost.calls > allowed.calls => {
            Err(broken("P6", format!("a start took {cost:?}, its bound is {allowed:?}")))
        }
        _ => Ok(()),
    }
}

/// P3: it is the same log.
fn p3_identity_is_unchanged(found: &Found, _: &Expected, said: &Said) -> Verdict {
    match said.log {
        Some(log) if found.store.log_id().0 != log => {
            Err(broken("P3", format!("log {log:08x} has become {:08x}", found.store.log_id().0)))
        }
        _ => Ok(()),
    }
}

/// P6: what was only cut is not reported as damage.
fn p6_nothing_is_taken_for_damage(found: &Found, case: &Case<'_>) -> Verdict {
    let Opened { damaged, quarantined, .. } = &found.opened;
    if !damaged.is_empty() {
        return Err(broken("P6", format!("a cut is taken for damage: {damaged:?}")));
    }
    if !case.damaged && !quarantined.is_empty() {
        return Err(broken("P6", format!("a cut made it quarantine {quarantined:?}")));
    }
    Ok(())
}

/// P6: what a start reports.
fn p6_what_was_cut_is_told(found: &Found, case: &Case<'_>, durable: &[&Handed]) -> Verdict {
    if case.faulty {
        return Ok(());
    }
    p6_nothing_is_taken_for_damage(found, case)?;
    let Opened { clean, torn_bytes, .. } = &found.opened;
    if case.torn_append && *torn_bytes == 0 {
        return Err(broken("P6", "a torn frame is not told of"));
    }
    if case.said.closed && !clean {
        return Err(broken("P6", "closed in order, and not clean"));
    }
    let of_life = |commit: &&Handed| commit.life() == case.said.life;
    let handed_over = case.said.commits.iter().filter(|c| of_life(c) && !c.refused).count();
    let there = durable.iter().copied().filter(of_life).count();
    // Of a life that left nothing behind, the end of the one before is all that can be seen.
    if there > 0 && handed_over > there && *clean {
        return Err(broken("P6", "called clean, and a commit was under way"));
    }
    Ok(())
}

/// The event that was committed after the start.
pub struct Probe {
    planned: PlannedEvent,
    position: u64,
}

/// P3: what is committed now gets a position above every one that was ever given out, in a new epoch.
fn p3_positions_are_never_used_again(
    found: &Found,
    expected: &Expected,
    said: &Said,
) -> Result<Probe, Broken> {
    if found.opened.epoch <= said.epoch {
        return Err(broken("P3", format!("epoch {} again after {}", found.opened.epoch, said.epoch)));
    }
    let planned = PlannedEvent {
        stream: Some(KEPT),
        tag: 999_999_999,
        source: 99,
        bytes: 40,
        received: crate::workload::BASE_MS,
        mailboxes: Vec::new(),
    };
    let new = NewEvent { stream: Some(StreamId(KEPT)), event: planned.event(), mailboxes: Vec::new() };
    let (into, wait) = channel();
    let commit = Commit { events: vec![new], ..Commit::default() };
    found.store.submit(commit, Box::new(move |answer| drop(into.send(answer))));
    let answer = wait.recv_timeout(PATIENCE).map_err(|_| broken("P6", "a commit is never answered"))?;
    let committed = answer.map_err(|error| broken("P6", format!("commit after the start: {error}")))?;
    let position = committed.positions.first().map_or(0, |p| p.0);
    let given = said.commits.iter().flat_map(|c| &c.positions);
    let known = expected.events.values().filter_map(|known| known.position);
    let highest = given.copied().chain(known).max().unwrap_or(0);
    if position <= highest {
        return Err(broken("P3", format!("position {position} after {highest} was given out")));
    }
    Ok(Probe { planned, position })
}

impl Expected {
    fn add_probe(&mut self, probe: Probe) {
        let tag = probe.planned.tag;
        self.streams.entry(KEPT).or_default().push(tag);
        let position = Some(probe.position);
        let known = Known { planned: probe.planned, position, of_source: 1, of_stream: 1, shapes: 0 };
        self.events.insert(tag, known);
    }
}
