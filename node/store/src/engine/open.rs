//! An engine from what a directory holds: the journal's window walked once, everything behind it by its figures.

use super::admit::loss_of;
use super::ahead::Passed;
use super::catalog::{Catalog, ConsumerState, StreamState};
use super::consumers::consumer_at;
use super::recent::Recent;
use super::retain::{decode_extents, encode_extents};
use super::room::Room;
use super::segments::{GenerationInfo, Segment};
use super::sequences::Sequences;
use super::spaces::Spaces;
use super::tables::{Bounds, Tables, scan_all};
use super::{Checkpoint, Counters, Engine, Internal, Limits, SharedGenerations, keys};
use crate::backing::{BackingError, Extent, Lsn, StreamNo, Views};
use crate::codec::Reader;
use crate::journal::frame::{CursorEntry, EventEntry, Frame, Item, UplinkNo};
use crate::journal::header::Identity;
use crate::journal::reader::{End, FrameCursor, Gap};
use crate::journal::recover::{Found, Recovered};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{LogId, Position, record};
use eventmesh_edge_core::ports::store::{Consumer, LossReason, StoreSpec, StreamId, StreamSpec, UplinkId};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// What an engine is made from.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    /// What `meta-*` says about the last move: since which epoch, which log id.
    pub(crate) space: Option<(u32, LogId)>,
    pub(crate) spec: StoreSpec,
    pub(crate) limits: Limits,
    pub(crate) views: Box<dyn Views>,
    pub(crate) generations: SharedGenerations,
}

/// What was found on the way.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) commits_replayed: u64,
    pub(crate) torn_bytes: u64,
    /// Damaged stretches by segment.
    pub(crate) gaps: Vec<(u32, Gap)>,
    pub(crate) clean_end: bool,
}

/// Everything that the walk over the journal collects.
struct Walk {
    tables: Tables,
    sequences: Sequences,
    segments: VecDeque<Segment>,
    newest: HashMap<StreamNo, Position>,
    /// Commits up to here are in the views already.
    applied: Lsn,
    last: Lsn,
    findings: Findings,
}

impl Walk {
    fn segment(&mut self, found: &Found) -> Result<(), BackingError> {
        let mut segment = Segment::new(found.source.clone(), found.header.size);
        let mut cursor = FrameCursor::new(found.source.clone());
        while let Some(located) = cursor.next() {
            // It parsed when the cursor took it.
            if let Ok(frame) = Frame::parse(&located.body, &found.source.base) {
                self.frame(&frame, &located.body, &mut segment)?;
            }
        }
        segment.source.end = End::At(match found.source.end {
            End::At(end) => end,
            End::Open(_) => cursor.offset(),
        });
        self.findings.torn_bytes += cursor.torn_bytes;
        self.findings.clean_end = cursor.clean_end;
        let number = segment.number();
        self.findings.gaps.extend(cursor.gaps.drain(..).map(|gap| (number, gap)));
        self.segments.push_back(segment);
        Ok(())
    }

    fn frame(&mut self, frame: &Frame<'_>, body: &[u8], segment: &mut Segment) -> Result<(), BackingError> {
        segment.last_lsn = frame.lsn;
        if frame.lsn == segment.first_lsn {
            segment.noted = super::damage::noted_in(frame);
        }
        self.last = self.last.max(frame.lsn);
        let is_new = frame.lsn > self.applied;
        let mut for_views = frame.has_more_than_events();
        for item in frame.items() {
            let Ok(Item::Event(entry)) = item else { break };
            for_views |= entry.mailboxes.claims() > 0;
            self.event(&entry, is_new, segment)?;
        }
        if !is_new {
            return Ok(());
        }
        self.findings.commits_replayed += 1;
        let mut more = Vec::new();
        if self.sequences.is_over_full() {
            self.sequences.flush(&mut more);
        }
        if for_views {
            self.tables.apply(frame, body, &segment.source.base, (more, false));
        } else if !more.is_empty() {
            self.tables.apply_ops(frame.lsn, more, false);
        }
        Ok(())
    }

    fn event(
        &mut self,
        entry: &EventEntry<'_>,
        is_new: bool,
        segment: &mut Segment,
    ) -> Result<(), BackingError> {
        let Ok(head) = record::head(entry.body) else {
            tracing::error!(position = %entry.position, "record does not decode, although its checksum holds");
            return Ok(());
        };
        let mark = super::Mark {
            position: entry.position,
            received_ms: head.received.0,
            bytes: entry.stored_bytes(),
        };
        segment.add(entry.stream, &mark);
        self.newest.insert(entry.stream, entry.position);
        if is_new {
            self.sequences.replay(&*self.tables.views, head.source, entry.stream, head.sequence)?;
        }
        Ok(())
    }
}

