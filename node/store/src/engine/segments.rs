//! The segments in use, as the engine knows them.

use super::ahead::Mark;
use super::damage::Noted;
use crate::backing::{Extent, Lsn, StreamNo};
use crate::journal::frame::Base;
use crate::journal::reader::{End, Source};
use crate::journal::writer::Active;
use eventmesh_edge_core::event::Position;
use std::sync::Arc;

/// One segment: where its records are and whose.
pub(crate) struct Segment {
    pub(crate) source: Source,
    pub(crate) bytes: u32,
    pub(crate) first_lsn: Lsn,
    /// Last durable commit in it; before `first_lsn` while there is none.
    pub(crate) last_lsn: Lsn,
    pub(crate) last_position: Position,
    /// The last position that was durable when it was opened, as its first frame says.
    pub(crate) noted: Option<Noted>,
    pub(crate) extents: Vec<Extent>,
    /// What somebody needs of it lies in a generation.
    pub(crate) sealed: bool,
    /// Readers hold clones; a segment is not recycled under them.
    pub(crate) pin: Arc<()>,
    /// Damaged stretches that were counted, by their start.
    pub(crate) counted_gaps: Vec<u32>,
}

impl Segment {
    /// The one that takes frames from now on; `last` is the last durable position.
    pub(crate) fn opened(active: &Active, last: Position) -> Segment {
        let header = &active.header;
        let source = Source {
            number: header.number,
            file: Arc::clone(&active.file),
            base: active.base(),
            end: End::At(active.offset),
        };
        let noted = Noted { position: last, is_exact: true };
        Segment { noted: Some(noted), ..Segment::new(source, header.size) }
    }

    pub(crate) fn new(source: Source, bytes: u32) -> Segment {
        let Base { first_lsn, first_position, .. } = source.base;
        Segment {
            source,
            bytes,
            first_lsn,
            last_lsn: Lsn(first_lsn.0.saturating_sub(1)),
            last_position: Position(first_position.0.saturating_sub(1)),
            noted: None,
            extents: Vec::new(),
            sealed: false,
            pin: Arc::new(()),
            counted_gaps: Vec::new(),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.source.number
    }

    pub(crate) fn add(&mut self, stream: StreamNo, mark: &Mark) {
        self.last_position = self.last_position.max(mark.position);
        if stream.0 == 0 {
            return;
        }
        match self.extents.iter_mut().find(|e| e.stream == stream) {
            Some(extent) => widen(extent, mark),
            None => self.extents.push(Extent {
                stream,
                first: mark.position,
                last: mark.position,
                events: 1,
                bytes: u64::from(mark.bytes),
                oldest_ms: mark.received_ms,
                newest_ms: mark.received_ms,
            }),
        }
    }

    pub(crate) fn extent(&self, stream: StreamNo) -> Option<&Extent> {
        self.extents.iter().find(|e| e.stream == stream)
    }

    pub(crate) fn is_read(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }
}

fn widen(extent: &mut Extent, mark: &Mark) {
    extent.last = mark.position;
    extent.events += 1;
    extent.bytes += u64::from(mark.bytes);
    extent.oldest_ms = extent.oldest_ms.min(mark.received_ms);
    extent.newest_ms = extent.newest_ms.max(mark.received_ms);
}

/// A sealed generation as the engine knows it.
#[derive(Clone, Debug)]
pub(crate) struct GenerationInfo {
    pub(crate) number: u64,
    pub(crate) extents: Vec<Extent>,
}

impl GenerationInfo {
    pub(crate) fn extent(&self, stream: StreamNo) -> Option<&Extent> {
        self.extents.iter().find(|e| e.stream == stream)
    }
}
