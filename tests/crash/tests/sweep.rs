//! Power cuts at every operation of every workload, and again during the start that follows.
//!
//! `CRASH_SEED=n` records and chooses anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

mod common;

use common::{assert_kept, is_traced, program, recorded};
use eventmesh_edge_crash::record::{End, record_after};
use eventmesh_edge_crash::sweep::{Plan, Report, cuts, sweep};
use eventmesh_edge_crash::workload::{WORKLOADS, Workload};

/// Images per workload of the plain sweep: 5,016 in all.
const IMAGES: u64 = 456;
/// Starts that are cut again, per workload and way to end, and images of each: 924 in all.
const STARTS: u64 = 2;
const IMAGES_PER_START: u64 = 21;

fn seed() -> u64 {
    std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn first(workload: Workload) -> Report {
    // Directories of two formats.
    let recordings = if workload == Workload::Upgrade { 2 } else { 1 };
    let mut all = Report::default();
    for seed in seed()..seed() + recordings {
        let trace = recorded(workload, seed);
        let report = sweep(&trace, &Plan::of(workload, IMAGES / recordings, seed), &|_| {}).unwrap();
        assert_kept(&report, &format!("{workload:?}"));
        all.add(report);
    }
    assert_eq!(all.images(), IMAGES);
    all
}

fn again(workload: Workload, end: End) -> u64 {
    let trace = recorded(workload, seed());
    let mut images = 0;
    for cut in cuts(&trace, &Plan::of(workload, STARTS, seed())) {
        let plan = Plan::of(workload, IMAGES_PER_START, cut.seed);
        let second = record_after(program(), &trace, &plan, (&cut, end)).unwrap();
        let report = sweep(&second, &plan, &|_| {}).unwrap();
        assert_kept(&report, &format!("{workload:?} after {end:?} at {cut:?}"));
        images += report.images();
    }
    images
}

/// One test: each sweep takes both cores.
#[test]
fn no_cut_breaks_a_promise() {
    if !is_traced("no_cut_breaks_a_promise") {
        return;
    }
    let mut report = Report::default();
    for workload in WORKLOADS {
        report.add(first(workload));
    }
    for stratum in [
        "answers",
        "epoch",
        "journal: prepare",
        "journal: header",
        "journal: append",
        "journal: recycle",
        "views: filling",
        "views: in place",
        "views: proof",
        "generation: building",
        "generation: rename",
        "generation: removal",
        "quarantine",
        "ends of lives",
    ] {
        let images = report.strata.get(stratum).copied().unwrap_or(0);
        assert!(images >= 20, "only {images} cuts during {stratum}: {:?}", report.strata);
    }
    // Not a figure of speed: an open that hangs, or takes as long as one that does.
    assert!(report.slowest.as_secs() < 20, "{:?}", report.slowest);
    let mut again_images = 0;
    for workload in WORKLOADS {
        for end in [End::Power, End::Kill] {
            again_images += again(workload, end);
        }
    }
    println!("{} images, and {again_images} of second cuts", report.images());
    println!("{:?}\n{:?}", report.strata, report.kinds);
    assert!(report.images() >= 5000 && again_images >= 900);
}
