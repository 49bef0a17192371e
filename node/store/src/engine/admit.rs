//! From commits to the bytes of a group: positions, sequence numbers, budgets.

use super::ahead::Passed;
use super::catalog::ConsumerState;
use super::keys;
use super::room::takes_room;
use super::{Engine, Entry, Group, GroupMark, Internal, Mark, Request, Written};
use crate::backing::{BackingError, StreamNo};
use crate::journal::frame::{self, Change, CursorEntry, FrameWriter, LossEntry, UplinkNo};
use crate::journal::writer::Active;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, CursorChange, Loss, LossReason, NewEvent, StateChange, StateValue, StreamId,
    StreamSpec, WhenFull,
};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Budgets of at least this size give up a little more than they must at a time, so that a full one does not look for
/// its oldest event at every commit.
const SLACK_FROM_BYTES: u64 = 1 << 20;
const SLACK_DIVISOR: u64 = 256;

/// What a commit wants of one stream.
struct Need {
    stream: usize,
    id: StreamId,
    bytes: u64,
}

/// What a consumer gives up for it.
struct Drop {
    consumer: usize,
    passed: Passed,
    to: Position,
}

impl Engine {
    /// Takes commits from the queue as long as they fit. Answers that need no disk (refusals) are in the group too, so
    /// that all answers keep the order of submission.
    pub(crate) fn begin(
        &mut self,
        queue: &mut VecDeque<Request>,
        active: &Active,
        frame_max: usize,
    ) -> Group {
        let mut group = Group {
            frames: Vec::with_capacity(first_guess(queue, self.limits.group_bytes)),
            entries: Vec::with_capacity(queue.len().min(self.limits.group_commits)),
            marks: Vec::with_capacity(queue.front().map_or(0, |request| request.commit.events.len())),
            internals: 0,
            base: active.base(),
            first_lsn: self.next_lsn,
            segment_full: false,
        };
        self.take_internals(&mut group, active.room());
        while !group.segment_full && group.entries.len() < self.limits.group_commits {
            let Some(request) = queue.front() else { break };
            let bound = frame::bound(&request.commit);
            if bound <= frame_max
                && !group.frames.is_empty()
                && group.frames.len() + bound > self.limits.group_bytes
            {
                break;
            }
            if bound <= frame_max && group.frames.len() + bound > active.room() {
                group.segment_full = true;
                break;
            }
            if let Some(request) = queue.pop_front() {
                self.take(&mut group, request, bound, frame_max);
            }
        }
        group
    }

    fn take(&mut self, group: &mut Group, request: Request, bound: usize, frame_max: usize) {
        let Request { commit, done } = request;
        let outcome = if bound > frame_max {
            Err(CommitError::TooLarge { bytes: bound as u64, max: frame_max as u64 })
        } else if commit.is_empty() {
            Ok(None)
        } else {
            self.write(group, &commit).map(Some)
        };
        group.entries.push(Entry { done: Some(done), outcome });
    }

    fn take_internals(&mut self, group: &mut Group, room: usize) {
        let internals: Vec<Internal> = self.internal.iter().cloned().collect();
        for internal in &internals {
            let bound = internal_bound(internal);
            if group.frames.len() + bound > room {
                group.segment_full = true;
                return;
            }
            let written = self.write_internal(group, internal);
            group.entries.push(Entry { done: None, outcome: Ok(Some(written)) });
            group.internals += 1;
        }
    }

    fn write_internal(&mut self, group: &mut Group, internal: &Internal) -> Written {
        let start = group.frames.len();
        let lsn = self.next_lsn;
        let mut frame =
            FrameWriter::start(&mut group.frames, &group.base, lsn, self.next_position, start == 0);
        if internal.clean_end {
            frame.clean_end();
        }
        frame.changes(internal.views.len());
        for (key, value) in &internal.views {
            frame.change(&match value {
                Some(value) => Change::View { key, value },
                None => Change::ViewDelete { key },
            });
        }
        frame.cursors(&internal.cursors);
        frame.losses(&internal.losses);
        frame.finish(group.base.seed);
        self.next_lsn.0 += 1;
        let positions = self.next_position.0..self.next_position.0;
        Written { frame: start..group.frames.len(), lsn, positions, for_views: true }
    }