/// What the directory remembers of names and cursors.
pub(super) struct Remembered {
    streams: BTreeMap<StreamNo, (Text, Position)>,
    uplinks: BTreeMap<UplinkNo, Text>,
    pub(super) cursors: BTreeMap<(StreamNo, UplinkNo), Position>,
    /// The last positions of those that were being drained.
    pub(super) leaving: BTreeMap<(StreamNo, UplinkNo), Position>,
}

impl Remembered {
    fn load(views: &dyn Views) -> Result<Remembered, BackingError> {
        let mut found = Remembered {
            streams: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            cursors: BTreeMap::new(),
            leaving: BTreeMap::new(),
        };
        for (key, value) in scan_all(views, &[keys::STREAM])? {
            let mut reader = Reader::new(&value);
            let (Some(no), Some(newest)) = (number(&key, 1), reader.u64_be()) else { continue };
            found.streams.insert(StreamNo(no), (text(value.get(8..)), Position(newest)));
        }
        for (key, value) in scan_all(views, &[keys::UPLINK])? {
            if let Some(no) = number(&key, 1) {
                found.uplinks.insert(UplinkNo(no), text(Some(&value)));
            }
        }
        found.cursors = positions(views, keys::CURSOR)?;
        found.leaving = positions(views, keys::LEAVING)?;
        Ok(found)
    }

    /// The cursors of a stream.
    pub(super) fn of_stream(&self, no: StreamNo) -> impl Iterator<Item = (&(StreamNo, UplinkNo), &Position)> {
        self.cursors.range((no, UplinkNo(0))..=(no, UplinkNo(u32::MAX)))
    }

    /// Where that begins which waits for no uplink in particular. What was being drained waits for nobody else.
    fn waiting(&self, no: StreamNo) -> Option<Position> {
        let waiting = self.cursors.get(&(no, UplinkNo(0))).copied()?;
        let left =
            self.of_stream(no).filter(|(key, _)| self.leaving.contains_key(*key)).map(|(_, acked)| *acked);
        Some(left.min().map_or(waiting, |left| left.min(waiting)))
    }
}

fn positions(views: &dyn Views, kind: u8) -> Result<BTreeMap<(StreamNo, UplinkNo), Position>, BackingError> {
    let rows = scan_all(views, &[kind])?;
    let parsed = rows.iter().filter_map(|(key, value)| {
        let position = Reader::new(value).u64_be().map(Position)?;
        Some(((StreamNo(number(key, 1)?), UplinkNo(number(key, 5)?)), position))
    });
    Ok(parsed.collect())
}

fn number(key: &[u8], at: usize) -> Option<u32> {
    Reader::new(key.get(at..)?).u32_be()
}

fn text(bytes: Option<&[u8]>) -> Text {
    Text::from(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned())
}

impl Engine {
    /// Walks the journal, replays what the views do not have, and counts what waits for whom.
    pub(crate) fn open(parts: Parts, recovered: &Recovered) -> Result<(Engine, Findings), BackingError> {
        let Parts { identity, epoch, space, spec, limits, views, generations } = parts;
        let applied = views.applied();
        let mut walk = Walk {
            tables: Tables::new(views)?,
            sequences: Sequences::default(),
            segments: VecDeque::new(),
            newest: HashMap::new(),
            applied,
            last: applied,
            findings: Findings::default(),
        };
        for found in &recovered.segments {
            walk.segment(found)?;
        }
        let Walk { mut tables, sequences, segments, newest, last, mut findings, .. } = walk;
        if tables.views.applied() < last {
            tables.apply_ops(last, Vec::new(), false);
        }
        let remembered = Remembered::load(&*tables.views)?;
        let newest_noted = remembered.streams.values().map(|(_, newest)| *newest).max();
        let durable_position = segments.iter().map(|s| s.last_position).max().unwrap_or_default();
        let noted = tables.views.get(keys::SPACES)?.and_then(|bytes| Spaces::decode(&bytes));
        let mut spaces = noted.unwrap_or_else(|| Spaces::one(identity.log));
        if let Some((epoch, log)) = space {
            spaces.add(epoch, log);
        }
        let mut engine = Engine {
            epoch,
            spaces,
            spec,
            limits,
            catalog: Catalog::default(),
            segments,
            generations: Vec::new(),
            shared_generations: generations,
            recent: Recent::new(limits.recent_bytes, durable_position),
            sequences,
            tables,
            next_lsn: Lsn(last.0 + 1),
            next_position: Position::first_of(epoch),
            durable_position,
            internal: VecDeque::new(),
            checkpoint: Checkpoint::Idle,
            counters: Counters::default(),
            io_failed: false,
            room: Room::default(),
            given_up: HashSet::new(),
            superseded: Vec::new(),
            absent: Vec::new(),
            counted_extents: HashSet::new(),
            is_active: false,
            expiring: false,
            blocked: false,
        };
        let unnoted = engine.set_unreadable_generations_aside(&remembered)?;
        engine.find_generations()?;
        let found = engine.last_found();
        engine.name(&remembered, &newest);
        engine.recent = Recent::new(limits.recent_bytes, engine.durable_position);
        engine.count_backlogs()?;
        engine.give_up_removed_streams();
        engine.give_up_gone_consumers(&remembered)?;
        engine.counters.views_disk = engine.tables.views.disk_bytes();
        for (number, gap) in &findings.gaps {
            engine.count_gap(*number, gap);
        }
        engine.count_unreadable(&recovered.unreadable);
        findings.gaps.extend(engine.count_end(applied, found, newest_noted));
        engine.forget_counted(&recovered.unreadable)?;
        engine.count_lost_generations()?;
        for (number, extents) in unnoted {
            engine.generation_missing(number, &extents);
        }
        Ok((engine, findings))
    }

