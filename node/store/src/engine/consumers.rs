//! Another set of streams and consumers, between two commits (docs/adr/0009).
//!
//! The set is not a thing of its own on disk: what a start finds are names and cursors, and it makes the set from them and
//! from its spec. So a change is one commit of the store's own that leaves exactly what a start with the new spec would go
//! on from: names and cursors of what is new, no cursor where nobody reads any more, and a line in the ledger for what was
//! given up (P2). Memory follows when it is durable; until then nothing has changed.
//!
//! One that is to be drained keeps its cursor and gets a last position beside it ([`keys::leaving`]). No drain outlives the
//! process, because the way up is only known to the configuration that had it: a start hands what is left to whoever takes
//! the stream over, or counts it.

use super::ahead::Ahead;
use super::catalog::{ConsumerState, StreamState, Tentative};
use super::open::Remembered;
use super::{Engine, Internal, keys};
use crate::backing::{BackingError, Extent, StreamNo};
use crate::journal::frame::{LossEntry, UplinkNo};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Consumer, LossReason, Reshape, ReshapeError, StoreSpec, StreamId, StreamSpec, UplinkId,
};
use std::collections::HashSet;

/// A change whose commit is on its way: what becomes of memory when it is durable.
pub(crate) struct Reshaping {
    spec: StoreSpec,
    /// By [`UplinkId`].
    uplinks: Vec<UplinkNo>,
    /// By [`StreamId`]: its place in the catalog, or the number of one that is new.
    streams: Vec<Seat>,
    steps: Vec<Step>,
    /// Nobody else gives up for these until it is over.
    held: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Seat {
    Known(usize),
    New(StreamNo),
}

/// What happens to one consumer.
enum Step {
    /// It goes; what it left behind is counted, or was nothing.
    Go(usize),
    /// It takes what is there up to this position, and nothing later.
    Drain(usize, Position),
    /// It was to be drained, and stays.
    Stay(usize),
    /// It begins after a position, with what another one leaves to it.
    Begin { stream: StreamId, uplink: UplinkId, no: UplinkNo, after: Position, from: Option<usize> },
}

impl Engine {
    /// Plans a change and queues its commit. `None`: the store has something else to commit first, which may be about those
    /// who leave.
    pub(crate) fn begin_reshape(&mut self, change: &Reshape) -> Result<Option<Reshaping>, ReshapeError> {
        self.check_reshape(&change.spec)?;
        if self.has_internal() {
            return Ok(None);
        }
        let mut internal = Internal { reshape: true, ..Internal::default() };
        let uplinks = self.number_uplinks(&change.spec, &mut internal);
        let streams = self.seat_streams(&change.spec, &mut internal);
        let mut steps = Vec::new();
        for (index, (spec, seat)) in change.spec.streams.iter().zip(&streams).enumerate() {
            let id = StreamId(u16::try_from(index).unwrap_or(u16::MAX));
            self.plan_seat(id, spec, *seat, &uplinks, change, &mut steps, &mut internal)?;
        }
        let leaving = steps.iter().filter_map(|step| match step {
            Step::Go(idx) | Step::Drain(idx, _) | Step::Stay(idx) => Some(*idx),
            Step::Begin { from, .. } => *from,
        });
        let held: Vec<usize> = leaving.filter(|idx| !self.given_up.contains(idx)).collect();
        self.given_up.extend(&held);
        self.commit_internal(internal);
        Ok(Some(Reshaping { spec: change.spec.clone(), uplinks, streams, steps, held }))
    }

    /// True while its commit is not durable.
    pub(crate) fn is_reshaping(&self) -> bool {
        self.internal.iter().any(|internal| internal.reshape)
    }

    /// Its commit failed: it is as if nobody had asked.
    pub(crate) fn withdraw(&mut self, change: &Reshaping) {
        self.internal.retain(|internal| !internal.reshape);
        self.release(change);
    }

