//! Room on the disk: when events have to wait, and what goes on all the same.
//!
//! Two limits. `disk_max` is counted: what everything takes, and what is kept for cursors, sessions and the ledger, which
//! make room again. The file system's own end is found by running into it: then the reserve ([`crate::journal`]) becomes
//! the segment in use, and until it could be made anew, events are refused and everything else is written.

use super::{Engine, commit_io};
use eventmesh_edge_core::ports::store::{Commit, CommitError, StateChange, StateValue, StreamId, WhenFull};
use std::io;
use std::sync::Arc;

/// Segments that are kept for what is not refused: files of the reserve.
const KEPT: u64 = 2;
/// Ticks between two attempts at a checkpoint for which there is no room, at most: each of them writes what there is room for.
const CHECKPOINT_PATIENCE_MAX: u32 = 64;

/// What is known of the file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// Files of the reserve that are there.
    pub(crate) reserved: u64,
    /// Some of the reserve is missing and cannot be made.
    is_short: bool,
    /// No segment could be made for the time when this one is full.
    no_spare: bool,
    /// A checkpoint had no room, and none came since.
    no_checkpoint: bool,
    /// Ticks until it is tried all the same, and how many it waited for the last time.
    checkpoint_in: u32,
    checkpoint_patience: u32,
    /// The ballast is lent to a checkpoint.
    lent: bool,
    /// Commits were refused that may fit when something is given back.
    refused: bool,
    /// Bytes that streams are to give up which prefer new events to old ones, because one of theirs was refused.
    relief: u64,
    /// Watchers are to be told that they may.
    pub(super) returned: bool,
}

