//! What a generation says about itself: commits covered, an extent per stream, and a sparse index.
//!
//! ```text
//! magic "EMGX" | version u8 = 1 | head: length u32 LE | crc32c u32 LE | body | index: length u32 LE | crc32c u32 LE | body
//! head   first lsn | last − first | chunks | streams × (stream, first, last − first, events, bytes, oldest, newest − oldest)
//! index  per stream: blocks × (first − previous first, events, bytes, oldest)
//! ```
//! The same bytes stand twice: in sled, as the entries written last (so that they prove all before them), and as the file
//! `extents` beside it, so that a start reads a few hundred bytes per generation and opens no database.
//! A *block* is up to [`BLOCK_CHUNKS`] chunks: where to start reading, how much lies behind, and what is lost if sled
//! cannot read a page of it.

use super::chunk::Head;
use super::varint;
use crate::backing::{Extent, Lsn, StreamNo};
use eventmesh_edge_core::event::Position;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

const MAGIC: &[u8; 4] = b"EMGX";
const VERSION: u8 = 1;

/// Bytes in front of the head's body.
pub(super) const PREFIX: usize = 4 + 1 + 8;

/// About one sled leaf, the unit in which damage takes chunks away.
pub(super) const BLOCK_CHUNKS: u64 = 16;

/// Some consecutive chunks of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) first: Position,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) oldest_ms: u64,
}

/// The part that stays in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) lsns: RangeInclusive<Lsn>,
    pub(super) chunks: u64,
    /// Ascending by stream.
    pub(super) extents: Vec<Extent>,
}

impl Summary {
    /// Events, stored bytes and earliest receipt of a stream behind a position, where that is all of them or none: `None` if only
    /// the database can tell.
    pub(super) fn count_after(&self, stream: StreamNo, after: Position) -> Option<(u64, u64, Option<u64>)> {
        match self.extents.iter().find(|extent| extent.stream == stream) {
            None => Some((0, 0, None)),
            Some(extent) if after >= extent.last => Some((0, 0, None)),
            Some(extent) if after < extent.first => {
                Some((extent.events, extent.bytes, Some(extent.oldest_ms)))
            }
            Some(_) => None,
        }
    }
}

/// All of it; the blocks in the order of the extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) summary: Summary,
    pub(super) blocks: Vec<Vec<Block>>,
}

/// Collects the manifest while the generation is written.
pub(super) struct Collector {
    chunks: u64,
    streams: BTreeMap<StreamNo, (Extent, Vec<Block>, u64)>,
}

impl Collector {
    pub(super) fn new() -> Self {
        Collector { chunks: 0, streams: BTreeMap::new() }
    }

    /// One chunk was written; those of a stream come in order.
    pub(super) fn add(&mut self, stream: StreamNo, head: &Head) {
        let block =
            Block { first: head.first, events: head.events, bytes: head.bytes, oldest_ms: head.oldest_ms };
        self.chunks += 1;
        let (extent, blocks, in_block) =
            self.streams.entry(stream).or_insert_with(|| (extent_of(stream, head), Vec::new(), BLOCK_CHUNKS));
        extent.last = head.last;
        extent.events += head.events;
        extent.bytes += head.bytes;
        extent.oldest_ms = extent.oldest_ms.min(head.oldest_ms);
        extent.newest_ms = extent.newest_ms.max(head.newest_ms);
        match blocks.last_mut() {
            Some(last) if *in_block < BLOCK_CHUNKS => {
                *in_block += 1;
                last.events += block.events;
                last.bytes += block.bytes;
                last.oldest_ms = last.oldest_ms.min(block.oldest_ms);
            }
            _ => {
                *in_block = 1;
                blocks.push(block);
            }
        }
    }

    pub(super) fn finish(self, lsns: RangeInclusive<Lsn>) -> Manifest {
        let (extents, blocks) =
            self.streams.into_values().map(|(extent, blocks, _)| (extent, blocks)).unzip();
        Manifest { summary: Summary { lsns, chunks: self.chunks, extents }, blocks }
    }
}

fn extent_of(stream: StreamNo, head: &Head) -> Extent {
    Extent {
        stream,
        first: head.first,
        last: head.last,
        events: 0,
        bytes: 0,
        oldest_ms: head.oldest_ms,
        newest_ms: head.newest_ms,
    }
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        put_section(&mut out, &self.summary.encode());
        let mut index = Vec::new();
        for blocks in &self.blocks {
            varint::put(&mut index, blocks.len() as u64);
            let mut previous = 0;
            for block in blocks {
                for number in [block.first.0 - previous, block.events, block.bytes, block.oldest_ms] {
                    varint::put(&mut index, number);
                }
                previous = block.first.0;
            }
        }
        put_section(&mut out, &index);
        out
    }

    /// `None` if any byte is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Manifest> {
        let (summary, mut rest) = Summary::decode_front(bytes)?;
        let mut index = take_section(&mut rest)?;
        if !rest.is_empty() {
            return None;
        }
        let blocks = summary.extents.iter().map(|_| take_blocks(&mut index)).collect::<Option<Vec<_>>>()?;
        index.is_empty().then_some(Manifest { summary, blocks })
    }

    /// The extent of a stream with its blocks.
    pub(super) fn stream(&self, stream: StreamNo) -> Option<(&Extent, &[Block])> {
        let at = self.summary.extents.binary_search_by_key(&stream, |extent| extent.stream).ok()?;
        Some((self.summary.extents.get(at)?, self.blocks.get(at)?))
    }
}

