//! Damage is counted once, however often the node starts and whoever reads it again while it is still there: what was counted
//! is noted in the views, in the commit that counts it.
//!
//! What is gone is known by what stands on both sides. Commits are numbered without a hole, and each header has the first
//! number of its segment; positions have none within an epoch. What the last event of an earlier epoch was says the first
//! frame of the segment behind it ([`keys::LAST`]). At the very end of the journal nothing stands behind: there a group
//! that does not check is taken for one that was being written (and told of as such: the start is not clean), unless the
//! views have commits that the journal has not. They take only what was synced.

use super::segments::Segment;
use super::tables::scan_all;
use super::{Engine, Internal, keys};
use crate::backing::{BackingError, Extent, Lsn, StreamNo};
use crate::codec::Reader;
use crate::journal::frame::{Change, Frame, Item, LossEntry, UplinkNo};
use crate::journal::reader::Gap;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::LossReason;

/// No record is shorter: bounds what a segment of which nothing is known may have held.
const RECORD_BYTES_MIN: u32 = 32;

/// What the first frame of a segment says: the last position that was durable then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) position: Position,
    /// Earlier versions of the program said only the last of each stream: there may have been later ones, of no stream.
    pub(crate) is_exact: bool,
}

pub(super) fn noted_in(frame: &Frame<'_>) -> Option<Noted> {
    let changes = frame.items().filter_map(|item| match item {
        Ok(Item::Change(Change::View { key, value })) => Some((key, value)),
        _ => None,
    });
    let is_one = |key: &[u8]| key == keys::LAST || key.first() == Some(&keys::STREAM);
    let of = |(key, value): (&[u8], &[u8])| Some((Position(Reader::new(value).u64_be()?), key == keys::LAST));
    let noted: Vec<(Position, bool)> = changes.filter(|(key, _)| is_one(key)).filter_map(of).collect();
    let position = noted.iter().map(|(position, _)| *position).max()?;
    Some(Noted { position, is_exact: noted.iter().any(|(_, is_last)| *is_last) })
}

/// Positions from `first` to `last`; none across epochs.
fn span(first: Position, last: Position) -> u64 {
    if first.epoch() == last.epoch() { (last.0 + 1).saturating_sub(first.0) } else { 0 }
}

/// The first position of its epoch.
fn epoch_of(position: Position) -> Position {
    Position(position.0 - position.counter() + 1)
}

impl Engine {
    /// A stretch of a segment that does not check.
    pub(super) fn count_gap(&mut self, number: u32, gap: &Gap) {
        let Some(at) = self.segments.iter().position(|s| s.number() == number) else { return };
        let Some(segment) = self.segments.get_mut(at) else { return };
        if segment.counted_gaps.contains(&gap.from) {
            return;
        }
        segment.counted_gaps.push(gap.from);
        let (before_lsn, first) = gap.before;
        let (after_lsn, after) = gap.after.unwrap_or_else(|| self.behind(at, gap.before));
        let last = Position(after.0.saturating_sub(1)).max(first);
        let commits = after_lsn.0.saturating_sub(before_lsn.0 + 1);
        let events = after.0.saturating_sub(first.0);
        let bytes = u64::from(gap.to - gap.from);
        if self.lose_damaged((number, gap.from), events, bytes, (first, last)) {
            let (from, to) = (gap.from, gap.to);
            tracing::error!(
                segment = number,
                from,
                to,
                commits,
                events,
                "journal is damaged here, counted as lost"
            );
        }
    }

    /// First commit and first position behind the end of a segment, whose last whole ones are before `first`.
    fn behind(&self, at: usize, (before, first): (Lsn, Position)) -> (Lsn, Position) {
        if let Some(next) = self.segments.get(at + 1) {
            let commits = next.first_lsn.0.saturating_sub(before.0 + 1);
            return (next.first_lsn, self.last_before(next, first, commits).next().max(first));
        }
        let last = self.segments.get(at).map(|s| (s.last_lsn, s.last_position));
        let (lsn, position) = last.unwrap_or_default();
        (Lsn(lsn.0 + 1), position.next().max(first))
    }

    /// The last position that was durable before a segment began: its first frame knows. Where that is gone: the last that
    /// was given out, which its header knows within an epoch (a group that failed has some of them, and they are not lost:
    /// its senders were told). Else what the views know of the epoch of `first`, or one event per commit.
    fn last_before(&self, next: &Segment, first: Position, commits: u64) -> Position {
        let begins = next.source.base.first_position;
        let exact = next.noted.filter(|noted| noted.is_exact).map(|noted| noted.position);
        if let Some(exact) = exact {
            return exact;
        }
        if begins.counter() > 1 {
            return Position(begins.0 - 1);
        }
        let newest = self.catalog.streams.iter().map(|stream| stream.newest);
        // What was found in front of the damage says nothing of what stood in it.
        let of_epoch = || newest.filter(|newest| newest.epoch() == first.epoch() && *newest >= first).max();
        let noted = next.noted.map(|noted| noted.position);
        noted.or_else(of_epoch).unwrap_or(Position((first.0 + commits).saturating_sub(1)))
    }

    /// Segments whose headers are gone. Each belongs to one epoch, and its neighbours are there.
    pub(super) fn count_unreadable(&mut self, numbers: &[u32]) {
        for number in numbers {
            let Some(at) = self.segments.iter().position(|s| s.number() > *number) else { continue };
            let (events, range) = self.lost_between(at);
            let bytes = u64::from(self.limits.segment_bytes);
            if self.lose_damaged((*number, 0), events, bytes, range) {
                tracing::error!(segment = number, events, "journal segment is unreadable, counted as lost");
            }
        }
    }

