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

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0usize..400, 4 => 3900usize..4200, 2 => 4096usize..30_000, 1 => Just(256 * 1024)]
}

/// Records of a few streams with gaps between positions, clocks that jump, and bytes that shrink or do not.
fn records() -> impl Strategy<Value = Vec<Owned>> {
    let record = (1u32..4, 1u64..1000, 0u64..10_000, sizes(), any::<bool>(), any::<u64>());
    vec(record, 0..150).prop_map(|records| {
        let mut position = 0;
        let own = |(stream, step, received_ms, len, even, seed): (u32, u64, u64, usize, bool, u64)| {
            position += step;
            let body = if even { vec![b'e'; len] } else { noise(seed, len) };
            let stored_bytes = u32::try_from(len).unwrap() + 20;
            Owned {
                stream: StreamNo(stream * 1000),
                position: Position(position),
                received_ms,
                stored_bytes,
                body,
            }
        };
        records.into_iter().map(own).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_records_come_back_and_are_counted(records in records(), step in 1usize..40, cuts in vec(any::<prop::sample::Index>(), 4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut generations = open(dir.path());
        let number = seal(&mut generations, &records);
        for stream in streams(&records) {
            let want = of_stream(&records, stream);
            prop_assert!(drain(&mut generations, number, stream, step) == want);
            for cut in &cuts {
                let after = want[cut.index(want.len())].0;
                let behind = || records.iter().filter(|r| r.stream == stream && r.position > after);
                let (events, bytes, oldest) = generations.count_after(number, stream, after).unwrap();
                prop_assert_eq!(events, behind().count() as u64);
                prop_assert_eq!(bytes, behind().map(|r| u64::from(r.stored_bytes)).sum::<u64>());
                // Exact in the block that is cut, and from there on the minimum over blocks: the same.
                prop_assert_eq!(oldest, behind().map(|r| r.received_ms).min());
            }
        }
        prop_assert_eq!(blobs(dir.path()), 0);
        prop_assert_eq!(generations.count_after(number, StreamNo(999_999), Position::ZERO).unwrap(), (0, 0, None));
    }
}

#[test]
fn large_payloads_of_random_bytes_are_split_and_make_no_blob() {
    let dir = tempfile::tempdir().unwrap();
    let large = |n: u64| Owned {
        stream: StreamNo(1),
        position: Position(n + 1),
        received_ms: n,
        stored_bytes: 262_200,
        body: noise(n, 256 * 1024),
    };
    let records: Vec<_> = (0..40).map(large).collect();
    let mut generations = open(dir.path());
    let number = seal(&mut generations, &records);
    assert!(drain(&mut generations, number, StreamNo(1), 3) == of_stream(&records, StreamNo(1)));
    assert_eq!(blobs(dir.path()), 0);
    assert!(generations.disk_bytes() > 10 << 20 && generations.bytes_written() > 10 << 20);
}

#[test]
fn a_read_stops_at_its_bounds_and_never_starves() {
    let dir = tempfile::tempdir().unwrap();
    let records = telemetry(100, 1);
    let mut generations = open(dir.path());
    let number = seal(&mut generations, &records);
    let mut read = |max_events, max_bytes| {
        let mut out = Vec::new();
        generations.read(number, StreamNo(1), Position::ZERO, max_events, max_bytes, &mut out).unwrap();
        out.len()
    };
    assert_eq!(read(7, usize::MAX), 7);
    assert_eq!(read(100, 1000), 5, "five records of 200 bytes");
    assert_eq!(read(100, 1100), 5, "the sixth would exceed it");
    assert_eq!(read(100, 1), 1, "the first may exceed it alone");
    assert_eq!(read(0, 1000), 0);
}

#[test]
fn records_out_of_order_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = telemetry(100, 1);
    records.swap(50, 51);
    let mut generations = open(dir.path());
    let outcome = generations.seal(Lsn(1)..=Lsn(9), &mut records.iter().map(Owned::lend));
    assert!(matches!(outcome, Err(BackingError::Damaged { .. })));
    assert_eq!(files::entries(&dir.path().join(GENERATIONS)).unwrap().len(), 0);
    assert_eq!(generations.sealed(), []);
}

#[test]
fn numbers_only_grow_and_removed_generations_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut generations = open(dir.path());
    let records = telemetry(200, 2);
    let (first, second) = (seal(&mut generations, &records), seal(&mut generations, &records));
    assert!(second > first);
    generations.remove(second).unwrap();
    generations.remove(second).unwrap();
    let (third, _) = generations.seal(Lsn(500)..=Lsn(600), &mut records.iter().map(Owned::lend)).unwrap();
    assert!(third > second);
    generations = open(dir.path());
    let numbers: Vec<_> = generations.sealed().into_iter().map(|(number, lsns, _)| (number, lsns)).collect();
    assert_eq!(numbers, [(first, Lsn(1)..=Lsn(100)), (third, Lsn(500)..=Lsn(600))]);
    generations.remove(first).unwrap();
    generations.remove(third).unwrap();
    assert_eq!(generations.disk_bytes(), 0);
}

#[test]
fn unfinished_and_half_removed_generations_are_cleared_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut generations = open(dir.path());
    let records = telemetry(200, 2);
    let number = seal(&mut generations, &records);
    drop(generations);
    let path = dir.path().join(GENERATIONS).join(format!("{number:020}"));
    copy_dir(&path, &path.with_extension(BUILDING));
    fs::create_dir(dir.path().join(GENERATIONS).join(format!("{:020}.{REMOVING}", 7))).unwrap();
    let (mut generations, report) = SledGenerations::open(dir.path()).unwrap();
    assert_eq!(report, GenerationsReport { unfinished: 2, quarantined: vec![] });
    assert_eq!(files::entries(&dir.path().join(GENERATIONS)).unwrap().len(), 1);
    assert!(drain(&mut generations, number, StreamNo(1), 50) == of_stream(&records, StreamNo(1)));
}

