//! Another set of streams and consumers while the store is open, and what a start with another one does (docs/adr/0009).

use super::Factory;
use super::support::{
    ack, assert_backlog_is_exact, commit, commit_blocking, commit_of, commit_to, consumer, event, event_of,
    fill, lost, positions, read_all, reopen, reshape, spec_of, stream,
};
use crate::{MemoryStore, Rng};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Backlog, CommitError, Consumer, LossReason, ReshapeError, Store, StoreSpec, StreamId, UplinkId, WhenFull,
};
use std::sync::Arc;

const FIRST: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
const SECOND: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(1) };
const NOBODY: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId::NONE };

/// One stream; three uplinks are known, these read it.
fn read_by(uplinks: &[u16]) -> StoreSpec {
    StoreSpec {
        uplinks: ["up-0", "up-1", "up-2"].map(Text::from_static).to_vec(),
        ..spec_of([stream("a", uplinks, 1 << 20, WhenFull::Refuse)])
    }
}

fn events(n: std::ops::Range<usize>) -> eventmesh_edge_core::ports::store::Commit {
    commit_of(n.map(|n| event_of("s", n, 200)))
}

fn removed(store: &dyn Store) -> u64 {
    store.ledger().iter().filter(|l| l.reason == LossReason::StreamRemoved).map(|l| l.events).sum()
}

/// It gets what comes after the change; the one that was there does not notice, and after a restart all is as it was.
pub fn a_new_consumer_begins_at_the_end_where_others_read<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let mut spec = spec_of([stream("a", &[0], 1 << 20, WhenFull::Refuse)]);
    let store = factory.open(spec.clone());
    let early = commit(&*store, events(0..5));
    ack(&*store, FIRST, early[1]);
    spec.uplinks.push(Text::from_static("new"));
    spec.streams[0].uplinks.push(UplinkId(1));
    reshape(&*store, spec.clone(), &[], &[]).unwrap();
    assert_eq!(store.backlog(SECOND), Backlog { acked: early[4], newest: early[4], ..Backlog::default() });
    let late = commit(&*store, events(5..8));
    let mut store = store;
    for _ in 0..2 {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), late);
        assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), [&early[2..], &late].concat());
        assert_eq!(store.ledger(), []);
        store = reopen(&factory, store, spec.clone());
    }
}

/// What waited for no uplink in particular goes to those that begin, all of it, and nobody holds it beside them.
pub fn new_consumers_take_over_what_waited_for_none<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[]));
    let early = commit(&*store, events(0..5));
    reshape(&*store, read_by(&[0, 2]), &[], &[]).unwrap();
    let late = commit(&*store, events(5..6));
    let third = consumer(0, 2);
    for reader in [FIRST, third] {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, reader)), [&early[..], &late].concat());
    }
    assert_eq!(store.backlog(NOBODY), Backlog::default());
    ack(&*store, FIRST, late[0]);
    let store = reopen(&factory, store, read_by(&[0, 2]));
    assert_eq!((store.backlog(FIRST).events, store.backlog(third).events), (0, 6));
}

/// Nothing is taken away without a word, and then nothing at all is changed: not what could have been either.
pub fn nobody_loses_what_waits_without_a_word<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0, 1]));
    let at = commit(&*store, events(0..4));
    ack(&*store, FIRST, at[3]);
    ack(&*store, SECOND, at[0]);
    let outcome = reshape(&*store, read_by(&[2]), &[], &[FIRST]);
    assert!(matches!(outcome, Err(ReshapeError::Waiting { consumer: SECOND, events: 3 })), "{outcome:?}");
    assert_eq!(store.backlog(consumer(0, 2)), Backlog::default());
    assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), at[1..]);
    // One for whom nothing waits needs no word.
    ack(&*store, SECOND, at[3]);
    reshape(&*store, read_by(&[2]), &[], &[]).unwrap();
    assert_eq!((store.backlog(SECOND), removed(&*store)), (Backlog::default(), 0));
}

/// What is dropped is counted once, whatever comes afterwards: its late answers, a restart, the same uplink again.
pub fn a_dropped_consumer_is_counted_and_leaves_no_trace<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0, 1]));
    let at = commit(&*store, events(0..6));
    ack(&*store, SECOND, at[1]);
    let waiting = store.backlog(SECOND);
    reshape(&*store, read_by(&[0]), &[], &[SECOND]).unwrap();
    let line = lost(&*store, Some(SECOND), LossReason::StreamRemoved);
    assert_eq!((line.events, line.bytes), (waiting.events, waiting.bytes));
    assert_eq!((line.first, line.last), (at[1].next(), at[5]));
    assert_eq!(store.backlog(SECOND), Backlog::default());
    assert_eq!(read_all(&*store, SECOND, Position::ZERO), []);
    ack(&*store, SECOND, at[2]);
    let store = reopen(&factory, store, read_by(&[0]));
    assert_eq!(removed(&*store), 4, "once");
    assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), at);
    reshape(&*store, read_by(&[0, 1]), &[], &[]).unwrap();
    assert_eq!((store.backlog(SECOND).events, store.backlog(SECOND).acked), (0, at[5]));
    assert_eq!(removed(&*store), 4);
}

