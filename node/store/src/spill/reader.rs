//! Reading one sealed generation: forward, with remembered places, around damage.
//!
//! sled cannot be asked "what lies behind the page that I cannot read", but the manifest's blocks can: reading starts at
//! the block that holds the wanted position, and where sled fails, at the block after it. What a block should have
//! held and did not yield is the loss, counted exactly.

use super::chunk::{self, Head, Key, Records};
use super::files::damaged;
use super::manifest::{Block, Manifest};
use super::seal::{self, EXTENTS_FILE, WINDOW_BYTES};
use super::sled_dir::{Entries, SledDir};
use crate::backing::{BackingError, Extent, StreamNo};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use sled::IVec;
use std::fs;
use std::path::Path;

/// Readers (stream and uplink) whose place is remembered. One more than this seeks at each read.
const PLACES: usize = 8;

/// A generation open for reading.
pub(super) struct Reader {
    sled: SledDir,
    manifest: Manifest,
    /// Most recently used last.
    places: Vec<Place>,
    /// Value bytes read since the last open.
    in_window: usize,
}

/// Where a reader of one stream stopped.
struct Place {
    stream: StreamNo,
    /// Last position given out or lost.
    at: Position,
    /// Records of the current chunk that are left.
    records: Option<Records>,
    /// Index of the block being read, and what its chunks have accounted for so far.
    block: usize,
    seen_events: u64,
    seen_bytes: u64,
    /// The entry that ended the block before.
    ahead: Option<(IVec, IVec)>,
    /// The entries behind it; `None` after a reopen or a seek.
    entries: Option<Entries>,
    /// Where to seek to then.
    next_key: Vec<u8>,
}

/// A block with where it ends.
#[derive(Clone, Copy)]
struct Bounds {
    block: Block,
    /// First position of the next block, if it is not the last one.
    next: Option<Position>,
    /// Last position of the block at most.
    last: Position,
    newest_ms: u64,
}

/// A chunk whose head is sound.
struct Chunk {
    head: Head,
    key: IVec,
    value: IVec,
}

/// One step along a stream.
enum Step {
    /// A chunk with records behind the place.
    Records(Records),
    /// Something could not be read.
    Lost(Extent),
    End,
}

/// What [`Reader::read`] may still take.
struct Budget {
    events: usize,
    bytes: u64,
    taken: usize,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader, BackingError> {
        let sled = SledDir::open(path)?;
        let beside = fs::read(path.join(EXTENTS_FILE)).ok().and_then(|bytes| Manifest::decode(&bytes));
        let manifest = match beside {
            Some(manifest) => manifest,
            None => seal::read_manifest(&sled)?.ok_or_else(|| damaged(path, "its manifest is lost"))?,
        };
        Ok(Reader { sled, manifest, places: Vec::new(), in_window: 0 })
    }

    /// What it holds, stream by stream.
    pub(super) fn extents(&self) -> Vec<Extent> {
        self.manifest.summary.extents.clone()
    }

    /// See [`crate::backing::Generations::read`].
    pub(super) fn read(
        &mut self,
        stream: StreamNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        out: &mut Vec<(Position, u32, Bytes)>,
    ) -> Result<Vec<Extent>, BackingError> {
        let mut lost = Vec::new();
        let Some(mut place) = self.place(stream, after) else { return Ok(lost) };
        let mut budget = Budget { events: max_events, bytes: max_bytes as u64, taken: 0 };
        while place.give(&mut budget, out) {
            match self.step(&mut place)? {
                Step::Records(records) => place.records = Some(records),
                Step::Lost(extent) => {
                    place.at = place.at.max(extent.last);
                    lost.push(extent);
                }
                Step::End => break,
            }
        }
        self.remember(place);
        Ok(lost)
    }

    /// See [`crate::backing::Generations::count_after`]: sums of whole blocks, and the heads of the one that `after` cuts.
    pub(super) fn count_after(
        &mut self,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let mut count = Count::default();
        let Some(mut place) = self.fresh_place(stream, after) else { return Ok(count.into_tuple()) };
        let Some(bounds) = self.bounds(&place) else { return Ok(count.into_tuple()) };
        while let Some(chunk) = self.next_chunk(&mut place, &bounds)? {
            if chunk.head.first > after {
                count.add(chunk.head.events, chunk.head.bytes, chunk.head.oldest_ms);
            } else if chunk.head.last > after {
                match self.unpack(&mut place, &chunk)? {
                    Some(records) => count.add_behind(records, after),
                    None => count.add(chunk.head.events, chunk.head.bytes, chunk.head.oldest_ms),
                }
            }
        }
        if let Some(lost) = place.unseen(&bounds) {
            count.add(lost.events, lost.bytes, lost.oldest_ms);
        }
        let blocks = self.manifest.stream(stream).map(|(_, blocks)| blocks).unwrap_or_default();
        for block in blocks.get(place.block + 1..).unwrap_or_default() {
            count.add(block.events, block.bytes, block.oldest_ms);
        }
        Ok(count.into_tuple())
    }