/// True if an error says that there is no room, now.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Engine {
    /// Bytes of the data directory, as accounted.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|s| u64::from(s.bytes)).sum();
        let ready = self.counters.spare_segments + self.room.reserved;
        let ready = ready * u64::from(self.limits.segment_bytes);
        segments + ready + self.counters.views_disk + self.counters.generations_disk
    }

    /// True if events must wait for `disk_max`.
    pub(super) fn is_disk_full(&self) -> bool {
        // And one for the next segment.
        let kept = KEPT.saturating_sub(self.room.reserved) + u64::from(self.counters.spare_segments == 0);
        self.disk_bytes() + kept * u64::from(self.limits.segment_bytes) > self.spec.disk_max
    }

    /// True if events must wait for the file system.
    pub(crate) fn is_short_of_room(&self) -> bool {
        self.room.is_short
    }

    /// True if what is left may be too little for more than what is kept: nothing large is begun.
    pub(super) fn is_tight(&self) -> bool {
        self.room.is_short || self.room.no_spare
    }

    /// True if events must wait, whatever the budgets of their streams say.
    pub(super) fn takes_no_events(&self) -> bool {
        self.room.is_short || self.is_disk_full() || self.is_views_backlog_full()
    }

    /// What a commit is told that has to wait for room.
    pub(super) fn full(&mut self, stream: StreamId, need: u64) -> CommitError {
        self.room.refused = true;
        let spec = self.spec.streams.get(usize::from(stream.0));
        if self.room.is_short && spec.is_some_and(|spec| spec.when_full == WhenFull::DropOldest) {
            self.room.relief = (KEPT + 2) * u64::from(self.limits.segment_bytes);
        }
        let used = self.disk_bytes();
        let max = if self.room.is_short { used } else { self.spec.disk_max };
        CommitError::Full { stream, used, max, need }
    }

    /// What a commit is told when no segment can be opened.
    pub(crate) fn refusal(&mut self, commit: &Commit, error: &Arc<io::Error>) -> CommitError {
        if !is_no_room(error) || commit.events.is_empty() {
            return commit_io(error);
        }
        let stream = commit.events.iter().find_map(|new| new.stream);
        self.full(stream.unwrap_or(StreamId::NONE), 0)
    }

    // --- the reserve

    /// True if some of the reserve is missing, and `disk_max` has room for it.
    pub(crate) fn wants_reserve(&self) -> bool {
        self.room.reserved < KEPT
            && !self.room.lent
            && self.disk_bytes() + u64::from(self.limits.segment_bytes) <= self.spec.disk_max
    }

    /// A spare is made before the first commit, and when the segment in use is half full.
    pub(crate) fn wants_spare(&self) -> bool {
        let half_used = self.segments.back().is_some_and(|s| s.source.end.limit() > s.bytes / 2);
        (half_used || !self.is_active) && self.counters.spare_segments == 0 && !self.is_disk_full()
    }

    /// True if the maintenance should look for room by itself; once it found none, only a tick or something given back
    /// lets it look again.
    pub(super) fn should_look_for_room(&self) -> bool {
        !self.is_tight() && (self.wants_reserve() || self.wants_spare())
    }

    /// How many prepared segments and how many files of the reserve there are.
    pub(crate) fn counts_ready(&mut self, spares: usize, reserved: usize) {
        let (spares, reserved) = (spares as u64, reserved as u64);
        let more = reserved > self.room.reserved || spares > self.counters.spare_segments;
        self.room.no_checkpoint &= !more;
        self.room.reserved = reserved;
        self.counters.spare_segments = spares;
    }

    /// The reserve is in use, or there is not even that.
    pub(crate) fn ran_out_of_room(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.room.is_short, true) {
            tracing::warn!(
                %error,
                "no room on the file system: events wait, cursors, sessions and the ledger go on in what was kept for them"
            );
        }
    }

    /// What came of looking for room: of the reserve, and of the next segment.
    pub(crate) fn looked_for_room(
        &mut self,
        ready: (usize, usize),
        reserve: io::Result<()>,
        spare: io::Result<()>,
    ) {
        self.counts_ready(ready.0, ready.1);
        if let Err(error) = &spare
            && !self.room.no_spare
        {
            tracing::warn!(%error, "no journal segment can be prepared");
        }
        self.room.no_spare = spare.is_err();
        match reserve {
            Err(error) => self.ran_out_of_room(&error),
            Ok(()) if std::mem::take(&mut self.room.is_short) => {
                tracing::info!("there is room on the file system again");
            }
            Ok(()) => {}
        }
        self.offer_room();
    }

    /// Something was given back: refused commits may fit now. They are told with a commit, which proves that one can be made.
    pub(super) fn offer_room(&mut self) {
        if self.room.refused && !self.takes_no_events() {
            (self.room.refused, self.room.relief) = (false, 0);
            self.room.returned = true;
            if self.internal.is_empty() {
                self.commit_internal(super::Internal::default());
            }
        }
    }

    // --- checkpoints

    /// True if a checkpoint has to be lent the ballast's room before it starts.
    pub(crate) fn needs_ballast(&self) -> bool {
        self.room.is_short
    }

    /// The ballast is gone, and stays away until the next checkpoint has ended, which can be tried now.
    pub(crate) fn lent_ballast(&mut self, reserved: usize) {
        self.room.reserved = reserved as u64;
        (self.room.lent, self.room.no_checkpoint) = (true, false);
    }

    /// A checkpoint has, or is to get, the room that was kept for it.
    pub(crate) fn has_lent_ballast(&self) -> bool {
        self.room.lent
    }

    /// A checkpoint has ended. One that had no room is not tried again before there is more, or before some ticks: where
    /// `disk_max` leaves no place for the reserve, nothing else would tell that there is room again.
    pub(crate) fn checkpoint_ended(&mut self, had_no_room: bool) {
        let room = &mut self.room;
        (room.lent, room.no_checkpoint) = (false, had_no_room);
        let longer = (2 * room.checkpoint_patience).clamp(1, CHECKPOINT_PATIENCE_MAX);
        room.checkpoint_patience = if had_no_room { longer } else { 0 };
        room.checkpoint_in = room.checkpoint_patience;
    }

    /// Time has passed.
    pub(crate) fn room_ticked(&mut self) {
        let room = &mut self.room;
        room.checkpoint_in = room.checkpoint_in.saturating_sub(1);
        room.no_checkpoint &= room.checkpoint_in > 0;
    }

    pub(super) fn has_room_for_checkpoint(&self) -> bool {
        !self.room.no_checkpoint
    }

    /// True if streams that prefer new events have to give old ones up. What they gave up before is waited for.
    pub(super) fn must_relieve_disk(&self) -> bool {
        let waits = self.can_release() || self.waiting_for_views() > 0;
        self.is_disk_full() || (self.room.is_short && self.room.relief > 0 && !waits)
    }

    /// So much was given up. Somebody else may have taken the room: no more is given up before the next refusal.
    pub(super) fn relieved(&mut self, bytes: u64) {
        self.room.relief = self.room.relief.saturating_sub(bytes);
    }
}

/// True if something of it stays in the views and not in a stream: an event that mailboxes or a retained value keep.
/// Cursors, sessions and the ledger go through when the disk is full; that is what the last room is kept for.
pub(super) fn takes_room(commit: &Commit) -> bool {
    let keeps =
        |change: &StateChange| matches!(change, StateChange::Put { value: StateValue::Record { .. }, .. });
    commit.events.iter().any(|new| !new.mailboxes.is_empty()) || commit.state.iter().any(keeps)
}
