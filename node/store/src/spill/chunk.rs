//! The chunk: some records of one stream as one sled entry.
//!
//! ```text
//! key    stream u32 BE | lane u8 = 0 | first position u64 BE [ | part u16 BE, from 1 ]
//! value  version u8 = 1 | codec u8 | count | last − first | stored bytes | oldest ms | newest − oldest | parts | raw length
//!        | crc32c u32 LE of key and all before | crc32c u32 LE of the data | data
//! part   version u8 = 1 | codec u8 | raw length | crc32c u32 LE of key, all before and the data | data
//! data   raw (codec 0) or one lz4 block (codec 1) of the records, each
//!        position − previous | zigzag(received − previous) | stored bytes | length | body
//! ```
//! Numbers without a type are varints; "previous" of a chunk's first record is its first position, and 0 ms.
//! At most 6 KiB raw per entry (4 KiB in what earlier programs wrote): sled bounds its memory and its blob files by entry
//! size. A record above that is a chunk of its own, cut into parts. Lane 0xff is the manifest ([`super::manifest`]),
//! behind every stream.

use super::varint;
use crate::backing::{SpillRecord, StreamNo};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use std::ops::Range;

const VERSION: u8 = 1;
const LANE: u8 = 0;
const MANIFEST_LANE: u8 = 0xff;
const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;

/// Raw bytes of records in one entry.
pub(super) const RAW_MAX: usize = 6144;

/// Bytes in front of a body at most: four varints.
const RECORD_HEAD_MAX: usize = 2 * varint::MAX_LEN + 2 * 5;

/// What an entry's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A chunk.
    Chunk(StreamNo, Position),
    /// A further part of the chunk.
    Part(StreamNo, Position, u16),
    /// A part of the manifest.
    Manifest(u16),
}

impl Key {
    /// The bytes in sled.
    pub(super) fn encode(self) -> Vec<u8> {
        let (stream, lane, first, part) = match self {
            Key::Chunk(stream, first) => (stream.0, LANE, Some(first), None),
            Key::Part(stream, first, part) => (stream.0, LANE, Some(first), Some(part)),
            Key::Manifest(part) => (u32::MAX, MANIFEST_LANE, None, Some(part)),
        };
        let mut key = Vec::with_capacity(15);
        key.extend_from_slice(&stream.to_be_bytes());
        key.push(lane);
        key.extend(first.map(|first| first.0.to_be_bytes()).iter().flatten());
        key.extend(part.map(u16::to_be_bytes).iter().flatten());
        key
    }

    /// The inverse; `None` for what we never write.
    pub(super) fn parse(mut key: &[u8]) -> Option<Key> {
        let stream = u32::from_be_bytes(varint::take_bytes(&mut key, 4)?.try_into().ok()?);
        let lane = *varint::take_bytes(&mut key, 1)?.first()?;
        if lane == MANIFEST_LANE {
            return Some(Key::Manifest(u16::from_be_bytes(key.try_into().ok()?)));
        }
        let first = Position(u64::from_be_bytes(varint::take_bytes(&mut key, 8)?.try_into().ok()?));
        match key {
            [] if lane == LANE => Some(Key::Chunk(StreamNo(stream), first)),
            &[a, b] if lane == LANE => Some(Key::Part(StreamNo(stream), first, u16::from_be_bytes([a, b]))),
            _ => None,
        }
    }
}

/// What a chunk says about its records without being unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) oldest_ms: u64,
    pub(super) newest_ms: u64,
    /// Entries that the record is cut into; 1 for everything up to [`RAW_MAX`].
    pub(super) parts: u16,
}

/// Gathers records of one stream and makes chunks of them.
pub(super) struct Builder {
    stream: StreamNo,
    head: Option<Head>,
    previous_ms: u64,
    raw: Vec<u8>,
}

impl Builder {
    pub(super) fn new(stream: StreamNo) -> Self {
        Builder { stream, head: None, previous_ms: 0, raw: Vec::new() }
    }

    /// Whether the record still goes into the chunk being gathered.
    pub(super) fn takes(&self, record: &SpillRecord<'_>) -> bool {
        self.head.is_none() || self.raw.len() + RECORD_HEAD_MAX + record.body.len() <= RAW_MAX
    }