    /// The remembered place, or a new one. `None` if nothing lies behind `after`.
    fn place(&mut self, stream: StreamNo, after: Position) -> Option<Place> {
        let known = self.places.iter().position(|place| place.stream == stream && place.at == after);
        match known {
            Some(known) => Some(self.places.remove(known)),
            None => self.fresh_place(stream, after),
        }
    }

    /// A place at the start of the block that holds what comes after `after`.
    fn fresh_place(&self, stream: StreamNo, after: Position) -> Option<Place> {
        let (extent, blocks) = self.manifest.stream(stream)?;
        if after >= extent.last {
            return None;
        }
        let block = blocks.partition_point(|block| block.first <= after).saturating_sub(1);
        let next_key = Key::Chunk(stream, blocks.get(block)?.first).encode();
        Some(Place {
            stream,
            at: after,
            records: None,
            block,
            seen_events: 0,
            seen_bytes: 0,
            ahead: None,
            entries: None,
            next_key,
        })
    }

    fn remember(&mut self, place: Place) {
        if self.places.len() >= PLACES {
            self.places.remove(0);
        }
        self.places.push(place);
    }

    fn bounds(&self, place: &Place) -> Option<Bounds> {
        let (extent, blocks) = self.manifest.stream(place.stream)?;
        let block = *blocks.get(place.block)?;
        let next = blocks.get(place.block + 1).map(|next| next.first);
        let last = next.map_or(extent.last, |next| Position(next.0.saturating_sub(1)));
        Some(Bounds { block, next, last, newest_ms: extent.newest_ms })
    }

    /// Goes on to the next chunk that has records behind the place, or to the next loss.
    fn step(&mut self, place: &mut Place) -> Result<Step, BackingError> {
        while let Some(bounds) = self.bounds(place) {
            self.keep_window(place)?;
            match self.next_chunk(place, &bounds)? {
                Some(chunk) if chunk.head.last <= place.at => {}
                Some(chunk) => {
                    let lost = chunk.head.extent(place.stream, place.at);
                    return Ok(self.unpack(place, &chunk)?.map_or(Step::Lost(lost), Step::Records));
                }
                None => {
                    let lost = place.unseen(&bounds);
                    place.enter_next_block(&bounds);
                    if let Some(lost) = lost {
                        return Ok(Step::Lost(lost));
                    }
                }
            }
        }
        Ok(Step::End)
    }

    /// The next chunk of the block. `None` at its end and where it cannot be read any further.
    fn next_chunk(&mut self, place: &mut Place, bounds: &Bounds) -> Result<Option<Chunk>, BackingError> {
        while let Some((key, value)) = self.next_entry(place)? {
            let first = match Key::parse(&key) {
                Some(Key::Chunk(stream, first)) if stream == place.stream => first,
                // A part of a chunk that was passed over.
                Some(Key::Part(stream, ..)) if stream == place.stream => continue,
                _ => return Ok(None),
            };
            if bounds.next.is_some_and(|next| first >= next) {
                place.ahead = Some((key, value));
                return Ok(None);
            }
            let Some((head, _)) = chunk::read_head(&key, first, &value) else {
                place.entries = None;
                return Ok(None);
            };
            place.seen_events += head.events;
            place.seen_bytes += head.bytes;
            return Ok(Some(Chunk { head, key, value }));
        }
        Ok(None)
    }

    /// The records of a chunk and its parts; `None` if any is damaged.
    fn unpack(&mut self, place: &mut Place, chunk: &Chunk) -> Result<Option<Records>, BackingError> {
        let head = &chunk.head;
        let mut raw = Vec::new();
        let data = chunk::read_head(&chunk.key, head.first, &chunk.value).map(|(_, data)| data);
        let mut whole = data.and_then(|data| data.unpack(&mut raw)).is_some();
        for part in 1..head.parts {
            let Some((key, value)) = self.next_entry(place)? else { return Ok(None) };
            if Key::parse(&key) != Some(Key::Part(place.stream, head.first, part)) {
                place.ahead = Some((key, value));
                return Ok(None);
            }
            whole = whole && chunk::read_part(&key, &value).and_then(|data| data.unpack(&mut raw)).is_some();
        }
        Ok(whole.then(|| Records::new(head.first, raw)))
    }

