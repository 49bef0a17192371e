//! Commits: order, atomicity, numbers, and that what goes in comes out.

use super::Factory;
use super::support::{
    ONLY, answer, assert_backlog_is_exact, commit, commit_blocking, commit_of, commit_to, event, event_of,
    fill, into_mailboxes, into_stream, lost, mailbox, read_all, reopen, spec_of, spec_of_one, stream, texts,
};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Properties, Qos, Sequence, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Class, Commit, CommitError, CursorChange, Loss, LossReason, SessionNo, StateChange, StateValue, Store,
    StreamId, Table, WhenFull,
};
use std::sync::{Arc, mpsc};

/// One position per event, in the commit's order, in this start's epoch; later commits come later (P3).
pub fn positions_follow_the_order_of_the_commit<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 20, WhenFull::Refuse),
        stream("b", &[0], 1 << 20, WhenFull::Refuse),
    ]));
    let events = [
        into_stream(StreamId(0), event("s", 0)),
        into_stream(StreamId(1), event("s", 1)),
        into_mailboxes(event("s", 2), &[SessionNo(1)], ""),
        into_stream(StreamId(0), event("s", 3)),
    ];
    let first = commit(&*store, Commit { events: events.to_vec(), ..Commit::default() });
    let second = commit(&*store, commit_of([event("s", 4)]));
    let all = [first, second].concat();
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    assert!(all.iter().all(|p| p.epoch() == u64::from(store.stats().epoch) && p.counter() >= 1));
    assert_eq!(
        read_all(&*store, ONLY, Position::ZERO).iter().map(|e| e.position).collect::<Vec<_>>(),
        [all[0], all[3], all[4]]
    );
}

/// Completions are called in the order in which the commits were submitted, refused ones in their turn.
pub fn completions_come_in_the_order_of_submission<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 22, WhenFull::Refuse),
        stream("tiny", &[0], 300, WhenFull::Refuse),
    ]));
    let (tx, rx) = mpsc::channel();
    for n in 0..200 {
        let tx = tx.clone();
        let stream = StreamId(u16::from(n % 5 == 3));
        let done = Box::new(move |outcome: Result<_, _>| tx.send((n, outcome.is_ok())).unwrap_or(()));
        store.submit(commit_to(stream, [event_of("s", n, (n * 37) % 3000)]), done);
    }
    drop(tx);
    commit(&*store, Commit::default());
    let seen: Vec<(usize, bool)> = rx.try_iter().collect();
    assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    assert!(seen.iter().any(|(_, ok)| !ok) && seen.iter().filter(|(_, ok)| *ok).count() >= 160);
}

/// When a commit completes, its events, state, mailboxes and cursors can be read: by the completion itself already.
pub fn a_completed_commit_is_visible<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    for n in 0..20 {
        let mut new = into_stream(StreamId(0), event("s", n));
        new.mailboxes = into_mailboxes(event("s", n), &[SessionNo(7)], "o").mailboxes;
        let key = Bytes::from(format!("key-{n}"));
        let put =
            StateChange::Put { table: Table::Node, key: key.clone(), value: StateValue::Bytes(key.clone()) };
        let (tx, rx) = mpsc::channel();
        let seen_by = Arc::downgrade(&store);
        let done = Box::new(move |outcome: Result<_, _>| {
            let backlog = seen_by.upgrade().map(|s| (s.backlog(ONLY).events, s.mailbox_len(SessionNo(7)).0));
            tx.send((outcome.is_ok(), backlog)).unwrap_or(());
        });
        store.submit(Commit { events: vec![new], state: vec![put], ..Commit::default() }, done);
        let waiting = n as u64 + 1;
        assert_eq!(rx.recv().unwrap(), (true, Some((waiting, waiting))));
        assert_eq!(read_all(&*store, ONLY, Position::ZERO).len(), n + 1);
        assert_eq!(mailbox(&*store, SessionNo(7), Position::ZERO, 100).len(), n + 1);
        assert_eq!(store.get(Table::Node, &key).unwrap(), Some(key));
    }
}

