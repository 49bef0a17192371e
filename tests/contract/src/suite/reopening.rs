//! Closing and opening again: numbers go on, nothing changes, a new configuration finds its streams by name.

use super::Factory;
use super::support::{
    ONLY, ack, answer, assert_backlog_is_exact, commit, commit_blocking, commit_of, commit_to, consumer,
    event, event_of, into_stream, lost, positions, read_all, read_blocking, reopen, spec_of, spec_of_one,
    stream,
};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Consumer, Loss, LossReason, Read, ReadError, Store, StoreSpec, StreamId, UplinkId,
    WhenFull,
};
use std::collections::BTreeSet;
use std::sync::mpsc;

fn spec() -> StoreSpec {
    spec_of_one(1 << 22, WhenFull::Refuse)
}

/// Each start takes the next epoch: positions grow and none is given twice, whether or not anything was stored; the log
/// keeps its id (P3).
pub fn positions_grow_over_restarts<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut store = factory.open(spec());
    let (log, mut epoch, mut all) = (store.log_id(), store.stats().epoch, Vec::new());
    for n in 0..6 {
        // Every other start stores nothing, and every third forgets everything.
        if n % 2 == 0 {
            all.extend(commit(&*store, commit_of((0..3).map(|i| event("s", i)))));
        }
        if n % 3 == 0 {
            ack(&*store, ONLY, store.backlog(ONLY).newest);
        }
        store = reopen(&factory, store, spec());
        assert!(store.stats().epoch > epoch, "a start is a new epoch");
        assert_eq!(store.log_id(), log);
        epoch = store.stats().epoch;
    }
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
}

/// `sequence` and `edgeseq` are contiguous over restarts, for sources with nothing left to read too.
pub fn sequences_go_on_over_restarts<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut store = factory.open(spec());
    let mut seen = Vec::new();
    for _ in 0..4 {
        commit(&*store, commit_of(["x", "y", "x"].map(|s| event(s, 0))));
        let waiting = read_all(&*store, ONLY, store.backlog(ONLY).acked);
        seen.extend(waiting.iter().map(|e| (e.event.source.clone(), e.sequence.source, e.sequence.stream)));
        ack(&*store, ONLY, waiting[2].position);
        store = reopen(&factory, store, spec());
    }
    for (source, per_round) in [("x", 2), ("y", 1)] {
        let source = event(source, 0).source;
        let numbers: Vec<_> = seen.iter().filter(|(s, ..)| *s == source).map(|(_, a, b)| (*a, *b)).collect();
        assert_eq!(numbers, (1..=4 * per_round).map(|n| (n, n)).collect::<Vec<_>>(), "{source}");
    }
}

/// The same events, positions, numbers, ids and sizes.
pub fn events_are_the_same_after_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    for n in 0..50 {
        commit(&*store, commit_of((0..n % 4 + 1).map(|i| event_of("s", n, 20 + i * n * 50))));
    }
    let before = read_all(&*store, ONLY, Position::ZERO);
    let ids: Vec<Text> = before.iter().map(|e| e.id()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let store = reopen(&factory, store, spec());
    let after = read_all(&*store, ONLY, Position::ZERO);
    assert_eq!(after, before);
    assert_eq!(after.iter().map(|e| e.id()).collect::<Vec<_>>(), ids);
}

/// What was acknowledged is not read again, what was not is.
pub fn cursors_survive_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut store = factory.open(spec());
    let at = commit(&*store, commit_of((0..20).map(|n| event("s", n))));
    for n in [3, 4, 11] {
        ack(&*store, ONLY, at[n]);
        store = reopen(&factory, store, spec());
        assert_eq!(store.backlog(ONLY).acked, at[n]);
        assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), at[n + 1..]);
    }
}

/// The ledger is durable and goes on counting.
pub fn the_ledger_survives_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut store = factory.open(spec());
    let at = commit(&*store, commit_of([event("s", 0)]))[0];
    let loss =
        Loss { consumer: Some(ONLY), reason: LossReason::Rejected, events: 2, bytes: 30, range: (at, at) };
    for n in 1..4 {
        commit(&*store, Commit { losses: vec![loss], ..Commit::default() });
        store = reopen(&factory, store, spec());
        let line = lost(&*store, Some(ONLY), LossReason::Rejected);
        assert_eq!((line.events, line.bytes, line.first, line.last), (2 * n, 30 * n, at, at));
        assert_eq!(store.ledger().len(), 1);
    }
}

