//! What every fixture holds, whatever version wrote it: some of each kind of thing that the store keeps.

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Properties, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, CursorChange, Loss, LossReason, MailboxEntry, NewEvent, SessionNo, StateChange,
    StateValue, Store, StoreSpec, StreamId, StreamSpec, Table, UplinkId, WhenFull,
};
use eventmesh_edge_store::{JournalStore, Machine, OpenError, Opened, StoreOptions};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);
pub(crate) const TELEMETRY: StreamId = StreamId(0);
pub(crate) const NEWEST: StreamId = StreamId(1);
pub(crate) const WAITING: StreamId = StreamId(2);
pub(crate) const CLOUD: UplinkId = UplinkId(0);
pub(crate) const SITE: UplinkId = UplinkId(1);

/// Events of `telemetry`: enough to fill segments, so that some lie in a generation.
pub(crate) const TELEMETRY_EVENTS: usize = 600;
/// The cloud has acknowledged so many of them.
pub(crate) const CLOUD_ACKED: usize = 450;
/// Events of `newest`, of which its budget keeps the last few.
pub(crate) const NEWEST_EVENTS: usize = 60;
pub(crate) const WAITING_EVENTS: usize = 5;
/// Events for mailboxes; session 1 has got the first of them.
pub(crate) const MAIL_EVENTS: usize = 4;
pub(crate) const SESSIONS: [SessionNo; 3] = [SessionNo(1), SessionNo(2), SessionNo(3)];

/// Stands still.
struct FixtureClock;

impl Clock for FixtureClock {
    fn now(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[UplinkId], max_bytes, when_full| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.to_vec(),
        max_bytes,
        max_age: None,
        when_full,
    };
    StoreSpec {
        streams: vec![
            stream("telemetry", &[CLOUD, SITE], 8 << 20, WhenFull::Refuse),
            stream("newest", &[CLOUD], 4 << 10, WhenFull::DropOldest),
            stream("waiting", &[], 1 << 20, WhenFull::Refuse),
        ],
        uplinks: vec!["cloud".into(), "site".into()],
        disk_max: 256 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1000,
        mailboxes_max_bytes: 1 << 30,
    }
}

/// Small segments, so that a small directory has generations and checkpoints.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 64 << 10,
        recent_bytes: 8 << 10,
        seal_segments: 2,
        checkpoint_segments: 1,
        checkpoint_bytes: 4 << 10,
        spare_segments: 1,
        ..StoreOptions::default()
    }
}

pub(crate) fn open(dir: &Path) -> JournalStore {
    try_open(dir, None).expect("it opens").0
}

/// On a machine that has these marks; without any, a directory never moves.
pub(crate) fn try_open(dir: &Path, machine: Option<Machine>) -> Result<(JournalStore, Opened), OpenError> {
    let options = StoreOptions { machine: Some(machine.unwrap_or_default()), ..options() };
    JournalStore::open(dir, spec(), &options, Arc::new(FixtureClock))
}

pub(crate) fn event(source: &str, n: usize) -> Event {
    let properties = Properties {
        utf8_payload: true,
        content_type: Some("text/plain".into()),
        response_topic: Some("answers".into()),
        correlation_data: Some(Bytes::from_static(b"c-1")),
        user: vec![("site".into(), "plant-7".into())],
    };
    let mqtt5 = n.is_multiple_of(2);
    Event {
        via: if mqtt5 { Via::Mqtt5 } else { Via::Mqtt3 },
        qos: if mqtt5 { Qos::ExactlyOnce } else { Qos::AtLeastOnce },
        retain: n.is_multiple_of(3),
        source: format!("mqtt://plant-7/{source}").into(),
        id: n.is_multiple_of(5).then(|| format!("own-{n}").into()),
        time: Some(Timestamp(NOW.0 + n as u64)),
        received: Timestamp(NOW.0 + n as u64),
        expires: n.is_multiple_of(7).then_some(Timestamp(NOW.0 * 2)),
        topic: format!("plant/7/{source}").into(),
        payload: format!("{source} {n:>4} {}", "degrees ".repeat(n % 60)).into(),
        properties: mqtt5.then(|| Box::new(properties)),
    }
}

fn into_stream(stream: StreamId, event: Event) -> NewEvent {
    NewEvent { stream: Some(stream), event, mailboxes: Vec::new() }
}

