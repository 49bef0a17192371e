//! What was found in the files, and nothing about what it means.

use crate::backing::{Extent, Lsn};
use crate::engine::inspect::Disagreement;
use crate::journal::reader::Gap;
use crate::spill::sums::Checked;
use crate::views::inspect::SideState;
use eventmesh_edge_core::event::Position;

/// State of one copy of a small record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    Whole,
    Missing,
    Unreadable,
}

/// One of the two meta files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaFact {
    pub(crate) file: &'static str,
    pub(crate) state: Copy,
    pub(crate) epoch: Option<u32>,
}

/// One believed segment, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFact {
    pub(crate) number: u32,
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// The header at the front and the one at the end.
    pub(crate) headers: [Copy; 2],
    /// The newest one: its end is open, and what does not check there is a torn tail.
    pub(crate) newest: bool,
    /// All that consumers need of it lies in a generation.
    pub(crate) sealed: bool,
    pub(crate) first_lsn: Lsn,
    /// Last good commit; before `first_lsn` for none.
    pub(crate) last_lsn: Lsn,
    pub(crate) commits: u64,
    pub(crate) events: u64,
    /// Behind the last good frame.
    pub(crate) end: u32,
    pub(crate) torn_bytes: u64,
    /// Its last frame is the mark of an orderly end.
    pub(crate) clean_end: bool,
    pub(crate) gaps: Vec<Gap>,
    /// Records whose checksum holds and which make no sense all the same: where, and which.
    pub(crate) senseless: Vec<(u32, Option<Position>)>,
}

/// The directory `journal`.
#[derive(Clone, Debug, Default)]
pub(crate) struct JournalFacts {
    /// Oldest first.
    pub(crate) segments: Vec<SegmentFact>,
    pub(crate) foreign: Vec<String>,
    /// In use once, both headers gone or the file missing; with whether it is there.
    pub(crate) unreadable: Vec<(u32, String, bool)>,
}

/// One directory below `generations`.
#[derive(Clone, Debug)]
pub(crate) struct GenerationFact {
    pub(crate) number: u64,
    pub(crate) dir: String,
    pub(crate) sums: Checked,
    /// The file `extents`; `None` if it is missing.
    pub(crate) extents_whole: Option<bool>,
    /// What reading all of it came to, where that had to be tried; the error if it does not open.
    pub(crate) read: Option<Result<ReadFact, String>>,
}

/// Every record of a generation was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadFact {
    pub(crate) events: u64,
    pub(crate) lost: Vec<Extent>,
}

/// One side of the views.
#[derive(Clone, Debug)]
pub(crate) struct SideFact {
    pub(crate) label: &'static str,
    pub(crate) state: SideState,
}

/// What the directory as a whole says once everything was put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct WholeFacts {
    /// Last position that any durable event has.
    pub(crate) last_position: Position,
    /// Stream, uplink, cursor.
    pub(crate) cursors: Vec<(String, Option<String>, Position)>,
    /// Mailboxes whose figures are wrong.
    pub(crate) mailboxes: Vec<Disagreement>,
    /// Ledger lines whose range or count cannot be: stream and uplink as named, reason.
    pub(crate) ledger: Vec<String>,
    /// Generations that the views know of and the disk has not, with their events.
    pub(crate) missing_generations: Vec<(u64, Vec<Extent>)>,
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) format: Copy,
    pub(crate) meta: Vec<MetaFact>,
    pub(crate) journal: JournalFacts,
    pub(crate) generations: Vec<GenerationFact>,
    pub(crate) leftovers: Vec<String>,
    pub(crate) sides: Vec<SideFact>,
    pub(crate) whole: Option<WholeFacts>,
    /// Names that are none of a store's.
    pub(crate) strange: Vec<String>,
}