/// A commit is durable as a whole or not at all: events of other streams, state, mailboxes, cursors and losses of a
/// refused one are not there, now or after a restart.
pub fn a_refused_commit_leaves_nothing_behind<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of([
        stream("roomy", &[0], 1 << 20, WhenFull::Refuse),
        stream("full", &[0], 2000, WhenFull::Refuse),
    ]);
    let store = factory.open(spec.clone());
    let first = commit(&*store, commit_of([event("s", 0)]))[0];
    fill(&*store, StreamId(1), 400);
    let mut new = into_stream(StreamId(0), event("s", 1));
    new.mailboxes = into_mailboxes(event("s", 1), &[SessionNo(1)], "").mailboxes;
    let key = Bytes::from_static(b"key");
    let refused = Commit {
        events: vec![new, into_stream(StreamId(1), event_of("s", 2, 400))],
        state: vec![StateChange::Put { table: Table::Node, key: key.clone(), value: StateValue::Bytes(key) }],
        cursors: vec![CursorChange { consumer: ONLY, acked: first }],
        losses: vec![loss(None, LossReason::SlowSubscriber, 1, first)],
    };
    let error = commit_blocking(&*store, refused).unwrap_err();
    assert!(matches!(error, CommitError::Full { stream: StreamId(1), .. }), "{error}");
    assert_nothing_of_it(&*store, first);
    let store = reopen(&factory, store, spec);
    assert_nothing_of_it(&*store, first);
}

fn assert_nothing_of_it(store: &dyn Store, first: Position) {
    let waiting = assert_backlog_is_exact(store, ONLY);
    assert_eq!(waiting.iter().map(|e| e.position).collect::<Vec<_>>(), [first], "neither events nor cursor");
    assert_eq!(store.mailbox_len(SessionNo(1)), (0, 0));
    assert_eq!(store.get(Table::Node, b"key").unwrap(), None);
    assert_eq!(store.ledger(), []);
}

/// Nothing to make durable is no error, and keeps its place in the order.
pub fn an_empty_commit_completes<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let (tx, rx) = mpsc::channel();
    store.submit(commit_of([event("s", 0)]), answer(tx.clone()));
    store.submit(Commit::default(), answer(tx.clone()));
    store.submit(commit_of([event("s", 1)]), answer(tx));
    let counts: Vec<usize> = rx.iter().map(|outcome| outcome.unwrap().positions.len()).collect();
    assert_eq!(counts, [1, 0, 1]);
}

/// `sequence` counts per source, `edgeseq` per source and stream, both from 1.
pub fn sequences_count_per_source_and_per_stream<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 20, WhenFull::Refuse),
        stream("b", &[0], 1 << 20, WhenFull::Refuse),
    ]));
    let plan = [("x", 0), ("x", 1), ("y", 0), ("x", 0), ("y", 1), ("x", 1), ("x", 1)];
    let events: Vec<_> =
        plan.iter().enumerate().map(|(n, (source, s))| into_stream(StreamId(*s), event(source, n))).collect();
    commit(&*store, Commit { events: events[..4].to_vec(), ..Commit::default() });
    commit(&*store, Commit { events: events[4..].to_vec(), ..Commit::default() });
    let seen = |stream: u16| -> Vec<(String, Sequence)> {
        let all = read_all(&*store, super::support::consumer(stream, 0), Position::ZERO);
        all.iter().map(|e| (e.event.source[12..].to_owned(), e.sequence)).collect()
    };
    let expect = |list: &[(&str, u64, u64)]| -> Vec<(String, Sequence)> {
        list.iter()
            .map(|(s, source, stream)| ((*s).into(), Sequence { source: *source, stream: *stream }))
            .collect()
    };
    assert_eq!(seen(0), expect(&[("x", 1, 1), ("y", 1, 1), ("x", 3, 2)]));
    assert_eq!(seen(1), expect(&[("x", 2, 1), ("y", 2, 1), ("x", 4, 2), ("x", 5, 3)]));
}

/// A refused commit uses no sequence number up: the numbers stay contiguous.
pub fn sequences_have_no_gap_after_a_refusal<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 20, WhenFull::Refuse),
        stream("tiny", &[0], 1500, WhenFull::Refuse),
    ]));
    let (accepted, refusal) = fill(&*store, StreamId(1), 300);
    assert_eq!(refusal.class(), Class::Retry);
    commit(&*store, commit_of([event("filler", 0)]));
    let next = read_all(&*store, ONLY, Position::ZERO)[0].sequence;
    assert_eq!(next, Sequence { source: accepted.len() as u64 + 1, stream: 1 });
}

