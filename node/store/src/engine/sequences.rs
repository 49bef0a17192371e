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
    source: Text,
    stream: StreamNo,
    before: Sequence,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    cache: HashMap<Text, Counters>,
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
        if !self.cache.contains_key(source) {
            let counters = load(views, source)?;
            self.cache.insert(source.clone(), counters);
        }
        let counters = self.cache.get_mut(source).expect("inserted above");
        let of_stream = *counters.stream(stream);
        self.undo.push(Undo {
            source: source.clone(),
            stream,
            before: Sequence { source: counters.source, stream: of_stream },
        });
        counters.source += 1;
        *counters.stream(stream) = of_stream + 1;
        counters.dirty = true;
        Ok(Sequence { source: counters.source, stream: of_stream + 1 })
    }

    /// How many numbers were taken since the last [`Sequences::keep`].
    pub(crate) fn taken(&self) -> usize {
        self.undo.len()
    }

    /// Gives back what was taken after the first `taken`.
    pub(crate) fn undo_to(&mut self, taken: usize) {
        while self.undo.len() > taken {
            let Some(undo) = self.undo.pop() else { return };
            if let Some(counters) = self.cache.get_mut(&undo.source) {
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
        if !self.cache.contains_key(source) {
            // The key must not share the bytes of a whole chunk of the journal.
            let source = Text::from(source.to_owned());
            let counters = load(views, &source)?;
            self.cache.insert(source, counters);
        }
        let counters = self.cache.get_mut(source).expect("inserted above");
        counters.source = counters.source.max(sequence.source);
        let of_stream = counters.stream(stream);
        *of_stream = (*of_stream).max(sequence.stream);
        counters.dirty = true;
        Ok(())
    }

    pub(crate) fn is_over_full(&self) -> bool {
        self.cache.len() > CACHE_MAX
    }

    /// Writes every dirty counter into `ops`; empties the cache if it is over its bound.
    pub(crate) fn flush(&mut self, ops: &mut Vec<ViewOp>) {
        for (source, counters) in self.cache.iter_mut().filter(|(_, c)| c.dirty) {
            ops.push(ViewOp::Put(keys::sequence(source), counters.encode()));
            counters.dirty = false;
        }
        if self.is_over_full() {
            self.cache = HashMap::new();
        }
    }
}

fn load(views: &dyn Views, source: &str) -> Result<Counters, BackingError> {
    let entry = views.get(&keys::sequence(source))?;
    Ok(entry.and_then(|bytes| Counters::decode(&bytes)).unwrap_or_default())
}
