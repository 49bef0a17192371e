//! Counters per source and per (source, stream): contiguous from 1, over restarts too.
//!
//! A bounded cache over view entries. What is newer than its entry is *dirty*; the entry is written when a checkpoint is
//! about to be made, or when the cache is full, and not once per event: after a crash the journal's records give the
//! newer values back.

use super::keys;
use crate::backing::{BackingError, StreamNo, ViewOp, Views};
use crate::codec::{Reader, put_varint};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Sequence;
use std::collections::HashMap;

/// Sources kept in memory.
const CACHE_MAX: usize = 8192;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counters {
    source: u64,
    streams: Vec<(StreamNo, u64)>,
    dirty: bool,
}

impl Counters {
    fn decode(bytes: &[u8]) -> Option<Counters> {
        let mut reader = Reader::new(bytes);
        let source = reader.varint()?;
        let mut streams = Vec::new();
        while !reader.is_empty() {
            streams.push((StreamNo(reader.varint_u32()?), reader.varint()?));
        }
        Some(Counters { source, streams, dirty: false })
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8);
        put_varint(&mut out, self.source);
        for (stream, counter) in &self.streams {
            put_varint(&mut out, u64::from(stream.0));
            put_varint(&mut out, *counter);
        }
        Bytes::from(out)
    }

    fn stream(&mut self, stream: StreamNo) -> &mut u64 {
        let idx = match self.streams.iter().position(|(s, _)| *s == stream) {
            Some(idx) => idx,
            None => {
                self.streams.push((stream, 0));
                self.streams.len() - 1
            }
        };
        let (_, counter) = self.streams.get_mut(idx).expect("found or pushed above");
        counter
    }
}

/// What to restore if the group that took a number does not become durable.
#[derive(Debug)]
struct Undo {
    slot: usize,
    stream: StreamNo,
    before: Sequence,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    slots: HashMap<Text, usize>,
    counters: Vec<Counters>,
    undo: Vec<Undo>,
}

impl Sequences {
    /// The next numbers for an event; stream 0 counts like any other.
    pub(crate) fn next(
        &mut self,
        views: &dyn Views,
        source: &Text,
        stream: StreamNo,
    ) -> Result<Sequence, BackingError> {
        let slot = match self.slots.get(source) {
            Some(slot) => *slot,
            // A key of its own: the event's may be a slice of a whole read buffer.
            None => self.load(views, Text::from(String::from(&**source)))?,
        };
        let Some(counters) = self.counters.get_mut(slot) else { return Ok(Sequence::default()) };
        let source = counters.source;
        counters.source += 1;
        counters.dirty = true;
        let of_stream = counters.stream(stream);
        let before = Sequence { source, stream: *of_stream };
        *of_stream += 1;
        self.undo.push(Undo { slot, stream, before });
        Ok(Sequence { source: source + 1, stream: before.stream + 1 })
    }

    fn load(&mut self, views: &dyn Views, source: Text) -> Result<usize, BackingError> {
        let entry = views.get(&keys::sequence(&source))?;
        let slot = self.counters.len();
        self.counters.push(entry.and_then(|bytes| Counters::decode(&bytes)).unwrap_or_default());
        self.slots.insert(source, slot);
        Ok(slot)
    }

    /// How many numbers were taken since the last [`Sequences::keep`].
    pub(crate) fn taken(&self) -> usize {
        self.undo.len()
    }

    /// Gives back what was taken after the first `taken`.
    pub(crate) fn undo_to(&mut self, taken: usize) {
        while self.undo.len() > taken {
            let Some(undo) = self.undo.pop() else { return };
            if let Some(counters) = self.counters.get_mut(undo.slot) {
                counters.source = undo.before.source;
                *counters.stream(undo.stream) = undo.before.stream;
            }
        }
    }

    /// What was taken is durable.
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
    }

    /// A record read at a start says which numbers it took.
    pub(crate) fn replay(
        &mut self,
        views: &dyn Views,
        source: &str,
        stream: StreamNo,
        sequence: Sequence,
    ) -> Result<(), BackingError> {
        let slot = match self.slots.get(source) {
            Some(slot) => *slot,
            None => self.load(views, Text::from(source.to_owned()))?,
        };
        let Some(counters) = self.counters.get_mut(slot) else { return Ok(()) };
        counters.source = counters.source.max(sequence.source);
        let of_stream = counters.stream(stream);
        *of_stream = (*of_stream).max(sequence.stream);
        counters.dirty = true;
        Ok(())
    }

    pub(crate) fn is_over_full(&self) -> bool {
        self.slots.len() > CACHE_MAX
    }

    /// Writes every dirty counter into `ops`; empties the cache if it is over its bound. Not while numbers are taken that
    /// may have to be given back.
    pub(crate) fn flush(&mut self, ops: &mut Vec<ViewOp>) {
        for (source, slot) in &self.slots {
            if let Some(counters) = self.counters.get_mut(*slot).filter(|c| c.dirty) {
                ops.push(ViewOp::Put(keys::sequence(source), counters.encode()));
                counters.dirty = false;
            }
        }
        if self.is_over_full() {
            (self.slots, self.counters) = (HashMap::new(), Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::Lsn;
    use crate::memory_backing::MemoryBacking;

    #[test]
    fn numbers_that_are_given_back_are_taken_again() {
        let views = MemoryBacking::new().views();
        let mut sequences = Sequences::default();
        let source = Text::from_static("s");
        let next = |sequences: &mut Sequences, stream| {
            sequences.next(&views, &source, StreamNo(stream)).map(|s| (s.source, s.stream)).unwrap()
        };
        assert_eq!((next(&mut sequences, 1), next(&mut sequences, 2)), ((1, 1), (2, 1)));
        sequences.keep();
        assert_eq!((next(&mut sequences, 1), next(&mut sequences, 1)), ((3, 2), (4, 3)));
        sequences.undo_to(1);
        assert_eq!(next(&mut sequences, 2), (4, 2));
        sequences.undo_to(0);
        assert_eq!(next(&mut sequences, 1), (3, 2));
    }

    #[test]
    fn more_sources_than_fit_go_through_the_views_and_count_on() {
        let mut views = MemoryBacking::new().views();
        let mut sequences = Sequences::default();
        for round in 1..=3 {
            for n in 0..=CACHE_MAX {
                let source = Text::from(format!("source-{n}"));
                let sequence = sequences.next(&views, &source, StreamNo(1)).unwrap();
                assert_eq!((sequence.source, sequence.stream), (round, round));
            }
            sequences.keep();
            assert!(sequences.is_over_full());
            let mut ops = Vec::new();
            sequences.flush(&mut ops);
            assert_eq!(ops.len(), CACHE_MAX + 1);
            views.apply(Lsn(round), ops);
            assert!(!sequences.is_over_full());
        }
    }
}
