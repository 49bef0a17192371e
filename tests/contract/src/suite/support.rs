//! Small change for tests of a store: events, specs, and calls that wait for their completion.

use super::Factory;
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Batch, Commit, CommitError, Committed, Consumer, CursorChange, LedgerLine, LossReason, MailboxEntry,
    MailboxItem, NewEvent, Read, ReadError, Reshape, ReshapeError, SessionNo, StateChange, Store, StoreSpec,
    StreamId, StreamSpec, UplinkId, WhenFull,
};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// After this long a completion counts as never called. Nothing is measured with it.
const HANG: Duration = Duration::from_secs(60);

/// 2026-09-21T14:13:20Z, when nothing says otherwise.
pub const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// Event number `n` of a source: topic and payload name both.
#[must_use]
pub fn event(source: &str, n: usize) -> Event {
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: Text::from(format!("mqtt://test/{source}")),
        id: None,
        time: Some(NOW),
        received: NOW,
        expires: None,
        topic: Text::from(format!("site/{source}/value")),
        payload: Bytes::from(format!("{source} {n}")),
        properties: None,
    }
}

/// The same with `bytes` bytes of payload.
#[must_use]
pub fn event_of(source: &str, n: usize, bytes: usize) -> Event {
    let mut payload = format!("{source} {n} ").into_bytes();
    payload.resize(bytes, b'.');
    Event { payload: payload.into(), ..event(source, n) }
}

/// An event on its way into a stream.
#[must_use]
pub fn into_stream(stream: StreamId, event: Event) -> NewEvent {
    NewEvent { stream: Some(stream), event, mailboxes: Vec::new() }
}

/// An event for mailboxes only, with `options`.
#[must_use]
pub fn into_mailboxes(event: Event, sessions: &[SessionNo], options: &'static str) -> NewEvent {
    let entry = |session: &SessionNo| MailboxEntry {
        session: *session,
        options: Bytes::from_static(options.as_bytes()),
    };
    NewEvent { stream: None, event, mailboxes: sessions.iter().map(entry).collect() }
}

/// A commit of events for stream 0.
#[must_use]
pub fn commit_of(events: impl IntoIterator<Item = Event>) -> Commit {
    commit_to(StreamId(0), events)
}

/// A commit of events for one stream.
#[must_use]
pub fn commit_to(stream: StreamId, events: impl IntoIterator<Item = Event>) -> Commit {
    Commit { events: events.into_iter().map(|e| into_stream(stream, e)).collect(), ..Commit::default() }
}

/// A commit of state changes only.
#[must_use]
pub fn state_of(state: impl IntoIterator<Item = StateChange>) -> Commit {
    Commit { state: state.into_iter().collect(), ..Commit::default() }
}

/// One stream, read by one uplink.
#[must_use]
pub fn stream(name: &'static str, uplinks: &[u16], max_bytes: u64, when_full: WhenFull) -> StreamSpec {
    let uplinks = uplinks.iter().map(|u| UplinkId(*u)).collect();
    StreamSpec { name: Text::from_static(name), uplinks, max_bytes, max_age: None, when_full }
}

/// Streams, and the uplinks `up-0`, `up-1` ... that they name.
#[must_use]
pub fn spec_of(streams: impl IntoIterator<Item = StreamSpec>) -> StoreSpec {
    let streams: Vec<_> = streams.into_iter().collect();
    let named = streams.iter().flat_map(|s| &s.uplinks).map(|u| u.0 + 1).max().unwrap_or(0);
    StoreSpec {
        streams,
        uplinks: (0..named).map(|n| Text::from(format!("up-{n}"))).collect(),
        disk_max: 1 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 10_000,
        mailboxes_max_bytes: 1 << 30,
    }
}

/// One stream `only`, read by uplink 0.
#[must_use]
pub fn spec_of_one(max_bytes: u64, when_full: WhenFull) -> StoreSpec {
    spec_of([stream("only", &[0], max_bytes, when_full)])
}

/// The pair of these numbers.
#[must_use]
pub fn consumer(stream: u16, uplink: u16) -> Consumer {
    Consumer { stream: StreamId(stream), uplink: UplinkId(uplink) }
}

/// The consumer of [`spec_of_one`].
pub const ONLY: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };

/// Submits and waits.
///
/// # Errors
/// What the store answered.
pub fn commit_blocking(store: &dyn Store, commit: Commit) -> Result<Committed, CommitError> {
    let (tx, rx) = mpsc::channel();
    store.submit(commit, answer(tx));
    rx.recv_timeout(HANG).expect("a commit is completed, exactly once")
}

/// Submits, waits, and wants it accepted.
pub fn commit(store: &dyn Store, commit: Commit) -> Vec<Position> {
    commit_blocking(store, commit).expect("nothing stands against this commit").positions
}

/// Reads and waits.
///
/// # Errors
/// What the store answered.
pub fn read_blocking(store: &dyn Store, read: Read) -> Result<Batch, ReadError> {
    let (tx, rx) = mpsc::channel();
    store.read(read, answer(tx));
    rx.recv_timeout(HANG).expect("a read is completed, exactly once")
}