/// Commits and waits.
pub(crate) fn commit(store: &dyn Store, commit: Commit) -> Vec<Position> {
    let (tx, rx) = mpsc::channel();
    store.submit(commit, Box::new(move |answer| drop(tx.send(answer))));
    rx.recv().expect("answered").expect("accepted").positions
}

/// The tables' content: one key each, and the value that it has.
pub(crate) fn tables(inbound: Position, retained: Bytes) -> Vec<(Table, &'static [u8], Bytes)> {
    let mut position = inbound.0.to_be_bytes().to_vec();
    position.extend_from_slice(b"hash");
    vec![
        (Table::Session, b"client-1".as_slice(), Bytes::from_static(b"record of session 1")),
        (Table::Subscription, b"\0\0\0\0\0\0\0\x01plant/#", Bytes::from_static(b"qos 1")),
        (Table::Inbound, b"\0\0\0\0\0\0\0\x01\0\x2a", position.into()),
        (Table::Outbound, b"\0\0\0\0\0\0\0\x01\0\x07", Bytes::from_static(b"pubrec")),
        (Table::Retained, b"plant/7/retained", retained),
        (Table::Node, b"time-floor", Bytes::copy_from_slice(&NOW.0.to_be_bytes())),
    ]
}

fn put(table: Table, key: &'static [u8], value: StateValue) -> StateChange {
    StateChange::Put { table, key: Bytes::from_static(key), value }
}

fn state() -> Commit {
    let [session, subscription, inbound, outbound, retained, node] =
        tables(Position::ZERO, Bytes::new()).try_into().expect("six tables");
    let bytes = |(table, key, value)| put(table, key, StateValue::Bytes(value));
    let suffix = Bytes::from_static(b"hash");
    Commit {
        events: vec![into_stream(WAITING, event("retained", 0))],
        state: vec![
            bytes(session),
            bytes(subscription),
            put(inbound.0, inbound.1, StateValue::Position { event: 0, suffix }),
            bytes(outbound),
            put(retained.0, retained.1, StateValue::Record { event: 0 }),
            bytes(node),
            put(Table::Node, b"deleted", StateValue::Bytes(Bytes::from_static(b"x"))),
            StateChange::Delete { table: Table::Node, key: Bytes::from_static(b"deleted") },
        ],
        ..Commit::default()
    }
}

fn mail(n: usize) -> Commit {
    let entry =
        |session: &SessionNo| MailboxEntry { session: *session, options: Bytes::from_static(&[0x11, 0]) };
    let mailboxes = SESSIONS.iter().map(entry).collect();
    Commit {
        events: vec![NewEvent { stream: None, event: event("mail", n), mailboxes }],
        ..Commit::default()
    }
}

/// Fills a directory: called once, by the generator.
pub(crate) fn fill(store: &dyn Store) {
    let mut telemetry = Vec::new();
    for n in 0..TELEMETRY_EVENTS {
        telemetry.extend(commit(
            store,
            Commit { events: vec![into_stream(TELEMETRY, event("line", n))], ..Commit::default() },
        ));
    }
    for n in 0..NEWEST_EVENTS {
        commit(store, Commit { events: vec![into_stream(NEWEST, event("fast", n))], ..Commit::default() });
    }
    commit(store, state());
    for n in 1..WAITING_EVENTS {
        commit(
            store,
            Commit { events: vec![into_stream(WAITING, event("retained", n))], ..Commit::default() },
        );
    }
    let mail: Vec<Position> = (0..MAIL_EVENTS).flat_map(|n| commit(store, mail(n))).collect();
    let first = mail.first().copied().unwrap_or_default();
    let removed = StateChange::MailboxRemove { session: SessionNo(1), position: first };
    let cloud = Consumer { stream: TELEMETRY, uplink: CLOUD };
    let acked = telemetry.get(CLOUD_ACKED - 1).copied().unwrap_or_default();
    let loss = Loss {
        consumer: Some(cloud),
        reason: LossReason::Parked,
        events: 1,
        bytes: 99,
        range: (first, first),
    };
    commit(
        store,
        Commit {
            state: vec![removed, StateChange::MailboxClear { session: SessionNo(3) }],
            cursors: vec![CursorChange { consumer: cloud, acked }],
            losses: vec![loss],
            ..Commit::default()
        },
    );
}
