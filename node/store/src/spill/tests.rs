//! Generations as a whole: round trips, damage, leftovers of kills, blobs.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A record with its own bytes.
#[derive(Clone, Debug)]
struct Owned {
    stream: StreamNo,
    position: Position,
    received_ms: u64,
    stored_bytes: u32,
    body: Vec<u8>,
}

impl Owned {
    fn lend(&self) -> SpillRecord<'_> {
        let Owned { stream, position, received_ms, stored_bytes, ref body } = *self;
        SpillRecord { stream, position, received_ms, stored_bytes, body }
    }
}

/// Bytes that lz4 cannot shrink, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// `n` telemetry-like records over `streams` streams, one position each.
fn telemetry(n: u64, streams: u32) -> Vec<Owned> {
    (0..n)
        .map(|i| Owned {
            stream: StreamNo(u32::try_from(i).unwrap() * 7 % streams + 1),
            position: Position(i * 3 + 10),
            received_ms: 1_700_000_000_000 + i * 17 % 5_000,
            stored_bytes: 200,
            body: format!(
                "plant/7/line/{}/temp{{\"value\":{},\"unit\":\"C\",\"n\":{i}}}",
                i % 40,
                i * 31 % 977
            )
            .into_bytes(),
        })
        .collect()
}

fn open(dir: &Path) -> SledGenerations {
    SledGenerations::open(dir).unwrap().0
}

fn seal(generations: &mut SledGenerations, records: &[Owned]) -> u64 {
    let start = generations.sealed().last().map_or(1, |(_, lsns, _)| lsns.end().0 + 1);
    let (number, extents) =
        generations.seal(Lsn(start)..=Lsn(start + 99), &mut records.iter().map(Owned::lend)).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.events).sum::<u64>(), records.len() as u64);
    number
}

/// Reads a stream to its end in steps of `max_events`; asserts that nothing is lost.
fn drain(
    generations: &mut SledGenerations,
    number: u64,
    stream: StreamNo,
    max_events: usize,
) -> Vec<(Position, u32, Bytes)> {
    let (out, lost) = drain_damaged(generations, number, stream, max_events).unwrap();
    assert_eq!(lost, []);
    out
}

type Drained = (Vec<(Position, u32, Bytes)>, Vec<Extent>);

fn drain_damaged(
    generations: &mut SledGenerations,
    number: u64,
    stream: StreamNo,
    max_events: usize,
) -> Result<Drained, BackingError> {
    let (mut all, mut all_lost, mut after) = (Vec::new(), Vec::new(), Position::ZERO);
    loop {
        let mut out = Vec::new();
        let lost = generations.read(number, stream, after, max_events, usize::MAX, &mut out)?;
        if out.is_empty() && lost.is_empty() {
            return Ok((all, all_lost));
        }
        let reached =
            out.last().map(|record| record.0).into_iter().chain(lost.iter().map(|extent| extent.last)).max();
        assert!(reached.unwrap() > after, "a read must move on");
        after = reached.unwrap();
        all.extend(out);
        all_lost.extend(lost);
    }
}

fn of_stream(records: &[Owned], stream: StreamNo) -> Vec<(Position, u32, Bytes)> {
    let own = records.iter().filter(|record| record.stream == stream);
    own.map(|r| (r.position, r.stored_bytes, Bytes::copy_from_slice(&r.body))).collect()
}

fn streams(records: &[Owned]) -> BTreeSet<StreamNo> {
    records.iter().map(|record| record.stream).collect()
}

fn blobs(dir: &Path) -> usize {
    let generations = files::entries(&dir.join(GENERATIONS)).unwrap();
    generations.iter().map(|(path, _)| files::entries(&path.join("blobs")).unwrap().len()).sum()
}

#[test]
fn mixed_streams_come_back_in_order_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let records = telemetry(20_000, 5);
    let mut generations = open(dir.path());
    let number = seal(&mut generations, &records);
    for step in [1_000_000, 777] {
        for stream in streams(&records) {
            assert!(drain(&mut generations, number, stream, step) == of_stream(&records, stream));
        }
        let sealed = generations.sealed();
        generations = open(dir.path());
        assert_eq!(generations.sealed(), sealed);
    }
    assert_eq!(blobs(dir.path()), 0);
}
