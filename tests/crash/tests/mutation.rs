//! Each kind of sync left out in turn: the sweep must see it. This stands for removing it from the code.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

mod common;

use common::{is_traced, program, recorded};
use eventmesh_edge_crash::record::{End, record_after};
use eventmesh_edge_crash::strata::{SLED, sync_kinds};
use eventmesh_edge_crash::sweep::{Cut, Plan, sweep};
use eventmesh_edge_crash::trace::{Moment, Trace};
use eventmesh_edge_crash::workload::{WORKLOADS, Workload};
use std::collections::BTreeSet;

/// What each is needed for shows within so many images of these workloads.
const IMAGES: u64 = 500;
const NEEDED: [(&str, Workload); 16] = [
    ("journal group", Workload::Forward),
    ("journal header", Workload::Spill),
    ("journal directory, prepared", Workload::Forward),
    ("journal directory, recycled", Workload::Forward),
    ("journal directory, removed", Workload::Spill),
    ("meta", Workload::Forward),
    ("views filling, files", Workload::State),
    ("views filling, directory", Workload::State),
    ("views in place, files", Workload::State),
    ("views proof", Workload::State),
    ("data directory, proof removed", Workload::State),
    ("data directory, created", Workload::Spill),
    ("generation files", Workload::Spill),
    ("generation directory", Workload::Spill),
    ("generations, sealed", Workload::Spill),
    ("sled's own, of a snapshot", Workload::State),
];

/// The one that a start rests on, after a process that was killed in the middle of a checkpoint.
const AFTER_A_KILL: &str = "data directory, proof removed";

/// Kinds whose loss breaks no promise, each with the reason. They are there for a second fault, or for speed.
const REDUNDANT: [(&str, &str); 13] = [
    (SLED, "nothing rests on it: it does nothing in any of the sweeps"),
    ("journal zeros", "the sync of the header covers them: this one keeps them off the commit path"),
    ("journal reserve", "it holds nothing: a start makes one that is not whole again"),
    ("format", "for people: `meta-*` and the segments say the same"),
    ("data directory, format", "as `format`"),
    ("data directory, proof", "the next checkpoint begins with a sync of the same directory"),
    (
        "data directory, views filled",
        "only where a file system reorders renames; tests/regressions.rs has it",
    ),
    ("blobs directory", "it is empty: no entry is large enough"),
    ("views in place, directory", "a snapshot's name: sled goes by its log without it"),
    ("generation extents", "the database has the same, and the file is written again"),
    ("generations, created", "nothing counts before its rename"),
    ("generations, consumed", "one that comes back is removed again: all cursors are behind it"),
    ("quarantine", "damage that comes back is moved aside again"),
];

fn kinds(trace: &Trace) -> BTreeSet<&'static str> {
    sync_kinds(trace).into_iter().flatten().collect()
}

/// Recordings differ, and the rarest of these shows in two of three: then in the next one.
fn is_seen_soon(trace: &Trace, workload: Workload, kind: &str) -> bool {
    let is_seen = |trace: &Trace| {
        kind == AFTER_A_KILL && is_seen_after_a_kill(trace, workload, kind) || is_seen(trace, workload, kind)
    };
    is_seen(trace) || (2..=4).any(|seed| is_seen(&recorded(workload, seed)))
}

/// What it is for shows only where a process is killed right behind it, and its successor goes on from there.
fn is_seen_after_a_kill(trace: &Trace, workload: Workload, kind: &str) -> bool {
    let kinds = sync_kinds(trace);
    let Some(known) = kinds.iter().flatten().copied().find(|found| *found == kind) else { return false };
    let places = trace.moments.iter().enumerate().filter(|(_, moment)| match moment {
        Moment::End(step) => kinds.get(*step) == Some(&Some(known)),
        _ => false,
    });
    let places: Vec<usize> = places.map(|(index, _)| index + 1).collect();
    places.into_iter().rev().take(4).any(|after| {
        let cut = Cut { after, seed: after as u64 };
        let plan = Plan::without(known, workload, 150, after as u64);
        let second = record_after(program(), trace, &plan, (&cut, End::Kill)).unwrap();
        sweep(&second, &plan, &|_| {}).unwrap().failed > 0
    })
}

fn is_seen(trace: &Trace, workload: Workload, kind: &str) -> bool {
    let Some(kind) = kinds(trace).into_iter().find(|found| *found == kind) else {
        panic!("{workload:?} has no sync of the kind {kind}")
    };
    (1..=3).any(|seed| {
        let plan = Plan::without(kind, workload, IMAGES, seed);
        sweep(trace, &plan, &|_| {}).unwrap().failed > 0
    })
}

#[test]
fn a_sync_that_is_left_out_is_seen() {
    if !is_traced("a_sync_that_is_left_out_is_seen") {
        return;
    }
    let traces: Vec<(Workload, Trace)> = WORKLOADS.into_iter().map(|w| (w, recorded(w, 1))).collect();
    let mut unseen = Vec::new();
    for (kind, workload) in NEEDED {
        let trace = traces.iter().find(|(w, _)| *w == workload).map(|(_, trace)| trace);
        if !trace.is_some_and(|trace| is_seen_soon(trace, workload, kind)) {
            unseen.push(kind);
        }
    }
    assert_eq!(unseen, [] as [&str; 0], "could be left out and nothing would notice");
    let listed: BTreeSet<&str> =
        NEEDED.iter().map(|(kind, _)| *kind).chain(REDUNDANT.iter().map(|(kind, _)| *kind)).collect();
    let there: BTreeSet<&str> = traces.iter().flat_map(|(_, trace)| kinds(trace)).collect();
    let new: Vec<&&str> = there.difference(&listed).collect();
    assert!(new.is_empty(), "kinds of sync that nothing is said about: {new:?}");
}
