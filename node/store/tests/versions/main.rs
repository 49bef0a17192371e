//! Directories that earlier versions wrote are read by this one, whole, and gone on with. The fixtures are made by
//! `examples/make_fixture.rs`, once per version, and never touched again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests and their helpers"
)]

mod archive;
mod content;

use bytes::Bytes;
use content::{
    CLOUD, CLOUD_ACKED, MAIL_EVENTS, NEWEST, NEWEST_EVENTS, NOW, SESSIONS, SITE, TELEMETRY, TELEMETRY_EVENTS,
    WAITING, WAITING_EVENTS, commit, event, open, tables,
};
use eventmesh_edge_core::event::{Position, StoredEvent, record};
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, LossReason, NewEvent, Read, SessionNo, Store, StreamId, UplinkId,
};
use eventmesh_edge_store::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

fn fixtures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|ext| ext == "lz4"));
    found.sort();
    found
}

fn unpacked(fixture: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    archive::unpack(&fs::read(fixture).unwrap(), dir.path()).unwrap();
    dir
}

fn read_all(store: &dyn Store, stream: StreamId, uplink: UplinkId) -> Vec<StoredEvent> {
    let consumer = Consumer { stream, uplink };
    let told = store.backlog(consumer);
    let (mut all, mut after) = (Vec::new(), Position::ZERO);
    loop {
        let (tx, rx) = mpsc::channel();
        let read = Read { consumer, after, max_events: 50, max_bytes: 1 << 16 };
        store.read(read, Box::new(move |batch| drop(tx.send(batch))));
        let batch = rx.recv().unwrap().unwrap();
        after = batch.through;
        all.extend(batch.events);
        if batch.at_end {
            assert_eq!(told.events, all.len() as u64, "{consumer:?}");
            assert_eq!(told.bytes, all.iter().map(|e| u64::from(e.stored_bytes)).sum::<u64>());
            return all;
        }
    }
}

/// The events `first..` of a source, to the last field, with contiguous numbers.
fn assert_is(found: &[StoredEvent], source: &str, first: usize, to: usize) {
    assert_eq!(found.len(), to - first, "{source}");
    for (stored, n) in found.iter().zip(first..) {
        assert_eq!(stored.event, event(source, n));
        assert_eq!(stored.sequence.source, n as u64 + 1, "{source} {n}");
        assert_eq!(stored.sequence.stream, n as u64 + 1, "{source} {n}");
    }
}

fn mailbox(store: &dyn Store, session: SessionNo) -> Vec<StoredEvent> {
    let (tx, rx) = mpsc::channel();
    store.read_mailbox(session, Position::ZERO, 99, 1 << 20, Box::new(move |items| drop(tx.send(items))));
    let items = rx.recv().unwrap().unwrap();
    assert!(items.iter().all(|item| item.options == Bytes::from_static(&[0x11, 0])));
    items.into_iter().map(|item| item.event).collect()
}

fn assert_streams(store: &dyn Store) -> Position {
    let at_cloud = read_all(store, TELEMETRY, CLOUD);
    assert_is(&at_cloud, "line", CLOUD_ACKED, TELEMETRY_EVENTS);
    let at_site = read_all(store, TELEMETRY, SITE);
    assert_is(&at_site, "line", 0, TELEMETRY_EVENTS);
    assert_eq!(at_site[0].position, Position::first_of(1), "ids are made of positions: they stay (P3)");
    assert_eq!(at_site[CLOUD_ACKED..], at_cloud);
    let newest = read_all(store, NEWEST, CLOUD);
    assert_is(&newest, "fast", NEWEST_EVENTS - newest.len(), NEWEST_EVENTS);
    let waiting = read_all(store, WAITING, UplinkId::NONE);
    assert_is(&waiting, "retained", 0, WAITING_EVENTS);
    let ledger = store.ledger();
    let lost = |reason| ledger.iter().filter(|l| l.reason == reason).map(|l| l.events).sum::<u64>();
    assert_eq!(lost(LossReason::QueueFull), (NEWEST_EVENTS - newest.len()) as u64);
    assert_eq!((lost(LossReason::Parked), ledger.len()), (1, 2));
    waiting[0].position
}