    /// Its commit is durable.
    pub(crate) fn end_reshape(&mut self, change: Reshaping) {
        self.release(&change);
        let Reshaping { spec, uplinks, streams, steps, .. } = change;
        for (seat, spec) in streams.into_iter().zip(&spec.streams) {
            self.seat(seat, spec);
        }
        let names = uplinks.iter().zip(&spec.uplinks).map(|(no, name)| (*no, name.clone()));
        self.catalog.uplink_names.extend(names);
        self.catalog.uplinks = uplinks;
        self.spec = spec;
        // Who begins takes over the figures of who goes.
        let (begin, rest): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(|step| matches!(step, Step::Begin { .. }));
        begin.into_iter().chain(rest).for_each(|step| self.step_of_reshape(step));
        let catalog = &self.catalog;
        self.absent.retain(|(no, _)| catalog.consumer_by_no(*no, UplinkNo(0)).is_some());
    }

    fn release(&mut self, change: &Reshaping) {
        for idx in &change.held {
            self.given_up.remove(idx);
        }
    }

    /// Numbers are the caller's names for things: none may suddenly mean another.
    fn check_reshape(&self, spec: &StoreSpec) -> Result<(), ReshapeError> {
        crate::assemble::check_spec(spec).map_err(|error| ReshapeError::Spec(error.to_string()))?;
        let wrong = |what: &str| Err(ReshapeError::Spec(what.to_owned()));
        let kept = self.spec.streams.iter().zip(&spec.streams).all(|(old, new)| old.name == new.name);
        if !kept || spec.streams.len() < self.spec.streams.len() {
            return wrong("the streams that are there must stay where they are");
        }
        if !spec.uplinks.starts_with(&self.spec.uplinks) {
            return wrong("the uplinks that are there must stay where they are");
        }
        let limits = |spec: &StoreSpec| {
            (spec.disk_max, spec.mailbox_max_bytes, spec.mailbox_max_events, spec.mailboxes_max_bytes)
        };
        if limits(spec) != limits(&self.spec) {
            return wrong("disk_max and the limits of mailboxes cannot change while the store is open");
        }
        Ok(())
    }

    fn number_uplinks(&self, spec: &StoreSpec, internal: &mut Internal) -> Vec<UplinkNo> {
        let mut uplinks = self.catalog.uplinks.clone();
        let mut next = self.catalog.uplink_names.keys().map(|no| no.0 + 1).max().unwrap_or(1);
        for name in spec.uplinks.iter().skip(uplinks.len()) {
            let known = self.catalog.uplink_names.iter().find(|(_, known)| *known == name);
            let no = known.map_or(UplinkNo(next), |(no, _)| *no);
            next = next.max(no.0 + 1);
            internal.views.push((keys::uplink(no), Some(Bytes::copy_from_slice(name.as_bytes()))));
            uplinks.push(no);
        }
        uplinks
    }