/// Changes the store and waits.
///
/// # Errors
/// What the store answered.
pub fn reshape(
    store: &dyn Store,
    spec: StoreSpec,
    drain: &[Consumer],
    drop: &[Consumer],
) -> Result<(), ReshapeError> {
    let (tx, rx) = mpsc::channel();
    store.reshape(Reshape { spec, drain: drain.to_vec(), drop: drop.to_vec() }, answer(tx));
    rx.recv_timeout(HANG).expect("a change is completed, exactly once")
}

/// Reads a mailbox and waits.
pub fn mailbox(
    store: &dyn Store,
    session: SessionNo,
    after: Position,
    max_events: usize,
) -> Vec<MailboxItem> {
    let (tx, rx) = mpsc::channel();
    store.read_mailbox(session, after, max_events, usize::MAX, answer(tx));
    rx.recv_timeout(HANG).expect("a read is completed, exactly once").expect("the mailbox can be read")
}

/// A completion that sends into a channel; a receiver that has gone is no fault of the store.
pub fn answer<T: Send + 'static>(tx: mpsc::Sender<T>) -> Box<dyn FnOnce(T) + Send> {
    Box::new(move |outcome| drop(tx.send(outcome)))
}

/// Everything after `after`, in pages, with the page rules checked on the way: each page makes progress, is in order,
/// and ends at or after its last event.
pub fn read_all(store: &dyn Store, consumer: Consumer, after: Position) -> Vec<StoredEvent> {
    let mut all: Vec<StoredEvent> = Vec::new();
    let mut through = after;
    loop {
        let read = Read { consumer, after: through, max_events: 64, max_bytes: 1 << 20 };
        let batch = read_blocking(store, read).expect("the stream can be read");
        let last = all.last().map_or(after, |e| e.position);
        assert!(batch.events.iter().map(|e| e.position).is_sorted_by(|a, b| a < b), "in order of position");
        assert!(batch.events.first().is_none_or(|e| e.position > last), "only later ones");
        assert!(
            batch.events.last().is_none_or(|e| e.position <= batch.through),
            "through is at least the last"
        );
        assert!(batch.events.len() <= 64);
        assert!(batch.at_end || batch.through > through, "a page that is not the last makes progress");
        through = batch.through;
        all.extend(batch.events);
        if batch.at_end {
            return all;
        }
    }
}

/// Payloads as text, for short comparisons.
#[must_use]
pub fn texts(events: &[StoredEvent]) -> Vec<String> {
    events.iter().map(|e| String::from_utf8_lossy(&e.event.payload).into_owned()).collect()
}

/// Positions.
#[must_use]
pub fn positions(events: &[StoredEvent]) -> Vec<Position> {
    events.iter().map(|e| e.position).collect()
}

/// Acknowledges up to a position and waits.
pub fn ack(store: &dyn Store, consumer: Consumer, acked: Position) {
    commit(store, Commit { cursors: vec![CursorChange { consumer, acked }], ..Commit::default() });
}

/// Closes, lets go, opens again on the same backing.
pub fn reopen<F: Factory>(factory: &F, store: Arc<dyn Store>, spec: StoreSpec) -> Arc<dyn Store> {
    store.close();
    drop(store);
    factory.open(spec)
}

/// The ledger's line of a pair and a reason, zero if there is none.
#[must_use]
pub fn lost(store: &dyn Store, consumer: Option<Consumer>, reason: LossReason) -> LedgerLine {
    let zero =
        LedgerLine { consumer, reason, events: 0, bytes: 0, first: Position::ZERO, last: Position::ZERO };
    let mut lines = store.ledger().into_iter().filter(|l| l.consumer == consumer && l.reason == reason);
    let line = lines.next().unwrap_or(zero);
    assert!(lines.next().is_none(), "one line per pair and reason");
    line
}

/// Ticks until `done`, for work that the store may do on its own thread. Each round waits for a whole commit, so this
/// neither sleeps nor spins.
pub fn tick_until(store: &dyn Store, now: Timestamp, what: &str, done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        store.tick(now);
        commit(store, Commit::default());
        if done() {
            return;
        }
    }
    panic!("ticking never led to: {what}");
}

/// Backlog figures counted by reading must be the ones that the store tells.
pub fn assert_backlog_is_exact(store: &dyn Store, consumer: Consumer) -> Vec<StoredEvent> {
    let told = store.backlog(consumer);
    let waiting = read_all(store, consumer, told.acked);
    let bytes: u64 = waiting.iter().map(|e| u64::from(e.stored_bytes)).sum();
    assert_eq!((told.events, told.bytes), (waiting.len() as u64, bytes), "backlog of {consumer:?}");
    let oldest = waiting.iter().map(|e| e.event.received).next();
    assert!(told.oldest.is_none() || told.oldest == oldest, "oldest of {consumer:?}: {told:?}");
    assert!(waiting.last().is_none_or(|e| e.position <= told.newest), "newest of {consumer:?}");
    waiting
}

/// Fills a `refuse` stream with events of `payload_bytes` until the first refusal; returns the accepted ones' positions
/// and the refusal.
pub fn fill(store: &dyn Store, stream: StreamId, payload_bytes: usize) -> (Vec<Position>, CommitError) {
    let mut accepted = Vec::new();
    for n in 0..10_000 {
        match commit_blocking(store, commit_to(stream, [event_of("filler", n, payload_bytes)])) {
            Ok(committed) => accepted.extend(committed.positions),
            Err(refusal) => return (accepted, refusal),
        }
    }
    panic!("the budget of {stream:?} never refused anything");
}
