//! What may go, and what has to be done before it may: expiry, checkpoints, sealing, recycling, removal.

use super::ahead::{LOOK_AHEAD, Passed};
use super::catalog::ConsumerState;
use super::segments::{GenerationInfo, Segment};
use super::{Checkpoint, Engine, Internal, keys};
use crate::backing::{
    BackingError, CheckpointDone, CheckpointWork, Extent, Lsn, SpillRecord, SpillSource, StreamNo,
};
use crate::codec::{Reader, put_varint};
use crate::journal::frame::{Base, Frame, Item};
use crate::journal::reader::{FrameCursor, Gap, Source};
use bytes::Bytes;
use eventmesh_edge_core::event::{Position, Timestamp, record};
use eventmesh_edge_core::ports::store::{LossReason, StreamSpec, WhenFull};
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

/// Claims of mailboxes are kept in memory for as many times the bytes that make a checkpoint: the more of them a block
/// gets, the less is written.
const FRESH_FACTOR: usize = 4;
/// Changes of views that no checkpoint holds, beyond which what would add to them waits: as many times the bytes that
/// make a checkpoint, and no less than this.
const PENDING_FACTOR: usize = 12;
const PENDING_MIN: usize = 12 << 20;

/// What one generation will be made of.
pub(crate) struct Seal {
    pub(crate) lsns: RangeInclusive<Lsn>,
    pub(crate) numbers: Vec<u32>,
    pub(crate) records: SegmentRecords,
    _pins: Vec<Arc<()>>,
}

/// Records of closed segments that somebody still waits for, in journal order.
pub(crate) struct SegmentRecords {
    sources: std::vec::IntoIter<Source>,
    cursor: Option<(FrameCursor, Base, u32)>,
    lowest: HashMap<StreamNo, Position>,
    frame: Bytes,
    entries: std::vec::IntoIter<(StreamNo, Position, Range<usize>)>,
    /// Damage met on the way, by segment.
    pub(crate) gaps: Vec<(u32, Gap)>,
}

impl SegmentRecords {
    fn next_frame(&mut self) -> bool {
        loop {
            let Some((cursor, base, number)) = &mut self.cursor else {
                let Some(source) = self.sources.next() else { return false };
                let (base, number) = (source.base, source.number);
                self.cursor = Some((FrameCursor::new(source), base, number));
                continue;
            };
            let Some(located) = cursor.next() else {
                let number = *number;
                self.gaps.extend(cursor.gaps.drain(..).map(|gap| (number, gap)));
                self.cursor = None;
                continue;
            };
            let entries = wanted(&located.body, base, &self.lowest);
            if !entries.is_empty() {
                self.frame = located.body;
                self.entries = entries.into_iter();
                return true;
            }
        }
    }
}

fn wanted(
    body: &Bytes,
    base: &Base,
    lowest: &HashMap<StreamNo, Position>,
) -> Vec<(StreamNo, Position, Range<usize>)> {
    let Ok(frame) = Frame::parse(body, base) else { return Vec::new() };
    let mut entries = Vec::new();
    for item in frame.items() {
        let Ok(Item::Event(entry)) = item else { break };
        if lowest.get(&entry.stream).is_some_and(|cursor| entry.position > *cursor) {
            let start = entry.body.as_ptr() as usize - body.as_ptr() as usize;
            entries.push((entry.stream, entry.position, start..start + entry.body.len()));
        }
    }
    entries
}

impl SpillSource for SegmentRecords {
    fn next(&mut self) -> Option<SpillRecord<'_>> {
        loop {
            let Some((stream, position, range)) = self.entries.next() else {
                if self.next_frame() {
                    continue;
                }
                return None;
            };
            let body = self.frame.get(range).unwrap_or_default();
            return Some(SpillRecord {
                stream,
                position,
                received_ms: record::head(body).map_or(0, |head| head.received.0),
                stored_bytes: crate::journal::frame::stored_bytes(body.len()),
                body,
            });
        }
    }
}