#[test]
fn more_generations_than_are_kept_open_are_read_in_turns() {
    let dir = tempfile::tempdir().unwrap();
    let mut generations = open(dir.path());
    let records = telemetry(3000, 3);
    let numbers: Vec<_> = (0..4).map(|_| seal(&mut generations, &records)).collect();
    let mut after = Position::ZERO;
    loop {
        let reads = numbers.iter().map(|number| {
            let mut out = Vec::new();
            assert_eq!(generations.read(*number, StreamNo(2), after, 100, usize::MAX, &mut out).unwrap(), []);
            out
        });
        let mut reads: Vec<_> = reads.collect();
        let first = reads.pop().unwrap();
        assert!(reads.iter().all(|read| *read == first));
        assert!(generations.open.len() <= OPEN_MAX);
        let Some(last) = first.last() else { break };
        after = last.0;
    }
    generations.release();
    assert!(generations.open.is_empty());
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, kind) in files::entries(from).unwrap() {
        let to = to.join(files::name(&path));
        if kind.is_dir() { copy_dir(&path, &to) } else { fs::copy(&path, &to).map(|_| ()).unwrap() }
    }
}

/// What a kill leaves is the directory as it is at that moment, with the leftovers of an open.
#[test]
fn a_kill_while_a_generation_is_open_for_reading_leaves_it_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut generations = open(dir.path());
    let records = telemetry(5000, 2);
    let number = seal(&mut generations, &records);
    let mut out = Vec::new();
    generations.read(number, StreamNo(1), Position::ZERO, 700, usize::MAX, &mut out).unwrap();
    let image = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), image.path());
    let killed = image.path().join(GENERATIONS).join(format!("{number:020}"));
    fs::write(killed.join("snap.00000000FFFFFFFF.generating"), b"torn").unwrap();
    fs::write(killed.join("conf"), b"segment_si").unwrap();
    let mut generations = open(image.path());
    for stream in streams(&records) {
        assert!(drain(&mut generations, number, stream, 1000) == of_stream(&records, stream));
    }
}