/// Payloads of 0 bytes to 256 KiB, byte for byte.
pub fn payloads_of_every_size_come_back<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 24, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    let sizes = [0, 1, 127, 128, 4095, 4096, 4097, 16_383, 16_384, 65_535, 65_536, 262_143, 262_144];
    let payload =
        |n: usize| Bytes::from((0..n).map(|i| i.wrapping_mul(31).to_le_bytes()[0]).collect::<Vec<_>>());
    for size in sizes {
        commit(&*store, commit_of([Event { payload: payload(size), ..event("s", size) }]));
    }
    let check = |store: &dyn Store| {
        let all = assert_backlog_is_exact(store, ONLY);
        assert_eq!(all.iter().map(|e| e.event.payload.len()).collect::<Vec<_>>(), sizes);
        assert!(all.iter().all(|e| e.event.payload == payload(e.event.payload.len())));
        assert!(all.iter().all(|e| e.stored_bytes as usize > e.event.payload.len()));
    };
    check(&*store);
    check(&*reopen(&factory, store, spec));
}

/// Every field as it went in, any valid UTF-8 included; the id is the sender's, or made from log and position (P3).
pub fn every_field_of_an_event_comes_back<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 20, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    let odd = Event {
        via: Via::Uplink,
        qos: Qos::ExactlyOnce,
        retain: true,
        source: Text::from("coap://knoten/größe/温度"),
        id: Some(Text::from("ид-1")),
        time: None,
        received: Timestamp(5),
        expires: Some(Timestamp(u64::MAX)),
        topic: Text::from("é/ü/😀/\u{fffd}"),
        payload: Bytes::new(),
        properties: Some(Box::new(Properties {
            utf8_payload: true,
            content_type: Some(Text::from("text/plain; charset=utf-8")),
            response_topic: Some(Text::new()),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![(Text::from("k"), Text::from("v")), (Text::from("k"), Text::new())],
        })),
    };
    let plain = event("s", 1);
    commit(&*store, commit_of([odd.clone(), plain.clone()]));
    let check = |store: &dyn Store| {
        let all = read_all(store, ONLY, Position::ZERO);
        assert_eq!(all.iter().map(|e| e.event.clone()).collect::<Vec<_>>(), [odd.clone(), plain.clone()]);
        assert_eq!(all[0].id(), "ид-1");
        assert_eq!(
            (all[1].log, &*all[1].id()),
            (store.log_id(), &*eventmesh_edge_core::event::derived_id(store.log_id(), all[1].position))
        );
        all
    };
    let before = check(&*store);
    assert_eq!(check(&*reopen(&factory, store, spec)), before);
}

fn loss(
    consumer: Option<eventmesh_edge_core::ports::store::Consumer>,
    reason: LossReason,
    events: u64,
    at: Position,
) -> Loss {
    Loss { consumer, reason, events, bytes: events * 100, range: (at, at) }
}

/// [`Commit::losses`] are added up per pair and reason; the range grows to both sides (P2).
pub fn losses_found_by_others_are_counted<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let at = commit(&*store, commit_of((0..3).map(|n| event("s", n))));
    for losses in [
        vec![
            loss(Some(ONLY), LossReason::Parked, 1, at[1]),
            loss(None, LossReason::SlowSubscriber, 7, at[2]),
        ],
        vec![
            loss(Some(ONLY), LossReason::Parked, 1, at[0]),
            loss(Some(ONLY), LossReason::Rejected, 1, at[2]),
        ],
        vec![loss(Some(ONLY), LossReason::Parked, 1, at[2])],
    ] {
        commit(&*store, Commit { losses, ..Commit::default() });
    }
    let parked = lost(&*store, Some(ONLY), LossReason::Parked);
    assert_eq!((parked.events, parked.bytes, parked.first, parked.last), (3, 300, at[0], at[2]));
    assert_eq!(lost(&*store, Some(ONLY), LossReason::Rejected).events, 1);
    assert_eq!(lost(&*store, None, LossReason::SlowSubscriber).events, 7);
    assert_eq!(store.ledger().len(), 3);
    assert_eq!(store.backlog(ONLY).events, 3, "a loss moves no cursor");
}

/// Commits become visible in their order: whoever reads while they are under way sees a beginning without holes.
pub fn events_are_seen_without_holes_while_commits_are_under_way<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 24, WhenFull::Refuse));
    let (tx, rx) = mpsc::channel();
    for n in 0..300 {
        store.submit(commit_of([event("s", n), event("s", n)]), answer(tx.clone()));
        if n % 10 == 0 {
            let seen = read_all(&*store, ONLY, Position::ZERO);
            assert!(seen.iter().zip(1..).all(|(e, nth)| e.sequence.source == nth), "{:?}", texts(&seen));
            assert!(seen.len().is_multiple_of(2), "half a commit was visible");
        }
    }
    drop(tx);
    assert!(rx.iter().all(|outcome| outcome.is_ok()));
    assert_eq!(read_all(&*store, ONLY, Position::ZERO).len(), 600);
}