impl Engine {
    /// True if the maintenance would find something to do.
    pub(super) fn needs_maintenance(&self) -> bool {
        if self.blocked {
            return false;
        }
        self.expiring
            || matches!(self.checkpoint, Checkpoint::Ready(_))
            || self.wants_checkpoint()
            || self.should_look_for_room()
            || self.can_release()
            || (self.unsealed_closed().count() >= self.limits.seal_segments && !self.is_tight())
            || self.generations.first().is_some_and(|g| self.is_finished(g))
    }

    pub(super) fn can_release(&self) -> bool {
        let durable = self.tables.views.durable();
        self.closed().next().is_some_and(|s| !self.is_needed(s) && s.last_lsn <= durable && !s.is_read())
    }

    fn is_finished(&self, generation: &GenerationInfo) -> bool {
        !generation.extents.iter().any(|e| self.catalog.needs(e))
    }

    fn closed(&self) -> impl Iterator<Item = &Segment> {
        let closed = self.segments.len().saturating_sub(1);
        self.segments.iter().take(closed)
    }

    fn unsealed_closed(&self) -> impl Iterator<Item = &Segment> {
        self.closed().filter(|s| !s.sealed)
    }

    /// True if a consumer still waits for something in it that lies nowhere else.
    fn is_needed(&self, segment: &Segment) -> bool {
        !segment.sealed && segment.extents.iter().any(|e| self.catalog.needs(e))
    }

    // --- checkpoints

    /// Closed segments that wait for nothing but the views.
    pub(super) fn waiting_for_views(&self) -> usize {
        let durable = self.tables.views.durable();
        self.closed().take_while(|s| !self.is_needed(s)).filter(|s| s.last_lsn > durable).count()
    }

    fn wants_checkpoint(&self) -> bool {
        let due = if self.is_tight() { 1 } else { self.limits.checkpoint_segments };
        matches!(self.checkpoint, Checkpoint::Idle)
            && self.has_room_for_checkpoint()
            && (self.tables.views.pending_bytes() > self.limits.checkpoint_bytes
                || self.tables.mailboxes.fresh_bytes() > FRESH_FACTOR * self.limits.checkpoint_bytes
                || self.waiting_for_views() >= due)
    }

    /// True if checkpoints do not keep up: memory must not grow while they are written (P5).
    pub(super) fn is_views_backlog_full(&self) -> bool {
        self.tables.views.pending_bytes() > PENDING_MIN.max(PENDING_FACTOR * self.limits.checkpoint_bytes)
    }

    /// Asks for a checkpoint at the end of the next group, if one is due; true if a group has to be made for it.
    pub(crate) fn ask_checkpoint(&mut self) -> bool {
        if !self.wants_checkpoint() {
            return false;
        }
        self.checkpoint = Checkpoint::Wanted;
        if self.internal.is_empty() {
            self.commit_internal(Internal::default());
        }
        true
    }

    /// Freezes what the next checkpoint will hold: right after the group's last commit was applied.
    pub(super) fn freeze(&mut self) {
        self.checkpoint = match self.tables.views.checkpoint_begin() {
            Some(work) => Checkpoint::Ready(work),
            None => {
                if let Err(error) = self.tables.views.checkpoint() {
                    tracing::warn!(%error, "checkpoint failed, the journal keeps what it would have held");
                }
                Checkpoint::Idle
            }
        };
    }

    pub(crate) fn take_checkpoint(&mut self) -> Option<CheckpointWork> {
        match std::mem::replace(&mut self.checkpoint, Checkpoint::Running) {
            Checkpoint::Ready(work) => Some(work),
            other => {
                self.checkpoint = other;
                None
            }
        }
    }

    pub(crate) fn end_checkpoint(&mut self, done: CheckpointDone) -> Result<(), BackingError> {
        self.checkpoint = Checkpoint::Idle;
        let outcome = self.tables.views.checkpoint_end(done);
        self.counters.views_disk = self.tables.views.disk_bytes();
        self.counters.views_written = self.tables.views.bytes_written();
        outcome
    }

    // --- recycling

    /// Takes the segments out that nobody needs, oldest first; their files can be used again.
    pub(crate) fn take_releasable(&mut self) -> Vec<u32> {
        let mut released = Vec::new();
        while self.segments.len() > 1
            && let Some(segment) = self.segments.front()
            && !self.is_needed(segment)
            && segment.last_lsn <= self.tables.views.durable()
            && !segment.is_read()
        {
            released.extend(self.segments.pop_front().map(|s| s.number()));
        }
        released
    }