    fn seat_streams(&self, spec: &StoreSpec, internal: &mut Internal) -> Vec<Seat> {
        let mut seats: Vec<Seat> = self.catalog.configured.iter().map(|idx| Seat::Known(*idx)).collect();
        let mut next = self.catalog.by_no.keys().map(|no| no.0 + 1).max().unwrap_or(1);
        for stream in spec.streams.iter().skip(seats.len()) {
            if let Some(idx) = self.catalog.streams.iter().position(|known| known.name == stream.name) {
                seats.push(Seat::Known(idx));
                continue;
            }
            let no = StreamNo(next);
            next += 1;
            internal.views.push((keys::stream(no), Some(new_stream(no, stream).encode())));
            seats.push(Seat::New(no));
        }
        seats
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one stream of a plan; a struct of these would have no other use"
    )]
    fn plan_seat(
        &self,
        id: StreamId,
        spec: &StreamSpec,
        seat: Seat,
        uplinks: &[UplinkNo],
        change: &Reshape,
        steps: &mut Vec<Step>,
        internal: &mut Internal,
    ) -> Result<(), ReshapeError> {
        let number = |uplink: &UplinkId| uplinks.get(usize::from(uplink.0)).map(|no| (*uplink, *no));
        let mut wanted: Vec<(UplinkId, UplinkNo)> = spec.uplinks.iter().filter_map(number).collect();
        if wanted.is_empty() {
            wanted.push((UplinkId::NONE, UplinkNo(0)));
        }
        let known = match seat {
            Seat::Known(idx) => self.catalog.stream(idx),
            Seat::New(_) => None,
        };
        let (no, newest) = match (seat, known) {
            (Seat::New(no), _) => (no, Position::ZERO),
            (Seat::Known(_), known) => known.map_or((StreamNo(0), Position::ZERO), |s| (s.no, s.newest)),
        };
        let there = known.map(|stream| stream.consumers.as_slice()).unwrap_or_default();
        let there: Vec<(usize, &ConsumerState)> =
            there.iter().filter_map(|idx| Some((*idx, self.catalog.consumer(*idx)?))).collect();
        for (idx, consumer) in &there {
            let stays = wanted.iter().any(|(_, no)| *no == consumer.uplink);
            match (stays, consumer.until) {
                (true, None) => {}
                (true, Some(_)) => {
                    internal.views.push((keys::leaving(no, consumer.uplink), None));
                    steps.push(Step::Stay(*idx));
                }
                (false, _) => self.plan_farewell(*idx, consumer, change, steps, internal)?,
            }
        }
        let waiting = there.iter().find(|(_, consumer)| consumer.uplink == UplinkNo(0));
        if waiting.is_some() && !wanted.iter().any(|(_, no)| *no == UplinkNo(0)) {
            // What they left goes to those who begin. Whoever of them comes back begins there as well.
            let absent = self.absent.iter().filter(|(stream, _)| *stream == no);
            internal.views.extend(absent.map(|(stream, uplink)| (keys::cursor(*stream, *uplink), None)));
        }
        for (uplink, uplink_no) in wanted {
            if there.iter().any(|(_, consumer)| consumer.uplink == uplink_no) {
                continue;
            }
            let after = waiting.map_or(newest, |(_, consumer)| consumer.acked);
            internal.views.push((keys::cursor(no, uplink_no), Some(keys::position(after))));
            let from = waiting.map(|(idx, _)| *idx);
            steps.push(Step::Begin { stream: id, uplink, no: uplink_no, after, from });
        }
        Ok(())
    }

    /// One that is not wanted any more.
    fn plan_farewell(
        &self,
        idx: usize,
        consumer: &ConsumerState,
        change: &Reshape,
        steps: &mut Vec<Step>,
        internal: &mut Internal,
    ) -> Result<(), ReshapeError> {
        let end = self.catalog.end_of(consumer);
        let key = (consumer.stream_no, consumer.uplink);
        // What waited for no uplink in particular goes to the one that begins, and orphans have nothing.
        let id = consumer.id.filter(|id| id.uplink != UplinkId::NONE && consumer.events > 0);
        if let Some(id) = id {
            if change.drain.contains(&id) {
                internal.views.push((keys::leaving(key.0, key.1), Some(keys::position(end))));
                steps.push(Step::Drain(idx, end));
                return Ok(());
            }
            if !change.drop.contains(&id) {
                return Err(ReshapeError::Waiting { consumer: id, events: consumer.events });
            }
            internal.losses.push(LossEntry {
                stream: key.0,
                uplink: key.1,
                reason: LossReason::StreamRemoved,
                events: consumer.events,
                bytes: consumer.bytes,
                first: consumer.acked.next(),
                last: end,
            });
        }
        internal.views.push((keys::cursor(key.0, key.1), None));
        internal.views.push((keys::leaving(key.0, key.1), None));
        steps.push(Step::Go(idx));
        Ok(())
    }

    fn seat(&mut self, seat: Seat, spec: &StreamSpec) {
        let idx = match seat {
            Seat::Known(idx) => idx,
            Seat::New(no) => {
                let idx = self.catalog.streams.len();
                self.catalog.by_no.insert(no, idx);
                self.catalog.streams.push(new_stream(no, spec));
                idx
            }
        };
        if !self.catalog.configured.contains(&idx) {
            self.catalog.configured.push(idx);
        }
        if let Some(stream) = self.catalog.streams.get_mut(idx) {
            stream.spec = Some(spec.clone());
        }
    }

