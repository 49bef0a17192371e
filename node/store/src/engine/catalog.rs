//! Streams and consumers: what the configuration names, what the directory remembers, and what waits for each.

use super::ahead::{Ahead, Mark, Passed};
use crate::backing::StreamNo;
use crate::journal::frame::{CursorEntry, UplinkNo};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::store::{Backlog, Consumer, StreamId, StreamSpec, UplinkId};
use std::collections::HashMap;

/// A stream, configured or only remembered.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) no: StreamNo,
    pub(crate) name: Text,
    /// `None`: no longer in the configuration.
    pub(crate) spec: Option<StreamSpec>,
    pub(crate) newest: Position,
    /// `newest` is later than its view entry.
    pub(crate) dirty: bool,
    /// Configured ones; for a stream that is no longer configured, the ones that had not finished.
    pub(crate) consumers: Vec<usize>,
}

impl StreamState {
    /// Its view entry.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.name.len());
        out.extend_from_slice(&self.newest.0.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        Bytes::from(out)
    }
}

/// Where a consumer's next read starts in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// The read that it serves is the one after this position.
    pub(crate) after: Position,
}

/// What the group being written will change, if it becomes durable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tentative {
    pub(crate) added_bytes: u64,
    /// Given up, or acknowledged, by commits of the group.
    pub(crate) freed_bytes: u64,
    /// How many marks of [`ConsumerState::ahead`], and then of the group, the drops have used up.
    pub(crate) ahead_used: usize,
    pub(crate) group_used: usize,
}

/// One (stream, uplink) pair.
#[derive(Debug)]
pub(crate) struct ConsumerState {
    /// In indices of the configuration; `None` for one that is only remembered.
    pub(crate) id: Option<Consumer>,
    pub(crate) stream: usize,
    pub(crate) stream_no: StreamNo,
    pub(crate) uplink: UplinkNo,
    pub(crate) acked: Position,
    /// It is being drained: nothing later is for it.
    pub(crate) until: Option<Position>,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) ahead: Ahead,
    /// Receipt of the oldest event, where no mark tells.
    pub(crate) oldest_ms: Option<u64>,
    pub(crate) place: Option<Place>,
    /// The same for [`ConsumerState::ahead`].
    pub(crate) ahead_place: Option<Place>,
    pub(crate) tentative: Tentative,
    /// A commit was refused for want of room here.
    pub(crate) refused: bool,
}

impl ConsumerState {
    /// Stored bytes waiting, the group being written included.
    pub(crate) fn used(&self) -> u64 {
        (self.bytes + self.tentative.added_bytes).saturating_sub(self.tentative.freed_bytes)
    }

    /// What was marked may not be there any more.
    pub(crate) fn forget_ahead(&mut self) {
        self.ahead = if self.events == 0 { Ahead::empty() } else { Ahead::unknown(self.acked) };
        (self.place, self.ahead_place, self.oldest_ms) = (None, None, None);
    }

    pub(crate) fn appended(&mut self, mark: &Mark) {
        if mark.position > self.acked && self.until.is_none() {
            self.events += 1;
            self.bytes += u64::from(mark.bytes);
            self.ahead.appended(*mark);
        }
    }

    /// Moves the cursor over what [`ConsumerState::ahead`] knows; what lies beyond must have been added to it before.
    pub(crate) fn pass(&mut self, to: Position, newest: Position) -> Passed {
        let passed = self.ahead.pass(to);
        self.acked = self.acked.max(to);
        self.events = self.events.saturating_sub(passed.events);
        self.bytes = self.bytes.saturating_sub(passed.bytes);
        if passed.events > 0 {
            self.oldest_ms = None;
        }
        if self.acked >= newest {
            // Nothing waits, whatever damage made the figures drift.
            self.events = 0;
            self.bytes = 0;
            self.oldest_ms = None;
            self.ahead = Ahead::empty();
        }
        passed
    }

