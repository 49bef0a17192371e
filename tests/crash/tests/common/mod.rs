//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

use eventmesh_edge_crash::record::record;
use eventmesh_edge_crash::sweep::Report;
use eventmesh_edge_crash::trace::Trace;
use eventmesh_edge_crash::workload::Workload;
use std::path::Path;

/// The program that lives the workloads.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crash-sweep"))
}

/// A new recording.
pub(crate) fn recorded(workload: Workload, seed: u64) -> Trace {
    record(program(), workload, seed).unwrap_or_else(|error| panic!("{workload:?}, seed {seed}: {error}"))
}

/// Says what is broken, and how to see more of it.
pub(crate) fn assert_kept(report: &Report, what: &str) {
    let Some(failure) = report.failures.first() else { return };
    panic!(
        "{what}: {} of {} images break a promise; the first, cut {:?} during {} with {:?}: {}: {}\n\
         more: cargo run -p eventmesh-edge-crash --bin crash-sweep -- sweep",
        report.failed,
        report.images(),
        failure.cut,
        failure.stratum,
        failure.unkindness,
        failure.broken.promise,
        failure.broken.why
    );
}
