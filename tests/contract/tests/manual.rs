//! What the memory store offers beyond the port: completions by hand, and power cuts.

use eventmesh_edge_contract::suite::support::{
    ONLY, ack, answer, commit, commit_blocking, commit_of, event, event_of, read_all, spec_of_one, texts,
};
use eventmesh_edge_contract::{MemoryDisk, MemoryStore};
use eventmesh_edge_core::event::{LogId, Position};
use eventmesh_edge_core::ports::store::{Commit, CommitError, Store, StoreSpec, WhenFull};
use std::sync::{Arc, mpsc};

fn spec() -> StoreSpec {
    spec_of_one(1 << 20, WhenFull::Refuse)
}

/// Submits events 0 to `n - 1`; the receiver gets the numbers of those that were accepted.
fn submit(store: &MemoryStore, n: usize) -> mpsc::Receiver<usize> {
    let (tx, rx) = mpsc::channel();
    for number in 0..n {
        let send = answer(tx.clone());
        store.submit(
            commit_of([event("s", number)]),
            Box::new(move |outcome| {
                outcome.expect("nothing stands against it");
                send(number);
            }),
        );
    }
    rx
}

fn waiting(store: &MemoryStore) -> Vec<String> {
    texts(&read_all(store, ONLY, Position::ZERO))
}

#[test]
fn nothing_is_durable_or_visible_before_it_is_completed() {
    let store = MemoryStore::manual(spec());
    let answered = submit(&store, 3);
    assert_eq!((store.pending(), waiting(&store).len(), answered.try_iter().count()), (3, 0, 0));
    assert_eq!(store.complete_next(2), 2);
    assert_eq!(answered.try_iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(waiting(&store), ["s 0", "s 1"]);
    assert_eq!(store.complete_next(9), 1);
}

#[test]
fn a_power_cut_takes_what_was_not_completed_and_a_reopened_store_goes_on_in_the_next_epoch() {
    let store = MemoryStore::manual(spec());
    let answered = submit(&store, 3);
    store.complete_next(1);
    store.crash();
    let again = store.reopen(spec());
    assert_eq!(answered.iter().collect::<Vec<_>>(), [0], "nobody else is ever answered");
    assert_eq!(waiting(&again), ["s 0"]);
    assert_eq!(again.stats().epoch, store.stats().epoch + 1);
    submit(&again, 1);
    again.complete_next(1);
    let events = read_all(&*again, ONLY, Position::ZERO);
    assert_eq!(events.iter().map(|e| e.sequence.source).collect::<Vec<_>>(), [1, 2]);
    assert!(events[1].position >= Position::first_of(2));
}

#[test]
fn a_power_cut_between_sync_and_answer_leaves_more_than_was_answered() {
    let store = MemoryStore::manual(spec());
    let answered = submit(&store, 4);
    store.complete_next(1);
    store.crash_keeping(2);
    let again = store.reopen(spec());
    assert_eq!(waiting(&again), ["s 0", "s 1", "s 2"]);
    assert_eq!(answered.try_iter().count(), 1);
}

#[test]
fn a_store_that_another_one_replaced_takes_nothing() {
    let disk = MemoryDisk::new(LogId(7));
    let old = disk.open(spec());
    let new = disk.open(spec());
    let outcome = commit_blocking(&*old, commit_of([event("s", 0)]));
    assert!(matches!(outcome, Err(CommitError::Closed)), "{outcome:?}");
    commit(&*new, commit_of([event("s", 1)]));
    assert_eq!((waiting(&new), new.log_id()), (vec!["s 1".to_owned()], LogId(7)));
}

#[test]
fn a_snapshot_is_what_was_durable_then() {
    let disk = MemoryDisk::default();
    let store = disk.open(spec());
    commit(&*store, commit_of([event("s", 0)]));
    let before = disk.snapshot();
    commit(&*store, commit_of([event("s", 1)]));
    assert_eq!(waiting(&before.open(spec())), ["s 0"]);
    assert_eq!(waiting(&disk.open(spec())), ["s 0", "s 1"]);
}

#[test]
fn a_completion_may_submit_and_close() {
    let store = MemoryStore::new(spec());
    let (tx, rx) = mpsc::channel();
    let inner = Arc::clone(&store);
    let first = Box::new(move |_| {
        inner.submit(commit_of([event("s", 1)]), answer(tx));
        inner.close();
    });
    store.submit(commit_of([event("s", 0)]), first);
    assert!(rx.recv().unwrap().is_ok(), "submitted before the close, so it is finished");
    assert_eq!(store.stats().events, 2);
}

#[test]
fn a_full_disk_refuses_events_and_nothing_else() {
    let store = MemoryStore::new(StoreSpec { disk_max: 5000, ..spec() });
    let mut accepted = Vec::new();
    let refusal = loop {
        match commit_blocking(&*store, commit_of([event_of("s", 0, 1000)])) {
            Ok(committed) => accepted.extend(committed.positions),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, CommitError::Full { max: 5000, .. }), "{refusal}");
    commit(&*store, Commit::default());
    ack(&*store, ONLY, accepted[0]);
    commit(&*store, commit_of([event_of("s", 0, 1000)]));
    assert!(store.stats().disk_bytes <= 5000);
}