/// It gets what waited for it and nothing later; then it can go.
pub fn a_drained_consumer_gets_what_waits_and_nothing_later<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0, 1]));
    let at = commit(&*store, events(0..6));
    ack(&*store, SECOND, at[1]);
    reshape(&*store, read_by(&[0]), &[SECOND], &[]).unwrap();
    let late = commit(&*store, events(6..9));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), at[2..]);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), [&at[..], &late].concat());
    // The same again, and something else beside it, does not move the end.
    reshape(&*store, read_by(&[0, 2]), &[SECOND], &[]).unwrap();
    ack(&*store, SECOND, at[3]);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), at[4..]);
    let early = reshape(&*store, read_by(&[0, 2]), &[], &[]);
    assert!(matches!(early, Err(ReshapeError::Waiting { consumer: SECOND, events: 2 })), "{early:?}");
    ack(&*store, SECOND, late[2]);
    assert_eq!(store.backlog(SECOND).events, 0);
    reshape(&*store, read_by(&[0, 2]), &[], &[]).unwrap();
    assert_eq!((store.backlog(SECOND), removed(&*store)), (Backlog::default(), 0));
}

/// A dead uplink that is being drained holds up nobody: its budget is its own, and what others have taken goes.
pub fn a_drained_consumer_fills_no_stream<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = |uplinks: &[u16]| StoreSpec {
        uplinks: read_by(&[]).uplinks,
        ..spec_of([stream("a", uplinks, 16 << 10, WhenFull::Refuse)])
    };
    let store = factory.open(spec(&[0, 1]));
    let (accepted, refusal) = fill(&*store, StreamId(0), 1_000);
    assert!(matches!(refusal, CommitError::Full { .. }));
    ack(&*store, FIRST, accepted[accepted.len() - 1]);
    assert!(commit_blocking(&*store, commit_of([event_of("s", 0, 1_000)])).is_err(), "the second is full");
    reshape(&*store, spec(&[0]), &[SECOND], &[]).unwrap();
    for n in 0..100 {
        let at = commit(&*store, commit_of([event_of("s", n, 1_000)]));
        ack(&*store, FIRST, at[0]);
    }
    assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), accepted);
}

/// It goes on where it stands, with all that is still there.
pub fn a_drained_consumer_can_stay_after_all<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0, 1]));
    let at = commit(&*store, events(0..4));
    reshape(&*store, read_by(&[0]), &[SECOND], &[]).unwrap();
    let late = commit(&*store, events(4..6));
    reshape(&*store, read_by(&[0, 1]), &[], &[]).unwrap();
    let latest = commit(&*store, events(6..7));
    let all = [at, late, latest].concat();
    let mut store = store;
    for _ in 0..2 {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), all);
        assert_eq!(removed(&*store), 0);
        store = reopen(&factory, store, read_by(&[0, 1]));
    }
}

/// What comes after the last reader waits for the next one; what the last one leaves is its own matter.
pub fn without_a_reader_later_events_wait_for_the_next<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0]));
    let at = commit(&*store, events(0..4));
    reshape(&*store, read_by(&[]), &[FIRST], &[]).unwrap();
    let late = commit(&*store, events(4..6));
    assert_eq!(positions(&assert_backlog_is_exact(&*store, NOBODY)), late);
    assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), at);
    reshape(&*store, read_by(&[1]), &[], &[FIRST]).unwrap();
    assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), late);
    assert_eq!((removed(&*store), store.backlog(NOBODY)), (4, Backlog::default()));
}

/// A new stream behind the others, and one that nobody uses any more.
pub fn streams_come_behind_those_that_are_there<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let a = |uplinks: &[u16]| stream("a", uplinks, 1 << 20, WhenFull::Refuse);
    let b = || stream("b", &[0], 1 << 20, WhenFull::Refuse);
    let store = factory.open(spec_of([a(&[0])]));
    let in_a = commit(&*store, events(0..2));
    reshape(&*store, spec_of([a(&[0]), b()]), &[], &[]).unwrap();
    let in_b = commit(&*store, commit_to(StreamId(1), [event("b", 0)]));
    let mut store = store;
    for _ in 0..2 {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, consumer(1, 0))), in_b);
        assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), in_a);
        store = reopen(&factory, store, spec_of([a(&[0]), b()]));
    }
}