impl Summary {
    /// Reads only the front of the file: as many bytes as [`Summary::front_len`] says.
    pub(super) fn decode(bytes: &[u8]) -> Option<Summary> {
        Summary::decode_front(bytes).map(|(summary, _)| summary)
    }

    /// How long the front is, from its first bytes.
    pub(super) fn front_len(bytes: &[u8]) -> Option<usize> {
        let len = bytes.get(5..9)?.try_into().ok().map(u32::from_le_bytes)?;
        PREFIX.checked_add(usize::try_from(len).ok()?)
    }

    fn decode_front(mut bytes: &[u8]) -> Option<(Summary, &[u8])> {
        let prefix = varint::take_bytes(&mut bytes, 5)?;
        if prefix.split_last() != Some((&VERSION, MAGIC.as_slice())) {
            return None;
        }
        let mut head = take_section(&mut bytes)?;
        let first = varint::take(&mut head)?;
        let last = first.checked_add(varint::take(&mut head)?)?;
        let chunks = varint::take(&mut head)?;
        let streams = varint::take_len(&mut head)?;
        // Bounded by the bytes there are, not by what they claim.
        let extents = (0..streams).map_while(|_| take_extent(&mut head)).collect::<Vec<_>>();
        let whole = extents.len() == streams && head.is_empty();
        whole.then_some((Summary { lsns: Lsn(first)..=Lsn(last), chunks, extents }, bytes))
    }

    fn encode(&self) -> Vec<u8> {
        let mut head = Vec::new();
        let (first, last) = (self.lsns.start().0, self.lsns.end().0);
        for number in [first, last.saturating_sub(first), self.chunks, self.extents.len() as u64] {
            varint::put(&mut head, number);
        }
        for e in &self.extents {
            let (last, span) = (e.last.0 - e.first.0, e.newest_ms - e.oldest_ms);
            for number in [u64::from(e.stream.0), e.first.0, last, e.events, e.bytes, e.oldest_ms, span] {
                varint::put(&mut head, number);
            }
        }
        head
    }
}

fn put_section(out: &mut Vec<u8>, body: &[u8]) {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

fn take_section<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take_u32(input)?).ok()?;
    let checksum = varint::take_u32(input)?;
    let body = varint::take_bytes(input, len)?;
    (crc32c::crc32c(body) == checksum).then_some(body)
}

fn take_extent(input: &mut &[u8]) -> Option<Extent> {
    let mut number = || varint::take(input);
    let stream = StreamNo(u32::try_from(number()?).ok()?);
    let first = number()?;
    let last = first.checked_add(number()?)?;
    let (events, bytes, oldest_ms) = (number()?, number()?, number()?);
    let newest_ms = oldest_ms.checked_add(number()?)?;
    Some(Extent { stream, first: Position(first), last: Position(last), events, bytes, oldest_ms, newest_ms })
}

fn take_blocks(input: &mut &[u8]) -> Option<Vec<Block>> {
    let count = varint::take_len(input)?;
    let mut previous = 0u64;
    let mut take = || {
        let first = previous.checked_add(varint::take(input)?)?;
        previous = first;
        let (events, bytes) = (varint::take(input)?, varint::take(input)?);
        Some(Block { first: Position(first), events, bytes, oldest_ms: varint::take(input)? })
    };
    let blocks = (0..count).map_while(|_| take()).collect::<Vec<_>>();
    (blocks.len() == count).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        let mut collector = Collector::new();
        for n in 0..100u64 {
            let first = Position(n * 50 + 1);
            let head = Head {
                first,
                last: Position(first.0 + 40),
                events: 18,
                bytes: 3600,
                oldest_ms: 1_000_000 - n,
                newest_ms: 2_000_000 + n,
                parts: 1,
            };
            collector.add(StreamNo(u32::try_from(n % 3).unwrap()), &head);
        }
        collector.finish(Lsn(5)..=Lsn(900))
    }

    #[test]
    fn extents_and_blocks_add_up() {
        let manifest = sample();
        assert_eq!(manifest.summary.chunks, 100);
        let (extent, blocks) = manifest.stream(StreamNo(1)).unwrap();
        assert_eq!((extent.events, extent.bytes), (33 * 18, 33 * 3600));
        assert_eq!(blocks.iter().map(|block| block.events).sum::<u64>(), extent.events);
        assert_eq!(blocks.len(), 3);
        assert_eq!(blocks[0].first, extent.first);
        assert!(manifest.stream(StreamNo(3)).is_none());
    }

    #[test]
    fn it_comes_back_whole_and_by_its_front_alone() {
        let manifest = sample();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        let front = Summary::front_len(&bytes[..9]).unwrap();
        assert_eq!(Summary::decode(&bytes[..front]).unwrap(), manifest.summary);
        let empty = Collector::new().finish(Lsn(1)..=Lsn(1));
        assert_eq!(Manifest::decode(&empty.encode()).unwrap(), empty);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_missing_tail_is_seen(bit: prop::sample::Index, cut: prop::sample::Index) {
            let bytes = sample().encode();
            let mut flipped = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Manifest::decode(&flipped).is_none());
            prop_assert!(Manifest::decode(&bytes[..cut.index(bytes.len())]).is_none());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _len = Summary::front_len(&bytes);
            prop_assert!(Manifest::decode(&bytes).is_none());
        }
    }
}
