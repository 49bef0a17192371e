//! Thousands of seeds: whatever happens to node, store and upstream, the promises hold.

use eventmesh_edge_sim::{
    Failure, Summary, run_seed, run_seed_on_journal, run_seeds, trace_seed, trace_seed_on_journal,
};

type Run = fn(u64) -> Result<Summary, Failure>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// One seed if `SIM_SEED` says which, else as many as `SIM_SEEDS` says.
fn campaign(default: u64, run: Run, trace: Run) {
    if let Some(seed) = number("SIM_SEED") {
        let traced = std::env::var_os("SIM_TRACE").is_some();
        match if traced { trace(seed) } else { run(seed) } {
            Ok(summary) => println!("seed {seed}: {summary:?}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let campaign = run_seeds(0..number("SIM_SEEDS").unwrap_or(default), run);
    for failure in &campaign.failures {
        println!("{failure}");
    }
    println!("{} seeds: {:?}", campaign.seeds, campaign.total);
    assert!(
        campaign.failures.is_empty(),
        "{} of {} seeds failed, see above",
        campaign.failures.len(),
        campaign.seeds
    );
}

#[test]
fn memory_store_and_forwarder_keep_the_promises() {
    campaign(2000, run_seed, trace_seed);
}

#[test]
fn journal_store_and_forwarder_keep_the_promises() {
    campaign(400, run_seed_on_journal, trace_seed_on_journal);
}

#[test]
fn a_seed_replays_to_the_same_run() {
    for seed in [3, 17, 100] {
        assert_eq!(run_seed(seed), run_seed(seed));
        assert_eq!(run_seed_on_journal(seed), run_seed_on_journal(seed));
    }
}
