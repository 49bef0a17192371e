//! Where events are found: in memory, in a segment, in a generation. The looking-up is short and under the lock, the
//! reading is not.

use super::ahead::{Mark, Passed};
use super::catalog::Place;
use super::recent::{FoundEvent, Harvest, Want};
use super::{Engine, Internal, SharedGenerations};
use crate::backing::{BackingError, Extent, StreamNo};
use crate::journal::frame::{Frame, Item, LossEntry};
use crate::journal::reader::{FrameCursor, Gap, Source};
use bytes::Bytes;
use eventmesh_edge_core::event::{Position, record};
use eventmesh_edge_core::ports::store::{LossReason, Read};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Bytes read from a segment at once, at least and at most.
const CHUNK_BYTES: (usize, usize) = (16 << 10, 256 << 10);

/// Bytes of events held while their marks are made.
const LOOK_BYTES: usize = 4 << 20;

/// Where the next events of a stream are.
pub(crate) enum Plan {
    /// Nothing is left.
    End,
    /// Everything wanted is in memory.
    Memory,
    Segment {
        source: Source,
        from: u32,
        last: Position,
        _pin: Arc<()>,
    },
    Generation {
        number: u64,
        last: Position,
    },
}

/// What one step of reading found out.
pub(crate) struct Fetched {
    /// Everything of the stream up to here was looked at.
    pub(crate) through: Position,
    pub(crate) place: Option<Place>,
    pub(crate) damage: Damage,
}

/// Damage met while reading.
#[derive(Debug)]
pub(crate) enum Damage {
    None,
    Segment { number: u32, gaps: Vec<Gap> },
    Generation(Vec<Extent>),
}

/// Locks the generations, whatever happened to an earlier holder.
pub(crate) fn lock_generations(
    shared: &SharedGenerations,
) -> MutexGuard<'_, Box<dyn crate::backing::Generations>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries a plan out.
pub(crate) fn fetch(
    plan: &Plan,
    stream: StreamNo,
    after: Position,
    harvest: &mut Harvest,
    generations: &SharedGenerations,
) -> Result<Fetched, BackingError> {
    match plan {
        Plan::End | Plan::Memory => Ok(Fetched { through: after, place: None, damage: Damage::None }),
        Plan::Segment { source, from, last, .. } => {
            fetch_segment(source, *from, *last, stream, after, harvest)
        }
        Plan::Generation { number, last } => {
            let mut generations = lock_generations(generations);
            let mut out = Vec::new();
            let Want { events, bytes } = harvest.rest();
            let damaged = generations.read(*number, stream, after, events, bytes.max(1), &mut out)?;
            drop(generations);
            let through = if out.is_empty() { Some(*last) } else { None };
            for (position, stored_bytes, body) in out {
                harvest.offer(position, stored_bytes, || body);
            }
            let through = through.or(harvest.events.last().map(|event| event.position)).unwrap_or(*last);
            Ok(Fetched { through, place: None, damage: Damage::Generation(damaged) })
        }
    }
}

fn fetch_segment(
    source: &Source,
    from: u32,
    last: Position,
    stream: StreamNo,
    after: Position,
    harvest: &mut Harvest,
) -> Result<Fetched, BackingError> {
    let (least, most) = CHUNK_BYTES;
    let chunk = harvest.rest().bytes.saturating_add(least / 4).clamp(least, most);
    let mut cursor = FrameCursor::from(source.clone(), from).chunk_bytes(chunk).strict();
    let mut through = last;
    let mut offset = None;
    while let Some(located) = cursor.next() {
        let whole = harvest.frame(&located.body, &source.base, stream, after);
        if !whole || harvest.is_full() {
            through = harvest.events.last().map_or(after, |event| event.position);
            offset = Some(if whole { located.next_offset() } else { located.offset });
            break;
        }
    }
    if let Some(error) = cursor.error.take() {
        let what = format!("read journal segment {}", source.number);
        return Err(BackingError::Io { what, source: Arc::new(error) });
    }
    let place =
        Some(Place { segment: source.number, offset: offset.unwrap_or(cursor.offset()), after: through });
    let gaps = std::mem::take(&mut cursor.gaps);
    let damage = if gaps.is_empty() { Damage::None } else { Damage::Segment { number: source.number, gaps } };
    Ok(Fetched { through, place, damage })
}