    /// Adds a record that [`Builder::takes`]; its position is after all before it.
    pub(super) fn push(&mut self, record: &SpillRecord<'_>) {
        let previous = self.head.map_or(record.position, |head| head.last);
        let waited = record.received_ms.cast_signed().wrapping_sub(self.previous_ms.cast_signed());
        varint::put(&mut self.raw, record.position.0.wrapping_sub(previous.0));
        varint::put(&mut self.raw, varint::zigzag(waited));
        varint::put(&mut self.raw, u64::from(record.stored_bytes));
        varint::put(&mut self.raw, record.body.len() as u64);
        self.raw.extend_from_slice(record.body);
        self.previous_ms = record.received_ms;
        let head = self.head.get_or_insert(Head {
            first: record.position,
            last: record.position,
            events: 0,
            bytes: 0,
            oldest_ms: u64::MAX,
            newest_ms: 0,
            parts: 1,
        });
        head.last = record.position;
        head.events += 1;
        head.bytes += u64::from(record.stored_bytes);
        head.oldest_ms = head.oldest_ms.min(record.received_ms);
        head.newest_ms = head.newest_ms.max(record.received_ms);
    }

    /// Turns what was gathered into entries, handed to `put` in key order, and starts anew. `None` if there was nothing.
    pub(super) fn finish<E>(
        &mut self,
        packer: &mut Packer,
        mut put: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Option<Head>, E> {
        let Some(mut head) = self.head.take() else { return Ok(None) };
        let mut slices = self.raw.chunks(RAW_MAX);
        // A body is below 4 GiB by its u32 of stored bytes, and the node's limit far below 256 MiB = 65,535 parts.
        head.parts = u16::try_from(slices.len()).unwrap_or(u16::MAX);
        let key = Key::Chunk(self.stream, head.first);
        let whole = slices.next().unwrap_or_default();
        let key = key.encode();
        put(&key, packer.chunk(&key, &head, whole))?;
        for (part, slice) in (1u16..).zip(slices) {
            let key = Key::Part(self.stream, head.first, part).encode();
            put(&key, packer.part(&key, slice))?;
        }
        self.previous_ms = 0;
        self.raw.clear();
        self.raw.shrink_to(2 * RAW_MAX);
        Ok(Some(head))
    }
}

/// Compressor and buffers, reused from entry to entry.
pub(super) struct Packer {
    table: CompressTable,
    packed: Vec<u8>,
    value: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> Self {
        let packed = vec![0; get_maximum_output_size(RAW_MAX)];
        Packer { table: CompressTable::small(), packed, value: Vec::with_capacity(RAW_MAX + 64) }
    }

    fn chunk(&mut self, key: &[u8], head: &Head, raw: &[u8]) -> &[u8] {
        let Packer { table, packed, value } = self;
        let (codec, data) = pack(raw, table, packed);
        value.clear();
        value.extend_from_slice(&[VERSION, codec]);
        let span = head.newest_ms - head.oldest_ms;
        let numbers = [head.events, head.last.0 - head.first.0, head.bytes, head.oldest_ms, span];
        for number in numbers.into_iter().chain([u64::from(head.parts), raw.len() as u64]) {
            varint::put(value, number);
        }
        let checksum = checksum(&[key, value]);
        value.extend_from_slice(&checksum.to_le_bytes());
        value.extend_from_slice(&crc32c::crc32c(data).to_le_bytes());
        value.extend_from_slice(data);
        value
    }

    fn part(&mut self, key: &[u8], raw: &[u8]) -> &[u8] {
        let Packer { table, packed, value } = self;
        let (codec, data) = pack(raw, table, packed);
        value.clear();
        value.extend_from_slice(&[VERSION, codec]);
        varint::put(value, raw.len() as u64);
        let checksum = checksum(&[key, value, data]);
        value.extend_from_slice(&checksum.to_le_bytes());
        value.extend_from_slice(data);
        value
    }
}

/// The shorter of raw and lz4.
fn pack<'a>(raw: &'a [u8], table: &mut CompressTable, packed: &'a mut [u8]) -> (u8, &'a [u8]) {
    match compress_into_with_table(raw, packed, table) {
        Ok(len) if len < raw.len() => (CODEC_LZ4, packed.get(..len).unwrap_or_default()),
        _ => (CODEC_RAW, raw),
    }
}

fn checksum(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
}

/// The data of an entry, not yet unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data<'a> {
    codec: u8,
    raw_len: usize,
    packed: &'a [u8],
    /// Still to be checked; a part's is checked with its head.
    checksum: Option<u32>,
}

/// Reads the value of a chunk; `None` if its head is damaged or of another version.
pub(super) fn read_head<'a>(key: &[u8], first: Position, value: &'a [u8]) -> Option<(Head, Data<'a>)> {
    let mut rest = value;
    let &[VERSION, codec] = varint::take_bytes(&mut rest, 2)? else { return None };
    let mut number = || varint::take(&mut rest);
    let (events, last, bytes, oldest_ms) = (number()?, number()?, number()?, number()?);
    let (span, parts, raw_len) = (number()?, number()?, number()?);
    let covered = value.get(..value.len() - rest.len())?;
    if varint::take_u32(&mut rest)? != checksum(&[key, covered]) {
        return None;
    }
    let head = Head {
        first,
        last: Position(first.0.checked_add(last)?),
        events,
        bytes,
        oldest_ms,
        newest_ms: oldest_ms.checked_add(span)?,
        parts: u16::try_from(parts).ok()?,
    };
    let data_checksum = varint::take_u32(&mut rest)?;
    let raw_len = usize::try_from(raw_len).ok()?;
    Some((head, Data { codec, raw_len, packed: rest, checksum: Some(data_checksum) }))
}