    /// Where a cursor stands inside a generation, what waits behind it is counted from its database. One that cannot be
    /// opened is moved aside here (P6). Returns those that the views have no note of, and the journal nothing any more:
    /// the others are counted with all that are missing.
    fn set_unreadable_generations_aside(
        &mut self,
        remembered: &Remembered,
    ) -> Result<Vec<(u64, Vec<Extent>)>, BackingError> {
        let mut unnoted = Vec::new();
        let mut generations = super::read::lock_generations(&self.shared_generations);
        for (number, lsns, extents) in generations.sealed() {
            let inside = extents.iter().flat_map(|extent| {
                let cursors = remembered
                    .cursors
                    .range((extent.stream, UplinkNo(0))..=(extent.stream, UplinkNo(u32::MAX)));
                cursors.map(|(_, acked)| (extent.stream, *acked))
            });
            let outcome = inside
                .map(|(stream, acked)| generations.count_after(number, stream, acked).map(drop))
                .find(Result::is_err);
            match outcome {
                Some(Err(error @ BackingError::Damaged { .. })) => {
                    tracing::error!(%error, generation = number, "generation is damaged, moved aside");
                    generations.quarantine(number)?;
                    let noted = self.tables.views.get(&keys::generation(number))?.is_some();
                    if !noted && !self.segments.iter().any(|s| lsns.contains(&s.first_lsn)) {
                        unnoted.push((number, extents));
                    }
                }
                Some(Err(error)) => return Err(error),
                _ => {}
            }
        }
        Ok(unnoted)
    }

    fn find_generations(&mut self) -> Result<(), BackingError> {
        let sealed = super::read::lock_generations(&self.shared_generations).sealed();
        // A group that failed may stand at the end of its segment all the same, with the number of the one that took its
        // place in the next segment and so, perhaps, in the next generation: both together hold everything.
        for segment in &mut self.segments {
            let mut next = segment.first_lsn;
            for (_, lsns, _) in &sealed {
                if lsns.contains(&next) {
                    next = Lsn(lsns.end().0 + 1);
                }
            }
            segment.sealed |= next > segment.last_lsn && segment.last_lsn >= segment.first_lsn;
        }
        for (number, _, extents) in sealed {
            if self.tables.views.get(&keys::generation(number))?.is_none() {
                let views = vec![(keys::generation(number), Some(encode_extents(&extents)))];
                self.commit_internal(Internal { views, ..Internal::default() });
            }
            self.generations.push(GenerationInfo { number, extents });
        }
        Ok(())
    }

