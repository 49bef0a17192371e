//! Budgets, expiry, and a ledger that agrees with both to the event (P2, P5).

use super::Factory;
use super::support::{
    NOW, ONLY, ack, assert_backlog_is_exact, commit, commit_blocking, commit_of, commit_to, consumer, event,
    event_of, fill, lost, positions, read_all, reopen, spec_of, spec_of_one, state_of, stream, tick_until,
};
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Timestamp};
use eventmesh_edge_core::ports::store::{
    Change, Class, Commit, CommitError, Consumer, LossReason, StateChange, StateValue, Store, StoreSpec,
    StreamId, Table, UplinkId, WhenFull,
};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const KIB: u64 = 1024;

/// `refuse`: what fits is taken, the first that does not is refused with the figures, and the budget holds.
pub fn a_full_stream_refuses_and_says_why<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(16 * KIB, WhenFull::Refuse));
    let (accepted, refusal) = fill(&*store, StreamId(0), 1000);
    assert_eq!(refusal.class(), Class::Retry);
    let CommitError::Full { stream, used, max, need } = refusal else { panic!("{refusal}") };
    assert_eq!((stream, max), (StreamId(0), 16 * KIB));
    assert!(used <= max && used + need > max, "{used} + {need} of {max}");
    assert!((14..=16).contains(&accepted.len()), "{} of about 1,080 bytes each", accepted.len());
    assert_eq!(positions(&assert_backlog_is_exact(&*store, ONLY)), accepted);
    assert!(store.backlog(ONLY).bytes <= 16 * KIB);
    assert_eq!(store.ledger(), [], "a refusal is no loss: the sender was not answered");
}

/// After a refusal, room that returns is told to the watchers, and what was refused is taken then.
pub fn an_acknowledgement_makes_room_and_says_so<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(8 * KIB, WhenFull::Refuse));
    let changes = watch(&*store);
    let (accepted, _) = fill(&*store, StreamId(0), 1000);
    ack(&*store, ONLY, accepted[accepted.len() / 2]);
    await_room(&changes);
    let at = commit(&*store, commit_of([event_of("filler", 0, 1000)]))[0];
    assert!(at > accepted[accepted.len() - 1]);
    assert_backlog_is_exact(&*store, ONLY);
}

/// What can never fit is told so, whatever the stream holds, and not told to wait: the whole commit where a stream
/// refuses, one event where it makes room itself.
pub fn what_can_never_fit_is_too_large<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("refuses", &[0], 16 * KIB, WhenFull::Refuse),
        stream("drops", &[0], 16 * KIB, WhenFull::DropOldest),
    ]));
    let too_large = |made: Commit| {
        let error = commit_blocking(&*store, made).expect_err("larger than the budget");
        assert_eq!(error.class(), Class::Reject, "{error}");
        let CommitError::TooLarge { bytes, max } = error else { panic!("{error}") };
        assert!(max == 16 * KIB && bytes > max, "{bytes} of {max}");
    };
    let batch = |n| (0..n).map(|n| event_of("s", n, 1000));
    too_large(commit_of([event_of("s", 0, 17_000)]));
    too_large(commit_of(batch(20)));
    let one = commit(&*store, commit_of(batch(1)));
    too_large(commit_of(batch(20)));
    let refusal = commit_blocking(&*store, commit_of(batch(15))).unwrap_err();
    assert_eq!(
        refusal.class(),
        Class::Retry,
        "this one fits as soon as the first is acknowledged: {refusal}"
    );
    ack(&*store, ONLY, one[0]);
    commit(&*store, commit_of(batch(15)));
    too_large(commit_to(StreamId(1), [event_of("s", 0, 17_000)]));
    let all = commit(&*store, commit_to(StreamId(1), batch(20)));
    let kept = positions(&assert_backlog_is_exact(&*store, consumer(1, 0)));
    assert!(kept.len() >= 14 && all.ends_with(&kept), "{kept:?} of {all:?}");
}

fn watch(store: &dyn Store) -> mpsc::Receiver<Change> {
    let (tx, rx) = mpsc::channel();
    store.watch(Arc::new(move |change| tx.send(change).unwrap_or(())));
    rx
}

fn await_room(changes: &mpsc::Receiver<Change>) {
    let hang = Duration::from_secs(60);
    while changes.recv_timeout(hang).expect("watchers are told that room returned") != Change::Room {}
}

