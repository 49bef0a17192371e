//! A group's end: durable and applied, or taken back.

use super::admit::loss_of;
use super::ahead::{MARKS_MAX, Passed};
use super::catalog::Tentative;
use super::keys;
use super::{Checkpoint, Engine, Entry, Finished, Group, Internal, Written, commit_io};
use crate::backing::{Lsn, StreamNo, ViewOp};
use crate::journal::frame::{CursorEntry, FRAME_HEADER, Frame, Item, UplinkNo};
use crate::journal::reader::End;
use crate::journal::writer::Synced;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{CommitError, Committed, LossReason};
use std::io;
use std::sync::Arc;

impl Engine {
    /// Applies a group and makes its answers. Success needs the proof that the group was synced (P1); there is no other
    /// way to an `Ok` for a commit that holds anything.
    pub(crate) fn finish(&mut self, group: Group, outcome: Result<Synced, Arc<io::Error>>) -> Finished {
        match outcome {
            Ok(synced) => self.durable(group, &synced),
            Err(error) => self.taken_back(group, &error),
        }
    }

    /// Answers of a group that has nothing to write: refusals and empty commits.
    pub(crate) fn finish_unwritten(&mut self, group: Group) -> Finished {
        self.forget_tentative();
        let mut finished = Finished { room: self.take_room(), ..Finished::default() };
        for Entry { done, outcome } in group.entries {
            if let (Some(done), Some(answer)) = (done, unwritten_answer(outcome)) {
                finished.answers.push((done, answer));
            }
        }
        finished
    }

    fn forget_tentative(&mut self) {
        for consumer in &mut self.catalog.consumers {
            consumer.tentative = Tentative::default();
        }
    }

    fn taken_back(&mut self, group: Group, error: &Arc<io::Error>) -> Finished {
        self.sequences.undo_to(0);
        self.forget_tentative();
        // The frames are cut off before the next ones are believed, so their LSNs are free. Their positions are not (P3).
        self.next_lsn = group.first_lsn;
        self.io_failed = true;
        let mut finished = Finished::default();
        for Entry { done, outcome } in group.entries {
            let Some(done) = done else { continue };
            let answer = match outcome {
                Ok(Some(_)) => Err(commit_io(error)),
                other => unwritten_answer(other).unwrap_or_else(|| Err(commit_io(error))),
            };
            finished.answers.push((done, answer));
        }
        finished
    }

    fn durable(&mut self, mut group: Group, synced: &Synced) -> Finished {
        self.sequences.keep();
        self.forget_tentative();
        let capacity = group.frames.capacity();
        let frames = Bytes::from(std::mem::take(&mut group.frames));
        let mut finished = Finished::default();
        self.account(&group, &frames, synced, &mut finished);
        self.remember(&group, frames.clone(), capacity);
        for _ in 0..group.internals {
            self.internal.pop_front();
        }
        self.apply(&group, &frames, &mut finished);
        for Entry { done, outcome } in group.entries {
            let answer = match outcome {
                Ok(Some(written)) => {
                    self.counters.commits += 1;
                    Ok(Committed { positions: written.positions.map(Position).collect() })
                }
                other => match unwritten_answer(other) {
                    Some(answer) => answer,
                    None => continue,
                },
            };
            if let Some(done) = done {
                finished.answers.push((done, answer));
            }
        }
        finished
    }

    /// Books the events: segment, streams, consumers.
    fn account(&mut self, group: &Group, frames: &Bytes, synced: &Synced, finished: &mut Finished) {
        if let Some(segment) = self.segments.back_mut().filter(|s| s.number() == synced.segment()) {
            segment.source.end = End::At(synced.offset() + crate::codec::as_u32(frames.len()));
            segment.last_lsn = Lsn(self.next_lsn.0 - 1);
            for marked in &group.marks {
                let no = marked.stream.and_then(|idx| self.catalog.stream(idx)).map_or(StreamNo(0), |s| s.no);
                segment.add(no, &marked.mark);
            }
        }
        for marked in &group.marks {
            if let Some(stream) = marked.stream {
                self.catalog.appended(stream, &marked.mark);
            }
        }
        self.counters.events += group.marks.len() as u64;
        finished.appended = !group.marks.is_empty();
    }

    fn remember(&mut self, group: &Group, frames: Bytes, capacity: usize) {
        if let Some(last) = group.marks.last() {
            self.durable_position = last.mark.position;
            self.recent.push(frames, capacity, group.base, last.mark.position);
        }
    }