    /// Writes one commit's frame at the end of the group, or nothing.
    fn write(&mut self, group: &mut Group, commit: &Commit) -> Result<Written, CommitError> {
        if self.tables.is_far_behind() && is_for_views(commit) {
            return Err(CommitError::Io(Arc::new(io::Error::other("the views cannot be read"))));
        }
        let start = group.frames.len();
        let first = self.next_position;
        let first_mark = group.marks.len();
        let taken = self.sequences.taken();
        let Group { frames, marks, base, .. } = group;
        let mut frame = FrameWriter::start(frames, base, self.next_lsn, first, start == 0);
        let drops = match self.events(&mut frame, commit, marks) {
            Ok(needs) => self.admit(&needs, takes_room(commit), marks, first_mark),
            Err(error) => Err(error),
        };
        let drops = match drops {
            Ok(drops) => drops,
            Err(error) => {
                frame.abandon();
                marks.truncate(first_mark);
                self.sequences.undo_to(taken);
                self.next_position = first;
                return Err(error);
            }
        };
        let has_changes = self.rest(&mut frame, commit, first, &drops);
        frame.finish(base.seed);
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        let for_views = has_changes || is_for_views(commit);
        let positions = first.0..self.next_position.0;
        Ok(Written { frame: start..frames.len(), lsn, positions, for_views })
    }

    fn events(
        &mut self,
        frame: &mut FrameWriter<'_>,
        commit: &Commit,
        marks: &mut Vec<GroupMark>,
    ) -> Result<Vec<Need>, CommitError> {
        let mut needs: Vec<Need> = Vec::new();
        frame.events(commit.events.len());
        for new in &commit.events {
            let (stream, no) = self.target(new)?;
            let sequence = self
                .sequences
                .next(&*self.tables.views, &new.event.source, no)
                .map_err(|e| views_failed(&e))?;
            let bytes = frame.event(no, &new.mailboxes, &new.event, sequence);
            let mark = Mark { position: self.next_position, received_ms: new.event.received.0, bytes };
            marks.push(GroupMark { stream, mark });
            self.next_position = self.next_position.next();
            if let (Some(stream), Some(id)) = (stream, new.stream) {
                add_need(&mut needs, stream, id, u64::from(bytes));
            }
        }
        Ok(needs)
    }

    fn target(&self, new: &NewEvent) -> Result<(Option<usize>, StreamNo), CommitError> {
        let Some(id) = new.stream else { return Ok((None, StreamNo(0))) };
        let idx = self.catalog.stream_idx(id);
        let stream = idx.and_then(|idx| self.catalog.stream(idx));
        let unknown =
            || CommitError::Io(Arc::new(io::Error::other(format!("{id:?} is not in the configuration"))));
        Ok((idx, stream.ok_or_else(unknown)?.no))
    }

    /// Finds room for the events of one commit: refuses it, or says what has to go. Books both.
    fn admit(
        &mut self,
        needs: &[Need],
        takes_room: bool,
        marks: &[GroupMark],
        first_mark: usize,
    ) -> Result<Vec<Drop>, CommitError> {
        if needs.is_empty() && !takes_room {
            return Ok(Vec::new());
        }
        for need in needs {
            self.check_size(need, marks.get(first_mark..).unwrap_or_default())?;
        }
        if self.takes_no_events() {
            let own = marks.get(first_mark..).unwrap_or_default();
            let need = own.iter().map(|m| u64::from(m.mark.bytes)).sum();
            return Err(self.full(needs.first().map_or(StreamId::NONE, |need| need.id), need));
        }
        for need in needs {
            self.check_budget(need)?;
        }
        let mut drops = Vec::new();
        for need in needs {
            self.book(need, marks, &mut drops)?;
        }
        Ok(drops)
    }

    /// What not even an empty stream could take must not be told to wait for room: with `refuse` the whole commit, with
    /// `drop-oldest` one event.
    fn check_size(&self, need: &Need, own: &[GroupMark]) -> Result<(), CommitError> {
        let spec = self.catalog.stream(need.stream).and_then(|s| s.spec.as_ref());
        let Some(StreamSpec { max_bytes: max, when_full, .. }) = spec else { return Ok(()) };
        let own = own.iter().filter(|m| m.stream == Some(need.stream)).map(|m| u64::from(m.mark.bytes));
        let bytes = match when_full {
            WhenFull::Refuse => need.bytes,
            WhenFull::DropOldest => own.max().unwrap_or(0),
        };
        if bytes > *max { Err(CommitError::TooLarge { bytes, max: *max }) } else { Ok(()) }
    }

    fn check_budget(&mut self, need: &Need) -> Result<(), CommitError> {
        let Some(stream) = self.catalog.streams.get(need.stream) else { return Ok(()) };
        let refusing = stream.spec.as_ref().filter(|spec| spec.when_full == WhenFull::Refuse);
        let Some(max) = refusing.map(|spec| spec.max_bytes) else { return Ok(()) };
        let full = stream.consumers.iter().copied().find(|idx| {
            let takes = |consumer: &&ConsumerState| consumer.until.is_none();
            let consumer = self.catalog.consumers.get(*idx).filter(takes);
            consumer.is_some_and(|consumer| consumer.used() + need.bytes > max)
        });
        let Some(consumer) = full.and_then(|idx| self.catalog.consumers.get_mut(idx)) else { return Ok(()) };
        consumer.refused = true;
        Err(CommitError::Full { stream: need.id, used: consumer.used(), max, need: need.bytes })
    }