/// A look at a consumer's oldest events beyond those that are marked, under way.
pub(crate) struct Look {
    idx: usize,
    pub(crate) stream: StreamNo,
    from: Position,
    pub(crate) through: Position,
    newest: Position,
    place: Option<Place>,
    pub(crate) harvest: Harvest,
}

impl Look {
    pub(crate) fn fetched(&mut self, fetched: &Fetched) {
        self.place = fetched.place;
        self.through = fetched.through.max(self.through.next());
    }
}

/// What accounting needs of a record.
pub(crate) fn mark_of(event: &FoundEvent) -> Mark {
    let received_ms = record::head(&event.body).map_or(0, |head| head.received.0);
    Mark { position: event.position, received_ms, bytes: event.stored_bytes }
}

/// What a read in memory came to.
pub(crate) struct MemoryRead {
    pub(crate) found: Vec<FoundEvent>,
    pub(crate) through: Position,
    pub(crate) at_end: bool,
}

impl Engine {
    /// Answers a read without the disk, if that is possible.
    pub(crate) fn read_memory(&mut self, read: &Read) -> Option<MemoryRead> {
        let Some(idx) = self.catalog.consumer_idx(read.consumer) else {
            return Some(MemoryRead { found: Vec::new(), through: read.after, at_end: true });
        };
        let consumer = self.catalog.consumer(idx)?;
        let after = read.after.max(consumer.acked);
        let (stream_no, newest) = (consumer.stream_no, self.catalog.end_of(consumer));
        if newest <= after {
            let through = self.durable_position.max(after);
            return Some(MemoryRead { found: Vec::new(), through, at_end: true });
        }
        if !self.recent.covers(after) {
            return None;
        }
        let mut harvest = Harvest::new(Want { events: read.max_events, bytes: read.max_bytes });
        self.recent.read(stream_no, after, &mut harvest);
        let beyond = self.clip(idx, &mut harvest.events);
        let last = harvest.events.last().map_or(after, |event| event.position);
        let at_end = beyond || last >= newest;
        let through = if at_end { self.durable_position } else { last };
        self.looked_at(idx, after, &harvest.events, through);
        Some(MemoryRead { found: harvest.events, through, at_end })
    }

    /// Where a consumer's read goes on, and from where.
    pub(crate) fn plan_read(&self, read: &Read, after: Position) -> Option<(StreamNo, Position, Plan)> {
        let consumer = self.catalog.consumer(self.catalog.consumer_idx(read.consumer)?)?;
        let after = after.max(read.after).max(consumer.acked);
        if consumer.until.is_some_and(|until| after >= until) {
            return Some((consumer.stream_no, after, Plan::End));
        }
        Some((consumer.stream_no, after, self.plan(consumer.stream_no, after, consumer.place)))
    }

    /// Takes off what is not for a consumer that is being drained; true if there was any.
    fn clip(&self, idx: usize, found: &mut Vec<FoundEvent>) -> bool {
        let Some(until) = self.catalog.consumer(idx).and_then(|consumer| consumer.until) else {
            return false;
        };
        let before = found.len();
        found.retain(|event| event.position <= until);
        found.len() < before
    }

    /// The same for a read; true if nothing later is for it.
    pub(crate) fn clip_read(&self, read: &Read, found: &mut Vec<FoundEvent>) -> bool {
        self.catalog.consumer_idx(read.consumer).is_some_and(|idx| self.clip(idx, found))
    }