    fn step_of_reshape(&mut self, step: Step) {
        match step {
            Step::Go(idx) => self.vacate(idx),
            Step::Drain(idx, until) => {
                if let Some(consumer) = self.catalog.consumer_mut(idx) {
                    consumer.until = Some(until);
                }
            }
            Step::Stay(idx) => self.stay(idx),
            Step::Begin { stream, uplink, no, after, from } => {
                self.begin_consumer(stream, uplink, no, after, from)
            }
        }
    }

    /// Its place in the catalog is not given to another: somebody may still hold the index.
    fn vacate(&mut self, idx: usize) {
        for stream in &mut self.catalog.streams {
            stream.consumers.retain(|consumer| *consumer != idx);
        }
        if let Some(consumer) = self.catalog.consumer_mut(idx) {
            *consumer = ConsumerState {
                stream: usize::MAX,
                ..consumer_at(StreamNo(0), UplinkNo(0), Position(u64::MAX))
            };
        }
    }

    fn stay(&mut self, idx: usize) {
        let Some(consumer) = self.catalog.consumer_mut(idx) else { return };
        consumer.until = None;
        let (stream, acked) = (consumer.stream_no, consumer.acked);
        match self.count_waiting(stream, acked, None) {
            Ok((events, bytes, oldest_ms)) => {
                if let Some(consumer) = self.catalog.consumer_mut(idx) {
                    (consumer.events, consumer.bytes) = (events, bytes);
                    consumer.forget_ahead();
                    consumer.oldest_ms = oldest_ms;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what waits for an uplink cannot be counted and may be more")
            }
        }
    }

    fn begin_consumer(
        &mut self,
        stream: StreamId,
        uplink: UplinkId,
        no: UplinkNo,
        after: Position,
        from: Option<usize>,
    ) {
        let Some(stream_idx) = self.catalog.stream_idx(stream) else { return };
        let Some(stream_no) = self.catalog.stream(stream_idx).map(|s| s.no) else { return };
        let mut consumer = ConsumerState {
            id: Some(Consumer { stream, uplink }),
            stream: stream_idx,
            ..consumer_at(stream_no, no, after)
        };
        if let Some(before) = from.and_then(|idx| self.catalog.consumer(idx)) {
            // It may have been given something up since the plan was made: then it stands further on.
            (consumer.acked, consumer.events, consumer.bytes) = (before.acked, before.events, before.bytes);
            consumer.forget_ahead();
            consumer.oldest_ms = before.oldest_ms;
        }
        let idx = self.catalog.consumers.len();
        self.catalog.consumers.push(consumer);
        if let Some(stream) = self.catalog.streams.get_mut(stream_idx) {
            stream.consumers.push(idx);
        }
    }

    /// What waits behind a cursor, but not beyond `until`.
    pub(super) fn count_waiting(
        &self,
        stream: StreamNo,
        acked: Position,
        until: Option<Position>,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let (events, bytes, oldest_ms) = self.count_after(stream, acked)?;
        let Some(until) = until else { return Ok((events, bytes, oldest_ms)) };
        let (later_events, later_bytes, _) = self.count_after(stream, until.max(acked))?;
        let events = events.saturating_sub(later_events);
        Ok((events, bytes.saturating_sub(later_bytes), oldest_ms.filter(|_| events > 0)))
    }

    /// At a start: what waits for uplinks that do not read their stream any more. Where another consumer has taken it over
    /// it goes there; else it is counted. In both cases they are forgotten, or the next start would count what others got. Only
    /// while nobody reads the stream their cursors stay, for they may come back.
    pub(super) fn give_up_gone_consumers(&mut self, remembered: &Remembered) -> Result<(), BackingError> {
        let mut farewell = Internal::default();
        for key in remembered.leaving.keys() {
            farewell.views.push((keys::leaving(key.0, key.1), None));
        }
        for stream in self.catalog.streams.iter().filter(|stream| stream.spec.is_some()) {
            let readers: HashSet<UplinkNo> = stream
                .consumers
                .iter()
                .filter_map(|idx| self.catalog.consumer(*idx))
                .map(|consumer| consumer.uplink)
                .collect();
            let is_known = |no: &UplinkNo| remembered.cursors.contains_key(&(stream.no, *no));
            let taken_over = readers.contains(&UplinkNo(0)) || !readers.iter().all(is_known);
            for ((_, uplink), acked) in remembered.of_stream(stream.no) {
                if *uplink == UplinkNo(0) || readers.contains(uplink) {
                    continue;
                }
                let until = remembered.leaving.get(&(stream.no, *uplink)).copied();
                let (events, bytes, _) = self.count_waiting(stream.no, *acked, until)?;
                if taken_over && until.is_none() {
                    if readers.contains(&UplinkNo(0)) {
                        self.absent.push((stream.no, *uplink));
                    } else {
                        self.superseded.push(keys::cursor(stream.no, *uplink));
                    }
                    continue;
                }
                farewell.views.push((keys::cursor(stream.no, *uplink), None));
                if events > 0 && !taken_over {
                    let last = until.map_or(stream.newest, |until| until.min(stream.newest));
                    farewell.losses.push(gone(stream.no, *uplink, (events, bytes), (acked.next(), last)));
                    let uplink = self.catalog.uplink_names.get(uplink).cloned().unwrap_or_default();
                    tracing::warn!(stream = %stream.name, %uplink, events, "uplink is not in the configuration any more: what waited for it is counted as lost");
                }
            }
        }
        if !farewell.views.is_empty() {
            self.commit_internal(farewell);
        }
        Ok(())
    }
}

fn gone(
    stream: StreamNo,
    uplink: UplinkNo,
    (events, bytes): (u64, u64),
    range: (Position, Position),
) -> LossEntry {
    let (first, last) = range;
    LossEntry {
        stream,
        uplink,
        reason: LossReason::StreamRemoved,
        events,
        bytes,
        first,
        last: last.max(first),
    }
}

fn new_stream(no: StreamNo, spec: &StreamSpec) -> StreamState {
    StreamState {
        no,
        name: Text::clone(&spec.name),
        spec: Some(spec.clone()),
        newest: Position::ZERO,
        dirty: false,
        consumers: Vec::new(),
    }
}

/// One with nothing behind its cursor.
pub(super) fn consumer_at(stream_no: StreamNo, uplink: UplinkNo, acked: Position) -> ConsumerState {
    ConsumerState {
        id: None,
        stream: 0,
        stream_no,
        uplink,
        acked,
        until: None,
        events: 0,
        bytes: 0,
        ahead: Ahead::empty(),
        oldest_ms: None,
        place: None,
        ahead_place: None,
        tentative: Tentative::default(),
        refused: false,
    }
}

impl super::catalog::Catalog {
    /// The last position that a consumer is to get: that of its stream, unless it is being drained.
    pub(super) fn end_of(&self, consumer: &ConsumerState) -> Position {
        let newest = self.stream(consumer.stream).map_or(Position::ZERO, |stream| stream.newest);
        consumer.until.map_or(newest, |until| until.min(newest))
    }

    /// True if some configured consumer still waits for an event of the extent.
    pub(crate) fn needs(&self, extent: &Extent) -> bool {
        let stream = self.stream_by_no(extent.stream).filter(|stream| stream.spec.is_some());
        let consumers = stream.map(|stream| stream.consumers.as_slice()).unwrap_or_default();
        consumers.iter().filter_map(|idx| self.consumer(*idx)).any(|consumer| consumer.waits_for(extent))
    }
}

impl ConsumerState {
    /// True if something of the extent may be waiting.
    pub(super) fn waits_for(&self, extent: &Extent) -> bool {
        self.acked < extent.last && self.until.is_none_or(|until| extent.first <= until)
    }

    /// Nobody: its place is only kept.
    pub(super) fn is_vacant(&self) -> bool {
        self.stream == usize::MAX
    }
}
