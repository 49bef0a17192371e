//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

use eventmesh_edge_crash::record::{can_trace, failures_dir, record};
use eventmesh_edge_crash::sweep::Report;
use eventmesh_edge_crash::trace::Trace;
use eventmesh_edge_crash::workload::Workload;
use std::path::Path;

/// The program that lives the workloads.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crash-sweep"))
}

/// Whether recordings can be made here; says loudly that the test is skipped where they cannot.
pub(crate) fn is_traced(test: &str) -> bool {
    let outcome = can_trace();
    if let Err(why) = &outcome {
        println!("SKIPPED {test}: {why}");
    }
    outcome.is_ok()
}

/// A new recording.
pub(crate) fn recorded(workload: Workload, seed: u64) -> Trace {
    record(program(), workload, seed).unwrap_or_else(|error| panic!("{workload:?}, seed {seed}: {error}"))
}

/// Says what is broken, and how to see more of it.
pub(crate) fn assert_kept(report: &Report, what: &str) {
    let Some(failure) = report.failures.first() else { return };
    let name = format!("{what}-{}-{:x}", failure.cut.after, failure.cut.seed).to_lowercase();
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let kept = failure.fixture.keep(&failures_dir(program()), &name).unwrap();
    panic!(
        "{what}: {} of {} images break a promise; the first, cut {:?} during {} with {:?}: {}: {}\n\
         kept: {}; again: cargo run -p eventmesh-edge-crash --bin crash-sweep -- judge <that file>",
        report.failed,
        report.images(),
        failure.cut,
        failure.stratum,
        failure.unkindness,
        failure.broken.promise,
        failure.broken.why,
        kept.display()
    );
}
