//! The views as a whole, against a model that keeps every commit, as the journal does.

use super::*;
use crate::spill::files;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The views beside the map they must equal and the commits that a replay would bring.
struct Bench {
    dir: tempfile::TempDir,
    views: SledViews,
    journal: Vec<Vec<ViewOp>>,
}

impl Bench {
    fn older(&self) -> &'static str {
        let disk = self.views.disk.lock();
        disk.sides[disk.older_index()].label
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (views, report) = SledViews::open(dir.path()).unwrap();
        assert_eq!(report, OpenReport::default());
        Bench { dir, views, journal: Vec::new() }
    }

    fn commit(&mut self, ops: Vec<ViewOp>) {
        self.journal.push(ops.clone());
        self.views.apply(Lsn(self.journal.len() as u64), ops);
    }

    fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.commit(vec![ViewOp::Put(key.into().into(), value.into().into())]);
    }

    /// Replaces the views by what the directory gives, and replays the journal behind them.
    fn reopen(&mut self) -> OpenReport {
        let nowhere = tempfile::tempdir().unwrap();
        self.views = SledViews::open(nowhere.path()).unwrap().0;
        let (views, report) = SledViews::open(self.dir.path()).unwrap();
        self.views = views;
        let from = usize::try_from(self.views.applied().0).unwrap();
        for (lsn, ops) in (1..).zip(&self.journal).skip(from) {
            self.views.apply(Lsn(lsn), ops.clone());
        }
        report
    }

    fn model(&self) -> Map {
        let mut map = Map::new();
        for op in self.journal.iter().flatten() {
            match op {
                ViewOp::Put(key, value) => map.insert(key.to_vec(), value.to_vec()),
                ViewOp::Delete(key) => map.remove(key.as_ref()),
            };
        }
        map
    }

    fn assert_equals_model(&self) {
        assert_eq!(self.read_all().unwrap(), self.model());
    }

    /// Everything, by scan and by get.
    fn read_all(&self) -> Result<Map, BackingError> {
        let all = self.views.scan(b"", None, usize::MAX)?;
        for (key, value) in &all {
            assert_eq!(self.views.get(key)?.as_ref(), Some(value));
        }
        assert!(all.is_sorted_by(|(a, _), (b, _)| a < b), "a scan is in key order");
        Ok(all.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }

    fn blobs(&self) -> usize {
        LABELS
            .iter()
            .map(|label| files::entries(&self.dir.path().join(label).join("blobs")).unwrap().len())
            .sum()
    }

    fn quarantined(&self) -> usize {
        files::entries(&self.dir.path().join(files::QUARANTINE)).unwrap().len()
    }
}

/// A few keys, often the same: short ones, ones with zeroes, some that share 450 bytes, and one of the longest.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(prop_oneof![Just(0u8), Just(b'a'), Just(0xff)], 0..4),
        2 => (0u8..30).prop_map(|n| [b"session/".as_slice(), &[n]].concat()),
        2 => (0u8..30, 440usize..470).prop_map(|(n, len)| [vec![b'a'; len].as_slice(), &[n]].concat()),
        1 => (0u8..3).prop_map(|n| [vec![0; 70_000 - 1].as_slice(), &[n]].concat()),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..60),
        1 => (any::<u8>(), 3990usize..4010).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 0usize..30_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Commit(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Checkpoint,
    Reopen,
    Get(Vec<u8>),
    Scan(Vec<u8>, Option<Vec<u8>>, usize),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => vec((keys(), proptest::option::weighted(0.7, values())), 0..12).prop_map(Act::Commit),
        3 => Just(Act::Checkpoint),
        1 => Just(Act::Reopen),
        3 => keys().prop_map(Act::Get),
        5 => (keys(), 0usize..9, proptest::option::of(keys()), 1usize..20)
            .prop_map(|(prefix, cut, after, max)| Act::Scan(prefix[..cut.min(prefix.len())].to_vec(), after, max)),
        1 => (Just(vec![b'a'; 445]), proptest::option::of(keys()), 1usize..20)
            .prop_map(|(prefix, after, max)| Act::Scan(prefix, after, max)),
    ]
}

