//! What a look at a store comes to, for people and for programs.

use eventmesh_edge_core::event::Position;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// What a power cut or a kill leaves of a write that was under way: nobody was answered for it (P1).
    Torn,
    /// Bytes are not what was written, or say what cannot be.
    Damage,
}

/// Which kind of file it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// `format`.
    Format,
    /// `meta-a`, `meta-b`.
    Meta,
    /// The header of a journal segment.
    JournalHeader,
    /// The frames of a journal segment.
    JournalFrame,
    /// A file of a sealed generation's database.
    Generation,
    /// Its description, the file `extents`.
    GenerationExtents,
    /// Its checksums, the file `sums`.
    GenerationSums,
    /// A database of the views.
    Views,
    /// The proof of one.
    ViewsProof,
    /// What the files say together.
    Whole,
    /// A file of somebody else.
    Other,
}

/// Events that are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many at most, of all streams; `None` where nothing tells.
    pub events: Option<u64>,
    /// First position, `epoch.counter`.
    pub first: String,
    /// Last one; `None` where nothing tells.
    pub last: Option<String>,
}

impl Lost {
    pub(crate) fn range(first: Position, last: Option<Position>, events: Option<u64>) -> Lost {
        Lost { events, first: first.to_string(), last: last.map(|last| last.to_string()) }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// In which kind of file.
    pub kind: FileKind,
    /// Which file or directory, relative to the data directory.
    pub file: String,
    /// From this byte, where it is known.
    pub offset: Option<u64>,
    /// So many bytes.
    pub bytes: Option<u64>,
    /// What is there.
    pub what: String,
    /// What the next start, or `store repair`, makes of it.
    pub effect: String,
    /// What is gone with it.
    pub lost: Option<Lost>,
}

impl Finding {
    pub(crate) fn new(severity: Severity, kind: FileKind, file: impl Into<String>) -> Finding {
        Finding {
            severity,
            kind,
            file: file.into(),
            offset: None,
            bytes: None,
            what: String::new(),
            effect: String::new(),
            lost: None,
        }
    }

    pub(crate) fn at(mut self, offset: u64, bytes: u64) -> Finding {
        (self.offset, self.bytes) = (Some(offset), Some(bytes));
        self
    }

    pub(crate) fn what(mut self, what: impl Into<String>) -> Finding {
        self.what = what.into();
        self
    }

    pub(crate) fn effect(mut self, effect: impl Into<String>) -> Finding {
        self.effect = effect.into();
        self
    }

    pub(crate) fn lost(mut self, lost: Lost) -> Finding {
        self.lost = Some(lost);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Note => "note",
            Severity::Torn => "torn",
            Severity::Damage => "DAMAGE",
        };
        write!(f, "{word}: {}", self.file)?;
        if let (Some(offset), Some(bytes)) = (self.offset, self.bytes) {
            write!(f, " at {offset}, {bytes} bytes")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(lost) = &self.lost {
            match lost.events {
                Some(events) => write!(f, "; up to {events} events lost")?,
                None => write!(f, "; events lost")?,
            }
            match &lost.last {
                Some(last) => write!(f, ", positions {} to {last}", lost.first)?,
                None => write!(f, " from position {}", lost.first)?,
            }
        }
        if !self.effect.is_empty() {
            write!(f, "; {}", self.effect)?;
        }
        Ok(())
    }
}

/// What [`super::Inspection::verify`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Nothing is damaged.
    pub sound: bool,
    /// A node has the store: only what never changes was looked at.
    pub running: bool,
    /// Journal segments that were read to their end.
    pub segments: u64,
    /// Commits in them.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// Sealed generations that were checked.
    pub generations: u64,
    /// Bytes read.
    pub bytes: u64,
    /// All that was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}