/// Events, bytes, cursor and newest of every consumer, exactly, after a restart in the middle of things.
pub fn backlogs_are_exact_after_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of([
        stream("a", &[0, 1], 1 << 20, WhenFull::Refuse),
        stream("b", &[1], 16 * 1024, WhenFull::DropOldest),
        stream("c", &[], 1 << 20, WhenFull::Refuse),
    ]);
    let pairs = [consumer(0, 0), consumer(0, 1), consumer(1, 1), consumer(2, u16::MAX)];
    let mut store = factory.open(spec.clone());
    for round in 0..3 {
        for n in 0..40 {
            let events = (0..3).map(|s| into_stream(StreamId(s), event_of("s", n, n * 30))).collect();
            let at = commit(&*store, Commit { events, ..Commit::default() });
            if n == 20 {
                ack(&*store, consumer(0, round % 2), at[0]);
            }
        }
        let before = pairs.map(|p| store.backlog(p));
        for pair in pairs {
            assert_backlog_is_exact(&*store, pair);
        }
        store = reopen(&factory, store, spec.clone());
        for (pair, before) in pairs.iter().zip(before) {
            let after = store.backlog(*pair);
            assert_eq!(
                (after.events, after.bytes, after.acked, after.newest),
                (before.events, before.bytes, before.acked, before.newest),
                "{pair:?}"
            );
            assert_backlog_is_exact(&*store, *pair);
        }
    }
}

/// Nothing waits, nothing is read, the cursor stands where it stood.
pub fn a_restart_after_everything_was_acknowledged_is_empty<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    let at = commit(&*store, commit_of((0..10).map(|n| event("s", n))));
    ack(&*store, ONLY, at[9]);
    let store = reopen(&factory, store, spec());
    let backlog = store.backlog(ONLY);
    assert_eq!((backlog.events, backlog.bytes, backlog.acked), (0, 0, at[9]));
    assert_eq!(backlog.newest, at[9]);
    assert_eq!(read_all(&*store, ONLY, backlog.acked), []);
    assert!(commit(&*store, commit_of([event("s", 10)]))[0] > at[9]);
}

/// Starting is no change.
pub fn many_restarts_change_nothing<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut store = factory.open(spec());
    let at = commit(&*store, commit_of((0..30).map(|n| event_of("s", n, 300))));
    ack(&*store, ONLY, at[10]);
    let before = read_all(&*store, ONLY, at[10]);
    for _ in 0..8 {
        store = reopen(&factory, store, spec());
    }
    assert_eq!(assert_backlog_is_exact(&*store, ONLY), before);
    assert_eq!(store.ledger(), []);
}

/// Streams and uplinks keep their data when the configuration lists them in another order.
pub fn names_decide_not_indices<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let named = |streams: [(&'static str, u16); 2], uplinks: [&'static str; 2]| StoreSpec {
        uplinks: uplinks.map(Text::from_static).to_vec(),
        ..spec_of(streams.map(|(name, uplink)| stream(name, &[uplink], 1 << 20, WhenFull::Refuse)))
    };
    let store = factory.open(named([("a", 0), ("b", 1)], ["north", "south"]));
    let a = commit(&*store, commit_to(StreamId(0), [event("a", 0), event("a", 1)]));
    let b = commit(&*store, commit_to(StreamId(1), [event("b", 0)]));
    ack(&*store, consumer(0, 0), a[0]);
    commit(
        &*store,
        Commit {
            losses: vec![Loss {
                consumer: Some(consumer(1, 1)),
                reason: LossReason::Rejected,
                events: 1,
                bytes: 1,
                range: (b[0], b[0]),
            }],
            ..Commit::default()
        },
    );
    let store = reopen(&factory, store, named([("b", 0), ("a", 1)], ["south", "north"]));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(1, 1))), [a[1]]);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 0))), b);
    assert_eq!(lost(&*store, Some(consumer(0, 0)), LossReason::Rejected).events, 1);
}

/// An uplink that is added gets what the stream still has: at least everything that another uplink has not got yet.
pub fn a_new_uplink_starts_at_the_oldest_retained<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let with = |uplinks: &[u16]| spec_of([stream("a", uplinks, 1 << 20, WhenFull::Refuse)]);
    let store = factory.open(with(&[0]));
    let at = commit(&*store, commit_of((0..10).map(|n| event("s", n))));
    ack(&*store, consumer(0, 0), at[5]);
    let store = reopen(&factory, store, with(&[0, 1]));
    assert_eq!(
        positions(&assert_backlog_is_exact(&*store, consumer(0, 0))),
        at[6..],
        "the old one stands where it stood"
    );
    let new = positions(&assert_backlog_is_exact(&*store, consumer(0, 1)));
    assert!(new.len() >= 4 && at.ends_with(&new), "{new:?} of {at:?}");
    let later = commit(&*store, commit_of([event("s", 10)]));
    ack(&*store, consumer(0, 1), later[0]);
    assert_eq!((store.backlog(consumer(0, 0)).events, store.backlog(consumer(0, 1)).events), (5, 0));
}