    /// Maps the names of the configuration to durable numbers; new ones are given. All are in the first frame of each
    /// segment.
    fn name(&mut self, remembered: &Remembered, newest: &HashMap<StreamNo, Position>) {
        let mut opening = Internal::default();
        self.name_uplinks(remembered);
        let mut next = remembered.streams.keys().next_back().map_or(1, |no| no.0 + 1);
        for (id, spec) in self.spec.streams.clone().into_iter().enumerate() {
            let known =
                remembered.streams.iter().find(|(_, (name, _))| *name == spec.name).map(|(no, _)| *no);
            let no = known.unwrap_or(StreamNo(next));
            let idx = self.catalog.streams.len();
            self.catalog.configured.push(idx);
            self.add_stream(no, spec.name.clone(), Some(spec.clone()), remembered, newest);
            if known.is_none() {
                next += 1;
            }
            let id = StreamId(u16::try_from(id).unwrap_or(u16::MAX));
            self.add_consumers(idx, id, &spec, remembered, &mut opening);
        }
        for (no, (name, _)) in &remembered.streams {
            if !self.catalog.by_no.contains_key(no) {
                self.add_stream(*no, name.clone(), None, remembered, newest);
                self.add_orphans(*no, remembered);
            }
        }
        let bounds = Bounds {
            bytes: self.spec.mailbox_max_bytes,
            events: self.spec.mailbox_max_events,
            all_bytes: self.spec.mailboxes_max_bytes,
        };
        if self.tables.bounds != bounds {
            opening.views.push((Bytes::from_static(keys::BOUNDS), Some(bounds.encode())));
        }
        if !opening.views.is_empty() {
            self.internal.push_front(opening);
        }
    }

    fn name_uplinks(&mut self, remembered: &Remembered) {
        let mut next = remembered.uplinks.keys().next_back().map_or(1, |no| no.0 + 1);
        self.catalog.uplink_names.extend(remembered.uplinks.iter().map(|(no, name)| (*no, name.clone())));
        for name in &self.spec.uplinks {
            let known = remembered.uplinks.iter().find(|(_, n)| *n == name).map(|(no, _)| *no);
            let no = known.unwrap_or_else(|| {
                let no = UplinkNo(next);
                next += 1;
                no
            });
            self.catalog.uplinks.push(no);
            self.catalog.uplink_names.insert(no, name.clone());
        }
    }

    fn add_stream(
        &mut self,
        no: StreamNo,
        name: Text,
        spec: Option<StreamSpec>,
        remembered: &Remembered,
        newest: &HashMap<StreamNo, Position>,
    ) {
        let noted = remembered.streams.get(&no).map(|(_, newest)| *newest).unwrap_or_default();
        let spilled =
            self.generations.iter().filter_map(|g| g.extent(no)).map(|e| e.last).max().unwrap_or_default();
        let newest = noted.max(spilled).max(newest.get(&no).copied().unwrap_or_default());
        self.durable_position = self.durable_position.max(newest);
        self.catalog.by_no.insert(no, self.catalog.streams.len());
        self.catalog.streams.push(StreamState {
            no,
            name,
            spec,
            newest,
            dirty: newest > noted,
            consumers: Vec::new(),
        });
    }

    fn add_consumers(
        &mut self,
        stream: usize,
        id: StreamId,
        spec: &StreamSpec,
        remembered: &Remembered,
        opening: &mut Internal,
    ) {
        let Some(no) = self.catalog.stream(stream).map(|s| s.no) else { return };
        let waiting = remembered.waiting(no);
        if spec.uplinks.is_empty() {
            // Without a cursor of its own it takes the place of the uplink that was furthest behind.
            let of_stream = remembered.cursors.range((no, UplinkNo(0))..=(no, UplinkNo(u32::MAX)));
            let acked = waiting.or_else(|| of_stream.map(|(_, acked)| *acked).min()).unwrap_or_default();
            let id = Consumer { stream: id, uplink: UplinkId::NONE };
            self.add_consumer(stream, no, Some(id), UplinkNo(0), acked);
            return;
        }
        for uplink in &spec.uplinks {
            let Some(uplink_no) = self.catalog.uplinks.get(usize::from(uplink.0)).copied() else { continue };
            let known = remembered.cursors.get(&(no, uplink_no)).copied();
            // Nobody in particular began where the last of them stood. It may have been given something up since: that is
            // counted, and must not be delivered as well.
            let acked = known.max(waiting).unwrap_or_default();
            self.add_consumer(stream, no, Some(Consumer { stream: id, uplink: *uplink }), uplink_no, acked);
        }
        if waiting.is_some() {
            opening.views.push((keys::cursor(no, UplinkNo(0)), None));
        }
    }

    fn add_orphans(&mut self, no: StreamNo, remembered: &Remembered) {
        let Some(stream) = self.catalog.by_no.get(&no).copied() else { return };
        let cursors: Vec<(UplinkNo, Position)> = remembered
            .cursors
            .range((no, UplinkNo(0))..=(no, UplinkNo(u32::MAX)))
            .map(|((_, uplink), acked)| (*uplink, *acked))
            .collect();
        let cursors = if cursors.is_empty() { vec![(UplinkNo(0), Position::ZERO)] } else { cursors };
        for (uplink, acked) in cursors {
            self.add_consumer(stream, no, None, uplink, acked);
        }
    }