/// A budget that grows lets in what was refused.
pub fn a_budget_changes_in_between<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = |bytes| spec_of([stream("a", &[0], bytes, WhenFull::Refuse)]);
    let store = factory.open(spec(16 << 10));
    fill(&*store, StreamId(0), 1_000);
    reshape(&*store, spec(32 << 10), &[], &[]).unwrap();
    let (more, _) = fill(&*store, StreamId(0), 1_000);
    assert!(more.len() >= 10, "{}", more.len());
    reshape(&*store, spec(16 << 10), &[], &[]).unwrap();
    assert!(commit_blocking(&*store, events(0..1)).is_err());
    assert_eq!(store.ledger(), []);
}

/// Numbers are the callers' names: they keep their meaning. And what is no stream's does not change.
pub fn what_an_open_store_cannot_become_is_refused<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let (a, b) =
        (|| stream("a", &[0], 1 << 20, WhenFull::Refuse), || stream("b", &[0], 1 << 20, WhenFull::Refuse));
    let store = factory.open(spec_of([a(), b()]));
    let good = spec_of([a(), b()]);
    let wrong = [
        spec_of([b(), a()]),
        spec_of([a()]),
        StoreSpec { uplinks: vec![Text::from_static("other")], ..good.clone() },
        StoreSpec { disk_max: good.disk_max - 1, ..good.clone() },
        StoreSpec { streams: vec![a(), stream("b", &[7], 1 << 20, WhenFull::Refuse)], ..good.clone() },
    ];
    for spec in wrong {
        let outcome = reshape(&*store, spec.clone(), &[], &[]);
        assert!(matches!(outcome, Err(ReshapeError::Spec(_))), "{spec:?}: {outcome:?}");
    }
    reshape(&*store, good.clone(), &[], &[]).unwrap();
    store.close();
    assert!(matches!(reshape(&*store, good, &[], &[]), Err(ReshapeError::Closed)));
}

/// At a start nobody can be asked: what waits for an uplink that is gone is counted, once, where the others have it anyway.
pub fn a_start_without_an_uplink_counts_what_waited_for_it<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0, 1]));
    let at = commit(&*store, events(0..5));
    ack(&*store, SECOND, at[1]);
    let store = reopen(&factory, store, read_by(&[0]));
    let line = lost(&*store, Some(SECOND), LossReason::StreamRemoved);
    assert_eq!((line.events, line.first, line.last), (3, at[1].next(), at[4]));
    let store = reopen(&factory, store, read_by(&[0]));
    assert_eq!(removed(&*store), 3, "once");
    assert_eq!(positions(&assert_backlog_is_exact(&*store, FIRST)), at);
}

/// Renamed while the node was stopped: what waited for the old name goes to the new one, or first to nobody in particular, and
/// no later start counts it as lost.
pub fn a_start_with_another_uplink_counts_nothing<F: Factory>(make: impl Fn() -> F) {
    for between in [&[][..], &[&[][..]][..], &[&[][..], &[]][..]] {
        let factory = make();
        let mut store = factory.open(read_by(&[0]));
        let at = commit(&*store, events(0..5));
        ack(&*store, FIRST, at[1]);
        for readers in between {
            store = reopen(&factory, store, read_by(readers));
        }
        for _ in 0..3 {
            store = reopen(&factory, store, read_by(&[1]));
            let waiting = positions(&assert_backlog_is_exact(&*store, SECOND));
            assert!(waiting.ends_with(&at[2..]), "{waiting:?} of {at:?}");
            assert_eq!(removed(&*store), 0, "{between:?}");
        }
    }
}

/// The same, when the new name comes while the store is open.
pub fn who_takes_over_what_waited_for_none_leaves_nothing_to_count<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(read_by(&[0]));
    let at = commit(&*store, events(0..5));
    ack(&*store, FIRST, at[1]);
    let store = reopen(&factory, store, read_by(&[]));
    reshape(&*store, read_by(&[1]), &[], &[]).unwrap();
    let mut store = store;
    for _ in 0..2 {
        assert_eq!(positions(&assert_backlog_is_exact(&*store, SECOND)), at[2..]);
        store = reopen(&factory, store, read_by(&[1]));
        assert_eq!(removed(&*store), 0);
    }
}

