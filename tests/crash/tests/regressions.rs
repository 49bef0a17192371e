//! Cuts that once broke a promise, each at its place.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

mod common;

use common::{assert_kept, is_traced, program, recorded};
use eventmesh_edge_crash::record::{End, record_after};
use eventmesh_edge_crash::strata::{strata, sync_kinds};
use eventmesh_edge_crash::sweep::{Cut, Plan, sweep};
use eventmesh_edge_crash::trace::{Moment, Op, Trace};
use eventmesh_edge_crash::workload::Workload;

/// Kills the process after the given moment, starts it again, and cuts the power during what follows.
fn kill_then_cut(workload: Workload, trace: &Trace, after: usize, images: u64) {
    let cut = Cut { after, seed: after as u64 };
    let plan = Plan::of(workload, images, 7);
    let second = record_after(program(), trace, &plan, (&cut, End::Kill)).unwrap();
    let report = sweep(&second, &plan, &|_| {}).unwrap();
    assert_kept(&report, &format!("killed after moment {after}"));
}

fn moments_of<'a>(trace: &'a Trace, stratum: &'a str) -> impl Iterator<Item = (usize, &'a Op)> {
    let strata = strata(trace);
    trace.moments.iter().enumerate().filter_map(move |(index, moment)| {
        let Moment::End(step) = moment else { return None };
        let op = &trace.steps.get(*step)?.op;
        (strata.get(*step) == Some(&stratum)).then_some((index + 1, op))
    })
}

/// The name of a generation could be seen after a kill, and was not durable; the journal let go of what lay in it.
#[test]
fn a_generation_seen_after_a_kill_is_durable_before_anything_rests_on_it() {
    if !is_traced("a_generation_seen_after_a_kill_is_durable_before_anything_rests_on_it") {
        return;
    }
    let trace = recorded(Workload::Spill, 1);
    let renames: Vec<usize> = moments_of(&trace, "generation: rename").map(|(after, _)| after).collect();
    assert!(!renames.is_empty());
    for after in renames.into_iter().take(3) {
        kill_then_cut(Workload::Spill, &trace, after, 60);
    }
}

/// The end of the journal could be read after a kill, and was not durable; the next segment's header vouched for it.
#[test]
fn the_end_of_the_journal_is_durable_before_a_start_believes_it() {
    if !is_traced("the_end_of_the_journal_is_durable_before_a_start_believes_it") {
        return;
    }
    let trace = recorded(Workload::Restarts, 2);
    let appends = moments_of(&trace, "journal: append").filter(|(_, op)| matches!(op, Op::Write { .. }));
    let written: Vec<usize> = appends.map(|(after, _)| after).collect();
    for after in written.iter().rev().step_by(9).take(4) {
        kill_then_cut(Workload::Restarts, &trace, *after, 40);
    }
}

/// A file system may persist two renames of one directory in either order: the proof of a side was there, the side not.
#[test]
fn a_filled_side_has_its_name_durably_before_it_has_its_proof() {
    if !is_traced("a_filled_side_has_its_name_durably_before_it_has_its_proof") {
        return;
    }
    let trace = recorded(Workload::State, 1);
    let kinds = sync_kinds(&trace);
    let mut filled = 0;
    let mut synced = true;
    for moment in &trace.moments {
        let Moment::End(step) = moment else { continue };
        let Some(found) = trace.steps.get(*step) else { continue };
        match &found.op {
            Op::Rename { .. } if found.path.ends_with(".filling") => {
                filled += 1;
                synced = false;
            }
            Op::Rename { .. } if found.path.starts_with("views-") => {
                assert!(synced, "{} is renamed into place before its side is durable", found.path);
            }
            Op::Sync { .. } => {
                synced |= kinds.get(*step) == Some(&Some("data directory, views filled"));
            }
            _ => {}
        }
    }
    assert!(filled >= 2, "{filled}");
}
