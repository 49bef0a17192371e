//! The store's state and its decisions, single-threaded and deterministic: which positions, which numbers, whether there
//! is room, what is where, what may go. It never syncs the journal itself: [`Engine::begin`] makes a group's bytes,
//! somebody writes them, and [`Engine::finish`] takes the [`Synced`] that proves it (P1), or the error.

mod admit;
pub(crate) mod ahead;
pub(crate) mod catalog;
pub(crate) mod consumers;
mod damage;
mod finish;
pub(crate) mod inspect;
pub(crate) mod keys;
mod ledger;
pub(crate) mod mailboxes;
pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod recent;
mod retain;
pub(crate) mod room;
mod rows;
pub(crate) mod segments;
mod sequences;
pub(crate) mod spaces;
pub(crate) mod tables;

use self::ahead::Mark;
use self::catalog::Catalog;
use self::mailboxes::Mailboxes;
use self::recent::Recent;
use self::room::Room;
use self::segments::{GenerationInfo, Segment};
use self::sequences::Sequences;
use self::spaces::Spaces;
use self::tables::Tables;
use crate::backing::{BackingError, CheckpointWork, Generations, Lsn, StreamNo, Views};
use crate::journal::frame::{CursorEntry, LossEntry, UplinkNo};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{Commit, CommitError, Committed, SessionNo, StoreSpec, StoreStats};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub(crate) use self::retain::Seal;

/// Called with the outcome of one commit.
pub(crate) type Done = Completion<Result<Committed, CommitError>>;

/// A commit that waits.
pub(crate) struct Request {
    pub(crate) commit: Commit,
    pub(crate) done: Done,
}

/// Generations are used by the blocking thread, and by whoever moves a cursor over events that no mark tells about.
pub(crate) type SharedGenerations = Arc<Mutex<Box<dyn Generations>>>;

/// Bounds of the engine that are not in the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u32,
    pub(crate) recent_bytes: usize,
    pub(crate) group_commits: usize,
    pub(crate) group_bytes: usize,
    /// Closed segments pinned by consumers before they are sealed into a generation.
    pub(crate) seal_segments: usize,
    /// Closed segments that wait only for a checkpoint before one is made.
    pub(crate) checkpoint_segments: usize,
    /// Bytes of views in memory before a checkpoint is made.
    pub(crate) checkpoint_bytes: usize,
    pub(crate) spare_segments: usize,
}

/// What the store itself commits: names, expiry, damage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Internal {
    pub(crate) views: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) cursors: Vec<CursorEntry>,
    pub(crate) losses: Vec<LossEntry>,
    /// The last frame of an orderly close.
    pub(crate) clean_end: bool,
    /// Another set of consumers ([`consumers`]).
    pub(crate) reshape: bool,
}

/// A commit's frame within a group.
#[derive(Debug)]
struct Written {
    frame: Range<usize>,
    lsn: Lsn,
    positions: Range<u64>,
    /// There is more in it than events for streams: the views have to see it.
    for_views: bool,
}

struct Entry {
    done: Option<Done>,
    outcome: Result<Option<Written>, CommitError>,
}

/// An event of the group, before it is durable.
#[derive(Clone, Copy, Debug)]
struct GroupMark {
    /// Index in the catalog, `None` if only mailboxes wait for it.
    stream: Option<usize>,
    mark: Mark,
}

/// Commits on their way to the disk together.
pub(crate) struct Group {
    pub(crate) frames: Vec<u8>,
    entries: Vec<Entry>,
    marks: Vec<GroupMark>,
    internals: usize,
    base: crate::journal::frame::Base,
    first_lsn: Lsn,
    /// The next commit needs a new segment.
    pub(crate) segment_full: bool,
}

impl Group {
    /// True if there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True if nobody waits for it either.
    pub(crate) fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.entries.is_empty()
    }
}

/// What is left to do after a group: outside the lock, in this order.
#[derive(Default)]
pub(crate) struct Finished {
    pub(crate) answers: Vec<(Done, Result<Committed, CommitError>)>,
    pub(crate) appended: bool,
    pub(crate) room: bool,
    /// The maintenance has something to do.
    pub(crate) maintain: bool,
}

/// Heavy half of a checkpoint, or its absence.
enum Checkpoint {
    Idle,
    /// At the end of the next group.
    Wanted,
    Ready(CheckpointWork),
    Running,
}