/// What waited for no uplink in particular goes to the first one that is configured.
pub fn the_first_uplink_takes_over_what_waited_for_none<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let with = |uplinks: &[u16]| spec_of([stream("a", uplinks, 1 << 20, WhenFull::Refuse)]);
    let none = Consumer { stream: StreamId(0), uplink: UplinkId::NONE };
    let store = factory.open(with(&[]));
    let at = commit(&*store, commit_of((0..5).map(|n| event("s", n))));
    let store = reopen(&factory, store, with(&[]));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, none)), at);
    let store = reopen(&factory, store, with(&[0]));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), at);
    ack(&*store, ONLY, at[4]);
    let store = reopen(&factory, store, with(&[0]));
    assert_eq!(store.backlog(ONLY).events, 0, "nobody else holds it");
    assert_eq!(store.ledger(), []);
}

/// The other way round: without its last uplink the stream keeps what waits, for the next one.
pub fn without_its_last_uplink_a_stream_waits_for_the_next<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let with = |uplinks: &[u16]| spec_of([stream("a", uplinks, 1 << 20, WhenFull::Refuse)]);
    let store = factory.open(with(&[0]));
    let at = commit(&*store, commit_of((0..5).map(|n| event("s", n))));
    ack(&*store, ONLY, at[1]);
    let store = reopen(&factory, store, with(&[]));
    let late = commit(&*store, commit_of([event("s", 5)]));
    let store = reopen(&factory, store, with(&[0]));
    let waiting = positions(&assert_backlog_is_exact(&*store, ONLY));
    let all = [at.clone(), late].concat();
    assert!(waiting.len() >= 4 && all.ends_with(&waiting), "{waiting:?} of {all:?}");
}

/// A stream that the configuration no longer names is given up and counted; the others do not notice, and the name can
/// come back, empty.
pub fn a_removed_stream_is_counted_and_the_rest_goes_on<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let a = || stream("a", &[0], 1 << 20, WhenFull::Refuse);
    let b = || stream("b", &[0], 1 << 20, WhenFull::Refuse);
    let store = factory.open(spec_of([a(), b()]));
    let at = commit(&*store, commit_to(StreamId(0), (0..7).map(|n| event("a", n))));
    let kept = commit(&*store, commit_to(StreamId(1), [event("b", 0)]));
    ack(&*store, consumer(0, 0), at[2]);
    let removed = |store: &dyn Store| -> u64 {
        store.ledger().iter().filter(|l| l.reason == LossReason::StreamRemoved).map(|l| l.events).sum()
    };
    let store = reopen(&factory, store, spec_of([b()]));
    assert_eq!(removed(&*store), 4);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), kept);
    let store = reopen(&factory, store, spec_of([a(), b()]));
    assert_eq!(removed(&*store), 4, "once");
    assert_eq!(store.backlog(consumer(0, 0)).events, 0, "what was counted is not delivered as well");
    assert_eq!(read_all(&*store, consumer(0, 0), Position::ZERO), []);
    let again = commit(&*store, commit_to(StreamId(0), [event("a", 7)]));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(0, 0))), again);
}

/// `close` lets what was submitted become durable and completes it.
pub fn close_finishes_what_was_submitted<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    let (tx, rx) = mpsc::channel();
    for n in 0..100 {
        store.submit(commit_of([event("s", n)]), answer(tx.clone()));
    }
    drop(tx);
    let store = reopen(&factory, store, spec());
    let answered: Vec<Position> = rx.iter().flat_map(|outcome| outcome.unwrap().positions).collect();
    assert_eq!(answered.len(), 100);
    assert_eq!(positions(&read_all(&*store, ONLY, Position::ZERO)), answered);
}

/// After `close` every call is answered, with [`CommitError::Closed`] and [`ReadError::Closed`]; a second close is nothing.
pub fn a_closed_store_takes_nothing<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    commit(&*store, commit_of([event("s", 0)]));
    store.close();
    let outcome = commit_blocking(&*store, commit_of([event("s", 1)]));
    assert!(matches!(outcome, Err(CommitError::Closed)), "{outcome:?}");
    let read = Read { consumer: ONLY, after: Position::ZERO, max_events: 9, max_bytes: 999 };
    let outcome = read_blocking(&*store, read);
    assert!(matches!(outcome, Err(ReadError::Closed)), "{outcome:?}");
    let store = reopen(&factory, store, spec());
    assert_eq!(read_all(&*store, ONLY, Position::ZERO).len(), 1);
}