    fn add_consumer(
        &mut self,
        stream: usize,
        stream_no: StreamNo,
        id: Option<Consumer>,
        uplink: UplinkNo,
        acked: Position,
    ) {
        let idx = self.catalog.consumers.len();
        self.catalog.consumers.push(ConsumerState { id, stream, ..consumer_at(stream_no, uplink, acked) });
        if let Some(stream) = self.catalog.streams.get_mut(stream) {
            stream.consumers.push(idx);
        }
    }

    pub(super) fn count_backlogs(&mut self) -> Result<(), BackingError> {
        self.counted_extents.clear();
        for idx in 0..self.catalog.consumers.len() {
            let Some(consumer) = self.catalog.consumer(idx) else { continue };
            if consumer.is_vacant() {
                continue;
            }
            let (stream, acked, until) = (consumer.stream_no, consumer.acked, consumer.until);
            let (events, bytes, oldest_ms) = self.count_waiting(stream, acked, until)?;
            if let Some(consumer) = self.catalog.consumer_mut(idx) {
                (consumer.events, consumer.bytes) = (events, bytes);
                consumer.forget_ahead();
                consumer.oldest_ms = oldest_ms;
            }
        }
        Ok(())
    }

    /// What waited in streams that the configuration no longer has. Their cursors move over it, and the one that a
    /// later uplink takes over too: should the name come back, what was counted is not delivered as well.
    fn give_up_removed_streams(&mut self) {
        let removed: Vec<usize> = (0..self.catalog.streams.len())
            .filter(|idx| self.catalog.stream(*idx).is_some_and(|s| s.spec.is_none()))
            .collect();
        for stream in removed {
            let Some(StreamState { no, newest, consumers, .. }) = self.catalog.stream(stream) else {
                continue;
            };
            let (no, newest, consumers) = (*no, *newest, consumers.clone());
            let mut given_up = Internal::default();
            for idx in consumers {
                let Some(consumer) = self.catalog.consumer_mut(idx).filter(|c| c.events > 0) else {
                    continue;
                };
                let (events, bytes) = (consumer.events, consumer.bytes);
                let range = Some((consumer.acked.next(), newest));
                let passed = Passed { events, bytes, range, oldest_ms: None };
                let uplink = consumer.uplink;
                given_up.losses.extend(loss_of(no, uplink, LossReason::StreamRemoved, &passed));
                given_up.cursors.push(consumer.cursor_entry(newest));
            }
            if !given_up.losses.is_empty() {
                given_up.cursors.push(CursorEntry { stream: no, uplink: UplinkNo(0), acked: newest });
                self.commit_internal(given_up);
            }
        }
    }

    /// Events, bytes and earliest receipt of a stream after a position: by the figures of what lies wholly after it.
    pub(super) fn count_after(
        &self,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let mut sum = (0, 0, None::<u64>);
        let mut add = |events: u64, bytes: u64, oldest: Option<u64>| {
            sum.0 += events;
            sum.1 += bytes;
            sum.2 = sum.2.or(oldest);
        };
        for generation in &self.generations {
            let Some(extent) = generation.extent(stream).filter(|e| e.last > after) else { continue };
            if extent.first > after {
                add(extent.events, extent.bytes, Some(extent.oldest_ms));
            } else {
                let mut generations = super::read::lock_generations(&self.shared_generations);
                let (events, bytes, oldest) = generations.count_after(generation.number, stream, after)?;
                add(events, bytes, oldest);
            }
        }
        for segment in self.segments.iter().filter(|s| !s.sealed) {
            let Some(extent) = segment.extent(stream).filter(|e| e.last > after) else { continue };
            if extent.first > after {
                add(extent.events, extent.bytes, Some(extent.oldest_ms));
            } else {
                let passed = self.survey(stream, after, extent.last)?;
                add(passed.events, passed.bytes, passed.oldest_ms);
            }
        }
        Ok(sum)
    }

    /// Generations that the views know and the disk has not: damaged ones that were moved aside.
    fn count_lost_generations(&mut self) -> Result<(), BackingError> {
        for (key, value) in scan_all(&*self.tables.views, &[keys::GENERATION])? {
            let Some(number) = key.get(1..9).and_then(|n| Reader::new(n).u64_be()) else { continue };
            if self.generations.iter().any(|g| g.number == number) {
                continue;
            }
            let extents: Vec<Extent> = decode_extents(&value).unwrap_or_default();
            // One that was finished and removed, and only not forgotten yet, nobody waits for.
            self.generation_missing(number, &extents);
        }
        Ok(())
    }
}