    /// Where the events of a stream after a position are.
    pub(super) fn plan(&self, stream: StreamNo, after: Position, place: Option<Place>) -> Plan {
        if self.recent.covers(after) {
            return Plan::Memory;
        }
        let later = |extent: Option<&Extent>| extent.is_some_and(|e| e.last > after);
        if let Some(generation) = self.generations.iter().find(|g| later(g.extent(stream))) {
            let last = generation.extent(stream).map_or(after, |e| e.last);
            return Plan::Generation { number: generation.number, last };
        }
        let Some(segment) = self.segments.iter().find(|s| !s.sealed && later(s.extent(stream))) else {
            return Plan::End;
        };
        let remembered = place.filter(|p| p.segment == segment.number() && p.after <= after);
        let from = remembered.map_or(crate::journal::header::HEADER_BYTES, |place| place.offset);
        Plan::Segment {
            source: segment.source.clone(),
            from,
            last: segment.last_position,
            _pin: Arc::clone(&segment.pin),
        }
    }

    /// Takes over what a read outside the lock found out.
    pub(crate) fn absorb(&mut self, read: &Read, after: Position, found: &[FoundEvent], fetched: &Fetched) {
        if let Some(idx) = self.catalog.consumer_idx(read.consumer) {
            if let Some(consumer) = self.catalog.consumer_mut(idx) {
                consumer.place = fetched.place;
            }
            self.looked_at(idx, after, found, fetched.through);
            self.count_damage(idx, &fetched.damage);
        }
    }

    fn looked_at(&mut self, idx: usize, after: Position, found: &[FoundEvent], through: Position) {
        let newest =
            self.catalog.consumer(idx).map_or(Position::ZERO, |consumer| self.catalog.end_of(consumer));
        let Some(consumer) = self.catalog.consumers.get_mut(idx) else { return };
        if consumer.ahead.is_complete() || through <= consumer.ahead.through() {
            return;
        }
        let known = consumer.ahead.through();
        let marks: Vec<Mark> = found.iter().filter(|event| event.position > known).map(mark_of).collect();
        consumer.ahead.looked_at(after, &marks, through, through >= newest, super::ahead::MARKS_MAX);
    }

    /// True when nothing later than this is durable in the consumer's stream.
    pub(crate) fn is_at_end(&self, read: &Read, through: Position) -> bool {
        let consumer = self.catalog.consumer_idx(read.consumer).and_then(|idx| self.catalog.consumer(idx));
        through >= consumer.map_or(Position::ZERO, |consumer| self.catalog.end_of(consumer))
    }

    /// The last position that is durable.
    pub(crate) fn durable_position(&self) -> Position {
        self.durable_position
    }

    /// Marks more of a consumer's oldest events, up to `max` marks. Reads the disk: only where the marks are needed now.
    pub(super) fn look_ahead(&mut self, idx: usize, max: usize) -> Result<(), BackingError> {
        let Some(consumer) = self.catalog.consumer(idx) else { return Ok(()) };
        let (stream, from, mut place) = (consumer.stream_no, consumer.ahead.through(), consumer.ahead_place);
        let newest = self.catalog.end_of(consumer);
        let wanted = max.saturating_sub(consumer.ahead.len()).max(1);
        let mut harvest = Harvest::new(Want { events: wanted, bytes: usize::MAX });
        let mut through = from;
        while !harvest.is_full() && through < newest {
            through = self.step(stream, through, &mut place, &mut harvest, newest)?;
        }
        self.clip(idx, &mut harvest.events);
        let marks: Vec<Mark> = harvest.events.iter().map(mark_of).collect();
        if let Some(consumer) = self.catalog.consumer_mut(idx) {
            consumer.ahead_place = place;
            consumer.ahead.looked_at(from, &marks, through, through >= newest, max);
        }
        Ok(())
    }

