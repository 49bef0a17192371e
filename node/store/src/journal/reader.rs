//! Reads frames of one segment from disk, chunk by chunk, stepping over damage.

use super::frame::{Base, FRAME_HEADER, Found, Frame, Item, check};
use super::header::HEADER_BYTES;
use crate::backing::Lsn;
use crate::codec::as_u32;
use crate::disk::DiskFile;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::event::Position;
use std::io;
use std::sync::Arc;

/// Bytes read at once unless a frame is longer.
const CHUNK_BYTES: usize = 128 << 10;
/// What cannot be read is tried again in pieces of this size; a piece that fails counts as zeros.
const SECTOR_BYTES: usize = 4096;
/// Checksummed bytes that one search for the next good frame may cost. Plausible lengths are rare outside frames, so
/// this is never met by accident; contents made to slow the search down meet it.
const SEARCH_BYTES: usize = 64 << 20;

/// Where a segment's frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Known from the segment after it, or because this process wrote it.
    At(u32),
    /// The newest segment of an earlier run: at most here, and only after a torn tail is cut.
    Open(u32),
}

impl End {
    pub(crate) fn limit(self) -> u32 {
        match self {
            End::At(end) | End::Open(end) => end,
        }
    }
}

/// All that is needed to read a segment; cheap to clone, valid while the segment is not recycled.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) base: Base,
    pub(crate) end: End,
}

/// A damaged stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// Last good commit and the position behind its last event; the segment's first numbers if there is none.
    pub(crate) before: (Lsn, Position),
    /// First good commit and its first position, if there is one in this segment.
    pub(crate) after: Option<(Lsn, Position)>,
}

/// A frame and where it stands. `body` shares the chunk it was read with.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) offset: u32,
    pub(crate) body: Bytes,
}

impl Located {
    pub(crate) fn next_offset(&self) -> u32 {
        self.offset + as_u32(FRAME_HEADER + self.body.len())
    }
}

/// Walks the frames of a segment.
pub(crate) struct FrameCursor {
    source: Source,
    chunk_bytes: usize,
    chunk: Bytes,
    chunk_at: u32,
    offset: u32,
    last: Option<Bytes>,
    done: bool,
    pub(crate) gaps: Vec<Gap>,
    /// Bytes behind the end of an open segment that look like a torn group.
    pub(crate) torn_bytes: u64,
    pub(crate) clean_end: bool,
    strict: bool,
    /// Why a strict cursor stopped.
    pub(crate) error: Option<io::Error>,
}

impl FrameCursor {
    /// From the first frame.
    pub(crate) fn new(source: Source) -> Self {
        Self::from(source, HEADER_BYTES)
    }

    /// From a frame's start.
    pub(crate) fn from(source: Source, offset: u32) -> Self {
        FrameCursor {
            source,
            chunk_bytes: CHUNK_BYTES,
            chunk: Bytes::new(),
            chunk_at: offset,
            offset,
            last: None,
            done: false,
            gaps: Vec::new(),
            torn_bytes: 0,
            clean_end: false,
            strict: false,
            error: None,
        }
    }