/// Each consumer has the budget for itself: the one that reads does not pay for the one that does not, and the stream
/// refuses while any of them is full.
pub fn the_slowest_consumer_fills_a_refusing_stream<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([stream("a", &[0, 1], 8 * KIB, WhenFull::Refuse)]));
    let (first, _) = fill(&*store, StreamId(0), 1000);
    let last = first[first.len() - 1];
    ack(&*store, consumer(0, 0), last);
    let refusal = commit_blocking(&*store, commit_of([event_of("s", 0, 1000)])).unwrap_err();
    assert!(matches!(refusal, CommitError::Full { .. }), "uplink 1 has read nothing: {refusal}");
    ack(&*store, consumer(0, 1), last);
    let (second, _) = fill(&*store, StreamId(0), 1000);
    assert_eq!(second.len(), first.len(), "the whole budget is there again");
}

/// A full stream is not its neighbours' business.
pub fn a_full_stream_leaves_the_others_alone<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("full", &[0], 4 * KIB, WhenFull::Refuse),
        stream("other", &[0], 4 * KIB, WhenFull::Refuse),
    ]));
    let (a, _) = fill(&*store, StreamId(0), 500);
    let (b, _) = fill(&*store, StreamId(1), 500);
    assert_eq!(a.len(), b.len());
}

/// Acknowledgements and session state go through when no event does.
pub fn a_full_stream_still_takes_state_and_cursors<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(4 * KIB, WhenFull::Refuse));
    let (accepted, _) = fill(&*store, StreamId(0), 500);
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    let put = StateChange::Put { table: Table::Session, key, value: StateValue::Bytes(value.clone()) };
    commit(&*store, state_of([put]));
    assert_eq!(store.get(Table::Session, b"k").unwrap(), Some(value));
    ack(&*store, ONLY, accepted[0]);
    assert_eq!(store.backlog(ONLY).events, accepted.len() as u64 - 1);
}

/// `drop-oldest`: everything is taken, the budget holds after every commit, what remains is the newest part, and the
/// ledger has the rest to the event and the byte.
pub fn drop_oldest_keeps_the_newest_and_counts_the_rest<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(64 * KIB, WhenFull::DropOldest);
    let store = factory.open(spec.clone());
    let mut all = Vec::new();
    for n in 0..100 {
        let round = (0..3).map(|i| event_of("s", n, 500 + 300 * i));
        all.extend(commit(&*store, commit_of(round)));
        assert!(store.backlog(ONLY).bytes <= 64 * KIB, "over budget after commit {n}");
    }
    let check = |store: &dyn Store| {
        let waiting = assert_backlog_is_exact(store, ONLY);
        let line = lost(store, Some(ONLY), LossReason::QueueFull);
        let dropped = all.len() - waiting.len();
        assert_eq!(positions(&waiting), all[dropped..]);
        assert!(store.backlog(ONLY).bytes >= 32 * KIB, "more was given up than needed");
        assert_eq!((line.events, line.first, line.last), (dropped as u64, all[0], all[dropped - 1]));
        assert_eq!(
            positions(&read_all(store, ONLY, Position::ZERO)),
            all[dropped..],
            "what is lost is not read"
        );
        line
    };
    let line = check(&*store);
    let sizes: u64 =
        (0..all.len()).map(|i| 500 + 300 * (i as u64 % 3)).take(line.events.try_into().unwrap()).sum();
    assert!(line.bytes > sizes && line.bytes < sizes + 120 * line.events, "{line:?} for {sizes} of payload");
    assert_eq!(check(&*reopen(&factory, store, spec)), line);
}

/// A dead uplink fills its own budget; the healthy one beside it gets everything (P2).
pub fn drop_oldest_takes_from_the_dead_uplink_only<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([stream("a", &[0, 1], 16 * KIB, WhenFull::DropOldest)]));
    let (dead, healthy) = (consumer(0, 0), consumer(0, 1));
    let mut received = Vec::new();
    let mut all = Vec::new();
    for n in 0..60 {
        all.extend(commit(&*store, commit_of([event_of("s", n, 1000)])));
        received.extend(positions(&read_all(&*store, healthy, store.backlog(healthy).acked)));
        ack(&*store, healthy, *received.last().unwrap());
    }
    assert_eq!(received, all);
    assert_eq!(lost(&*store, Some(healthy), LossReason::QueueFull).events, 0);
    let waiting = assert_backlog_is_exact(&*store, dead);
    let dropped = lost(&*store, Some(dead), LossReason::QueueFull).events;
    assert_eq!(waiting.len() as u64 + dropped, 60);
    assert!(dropped > 0 && store.backlog(dead).bytes <= 16 * KIB);
}

