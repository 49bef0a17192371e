//! What must hold, one function per promise. Each returns what it found wrong.

use crate::history::{History, Reader, Reception, Refusal};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::forward::{Options, Order, Volume};
use eventmesh_edge_core::ports::store::{Backlog, Consumer, CursorChange, Loss, StreamId, StreamSpec};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `P1` to `P5`, or `drain`.
    pub promise: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// Outcome of a check.
pub type Check = Result<(), Violation>;

fn holds(promise: &'static str, condition: bool, what: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(Violation { promise, what: what() }) }
}

// ---- P1

/// P1: when a publisher is answered, its events are in the store.
///
/// # Errors
/// The first position that is not.
pub fn p1_answered_is_stored(
    history: &History,
    stream: StreamId,
    position: Position,
    payload: &[u8],
) -> Check {
    let stored = history.stream(stream).get(&position);
    holds("P1", stored.is_some_and(|s| s.event.event.payload == payload), || {
        format!("answered with {position} of {stream:?}, and the store does not have it there")
    })
}

/// P1, after a power cut: everything that was durable and that the consumer has not passed is there, the same as before,
/// in order, and nothing is there that was not submitted.
///
/// # Errors
/// The first event that is missing, changed, or invented.
pub fn p1_nothing_is_missing(
    history: &History,
    stream: StreamId,
    cursor: Position,
    found: &[StoredEvent],
    submitted: impl Fn(&StoredEvent) -> bool,
) -> Check {
    let mut rest = found.iter();
    for (position, stored) in history.stream(stream).range(cursor.next()..) {
        let same = rest.next().is_some_and(|event| *event == stored.event);
        holds("P1", same, || {
            let answered = if stored.answered { "answered" } else { "durable" };
            format!("{answered} event {position} of {stream:?} is missing or changed after a restart")
        })?;
    }
    for event in rest {
        let position = event.position;
        holds("P3", position > history.newest, || format!("{position} of {stream:?} was given twice"))?;
        holds("P1", submitted(event), || format!("{position} of {stream:?} was never submitted"))?;
    }
    Ok(())
}

// ---- P2

/// P2: a cursor that is to become durable passes nothing but what the upstream has acknowledged, and what is counted in
/// the same commit. Exact, unless the store has given events up meanwhile that both then count.
///
/// # Errors
/// How many events would be forgotten, or counted though nobody lost them.
pub fn p2_cursor_is_covered(
    history: &History,
    consumer: Consumer,
    cursors: &[CursorChange],
    losses: &[Loss],
) -> Check {
    let Some(reader) = history.readers.get(&consumer) else { return Ok(()) };
    let known = reader.committed.max(reader.told);
    let acked = cursors.iter().filter(|c| c.consumer == consumer).map(|c| c.acked).max().unwrap_or(known);
    let unacked =
        |after| history.between(consumer.stream, after, acked).filter(|p| !reader.acked.contains(p));
    let counted: u64 = losses.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum();
    // What the store has given up itself is counted already, whether or not the forwarder knows.
    let least = unacked(known).filter(|p| !reader.lost.contains(p)).count() as u64;
    let most = unacked(reader.committed).count() as u64;
    holds("P2", (least..=most).contains(&counted), || {
        format!(
            "{consumer:?}: the cursor goes to {acked}, past {least} events that the upstream has not acknowledged; \
             the commit counts {counted} losses (at most {most} are possible)"
        )
    })
}

/// What one step of the store did to a consumer, beside its new figures.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Where a cursor commit in it wants the cursor.
    pub asked: Position,
    /// Losses that came with it.
    pub told: u64,
    /// The store may have given events up itself: a publish was in it, or a tick, or a power cut.
    pub gives_up: bool,
    /// It was one commit, or one tick: the figures must agree to the event.
    pub exact: bool,
    /// Events that were submitted, and of which it is not known whether the store took them and gave them up at once.
    pub unknown: u64,
}

/// P2: whatever the durable cursor passes without an acknowledgement is in the ledger, and nothing else is.
///
/// # Errors
/// By how much cursor and ledger disagree.
pub fn p2_ledger_is_exact(
    history: &History,
    consumer: Consumer,
    now: Backlog,
    ledger: u64,
    step: Step,
) -> Check {
    let Some(reader) = history.readers.get(&consumer) else { return Ok(()) };
    let what = |kind: &str| {
        format!(
            "{consumer:?}: {kind}: cursor {} -> {}, ledger {} -> {ledger}, {step:?}",
            reader.cursor, now.acked, reader.ledger
        )
    };
    holds("P2", now.acked >= reader.cursor, || what("the cursor went back"))?;
    holds("P2", ledger >= reader.ledger, || what("the ledger shrank"))?;
    let grown = ledger - reader.ledger;
    let passed = history.between(consumer.stream, reader.cursor, now.acked);
    let (mut all, mut unacked, mut beyond) = (0, 0, 0);
    for position in passed {
        all += 1;
        unacked += u64::from(!reader.acked.contains(&position));
        beyond += u64::from(position > step.asked);
    }
    holds("P2", step.gives_up || beyond == 0, || what("the cursor moved and nobody asked"))?;
    holds("P2", grown >= unacked, || what("events were passed and not counted"))?;
    let most = step.told + step.unknown + if step.gives_up { all } else { 0 };
    holds("P2", grown <= most, || what("more is counted than was lost"))?;
    if step.exact && (grown > 0 || all > 0) {
        let expected = if step.gives_up { all } else { step.told };
        holds("P2", grown == expected, || what("the ledger is not exact"))?;
    }
    Ok(())
}