    /// The same without the lock, step by step: [`Engine::plan_look`] says what to read until nothing is left,
    /// [`Engine::end_look`] takes over what was found.
    pub(crate) fn begin_look(&self, idx: usize, max: usize) -> Option<Look> {
        let consumer = self.catalog.consumer(idx)?;
        let from = consumer.ahead.through();
        Some(Look {
            idx,
            stream: consumer.stream_no,
            from,
            through: from,
            newest: self.catalog.end_of(consumer),
            place: consumer.ahead_place,
            harvest: Harvest::new(Want { events: max, bytes: LOOK_BYTES }),
        })
    }

    /// What is to be read next; what is in memory is taken at once.
    pub(crate) fn plan_look(&self, look: &mut Look) -> Option<Plan> {
        while !look.harvest.is_full() && look.through < look.newest {
            match self.plan(look.stream, look.through, look.place) {
                Plan::End => look.through = look.newest,
                Plan::Memory => {
                    let all = self.recent.read(look.stream, look.through, &mut look.harvest);
                    let last = look.harvest.events.last().map_or(look.through, |event| event.position);
                    look.through = if all { look.newest.max(last) } else { last };
                }
                plan => return Some(plan),
            }
        }
        None
    }

    pub(crate) fn end_look(&mut self, mut look: Look) {
        self.clip(look.idx, &mut look.harvest.events);
        let marks: Vec<Mark> = look.harvest.events.iter().map(mark_of).collect();
        // Something may have come meanwhile, and then this is not all.
        let newest =
            self.catalog.consumer(look.idx).map_or(Position::ZERO, |consumer| self.catalog.end_of(consumer));
        let Some(consumer) = self.catalog.consumers.get_mut(look.idx) else { return };
        consumer.ahead_place = look.place;
        let to_the_end = look.through >= newest;
        consumer.ahead.looked_at(look.from, &marks, look.through, to_the_end, super::ahead::MARKS_MAX);
    }

    /// One step of reading with the lock held.
    fn step(
        &self,
        stream: StreamNo,
        after: Position,
        place: &mut Option<Place>,
        harvest: &mut Harvest,
        newest: Position,
    ) -> Result<Position, BackingError> {
        match self.plan(stream, after, *place) {
            Plan::End => Ok(newest),
            Plan::Memory => {
                let all = self.recent.read(stream, after, harvest);
                let last = harvest.events.last().map_or(after, |event| event.position);
                Ok(if all { newest.max(last) } else { last })
            }
            plan => {
                let fetched = fetch(&plan, stream, after, harvest, &self.shared_generations)?;
                *place = fetched.place;
                Ok(fetched.through.max(after.next()))
            }
        }
    }

    /// Counts the events of a stream in (`after`, `to`] by reading them.
    pub(super) fn survey(
        &self,
        stream: StreamNo,
        after: Position,
        to: Position,
    ) -> Result<Passed, BackingError> {
        let (mut passed, mut through, mut place) = (Passed::default(), after, None);
        while through < to {
            let mut harvest = Harvest::new(Want { events: 4096, bytes: 1 << 20 });
            through = self.step(stream, through, &mut place, &mut harvest, to)?;
            for event in harvest.events.iter().filter(|event| event.position <= to) {
                passed.add(&mark_of(event));
            }
        }
        Ok(passed)
    }

    /// Enters damage into the ledger, each stretch once.
    fn count_damage(&mut self, idx: usize, damage: &Damage) {
        match damage {
            Damage::None => {}
            Damage::Segment { number, gaps } => {
                let before = self.lost_gaps(*number);
                for gap in gaps {
                    self.count_gap(*number, gap);
                }
                if self.lost_gaps(*number) > before {
                    self.recount(*number);
                }
            }
            Damage::Generation(extents) => {
                for extent in extents {
                    self.count_extent(idx, extent);
                }
            }
        }
    }

    fn lost_gaps(&self, number: u32) -> usize {
        self.segments.iter().find(|s| s.number() == number).map_or(0, |s| s.counted_gaps.len())
    }