/// Damages `path` at `at` in one of several ways.
fn harm(path: &Path, at: usize, way: usize) {
    let mut bytes = fs::read(path).unwrap();
    match way {
        0 => bytes[at] ^= 0x10,
        1 => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        2 => bytes.truncate(at),
        3 => bytes.iter_mut().skip(at).for_each(|byte| *byte = 0x5a),
        _ => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_anywhere_yields_only_true_records_and_an_account_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = telemetry(36_000, 3);
    records[500].body = noise(1, 40_000);
    let number = seal(&mut open(dir.path()), &records);
    let generation = Path::new(GENERATIONS).join(format!("{number:020}"));
    let (mut partly, mut wholly, mut unharmed) = (0, 0, 0);
    for (file, _) in
        files::entries(&dir.path().join(&generation)).unwrap().iter().filter(|(_, kind)| kind.is_file())
    {
        let len = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
        for (n, way) in (0..8).flat_map(|n| (0..5).map(move |way| (n, way))) {
            let image = tempfile::tempdir().unwrap();
            copy_dir(dir.path(), image.path());
            harm(&image.path().join(&generation).join(files::name(file)), n * len / 8, way);
            let (mut generations, report) = SledGenerations::open(image.path()).unwrap();
            if !report.quarantined.is_empty() {
                wholly += 1;
                continue;
            }
            assert_eq!(generations.sealed().len(), 1);
            match read_damaged(&mut generations, number, &records) {
                Some(0) => unharmed += 1,
                Some(_) => partly += 1,
                None => {
                    wholly += 1;
                    generations.quarantine(number).unwrap();
                    assert_eq!(open(image.path()).sealed(), []);
                }
            }
        }
    }
    assert!(partly > 5 && wholly > 5 && unharmed > 5, "{partly} {wholly} {unharmed}");
}

/// Reads every stream; asserts that all that comes out is true and that it and the losses add up. Returns what was lost, `None` if
/// the generation cannot be read at all.
fn read_damaged(generations: &mut SledGenerations, number: u64, records: &[Owned]) -> Option<u64> {
    let mut lost_in_all = 0;
    for stream in streams(records) {
        let want = of_stream(records, stream);
        let (found, lost) = drain_damaged(generations, number, stream, 500).ok()?;
        assert!(found.is_sorted_by(|a, b| a.0 < b.0));
        let known: BTreeMap<_, _> =
            want.iter().map(|(position, bytes, body)| (position, (bytes, body))).collect();
        assert!(found.iter().all(|(position, bytes, body)| known.get(position) == Some(&(bytes, body))));
        let lost_events: u64 = lost.iter().map(|extent| extent.events).sum();
        assert_eq!(found.len() as u64 + lost_events, want.len() as u64, "{lost:?}");
        assert!(lost.is_sorted_by(|a, b| a.last < b.first));
        for extent in lost {
            assert!(found.iter().all(|(position, ..)| *position < extent.first || *position > extent.last));
        }
        // Counting must not fail where reading does not, nor count less than there is.
        if let Some(middle) = found.get(found.len() / 2) {
            let rest = want.iter().filter(|(position, ..)| *position > middle.0).count() as u64;
            assert!(
                generations.count_after(number, stream, middle.0).is_ok_and(|(events, ..)| events >= rest)
            );
        }
        lost_in_all += lost_events;
    }
    Some(lost_in_all)
}

#[test]
fn a_damaged_description_is_taken_from_the_database_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = telemetry(2000, 40);
    let mut generations = open(dir.path());
    let number = seal(&mut generations, &records);
    let sealed = generations.sealed();
    drop(generations);
    let file = dir.path().join(GENERATIONS).join(format!("{number:020}")).join(EXTENTS_FILE);
    let whole = fs::read(&file).unwrap();
    for way in [0, 2, 3, 4] {
        harm(&file, 20, way);
        let (generations, report) = SledGenerations::open(dir.path()).unwrap();
        assert_eq!((generations.sealed(), report), (sealed.clone(), GenerationsReport::default()));
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}

#[test]
fn quarantine_of_generations_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut generations = open(dir.path());
    for _ in 0..4 {
        let number = seal(&mut generations, &telemetry(50, 1));
        generations.quarantine(number).unwrap();
        generations.quarantine(number).unwrap();
    }
    assert_eq!(generations.sealed(), []);
    assert_eq!(files::entries(&dir.path().join(files::QUARANTINE)).unwrap().len(), QUARANTINE_KEPT);
}

/// What `sums` is worth: reading, reopening and counting leave every byte as it was sealed.
#[test]
fn reading_a_sealed_generation_changes_no_byte_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let records = telemetry(60_000, 3);
    let mut generations = open(dir.path());
    let number = seal(&mut generations, &records);
    let path = dir.path().join(format!("generations/{number:020}"));
    let check = || sums::check(&path, &mut |_| {}).unwrap();
    assert_eq!(check(), sums::Checked::Whole);
    assert_eq!(drain(&mut generations, number, StreamNo(2), 1000).len(), 20_000);
    generations.count_after(number, StreamNo(1), Position(40_000)).unwrap();
    drop(generations);
    drain(&mut open(dir.path()), number, StreamNo(1), 7777);
    assert_eq!(check(), sums::Checked::Whole);
}

/// Readers finish what the writer left of sled's tree, and the open after them renews its snapshot: both happen before
/// the checksums are made, whatever the last leaf looks like.
#[test]
fn no_size_of_a_generation_leaves_anything_to_its_readers() {
    for n in (1..40).map(|step| step * 23) {
        let dir = tempfile::tempdir().unwrap();
        let mut generations = open(dir.path());
        let records: Vec<Owned> =
            telemetry(n, 1).into_iter().map(|record| Owned { body: noise(n, 700), ..record }).collect();
        let number = seal(&mut generations, &records);
        let path = generations.path(number);
        let before = files_below(&path);
        for _ in 0..2 {
            drop(generations);
            generations = open(dir.path());
            drain(&mut generations, number, StreamNo(1), 50);
        }
        drop(generations);
        assert!(files_below(&path) == before, "{n} records: a file has changed");
    }
}

fn files_below(path: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}
