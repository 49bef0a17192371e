//! Small change: a spec, events, calls that answer before they return.

use eventmesh_edge_core::event::{Event, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Change, Commit, CommitError, Consumer, CursorChange, LossReason, NewEvent, Read, Store, StoreSpec,
    StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_store::{Opened, SimSite, SteppedStore, StoreOptions};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);
pub(crate) const A: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
pub(crate) const B: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(1) };
pub(crate) const DROPS: Consumer = Consumer { stream: StreamId(1), uplink: UplinkId(0) };

pub(crate) fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[u16], max_bytes, when_full| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.iter().map(|u| UplinkId(*u)).collect(),
        max_bytes,
        max_age: None,
        when_full,
    };
    StoreSpec {
        streams: vec![
            stream("kept", &[0, 1], 256 << 10, WhenFull::Refuse),
            stream("newest", &[0], 24 << 10, WhenFull::DropOldest),
        ],
        uplinks: vec!["up".into(), "down".into()],
        disk_max: 64 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 100,
        mailboxes_max_bytes: 1 << 30,
    }
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 16 << 10,
        recent_bytes: 4 << 10,
        seal_segments: 4,
        checkpoint_segments: 2,
        checkpoint_bytes: 8 << 10,
        ..StoreOptions::default()
    }
}

pub(crate) fn open(site: &SimSite) -> (SteppedStore, Opened) {
    SteppedStore::open(site, spec(), &options(), true).unwrap()
}

pub(crate) fn event(source: &str, n: u64, bytes: usize) -> Event {
    let mut payload = format!("{source} {n} ").into_bytes();
    payload.resize(payload.len().max(bytes), b'.');
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: source.to_owned().into(),
        id: None,
        time: None,
        received: NOW,
        expires: None,
        topic: "t".into(),
        payload: payload.into(),
        properties: None,
    }
}

pub(crate) fn to_stream(stream: u16, events: impl IntoIterator<Item = Event>) -> Commit {
    let events = events
        .into_iter()
        .map(|event| NewEvent { stream: Some(StreamId(stream)), event, mailboxes: Vec::new() })
        .collect();
    Commit { events, ..Commit::default() }
}

pub(crate) fn commit(store: &dyn Store, commit: Commit) -> Result<Vec<Position>, CommitError> {
    let slot = Arc::new(Mutex::new(None));
    let into = Arc::clone(&slot);
    store.submit(commit, Box::new(move |answer| *into.lock().unwrap() = Some(answer)));
    let answer = slot.lock().unwrap().take().expect("an immediate store answers before it returns");
    answer.map(|committed| committed.positions)
}

pub(crate) fn ack(store: &dyn Store, consumer: Consumer, acked: Position) -> Result<(), CommitError> {
    let cursors = vec![CursorChange { consumer, acked }];
    commit(store, Commit { cursors, ..Commit::default() }).map(drop)
}

pub(crate) fn read_after(store: &dyn Store, consumer: Consumer, after: Position) -> Vec<StoredEvent> {
    let mut all = Vec::new();
    let mut after = after;
    loop {
        let slot = Arc::new(Mutex::new(None));
        let into = Arc::clone(&slot);
        let read = Read { consumer, after, max_events: 7, max_bytes: 4000 };
        store.read(read, Box::new(move |batch| *into.lock().unwrap() = Some(batch)));
        let batch = slot.lock().unwrap().take().unwrap().unwrap();
        assert!(batch.at_end || batch.through > after, "progress");
        after = batch.through;
        all.extend(batch.events);
        if batch.at_end {
            return all;
        }
    }
}

/// What waits; the figures must be what reading finds.
pub(crate) fn waiting(store: &dyn Store, consumer: Consumer) -> Vec<StoredEvent> {
    let told = store.backlog(consumer);
    let found = read_after(store, consumer, told.acked);
    let bytes: u64 = found.iter().map(|e| u64::from(e.stored_bytes)).sum();
    assert_eq!((told.events, told.bytes), (found.len() as u64, bytes), "backlog of {consumer:?}");
    found
}

pub(crate) fn positions(events: &[StoredEvent]) -> Vec<Position> {
    events.iter().map(|e| e.position).collect()
}

/// How often the store has said from now on that there is room again.
pub(crate) fn count_room(store: &dyn Store) -> Arc<AtomicU64> {
    let room = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&room);
    store.watch(Arc::new(move |change| {
        seen.fetch_add(u64::from(change == Change::Room), Ordering::SeqCst);
    }));
    room
}

pub(crate) fn lost(store: &dyn Store, reason: LossReason) -> u64 {
    store.ledger().iter().filter(|l| l.reason == reason).map(|l| l.events).sum()
}

pub(crate) fn newest_segment(site: &SimSite) -> String {
    let names = segment_files(site);
    names.into_iter().rev().find(|path| site.disk_read(path).starts_with(b"EMESHJNL")).unwrap()
}

pub(crate) fn segment_files(site: &SimSite) -> Vec<String> {
    use eventmesh_edge_store::disk::Disk;
    let entries = site.disk.list("journal").unwrap();
    entries.into_iter().map(|e| format!("journal/{}", e.name)).filter(|p| p.ends_with(".seg")).collect()
}

pub(crate) trait ReadFile {
    fn disk_read(&self, path: &str) -> Vec<u8>;
}

impl ReadFile for SimSite {
    fn disk_read(&self, path: &str) -> Vec<u8> {
        use eventmesh_edge_store::disk::Disk;
        self.disk.read(path).unwrap()
    }
}

pub(crate) fn fork(site: &SimSite) -> SimSite {
    // The views had no checkpoint: everything comes from the journal.
    SimSite { disk: site.disk.fork(), ..SimSite::new() }
}

/// Where the frames of a segment start and end, by their lengths.
pub(crate) fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 64;
    while let Some(len) = segment.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()) as usize)
    {
        if len == 0 {
            break;
        }
        found.push((at, at + 8 + len));
        at += 8 + len;
    }
    found
}
