//! ENOSPC, EIO, EROFS and short writes at every operation of our own files, and over the real store at a sample of all
//! operations, sled's too: no answer for what is not stored, the rest
//! goes on, and nothing has to be restarted when the condition ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

mod common;

use common::{is_traced, program};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{Commit, CommitError, CursorChange, NewEvent, Read, Store, StreamId};
use eventmesh_edge_crash::judge::{Case, judge};
use eventmesh_edge_crash::marks::{PlannedEvent, tag_of};
use eventmesh_edge_crash::record::{FAILING, live_with_faults, scratch};
use eventmesh_edge_crash::workload::{BASE_MS, KEPT, Workload, consumer, options, spec};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::sync::{Arc, Mutex};

const FAULTS: [Fault; 4] = [Fault::NoSpace, Fault::Io, Fault::ReadOnly, Fault::Short];
/// How long a condition lasts, in operations.
const TIMES: [u64; 3] = [1, 3, u64::MAX];
const COMMITS: u64 = 36;

fn open(site: &SimSite) -> Result<SteppedStore, String> {
    SteppedStore::open(site, spec(), &options(), true).map(|(store, _)| store).map_err(|e| e.to_string())
}

fn commit(store: &SteppedStore, commit: Commit) -> Result<Vec<Position>, CommitError> {
    let slot = Arc::new(Mutex::new(None));
    let into = Arc::clone(&slot);
    store.submit(commit, Box::new(move |answer| *into.lock().unwrap() = Some(answer)));
    let answer = slot.lock().unwrap().take();
    answer.unwrap_or_else(|| panic!("a commit is not answered")).map(|committed| committed.positions)
}

fn publish(store: &SteppedStore, tag: u64) -> Result<Position, CommitError> {
    let planned = PlannedEvent {
        stream: Some(KEPT),
        tag,
        source: 1,
        bytes: 900,
        received: BASE_MS,
        mailboxes: Vec::new(),
    };
    let events =
        vec![NewEvent { stream: Some(StreamId(KEPT)), event: planned.event(), mailboxes: Vec::new() }];
    let positions = commit(store, Commit { events, ..Commit::default() })?;
    Ok(positions.first().copied().unwrap_or(Position::ZERO))
}

fn acknowledge(store: &SteppedStore, acked: Position) -> Result<(), CommitError> {
    let cursors = vec![CursorChange { consumer: consumer((KEPT, 0)), acked }];
    commit(store, Commit { cursors, ..Commit::default() }).map(drop)
}

/// Tags and positions of all that the second uplink, which acknowledges nothing, waits for.
fn waiting(store: &SteppedStore) -> Vec<(u64, Position)> {
    let mut found = Vec::new();
    let mut after = Position::ZERO;
    loop {
        let slot = Arc::new(Mutex::new(None));
        let into = Arc::clone(&slot);
        let read = Read { consumer: consumer((KEPT, 1)), after, max_events: 50, max_bytes: 1 << 20 };
        store.read(read, Box::new(move |batch| *into.lock().unwrap() = Some(batch)));
        let batch = slot.lock().unwrap().take().unwrap().unwrap();
        after = batch.through;
        let tag = |payload: &[u8]| tag_of(payload).unwrap_or(0);
        found.extend(batch.events.iter().map(|e| (tag(&e.event.payload), e.position)));
        if batch.at_end {
            return found;
        }
    }
}

/// Events that were answered, in order, and the cursor that was.
#[derive(Default)]
struct Answered {
    events: Vec<(u64, Position)>,
    acked: Position,
    refused: u64,
}

fn script(store: &SteppedStore) -> Answered {
    let mut answered = Answered::default();
    for tag in 1..=COMMITS {
        match publish(store, tag) {
            Ok(position) => answered.events.push((tag, position)),
            Err(CommitError::Io(_) | CommitError::Full { .. }) => answered.refused += 1,
            Err(other) => panic!("{other}"),
        }
        if tag % 3 == 0
            && let Some((_, position)) = answered.events.last().copied()
            && acknowledge(store, position).is_ok()
        {
            answered.acked = position;
        }
    }
    answered
}

fn check(store: &SteppedStore, answered: &Answered, asked: Position, what: &str) {
    assert_eq!(waiting(store), answered.events, "{what}: P1");
    let acked = store.backlog(consumer((KEPT, 0))).acked;
    assert!(acked >= answered.acked && acked <= asked, "{what}: cursor at {acked} (P2)");
}