    fn book(&mut self, need: &Need, marks: &[GroupMark], drops: &mut Vec<Drop>) -> Result<(), CommitError> {
        let Some(stream) = self.catalog.streams.get(need.stream) else { return Ok(()) };
        let max = stream.spec.as_ref().map_or(u64::MAX, |spec| spec.max_bytes);
        for idx in 0..stream.consumers.len() {
            let Some(consumer) = self.catalog.stream(need.stream).and_then(|s| s.consumers.get(idx).copied())
            else {
                break;
            };
            if self.catalog.consumer(consumer).is_none_or(|consumer| consumer.until.is_some()) {
                continue;
            }
            let used = self.catalog.consumer(consumer).map_or(0, |c| c.used());
            if used + need.bytes > max {
                let excess = used + need.bytes - max;
                let slack = if max >= SLACK_FROM_BYTES { (max / SLACK_DIVISOR).min(used) } else { 0 };
                let drop = self.drop_oldest(consumer, need.stream, excess.max(slack), marks)?;
                drops.extend(drop);
            }
            if let Some(consumer) = self.catalog.consumer_mut(consumer) {
                consumer.tentative.added_bytes += need.bytes;
            }
        }
        Ok(())
    }

    /// Gives up the oldest events of a consumer, at least `bytes` of them: first what is durable, then the older ones of
    /// the group itself.
    fn drop_oldest(
        &mut self,
        consumer: usize,
        stream: usize,
        bytes: u64,
        marks: &[GroupMark],
    ) -> Result<Option<Drop>, CommitError> {
        let mut passed = Passed::default();
        while passed.bytes < bytes {
            let Some(mark) = self.next_oldest(consumer, stream, marks)? else { break };
            passed.add(&mark);
        }
        let Some((_, last)) = passed.range else { return Ok(None) };
        if let Some(consumer) = self.catalog.consumer_mut(consumer) {
            consumer.tentative.freed_bytes += passed.bytes;
        }
        Ok(Some(Drop { consumer, passed, to: last }))
    }

    fn next_oldest(
        &mut self,
        consumer: usize,
        stream: usize,
        marks: &[GroupMark],
    ) -> Result<Option<Mark>, CommitError> {
        let Some(state) = self.catalog.consumer(consumer) else { return Ok(None) };
        if state.ahead.len() <= state.tentative.ahead_used && !state.ahead.is_complete() {
            let more = state.ahead.len() + 256;
            self.look_ahead(consumer, more).map_err(|e| views_failed(&e))?;
        }
        let Some(state) = self.catalog.consumer_mut(consumer) else { return Ok(None) };
        if let Some(mark) = state.ahead.get(state.tentative.ahead_used).copied() {
            state.tentative.ahead_used += 1;
            return Ok(Some(mark));
        }
        let acked = state.acked;
        let from = state.tentative.group_used;
        let next = marks
            .iter()
            .enumerate()
            .skip(from)
            .find(|(_, m)| m.stream == Some(stream) && m.mark.position > acked);
        let Some((idx, found)) = next else { return Ok(None) };
        state.tentative.group_used = idx + 1;
        Ok(Some(found.mark))
    }

    /// State changes, cursors, losses; true if there were any.
    fn rest(
        &mut self,
        frame: &mut FrameWriter<'_>,
        commit: &Commit,
        first: Position,
        drops: &[Drop],
    ) -> bool {
        frame.changes(commit.state.len());
        for change in &commit.state {
            write_change(frame, change, first);
        }
        let mut cursors: Vec<CursorEntry> =
            commit.cursors.iter().filter_map(|c| self.cursor_entry(c)).collect();
        for cursor in &cursors {
            self.free_acknowledged(cursor);
        }
        let mut losses: Vec<LossEntry> = commit.losses.iter().filter_map(|l| self.loss_entry(l)).collect();
        for drop in drops {
            let Some(consumer) = self.catalog.consumer(drop.consumer) else { continue };
            cursors.push(consumer.cursor_entry(drop.to));
            losses.extend(loss_of(consumer.stream_no, consumer.uplink, LossReason::QueueFull, &drop.passed));
        }
        frame.cursors(&cursors);
        frame.losses(&losses);
        !(commit.state.is_empty() && cursors.is_empty() && losses.is_empty())
    }