/// A drain does not outlive the process: what is left is counted, or goes to whoever takes the stream over, and in no case
/// is it more than what was to be drained.
pub fn an_unfinished_drain_ends_with_a_restart<F: Factory>(make: impl Fn() -> F) {
    for (leaves, next, counted) in
        [(&[0u16][..], &[0u16][..], 3), (&[][..], &[][..], 0), (&[][..], &[2][..], 0)]
    {
        let factory = make();
        let store = factory.open(read_by(&[&[1], leaves].concat()));
        let at = commit(&*store, events(0..5));
        ack(&*store, SECOND, at[1]);
        reshape(&*store, read_by(leaves), &[SECOND], &[]).unwrap();
        let late = commit(&*store, events(5..7));
        let store = reopen(&factory, store, read_by(next));
        assert_eq!(removed(&*store), counted, "{leaves:?}");
        if counted == 0 {
            let reader = next.first().map_or(NOBODY, |n| consumer(0, *n));
            let waiting = positions(&assert_backlog_is_exact(&*store, reader));
            assert!(waiting.ends_with(&[&at[2..], &late].concat()), "{waiting:?}");
        }
        let store = reopen(&factory, store, read_by(next));
        assert_eq!(removed(&*store), counted, "once");
    }
}

/// One step of a random run.
fn random_step(
    rng: &mut Rng,
    stores: &[Arc<dyn Store>; 2],
    readers: &mut Vec<u16>,
    leaving: &mut Vec<Consumer>,
) {
    match rng.below(10) {
        0..4 => {
            let n = rng.index(6) + 1;
            let at = stores.each_ref().map(|store| commit(&**store, events(0..n)).len());
            assert_eq!(at[0], at[1]);
        }
        4..7 => {
            let reader = consumer(0, u16::try_from(rng.below(3)).unwrap());
            // The n-th event that waits, for positions of two stores are not the same.
            let n = rng.index(8);
            for store in stores {
                let waiting = positions(&read_all(&**store, reader, store.backlog(reader).acked));
                if let Some(position) = waiting.get(n) {
                    ack(&**store, reader, *position);
                }
            }
        }
        _ => {
            // Not one that is being drained: how much comes back with it is up to the store.
            let is_leaving = |n: &u16| leaving.contains(&consumer(0, *n));
            let wanted: Vec<u16> = (0..3).filter(|n| rng.chance(500) && !is_leaving(n)).collect();
            let goes = |n: &u16| readers.contains(n) && !wanted.contains(n);
            let gone = (0..3).filter(goes).map(|n| consumer(0, n));
            let stays = |c: &Consumer| !wanted.contains(&c.uplink.0);
            let all: Vec<Consumer> = gone.chain(leaving.iter().copied().filter(stays)).collect();
            let (drain, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|_| rng.chance(600));
            let (drop, _) = rest.into_iter().partition::<Vec<_>, _>(|_| rng.chance(800));
            let outcomes =
                stores.each_ref().map(|store| reshape(&**store, read_by(&wanted), &drain, &drop).is_ok());
            assert_eq!(outcomes[0], outcomes[1], "{wanted:?} {drain:?} {drop:?}");
            if outcomes[0] {
                (*readers, *leaving) = (wanted, drain);
            }
        }
    }
}

/// Whatever happens in whatever order, and over restarts, the store and the memory store tell the same figures.
pub fn random_changes_agree_with_the_memory_store<F: Factory>(make: impl Fn() -> F) {
    for seed in 0..u64::from(make().cases() / 4).max(4) {
        let mut rng = Rng::new(seed);
        let factory = make();
        let memory = MemoryStore::new(read_by(&[0]));
        let mut store = factory.open(read_by(&[0]));
        let (mut readers, mut leaving) = (vec![0], Vec::new());
        for _ in 0..40 {
            let stores: [Arc<dyn Store>; 2] = [Arc::clone(&store), Arc::clone(&memory) as Arc<dyn Store>];
            random_step(&mut rng, &stores, &mut readers, &mut leaving);
            if leaving.is_empty() && rng.chance(100) {
                drop(stores);
                store = reopen(&factory, store, read_by(&readers));
            }
            for reader in [FIRST, SECOND, consumer(0, 2), NOBODY] {
                let waiting =
                    [&*store, &*memory as &dyn Store].map(|s| assert_backlog_is_exact(s, reader).len());
                assert_eq!(
                    waiting[0], waiting[1],
                    "seed {seed}: {reader:?} of {readers:?}, leaving {leaving:?}"
                );
            }
            assert_eq!(removed(&*store), removed(&*memory), "seed {seed}");
        }
    }
}