#[test]
fn a_fault_at_any_operation_costs_no_answered_event_and_no_restart() {
    let site = SimSite::new();
    let store = open(&site).unwrap();
    let before = site.disk.ops();
    assert_eq!(script(&store).refused, 0);
    let operations = site.disk.ops() - before;
    assert!(operations > 100, "{operations}");
    let mut refused = 0;
    for at in 0..operations {
        for fault in FAULTS {
            for times in TIMES {
                let what = format!("{fault:?} at operation {at}, {times} times");
                let site = SimSite::new();
                let store = open(&site).unwrap();
                site.disk.fail(Kind::Any, at, times, fault);
                let mut answered = script(&store);
                refused += answered.refused;
                site.disk.heal();
                // The condition is over: nothing is restarted, nothing has to be asked for twice.
                let position = publish(&store, 1000).unwrap_or_else(|error| panic!("{what}: {error}"));
                answered.events.push((1000, position));
                let asked = position;
                check(&store, &answered, asked, &what);
                acknowledge(&store, position).unwrap_or_else(|error| panic!("{what}: {error}"));
                answered.acked = position;
                drop(store);
                site.power_cut(at * 31 + times % 7);
                let store = open(&site).unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&store, &answered, asked, &what);
                let next = publish(&store, 1001).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(next > position, "{what}: P3");
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_fault_at_any_operation_of_a_start_is_over_at_the_next() {
    let filled = || {
        let site = SimSite::new();
        let store = open(&site).unwrap();
        let answered = script(&store);
        drop(store);
        site.power_cut(5);
        (site, answered)
    };
    let (site, _) = filled();
    let before = site.disk.ops();
    drop(open(&site).unwrap());
    let operations = site.disk.ops() - before;
    for at in 0..operations {
        for fault in FAULTS {
            for times in [1, u64::MAX] {
                let what = format!("{fault:?} at operation {at} of a start, {times} times");
                let (site, answered) = filled();
                site.disk.fail(Kind::Any, at, times, fault);
                let store = open(&site);
                if let Ok(store) = &store {
                    // Whatever can be written or not: what is stored is served.
                    check(store, &answered, answered.acked, &what);
                }
                assert!(store.is_ok(), "{what}: no reason not to start (P6): {:?}", store.err());
                drop(store);
                site.disk.heal();
                site.power_cut(at);
                let store = open(&site).unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&store, &answered, answered.acked, &what);
                publish(&store, 2000).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
}

/// Linux marks the pages of a failed sync clean: a later success says nothing about them.
#[test]
fn the_segment_of_a_failed_sync_takes_nothing_any_more() {
    for seed in 0..400 {
        let skip = seed % 50;
        let site = SimSite::new();
        let store = open(&site).unwrap();
        site.disk.fail(Kind::Sync, skip, 1, Fault::Io);
        let answered = script(&store);
        drop(store);
        site.power_cut(seed);
        let store = open(&site).unwrap();
        check(&store, &answered, answered.acked, &format!("sync {skip} failed"));
    }
}

/// The real store, sled in it: calls fail from the n-th on, for a while or until the process ends; then it starts again.
#[test]
fn failing_calls_of_the_real_store_cost_no_answered_event() {
    if !is_traced("failing_calls_of_the_real_store_cost_no_answered_event") {
        return;
    }
    let cases = [
        ("ENOSPC", FAILING),
        ("EIO", "fdatasync"),
        ("EIO", "fsync"),
        ("EIO", "pwrite64"),
        ("EROFS", FAILING),
        ("ENOSPC", "pwrite64,mkdir"),
    ];
    let mut refused = 0;
    for (index, (error, calls)) in cases.into_iter().enumerate() {
        for (nth, at) in [2, 9, 25, 60, 110, 170, 260].into_iter().enumerate() {
            // Every thread of a process counts by itself.
            let when = match (index + nth) % 3 {
                0 => format!("{at}"),
                1 => format!("{at}..{}", at + 12),
                _ => format!("{at}+"),
            };
            let workload = [Workload::State, Workload::Spill].get(nth % 2).copied().unwrap();
            let what = format!("{error} of {calls} at {when}, {workload:?}");
            let scratch = scratch().unwrap();
            let inject = format!("{calls}:error={error}:when={when}");
            let said = live_with_faults(program(), (workload, 1), &inject, scratch.path())
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            refused += said.commits.iter().filter(|c| c.refused).count();
            let case = Case { said: &said, torn_append: false, damaged: false, faulty: true, twice: true };
            judge(&scratch.path().join("data"), &case)
                .unwrap_or_else(|broken| panic!("{what}: {}: {}", broken.promise, broken.why));
        }
    }
    assert!(refused > 50, "{refused}");
}
