//! The ledger's entries: each loss is handed on once, with the names of whose it was (P2), in bounded room (P5).

use super::Factory;
use super::support::{
    ONLY, commit, commit_blocking, commit_of, commit_to, consumer, event, event_of, fill, reopen, spec_of,
    state_of, stream,
};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Consumer, LEDGER_ENTRIES_MAX, LedgerEntry, Loss, LossReason, StateChange,
    StateValue, Store, StoreSpec, StreamId, Table, UplinkId, WhenFull,
};
use std::collections::BTreeMap;

fn two_uplinks() -> StoreSpec {
    spec_of([stream("a", &[0, 1], 1 << 20, WhenFull::Refuse)])
}

fn loss(consumer: Option<Consumer>, reason: LossReason, events: u64, range: (u64, u64)) -> Loss {
    Loss { consumer, reason, events, bytes: 100 * events, range: (Position(range.0), Position(range.1)) }
}

fn lose(store: &dyn Store, losses: impl IntoIterator<Item = Loss>) {
    commit(store, Commit { losses: losses.into_iter().collect(), ..Commit::default() });
}

/// Asks, lets what that asked for become durable (the store's own commits come before later ones), and asks again.
fn entries(store: &dyn Store, after: u64, max: usize) -> Vec<LedgerEntry> {
    drop(store.ledger_after(after, max));
    let (key, value) = (Bytes::from_static(b"between"), StateValue::Bytes(Bytes::new()));
    commit(store, state_of([StateChange::Put { table: Table::Node, key, value }]));
    store.ledger_after(after, max)
}

fn forget(through: u64) -> Commit {
    state_of([StateChange::LedgerForget { through }])
}

/// One entry per stream, uplink and reason, with their names, the sum and the range of what was lost since the last one.
pub fn losses_become_entries_with_names_and_ranges<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(two_uplinks());
    assert_eq!(entries(&*store, 0, 9), []);
    lose(&*store, [loss(Some(consumer(0, 0)), LossReason::Parked, 2, (7, 9))]);
    lose(
        &*store,
        [
            loss(Some(consumer(0, 0)), LossReason::Parked, 1, (3, 3)),
            loss(Some(consumer(0, 1)), LossReason::Rejected, 5, (20, 40)),
            loss(None, LossReason::Refused, 4, (0, 0)),
            loss(None, LossReason::Refused, 1, (8, 8)),
        ],
    );
    let mut found = entries(&*store, 0, 9);
    assert_eq!(found.iter().map(|e| e.no).collect::<Vec<_>>(), [1, 2, 3]);
    found.sort_by_key(|e| (e.stream.is_some(), e.reason));
    let told: Vec<_> = found
        .iter()
        .map(|e| {
            let names = (e.stream.as_deref(), e.uplink.as_deref());
            (names, e.reason.as_str(), e.events, e.bytes, e.first.0, e.last.0)
        })
        .collect();
    assert_eq!(
        told,
        [
            ((None, None), "refused", 5, 500, 8, 8),
            ((Some("a"), Some("up-1")), "rejected", 5, 500, 20, 40),
            ((Some("a"), Some("up-0")), "parked", 3, 300, 3, 9),
        ]
    );
}

/// What was given out stays as it is; what is lost later gets a number of its own.
pub fn an_entry_never_changes<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(two_uplinks());
    lose(&*store, [loss(Some(ONLY), LossReason::Expired, 1, (1, 1))]);
    let first = entries(&*store, 0, 9);
    lose(&*store, [loss(Some(ONLY), LossReason::Expired, 2, (2, 3))]);
    let both = entries(&*store, 0, 9);
    assert_eq!((both.len(), &both[..1]), (2, &first[..]));
    assert_eq!((both[1].no, both[1].events, both[1].first), (2, 2, Position(2)));
    assert_eq!(entries(&*store, 1, 9), both[1..]);
    assert_eq!(entries(&*store, 0, 1), both[..1]);
    let store = reopen(&factory, store, two_uplinks());
    assert_eq!(entries(&*store, 0, 9), both);
}