fn run(bench: &mut Bench, act: Act) {
    match act {
        Act::Commit(changes) => bench.commit(
            changes
                .into_iter()
                .map(|(key, value)| match value {
                    Some(value) => ViewOp::Put(key.into(), value.into()),
                    None => ViewOp::Delete(key.into()),
                })
                .collect(),
        ),
        Act::Checkpoint => bench.views.checkpoint().unwrap(),
        Act::Reopen => assert_eq!(bench.reopen(), OpenReport::default()),
        Act::Get(key) => {
            let want = bench.model().get(&key).cloned();
            assert_eq!(bench.views.get(&key).unwrap().map(|value| value.to_vec()), want);
        }
        Act::Scan(prefix, after, max) => {
            let found = bench.views.scan(&prefix, after.as_deref(), max).unwrap();
            let want = bench.model().into_iter();
            let want = want.filter(|(key, _)| {
                key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after)
            });
            let found: Vec<_> =
                found.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert!(found == want.take(max).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_course_of_events_reads_like_a_plain_map(acts in vec(acts(), 1..40)) {
        let mut bench = Bench::new();
        for act in acts {
            run(&mut bench, act);
        }
        bench.views.checkpoint().unwrap();
        bench.views.checkpoint().unwrap();
        prop_assert_eq!(bench.views.durable(), bench.views.applied());
        prop_assert_eq!(bench.views.pending_bytes(), 0);
        bench.assert_equals_model();
        prop_assert_eq!(bench.blobs(), 0);
        bench.reopen();
        bench.assert_equals_model();
    }
}

/// Sessions, retained values, one long key and one large value: some 400 entries.
fn fill(bench: &mut Bench, round: u8) {
    for n in 0..400u32 {
        bench.put(format!("session/{n:05}/{}", n * 7 % 13), vec![round; 20 + n as usize % 300]);
    }
    bench.put(vec![b'k'; 1000], vec![round; 10]);
    bench.put("retained/large", vec![round; 50_000]);
    bench.commit(vec![ViewOp::Delete(format!("session/{:05}/{}", round, u32::from(round) * 7 % 13).into())]);
}

/// While a checkpoint is written nobody waits: the map is read and changed, and what came after its beginning is in the
/// next one.
#[test]
fn the_map_goes_on_while_a_checkpoint_is_written() {
    for rounds in 1..6 {
        let mut bench = Bench::new();
        for round in 0..rounds {
            fill(&mut bench, round);
            let work = bench.views.checkpoint_begin().unwrap();
            let frozen = bench.views.applied();
            fill(&mut bench, 50 + round);
            bench.assert_equals_model();
            let done = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
            bench.assert_equals_model();
            assert!(bench.views.durable() < frozen, "nothing counts before it is taken over");
            fill(&mut bench, 90 + round);
            bench.views.checkpoint_end(done).unwrap();
            assert_eq!(bench.views.disk.lock().newest().unwrap().lsn(), frozen);
            assert!(bench.views.pending_bytes() > 0, "what came later is pending");
            bench.assert_equals_model();
        }
        // Cut short: begun, written, and never taken over.
        let work = bench.views.checkpoint_begin().unwrap();
        drop(work());
        assert!(bench.reopen().quarantined.is_empty());
        bench.assert_equals_model();
    }
}

/// Side b has the newest checkpoint, side a the one before; the last changes are in the journal alone.
fn two_checkpoints() -> Bench {
    let mut bench = Bench::new();
    for round in 0..4 {
        fill(&mut bench, round);
        bench.views.checkpoint().unwrap();
    }
    fill(&mut bench, 4);
    let [a, b] = [0, 1].map(|side: usize| bench.views.disk.lock().sides[side].lsn());
    assert!(a > Lsn(0) && a < b);
    bench
}

#[test]
fn two_checkpoints_make_everything_durable_and_a_third_writes_nothing() {
    let mut bench = Bench::new();
    fill(&mut bench, 1);
    assert!(bench.views.pending_bytes() > 50_000);
    bench.views.checkpoint().unwrap();
    assert_eq!((bench.views.durable(), bench.views.pending_bytes()), (Lsn(0), 0));
    bench.views.checkpoint().unwrap();
    assert_eq!(bench.views.durable(), bench.views.applied());
    let written = bench.views.bytes_written();
    assert!(written > 100_000 && bench.views.disk_bytes() > 100_000);
    bench.views.checkpoint().unwrap();
    assert_eq!(bench.views.bytes_written(), written);
}

#[test]
fn a_commit_that_was_applied_is_ignored() {
    let mut bench = Bench::new();
    bench.put("key", "new");
    bench.views.apply(Lsn(1), vec![ViewOp::Delete(Bytes::from_static(b"key"))]);
    assert_eq!(bench.views.get(b"key").unwrap().unwrap(), "new");
}

#[test]
fn a_map_that_holds_nothing_opens_no_database() {
    let mut bench = Bench::new();
    assert_eq!(bench.views.get(b"key").unwrap(), None);
    assert_eq!(bench.views.scan(b"", None, 9).unwrap(), []);
    assert_eq!(files::entries(bench.dir.path()).unwrap().len(), 0);
    bench.put("key", "value");
    bench.commit(vec![ViewOp::Delete(Bytes::from_static(b"key"))]);
    bench.views.checkpoint().unwrap();
    assert_eq!(bench.views.get(b"key").unwrap(), None);
    assert!(bench.views.disk.lock().reader.is_none());
}

/// Everything that can be done to one file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(usize),
    Zero(usize),
    Truncate(usize),
    /// All but the first bytes, which are a segment's header.
    Garble,
    Remove,
}

fn harm(path: &Path, harm: Harm) {
    let mut bytes = fs::read(path).unwrap();
    match harm {
        Harm::Flip(at) => bytes[at] ^= 0x10,
        Harm::Zero(at) => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        Harm::Truncate(at) => bytes.truncate(at),
        Harm::Garble => bytes.iter_mut().skip(20).for_each(|byte| *byte = 0x5a),
        Harm::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

fn harms(path: &Path) -> Vec<Harm> {
    let len = usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    let places = (0..6).map(|n| n * len / 6).filter(|at| *at < len);
    let each = places.flat_map(|at| [Harm::Flip(at), Harm::Zero(at), Harm::Truncate(at)]);
    each.chain([Harm::Garble, Harm::Remove]).collect()
}

/// The files of a side, and its proof.
fn files_of(dir: &Path, label: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = files::entries(&dir.join(label))
        .unwrap()
        .into_iter()
        .filter(|(_, kind)| kind.is_file())
        .map(|(path, _)| path)
        .collect();
    found.push(dir.join(format!("{label}.proof")));
    found
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, kind) in files::entries(from).unwrap() {
        let to = to.join(files::name(&path));
        if kind.is_dir() { copy_dir(&path, &to) } else { fs::copy(&path, &to).map(|_| ()).unwrap() }
    }
}

#[test]
fn a_damaged_side_is_never_believed_and_the_other_with_the_journal_replaces_it() {
    let mut bench = two_checkpoints();
    let image = tempfile::tempdir().unwrap();
    copy_dir(bench.dir.path(), image.path());
    let newest = bench.views.disk.lock().newest().unwrap().label;
    let (mut set_aside, mut harmless) = (0, 0);
    for file in files_of(image.path(), newest) {
        for kind in harms(&file) {
            bench.dir = tempfile::tempdir().unwrap();
            copy_dir(image.path(), bench.dir.path());
            harm(&bench.dir.path().join(file.strip_prefix(image.path()).unwrap()), kind);
            let report = bench.reopen();
            assert!(!report.lost, "{file:?} {kind:?}: {report:?}");
            bench.assert_equals_model();
            set_aside += report.quarantined.len();
            harmless += usize::from(report.quarantined.is_empty());
            for _ in 0..2 {
                bench.views.checkpoint().unwrap();
            }
            bench.assert_equals_model();
            assert!(bench.quarantined() <= 1);
        }
    }
    assert!(set_aside > 10 && harmless > 3, "{set_aside} {harmless}");
}

/// What sled cannot notice: a page of before the checkpoint, sound in itself.
#[test]
fn an_entry_that_went_missing_without_a_trace_is_noticed() {
    let mut bench = two_checkpoints();
    let newest = bench.views.disk.lock().newest().unwrap().label;
    let sled = SledDir::open(&bench.dir.path().join(newest)).unwrap();
    let key = entry::Place::of(b"session/00007/10").part(0);
    assert!(sled.remove(&key).unwrap().is_some());
    sled.close().unwrap();
    let report = bench.reopen();
    assert!(report.fell_back && report.quarantined.len() == 1, "{report:?}");
    bench.assert_equals_model();
}

#[test]
fn damage_of_the_older_side_costs_nothing() {
    let mut bench = two_checkpoints();
    let older = bench.older();
    harm(&bench.dir.path().join(older).join("db"), Harm::Garble);
    assert_eq!(bench.reopen(), OpenReport::default());
    bench.views.checkpoint().unwrap();
    bench.views.checkpoint().unwrap();
    bench.assert_equals_model();
}

#[test]
fn damage_of_both_sides_starts_empty_and_says_so() {
    let mut bench = two_checkpoints();
    for label in LABELS {
        harm(&bench.dir.path().join(label).join("db"), Harm::Garble);
    }
    let report = bench.reopen();
    assert!(report.lost && !report.fell_back && report.quarantined.len() == 2, "{report:?}");
    // The bench's journal has everything; a real one has what it still has.
    bench.assert_equals_model();
    bench.views.checkpoint().unwrap();
    bench.views.checkpoint().unwrap();
    bench.reopen();
    bench.assert_equals_model();
}

#[test]
fn quarantine_is_bounded_however_often_a_side_is_damaged() {
    let mut bench = two_checkpoints();
    for _ in 0..5 {
        let newest = bench.views.disk.lock().newest().unwrap().label;
        harm(&bench.dir.path().join(newest).join("db"), Harm::Garble);
        assert_eq!(bench.reopen().quarantined.len(), 1);
        bench.views.checkpoint().unwrap();
        bench.views.checkpoint().unwrap();
        bench.put("more", "changes");
        bench.views.checkpoint().unwrap();
    }
    assert!(bench.quarantined() <= 2 * QUARANTINE_KEPT);
    bench.assert_equals_model();
}

/// Damages the newest side while nobody has it open.
fn damage_newest_at_run_time(bench: &mut Bench) {
    let mut disk = bench.views.disk.lock();
    disk.reader = None;
    let newest = disk.newest().unwrap().label;
    harm(&bench.dir.path().join(newest).join("db"), Harm::Garble);
}

#[test]
fn at_run_time_the_older_side_and_the_changes_in_memory_stand_in() {
    let mut bench = two_checkpoints();
    damage_newest_at_run_time(&mut bench);
    bench.assert_equals_model();
    assert_eq!((bench.quarantined(), bench.views.durable()), (1, Lsn(0)));
    bench.views.checkpoint().unwrap();
    bench.views.checkpoint().unwrap();
    assert_eq!(bench.views.durable(), bench.views.applied());
    bench.reopen();
    bench.assert_equals_model();
}

#[test]
fn soon_after_a_start_damage_is_an_error_until_the_views_are_opened_again() {
    let mut bench = two_checkpoints();
    bench.reopen();
    let durable = bench.views.durable();
    damage_newest_at_run_time(&mut bench);
    assert!(matches!(bench.read_all(), Err(BackingError::Damaged { .. })));
    assert!(matches!(bench.views.checkpoint(), Err(BackingError::Damaged { .. })));
    assert_eq!(bench.views.durable(), durable);
    let report = bench.reopen();
    assert!(!report.lost, "{report:?}");
    assert_eq!(bench.views.durable(), Lsn(0));
    bench.assert_equals_model();
}

#[test]
fn leftovers_of_a_kill_are_cleared_away() {
    let mut bench = two_checkpoints();
    let dir = bench.dir.path().to_owned();
    let newest = bench.views.disk.lock().newest().unwrap().label;
    let older = if newest == LABELS[0] { LABELS[1] } else { LABELS[0] };
    // Killed while the older side was being written, while sled wrote a snapshot, and before `conf` was synced.
    fs::remove_file(dir.join(format!("{older}.proof"))).unwrap();
    fs::write(dir.join(newest).join("snap.00000000FFFFFFFF.generating"), b"torn").unwrap();
    fs::write(dir.join(newest).join("conf"), [0; 62]).unwrap();
    copy_dir(&dir.join(newest), &dir.join(format!("{newest}.filling")));
    let report = bench.reopen();
    assert_eq!(report, OpenReport { unfinished: 1, ..OpenReport::default() });
    assert!(!dir.join(older).exists() && !dir.join(format!("{newest}.filling")).exists());
    bench.assert_equals_model();
    assert_eq!(bench.views.durable(), Lsn(0));
}

/// What a power cut leaves of a checkpoint that is half written: a side that opens, with some of the changes in it.
#[test]
fn a_checkpoint_cut_short_counts_for_nothing() {
    let mut bench = two_checkpoints();
    let image = tempfile::tempdir().unwrap();
    {
        let mut disk = bench.views.disk.lock();
        let older = disk.older_index();
        let mut writing = disk.sides[older].begin_changes().unwrap();
        writing.put(b"session/00007/10", b"half").unwrap();
        writing.delete(b"retained/large").unwrap();
    }
    copy_dir(bench.dir.path(), image.path());
    bench.dir = image;
    assert_eq!(bench.reopen(), OpenReport { unfinished: 1, ..OpenReport::default() });
    bench.assert_equals_model();
    // The same while a side is filled anew, when what it was before still counts.
    {
        let disk = bench.views.disk.lock();
        let mut writing = disk.sides[disk.older_index()].begin_filling().unwrap();
        writing.put(b"session/00007/10", b"half").unwrap();
    }
    assert_eq!(bench.reopen(), OpenReport::default());
    bench.assert_equals_model();
}

#[test]
fn a_side_that_is_mostly_air_is_written_anew() {
    let mut bench = Bench::new();
    for n in 0..6000u32 {
        bench.put(format!("retained/{n}"), crate::spill::noise_for_tests(u64::from(n), 4000));
    }
    bench.views.checkpoint().unwrap();
    bench.views.checkpoint().unwrap();
    let full = bench.views.disk_bytes();
    for n in 0..6000u32 {
        bench.commit(vec![ViewOp::Delete(format!("retained/{n}").into())]);
    }
    for n in 0..4u8 {
        bench.put("last", [n]);
        bench.views.checkpoint().unwrap();
    }
    assert!(full > 48 << 20 && bench.views.disk_bytes() < 4 << 20, "{full} {}", bench.views.disk_bytes());
    bench.assert_equals_model();
}

#[test]
fn a_file_where_a_directory_should_be_is_an_error_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("views-a"), b"not ours").unwrap();
    assert!(matches!(SledViews::open(dir.path()), Err(BackingError::Io { .. })));
    assert_eq!(fs::read(dir.path().join("views-a")).unwrap(), b"not ours");
}