    /// The next entry of the database. `None` at its end and where sled cannot go on.
    fn next_entry(&mut self, place: &mut Place) -> Result<Option<(IVec, IVec)>, BackingError> {
        if let Some(ahead) = place.ahead.take() {
            return Ok(Some(ahead));
        }
        match self.advance(place) {
            // A panic may have left sled in disorder.
            Err(BackingError::Damaged { .. }) => self.reopen(place).map(|()| None),
            outcome => outcome,
        }
    }

    fn advance(&mut self, place: &mut Place) -> Result<Option<(IVec, IVec)>, BackingError> {
        let entries = match place.entries.as_mut() {
            Some(entries) => entries,
            None => place.entries.insert(self.sled.range_from(&place.next_key)?),
        };
        let next = entries.next_entry()?;
        if let Some((key, value)) = &next {
            self.in_window += value.len();
            place.next_key.clear();
            place.next_key.extend_from_slice(key);
            place.next_key.push(0);
        }
        Ok(next)
    }

    /// Reopens the database when enough was read: what bounds its cache.
    fn keep_window(&mut self, place: &mut Place) -> Result<(), BackingError> {
        if self.in_window > WINDOW_BYTES { self.reopen(place) } else { Ok(()) }
    }

    fn reopen(&mut self, place: &mut Place) -> Result<(), BackingError> {
        self.in_window = 0;
        place.entries = None;
        for place in &mut self.places {
            place.entries = None;
        }
        self.sled.reopen()
    }
}

impl Place {
    /// Gives out records of the current chunk. True if the chunk is used up and more may be taken.
    fn give(&mut self, budget: &mut Budget, out: &mut Vec<(Position, u32, Bytes)>) -> bool {
        while let Some((records, record)) =
            self.records.as_mut().and_then(|r| r.peek().map(|record| (r, record)))
        {
            let size = u64::from(record.stored_bytes);
            if record.position > self.at {
                let over = budget.taken > 0 && size > budget.bytes;
                if over || budget.taken >= budget.events {
                    return false;
                }
                out.push((record.position, record.stored_bytes, records.body(&record)));
                self.at = record.position;
                budget.taken += 1;
                budget.bytes = budget.bytes.saturating_sub(size);
            }
            records.advance(&record);
        }
        self.records = None;
        budget.taken < budget.events && budget.bytes > 0
    }

    /// What the block holds beyond what was seen of it; `None` if that is nothing.
    fn unseen(&self, bounds: &Bounds) -> Option<Extent> {
        let events = bounds.block.events.saturating_sub(self.seen_events);
        (events > 0 && bounds.last > self.at).then(|| Extent {
            stream: self.stream,
            first: self.at.next().max(bounds.block.first),
            last: bounds.last,
            events,
            bytes: bounds.block.bytes.saturating_sub(self.seen_bytes),
            oldest_ms: bounds.block.oldest_ms,
            newest_ms: bounds.newest_ms,
        })
    }

    fn enter_next_block(&mut self, bounds: &Bounds) {
        self.block += 1;
        (self.seen_events, self.seen_bytes) = (0, 0);
        let Some(next) = bounds.next else { return };
        if self.ahead.is_none() {
            self.entries = None;
            self.next_key = Key::Chunk(self.stream, next).encode();
        }
    }
}

impl Head {
    /// The chunk as an extent, from behind `at`.
    fn extent(&self, stream: StreamNo, at: Position) -> Extent {
        Extent {
            stream,
            first: self.first.max(at.next()),
            last: self.last,
            events: self.events,
            bytes: self.bytes,
            oldest_ms: self.oldest_ms,
            newest_ms: self.newest_ms,
        }
    }
}

/// Sums for [`Reader::count_after`].
#[derive(Default)]
struct Count {
    events: u64,
    bytes: u64,
    oldest_ms: Option<u64>,
}

impl Count {
    fn add(&mut self, events: u64, bytes: u64, oldest_ms: u64) {
        self.events += events;
        self.bytes += bytes;
        self.oldest_ms = Some(self.oldest_ms.map_or(oldest_ms, |known| known.min(oldest_ms)));
    }

    fn add_behind(&mut self, mut records: Records, after: Position) {
        while let Some(record) = records.peek() {
            if record.position > after {
                self.add(1, u64::from(record.stored_bytes), record.received_ms);
            }
            records.advance(&record);
        }
    }

    fn into_tuple(self) -> (u64, u64, Option<u64>) {
        (self.events, self.bytes, self.oldest_ms)
    }
}