/// P2, at the end: each event reached the upstream, or is counted; and received + counted = accepted.
///
/// # Errors
/// The first event that is neither.
pub fn p2_received_or_counted(history: &History, consumer: Consumer, ledger: u64) -> Check {
    let Some(reader) = history.readers.get(&consumer) else { return Ok(()) };
    let accepted = history.stream(consumer.stream);
    for position in accepted.keys() {
        holds("P2", reader.received.contains_key(position) || reader.lost.contains(position), || {
            format!("{consumer:?}: {position} was neither received nor counted as lost")
        })?;
    }
    let foreign = reader.received.keys().find(|p| !accepted.contains_key(p));
    holds("P2", foreign.is_none(), || format!("{consumer:?}: {foreign:?} was received and never accepted"))?;
    let only_lost = reader.lost.iter().filter(|p| !reader.received.contains_key(p)).count();
    holds("P2", only_lost + reader.received.len() == accepted.len() && ledger >= only_lost as u64, || {
        format!("{consumer:?}: {} received + {only_lost} lost of {}", reader.received.len(), accepted.len())
    })
}

// ---- P3

/// P3: positions only grow, whoever gives them, over power cuts too.
///
/// # Errors
/// The position that was there before.
pub fn p3_position_is_new(history: &History, stream: StreamId, event: &StoredEvent) -> Check {
    let position = event.position;
    holds("P3", position > history.newest, || {
        format!("{position} of {stream:?} is not after {}, which was given before", history.newest)
    })
}

/// P3: every copy that leaves the node is the event as it was stored: same `source`, `id`, numbers and payload; and
/// nothing leaves that is not durable.
///
/// # Errors
/// What is different.
pub fn p3_copy_is_the_same(history: &History, stream: StreamId, copy: &StoredEvent) -> Check {
    let stored = history.stream(stream).get(&copy.position);
    holds("P3", stored.is_some(), || format!("{} of {stream:?} was sent and is not durable", copy.position))?;
    // Position, log and the sender's id are in it, and these make the id.
    holds("P3", stored.is_some_and(|s| s.event == *copy), || {
        format!("{} of {stream:?} was sent with another identity", copy.position)
    })
}

// ---- P4

/// P4: with `strict` order, first receptions of one key (`source`, topic) come in the order of their positions, through
/// outages, refusals, resends and restarts. A power cut may undo that an event was given up: then it comes late, if it
/// comes. `ages`: the stream has a `max_age`.
///
/// # Errors
/// The first event that was overtaken.
pub fn p4_strict_order(history: &History, consumer: Consumer, options: &Options, ages: bool) -> Check {
    if options.order != Order::Strict {
        return Ok(());
    }
    let Some(reader) = history.readers.get(&consumer) else { return Ok(()) };
    let mut by_key: HashMap<(&Text, &Text), Vec<Reception>> = HashMap::new();
    for reception in &reader.receptions {
        let Some(stored) = history.stream(consumer.stream).get(&reception.position) else { continue };
        let event = &stored.event.event;
        let by_age = ages || event.expires.is_some();
        let earlier = by_key.entry((&event.source, &event.topic)).or_default();
        for overtaker in earlier.iter().filter(|e| e.position > reception.position) {
            // Given up and counted, and then served all the same by an upstream that had not answered.
            let excused = reader.lost.contains(&reception.position)
                || was_given_up(reader, overtaker, reception, by_age);
            holds("P4", excused, || {
                format!(
                    "{consumer:?}: {} reached the upstream before {}",
                    overtaker.position, reception.position
                )
            })?;
        }
        earlier.push(*reception);
    }
    Ok(())
}

/// True if the forwarder of an earlier start may have given the event up, and a power cut has undone that.
fn was_given_up(reader: &Reader, overtaker: &Reception, overtaken: &Reception, by_age: bool) -> bool {
    let refused = |r: &Refusal| r.position == overtaken.position && r.life == overtaker.life;
    let died = reader.died.contains(&(overtaken.position, overtaker.life));
    overtaken.life > overtaker.life && (by_age || died || reader.refusals.iter().any(refused))
}

