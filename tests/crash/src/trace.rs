//! What was done to a directory, in order: operations on nodes (files and directories), each with the moments at which
//! it began and ended, and the workload's markers among them.
//!
//! Nodes are numbers, not paths, so that a file keeps what was written to it through renames. Node 0 is the directory
//! itself.

use crate::marks::Mark;
use crate::model::Said;

/// A file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

/// The data directory.
pub const ROOT: Node = Node(0);

/// Bytes whose zeros at the end are only counted: sled and the journal write many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data {
    bytes: Vec<u8>,
    len: usize,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {} before the zeros", self.len, self.bytes.len())
    }
}

impl Data {
    /// From what was written.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let kept = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(kept);
        bytes.shrink_to_fit();
        Data { bytes, len }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.bytes.truncate(self.len);
    }

    /// All of it but the zeros at the end.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        &self.bytes
    }

    /// True if all of it is zero.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Copies a range into `out`, which has its length.
    pub fn copy(&self, range: std::ops::Range<usize>, out: &mut [u8]) {
        out.fill(0);
        let from = range.start.min(self.bytes.len());
        let to = range.end.min(self.bytes.len());
        if let (Some(source), Some(target)) = (self.bytes.get(from..to), out.get_mut(..to - from)) {
            target.copy_from_slice(source);
        }
    }

    /// All of it.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = self.bytes.clone();
        out.resize(self.len, 0);
        out
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new node under a name.
    Link {
        /// In which directory.
        dir: Node,
        /// Under which name.
        name: String,
        /// What.
        node: Node,
        /// True for a directory.
        is_dir: bool,
    },
    /// A name is gone.
    Unlink {
        /// From which directory.
        dir: Node,
        /// Which name.
        name: String,
    },
    /// A name becomes another one, replacing what was there.
    Rename {
        /// From which directory.
        from: Node,
        /// Which name.
        name: String,
        /// Into which directory.
        to: Node,
        /// Under which name.
        new: String,
    },
    /// Bytes.
    Write {
        /// Which file.
        node: Node,
        /// Where.
        offset: usize,
        /// What.
        data: Data,
    },
    /// ftruncate, or O_TRUNC.
    SetLen {
        /// Which file.
        node: Node,
        /// Bytes.
        len: usize,
    },
    /// fsync or fdatasync of a file or a directory.
    Sync {
        /// Which.
        node: Node,
        /// fdatasync: what our own code calls on files. sled calls fsync.
        data_only: bool,
    },
    /// sync_file_range: promises nothing.
    SyncRange {
        /// Which file.
        node: Node,
    },
}

/// An operation, with what it was done to at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub op: Op,
    /// Path below the data directory when it began.
    pub path: String,
}

/// What a timeline consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The step with this index began.
    Begin(usize),
    /// It returned.
    End(usize),
    /// The process ended first, and it had no effect.
    Never(usize),
    /// The workload said something.
    Mark(Mark),
    /// The process ended, one way or the other; another life begins.
    Life,
}

/// A recording.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// All operations.
    pub steps: Vec<Step>,
    /// All moments.
    pub moments: Vec<Moment>,
    /// So many of the operations were never made: they stand for a directory that was there, and is durable.
    pub adopted: usize,
    /// So many of the moments are not to be cut at: they stand for what was there before.
    pub begins: usize,
    /// What had been said before the first of them.
    pub before: Said,
}

impl Moment {
    /// The step that ended, one way or the other.
    #[must_use]
    pub fn ended(&self) -> Option<usize> {
        match self {
            Moment::End(step) | Moment::Never(step) => Some(*step),
            _ => None,
        }
    }
}
