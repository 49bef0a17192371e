//! Looking at a store: what it holds, whether every checksum holds, and what a start would make of damage.
//!
//! ```text
//!  files ─▶ walk ─▶ facts ─▶ judge ─▶ findings            verify
//!    └────▶ the engine, on a site that cannot write ─▶ report, events      stats, dump, export, repair --dry-run
//! ```
//! Nothing here writes into the data directory. A stopped store is opened by the same code as at a start ([`crate::engine`]),
//! over a disk that only reads, generations that are opened where they lie only if their `sums` hold, and views that are a
//! copy in a scratch directory: so what is said about it is what a start would find, and not another program's opinion. A
//! running node answers for itself ([`crate::JournalStore::report`], [`crate::JournalStore::read_stream`]); beside it only
//! files that never change are looked at ([`verify_running`]).
//!
//! The judgement ([`judge`]) is a function of facts and does no I/O.

mod census;
mod disk;
mod facts;
mod finding;
mod judge;
mod open;
mod repair;
pub(crate) mod report;
pub(crate) mod scratch;
mod verify;
mod walk;

pub use self::finding::{FileKind, Finding, Lost, Severity, Verdict};
pub use self::open::{EventPage, InspectOptions, Inspection};
pub use self::repair::{Repaired, repair};
pub use self::report::{
    ConsumerReport, DiskReport, GenerationReport, LedgerReport, PendingLoss, StateReport, StoreReport,
    StreamReport,
};
pub use self::verify::verify_running;

use crate::backing::BackingError;
use crate::directory::OpenError;
use eventmesh_edge_core::ports::store::ReadError;

/// Why a store cannot be looked at. Damage is not among the reasons.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Not there, not readable, in use, of a later version: the message says what to do.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk, or the scratch directory, said no.
    #[error("{0}")]
    Backing(#[from] BackingError),
    /// Events could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Told how far a long look has come: bytes done, bytes in all, and what is looked at.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64, &str);

/// Counts for [`Tell`].
pub(crate) struct Progress<'a> {
    done: u64,
    total: u64,
    tell: Tell<'a>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(total: u64, tell: Tell<'a>) -> Progress<'a> {
        Progress { done: 0, total, tell }
    }

    pub(crate) fn add(&mut self, bytes: u64, what: &str) {
        self.done += bytes;
        (self.tell)(self.done, self.total.max(self.done), what);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done
    }
}