/// P4: `sequence` is contiguous per source, `edgeseq` per source and stream, both in the order of positions: whatever
/// order the upstream sees, a consumer can restore it and knows what is missing.
///
/// # Errors
/// The first number out of line.
pub fn p4_sequence_restores_order(history: &History) -> Check {
    let mut all: BTreeMap<Position, (usize, &StoredEvent)> = BTreeMap::new();
    for (stream, events) in history.streams.iter().enumerate() {
        all.extend(events.iter().map(|(position, stored)| (*position, (stream, &stored.event))));
    }
    let mut by_source: HashMap<&Text, u64> = HashMap::new();
    let mut by_stream: HashMap<(&Text, usize), u64> = HashMap::new();
    for (position, (stream, event)) in all {
        let source = by_source.entry(&event.event.source).or_default();
        let within = by_stream.entry((&event.event.source, stream)).or_default();
        (*source, *within) = (*source + 1, *within + 1);
        holds("P4", (event.sequence.source, event.sequence.stream) == (*source, *within), || {
            format!("{position} has {:?}, expected {source} and {within}", event.sequence)
        })?;
    }
    Ok(())
}

// ---- P5

/// P5: what is unanswered keeps to the window: the configured one and the upstream's.
///
/// # Errors
/// By how much it does not.
pub fn p5_window(options: &Options, upstream_window: usize, unanswered: Volume) -> Check {
    let events = options.window.events.min(upstream_window.max(1));
    let fits =
        unanswered.events <= events && (unanswered.bytes <= options.window.bytes || unanswered.events == 1);
    holds("P5", fits, || {
        format!("{unanswered:?} unanswered, allowed are {events} events, {:?}", options.window)
    })
}

/// P5: what waits in memory keeps to the read-ahead, and beside it to what was in flight and came back: once the window
/// of each stream, if the upstream refuses them in turn. One event alone may exceed a bound of bytes.
///
/// # Errors
/// By how much it does not.
pub fn p5_memory(options: &Options, streams: usize, waiting: Volume, event_max: usize) -> Check {
    let events = options.read_ahead.events.max(streams) + streams * options.window.events;
    let bytes = options.read_ahead.bytes + streams * (options.window.bytes + 2 * event_max);
    holds("P5", waiting.events <= events && waiting.bytes <= bytes, || {
        format!("{waiting:?} wait in memory, allowed are {events} events and {bytes} bytes")
    })
}

/// P5: no more than `gap_max` events lie between a cursor and the newest event read.
///
/// # Errors
/// How many there are.
pub fn p5_gap(
    history: &History,
    consumer: Consumer,
    options: &Options,
    cursor: Position,
    read: Position,
) -> Check {
    let given_up = |p: &Position| history.readers.get(&consumer).is_some_and(|r| r.lost.contains(p));
    let events = history.between(consumer.stream, cursor, read).filter(|p| !given_up(p)).count();
    holds("P5", events <= options.gap_max, || {
        format!(
            "{consumer:?}: {events} events between cursor {cursor} and {read}, allowed are {}",
            options.gap_max
        )
    })
}

/// P5: a consumer's budget holds after every commit.
///
/// # Errors
/// By how much it does not.
pub fn p5_budget(spec: &StreamSpec, told: Backlog) -> Check {
    holds("P5", told.bytes <= spec.max_bytes, || {
        format!("{} holds {} of {}", spec.name, told.bytes, spec.max_bytes)
    })
}

/// P5: the store's figures are the true ones.
///
/// # Errors
/// What is told and what is true.
pub fn p5_figures_are_true(history: &History, stream: StreamId, told: Backlog) -> Check {
    let (mut events, mut bytes) = (0, 0);
    for (_, stored) in history.stream(stream).range(told.acked.next()..) {
        events += 1;
        bytes += u64::from(stored.event.stored_bytes);
    }
    holds("P5", (events, bytes) == (told.events, told.bytes), || {
        format!("{stream:?}: told {told:?}, true are {events} events, {bytes} bytes")
    })
}

/// What a forwarder did within one virtual second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// Which second.
    pub second: u64,
    /// Inputs that were not timers.
    pub inputs: u64,
    /// Timers.
    pub timers: u64,
    /// Attempts to connect.
    pub connects: u64,
    /// Reads that found nothing.
    pub empty_reads: u64,
    /// Reasons to read: events appended, retention, restarts, failed reads.
    pub reasons: u64,
}

/// P5: no busy loop. Each timer, attempt and empty read within a second has a reason.
///
/// # Errors
/// What there was too much of.
pub fn p5_no_busy_loop(options: &Options, meter: &Meter) -> Check {
    let pace = |base: Duration| 2 + 1000 / u64::try_from(base.as_millis() / 2).unwrap_or(1).max(1);
    holds("P5", meter.timers <= 20 + 4 * meter.inputs, || format!("busy with timers: {meter:?}"))?;
    holds("P5", meter.connects <= pace(options.connect.base), || format!("busy connecting: {meter:?}"))?;
    holds("P5", meter.empty_reads <= 8 + meter.reasons, || format!("busy reading nothing: {meter:?}"))
}

// ---- the way out

/// After the last fault the backlog goes away, with no new publish.
///
/// # Errors
/// What still waits.
pub fn drains(consumer: Consumer, backlog: Backlog, after: Duration) -> Check {
    holds("drain", backlog.events == 0, || {
        format!(
            "{consumer:?}: {} events still wait {} s after the last fault",
            backlog.events,
            after.as_secs()
        )
    })
}