    /// What stood between the segment at `at` and the one before it.
    fn lost_between(&self, at: usize) -> (u64, (Position, Position)) {
        let Some(next) = self.segments.get(at) else { return Default::default() };
        let before = at.checked_sub(1).and_then(|before| self.segments.get(before));
        let waits = |consumer: &&super::catalog::ConsumerState| {
            self.catalog.stream(consumer.stream).is_some_and(|stream| stream.newest > consumer.acked)
        };
        let lowest = || self.catalog.consumers.iter().filter(waits).map(|c| c.acked.next()).min();
        // With nothing in front of it, only what somebody still waits for can be missing.
        let first = before.map(|before| before.last_position.next()).or_else(lowest);
        let Some(first) = first else { return Default::default() };
        let commits = before.map_or(1, |before| next.first_lsn.0.saturating_sub(before.last_lsn.0 + 1));
        let last = self.last_before(next, first, commits);
        let first = if first.epoch() < last.epoch() { first.max(epoch_of(last)) } else { first };
        let most = match before {
            Some(_) => u64::MAX,
            None => u64::from(self.limits.segment_bytes / RECORD_BYTES_MIN),
        };
        (span(first, last).min(most), (first, last.max(first)))
    }

    /// The last position that is found anywhere.
    pub(super) fn last_found(&self) -> (Lsn, Position) {
        let spilled = self.generations.iter().flat_map(|g| &g.extents).map(|extent| extent.last);
        let journal = self.segments.iter().map(|segment| segment.last_position);
        let lsn = self.segments.iter().map(|segment| segment.last_lsn).max().unwrap_or_default();
        (lsn, spilled.chain(journal).max().unwrap_or_default())
    }

    /// Commits at the end that the views have and the journal has not. Returns where they stood.
    pub(super) fn count_end(
        &mut self,
        applied: Lsn,
        (lsn, found): (Lsn, Position),
        noted: Option<Position>,
    ) -> Option<(u32, Gap)> {
        if applied <= lsn {
            return None;
        }
        let end = self.journal_end();
        let last = noted.unwrap_or_default();
        let first = if found.epoch() < last.epoch() { epoch_of(last) } else { found.next() };
        let events = span(first, last);
        let gap = Gap { from: end.1, to: end.1, before: (lsn, first), after: None };
        if self.lose_damaged(end, events, 0, (first, last.max(first))) {
            let commits = applied.0 - lsn.0;
            tracing::error!(
                segment = end.0,
                commits,
                events,
                "the end of the journal is gone, counted as lost"
            );
        }
        Some((end.0, gap))
    }

    /// Counts what stood in a segment from an offset on, unless an earlier start has; true if it was counted now.
    pub(super) fn lose_damaged(
        &mut self,
        (segment, from): (u32, u32),
        events: u64,
        bytes: u64,
        range: (Position, Position),
    ) -> bool {
        let key = keys::counted(segment, from);
        if self.is_counted(&key) {
            return false;
        }
        let loss = LossEntry {
            stream: StreamNo(0),
            uplink: UplinkNo(0),
            reason: LossReason::Damaged,
            events,
            bytes,
            first: range.0,
            last: range.1,
        };
        let views = vec![(key, Some(Bytes::new()))];
        // What held no event is state: it is told of, and the ledger is of events.
        let losses = if events > 0 { vec![loss] } else { Vec::new() };
        self.commit_internal(Internal { views, losses, ..Internal::default() });
        true
    }

    /// Where the views cannot be read, twice is better than never (P2).
    fn is_counted(&self, key: &Bytes) -> bool {
        self.tables.views.get(key).is_ok_and(|noted| noted.is_some())
    }

    /// Damaged chunks of a generation whose other chunks can be read: a consumer may come by again, after an error of its
    /// uplink or a start, for as long as its cursor is in front of them.
    pub(super) fn count_extent(&mut self, idx: usize, extent: &Extent) {
        let catalog = &self.catalog;
        self.counted_extents.retain(|(idx, last)| catalog.consumer(*idx).is_some_and(|c| c.acked < *last));
        let Some(consumer) = self.catalog.consumer_mut(idx).filter(|c| extent.last > c.acked) else { return };
        // Its figures are right already.
        if !self.counted_extents.insert((idx, extent.last)) {
            return;
        }
        consumer.events = consumer.events.saturating_sub(extent.events);
        consumer.bytes = consumer.bytes.saturating_sub(extent.bytes);
        let note = keys::counted_extent(consumer.stream_no, consumer.uplink, extent.last);
        if !self.is_counted(&note) {
            self.lose_extent(idx, extent, (extent.events, extent.bytes), Some(note));
        }
    }

    /// Whether something that was counted can still be met.
    fn can_be_met(&self, counted: &[u8], unreadable: &[u32]) -> bool {
        let mut reader = Reader::new(counted.get(1..).unwrap_or_default());
        let (Some(number), Some(other)) = (reader.u32_be(), reader.u32_be()) else { return false };
        let Some(last) = reader.u64_be() else {
            return unreadable.contains(&number) || self.segments.iter().any(|s| s.number() == number);
        };
        let consumer = self.catalog.consumer_by_no(StreamNo(number), UplinkNo(other));
        consumer.and_then(|idx| self.catalog.consumer(idx)).is_some_and(|c| c.acked < Position(last))
    }

    /// Notes about what is gone go too.
    pub(super) fn forget_counted(&mut self, unreadable: &[u32]) -> Result<(), BackingError> {
        let mut gone = Vec::new();
        for (key, _) in scan_all(&*self.tables.views, &[keys::COUNTED])? {
            if !self.can_be_met(&key, unreadable) {
                gone.push((key, None));
            }
        }
        if !gone.is_empty() {
            self.commit_internal(Internal { views: gone, ..Internal::default() });
        }
        Ok(())
    }
}
