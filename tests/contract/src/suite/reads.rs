//! Reads: bounds, pages, cursors and the figures of what waits.

use super::Factory;
use super::support::{
    NOW, ONLY, ack, assert_backlog_is_exact, commit, commit_of, commit_to, consumer, event, event_of,
    positions, read_all, read_blocking, reopen, spec_of, spec_of_one, stream, texts,
};
use eventmesh_edge_core::event::{Event, Position, Timestamp};
use eventmesh_edge_core::ports::store::{Backlog, Read, StreamId, WhenFull};

/// At most `max_events`, at least one if there is any.
pub fn a_read_stops_at_its_number_of_events<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let at = commit(&*store, commit_of((0..10).map(|n| event("s", n))));
    for max_events in [1, 3, 10, 11] {
        let read = Read { consumer: ONLY, after: Position::ZERO, max_events, max_bytes: usize::MAX };
        let batch = read_blocking(&*store, read).unwrap();
        assert!(!batch.events.is_empty() && batch.events.len() <= max_events);
        assert_eq!(positions(&batch.events), at[..batch.events.len()]);
        assert!(!batch.at_end || batch.events.len() == 10, "more was there");
    }
}

/// It stops when `max_bytes` are reached; a first event that is larger comes alone.
pub fn a_read_stops_at_its_number_of_bytes<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 22, WhenFull::Refuse));
    commit(&*store, commit_of((0..20).map(|n| event_of("s", n, 1000))));
    for max_bytes in [0, 1, 1100, 2500, 5000, 19_000] {
        let read = Read { consumer: ONLY, after: Position::ZERO, max_events: 100, max_bytes };
        let events = read_blocking(&*store, read).unwrap().events;
        let before_last: u32 = events.iter().rev().skip(1).map(|e| e.stored_bytes).sum();
        assert!(!events.is_empty(), "the first may exceed the bound");
        assert!(
            events.len() == 1 || (before_last as usize) < max_bytes,
            "{} events for {max_bytes}",
            events.len()
        );
    }
    let read = Read { consumer: ONLY, after: Position::ZERO, max_events: 100, max_bytes: 1 };
    assert_eq!(read_blocking(&*store, read).unwrap().events.len(), 1);
}

/// Continuing after `through` gives the rest, each event once.
pub fn pages_follow_each_other_without_gap_or_overlap<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 22, WhenFull::Refuse),
        stream("b", &[0], 1 << 22, WhenFull::Refuse),
    ]));
    let mut at = Vec::new();
    for n in 0..60 {
        at.extend(commit(&*store, commit_of([event_of("s", n, n * 40)])));
        commit(&*store, commit_to(StreamId(1), [event("noise", n)]));
    }
    for max_events in [1, 7, 64] {
        let (mut seen, mut after) = (Vec::new(), Position::ZERO);
        loop {
            let read = Read { consumer: ONLY, after, max_events, max_bytes: 3000 };
            let batch = read_blocking(&*store, read).unwrap();
            seen.extend(positions(&batch.events));
            if batch.at_end {
                break;
            }
            assert!(batch.through > after, "no progress");
            after = batch.through;
        }
        assert_eq!(seen, at);
    }
}

/// `at_end` is about the moment of the read: what comes later is found after `through`.
pub fn the_end_moves_when_events_come<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let read = |after| {
        read_blocking(&*store, Read { consumer: ONLY, after, max_events: 9, max_bytes: 9999 }).unwrap()
    };
    let empty = read(Position::ZERO);
    assert!(empty.at_end && empty.events.is_empty());
    let mut through = empty.through;
    for n in 0..3 {
        let at = commit(&*store, commit_of([event("s", n)]))[0];
        assert!(through < at);
        let batch = read(through);
        assert_eq!((positions(&batch.events), batch.at_end), (vec![at], true));
        through = batch.through;
    }
}

/// A read shows one stream.
pub fn streams_do_not_see_each_other<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("a", &[0], 1 << 20, WhenFull::Refuse),
        stream("b", &[0], 1 << 20, WhenFull::Refuse),
    ]));
    commit(&*store, commit_to(StreamId(0), [event("a", 0), event("a", 1)]));
    commit(&*store, commit_to(StreamId(1), [event("b", 0)]));
    commit(&*store, commit_to(StreamId(0), [event("a", 2)]));
    assert_eq!(texts(&read_all(&*store, consumer(0, 0), Position::ZERO)), ["a 0", "a 1", "a 2"]);
    assert_eq!(texts(&read_all(&*store, consumer(1, 0), Position::ZERO)), ["b 0"]);
    ack(&*store, consumer(0, 0), store.backlog(consumer(0, 0)).newest);
    assert_eq!(store.backlog(consumer(1, 0)).events, 1);
}

/// One uplink's acknowledgement is nothing to the other (P2).
pub fn consumers_have_cursors_of_their_own<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of([stream("a", &[0, 1], 1 << 20, WhenFull::Refuse)]);
    let store = factory.open(spec.clone());
    let at = commit(&*store, commit_of((0..6).map(|n| event("s", n))));
    ack(&*store, consumer(0, 0), at[3]);
    ack(&*store, consumer(0, 1), at[0]);
    let store = {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 0))), at[4..]);
        assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 1))), at[1..]);
        reopen(&factory, store, spec)
    };
    assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 0))), at[4..]);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 1))), at[1..]);
}

/// An older acknowledgement is ignored, alone or beside a newer one.
pub fn a_cursor_never_moves_back<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let at = commit(&*store, commit_of((0..5).map(|n| event("s", n))));
    ack(&*store, ONLY, at[2]);
    ack(&*store, ONLY, at[0]);
    ack(&*store, ONLY, Position::ZERO);
    assert_eq!((store.backlog(ONLY).acked, store.backlog(ONLY).events), (at[2], 2));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), at[3..]);
}

/// A cursor inside a commit's events leaves exactly the later ones.
pub fn a_cursor_in_the_middle_leaves_the_rest<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let at = commit(&*store, commit_of((0..8).map(|n| event_of("s", n, 100 * n))));
    for (n, acked) in at.iter().enumerate() {
        ack(&*store, ONLY, *acked);
        assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), at[n + 1..]);
    }
    assert_eq!(store.backlog(ONLY).events, 0);
}

/// Events, bytes, receipt of the oldest, cursor, newest.
pub fn backlog_tells_what_waits<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    assert_eq!(store.backlog(ONLY), Backlog::default());
    let received = |n: u64| Event { received: Timestamp(NOW.0 + n), ..event("s", 0) };
    let at = commit(&*store, commit_of([received(10), received(20), received(30)]));
    let before = store.backlog(ONLY);
    assert_eq!((before.events, before.acked, before.newest), (3, Position::ZERO, at[2]));
    assert!(before.oldest.is_none_or(|t| t.0 == NOW.0 + 10), "{before:?}");
    ack(&*store, ONLY, at[1]);
    let after = store.backlog(ONLY);
    assert_eq!((after.events, after.acked, after.newest), (1, at[1], at[2]));
    assert!(after.oldest.is_none_or(|t| t.0 == NOW.0 + 30), "{after:?}");
    assert!(after.bytes > 0 && after.bytes < before.bytes);
}