/// Whoever hands entries on forgets them in the commit of the event that carries them: both or neither.
pub fn entries_are_forgotten_with_the_event_that_carries_them<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec =
        || spec_of([stream("a", &[0], 1 << 20, WhenFull::Refuse), stream("b", &[0], 4096, WhenFull::Refuse)]);
    let store = factory.open(spec());
    for n in 1..=3 {
        lose(&*store, [loss(Some(ONLY), LossReason::Rejected, 1, (n, n))]);
        entries(&*store, 0, 9);
    }
    let three = entries(&*store, 0, 9);
    fill(&*store, StreamId(1), 1000);
    let refused = Commit { state: forget(2).state, ..commit_to(StreamId(1), [event_of("ledger", 0, 1000)]) };
    assert!(matches!(commit_blocking(&*store, refused), Err(CommitError::Full { .. })));
    assert_eq!(entries(&*store, 0, 9), three, "nothing of a refused commit happens");
    commit(&*store, Commit { state: forget(2).state, ..commit_of([event("ledger", 0)]) });
    assert_eq!(entries(&*store, 0, 9), three[2..]);
    let store = reopen(&factory, store, spec());
    assert_eq!(entries(&*store, 0, 9), three[2..]);
    commit(&*store, forget(u64::MAX));
    assert_eq!(entries(&*store, 0, 9), []);
    assert_eq!(store.ledger().iter().map(|line| line.events).sum::<u64>(), 3, "the totals stay");
    let store = reopen(&factory, store, spec());
    lose(&*store, [loss(Some(ONLY), LossReason::Rejected, 1, (9, 9))]);
    assert_eq!(entries(&*store, 0, 9)[0].no, 4, "a number is never used twice");
}

/// What is lost with a stream that left the configuration still says which stream that was.
pub fn a_removed_stream_is_named_in_its_entry<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let gone = || stream("gone", &[1], 1 << 20, WhenFull::Refuse);
    let kept = || stream("kept", &[0], 1 << 20, WhenFull::Refuse);
    let store = factory.open(spec_of([gone(), kept()]));
    let at = commit(&*store, commit_to(StreamId(0), (0..4).map(|n| event("s", n))));
    let store = reopen(&factory, store, spec_of([kept()]));
    let found = entries(&*store, 0, 9);
    assert_eq!(found.len(), 1, "{found:?}");
    let LedgerEntry { stream, uplink, reason, events, last, .. } = &found[0];
    assert_eq!((stream.as_deref(), uplink.as_deref()), (Some("gone"), Some("up-1")));
    assert_eq!((*reason, *events, *last), (LossReason::StreamRemoved, 4, at[3]));
}

/// Nobody hands on, everything is lost, for long: entries stay bounded, and no loss is missing in the end.
pub fn entries_that_nobody_takes_are_bounded<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let uplinks: Vec<u16> = (0..40).collect();
    let names = ["a", "b", "c", "d"];
    let spec = || spec_of(names.map(|name| stream(name, &uplinks, 1 << 20, WhenFull::Refuse)));
    let store = factory.open(spec());
    let mut lost: BTreeMap<(Option<Text>, Option<Text>, LossReason), u64> = BTreeMap::new();
    for round in 1..=10u64 {
        let mut losses = Vec::new();
        for (stream, uplink) in (0..4).flat_map(|stream| uplinks.iter().map(move |uplink| (stream, *uplink)))
        {
            let events = 1 + u64::from(uplink) % 3;
            losses.push(loss(Some(consumer(stream, uplink)), LossReason::Parked, events, (round, round)));
            let names = (Some(names[usize::from(stream)].into()), Some(format!("up-{uplink}").into()));
            *lost.entry((names.0, names.1, LossReason::Parked)).or_default() += events;
        }
        lose(&*store, losses);
        assert!(entries(&*store, 0, usize::MAX).len() <= LEDGER_ENTRIES_MAX);
    }
    assert_eq!(entries(&*store, 0, usize::MAX).len(), LEDGER_ENTRIES_MAX);
    let mut store = reopen(&factory, store, spec());
    loop {
        let page = entries(&*store, 0, 300);
        let Some(last) = page.last() else { break };
        for entry in &page {
            let left = lost.get_mut(&(entry.stream.clone(), entry.uplink.clone(), entry.reason)).unwrap();
            *left -= entry.events;
        }
        commit(&*store, forget(last.no));
        if page.len() == 300 {
            store = reopen(&factory, store, spec());
        }
    }
    assert!(lost.values().all(|left| *left == 0), "{lost:?}");
}

/// A loss that is no uplink's has no uplink's name: what waits for the first uplink to come.
pub fn without_an_uplink_an_entry_names_the_stream_alone<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of([stream("a", &[], 8 << 10, WhenFull::DropOldest)]));
    for n in 0..20 {
        commit(&*store, commit_of([event_of("s", n, 1000)]));
    }
    let found = entries(&*store, 0, 9);
    let names: Vec<_> = found.iter().map(|e| (e.stream.as_deref(), e.uplink.as_deref(), e.reason)).collect();
    assert_eq!(names, [(Some("a"), None, LossReason::QueueFull)]);
    let total = store.ledger().iter().map(|line| line.events).sum::<u64>();
    assert_eq!(found[0].events, total);
    let none = Consumer { stream: StreamId(0), uplink: UplinkId::NONE };
    assert_eq!(store.backlog(none).events + total, 20);
}