/// Counters for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: u64,
    pub(crate) events: u64,
    pub(crate) quarantined: u64,
    pub(crate) syncs: u64,
    pub(crate) journal_bytes: u64,
    /// As of the last look.
    pub(crate) views_disk: u64,
    pub(crate) views_written: u64,
    pub(crate) generations_disk: u64,
    pub(crate) generations_written: u64,
    pub(crate) spare_segments: u64,
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) epoch: u32,
    pub(crate) spaces: Spaces,
    pub(crate) spec: StoreSpec,
    limits: Limits,
    pub(crate) catalog: Catalog,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) generations: Vec<GenerationInfo>,
    shared_generations: SharedGenerations,
    recent: Recent,
    sequences: Sequences,
    tables: Tables,
    next_lsn: Lsn,
    next_position: Position,
    /// Last position that a durable event has.
    durable_position: Position,
    internal: VecDeque<Internal>,
    checkpoint: Checkpoint,
    pub(crate) counters: Counters,
    /// Commits failed on the disk: the next that does not tells the watchers.
    pub(crate) io_failed: bool,
    room: Room,
    /// Consumers whose cursor the store itself is about to move.
    given_up: HashSet<usize>,
    /// Cursors of uplinks whose place others have taken at this start: they go in the frame that has those of the others.
    superseded: Vec<Bytes>,
    /// Cursors of uplinks that may come back to a stream that nobody reads: they go when somebody else takes it over.
    absent: Vec<(StreamNo, UplinkNo)>,
    /// Damaged chunks of generations that are off a consumer's figures already, by their last positions.
    counted_extents: HashSet<(usize, Position)>,
    /// A segment of this start takes frames.
    is_active: bool,
    /// Events were just given up for their age, and there may be more.
    expiring: bool,
    /// Something behind the journal failed: not tried again before the next tick.
    pub(crate) blocked: bool,
}

impl Engine {
    /// What a new segment starts with.
    pub(crate) fn next_numbers(&self) -> (Lsn, Position) {
        (self.next_lsn, self.next_position)
    }

    /// Segment and offset behind the last frame that is believed.
    pub(crate) fn journal_end(&self) -> (u32, u32) {
        self.segments.back().map_or((0, 0), |segment| (segment.number(), segment.source.end.limit()))
    }

    /// A segment was opened and takes what comes.
    pub(crate) fn segment_opened(&mut self, active: &crate::journal::writer::Active) {
        self.segments.push_back(Segment::opened(active, self.durable_position));
        self.is_active = true;
        if active.from_reserve {
            self.ran_out_of_room(&"no journal segment can be made");
        }
        // Each segment names the streams that it speaks of, and where their readers are: should the views be lost, what
        // the journal still holds goes to the right ones.
        let names = self.names();
        self.internal.push_front(names);
    }

    fn names(&self) -> Internal {
        let mut names = Internal::default();
        // Should the end of the segment before be damaged one day, this says what stood there.
        names.views.push((Bytes::from_static(keys::LAST), Some(keys::position(self.durable_position))));
        // In front of the cursors: who has come back since is here as well.
        names.views.extend(self.superseded.iter().map(|key| (key.clone(), None)));
        for stream in &self.catalog.streams {
            names.views.push((keys::stream(stream.no), Some(stream.encode())));
        }
        for (no, name) in self.catalog.uplinks.iter().zip(&self.spec.uplinks) {
            names.views.push((keys::uplink(*no), Some(Bytes::copy_from_slice(name.as_bytes()))));
        }
        if self.spaces.has_moved() {
            names.views.push((Bytes::from_static(keys::SPACES), Some(self.spaces.encode())));
        }
        for consumer in self.catalog.consumers.iter().filter(|consumer| !consumer.is_vacant()) {
            if let Some(until) = consumer.until {
                let key = keys::leaving(consumer.stream_no, consumer.uplink);
                names.views.push((key, Some(keys::position(until))));
            }
            let acked = keys::position(consumer.acked);
            names.views.push((keys::cursor(consumer.stream_no, consumer.uplink), Some(acked)));
        }
        names
    }

    pub(crate) fn has_internal(&self) -> bool {
        !self.internal.is_empty()
    }

    pub(crate) fn commit_internal(&mut self, internal: Internal) {
        self.internal.push_back(internal);
    }

    fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.room.returned)
    }

    /// The views as they are: a full disk may keep them behind the answered commits ([`Tables`]).
    pub(crate) fn views(&self) -> &dyn Views {
        &*self.tables.views
    }

    /// The views as the answered commits say, or why they cannot be had.
    pub(crate) fn views_now(&mut self) -> Result<&dyn Views, BackingError> {
        self.tables.catch_up()?;
        Ok(&*self.tables.views)
    }

    pub(crate) fn spare_segments_max(&self) -> usize {
        self.limits.spare_segments
    }

    pub(crate) fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.tables.mailboxes.len(session.0)
    }

    pub(crate) fn mailboxes(&self) -> &Mailboxes {
        &self.tables.mailboxes
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let c = &self.counters;
        StoreStats {
            commits: c.commits,
            syncs: c.syncs,
            events: c.events,
            bytes_written: c.journal_bytes + c.views_written + c.generations_written,
            journal_segments: self.segments.len() as u64,
            generations: self.generations.len() as u64,
            disk_bytes: self.disk_bytes(),
            epoch: self.epoch,
            quarantined: c.quarantined,
            mailbox_bytes: self.tables.mailboxes.disk_bytes(),
            short_of_room: self.is_short_of_room(),
        }
    }
}

/// An I/O error as commits report it.
pub(crate) fn commit_io(error: &Arc<io::Error>) -> CommitError {
    CommitError::Io(Arc::clone(error))
}