    /// Gives the commits to the views, one by one. With the last one go the numbers that were kept out of the views so
    /// far, if a checkpoint is about to be made or their cache is full.
    fn apply(&mut self, group: &Group, frames: &Bytes, finished: &mut Finished) {
        // While the views are behind, what the sequences do not keep in memory would be read from them as it was.
        let is_behind = self.tables.is_behind();
        let wanted = matches!(self.checkpoint, Checkpoint::Wanted) && !is_behind;
        let mut lazy = Vec::new();
        if wanted || (self.sequences.is_over_full() && !is_behind) {
            self.flush_lazy(&mut lazy);
        }
        let last = Lsn(self.next_lsn.0 - 1);
        for entry in &group.entries {
            let Ok(Some(written)) = &entry.outcome else { continue };
            let is_last = written.lsn == last;
            let more = if is_last { std::mem::take(&mut lazy) } else { Vec::new() };
            if written.for_views {
                self.apply_one(group, frames, written, (more, wanted && is_last), finished);
            } else if is_last && wanted {
                self.tables.apply_ops(last, more, true);
            } else if is_last {
                self.tables.apply_ops(last, more, false);
            }
        }
        // What waits has not been flushed either.
        if wanted && !self.tables.is_behind() {
            self.freeze();
        }
        finished.room |= self.take_room() | std::mem::take(&mut self.io_failed);
        finished.maintain |= self.needs_maintenance();
    }

    fn apply_one(
        &mut self,
        group: &Group,
        frames: &Bytes,
        written: &Written,
        (more, flush): (Vec<ViewOp>, bool),
        finished: &mut Finished,
    ) {
        let body = frames.get(written.frame.start + FRAME_HEADER..written.frame.end).unwrap_or_default();
        let Ok(frame) = Frame::parse(body, &group.base) else { return };
        if frame.has_more_than_events() {
            for item in frame.items() {
                if let Ok(Item::Cursor(cursor)) = item {
                    finished.room |= self.move_cursor(&cursor);
                }
            }
        }
        self.tables.apply(&frame, body, &group.base, (more, flush));
    }

    fn flush_lazy(&mut self, ops: &mut Vec<ViewOp>) {
        self.sequences.flush(ops);
        for stream in self.catalog.streams.iter_mut().filter(|s| s.dirty) {
            ops.push(ViewOp::Put(keys::stream(stream.no), stream.encode()));
            stream.dirty = false;
        }
    }

    /// Moves a consumer's cursor; true if a refused commit may fit now.
    pub(super) fn move_cursor(&mut self, cursor: &CursorEntry) -> bool {
        let Some(idx) = self.catalog.consumer_by_no(cursor.stream, cursor.uplink) else { return false };
        self.pass(idx, cursor.acked);
        self.given_up.remove(&idx);
        let Some(consumer) = self.catalog.consumer_mut(idx) else { return false };
        std::mem::take(&mut consumer.refused)
    }

    /// Moves a cursor in memory over everything at or before `to`; returns what that was.
    pub(super) fn pass(&mut self, idx: usize, to: Position) -> Passed {
        let Some(consumer) = self.catalog.consumer(idx) else { return Passed::default() };
        let newest = self.catalog.end_of(consumer);
        if to <= consumer.acked {
            return Passed::default();
        }
        let mut passed = Passed::default();
        while to < newest
            && let Some(consumer) = self.catalog.consumer(idx)
            && !consumer.ahead.is_complete()
            && consumer.ahead.through() < to
        {
            let before = consumer.ahead.through();
            // Free the marks first: what was looked at is bounded.
            if let Some(consumer) = self.catalog.consumer_mut(idx) {
                passed.join(&consumer.pass(before, newest));
            }
            let looked = self.look_ahead(idx, MARKS_MAX);
            let through = self.catalog.consumer(idx).map_or(before, |c| c.ahead.through());
            if looked.is_err() || through <= before {
                break;
            }
        }
        if let Some(consumer) = self.catalog.consumer_mut(idx) {
            passed.join(&consumer.pass(to, newest));
        }
        passed
    }

    /// A loss that the store found by itself, with the cursor behind it: committed with the next group.
    pub(super) fn give_up(&mut self, idx: usize, to: Position, reason: LossReason, passed: &Passed) {
        if !self.given_up.insert(idx) {
            // One at a time: what it is about is still in the queue.
            return;
        }
        let Some(consumer) = self.catalog.consumer(idx) else { return };
        let losses = loss_of(consumer.stream_no, consumer.uplink, reason, passed).into_iter().collect();
        let cursors = vec![consumer.cursor_entry(to)];
        self.commit_internal(Internal { cursors, losses, ..Internal::default() });
    }

    /// A loss that is no consumer's.
    pub(crate) fn lose(&mut self, reason: LossReason, events: u64, bytes: u64, range: (Position, Position)) {
        let loss = crate::journal::frame::LossEntry {
            stream: StreamNo(0),
            uplink: UplinkNo(0),
            reason,
            events,
            bytes,
            first: range.0,
            last: range.1,
        };
        self.commit_internal(Internal { losses: vec![loss], ..Internal::default() });
    }
}

/// The answer to a commit that was refused or empty; `None` for one that has a frame.
fn unwritten_answer(outcome: Result<Option<Written>, CommitError>) -> Option<Result<Committed, CommitError>> {
    match outcome {
        Ok(Some(_)) => None,
        Ok(None) => Some(Ok(Committed { positions: Vec::new() })),
        Err(error) => Some(Err(error)),
    }
}