    /// Segments that somebody needs and that are to be sealed into one generation, if there are enough of them.
    pub(crate) fn plan_seal(&self) -> Option<Seal> {
        let unsealed = self.unsealed_closed().count();
        let needed = self.unsealed_closed().any(|s| self.is_needed(s));
        // A generation needs room beside what it takes over, more than is left.
        if unsealed < self.limits.seal_segments || !needed || self.is_tight() {
            return None;
        }
        let chosen: Vec<&Segment> = self.unsealed_closed().take(self.limits.seal_segments).collect();
        let bytes: u64 = chosen.iter().map(|s| u64::from(s.bytes)).sum();
        if self.disk_bytes() + bytes > self.spec.disk_max {
            return None;
        }
        let lsns = chosen.first()?.first_lsn..=chosen.last()?.last_lsn;
        let streams = self.catalog.streams.iter().filter(|s| s.spec.is_some());
        let lowest = streams.filter_map(|s| Some((s.no, self.catalog.lowest_cursor(s.no)?))).collect();
        let sources: Vec<Source> = chosen.iter().map(|s| s.source.clone()).collect();
        Some(Seal {
            lsns,
            numbers: chosen.iter().map(|s| s.number()).collect(),
            records: SegmentRecords {
                sources: sources.into_iter(),
                cursor: None,
                lowest,
                frame: Bytes::new(),
                entries: Vec::new().into_iter(),
                gaps: Vec::new(),
            },
            _pins: chosen.iter().map(|s| Arc::clone(&s.pin)).collect(),
        })
    }

    /// The generation is sealed, synced and proven: its segments are not needed for events any more.
    pub(crate) fn sealed(&mut self, seal: &Seal, number: u64, extents: Vec<Extent>) {
        for (segment, gap) in &seal.records.gaps {
            self.count_gap(*segment, gap);
            self.recount(*segment);
        }
        for segment in self.segments.iter_mut().filter(|s| seal.numbers.contains(&s.number())) {
            segment.sealed = true;
        }
        let note = encode_extents(&extents);
        self.generations.push(GenerationInfo { number, extents });
        let views = vec![(keys::generation(number), Some(note))];
        self.commit_internal(Internal { views, ..Internal::default() });
    }

    /// Generations whose every event is acknowledged or given up.
    pub(crate) fn finished_generations(&self) -> Vec<u64> {
        self.generations.iter().filter(|g| self.is_finished(g)).map(|g| g.number).collect()
    }

    pub(crate) fn generation_removed(&mut self, number: u64) {
        self.generations.retain(|g| g.number != number);
        self.forget_generation(number);
    }

    /// What the generations take now.
    pub(crate) fn generations_changed(&mut self, (disk, written): (u64, u64)) {
        (self.counters.generations_disk, self.counters.generations_written) = (disk, written);
        self.offer_room();
    }

    /// The disk is full: streams that prefer new events give up what lies in the oldest generation, or segment.
    pub(crate) fn relieve_disk(&mut self) {
        if !self.must_relieve_disk() {
            return;
        }
        let oldest = self.generations.first().map(|g| g.extents.clone());
        let oldest = oldest.or_else(|| self.closed().find(|s| self.is_needed(s)).map(|s| s.extents.clone()));
        for extent in oldest.unwrap_or_default() {
            self.relieved(extent.bytes);
            let stream = self.catalog.stream_by_no(extent.stream);
            let drops =
                stream.and_then(|s| s.spec.as_ref()).is_some_and(|s| s.when_full == WhenFull::DropOldest);
            let consumers = stream.filter(|_| drops).map(|s| s.consumers.clone()).unwrap_or_default();
            for idx in consumers {
                self.give_up_through(idx, extent.last, LossReason::QueueFull);
            }
        }
    }

    fn give_up_through(&mut self, idx: usize, to: Position, reason: LossReason) {
        let to =
            self.catalog.consumer(idx).and_then(|consumer| consumer.until).map_or(to, |until| to.min(until));
        let Some(consumer) = self.catalog.consumer(idx).filter(|c| c.acked < to) else { return };
        match self.survey(consumer.stream_no, consumer.acked, to) {
            Ok(passed) => self.give_up(idx, to, reason, &passed),
            Err(error) => tracing::warn!(%error, "oldest events cannot be counted, so they are not given up"),
        }
    }