    pub(crate) fn cursor_entry(&self, acked: Position) -> CursorEntry {
        CursorEntry { stream: self.stream_no, uplink: self.uplink, acked }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) streams: Vec<StreamState>,
    pub(crate) consumers: Vec<ConsumerState>,
    /// By [`StreamId`].
    pub(crate) configured: Vec<usize>,
    /// By [`UplinkId`].
    pub(crate) uplinks: Vec<UplinkNo>,
    pub(crate) by_no: HashMap<StreamNo, usize>,
    /// Configured and remembered ones.
    pub(crate) uplink_names: HashMap<UplinkNo, Text>,
}

impl Catalog {
    pub(crate) fn stream_idx(&self, id: StreamId) -> Option<usize> {
        self.configured.get(usize::from(id.0)).copied()
    }

    pub(crate) fn stream(&self, idx: usize) -> Option<&StreamState> {
        self.streams.get(idx)
    }

    pub(crate) fn stream_by_no(&self, no: StreamNo) -> Option<&StreamState> {
        self.streams.get(*self.by_no.get(&no)?)
    }

    pub(crate) fn consumer_idx(&self, id: Consumer) -> Option<usize> {
        let stream = self.streams.get(self.stream_idx(id.stream)?)?;
        stream
            .consumers
            .iter()
            .copied()
            .find(|idx| self.consumers.get(*idx).is_some_and(|c| c.id == Some(id)))
    }

    pub(crate) fn consumer_by_no(&self, stream: StreamNo, uplink: UplinkNo) -> Option<usize> {
        self.consumers.iter().position(|c| c.stream_no == stream && c.uplink == uplink)
    }

    pub(crate) fn consumer(&self, idx: usize) -> Option<&ConsumerState> {
        self.consumers.get(idx)
    }

    pub(crate) fn consumer_mut(&mut self, idx: usize) -> Option<&mut ConsumerState> {
        self.consumers.get_mut(idx)
    }

    /// Durable numbers of a pair from the caller; `None` if the configuration does not have it.
    pub(crate) fn numbers(&self, id: Consumer) -> Option<(StreamNo, UplinkNo)> {
        let stream = self.streams.get(self.stream_idx(id.stream)?)?.no;
        if id.uplink == UplinkId::NONE {
            return Some((stream, UplinkNo(0)));
        }
        Some((stream, *self.uplinks.get(usize::from(id.uplink.0))?))
    }

    /// The pair in the caller's indices, if it has both.
    pub(crate) fn id_of(&self, stream: StreamNo, uplink: UplinkNo) -> Option<Consumer> {
        let stream_idx = *self.by_no.get(&stream)?;
        let stream = self.configured.iter().position(|idx| *idx == stream_idx)?;
        let stream = StreamId(u16::try_from(stream).ok()?);
        if uplink.0 == 0 {
            return Some(Consumer { stream, uplink: UplinkId::NONE });
        }
        let uplink = self.uplinks.iter().position(|no| *no == uplink)?;
        Some(Consumer { stream, uplink: UplinkId(u16::try_from(uplink).ok()?) })
    }

    /// A new event of a stream became durable.
    pub(crate) fn appended(&mut self, stream: usize, mark: &Mark) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        stream.newest = stream.newest.max(mark.position);
        stream.dirty = true;
        for idx in &stream.consumers {
            if let Some(consumer) = self.consumers.get_mut(*idx) {
                consumer.appended(mark);
            }
        }
    }

    /// The lowest cursor of a stream's consumers: what is not after it, nobody needs.
    pub(crate) fn lowest_cursor(&self, no: StreamNo) -> Option<Position> {
        let stream = self.stream_by_no(no)?;
        stream.spec.as_ref()?;
        stream.consumers.iter().filter_map(|idx| self.consumers.get(*idx)).map(|c| c.acked).min()
    }

    pub(crate) fn backlog(&self, id: Consumer) -> Backlog {
        let Some(consumer) = self.consumer_idx(id).and_then(|idx| self.consumers.get(idx)) else {
            return Backlog::default();
        };
        let oldest_ms = consumer.ahead.first().map(|mark| mark.received_ms).or(consumer.oldest_ms);
        Backlog {
            events: consumer.events,
            bytes: consumer.bytes,
            oldest: oldest_ms.filter(|_| consumer.events > 0).map(Timestamp),
            acked: consumer.acked,
            newest: self.end_of(consumer),
        }
    }
}