    /// Damage came up in a segment that had been whole: its figures, and what waits for whom, are made anew. Rare, so it
    /// may read the segment with the lock held.
    pub(super) fn recount(&mut self, number: u32) {
        let Some(segment) = self.segments.iter_mut().find(|s| s.number() == number) else { return };
        segment.extents.clear();
        let mut cursor = FrameCursor::new(segment.source.clone());
        while let Some(located) = cursor.next() {
            let Ok(frame) = Frame::parse(&located.body, &segment.source.base) else { continue };
            for item in frame.items() {
                let Ok(Item::Event(entry)) = item else { break };
                let (position, bytes) = (entry.position, entry.stored_bytes());
                let received_ms = record::head(entry.body).map_or(0, |head| head.received.0);
                segment.add(entry.stream, &Mark { position, received_ms, bytes });
            }
        }
        if let Err(error) = self.count_backlogs() {
            tracing::warn!(%error, "backlogs cannot be counted anew and may be too high");
        }
    }

    pub(super) fn lose_extent(
        &mut self,
        idx: usize,
        extent: &Extent,
        (events, bytes): (u64, u64),
        note: Option<Bytes>,
    ) {
        let Some(consumer) = self.catalog.consumer(idx) else { return };
        let first = extent.first.max(consumer.acked.next());
        let last = extent.last;
        tracing::error!(stream = extent.stream.0, %first, %last, events, "spilled events are damaged, counted as lost");
        let loss = LossEntry {
            stream: consumer.stream_no,
            uplink: consumer.uplink,
            reason: LossReason::Damaged,
            events,
            bytes,
            first,
            last,
        };
        let views = note.into_iter().map(|key| (key, Some(Bytes::new()))).collect();
        self.commit_internal(Internal { views, losses: vec![loss], ..Internal::default() });
    }

    /// A generation cannot be read at all: what its readers still needed is lost. That is what they wait for, less what
    /// lies behind it.
    pub(crate) fn generation_lost(&mut self, number: u64) {
        let Some(at) = self.generations.iter().position(|g| g.number == number) else { return };
        let info = self.generations.remove(at);
        self.counters.quarantined += 1;
        for extent in &info.extents {
            for idx in self.waiting_for(extent) {
                let Some(consumer) = self.catalog.consumer(idx) else { continue };
                let (told_events, told_bytes) = (consumer.events, consumer.bytes);
                let counted = self.count_waiting(extent.stream, consumer.acked, consumer.until);
                let Ok((events, bytes, _)) = counted else {
                    continue;
                };
                if let Some(consumer) = self.catalog.consumer_mut(idx) {
                    (consumer.events, consumer.bytes) = (events, bytes);
                    consumer.forget_ahead();
                }
                let lost = (told_events.saturating_sub(events), told_bytes.saturating_sub(bytes));
                self.lose_extent(idx, extent, lost, None);
            }
        }
        self.forget_generation(number);
    }

    /// The same at a start, where nobody counted it as waiting: by what the views say it held.
    pub(super) fn generation_missing(&mut self, number: u64, extents: &[Extent]) {
        for extent in extents {
            for idx in self.waiting_for(extent) {
                self.lose_extent(idx, extent, (extent.events, extent.bytes), None);
            }
        }
        self.counters.quarantined += 1;
        self.forget_generation(number);
    }

    fn waiting_for(&self, extent: &Extent) -> Vec<usize> {
        let stream = self.catalog.stream_by_no(extent.stream);
        let consumers = stream.map(|s| s.consumers.as_slice()).unwrap_or_default().iter().copied();
        consumers.filter(|idx| self.catalog.consumer(*idx).is_some_and(|c| c.waits_for(extent))).collect()
    }

    /// Removes the note about what a generation should hold.
    pub(super) fn forget_generation(&mut self, number: u64) {
        let views: Vec<(Bytes, Option<Bytes>)> = vec![(super::keys::generation(number), None)];
        self.commit_internal(Internal { views, ..Internal::default() });
    }
}