    // --- time

    /// Gives up what is older than its stream allows and marked. A clock that is not set expires nothing, and an event
    /// that came while it was not set does not expire.
    ///
    /// True if something was: there may be more behind it.
    pub(crate) fn expire(&mut self, now: Timestamp) -> bool {
        self.expiring = false;
        for idx in 0..self.catalog.consumers.len() {
            if let Some(consumer) = self.catalog.consumer_mut(idx) {
                consumer.ahead.shrink();
            }
            let passed = self.expired(idx, now);
            if let Some((_, last)) = passed.range {
                self.give_up(idx, last, LossReason::Expired, &passed);
                self.expiring = true;
            }
        }
        self.expiring
    }

    /// What tells whether an event of this consumer is too old; `None` if none ever is.
    fn is_old(&self, consumer: &ConsumerState, now: Timestamp) -> Option<impl Fn(u64) -> bool + use<>> {
        let spec = self.catalog.stream(consumer.stream)?.spec.as_ref()?;
        let max_age = spec.max_age.filter(|_| now.is_plausible() && consumer.events > 0)?;
        Some(move |received_ms| {
            let received = Timestamp(received_ms);
            received.is_plausible() && received.after(max_age) < now
        })
    }

    fn expired(&self, idx: usize, now: Timestamp) -> Passed {
        let mut passed = Passed::default();
        let Some(consumer) = self.catalog.consumer(idx) else { return passed };
        let Some(is_old) = self.is_old(consumer, now) else { return passed };
        let marks = (0..consumer.ahead.len()).map_while(|i| consumer.ahead.get(i));
        for mark in marks.take_while(|m| is_old(m.received_ms)) {
            passed.add(mark);
        }
        passed
    }

    /// Consumers whose oldest events may be too old and are not marked.
    pub(crate) fn unknown_ages(&self, now: Timestamp) -> Vec<usize> {
        let unknown = |consumer: &ConsumerState| {
            let may_be_old = self.is_old(consumer, now).is_some_and(|is| consumer.oldest_ms.is_none_or(is));
            may_be_old && consumer.ahead.len() == 0 && !consumer.ahead.is_complete()
        };
        self.consumers_where(unknown)
    }

    /// Consumers that may have to give up their oldest events soon and do not have them marked.
    pub(crate) fn near_drops(&self) -> Vec<usize> {
        let near = |consumer: &ConsumerState| {
            let spec = self.catalog.stream(consumer.stream).and_then(|s| s.spec.as_ref());
            let is_near =
                |s: &StreamSpec| s.when_full == WhenFull::DropOldest && consumer.bytes > s.max_bytes / 8 * 7;
            spec.is_some_and(is_near)
                && !consumer.ahead.is_complete()
                && consumer.ahead.len() < LOOK_AHEAD / 2
        };
        self.consumers_where(near)
    }

    fn consumers_where(&self, wanted: impl Fn(&ConsumerState) -> bool) -> Vec<usize> {
        let consumers = self.catalog.consumers.iter().enumerate();
        consumers.filter(|(_, consumer)| wanted(consumer)).map(|(idx, _)| idx).collect()
    }
}

/// View entry of a generation.
pub(crate) fn encode_extents(extents: &[Extent]) -> Bytes {
    let mut out = Vec::new();
    for e in extents {
        for number in [u64::from(e.stream.0), e.first.0, e.last.0, e.events, e.bytes] {
            put_varint(&mut out, number);
        }
    }
    Bytes::from(out)
}

pub(crate) fn decode_extents(bytes: &[u8]) -> Option<Vec<Extent>> {
    let mut reader = Reader::new(bytes);
    let mut extents = Vec::new();
    while !reader.is_empty() {
        extents.push(Extent {
            stream: StreamNo(reader.varint_u32()?),
            first: Position(reader.varint()?),
            last: Position(reader.varint()?),
            events: reader.varint()?,
            bytes: reader.varint()?,
            oldest_ms: 0,
            newest_ms: 0,
        });
    }
    Some(extents)
}