    /// What one commit of a group acknowledges, a later one of the same group does not have to give up.
    fn free_acknowledged(&mut self, cursor: &CursorEntry) {
        let idx = self.catalog.consumer_by_no(cursor.stream, cursor.uplink);
        let Some(consumer) = idx.and_then(|idx| self.catalog.consumer_mut(idx)) else { return };
        while let Some(mark) = consumer.ahead.get(consumer.tentative.ahead_used)
            && mark.position <= cursor.acked
        {
            consumer.tentative.freed_bytes += u64::from(mark.bytes);
            consumer.tentative.ahead_used += 1;
        }
    }

    fn cursor_entry(&self, change: &CursorChange) -> Option<CursorEntry> {
        let numbers =
            self.catalog.consumer_idx(change.consumer).and_then(|_| self.catalog.numbers(change.consumer));
        if numbers.is_none() {
            // It was taken away while its last answers came.
            tracing::debug!(consumer = ?change.consumer, "cursor of a consumer that is not in the configuration, left out");
        }
        let (stream, uplink) = numbers?;
        // Nobody can have acknowledged what was never given out.
        let acked = change.acked.min(Position(self.next_position.0.saturating_sub(1)));
        Some(CursorEntry { stream, uplink, acked })
    }

    fn loss_entry(&self, loss: &Loss) -> Option<LossEntry> {
        let (stream, uplink) = match loss.consumer {
            None => (StreamNo(0), UplinkNo(0)),
            Some(consumer) => self.catalog.numbers(consumer)?,
        };
        let (first, last) = loss.range;
        Some(LossEntry {
            stream,
            uplink,
            reason: loss.reason,
            events: loss.events,
            bytes: loss.bytes,
            first,
            last,
        })
    }
}

/// True if there is more in a commit than events for streams.
fn is_for_views(commit: &Commit) -> bool {
    let state = commit.state.is_empty() && commit.cursors.is_empty() && commit.losses.is_empty();
    !state || commit.events.iter().any(|event| !event.mailboxes.is_empty())
}

/// The ledger entry for what was passed over.
pub(super) fn loss_of(
    stream: StreamNo,
    uplink: UplinkNo,
    reason: LossReason,
    passed: &Passed,
) -> Option<LossEntry> {
    let (first, last) = passed.range?;
    Some(LossEntry { stream, uplink, reason, events: passed.events, bytes: passed.bytes, first, last })
}

fn first_guess(queue: &VecDeque<Request>, max: usize) -> usize {
    let looked_at = queue.len().min(8);
    let bytes: usize = queue.iter().take(looked_at).map(|r| frame::bound(&r.commit)).sum();
    (bytes * queue.len() / looked_at.max(1)).min(max)
}

fn internal_bound(internal: &Internal) -> usize {
    let views: usize =
        internal.views.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len) + 24).sum();
    128 + views + internal.cursors.len() * 32 + internal.losses.len() * 72
}

fn add_need(needs: &mut Vec<Need>, stream: usize, id: StreamId, bytes: u64) {
    match needs.iter_mut().find(|n| n.stream == stream) {
        Some(need) => need.bytes += bytes,
        None => needs.push(Need { stream, id, bytes }),
    }
}

fn write_change(frame: &mut FrameWriter<'_>, change: &StateChange, first: Position) {
    match change {
        StateChange::Put { table, key, value } => {
            let table = *table as u8;
            match value {
                StateValue::Bytes(value) => frame.change(&Change::Put { table, key, value }),
                StateValue::Position { event, suffix } => {
                    let mut value = Vec::with_capacity(8 + suffix.len());
                    value.extend_from_slice(&(first.0 + *event as u64).to_be_bytes());
                    value.extend_from_slice(suffix);
                    frame.change(&Change::Put { table, key, value: &value });
                }
                StateValue::Record { event } => {
                    frame.change(&Change::PutRecord { table, key, event: *event })
                }
            }
        }
        StateChange::Delete { table, key } => frame.change(&Change::Delete { table: *table as u8, key }),
        StateChange::MailboxRemove { session, position } => {
            frame.change(&Change::MailboxRemove { session: session.0, position: *position });
        }
        StateChange::MailboxClear { session } => frame.change(&Change::MailboxClear { session: session.0 }),
        StateChange::LedgerForget { through } => {
            frame.change(&Change::View { key: keys::LEDGER_FORGET, value: &through.to_be_bytes() });
        }
    }
}

fn views_failed(error: &BackingError) -> CommitError {
    CommitError::Io(Arc::new(io::Error::other(error.to_string())))
}