    /// A read that fails ends the walk with [`FrameCursor::error`] instead of counting as damage: for a running store,
    /// where the caller can come again.
    pub(crate) fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// With another chunk size.
    pub(crate) fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes;
        self
    }

    /// Where the next frame starts; after the end, where the segment's good part ends.
    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// The next good frame.
    pub(crate) fn next(&mut self) -> Option<Located> {
        while !self.done {
            let (body, need) = match check(self.window(), self.room(), self.source.base.seed) {
                Found::Frame(body) => (Some(self.chunk.slice_ref(body)), 0),
                Found::Cut(need) => (None, need),
                Found::Bad | Found::End => (None, 0),
            };
            if let Some(body) = body {
                if let Some(located) = self.take(body) {
                    return Some(located);
                }
            } else if need == 0 || need > self.room() || !self.fill(need) {
                self.step_over();
            }
        }
        None
    }

    fn take(&mut self, body: Bytes) -> Option<Located> {
        let Ok(frame) = Frame::parse(&body, &self.source.base) else {
            self.step_over();
            return None;
        };
        self.clean_end = frame.is_clean_end();
        self.last = Some(body.clone());
        let located = Located { offset: self.offset, body };
        self.offset = located.next_offset();
        Some(located)
    }

    fn room(&self) -> usize {
        self.source.end.limit().saturating_sub(self.offset) as usize
    }

    fn window(&self) -> &[u8] {
        let skip = self.offset.saturating_sub(self.chunk_at) as usize;
        let window = self.chunk.get(skip..).unwrap_or_default();
        window.get(..self.room()).unwrap_or(window)
    }

    /// Reads on; false if the file is shorter than it should be.
    fn fill(&mut self, need: usize) -> bool {
        let want = need.max(self.chunk_bytes).min(self.room());
        self.chunk = self.read(want);
        self.chunk_at = self.offset;
        self.chunk.len() >= need
    }

    fn read(&mut self, want: usize) -> Bytes {
        let mut buf = BytesMut::zeroed(want);
        match self.source.file.read_at(u64::from(self.offset), &mut buf) {
            Ok(n) => buf.truncate(n),
            Err(error) if self.strict => {
                self.error = Some(error);
                self.done = true;
                buf.clear();
            }
            Err(error) => {
                tracing::warn!(%error, offset = self.offset, want, "journal cannot be read here, trying by sectors");
                buf = read_sectors(&*self.source.file, self.offset, want);
            }
        }
        buf.freeze()
    }

    /// No good frame at `offset`: the end, or damage to step over.
    fn step_over(&mut self) {
        let at_end = self.room() == 0;
        let limit = self.source.end.limit();
        let rest = if at_end { Bytes::new() } else { self.read(self.room()) };
        if self.error.is_some() {
            return;
        }
        match self.source.end {
            End::At(_) if at_end => self.done = true,
            End::At(_) => {
                let next = search(&rest, &self.source.base, self.before().0, false);
                self.gap_to(next, limit);
            }
            End::Open(_) => match search(&rest, &self.source.base, self.before().0, true) {
                Some(next) => self.gap_to(Some(next), limit),
                None => {
                    self.torn_bytes = torn_bytes(&rest);
                    self.done = true;
                }
            },
        }
    }

    /// The last good commit and the position behind its last event.
    pub(crate) fn before(&self) -> (Lsn, Position) {
        let base = &self.source.base;
        let none = (Lsn(base.first_lsn.0.saturating_sub(1)), base.first_position);
        let Some(frame) = self.last.as_ref().and_then(|body| Frame::parse(body, base).ok()) else {
            return none;
        };
        let events = frame.items().take_while(|item| matches!(item, Ok(Item::Event(_)))).count();
        (frame.lsn, Position(frame.first_position.0 + events as u64))
    }

    fn gap_to(&mut self, next: Option<(usize, Lsn, Position)>, limit: u32) {
        let to = next.map_or(limit, |(skip, _, _)| self.offset + as_u32(skip));
        let after = next.map(|(_, lsn, position)| (lsn, position));
        self.gaps.push(Gap { from: self.offset, to, before: self.before(), after });
        self.offset = to;
        self.chunk = Bytes::new();
        self.chunk_at = to;
        self.done = next.is_none();
    }
}

/// The next frame that checks, at least one byte further; `group_start`: only one that begins a group.
fn search(rest: &Bytes, base: &Base, last: Lsn, group_start: bool) -> Option<(usize, Lsn, Position)> {
    let mut budget = SEARCH_BYTES;
    let mut skip = 1;
    while let Some(window) = rest.get(skip..).filter(|w| w.len() > FRAME_HEADER) {
        if let Some(zeros) = leading_zeros(window) {
            skip += zeros;
            continue;
        }
        let plausible = plausible_len(window);
        budget = budget.checked_sub(plausible)?;
        if plausible > 0
            && let Found::Frame(body) = check(window, window.len(), base.seed)
            && let Ok(frame) = Frame::parse(body, base)
            && frame.lsn > last
            && (!group_start || frame.is_group_start())
        {
            return Some((skip, frame.lsn, frame.first_position));
        }
        skip += 1;
    }
    None
}

/// How far a run of zeros can be skipped, keeping the four bytes that a length may need.
fn leading_zeros(window: &[u8]) -> Option<usize> {
    let zeros = window.iter().position(|b| *b != 0).unwrap_or(window.len());
    (zeros > 4).then(|| zeros - 3)
}

fn plausible_len(window: &[u8]) -> usize {
    let len = window.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize);
    if len > 0 && len <= window.len() - FRAME_HEADER { len } else { 0 }
}

/// A clean end has zeros behind it ([`super::TERMINATOR`]); else what stands there began as a frame.
fn torn_bytes(rest: &[u8]) -> u64 {
    let Some(head) = rest.first_chunk::<FRAME_HEADER>() else { return rest.len() as u64 };
    if *head == [0; FRAME_HEADER] {
        return 0;
    }
    let claimed = plausible_len(rest).max(1);
    (FRAME_HEADER + claimed).min(rest.len()) as u64
}

/// Sector by sector, with zeros for what the device does not give (P6).
fn read_sectors(file: &dyn DiskFile, offset: u32, want: usize) -> BytesMut {
    let mut buf = BytesMut::zeroed(want);
    let mut at = u64::from(offset);
    for piece in buf.chunks_mut(SECTOR_BYTES) {
        if file.read_at(at, piece).is_err() {
            piece.fill(0);
        }
        at += piece.len() as u64;
    }
    buf
}
