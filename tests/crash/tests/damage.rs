//! Damage on top of a recording: the node starts all the same, and counts what it cannot give back (P2, P6).
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

mod common;

use common::{is_traced, recorded};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{LossReason, Read, Store};
use eventmesh_edge_crash::record::{End, scratch};
use eventmesh_edge_crash::sweep::{Plan, cuts, image};
use eventmesh_edge_crash::workload::{KEPT, Workload, consumer, open};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::channel;

/// Everything of a stream that its second uplink still waits for.
fn waiting(dir: &Path) -> (BTreeSet<Position>, u64) {
    let (store, _) = open(dir, None).unwrap_or_else(|error| panic!("does not start: {error}"));
    let second = consumer((KEPT, 1));
    let mut found = BTreeSet::new();
    let mut after = store.backlog(second).acked;
    loop {
        let (into, wait) = channel();
        let read = Read { consumer: second, after, max_events: 100, max_bytes: 1 << 20 };
        store.read(read, Box::new(move |batch| drop(into.send(batch))));
        let batch = wait.recv().unwrap().unwrap();
        after = batch.through;
        found.extend(batch.events.iter().map(|e| e.position));
        if batch.at_end {
            break;
        }
    }
    store.close();
    drop(store);
    // What a read meets is counted in a commit of its own.
    let (store, _) = open(dir, None).unwrap_or_else(|error| panic!("does not start again: {error}"));
    let damaged = store
        .ledger()
        .into_iter()
        .filter(|line| line.reason == LossReason::Damaged && line.consumer == Some(second));
    let counted = damaged.map(|line| line.events).sum();
    store.close();
    (found, counted)
}

/// A cursor inside a generation has what is behind it counted at the start, from the database: if that cannot be opened
/// the node did not start (found by leaving a sync out).
#[test]
fn a_damaged_generation_is_no_reason_not_to_start() {
    if !is_traced("a_damaged_generation_is_no_reason_not_to_start") {
        return;
    }
    let trace = recorded(Workload::Spill, 1);
    let plan = Plan::of(Workload::Spill, 60, 3);
    let mut tried = 0;
    let mut lost = 0;
    // The second uplink drains in the last two lives: its cursor is inside generations then.
    for cut in cuts(&trace, &plan).iter().rev() {
        if tried >= 24 && lost > 0 {
            break;
        }
        let (image, _) = image(&trace, &plan, cut, End::Kill);
        let dbs = image.files.keys().filter(|p| p.starts_with("generations/0") && p.ends_with("/db"));
        let dbs: Vec<String> = dbs.filter(|p| !p.contains('.')).cloned().collect();
        for db in dbs.iter().take(2) {
            let scratch = scratch().unwrap();
            let (whole, damaged) = (scratch.path().join("whole"), scratch.path().join("damaged"));
            image.write(&whole).unwrap();
            let (wanted, _) = waiting(&whole);
            let mut bytes = image.files.get(db).cloned().unwrap_or_default();
            // The first segment's header and the first entries.
            bytes.iter_mut().take(2048).for_each(|byte| *byte ^= 0x55);
            let mut image = image.clone();
            image.files.insert(db.clone(), bytes);
            image.write(&damaged).unwrap();
            let (found, counted) = waiting(&damaged);
            let missing = wanted.difference(&found).count() as u64;
            assert!(found.is_subset(&wanted), "invented events");
            assert!(counted >= missing, "{missing} are missing, {counted} are counted: {db}, {cut:?}");
            tried += 1;
            lost += missing;
        }
    }
    assert!(tried >= 6 && lost > 0, "{tried} generations damaged, {lost} events lost");
}