/// Reads the value of a further part; `None` if it is damaged or of another version.
pub(super) fn read_part<'a>(key: &[u8], value: &'a [u8]) -> Option<Data<'a>> {
    let mut rest = value;
    let &[VERSION, codec] = varint::take_bytes(&mut rest, 2)? else { return None };
    let raw_len = varint::take_len(&mut rest)?;
    let covered = value.get(..value.len() - rest.len())?;
    let stored = varint::take_u32(&mut rest)?;
    (stored == checksum(&[key, covered, rest])).then_some(Data {
        codec,
        raw_len,
        packed: rest,
        checksum: None,
    })
}

impl Data<'_> {
    /// Whether the checksum holds.
    pub(super) fn is_whole(&self) -> bool {
        self.checksum.is_none_or(|checksum| checksum == crc32c::crc32c(self.packed))
    }

    /// Appends the raw bytes to `out`; `None`, with `out` untouched, if they are damaged.
    pub(super) fn unpack(&self, out: &mut Vec<u8>) -> Option<()> {
        if !self.is_whole() || self.raw_len > RAW_MAX {
            return None;
        }
        let at = out.len();
        match self.codec {
            CODEC_RAW if self.packed.len() == self.raw_len => out.extend_from_slice(self.packed),
            CODEC_LZ4 => {
                out.resize(at + self.raw_len, 0);
                let unpacked = decompress_into(self.packed, out.get_mut(at..)?);
                if unpacked.ok() != Some(self.raw_len) {
                    out.truncate(at);
                    return None;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// The records of one unpacked chunk, one after another; bodies are slices of it.
#[derive(Debug)]
pub(super) struct Records {
    raw: Bytes,
    at: usize,
    position: u64,
    received_ms: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) position: Position,
    pub(super) received_ms: u64,
    pub(super) stored_bytes: u32,
    body: Range<usize>,
}

impl Records {
    /// Over the raw bytes of a chunk.
    pub(super) fn new(first: Position, raw: Vec<u8>) -> Self {
        Records { raw: Bytes::from(raw), at: 0, position: first.0, received_ms: 0 }
    }

    /// The next record, without moving on. `None` at the end, and where the bytes make no record (which a checksum that
    /// held excludes).
    pub(super) fn peek(&self) -> Option<Record> {
        let rest = self.raw.get(self.at..)?;
        let mut input = rest;
        let position = self.position.checked_add(varint::take(&mut input)?)?;
        let waited = varint::unzigzag(varint::take(&mut input)?);
        let stored_bytes = u32::try_from(varint::take(&mut input)?).ok()?;
        let len = varint::take_len(&mut input)?;
        let start = self.at + (rest.len() - input.len());
        let end = start.checked_add(len).filter(|end| *end <= self.raw.len())?;
        Some(Record {
            position: Position(position),
            received_ms: self.received_ms.wrapping_add_signed(waited),
            stored_bytes,
            body: start..end,
        })
    }

    /// Moves behind a record that [`Records::peek`] gave.
    pub(super) fn advance(&mut self, record: &Record) {
        self.at = record.body.end;
        self.position = record.position.0;
        self.received_ms = record.received_ms;
    }

    /// Its body, shared with the chunk.
    pub(super) fn body(&self, record: &Record) -> Bytes {
        self.raw.slice(record.body.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::convert::Infallible;

    type Entry = (Vec<u8>, Vec<u8>);

    /// Builds chunks the way the writer does.
    fn build(records: &[SpillRecord<'_>]) -> (Vec<Entry>, Vec<Head>) {
        let (mut entries, mut heads) = (Vec::new(), Vec::new());
        let (mut builder, mut packer) = (Builder::new(StreamNo(7)), Packer::new());
        let mut finish = |builder: &mut Builder| {
            let put = |key: &[u8], value: &[u8]| {
                entries.push((key.to_vec(), value.to_vec()));
                Ok::<(), Infallible>(())
            };
            heads.extend(builder.finish(&mut packer, put).unwrap());
        };
        for record in records {
            if !builder.takes(record) {
                finish(&mut builder);
            }
            builder.push(record);
        }
        finish(&mut builder);
        (entries, heads)
    }

    fn read(entries: &[Entry]) -> Option<Vec<(Position, u64, u32, Bytes)>> {
        let mut out = Vec::new();
        let mut entries = entries.iter();
        while let Some((key, value)) = entries.next() {
            let Some(Key::Chunk(_, first)) = Key::parse(key) else { return None };
            let (head, data) = read_head(key, first, value)?;
            let mut raw = Vec::new();
            data.unpack(&mut raw)?;
            for _ in 1..head.parts {
                let (key, value) = entries.next()?;
                read_part(key, value)?.unpack(&mut raw)?;
            }
            let mut records = Records::new(first, raw);
            while let Some(record) = records.peek() {
                out.push((record.position, record.received_ms, record.stored_bytes, records.body(&record)));
                records.advance(&record);
            }
        }
        Some(out)
    }

    fn bodies() -> impl Strategy<Value = Vec<(u64, u64, Vec<u8>)>> {
        let body = prop_oneof![8 => vec(any::<u8>(), 0..400), 2 => vec(0u8..3, 0..3000), 1 => vec(any::<u8>(), 3900..20_000)];
        vec((1u64..1 << 41, 0u64..1 << 42, body), 1..40)
    }

    proptest! {
        #[test]
        fn records_come_back_and_heads_add_up(bodies in bodies()) {
            let mut position = 0;
            let records: Vec<_> = bodies.iter().map(|(step, received_ms, body)| {
                position += step;
                let stored_bytes = u32::try_from(body.len()).unwrap() + 9;
                SpillRecord { stream: StreamNo(7), position: Position(position), received_ms: *received_ms, stored_bytes, body }
            }).collect();
            let (entries, heads) = build(&records);
            let back = read(&entries).unwrap();
            let want: Vec<_> = records.iter()
                .map(|r| (r.position, r.received_ms, r.stored_bytes, Bytes::copy_from_slice(r.body))).collect();
            prop_assert_eq!(back, want);
            prop_assert_eq!(heads.iter().map(|h| h.events).sum::<u64>(), records.len() as u64);
            prop_assert_eq!(heads.iter().map(|h| h.bytes).sum::<u64>(), records.iter().map(|r| u64::from(r.stored_bytes)).sum::<u64>());
            prop_assert_eq!(heads.iter().map(|h| h.oldest_ms).min(), records.iter().map(|r| r.received_ms).min());
            prop_assert!(entries.iter().all(|(key, value)| key.len() <= 15 && value.len() <= RAW_MAX + 80));
            prop_assert!(entries.is_sorted());
        }

        #[test]
        fn a_flipped_bit_never_yields_another_record(flip in 0usize..1 << 20, body in vec(any::<u8>(), 0..6000)) {
            let record = SpillRecord { stream: StreamNo(7), position: Position(5), received_ms: 9, stored_bytes: 1, body: &body };
            let (mut entries, _) = build(&[record, SpillRecord { position: Position(8), ..record }]);
            let whole = read(&entries).unwrap();
            let index = flip % entries.len();
            let value = &mut entries[index].1;
            let bit = flip / 8 % (value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            let damaged = read(&entries);
            prop_assert!(damaged.is_none_or(|records| records == whole));
        }

        #[test]
        fn any_bytes_are_read_or_refused(key: Vec<u8>, value: Vec<u8>) {
            let _key = Key::parse(&key);
            let _head = read_head(&key, Position(1), &value);
            let _part = read_part(&key, &value);
        }
    }

    #[test]
    fn keys_sort_by_stream_and_position_with_parts_behind_their_chunk_and_the_manifest_last() {
        let keys = [
            Key::Chunk(StreamNo(1), Position(9)),
            Key::Part(StreamNo(1), Position(9), 1),
            Key::Part(StreamNo(1), Position(9), 700),
            Key::Chunk(StreamNo(1), Position(10)),
            Key::Chunk(StreamNo(2), Position(0)),
            Key::Chunk(StreamNo(u32::MAX), Position(u64::MAX)),
            Key::Manifest(0),
            Key::Manifest(300),
        ];
        let encoded: Vec<_> = keys.iter().map(|key| key.encode()).collect();
        assert!(encoded.is_sorted());
        assert_eq!(encoded.iter().map(|key| Key::parse(key).unwrap()).collect::<Vec<_>>(), keys);
    }

    #[test]
    fn bytes_that_do_not_shrink_stay_raw() {
        let body = crate::spill::tests::noise(1, 3000);
        let record = SpillRecord {
            stream: StreamNo(1),
            position: Position(1),
            received_ms: 0,
            stored_bytes: 1,
            body: &body,
        };
        let (entries, _) = build(&[record]);
        assert_eq!(entries[0].1[1], CODEC_RAW);
        let even = vec![b'x'; 3000];
        let (entries, _) = build(&[SpillRecord { body: &even, ..record }]);
        assert_eq!(entries[0].1[1], CODEC_LZ4);
        assert!(entries[0].1.len() < 100);
    }
}
