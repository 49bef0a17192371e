//! A directory with every kind of file in it, and helpers to copy and to read it.

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, CursorChange, LossReason, MailboxEntry, NewEvent, Read, SessionNo, StateChange,
    StateValue, Store, StoreSpec, StreamId, StreamSpec, Table, UplinkId, WhenFull,
};
use eventmesh_edge_store::inspect::{InspectOptions, Inspection, Severity, Verdict};
use eventmesh_edge_store::{JournalStore, OpenError, Opened, StoreOptions};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);
/// Acknowledges everything: the journal alone would do for it.
pub(crate) const UP: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
/// Stands in the middle of a generation.
pub(crate) const DOWN: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(1) };
/// Has no uplink yet.
pub(crate) const OTHER: Consumer = Consumer { stream: StreamId(1), uplink: UplinkId::NONE };
pub(crate) const RETAINED: u32 = 40;
pub(crate) const MAIL: SessionNo = SessionNo(7);

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(TestClock(Instant::now()))
}

pub(crate) fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[u16]| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.iter().map(|u| UplinkId(*u)).collect(),
        max_bytes: 64 << 20,
        max_age: None,
        when_full: WhenFull::Refuse,
    };
    StoreSpec {
        streams: vec![stream("kept", &[0, 1]), stream("other", &[])],
        uplinks: vec!["up".into(), "down".into()],
        disk_max: 256 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 100,
        mailboxes_max_bytes: 1 << 30,
    }
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 64 << 10,
        recent_bytes: 4 << 10,
        seal_segments: 3,
        checkpoint_segments: 2,
        checkpoint_bytes: 8 << 10,
        ..StoreOptions::default()
    }
}

pub(crate) fn open(dir: &Path) -> Result<(JournalStore, Opened), OpenError> {
    JournalStore::open(dir, spec(), &options(), clock())
}

pub(crate) fn event(n: u32) -> Event {
    let mut payload = format!("{{\"n\":{n},").into_bytes();
    payload.extend((0..300u32).map(|i| b'a' + u8::try_from((n * 7 + i * i) % 26).unwrap()));
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: format!("mqtt://edge/d{}", n % 5).into(),
        id: None,
        time: Some(NOW),
        received: NOW,
        expires: None,
        topic: format!("plant/{}/temp", n % 11).into(),
        payload: payload.into(),
        properties: None,
    }
}

pub(crate) fn commit(store: &dyn Store, commit: Commit) -> Vec<Position> {
    let (into, answer) = mpsc::channel();
    store.submit(commit, Box::new(move |done| into.send(done).unwrap()));
    answer.recv().unwrap().unwrap().positions
}

pub(crate) fn ack(store: &dyn Store, consumer: Consumer, acked: Position) {
    commit(store, Commit { cursors: vec![CursorChange { consumer, acked }], ..Commit::default() });
}

fn group(first: u32) -> Commit {
    let new = |n: u32| NewEvent {
        stream: Some(StreamId(u16::from(n % 4 == 3))),
        event: event(n),
        mailboxes: if n.is_multiple_of(16) {
            vec![MailboxEntry { session: MAIL, options: Bytes::from_static(b"q1") }]
        } else {
            Vec::new()
        },
    };
    let retained = StateChange::Put {
        table: Table::Retained,
        key: Bytes::from(format!("plant/{}", first / 8 % RETAINED)),
        value: StateValue::Bytes(Bytes::from(vec![b'r'; 200])),
    };
    Commit { events: (first..first + 8).map(new).collect(), state: vec![retained], ..Commit::default() }
}

/// Generations, several segments, both sides of the views with something in them; closed in order.
pub(crate) struct World {
    _root: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    /// Position and number of every event of stream 0 and 1.
    pub(crate) all: BTreeMap<Position, u32>,
}

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(World::make);

impl World {
    fn make() -> World {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let (store, _) = open(&dir).unwrap();
        let mut all = BTreeMap::new();
        let mut first = 0;
        // The keeper seals when it gets to it: commits go on until it has.
        while store.stats().generations < 2 && first < 80_000 {
            let positions = commit(&store, group(first));
            all.extend(positions.into_iter().zip(first..));
            first += 8;
        }
        assert!(store.stats().generations >= 2, "the world has its generations");
        store.close();
        drop(store);
        // And segments that no generation covers: nothing is sealed from here on.
        let options = StoreOptions { seal_segments: 1000, checkpoint_segments: 1000, ..options() };
        let (store, _) = JournalStore::open(&dir, spec(), &options, clock()).unwrap();
        for _ in 0..90 {
            let positions = commit(&store, group(first));
            all.extend(positions.into_iter().zip(first..));
            first += 8;
        }
        let kept: Vec<Position> = all.iter().filter(|(_, n)| *n % 4 != 3).map(|(p, _)| *p).collect();
        ack(&store, DOWN, kept[40]);
        ack(&store, UP, *kept.last().unwrap());
        store.close();
        drop(store);
        World { _root: root, dir, all }
    }

    /// A copy to damage.
    pub(crate) fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("data");
        copy_tree(&self.dir, &to);
        (root, to)
    }
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file with its bytes, by its path below the directory.
pub(crate) fn image(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Everything that waits for a consumer.
pub(crate) fn waiting(store: &dyn Store, consumer: Consumer) -> Vec<StoredEvent> {
    let mut found = Vec::new();
    let mut after = store.backlog(consumer).acked;
    loop {
        let (into, answer) = mpsc::channel();
        let read = Read { consumer, after, max_events: 200, max_bytes: 1 << 20 };
        store.read(read, Box::new(move |batch| into.send(batch).unwrap()));
        let batch = answer.recv().unwrap().unwrap();
        after = batch.through;
        found.extend(batch.events);
        if batch.at_end {
            return found;
        }
    }
}

/// Events counted as damaged that a consumer may have waited for.
pub(crate) fn counted(store: &dyn Store, consumer: Consumer) -> u64 {
    let ledger = store.ledger();
    let lines = ledger.iter().filter(|line| line.reason == LossReason::Damaged);
    lines.filter(|line| line.consumer.is_none_or(|c| c == consumer)).map(|line| line.events).sum()
}

pub(crate) fn inspect(dir: &Path) -> Inspection {
    Inspection::open(dir, &InspectOptions::default()).unwrap()
}

pub(crate) fn verify(dir: &Path) -> Verdict {
    inspect(dir).verify(&mut |_, _, _| {}).unwrap()
}

/// What a verdict says is damaged, for messages of failing tests.
pub(crate) fn damage(verdict: &Verdict) -> Vec<String> {
    let bad = verdict.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    bad.map(ToString::to_string).collect()
}