fn assert_state(store: &dyn Store, inbound: Position) {
    let mut body = Vec::new();
    let first = read_all(store, WAITING, UplinkId::NONE).remove(0);
    record::encode(&first.event, first.sequence, &mut body);
    for (table, key, value) in tables(inbound, body.into()) {
        assert_eq!(store.get(table, key).unwrap(), Some(value.clone()), "{table:?}");
        assert_eq!(store.scan(table, b"", None, 9).unwrap(), [(Bytes::from_static(key), value)]);
    }
    let at = |session| mailbox(store, session);
    assert_eq!(
        (at(SESSIONS[0]).len(), at(SESSIONS[1]).len(), at(SESSIONS[2]).len()),
        (MAIL_EVENTS - 1, MAIL_EVENTS, 0)
    );
    assert_eq!(at(SESSIONS[0]), at(SESSIONS[1])[1..]);
    assert!(at(SESSIONS[1]).iter().zip(0..).all(|(stored, n)| stored.event == event("mail", n)));
}

/// Three starts on top of what is there.
fn assert_goes_on(dir: &Path) {
    for start in 0..3 {
        let store = open(dir);
        let inbound = assert_streams(&store);
        assert_state(&store, inbound);
        assert_eq!(store.stats().quarantined, 0);
        let event = event(&format!("start-{start}"), 0);
        let new = NewEvent { stream: None, event, mailboxes: Vec::new() };
        let position = commit(&store, Commit { events: vec![new], ..Commit::default() })[0];
        assert_eq!(position.epoch(), 2 + start, "a later start of the same log");
        store.tick(NOW);
        store.close();
    }
}

#[test]
fn every_version_is_read_and_gone_on_with() {
    let fixtures = fixtures();
    assert!(fixtures.iter().any(|path| path.ends_with("v1.lz4")), "{fixtures:?}");
    for fixture in fixtures {
        println!("{}", fixture.display());
        assert_goes_on(unpacked(&fixture).path());
    }
}

/// A start leaves the directory to this version: an earlier program says so and touches nothing, as this one does with a
/// later one's.
#[test]
fn a_directory_of_a_later_version_is_refused_with_what_to_do() {
    let dir = unpacked(&fixtures()[0]);
    open(dir.path()).close();
    let format = fs::read_to_string(dir.path().join("format")).unwrap();
    let version: u32 = format.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(version >= 2, "{format}");
    fs::write(dir.path().join("format"), format!("eventmesh-edge store {}\n", version + 1)).unwrap();
    let before = archive::pack(dir.path()).unwrap();
    let error = content::try_open(dir.path(), None).err().unwrap().to_string();
    let says = [
        format!("format version {}", version + 1),
        format!("reads up to {version}"),
        "start the version".into(),
    ];
    assert!(says.iter().all(|part| error.contains(part)), "{error}");
    assert_eq!(archive::pack(dir.path()).unwrap(), before, "nothing was touched");
}

/// An old directory does not say where it was written: it belongs to the machine that first opens it with this version.
#[test]
fn an_old_directory_is_of_the_machine_that_opens_it_first() {
    let dir = unpacked(&fixtures()[0]);
    let machine = |serial: &str| Some(Machine::of([Some(serial.to_owned()), None, None, None]));
    let start = |serial| {
        let (store, opened) = content::try_open(dir.path(), machine(serial)).unwrap();
        let at_site = read_all(&store, TELEMETRY, SITE);
        let new = NewEvent { stream: Some(WAITING), event: event("new", 1), mailboxes: Vec::new() };
        commit(&store, Commit { events: vec![new], ..Commit::default() });
        let newest = read_all(&store, WAITING, UplinkId::NONE).pop().unwrap();
        store.close();
        (opened.moved, at_site[1].id(), newest.id())
    };
    let (first, again, moved) = (start("a"), start("a"), start("b"));
    assert_eq!((first.0, again.0, moved.0), (None, None, Some("board serial")));
    assert_eq!((&first.1, &first.1), (&again.1, &moved.1), "what was stored keeps its id");
    let log = |id: &str| id.split('.').next().unwrap().to_owned();
    assert_eq!(log(&first.2), log(&again.2));
    assert_ne!(log(&again.2), log(&moved.2));
}

/// What the next fixture will be made of is what this test reads.
#[test]
fn the_generator_makes_what_is_expected_here() {
    let (made, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(made.path());
    content::fill(&store);
    store.close();
    archive::unpack(&archive::pack(made.path()).unwrap(), copied.path()).unwrap();
    assert_goes_on(copied.path());
}