/// A stream that nobody reads yet has its bounds all the same, and its losses are counted under `NONE`.
pub fn the_budget_of_a_stream_without_uplink_holds<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([
        stream("drops", &[], 16 * KIB, WhenFull::DropOldest),
        stream("refuses", &[], 16 * KIB, WhenFull::Refuse),
    ]));
    for n in 0..40 {
        commit(&*store, commit_to(StreamId(0), [event_of("s", n, 1000)]));
    }
    let none = Consumer { stream: StreamId(0), uplink: UplinkId::NONE };
    let waiting = assert_backlog_is_exact(&*store, none);
    let line = lost(&*store, Some(none), LossReason::QueueFull);
    assert_eq!(waiting.len() as u64 + line.events, 40);
    assert!(line.events > 0 && store.backlog(none).bytes <= 16 * KIB);
    let (accepted, _) = fill(&*store, StreamId(1), 1000);
    let none = Consumer { stream: StreamId(1), uplink: UplinkId::NONE };
    assert_eq!(positions(&assert_backlog_is_exact(&*store, none)), accepted);
}

const HOUR: Duration = Duration::from_secs(3600);

fn aging(when_full: WhenFull) -> StoreSpec {
    let mut spec = spec_of([stream("a", &[0, 1], 64 * KIB, when_full)]);
    spec.streams[0].max_age = Some(HOUR);
    spec
}

fn received_at(n: usize, received: Timestamp) -> Event {
    Event { received, ..event_of("s", n, 500) }
}

/// `max_age`: what is older is given up and counted, per consumer; what is younger stays. Nothing happens without a tick.
pub fn what_is_too_old_expires<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(aging(WhenFull::DropOldest));
    let minute = |n: usize| NOW.after(Duration::from_secs(60 * n as u64));
    let at = commit(&*store, commit_of((0..30).map(|n| received_at(n, minute(n)))));
    ack(&*store, consumer(0, 1), at[3]);
    store.tick(minute(59));
    assert_eq!((store.backlog(consumer(0, 0)).events, store.backlog(consumer(0, 1)).events), (30, 26));
    // The first ten were received more than an hour before.
    let now = Timestamp(minute(69).0 + 1);
    tick_until(&*store, now, "ten events expire", || store.backlog(consumer(0, 0)).events == 20);
    let check = |store: &dyn Store| {
        for (uplink, expired, first) in [(0, 10, at[0]), (1, 6, at[4])] {
            let pair = consumer(0, uplink);
            assert_eq!(positions(&assert_backlog_is_exact(store, pair)), at[10..]);
            assert_eq!(positions(&read_all(store, pair, Position::ZERO)), at[10..]);
            let line = lost(store, Some(pair), LossReason::Expired);
            assert_eq!((line.events, line.first, line.last), (expired, first, at[9]));
        }
    };
    check(&*store);
    store.tick(now);
    commit(&*store, eventmesh_edge_core::ports::store::Commit::default());
    check(&*store);
    check(&*reopen(&factory, store, aging(WhenFull::DropOldest)));
}

/// Room returns by age as it does by acknowledgement, and is told.
pub fn expiry_makes_room<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(aging(WhenFull::Refuse));
    let changes = watch(&*store);
    let (accepted, _) = fill(&*store, StreamId(0), 1000);
    let later = NOW.after(2 * HOUR);
    tick_until(&*store, later, "everything expires", || store.backlog(consumer(0, 0)).events == 0);
    await_room(&changes);
    assert_eq!(lost(&*store, Some(consumer(0, 1)), LossReason::Expired).events, accepted.len() as u64);
    commit(&*store, commit_of([received_at(0, later)]));
}

/// At 1970 nothing expires, and what was received at 1970 does not expire when the clock is set: its age is unknown.
pub fn a_clock_that_is_not_set_expires_nothing<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(aging(WhenFull::Refuse));
    commit(&*store, commit_of([received_at(0, Timestamp(1000)), event("s", 1)]));
    for now in [Timestamp(0), Timestamp(2 * 3_600_000 + 2000), NOW] {
        store.tick(now);
        commit(&*store, eventmesh_edge_core::ports::store::Commit::default());
        assert_eq!(assert_backlog_is_exact(&*store, consumer(0, 0)).len(), 2, "at {now:?}");
    }
    assert_eq!(store.ledger(), []);
}
